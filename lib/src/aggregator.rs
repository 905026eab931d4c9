//! The changes-aggregator: from the table's stream to monitor/changes and the broadcast queue.
//!
//! The stream delivers each change at least once, and retries a failed batch from its first failure on. A change has no
//! effect if the monitor knows it already, or a later one of its collection. For each batch:
//!
//! 1. the batch is read ([`read`]) and coalesced, one change for each collection;
//! 2. each new change gets the next position of the monitor's clock, which also raises the versions due for the
//!    listeners' Megaphones and for readers of `__broadcasts__`: one conditional update of the monitor's state
//!    ([`recorder`]);
//! 3. then broadcasts of what is due are requested from the queue, even if nothing was new: an earlier attempt may have
//!    ended between 2 and 3;
//! 4. publications that lists show are settled if their requests did not live to do so ([`crate::store::publication`]).

mod rebuild;
mod recorder;
mod sweep;

use std::collections::BTreeMap;

use aws_lambda_events::dynamodb::{Event, EventRecord};
use aws_lambda_events::streams::{DynamoDbBatchItemFailure, DynamoDbEventResponse};
use futures::stream::{self, StreamExt};

pub use rebuild::{AggregatorEvent, AggregatorResponse, RebuildError, Rebuilt};
pub use sweep::SweepRequest;

use crate::metrics::{Metrics, Unit};
use crate::queue::{BroadcastQueue, QueueError};
use crate::resource::{Kind, ListUri, ObjectUri, is_valid_id};
use crate::settings::{BroadcastsSettings, ChangesSettings, MegaphoneSettings};
use crate::store::monitor::{CollectionChange, MonitorState, split_update};
use crate::store::publication::Layer;
use crate::store::{Store, StoreError, TIMESTAMP_KEY};
use crate::timestamp::Timestamp;
use recorder::{KnownState, Recorder};

/// The most concurrent requests to the table.
const CONCURRENCY: usize = 16;

/// The aggregator and its dependencies.
#[derive(Clone, Debug)]
pub struct Aggregator {
    store: Store,
    queue: BroadcastQueue,
    recorder: Recorder,
    metrics: Metrics,
}

/// The meaning of a record of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
enum StreamChange {
    /// The records of a collection have a new timestamp, or the collection was deleted.
    Collection(CollectionChange),
    /// A bucket was deleted, in this generation.
    BucketDeleted { bucket: String, generation: String },
    /// Nothing for the monitor.
    Other,
}

/// The id of a bucket and its deleted generation.
type BucketGeneration = (String, String);

