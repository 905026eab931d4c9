//! The entries of `monitor/changes`: one for every collection, whatever is shown of them.

mod state;

use std::collections::{HashMap, HashSet};

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;

use super::{
    BY_LAST_MODIFIED, Item, Key, Store, StoreError, TIMESTAMP_KEY, all_pages, flag, number, string,
    time,
};
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::store::{Generation, List, Object};
use crate::timestamp::Timestamp;

use state::STATE_KEY;
pub use state::{MonitorState, MonitorWrites};

/// The partition of all entries, and of their state.
const PARTITION: &str = "#monitor";

/// What the monitor knows of one collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorEntry {
    /// The collection's bucket.
    pub bucket: String,
    /// The collection.
    pub collection: String,
    /// The timestamp of its records.
    pub last_modified: Timestamp,
    /// Whether the collection was deleted. The entry stays, so that a late, older change does not bring it back.
    pub deleted: bool,
}

impl MonitorEntry {
    fn key(&self) -> Key {
        let uri = ObjectUri::collection(&self.bucket, &self.collection);
        Key {
            pk: PARTITION.to_owned(),
            sk: uri.to_string(),
        }
    }

    fn into_item(self) -> Item {
        let mut item = self.key().into_item();
        item.insert("bucket".to_owned(), AttributeValue::S(self.bucket));
        item.insert("collection".to_owned(), AttributeValue::S(self.collection));
        item.insert("last_modified".to_owned(), number(self.last_modified));
        if self.deleted {
            item.insert("deleted".to_owned(), AttributeValue::Bool(true));
        }
        item
    }

    fn from_item(item: &Item) -> Result<Self, StoreError> {
        Ok(Self {
            bucket: string(item, "bucket")?,
            collection: string(item, "collection")?,
            last_modified: time(item, "last_modified")?,
            deleted: flag(item, "deleted"),
        })
    }
}

fn sort_key(item: &Item) -> Option<&String> {
    item.get("sk").and_then(|sk| sk.as_s().ok())
}

/// Whether an item is the timestamp of a list, which lies among the list's objects.
fn is_list(item: &Item) -> bool {
    sort_key(item).is_some_and(|sk| sk == TIMESTAMP_KEY)
}

/// Whether an item is the state of the entries, which lies among them.
fn is_state(item: &Item) -> bool {
    sort_key(item).is_some_and(|sk| sk == STATE_KEY)
}

impl Store {
    /// Every entry from the time `from` on, the latest change first, tombstones among them; and if that is 0, the state
    /// that they were in, unless no batch has begun yet.
    ///
    /// One `Query` of the index for each MB of entries (about 4,000), strongly consistent. It reads the earliest first:
    /// an entry only ever moves on, so one that does so meanwhile is found twice and never missed. The state is read
    /// before all of them.
    pub async fn monitor_entries(
        &self,
        from: Timestamp,
    ) -> Result<(Option<MonitorState>, Vec<MonitorEntry>), StoreError> {
        let query = self
            .partition_query(PARTITION)
            .index_name(BY_LAST_MODIFIED)
            .key_condition_expression("pk = :pk AND last_modified >= :from")
            .expression_attribute_values(":from", number(from))
            .scan_index_forward(true);
        let items = all_pages(query).await?;
        let (state, items) = match items.split_first() {
            Some((first, rest)) if is_state(first) => (Some(MonitorState::from_item(first)?), rest),
            _ => (None, &*items),
        };
        let mut seen = HashSet::with_capacity(items.len());
        let entries = items
            .iter()
            .rev()
            .filter(|item| seen.insert(sort_key(item)))
            .map(MonitorEntry::from_item)
            .collect::<Result<_, _>>()?;
        Ok((state, entries))
    }

    /// Every entry, in no order, read from the table itself.
    pub async fn every_monitor_entry(&self) -> Result<Vec<MonitorEntry>, StoreError> {
        let items = self.partition_items(PARTITION, None).await?;
        let entries = items.iter().filter(|item| !is_state(item));
        entries.map(MonitorEntry::from_item).collect()
    }

    /// The ids of every bucket that ever was.
    pub async fn every_bucket(&self) -> Result<Vec<String>, StoreError> {
        let pk = super::partition(&ListUri::buckets());
        let items = self.partition_items(&pk, Some("sk")).await?;
        let buckets = items.iter().filter(|item| !is_list(item));
        buckets.map(|item| string(item, "sk")).collect()
    }

    /// What the monitor's entries of a bucket's collections must say, deleted ones among them.
    ///
    /// A list that is open in a collection of an earlier life of the bucket is closed: the bucket's deletion ought
    /// to have done so.
    pub async fn entries_of(
        &self,
        bucket: &str,
        now: Timestamp,
    ) -> Result<Vec<MonitorEntry>, StoreError> {
        let collections = ObjectUri::bucket(bucket).children(Kind::Collection);
        let items = self
            .partition_items(
                &super::partition(&collections),
                Some("sk, generation, parent, deleted"),
            )
            .await?;
        // Read after its collections: a life that it does not have now, but had when they were made, never returns.
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
            Some(List::from_item(item).map(|list| MonitorEntry {
                bucket: bucket.to_owned(),
                collection,
                last_modified: list.timestamp,
                deleted: list.closed,
            }))
        });
        entries.collect()
    }

    /// All items of a partition, with these attributes of them.
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

    /// Closes the lists of records of every collection that a deleted bucket held in that generation.
    ///
    /// The stream then tells the monitor of each, so that its entry goes. Safe to repeat: a list that was
    /// closed, or opened again by a new collection, is left alone. One `Query`, then one `UpdateItem` for
    /// each collection.
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
    async fn close_records(
        &self,
        collection: &ObjectUri,
        generation: Generation,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let key = Key::list(&collection.children(Kind::Record));
        let found = self.read(std::slice::from_ref(&key)).await?;
        let Some(list) = found.get(&key).map(List::from_item).transpose()? else {
            return Ok(());
        };
        if list.closed || list.generation != generation {
            return Ok(());
        }
        let update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key.into_item()))
            .update_expression("SET closed = :true, #timestamp = :closing")
            .condition_expression("#timestamp = :read AND generation = :generation")
            .expression_attribute_names("#timestamp", "timestamp")
            .expression_attribute_values(":true", AttributeValue::Bool(true))
            .expression_attribute_values(":closing", number(now.max(list.timestamp.next())))
            .expression_attribute_values(":read", number(list.timestamp))
            .expression_attribute_values(":generation", AttributeValue::S(generation.0));
        // A condition that fails is a write that came between: the caller repeats, and reads again.
        update
            .send()
            .await
            .map_err(StoreError::request("UpdateItem"))?;
        Ok(())
    }
}
