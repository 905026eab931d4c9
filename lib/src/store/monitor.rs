//! The monitor: one entry for every collection, in the order in which the aggregator received their changes, shown to
//! clients or not ([decision 13](../../../docs/decisions/013-monitor-clock.md)).
//!
//! The latest changes are only in the monitor's state ([`MonitorState`]); older ones have items of their own, which the
//! index holds by their positions.

mod state;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::{
    BY_LAST_MODIFIED, Item, Key, Store, StoreError, TIMESTAMP_KEY, all_pages, flag,
    ignore_failed_condition, is_failed_condition, number, string, time,
};
use crate::backoff::Backoff;
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::store::{Generation, List, Object};
use crate::timestamp::Timestamp;

use state::STATE_KEY;
pub use state::{MonitorState, StateUpdate, split_update};

/// The partition of all entries, and of their state.
const PARTITION: &str = "#monitor";

/// The collection's own timestamp in an entry's item. An item without it was written by a function of an earlier
/// version, whose position was the timestamp.
const COLLECTION_TIMESTAMP: &str = "collection_timestamp";

/// The most concurrent requests to the table.
const CONCURRENCY: usize = 16;

/// The most attempts to close a list, which take seconds.
const MAX_CLOSINGS: u32 = 16;
/// The longest pause before the second attempt. It doubles with each …
const FIRST_PAUSE: Duration = Duration::from_millis(8);
/// … up to this.
const MAX_PAUSE: Duration = Duration::from_millis(250);

/// The most times that the state and the entries are read, since changes may move from one to the other in between.
const MAX_READS: u32 = 8;

/// A collection's records have a new timestamp, or the collection is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionChange {
    /// The collection's bucket.
    pub bucket: String,
    /// The collection.
    pub collection: String,
    /// The timestamp of its records.
    pub last_modified: Timestamp,
    /// Whether the collection was deleted. Its entry stays, so that a late, older change does not bring it back.
    pub deleted: bool,
}

/// The latest change of a collection that the monitor knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMonitorEntry {
    /// Its place among all changes: the monitor's clock when it was recorded, at least the change's timestamp. No two
    /// changes have the same, and a change that is recorded later has a higher one.
    pub position: Timestamp,
    /// The change.
    pub change: CollectionChange,
}

/// An entry in an item of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// The entry.
    pub entry: StoredMonitorEntry,
    /// Whether a function of an earlier version wrote it, with its timestamp as its position.
    pub is_of_earlier_version: bool,
}

impl CollectionChange {
    /// Returns `true` if the other is a change of the same collection.
    pub fn is_of_same(&self, other: &Self) -> bool {
        self.collection == other.collection && self.bucket == other.bucket
    }

    /// The collection.
    pub fn uri(&self) -> ObjectUri {
        ObjectUri::collection(&self.bucket, &self.collection)
    }

    fn key(&self) -> Key {
        Key {
            pk: PARTITION.to_owned(),
            sk: self.uri().to_string(),
        }
    }
}

impl StoredMonitorEntry {
    fn into_item(self) -> Item {
        let Self { position, change } = self;
        let mut item = change.key().into_item();
        item.insert("bucket".to_owned(), AttributeValue::S(change.bucket));
        item.insert(
            "collection".to_owned(),
            AttributeValue::S(change.collection),
        );
        item.insert("last_modified".to_owned(), number(position));
        item.insert(
            COLLECTION_TIMESTAMP.to_owned(),
            number(change.last_modified),
        );
        if change.deleted {
            item.insert("deleted".to_owned(), AttributeValue::Bool(true));
        }
        item
    }
}

impl StoredEntry {
    fn from_item(item: &Item) -> Result<Self, StoreError> {
        let position = time(item, "last_modified")?;
        let is_of_earlier_version = !item.contains_key(COLLECTION_TIMESTAMP);
        let last_modified = if is_of_earlier_version {
            position
        } else {
            time(item, COLLECTION_TIMESTAMP)?
        };
        let change = CollectionChange {
            bucket: string(item, "bucket")?,
            collection: string(item, "collection")?,
            last_modified,
            deleted: flag(item, "deleted"),
        };
        Ok(Self {
            entry: StoredMonitorEntry { position, change },
            is_of_earlier_version,
        })
    }
}

