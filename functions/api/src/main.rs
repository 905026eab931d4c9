//! The API function: API Gateway (HTTP API, payload 2.0) in, the Kinto HTTP API v1 out.
//!
//! The same program tries the settings when the stack is deployed: another function, with one variable more.

use std::convert::Infallible;

use aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use kinto_serverless::environment::Environment;
use kinto_serverless::settings_check::{self, Request};
use kinto_serverless::startup;
use lambda_runtime::{Error, LambdaEvent, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::tracing::init_default_subscriber();
    if std::env::var_os(settings_check::CHECKS_SETTINGS).is_some() {
        return lambda_runtime::run(service_fn(async |event: LambdaEvent<Request>| {
            settings_check::handle(event.payload)
                .await
                .map_err(Error::from)
        }))
        .await;
    }
    let environment = Environment::of_process().await;
    let api = &startup::api(environment).await?;
    lambda_runtime::run(service_fn(
        async |event: LambdaEvent<ApiGatewayV2httpRequest>| {
            Ok::<_, Infallible>(api.current().await.handle(event.payload).await)
        },
    ))
    .await
}
