//! The SDK's automatic retries of requests to the table.
//!
//! Reads and single writes are retried here, for seconds: throttling, conflicts with a transaction and lost responses
//! pass. Every single write must tolerate its own repetition, since its response may have been lost. A transaction that
//! writes is retried by [`Store::commit`](super::Store::commit) alone, which must know of every attempt.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::Builder;
use aws_sdk_dynamodb::config::interceptors::InterceptorContext;
use aws_sdk_dynamodb::config::retry::{
    ClassifyRetry, RetryAction, RetryConfig, RetryPartition, TokenBucket,
};
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::transact_get_items::TransactGetItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;

use super::is_contention;

/// The longest time for which a request to the table is retried, all attempts included. See `startup` for that of one
/// attempt.
pub const RETRY_TIME: Duration = Duration::from_secs(10);
/// The longest pause before the first retry; it doubles each time, with full jitter. A transaction holds its items for
/// some milliseconds.
const INITIAL_BACKOFF: Duration = Duration::from_millis(10);
/// The limit of these pauses.
const MAX_BACKOFF: Duration = Duration::from_millis(500);
/// More attempts than fit into [`RETRY_TIME`], even if each is refused at once.
const MAX_ATTEMPTS: u32 = 40;

/// The same client, with these rules.
pub(super) fn client(client: &Client) -> Client {
    // The SDK's default is one retry budget for the whole process, so that long throttling would end all retries.
    let unlimited = RetryPartition::custom("table")
        .token_bucket(TokenBucket::unlimited())
        .build();
    let retries = RetryConfig::standard()
        .with_max_attempts(MAX_ATTEMPTS)
        .with_initial_backoff(INITIAL_BACKOFF)
        .with_max_backoff(MAX_BACKOFF);
    let config = client.config().to_builder();
    let config = config
        .retry_config(retries)
        .retry_partition(unlimited)
        .retry_classifier(ContentionClassifier);
    Client::from_conf(config.build())
}

/// Turns the SDK's retries off for an operation.
pub(super) fn disabled() -> Builder {
    Builder::new().retry_config(RetryConfig::disabled())
}

/// Marks as transient the failures that the SDK does not know to be so: another transaction holds an item, or a
/// transactional read was throttled.
#[derive(Debug)]
struct ContentionClassifier;

impl ClassifyRetry for ContentionClassifier {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let failed = context.output_or_error().and_then(Result::err);
        let Some(error) = failed.and_then(|error| error.as_operation_error()) else {
            return RetryAction::NoActionIndicated;
        };
        let passes = if let Some(error) = error.downcast_ref::<TransactGetItemsError>() {
            matches!(error, TransactGetItemsError::TransactionCanceledException(cancelled)
                if is_contention(cancelled.cancellation_reasons()))
        } else {
            let put = error.downcast_ref::<PutItemError>();
            let update = error.downcast_ref::<UpdateItemError>();
            let code = put.and_then(|error| error.code());
            code.or(update.and_then(|error| error.code())) == Some("TransactionConflictException")
        };
        match passes {
            true => RetryAction::transient_error(),
            false => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "contention"
    }
}