/// The entry with the highest position of each collection, in order of positions.
fn latest_of_each(mut entries: Vec<StoredMonitorEntry>) -> Vec<StoredMonitorEntry> {
    entries.sort_by_key(|entry| entry.position);
    let mut seen = HashSet::with_capacity(entries.len());
    let newest_first = entries.iter().rev();
    let is_latest: Vec<_> = newest_first
        .map(|entry| seen.insert((&*entry.change.bucket, &*entry.change.collection)))
        .collect();
    let mut is_latest = is_latest.into_iter().rev();
    entries.retain(|_| is_latest.next().unwrap_or_default());
    entries
}

fn sort_key(item: &Item) -> Option<&String> {
    item.get("sk").and_then(|sk| sk.as_s().ok())
}

/// Returns `true` for the item of a list's timestamp, which is among the list's objects.
fn is_list(item: &Item) -> bool {
    sort_key(item).is_some_and(|sk| sk == TIMESTAMP_KEY)
}

/// Returns `true` for the item of the monitor's state, which is among the entries.
fn is_state(item: &Item) -> bool {
    sort_key(item).is_some_and(|sk| sk == STATE_KEY)
}

impl Store {
    /// Every entry from the position `from` on, tombstones included, in order of positions, as of the returned state:
    /// `state`, or a later one if changes moved from it to items of their own in between.
    ///
    /// Each attempt is one `Query` of the index for each MB of items (about 4,000), strongly consistent. It reads the
    /// lowest position first: positions only rise, so an entry that moves meanwhile is found twice and never missed.
    ///
    /// # Errors
    /// Failures of the table, and changes that moved at every attempt.
    pub async fn monitor_entries(
        &self,
        mut state: MonitorState,
        from: Timestamp,
    ) -> Result<(MonitorState, Vec<StoredMonitorEntry>), StoreError> {
        for _ in 0..MAX_READS {
            let query = self
                .partition_query(PARTITION)
                .index_name(BY_LAST_MODIFIED)
                .key_condition_expression("pk = :pk AND last_modified >= :from")
                .expression_attribute_values(":from", number(from))
                .scan_index_forward(true);
            let items = all_pages(query).await?;
            let items = items.iter().filter(|item| !is_state(item));
            let stored = items.map(StoredEntry::from_item);
            let stored = stored.collect::<Result<Vec<_>, _>>()?;
            // If one entry came after the state was read, another may have been missed.
            let is_after_state = |stored: &StoredEntry| {
                stored.entry.position > state.clock() && !stored.is_of_earlier_version
            };
            if !stored.iter().any(is_after_state) {
                let mut entries: Vec<_> = stored.into_iter().map(|stored| stored.entry).collect();
                let latest = state.latest().iter();
                entries.extend(latest.filter(|entry| from <= entry.position).cloned());
                return Ok((state, latest_of_each(entries)));
            }
            state = self.monitor_state().await?;
        }
        Err(StoreError::MonitorContended(MAX_READS))
    }

    /// The state, and every entry in no particular order, read from the table itself.
    pub async fn monitor(&self) -> Result<(MonitorState, Vec<StoredMonitorEntry>), StoreError> {
        let state = self.monitor_state().await?;
        let stored = self.stored_monitor_entries().await?.into_iter();
        let mut entries: Vec<_> = stored.map(|stored| stored.entry).collect();
        entries.extend_from_slice(state.latest());
        Ok((state, latest_of_each(entries)))
    }

    /// All entries that have an item of their own, read from the table itself. One `Query` for each MB of them.
    pub async fn stored_monitor_entries(&self) -> Result<Vec<StoredEntry>, StoreError> {
        let items = self.partition_items(PARTITION, None).await?;
        let entries = items.iter().filter(|item| !is_state(item));
        entries.map(StoredEntry::from_item).collect()
    }

