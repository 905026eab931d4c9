//! The changes-aggregator: from the table's stream to the entries of monitor/changes and the broadcast queue.
//!
//! The stream gives each change at least once, and a failed batch again from its first failure on. All that
//! is done here only ever raises a timestamp, so repeating or reordering it changes nothing. For each batch:
//!
//! 1. the batch is read ([`read`]) and coalesced, one change for each collection;
//! 2. the entries of monitor/changes are raised, between a begin and an end that tell who answers polls from memory
//!    ([decision 9](../../docs/decisions/009-monitor-memory.md));
//! 3. then, so that who is told finds the change, each listener's due version is raised in the table;
//! 4. then the queue is asked to broadcast it, even when nothing was raised: an earlier attempt may have ended
//!    between 3 and 4;
//! 5. and the version is raised that is told to who asks for it.

mod rebuild;

use std::collections::BTreeMap;

use aws_lambda_events::dynamodb::{Event, EventRecord};
use aws_lambda_events::streams::{DynamoDbBatchItemFailure, DynamoDbEventResponse};
use futures::stream::{self, StreamExt};

pub use rebuild::{Input, Output, RebuildError, Rebuilt};

use crate::queue::{BroadcastQueue, QueueError};
use crate::resource::{Kind, ObjectUri, is_valid_id};
use crate::settings::{BroadcastsSettings, ChangesSettings, MegaphoneSettings};
use crate::store::monitor::MonitorEntry;
use crate::store::{Store, StoreError, TIMESTAMP_KEY};
use crate::timestamp::Timestamp;

/// Requests to the table that are under way at once.
const CONCURRENCY: usize = 16;

/// What the aggregator works with.
#[derive(Clone, Debug)]
pub struct Aggregator {
    store: Store,
    queue: BroadcastQueue,
    changes: ChangesSettings,
    broadcasts: BroadcastsSettings,
    megaphones: Vec<MegaphoneSettings>,
}

/// What a record of the stream tells.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    /// The records of a collection have a new timestamp, or the collection was deleted.
    Collection(MonitorEntry),
    /// A bucket was deleted, in this generation.
    BucketDeleted { bucket: String, generation: String },
    /// Nothing that concerns the monitor.
    Other,
}

