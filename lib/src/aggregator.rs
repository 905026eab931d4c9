//! The changes-aggregator: from the table's stream to monitor/changes and the broadcast queue.
//!
//! The stream gives each change at least once, and a failed batch again from its first failure on. A change that the
//! monitor knows already, or a later one of its collection, changes nothing. For each batch:
//!
//! 1. the batch is read ([`read`]) and coalesced, one change for each collection;
//! 2. each change that is new gets the next position of the monitor's clock, and with it the versions are raised that the
//!    listeners' Megaphones and readers of `__broadcasts__` are to be told: one conditional update of the monitor's
//!    state ([`recorder`]);
//! 3. then the queue is asked to broadcast what is due, even when nothing was new: an earlier attempt may have ended
//!    between 2 and 3;
//! 4. publications that lists show are settled, whose requests did not live to do so ([`crate::store::publication`]).

mod rebuild;
mod recorder;

use std::collections::BTreeMap;

use aws_lambda_events::dynamodb::{Event, EventRecord};
use aws_lambda_events::streams::{DynamoDbBatchItemFailure, DynamoDbEventResponse};
use futures::stream::{self, StreamExt};

pub use rebuild::{Input, Output, RebuildError, Rebuilt};

use crate::queue::{BroadcastQueue, QueueError};
use crate::resource::{Kind, ListUri, ObjectUri, is_valid_id};
use crate::settings::{BroadcastsSettings, ChangesSettings, MegaphoneSettings};
use crate::store::monitor::{CollectionChange, MonitorState, split_update};
use crate::store::publication::Layer;
use crate::store::{Store, StoreError, TIMESTAMP_KEY};
use crate::timestamp::Timestamp;
use recorder::{Held, Recorder};

/// Requests to the table that are under way at once.
const CONCURRENCY: usize = 16;

/// What the aggregator works with.
#[derive(Clone, Debug)]
pub struct Aggregator {
    store: Store,
    queue: BroadcastQueue,
    recorder: Recorder,
}

/// What a record of the stream tells.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    /// The records of a collection have a new timestamp, or the collection was deleted.
    Collection(CollectionChange),
    /// A bucket was deleted, in this generation.
    BucketDeleted { bucket: String, generation: String },
    /// Nothing that concerns the monitor.
    Other,
}

/// A bucket id and the generation that was deleted.
type BucketGeneration = (String, String);

/// A change with where it stands in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Numbered<T> {
    /// The sequence number of the first record that is part of it.
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
        }
    }

    /// Handles one batch; tells which records are to come again.
    ///
    /// A record that cannot be understood is logged and passed over: it would not be understood the next
    /// time either, and would hold up every change behind it until the stream drops it.
    pub async fn handle(&self, event: Event) -> DynamoDbEventResponse {
        let layers = layers(&event.records);
        let (collections, buckets) = coalesce(event.records);
        let mut failed: Vec<String> = vec![];

        let deletions = stream::iter(buckets).map(
            async |Numbered {
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
        failed.extend(failures.into_iter().map(logged));

        // Usually who published has done so by now.
        let settled = stream::iter(layers).map(
            async |Numbered {
                       sequence_number,
                       change: (list, layer),
                   }| {
                let settled = self.store.settle_layer(&list, &layer).await;
                settled.map_err(|error| (sequence_number, Failure::from(error)))
            },
        );
        let settled: Vec<_> = settled.buffer_unordered(CONCURRENCY).collect().await;
        failed.extend(settled.into_iter().filter_map(Result::err).map(logged));

        let mut response = DynamoDbEventResponse::default();
        // The batch comes again from the earliest failure on, so that one says it all.
        if let Some(earliest) = failed.into_iter().min_by(|a, b| by_number(a, b)) {
            let mut failure = DynamoDbBatchItemFailure::default();
            failure.item_identifier = Some(earliest);
            response.batch_item_failures.push(failure);
        }
        response
    }

    /// Brings changes to the monitor and has the queue asked to broadcast them. What failed, with the record from which on
    /// it has to come again.
    async fn record(&self, mut changes: Vec<Numbered<CollectionChange>>) -> Vec<(String, Failure)> {
        // Where a batch brings several collections, their positions are in the order of their timestamps.
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
                part.iter().any(|change| audience.is_told(listener, change))
            };
            if let Err(failure) = self.request_broadcasts(&state, concerns).await {
                failed.extend(earliest(update).map(|number| (number, failure)));
            }
            held = Held::fresh(state);
            left = rest;
        }
        // What was remembered may not have told of it.
        if held.state.needs_adoption()
            && !has_adopted
            && let Err(failure) = self.adopt(held.state).await
        {
            failed.push((first, failure));
        }
        failed
    }

    /// The monitor's state, in which all that functions of an earlier version left has a position; and whether they had
    /// left anything.
    async fn held(&self) -> Result<(Held, bool), Failure> {
        let held = self.recorder.held().await?;
        if !held.state.needs_adoption() {
            return Ok((held, false));
        }
        Ok((Held::fresh(self.adopt(held.state).await?), true))
    }

    /// Gives positions to what functions of an earlier version left, and has everybody told of it
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

    /// Asks the queue to have those listeners told whom it `concerns`. The failure, if one or more could not be asked for.
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

