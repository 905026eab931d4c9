//! The changes-aggregator: the table's stream in, entries of monitor/changes and broadcast requests out.

use std::convert::Infallible;

use aws_lambda_events::dynamodb::Event;
use lambda_runtime::{Error, LambdaEvent, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::tracing::init_default_subscriber();
    let aggregator = &kinto_serverless::startup::aggregator().await?;
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Event>| {
        Ok::<_, Infallible>(aggregator.handle(event.payload).await)
    }))
    .await
}
