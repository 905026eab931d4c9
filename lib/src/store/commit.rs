//! Commits: transactions that are retried until their outcome is known
//! ([decision 15](../../../docs/decisions/015-outcome-of-a-commit.md)).

use std::time::Duration;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::{
    TransactWriteItemsError, TransactWriteItemsOutput,
};
use aws_sdk_dynamodb::types::{CancellationReason, ReturnItemCollectionMetrics, TransactWriteItem};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::item::key_of;
use super::{Key, Store, StoreError, TIMESTAMP_KEY, Write, retries};
use crate::backoff::Backoff;

/// The longest pause before the first retry of an attempt with an unknown outcome; it doubles each time.
const INITIAL_BACKOFF: Duration = Duration::from_millis(50);
/// The limit of these pauses. DynamoDB recovers a transaction that its coordinator abandoned after 5 seconds.
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// One commit in so many asks how large its partitions are, which costs room in the answer and nothing else. A commit adds
/// 8 MB at most, index included, so that some 16 of them ask while a partition grows by the last 2 GB that it may.
const COMMITS_PER_SIZE: u128 = 16;
/// The size of a partition, in GB, from which on it is reported: that of `DynamoDB`'s own example, of the 10 that it may have.
const NEARLY_FULL: f64 = 8.0;

/// A transaction that was not committed, or whose outcome is not known.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another write came between reading and committing. Nothing was written; read again and retry.
    #[error("another write came between")]
    Conflict,
    /// Another transaction holds an item, or DynamoDB throttles. Nothing was written; retry, later and with a later
    /// time.
    #[error("another transaction is in progress, or DynamoDB throttles")]
    Contended {
        /// The lists whose items another transaction holds.
        lists: Vec<Key>,
    },
    /// One part is committed, and the rest is not, or not known to be.
    #[error("only a part of a large write was committed")]
    Partial,
    /// A principal would be in more groups of one bucket than it may be. Nothing was written.
    #[error("too many groups of a bucket for one of their members")]
    TooManyGroups {
        /// The principal.
        principal: String,
    },
    /// The writes exceed one transaction. Nothing was written.
    #[error("more than a transaction can hold")]
    TooLarge,
    /// A partition has reached the 10 GB that DynamoDB allows to one with a local index. Nothing was written, nor will
    /// be unless it shrinks.
    #[error("a partition of the table is full")]
    Full {
        /// Its key, where `DynamoDB` says which it is.
        partition: Option<String>,
    },
    /// The deadline has passed, and an attempt was not answered: it may have been committed, or may yet be.
    #[error("the outcome is not known: {0}")]
    Unknown(#[source] StoreError),
    /// A permanent failure. Nothing was written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The outcome of one attempt that did not succeed.
enum Failure {
    /// A condition does not hold.
    ///
    /// This is final for all attempts under the same token, unanswered ones included. For 10 minutes DynamoDB answers
    /// with success if one of them was committed; so none was. And none can be: our conditions require that what was
    /// read still holds, and once it does not, it never does again. Times of a list and of a generation of an object
    /// only rise, a generation never returns, items of lists are never removed, and objects only a day after they were
    /// found to be over ([decision 28](../../../docs/decisions/028-sweeping.md)).
    Conflict,
    /// Refused for another reason: this attempt wrote nothing, but an earlier one may have.
    Refused(CommitError),
    /// No answer, or an inconclusive one: the attempt may have been committed, or may yet be.
    InDoubt(StoreError),
}

impl Store {
    /// Commits `writes` in one transaction, all or none. Each item costs 2 WCU for each KB.
    ///
    /// Each attempt carries the same `ClientRequestToken` and the same items. One that is not answered is retried, with
    /// pauses, until DynamoDB tells its outcome, or until the deadline. So a transaction is written once, and never
    /// conflicts with itself.
    ///
    /// # Errors
    /// Only [`CommitError::Unknown`] leaves open whether the transaction was committed.
    pub async fn commit(&self, writes: Vec<Write>, deadline: Instant) -> Result<(), CommitError> {
        let items = writes
            .into_iter()
            .map(|write| self.transact_item(write))
            .collect::<Result<Vec<_>, _>>()?;
        let token = Uuid::new_v4();
        let asks_for_sizes = token.as_u128().is_multiple_of(COMMITS_PER_SIZE);
        let request = self
            .client
            .transact_write_items()
            .client_request_token(token.to_string())
            .set_return_item_collection_metrics(
                asks_for_sizes.then_some(ReturnItemCollectionMetrics::Size),
            )
            .set_transact_items(Some(items));
        let mut backoff = Backoff::new(INITIAL_BACKOFF, MAX_BACKOFF);
        let mut doubt = None;
        while Instant::now() < deadline {
            // The SDK must not retry: it would report only its last attempt.
            let attempt = request.clone().customize();
            let attempt = attempt.config_override(retries::disabled()).send();
            let failure = match timeout_at(deadline, attempt).await {
                Ok(Ok(answer)) => {
                    report_nearly_full(&answer);
                    return Ok(());
                }
                Ok(Err(error)) => Failure::of(
                    error,
                    request.get_transact_items().as_deref().unwrap_or(&[]),
                ),
                Err(_) => Failure::InDoubt(StoreError::Late("TransactWriteItems")),
            };
            match failure {
                Failure::Conflict => return Err(CommitError::Conflict),
                Failure::Refused(error) if doubt.is_none() => return Err(error),
                Failure::Refused(_) => {}
                Failure::InDoubt(error) => {
                    tracing::warn!(%error, "a transaction was not answered");
                    doubt = Some(error);
                }
            }
            if !backoff.wait_until(deadline).await {
                break;
            }
        }
        Err(match doubt {
            Some(error) => CommitError::Unknown(error),
            None => StoreError::Late("TransactWriteItems").into(),
        })
    }
}

impl Failure {
    fn of(
        error: SdkError<TransactWriteItemsError, HttpResponse>,
        items: &[TransactWriteItem],
    ) -> Self {
        if let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) =
            error.as_service_error()
        {
            let reasons = cancelled.cancellation_reasons();
            let has = |code| reasons.iter().any(|reason| reason.code() == Some(code));
            if has("ConditionalCheckFailed") {
                return Self::Conflict;
            }
            let full = |reason: &CancellationReason| {
                reason.code() == Some("ItemCollectionSizeLimitExceeded")
            };
            if let Some(index) = reasons.iter().position(full) {
                let partition = items.get(index).and_then(partition_of);
                return Self::Refused(CommitError::Full { partition });
            }
            if has("ValidationError") {
                return Self::Refused(CommitError::Store(StoreError::Invalid {
                    operation: "TransactWriteItems",
                    source: error.into(),
                }));
            }
            if is_contention(reasons) {
                let lists = lists_in_hand(reasons, items);
                return Self::Refused(CommitError::Contended { lists });
            }
        }
        // A status of 500 or above leaves the outcome open, as does no answer.
        let is_refusal = match &error {
            SdkError::ConstructionFailure(_) => true,
            SdkError::ServiceError(answer) => answer.raw().status().as_u16() < 500,
            _ => false,
        };
        let code = error.as_service_error().and_then(|error| error.code());
        match code {
            // An earlier attempt of this very transaction.
            Some("TransactionInProgressException") => {}
            Some("ItemCollectionSizeLimitExceededException") => {
                return Self::Refused(CommitError::Full { partition: None });
            }
            Some(code) if is_throttling(code) => {
                return Self::Refused(CommitError::Contended { lists: vec![] });
            }
            _ if is_refusal => {
                return Self::Refused(StoreError::request("TransactWriteItems")(error).into());
            }
            _ => {}
        }
        Self::InDoubt(StoreError::request("TransactWriteItems")(error))
    }
}

