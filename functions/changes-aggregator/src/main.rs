//! The changes-aggregator: the table's stream in, entries of monitor/changes and broadcast requests out.

use kinto_serverless::aggregator::Input;
use lambda_runtime::{Error, LambdaEvent, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::tracing::init_default_subscriber();
    let aggregator = &kinto_serverless::startup::aggregator().await?;
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Input>| {
        aggregator.answer(event.payload).await.map_err(Error::from)
    }))
    .await
}
