//! The broadcaster: the queue of broadcast requests in, `PUT /v1/broadcasts/…` of Megaphone out.

use std::convert::Infallible;

use aws_lambda_events::sqs::SqsEvent;
use lambda_runtime::{Error, LambdaEvent, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::tracing::init_default_subscriber();
    let broadcaster = &kinto_serverless::startup::broadcaster().await?;
    lambda_runtime::run(service_fn(async |event: LambdaEvent<SqsEvent>| {
        Ok::<_, Infallible>(broadcaster.handle(event.payload).await)
    }))
    .await
}
