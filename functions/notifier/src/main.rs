//! The notifier: entries of the outbox in, from the table's stream and through a queue, notifications of listeners out.

use std::convert::Infallible;

use kinto_serverless::environment::Environment;
use kinto_serverless::notifier::NotifierEvent;
use kinto_serverless::startup;
use lambda_runtime::{Error, LambdaEvent, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::tracing::init_default_subscriber();
    let environment = Environment::of_process().await;
    let notifier = &startup::notifier(environment).await?;
    lambda_runtime::run(service_fn(async |event: LambdaEvent<NotifierEvent>| {
        Ok::<_, Infallible>(notifier.current().await.handle(event.payload).await)
    }))
    .await
}