    /// The entries of these changes' collections that have items of their own, by collection.
    ///
    /// One `BatchGetItem` for each 100.
    pub async fn monitor_entries_of(
        &self,
        changes: Vec<&CollectionChange>,
    ) -> Result<HashMap<ObjectUri, StoredMonitorEntry>, StoreError> {
        let keys: Vec<_> = changes.into_iter().map(CollectionChange::key).collect();
        let found = self.read(&keys).await?;
        let entries = found.values().map(|item| {
            let entry = StoredEntry::from_item(item)?.entry;
            Ok((entry.change.uri(), entry))
        });
        entries.collect()
    }

    /// Puts entries into items of their own, unless these hold later ones. Safe to repeat, in any order.
    ///
    /// One `PutItem` each, 1 WCU in the table and 1 to 2 in the index.
    pub async fn put_monitor_entries(
        &self,
        entries: Vec<StoredMonitorEntry>,
    ) -> Result<(), StoreError> {
        let puts = stream::iter(entries).map(Ok::<_, StoreError>);
        puts.try_for_each_concurrent(CONCURRENCY, async |entry| {
            let put = self
                .client
                .put_item()
                .table_name(&self.table)
                // In an item of an earlier version the position is the timestamp.
                .condition_expression(
                    "attribute_not_exists(pk) OR \
                     (attribute_exists(collection_timestamp) AND last_modified < :position) OR \
                     (attribute_not_exists(collection_timestamp) AND last_modified <= :last_modified)",
                )
                .expression_attribute_values(":position", number(entry.position))
                .expression_attribute_values(":last_modified", number(entry.change.last_modified))
                .set_item(Some(entry.into_item()))
                .return_values_on_condition_check_failure(
                    ReturnValuesOnConditionCheckFailure::None,
                );
            ignore_failed_condition("PutItem", put.send().await)
        })
        .await
    }

    /// The ids of all buckets that ever existed.
    pub async fn every_bucket(&self) -> Result<Vec<String>, StoreError> {
        let pk = super::partition(&ListUri::buckets());
        let items = self.partition_items(&pk, Some("sk")).await?;
        let buckets = items.iter().filter(|item| !is_list(item));
        buckets.map(|item| string(item, "sk")).collect()
    }

    /// The latest changes of a bucket's collections, deleted ones included, from the timestamps of their records.
    ///
    /// Closes a list that is still open in a collection of an earlier generation of the bucket: the bucket's deletion
    /// should have closed it.
    pub async fn collection_changes(
        &self,
        bucket: &str,
        now: Timestamp,
    ) -> Result<Vec<CollectionChange>, StoreError> {
        let collections = ObjectUri::bucket(bucket).children(Kind::Collection);
        let items = self
            .partition_items(
                &super::partition(&collections),
                Some("sk, generation, parent, deleted"),
            )
            .await?;
        // Read after its collections: a generation that has ended by now never returns.
        let key = Key::object(&ObjectUri::bucket(bucket));
        let found = self.read(std::slice::from_ref(&key)).await?;
        let life = match found.get(&key).filter(|item| !flag(item, "deleted")) {
            Some(item) => Some(string(item, "generation")?),
            None => None,
        };
        let mut keys = HashMap::with_capacity(items.len());
        let mut orphans = vec![];
        for item in items.iter().filter(|item| !is_list(item)) {
            let collection = string(item, "sk")?;
            let uri = ObjectUri::collection(bucket, &collection);
            let key = Key::list(&uri.children(Kind::Record));
            if !flag(item, "deleted") && life != Some(string(item, "parent")?) {
                orphans.push((key.clone(), uri, Generation(string(item, "generation")?)));
            }
            keys.insert(key, collection);
        }
        let wanted: Vec<_> = keys.keys().cloned().collect();
        let mut found = self.read(&wanted).await?;
        for (key, uri, generation) in orphans {
            if found.get(&key).is_some_and(|list| !flag(list, "closed")) {
                self.close_records(&uri, generation, now).await?;
                found.extend(self.read(&[key]).await?);
            }
        }
        let entries = found.iter().filter_map(|(key, item)| {
            let collection = keys.get(key)?.clone();
            Some(List::from_item(item).map(|list| CollectionChange {
                bucket: bucket.to_owned(),
                collection,
                last_modified: list.timestamp,
                deleted: list.closed,
            }))
        });
        entries.collect()
    }