/// Who is told of a change.
#[derive(Clone, Debug)]
struct Audience {
    changes: ChangesSettings,
    broadcasts: BroadcastsSettings,
    megaphones: Vec<MegaphoneSettings>,
}

impl Audience {
    /// Whether the listener is told of a change: of what monitor/changes shows and the listener matches, but
    /// not of an entry that goes (kinto-megaphone 0.5).
    fn is_told(&self, listener: &MegaphoneSettings, change: &CollectionChange) -> bool {
        let CollectionChange {
            bucket, collection, ..
        } = change;
        !change.deleted
            && self.changes.shows(bucket, collection)
            && listener.matches(bucket, collection)
    }

    /// Whether readers of `__broadcasts__` are told of a change: of what monitor/changes shows, previews and entries that
    /// go left out (Remote Settings).
    fn is_told_to_readers(&self, change: &CollectionChange) -> bool {
        let CollectionChange {
            bucket, collection, ..
        } = change;
        !change.deleted
            && self.changes.shows(bucket, collection)
            && !format!("{bucket}/{collection}").contains("-preview")
    }
}

/// The first record of the stream that is part of one of the changes.
fn earliest(changes: &[Numbered<CollectionChange>]) -> Option<String> {
    let numbers = changes.iter().map(|change| &change.sequence_number);
    numbers.min_by(|a, b| by_number(a, b)).cloned()
}

fn logged((sequence_number, failure): (String, Failure)) -> String {
    tracing::error!(%sequence_number, error = %failure, "a change has to come again");
    sequence_number
}

/// Orders sequence numbers, which are numbers of up to 40 digits.
fn by_number(a: &str, b: &str) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// One change for each collection, the latest, and every deletion of a bucket.
///
/// Each carries the sequence number of the first record that is part of it: to come again it must begin there.
fn coalesce(
    records: Vec<EventRecord>,
) -> (
    Vec<Numbered<CollectionChange>>,
    Vec<Numbered<BucketGeneration>>,
) {
    let mut collections = BTreeMap::<(String, String), Numbered<CollectionChange>>::new();
    let mut buckets = vec![];
    for record in records {
        let sequence_number = record.change.sequence_number.clone().unwrap_or_default();
        match read(&record) {
            Some(Change::Collection(entry)) => {
                let key = (entry.bucket.clone(), entry.collection.clone());
                match collections.get_mut(&key) {
                    Some(known) if known.change.last_modified < entry.last_modified => {
                        known.change = entry
                    }
                    Some(_) => {}
                    None => {
                        _ = collections.insert(
                            key,
                            Numbered {
                                sequence_number,
                                change: entry,
                            },
                        )
                    }
                }
            }
            Some(Change::BucketDeleted { bucket, generation }) => {
                buckets.push(Numbered {
                    sequence_number,
                    change: (bucket, generation),
                });
            }
            Some(Change::Other) => {}
            None => tracing::error!(
                sequence_number,
                "a record of the stream cannot be understood, passed over"
            ),
        }
    }
    (collections.into_values().collect(), buckets)
}

/// The layers that lists of records show ([`crate::store::publication`]): of each list the last, since what came before it
/// was settled.
fn layers(records: &[EventRecord]) -> Vec<Numbered<(ListUri, Layer)>> {
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
            let numbered = Numbered {
                sequence_number: record.change.sequence_number.clone().unwrap_or_default(),
                change: (collection.children(Kind::Record), layer),
            };
            layers.insert(collection, numbered);
        }
    }
    layers.into_values().collect()
}

/// What a record tells; `None` when it ought to tell something and cannot be understood.
fn read(record: &EventRecord) -> Option<Change> {
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
    // An item that was removed has no new image; we remove none that the monitor follows.
    if image.is_empty() {
        return Some(Change::Other);
    }
    let (pk, sk) = (text("pk")?, text("sk")?);
    if sk == TIMESTAMP_KEY && pk.ends_with("#record") {
        // Records were written under past times alone, which only their list tells of.
        let is_same = |attribute: &&str| before.get(*attribute) == image.get(*attribute);
        if ["timestamp", "generation", "closed"].iter().all(is_same) {
            return Some(Change::Other);
        }
        let uri = ObjectUri::parse(pk.strip_suffix("#record")?)
            .filter(|uri| uri.kind() == Kind::Collection)?;
        return Some(Change::Collection(CollectionChange {
            bucket: uri.bucket_id().to_owned(),
            collection: uri.id().to_owned(),
            last_modified: number("timestamp")?,
            deleted: flag("closed"),
        }));
    }
    if pk == "#bucket" && is_valid_id(sk) && flag("deleted") {
        return Some(Change::BucketDeleted {
            bucket: sk.to_owned(),
            generation: text("generation")?.to_owned(),
        });
    }
    Some(Change::Other)
}