/// A change with its place in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sequenced<T> {
    /// The sequence number of the first record that contributed to it.
    sequence_number: String,
    change: T,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl Aggregator {
    /// The aggregator with its dependencies.
    pub fn new(
        store: Store,
        queue: BroadcastQueue,
        changes: ChangesSettings,
        broadcasts: BroadcastsSettings,
        megaphones: Vec<MegaphoneSettings>,
    ) -> Self {
        let audience = Audience {
            changes,
            broadcasts,
            megaphones,
        };
        Self {
            recorder: Recorder::new(store.clone(), audience),
            store,
            queue,
            metrics: Metrics::default(),
        }
    }

    /// The same, with metrics.
    pub fn publishing(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Handles one batch; returns the records to retry.
    ///
    /// A record that cannot be understood is logged and skipped: a retry would fail too, and would hold up every change
    /// behind it until the stream drops it.
    pub async fn handle(&self, event: Event) -> DynamoDbEventResponse {
        let layers = layers(&event.records);
        let CoalescedBatch {
            collections,
            buckets,
            written,
        } = coalesce(event.records);
        let mut failed: Vec<String> = vec![];

        let deletions = stream::iter(buckets).map(
            async |Sequenced {
                       sequence_number,
                       change: (bucket, generation),
                   }| {
                let closed = self
                    .store
                    .close_collections(&bucket, &generation, Timestamp::now())
                    .await;
                closed.map_err(|error| (sequence_number, Failure::from(error)))
            },
        );
        let deletions: Vec<_> = deletions.buffer_unordered(CONCURRENCY).collect().await;
        failed.extend(deletions.into_iter().filter_map(Result::err).map(logged));

        let failures = self.record(collections).await;
        if failures.is_empty() {
            let now = Timestamp::now();
            let lags = written.iter().map(|written| now.since(*written));
            let lags = lags.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX));
            let lags: Vec<_> = lags.collect();
            let unit = Unit::Milliseconds;
            self.metrics.values(now, "MonitorLag", unit, &lags);
        }
        failed.extend(failures.into_iter().map(logged));

        // Usually who published has done so by now. Of a large layer one step: its write comes behind what has come
        // meanwhile, so that nobody waits for more than a step.
        let settled = stream::iter(layers).map(
            async |Sequenced {
                       sequence_number,
                       change: (list, layer),
                   }| {
                let settled = self.store.settle_step(&list, &layer).await;
                settled.map_err(|error| (sequence_number, Failure::from(error)))
            },
        );
        let settled: Vec<_> = settled.buffer_unordered(CONCURRENCY).collect().await;
        failed.extend(settled.into_iter().filter_map(Result::err).map(logged));

        let mut response = DynamoDbEventResponse::default();
        // The batch is retried from the earliest failure on, so that one is enough.
        if let Some(earliest) = failed.into_iter().min_by(|a, b| by_number(a, b)) {
            let mut failure = DynamoDbBatchItemFailure::default();
            failure.item_identifier = Some(earliest);
            response.batch_item_failures.push(failure);
        }
        response
    }

    /// Records changes in the monitor and requests their broadcasts. Returns the failures, each with the record from
    /// which to retry.
    async fn record(
        &self,
        mut changes: Vec<Sequenced<CollectionChange>>,
    ) -> Vec<(String, Failure)> {
        // If a batch holds several collections, their positions are in order of their timestamps.
        changes.sort_by_key(|change| change.change.last_modified);
        let mut failed = vec![];
        let Some(first) = earliest(&changes) else {
            return failed;
        };
        let (mut held, has_adopted) = match self.held().await {
            Ok(held) => held,
            Err(failure) => return vec![(first, failure)],
        };
        let mut left = &*changes;
        while !left.is_empty() {
            let (update, rest) = split_update(left, |numbered| &numbered.change);
            let part: Vec<_> = update.iter().map(|numbered| &numbered.change).collect();
            let state = match self.recorder.record(held, &part).await {
                Ok(state) => state,
                Err(error) => {
                    failed.extend(earliest(left).map(|number| (number, error.into())));
                    return failed;
                }
            };
            let audience = &self.recorder.audience;
            let concerns = |listener: &MegaphoneSettings| {
                part.iter()
                    .any(|change| audience.includes(listener, change))
            };
            if let Err(failure) = self.request_broadcasts(&state, concerns).await {
                failed.extend(earliest(update).map(|number| (number, failure)));
            }
            held = KnownState::fresh(state);
            left = rest;
        }
        // The remembered state may not have shown it.
        if held.state.needs_adoption()
            && !has_adopted
            && let Err(failure) = self.adopt(held.state).await
        {
            failed.push((first, failure));
        }
        failed
    }

    /// The monitor's state, in which every entry of an earlier version has a position; and whether there were any to
    /// adopt.
    async fn held(&self) -> Result<(KnownState, bool), Failure> {
        let held = self.recorder.held().await?;
        if !held.state.needs_adoption() {
            return Ok((held, false));
        }
        Ok((KnownState::fresh(self.adopt(held.state).await?), true))
    }

    /// Gives positions to entries that functions of an earlier version left, and requests their broadcasts
    /// ([decision 14](../../docs/decisions/014-update-in-place.md)).
    async fn adopt(&self, mut read: MonitorState) -> Result<MonitorState, Failure> {
        if !read.has_clock() {
            read = self.recorder.start(read).await?;
        }
        if !read.needs_adoption() {
            return Ok(read);
        }
        let version = read.version();
        let state = self.recorder.adopt(read).await?;
        self.request_broadcasts(&state, |_| true).await?;
        Ok(self.recorder.end_adoption(state, version).await?)
    }

    /// Requests the broadcasts that are due for the listeners for which `concerns` is true. Returns the last failure,
    /// if any.
    async fn request_broadcasts(
        &self,
        state: &MonitorState,
        concerns: impl Fn(&MegaphoneSettings) -> bool,
    ) -> Result<(), Failure> {
        let mut outcome = Ok(());
        for listener in &self.recorder.audience.megaphones {
            if let Some(version) = state.due(&listener.name)
                && concerns(listener)
                && let Err(error) = self.queue.request(&listener.name, version).await
            {
                outcome = Err(error.into());
            }
        }
        outcome
    }
}