/// Returns `true` if a transaction was cancelled only because another one holds items or DynamoDB throttles, so that it
/// may succeed when retried.
pub(super) fn is_contention(reasons: &[CancellationReason]) -> bool {
    reasons.iter().all(|reason| {
        matches!(
            reason.code(),
            None | Some(
                "None"
                    | "TransactionConflict"
                    | "ThrottlingError"
                    | "ProvisionedThroughputExceeded"
                    | "RequestLimitExceeded"
            )
        )
    })
}

/// Returns `true` if the error code of a whole request means that DynamoDB throttled it, and did none of it.
fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "ThrottlingException" | "ProvisionedThroughputExceededException" | "RequestLimitExceeded"
    )
}

/// The key of the partition that a part of a transaction writes to; `None` for a part that only checks.
fn partition_of(part: &TransactWriteItem) -> Option<String> {
    let item = match (part.put(), part.update(), part.delete()) {
        (Some(put), ..) => put.item(),
        (_, Some(update), _) => update.key(),
        (.., Some(delete)) => delete.key(),
        _ => return None,
    };
    Some(key_of(item).ok()?.pk)
}

/// Logs the partitions that are nearly full, where the commit asked for sizes. An alarm looks for these words (template.yaml).
///
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/LSI.html#LSI.ItemCollections.SizeLimit>
fn report_nearly_full(answer: &TransactWriteItemsOutput) {
    let partitions = answer.item_collection_metrics().into_iter().flatten();
    for metrics in partitions.flat_map(|(_, partitions)| partitions) {
        // A lower and an upper bound.
        let Some(size) = metrics.size_estimate_range_gb().first() else {
            continue;
        };
        if *size >= NEARLY_FULL {
            let key = metrics.item_collection_key().and_then(|key| key.get("pk"));
            let partition = key.and_then(|pk| pk.as_s().ok());
            tracing::error!(partition, size, "a partition of the table is nearly full");
        }
    }
}

/// The lists whose items another transaction holds.
fn lists_in_hand(reasons: &[CancellationReason], items: &[TransactWriteItem]) -> Vec<Key> {
    let in_hand = reasons
        .iter()
        .zip(items)
        .filter(|(reason, _)| reason.code() == Some("TransactionConflict"));
    let keys = in_hand.filter_map(|(_, item)| key_of(item.update()?.key()).ok());
    keys.filter(|key| key.sk == TIMESTAMP_KEY).collect()
}