    /// All items of a partition, with only these attributes.
    ///
    /// One `Query` for each MB, strongly consistent.
    async fn partition_items(
        &self,
        pk: &str,
        attributes: Option<&str>,
    ) -> Result<Vec<Item>, StoreError> {
        let query = self.partition_query(pk);
        all_pages(query.set_projection_expression(attributes.map(str::to_owned))).await
    }

    /// A query of all items of a partition, strongly consistent.
    fn partition_query(&self, pk: &str) -> QueryFluentBuilder {
        self.client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", AttributeValue::S(pk.to_owned()))
            .consistent_read(true)
    }

    /// Closes the lists of records of every collection of a deleted bucket in that generation.
    ///
    /// The stream then passes each to the monitor, whose entry becomes a tombstone. Safe to repeat: a list that was
    /// closed, or opened again by a new collection, is left alone. One `Query`, then one `UpdateItem` for each
    /// collection.
    pub async fn close_collections(
        &self,
        bucket: &str,
        generation: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let collections = ObjectUri::bucket(bucket).children(Kind::Collection);
        let query = self
            .partition_query(&super::partition(&collections))
            .filter_expression("parent = :parent AND attribute_not_exists(deleted)")
            .expression_attribute_values(":parent", AttributeValue::S(generation.to_owned()));
        let items = all_pages(query).await?;
        for item in &items {
            let collection = Object::from_item(item)?;
            let id = string(item, "sk")?;
            self.close_records(
                &ObjectUri::collection(bucket, id),
                collection.generation,
                now,
            )
            .await?;
        }
        Ok(())
    }

    /// Closes the list of records of one collection, if it is still open in that generation.
    ///
    /// Others may write the list at the same moment: who makes the collection again, or closes it too. Then it is read again.
    /// One `BatchGetItem` and one `UpdateItem` for each attempt.
    pub(super) async fn close_records(
        &self,
        collection: &ObjectUri,
        generation: Generation,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let list = collection.children(Kind::Record);
        let key = Key::list(&list);
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        for _ in 0..MAX_CLOSINGS {
            let found = self.read(std::slice::from_ref(&key)).await?;
            let Some(read) = found.get(&key).map(List::from_item).transpose()? else {
                return Ok(());
            };
            if read.closed || !generation.owns(&read.generation) {
                return Ok(());
            }
            if self.close(key.clone(), read, now).await? {
                return Ok(());
            }
            tokio::time::sleep(backoff.next_pause()).await;
        }
        Err(StoreError::ListContended(list))
    }

    /// Closes a list, unless it has another time or life than was read; then returns `false`.
    async fn close(&self, key: Key, read: List, now: Timestamp) -> Result<bool, StoreError> {
        let update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key.into_item()))
            .update_expression("SET closed = :true, #timestamp = :closing")
            .condition_expression("#timestamp = :read AND generation = :generation")
            .expression_attribute_names("#timestamp", "timestamp")
            .expression_attribute_values(":true", AttributeValue::Bool(true))
            .expression_attribute_values(":closing", number(now.later_than(read.timestamp)))
            .expression_attribute_values(":read", number(read.timestamp))
            .expression_attribute_values(":generation", AttributeValue::S(read.generation.0));
        match update.send().await {
            Ok(_) => Ok(true),
            Err(error) if is_failed_condition(&error) => Ok(false),
            Err(error) => Err(StoreError::request("UpdateItem")(error)),
        }
    }
}
