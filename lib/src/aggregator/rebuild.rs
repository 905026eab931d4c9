//! Rebuilding monitor/changes from the collections themselves, for the day on which it is not to be trusted.
//!
//! Nothing stops for it: an entry is only ever raised, to a timestamp that its collection had, and a change that
//! comes meanwhile raises it further by the usual way.

use std::collections::HashMap;

use futures::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use aws_lambda_events::dynamodb::{Event, EventRecord};
use aws_lambda_events::streams::DynamoDbEventResponse;

use super::{Aggregator, CONCURRENCY, Failure, Numbered};
use crate::queue::QueueError;
use crate::resource::ObjectUri;
use crate::store::StoreError;
use crate::store::monitor::MonitorEntry;
use crate::timestamp::Timestamp;

/// What the function is called with: a batch of the stream, or `{"rebuild-monitor": true}` by an operator.
#[derive(Debug, Deserialize)]
pub struct Input {
    /// The records of the stream.
    #[serde(rename = "Records")]
    records: Option<Vec<EventRecord>>,
    /// Whether every entry is to be computed anew.
    #[serde(rename = "rebuild-monitor", default)]
    rebuild_monitor: bool,
}

/// What the function answers.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Output {
    /// Which records are to come again.
    Batch(DynamoDbEventResponse),
    /// What was rebuilt.
    Rebuilt(Rebuilt),
}

/// What a rebuilding found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// Collections that ever were, deleted ones among them.
    pub collections: usize,
    /// Entries that were missing or behind.
    pub raised: usize,
    /// Entries of what never was a collection of this table, removed.
    pub removed: usize,
}

/// A call that did not come to its end. What it did is right; do it again for the rest.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The table failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queue failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The function was called with something else.
    #[error("neither `Records` nor `\"rebuild-monitor\": true`")]
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
    /// Does what it is called for.
    ///
    /// # Errors
    /// Those of [`Self::rebuild_monitor`], and an input that is neither; a batch of the stream tells its failures in the answer.
    pub async fn answer(&self, input: Input) -> Result<Output, RebuildError> {
        if input.rebuild_monitor {
            return Ok(Output::Rebuilt(self.rebuild_monitor().await?));
        }
        let mut event = Event::default();
        event.records = input.records.ok_or(RebuildError::NotAsked)?;
        Ok(Output::Batch(self.handle(event).await))
    }

    /// Computes every entry of monitor/changes anew from the timestamps of the collections' records, and has
    /// what was raised broadcast.
    ///
    /// A `Query` of the entries, one of the buckets, one for each bucket with a `BatchGetItem` of itself and one for
    /// each 100 collections; a `PutItem` for each entry that is behind, between two `UpdateItem`. Safe to repeat and
    /// while writes go on.
    ///
    /// # Errors
    /// The table or the queue failed.
    pub async fn rebuild_monitor(&self) -> Result<Rebuilt, RebuildError> {
        let key = |entry: &MonitorEntry| ObjectUri::collection(&entry.bucket, &entry.collection);
        let known = self.store.every_monitor_entry().await?;
        let mut known: HashMap<_, _> = known.into_iter().map(|e| (key(&e), e)).collect();

        let buckets = self.store.every_bucket().await?;
        let entries = stream::iter(buckets)
            .map(async |bucket| self.store.entries_of(&bucket, Timestamp::now()).await)
            .buffer_unordered(CONCURRENCY);
        let entries: Vec<_> = entries.try_concat().await?;

        let mut rebuilt = Rebuilt {
            collections: entries.len(),
            ..Rebuilt::default()
        };
        let mut raised = vec![];
        for entry in entries {
            if known
                .remove(&key(&entry))
                .is_none_or(|e| e.last_modified < entry.last_modified)
            {
                raised.push(entry);
            }
        }
        rebuilt.raised = raised.len();
        // No list of records: no collection of this table ever had that name.
        let ghosts = known.into_values().filter(|entry| !entry.deleted);
        let ghosts: Vec<_> = ghosts
            .map(|entry| MonitorEntry {
                last_modified: entry.last_modified.next(),
                deleted: true,
                ..entry
            })
            .collect();
        rebuilt.removed = ghosts.len();

        let entries: Vec<_> = raised.iter().chain(&ghosts).cloned().collect();
        if !entries.is_empty() {
            let (now, name) = (Timestamp::now(), Uuid::new_v4().to_string());
            let writes = self.store.begin_monitor_writes(&name, now).await?;
            stream::iter(entries)
                .map(Ok)
                .try_for_each_concurrent(CONCURRENCY, |entry| writes.put(entry))
                .await?;
            writes.end().await?;
        }
        let changed = raised.into_iter().map(|change| Numbered {
            sequence_number: String::new(),
            change,
        });
        let changed: Vec<_> = changed.collect();
        match self.announce(&changed).await.into_iter().next() {
            Some((_, failure)) => Err(failure.into()),
            None => Ok(rebuilt),
        }
    }
}
