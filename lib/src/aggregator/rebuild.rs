//! Rebuilds monitor/changes from the collections themselves, in case it can no longer be trusted.
//!
//! Nothing stops meanwhile: an entry is only ever raised, to a timestamp that its collection had, and changes during
//! the rebuild raise it further as usual.

use std::collections::HashMap;

use futures::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use aws_lambda_events::dynamodb::{Event, EventRecord};
use aws_lambda_events::streams::DynamoDbEventResponse;

use super::sweep::SweepRequest;
use super::{Aggregator, CONCURRENCY, Failure, Sequenced};
use crate::queue::QueueError;
use crate::store::StoreError;
use crate::store::monitor::CollectionChange;
use crate::store::sweep::Swept;
use crate::timestamp::Timestamp;

/// The function's input: a batch of the stream, `{"rebuild-monitor": true}` by an operator, or `{"sweep": …}` by its schedule.
#[derive(Debug, Deserialize)]
pub struct AggregatorEvent {
    /// The records of the stream.
    #[serde(rename = "Records")]
    records: Option<Vec<EventRecord>>,
    /// Whether to rebuild every entry.
    #[serde(rename = "rebuild-monitor", default)]
    rebuild_monitor: bool,
    /// A run of a sweep.
    sweep: Option<SweepRequest>,
}

/// The function's output.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum AggregatorResponse {
    /// The records to retry.
    Batch(DynamoDbEventResponse),
    /// The result of a rebuild.
    Rebuilt(Rebuilt),
    /// The result of a run of a sweep.
    Swept(Swept),
}

/// The result of a rebuild.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// All collections that ever existed, deleted ones included.
    pub collections: usize,
    /// Entries that were missing or behind.
    pub raised: usize,
    /// Entries, now tombstones, that belonged to no collection of this table.
    pub removed: usize,
}

/// An interrupted call. What it has done is right; call again for the rest.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The table failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queue failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The function was called with something else.
    #[error("neither `Records` nor `\"rebuild-monitor\": true` nor `\"sweep\"`")]
    NotAsked,
}

impl From<Failure> for RebuildError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Store(error) => error.into(),
            Failure::Queue(error) => error.into(),
        }
    }
}

impl Aggregator {
    /// Handles a batch of the stream, rebuilds the monitor, or sweeps.
    ///
    /// # Errors
    /// Those of [`Self::rebuild_monitor`] and [`Self::sweep`], and an input that is neither; failures of a batch are part of its output.
    pub async fn answer_event(
        &self,
        input: AggregatorEvent,
    ) -> Result<AggregatorResponse, RebuildError> {
        if input.rebuild_monitor {
            return Ok(AggregatorResponse::Rebuilt(self.rebuild_monitor().await?));
        }
        if let Some(request) = input.sweep {
            return Ok(AggregatorResponse::Swept(self.sweep(request).await?));
        }
        let mut event = Event::default();
        event.records = input.records.ok_or(RebuildError::NotAsked)?;
        Ok(AggregatorResponse::Batch(self.handle(event).await))
    }

    /// Rebuilds every entry of monitor/changes from the timestamps of the collections' records, and requests broadcasts
    /// for those that were raised.
    ///
    /// Reads the state and, by one `Query` each, the entries and the buckets; for each bucket one `Query`, a
    /// `BatchGetItem` of the bucket and one for each 100 collections; then records the changes like those of the
    /// stream. Safe to repeat, and during writes.
    ///
    /// # Errors
    /// The table or the queue failed.
    pub async fn rebuild_monitor(&self) -> Result<Rebuilt, RebuildError> {
        let state = self.store.monitor_state().await?;
        if state.needs_adoption() {
            self.adopt(state).await?;
        }
        let (_, known) = self.store.monitor().await?;
        let known = known.into_iter().map(|entry| entry.change);
        let mut known: HashMap<_, _> = known.map(|change| (change.uri(), change)).collect();

        let buckets = self.store.every_bucket().await?;
        let changes = stream::iter(buckets)
            .map(async |bucket| {
                let now = Timestamp::now();
                self.store.collection_changes(&bucket, now).await
            })
            .buffer_unordered(CONCURRENCY);
        let changes: Vec<_> = changes.try_concat().await?;

        let mut rebuilt = Rebuilt {
            collections: changes.len(),
            ..Rebuilt::default()
        };
        let mut missing: Vec<_> = changes
            .into_iter()
            .filter(|change| {
                let known = known.remove(&change.uri());
                known.is_none_or(|known| known.last_modified < change.last_modified)
            })
            .collect();
        rebuilt.raised = missing.len();
        // No list of records: no collection of this table ever had that name.
        let ghosts = known.into_values().filter(|change| !change.deleted);
        let ghosts: Vec<_> = ghosts
            .map(|change| CollectionChange {
                last_modified: change.last_modified.next(),
                deleted: true,
                ..change
            })
            .collect();
        rebuilt.removed = ghosts.len();

        missing.extend(ghosts);
        let missing = missing.into_iter().map(|change| Sequenced {
            sequence_number: String::new(),
            change,
        });
        match self.record(missing.collect()).await.into_iter().next() {
            Some((_, failure)) => Err(failure.into()),
            None => Ok(rebuilt),
        }
    }
}