/// A bucket id and the generation that was deleted.
type BucketLife = (String, String);

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
        Self {
            store,
            queue,
            changes,
            broadcasts,
            megaphones,
        }
    }

    /// Handles one batch; tells which records are to come again.
    ///
    /// A record that cannot be understood is logged and passed over: it would not be understood the next
    /// time either, and would hold up every change behind it until the stream drops it.
    pub async fn handle(&self, event: Event) -> DynamoDbEventResponse {
        // However the batch is cut when it comes again, its last part ends with the same record.
        let last = event.records.last();
        let batch = last.map_or_else(String::new, |record| record.event_id.clone());
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

        let failures = self.raise(&batch, collections).await;
        failed.extend(failures.into_iter().map(logged));

        let mut response = DynamoDbEventResponse::default();
        // The batch comes again from the earliest failure on, so that one says it all.
        if let Some(earliest) = failed.into_iter().min_by(|a, b| by_number(a, b)) {
            let mut failure = DynamoDbBatchItemFailure::default();
            failure.item_identifier = Some(earliest);
            response.batch_item_failures.push(failure);
        }
        response
    }

    /// Raises the entries of the collections that changed in a batch of that name, and has everybody told whom that
    /// concerns. What failed, with the record from which on it has to come again.
    async fn raise(
        &self,
        batch: &str,
        collections: Vec<Numbered<MonitorEntry>>,
    ) -> Vec<(String, Failure)> {
        let numbers = collections.iter().map(|entry| &*entry.sequence_number);
        let Some(first) = numbers.min_by(|a, b| by_number(a, b)).map(str::to_owned) else {
            return vec![];
        };
        let begun = self.store.begin_monitor_writes(batch, Timestamp::now());
        let writes = match begun.await {
            Ok(writes) => writes,
            Err(error) => return vec![(first, error.into())],
        };
        let raised = stream::iter(collections).map(async |entry| {
            let raised = writes.put(entry.change.clone()).await;
            raised
                .map_err(|error| (entry.sequence_number.clone(), Failure::from(error)))
                .map(|()| entry)
        });
        let raised: Vec<Result<Numbered<MonitorEntry>, _>> =
            raised.buffer_unordered(CONCURRENCY).collect().await;
        let (mut changed, mut failed) = (vec![], vec![]);
        for outcome in raised {
            match outcome {
                Ok(entry) => changed.push(entry),
                Err(failure) => failed.push(failure),
            }
        }
        // What failed may have been on its way and arrive after all.
        let end = async {
            if failed.is_empty() {
                writes.end().await
            } else {
                Ok(())
            }
        };
        // Who is told before the end reads the table.
        let (ended, untold) = futures::join!(end, self.announce(&changed));
        failed.extend(untold);
        failed.extend(ended.err().map(|error| (first, error.into())));
        failed
    }

    /// Has everybody told whom the changes concern. What failed, with the record from which on it has to come again.
    async fn announce(&self, changed: &[Numbered<MonitorEntry>]) -> Vec<(String, Failure)> {
        let mut failed = vec![];
        for listener in &self.megaphones {
            let told = latest(changed, |entry| self.is_told(listener, entry));
            if let Some((version, sequence_number)) = told
                && let Err(failure) = self.request_broadcast(listener, version).await
            {
                failed.push((sequence_number.to_owned(), failure));
            }
        }
        let shown = latest(changed, |entry| self.is_shown_to_who_asks(entry));
        if let Some((version, sequence_number)) = shown
            && let Err(error) = self
                .store
                .raise_pull_version(version, Timestamp::now(), self.broadcasts.debounce)
                .await
        {
            failed.push((sequence_number.to_owned(), error.into()));
        }
        failed
    }

    /// Has `listener`'s Megaphone told of `version`.
    async fn request_broadcast(
        &self,
        listener: &MegaphoneSettings,
        version: Timestamp,
    ) -> Result<(), Failure> {
        self.store
            .set_broadcast_due(&listener.name, version)
            .await?;
        self.queue.request(&listener.name, version).await?;
        Ok(())
    }

    /// Whether the listener is told of a change: of what monitor/changes shows and the listener matches, but
    /// not of an entry that goes (kinto-megaphone 0.5).
    fn is_told(&self, listener: &MegaphoneSettings, entry: &MonitorEntry) -> bool {
        let MonitorEntry {
            bucket, collection, ..
        } = entry;
        !entry.deleted
            && self.changes.shows(bucket, collection)
            && listener.matches(bucket, collection)
    }

    /// Whether who asks for broadcasts is told of a change: of what monitor/changes shows, previews and entries that
    /// go left out (Remote Settings).
    fn is_shown_to_who_asks(&self, entry: &MonitorEntry) -> bool {
        let MonitorEntry {
            bucket, collection, ..
        } = entry;
        !entry.deleted
            && self.changes.shows(bucket, collection)
            && !format!("{bucket}/{collection}").contains("-preview")
    }
}

/// The latest timestamp of the changes that concern somebody, and the sequence number from which on they have to
/// come again should that fail; `None` when none does.
fn latest(
    changed: &[Numbered<MonitorEntry>],
    concerns: impl Fn(&MonitorEntry) -> bool,
) -> Option<(Timestamp, &str)> {
    let concerned = || changed.iter().filter(|entry| concerns(&entry.change));
    let version = concerned().map(|entry| entry.change.last_modified).max()?;
    let numbers = concerned().map(|entry| entry.sequence_number.as_str());
    Some((version, numbers.min_by(|a, b| by_number(a, b))?))
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
fn coalesce(records: Vec<EventRecord>) -> (Vec<Numbered<MonitorEntry>>, Vec<Numbered<BucketLife>>) {
    let mut collections = BTreeMap::<(String, String), Numbered<MonitorEntry>>::new();
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
        return Some(Change::Collection(MonitorEntry {
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