/// The rules about who is notified of a change.
#[derive(Clone, Debug)]
struct Audience {
    changes: ChangesSettings,
    broadcasts: BroadcastsSettings,
    megaphones: Vec<MegaphoneSettings>,
}

impl Audience {
    /// Returns `true` if the listener is notified of a change: monitor/changes shows it and the listener matches it,
    /// and the entry does not become a tombstone (kinto-megaphone 0.5).
    fn includes(&self, listener: &MegaphoneSettings, change: &CollectionChange) -> bool {
        let CollectionChange {
            bucket, collection, ..
        } = change;
        !change.deleted
            && self.changes.shows(bucket, collection)
            && listener.matches(bucket, collection)
    }

    /// Returns `true` if readers of `__broadcasts__` are notified of a change: monitor/changes shows it, it is no
    /// preview, and the entry does not become a tombstone (Remote Settings).
    fn includes_readers(&self, change: &CollectionChange) -> bool {
        let CollectionChange {
            bucket, collection, ..
        } = change;
        !change.deleted
            && self.changes.shows(bucket, collection)
            && !format!("{bucket}/{collection}").contains("-preview")
    }
}

/// The first record of the stream that contributed to one of the changes.
fn earliest(changes: &[Sequenced<CollectionChange>]) -> Option<String> {
    let numbers = changes.iter().map(|change| &change.sequence_number);
    numbers.min_by(|a, b| by_number(a, b)).cloned()
}

fn logged((sequence_number, failure): (String, Failure)) -> String {
    tracing::error!(%sequence_number, error = %failure, "a change has to come again");
    sequence_number
}

/// Compares sequence numbers, which are numbers of up to 40 digits.
fn by_number(a: &str, b: &str) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// The changes of a batch of the stream.
///
/// Each carries the sequence number of the first record that contributed to it: a retry must begin there.
struct CoalescedBatch {
    /// The latest change of each collection.
    collections: Vec<Sequenced<CollectionChange>>,
    /// Every deletion of a bucket.
    buckets: Vec<Sequenced<BucketGeneration>>,
    /// The times of all changes of collections.
    written: Vec<Timestamp>,
}

fn coalesce(records: Vec<EventRecord>) -> CoalescedBatch {
    let mut collections = BTreeMap::<(String, String), Sequenced<CollectionChange>>::new();
    let (mut buckets, mut written) = (vec![], vec![]);
    for record in records {
        let sequence_number = record.change.sequence_number.clone().unwrap_or_default();
        match read(&record) {
            Some(StreamChange::Collection(entry)) => {
                written.push(time_of_write(&record, &entry));
                let key = (entry.bucket.clone(), entry.collection.clone());
                match collections.get_mut(&key) {
                    Some(known) if known.change.last_modified < entry.last_modified => {
                        known.change = entry
                    }
                    Some(_) => {}
                    None => {
                        _ = collections.insert(
                            key,
                            Sequenced {
                                sequence_number,
                                change: entry,
                            },
                        )
                    }
                }
            }
            Some(StreamChange::BucketDeleted { bucket, generation }) => {
                buckets.push(Sequenced {
                    sequence_number,
                    change: (bucket, generation),
                });
            }
            Some(StreamChange::Other) => {}
            None => tracing::error!(
                sequence_number,
                "a record of the stream cannot be understood, passed over"
            ),
        }
    }
    CoalescedBatch {
        collections: collections.into_values().collect(),
        buckets,
        written,
    }
}

