//! The changes-aggregator: the table's stream in, entries of monitor/changes and broadcast requests out.

use kinto_serverless::aggregator::AggregatorEvent;
use kinto_serverless::environment::Environment;
use kinto_serverless::startup;
use lambda_runtime::{Error, LambdaEvent, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::tracing::init_default_subscriber();
    let environment = Environment::of_process().await;
    let aggregator = &startup::aggregator(environment).await?;
    lambda_runtime::run(service_fn(async |event: LambdaEvent<AggregatorEvent>| {
        aggregator
            .current()
            .await
            .answer_event(event.payload)
            .await
            .map_err(Error::from)
    }))
    .await
}
