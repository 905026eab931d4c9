//! The API function: API Gateway (HTTP API, payload 2.0) in, the Kinto HTTP API v1 out.

use std::convert::Infallible;

use aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use kinto_serverless::startup::{self, Environment};
use lambda_runtime::{Error, LambdaEvent, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::tracing::init_default_subscriber();
    let environment = Environment::of_process().await;
    let api = &startup::api(environment).await?;
    lambda_runtime::run(service_fn(
        async |event: LambdaEvent<ApiGatewayV2httpRequest>| {
            Ok::<_, Infallible>(api.current().await.handle(event.payload).await)
        },
    ))
    .await
}
