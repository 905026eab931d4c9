//! The broadcaster: the queue of broadcast requests in, `PUT /v1/broadcasts/…` of Megaphone out.

use std::convert::Infallible;

use aws_lambda_events::sqs::SqsEvent;
use kinto_serverless::environment::Environment;
use kinto_serverless::startup;
use lambda_runtime::{Error, LambdaEvent, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::tracing::init_default_subscriber();
    let environment = Environment::of_process().await;
    let broadcaster = &startup::broadcaster(environment).await?;
    lambda_runtime::run(service_fn(async |event: LambdaEvent<SqsEvent>| {
        Ok::<_, Infallible>(broadcaster.current().await.handle(event.payload).await)
    }))
    .await
}