/// The time at which a change was written: the new timestamp of its list. The stream, which knows the second, gives the time
/// of one that a client set to a time long past.
fn time_of_write(record: &EventRecord, change: &CollectionChange) -> Timestamp {
    let created = record
        .change
        .approximate_creation_date_time
        .timestamp_millis();
    let created = Timestamp(u64::try_from(created).unwrap_or_default());
    change.last_modified.max(created)
}

/// The layers that lists of records show ([`crate::store::publication`]): of each list the last, since what came before it
/// was settled.
fn layers(records: &[EventRecord]) -> Vec<Sequenced<(ListUri, Layer)>> {
    let mut layers = BTreeMap::new();
    for record in records {
        let image = &record.change.new_image;
        let text = |attribute: &str| match image.get(attribute) {
            Some(serde_dynamo::AttributeValue::S(text)) => Some(text.as_str()),
            _ => None,
        };
        let size = match image.get("layer_size") {
            Some(serde_dynamo::AttributeValue::N(digits)) => digits.parse().ok(),
            _ => None,
        };
        let collection = text("pk").and_then(|pk| ObjectUri::parse(pk.strip_suffix("#record")?));
        if let (Some(name), Some(size), Some(collection)) = (text("layer"), size, collection) {
            let layer = Layer {
                name: name.to_owned(),
                size,
            };
            let numbered = Sequenced {
                sequence_number: record.change.sequence_number.clone().unwrap_or_default(),
                change: (collection.children(Kind::Record), layer),
            };
            layers.insert(collection, numbered);
        }
    }
    layers.into_values().collect()
}

/// The meaning of a record; `None` if it concerns the monitor and cannot be understood.
fn read(record: &EventRecord) -> Option<StreamChange> {
    let (image, before) = (&record.change.new_image, &record.change.old_image);
    let text = |attribute: &str| match image.get(attribute) {
        Some(serde_dynamo::AttributeValue::S(text)) => Some(text.as_str()),
        _ => None,
    };
    let flag = |attribute: &str| {
        matches!(
            image.get(attribute),
            Some(serde_dynamo::AttributeValue::Bool(true))
        )
    };
    let number = |attribute: &str| match image.get(attribute) {
        Some(serde_dynamo::AttributeValue::N(digits)) => Timestamp::from_digits(digits),
        _ => None,
    };
    // A removed item has no new image; we remove none that the monitor follows.
    if image.is_empty() {
        return Some(StreamChange::Other);
    }
    let (pk, sk) = (text("pk")?, text("sk")?);
    if sk == TIMESTAMP_KEY && pk.ends_with("#record") {
        // All writes of records were backdated, which only their list reflects.
        let is_same = |attribute: &&str| before.get(*attribute) == image.get(*attribute);
        if ["timestamp", "generation", "closed"].iter().all(is_same) {
            return Some(StreamChange::Other);
        }
        let uri = ObjectUri::parse(pk.strip_suffix("#record")?)
            .filter(|uri| uri.kind() == Kind::Collection)?;
        return Some(StreamChange::Collection(CollectionChange {
            bucket: uri.bucket_id().to_owned(),
            collection: uri.id().to_owned(),
            last_modified: number("timestamp")?,
            deleted: flag("closed"),
        }));
    }
    if pk == "#bucket" && is_valid_id(sk) && flag("deleted") {
        return Some(StreamChange::BucketDeleted {
            bucket: sk.to_owned(),
            generation: text("generation")?.to_owned(),
        });
    }
    Some(StreamChange::Other)
}
