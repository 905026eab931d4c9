//! Writes the contents of another server, with their times, permissions and tombstones, and reads the table back in
//! order of ids for comparison.
//!
//! During an import only the aggregator also uses the table: nobody writes through the API. So the writes have no
//! conditions, go in batches of 25, and may be repeated. What [`crate::unit_of_work`] writes in one transaction is
//! written here in order: first the shares of lists and the memberships, then objects, parents before children, then
//! the monitor's entries, and last the timestamps of lists. After an interruption the import starts again, and finds
//! what is missing by comparison.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, DeleteRequest, PutRequest, WriteRequest};
use tokio::time::Instant;

use super::history::{self, Entry};
use super::membership::{Member, Memberships};
use super::monitor::{CollectionChange, StateUpdate, split_update};
use super::shares::Shares;
use super::{
    Generation, Item, Key, List, Object, RETRY_TIME, Store, StoreError, TIMESTAMP_KEY, number,
    partition, string,
};
use crate::backoff::Backoff;
use crate::resource::{ListUri, ObjectUri};
use crate::timestamp::Timestamp;

/// The most items in one `BatchWriteItem` (DynamoDB).
pub const MAX_BATCH: usize = 25;
/// The most bytes in an item (DynamoDB).
pub const MAX_ITEM: usize = 400 * 1024;
/// The first pause before items that DynamoDB left unwritten are sent again, which doubles each time, and its limit.
const UNWRITTEN_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// The most attempts to write the monitor's state, since the aggregator may write in between.
const MAX_ATTEMPTS: u32 = 100;

/// One write of an import. It replaces whatever is at its key.
#[derive(Clone, Debug)]
pub struct ImportWrite {
    request: WriteRequest,
    size: usize,
    /// Whether the index by time has it too.
    is_indexed: bool,
}

/// A list as it is stored, and its writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredList {
    /// The list.
    pub list: List,
    /// Whether the API has written to the list since its import, or the list was never imported.
    pub is_written_by_api: bool,
}

impl ImportWrite {
    /// Puts an object.
    ///
    /// # Errors
    /// [`StoreError::Request`] if the SDK refuses to build it.
    pub fn object(key: Key, object: Object) -> Result<Self, StoreError> {
        Self::put(object.into_item(key))
    }

    /// Puts the item of a list, with no recent writes.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn list(uri: &ListUri, list: List) -> Result<Self, StoreError> {
        let mut item = Key::list(uri).into_item();
        let text = |text: &str| AttributeValue::S(text.to_owned());
        item.insert("timestamp".to_owned(), number(list.timestamp));
        item.insert("shared_at".to_owned(), number(list.timestamp));
        item.insert("generation".to_owned(), text(&list.generation.0));
        item.insert("kind".to_owned(), text(uri.kind().name()));
        if list.closed {
            item.insert("closed".to_owned(), AttributeValue::Bool(true));
        }
        if list.backdated_writes > 0 {
            item.insert("past".to_owned(), number(Timestamp(list.backdated_writes)));
        }
        item.extend(
            list.shares
                .into_attribute()
                .map(|names| ("shared_with".to_owned(), names)),
        );
        Self::put(item)
    }

    /// Puts the groups of a principal in a bucket.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn memberships(member: &Member, memberships: Memberships) -> Result<Self, StoreError> {
        let mut item = Key::memberships(member).into_item();
        let generation = AttributeValue::S(memberships.bucket.0);
        item.insert("generation".to_owned(), generation);
        let groups = memberships.groups.into_iter();
        item.extend(groups.map(|group| (format!("/{group}"), AttributeValue::Bool(true))));
        Self::put(item)
    }

    /// Notes that something of a list is shared ([`super::shares`]).
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn share(key: Key) -> Result<Self, StoreError> {
        Self::put(key.into_item())
    }

    /// Puts an entry of a history.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn entry(entry: Entry) -> Result<Self, StoreError> {
        Self::put(entry.into_item())
    }

    /// Puts the tombstone of an entry of a history, which goes by itself at that time.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn entry_tombstone(key: Key, expires: Timestamp) -> Result<Self, StoreError> {
        Self::put(history::tombstone(key, expires))
    }

    /// Removes an item; no tombstone remains.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn remove(key: Key) -> Result<Self, StoreError> {
        let key = key.into_item();
        let size = size_of(&key);
        let request = DeleteRequest::builder().set_key(Some(key)).build();
        let request = request.map_err(not_built)?;
        let request = WriteRequest::builder().delete_request(request).build();
        Ok(Self {
            request,
            size,
            is_indexed: true,
        })
    }

    /// Puts an item as it is.
    pub(super) fn put(item: Item) -> Result<Self, StoreError> {
        let size = size_of(&item);
        let is_indexed = item.contains_key("last_modified");
        let request = PutRequest::builder().set_item(Some(item)).build();
        let request = request.map_err(not_built)?;
        let request = WriteRequest::builder().put_request(request).build();
        Ok(Self {
            request,
            size,
            is_indexed,
        })
    }

    /// The approximate size of its item in bytes, as DynamoDB counts them.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The write capacity units that it consumes: one for each KB in the table, and as many where the index has it.
    pub fn capacity(&self) -> u64 {
        let copies = 1 + u64::from(self.is_indexed);
        copies * self.size.div_ceil(1024).max(1) as u64
    }
}

fn not_built(error: aws_sdk_dynamodb::error::BuildError) -> StoreError {
    StoreError::Request {
        operation: "BatchWriteItem",
        source: error.into(),
    }
}

fn size_of(item: &Item) -> usize {
    let sizes = item
        .iter()
        .map(|(name, value)| name.len() + value_size(value));
    sizes.sum()
}

fn value_size(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
        AttributeValue::B(bytes) => Blob::as_ref(bytes).len(),
        AttributeValue::Ss(texts) => texts.iter().map(String::len).sum(),
        AttributeValue::L(values) => 3 + values.iter().map(|v| 1 + value_size(v)).sum::<usize>(),
        AttributeValue::M(members) => 3 + members.len() + size_of(members),
        _ => 1,
    }
}

/// The objects of a list in order of ids, page by page: every item, of any generation of the parent.
#[derive(Debug)]
pub struct ById {
    next: Option<QueryFluentBuilder>,
}

impl ById {
    /// The next objects with their ids; `None` at the end. One `Query` of at most 1 MB, strongly consistent.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn next(&mut self) -> Result<Option<Vec<(String, Object)>>, StoreError> {
        let Some(query) = self.next.take() else {
            return Ok(None);
        };
        let page = query.clone().send().await;
        let page = page.map_err(StoreError::request("Query"))?;
        let start = page.last_evaluated_key;
        self.next = start.map(|start| query.set_exclusive_start_key(Some(start)));
        let mut objects = vec![];
        for item in page.items.unwrap_or_default() {
            let id = string(&item, "sk")?;
            if id != TIMESTAMP_KEY {
                objects.push((id, Object::from_item(&item)?));
            }
        }
        Ok(Some(objects))
    }
}

impl Store {
    /// The objects of a list in order of ids.
    pub fn objects_by_id(&self, list: &ListUri) -> ById {
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", AttributeValue::S(partition(list)))
            .consistent_read(true);
        ById { next: Some(query) }
    }

    /// Those of the lists that have an item.
    ///
    /// One `BatchGetItem` for each 100.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn stored_lists(
        &self,
        uris: &[ListUri],
    ) -> Result<HashMap<ListUri, StoredList>, StoreError> {
        let keys: Vec<_> = uris.iter().map(Key::list).collect();
        let found = self.read(&keys).await?;
        let lists = uris.iter().zip(&keys).filter_map(|(uri, key)| {
            let item = found.get(key)?;
            Some((uri.clone(), item))
        });
        lists
            .map(|(uri, item)| {
                let stored = StoredList {
                    list: List::from_item(item)?,
                    is_written_by_api: item.contains_key("wrote"),
                };
                Ok((uri, stored))
            })
            .collect()
    }

    /// As [`Store::close_collections`], of a bucket in that generation.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn close_generation(
        &self,
        bucket: &ObjectUri,
        generation: &Generation,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.close_collections(bucket.id(), &generation.0, now)
            .await
    }

    /// The groups of these members, for those that have an item.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn stored_memberships(
        &self,
        members: &[Member],
    ) -> Result<HashMap<Member, Memberships>, StoreError> {
        let keys: Vec<_> = members.iter().map(Key::memberships).collect();
        let found = self.read(&keys).await?;
        let stored = members.iter().zip(&keys).filter_map(|(member, key)| {
            let memberships = found.get(key).map(Memberships::from_item)?;
            Some(memberships.map(|memberships| (member.clone(), memberships)))
        });
        stored.collect()
    }

    /// Makes these writes, at most [`MAX_BATCH`], with distinct keys.
    ///
    /// One `BatchWriteItem`, repeated for the writes that DynamoDB leaves undone.
    ///
    /// # Errors
    /// Failures of the table, and throttling for [`RETRY_TIME`] without any progress.
    pub async fn write_batch(&self, writes: Vec<ImportWrite>) -> Result<(), StoreError> {
        let mut left: Vec<_> = writes.into_iter().map(|write| write.request).collect();
        let mut backoff = Backoff::new(UNWRITTEN_PAUSES.0, UNWRITTEN_PAUSES.1);
        let mut deadline = Instant::now() + RETRY_TIME;
        while !left.is_empty() {
            let count = left.len();
            let request = self.client.batch_write_item();
            let request = request.request_items(&self.table, left);
            let answer = request.send().await;
            let answer = answer.map_err(StoreError::request("BatchWriteItem"))?;
            let unprocessed = answer.unprocessed_items.into_iter().flatten();
            left = unprocessed.flat_map(|(_, writes)| writes).collect();
            if left.len() < count {
                deadline = Instant::now() + RETRY_TIME;
            }
            if !left.is_empty() && !backoff.wait_until(deadline).await {
                return Err(StoreError::Late("BatchWriteItem"));
            }
        }
        Ok(())
    }

    /// Records the timestamps of collections in the monitor, the earliest first. If they are distinct and later than
    /// all that the monitor knows, their positions are the timestamps themselves, so that clients that polled the other
    /// server can continue. Returns how many were new.
    ///
    /// Must be done before the lists get these timestamps: then the aggregator, which receives them through the stream,
    /// knows them already. No broadcast is requested: the other server has notified its clients.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn import_into_monitor(
        &self,
        mut changes: Vec<CollectionChange>,
    ) -> Result<usize, StoreError> {
        changes.sort_by_key(|change| change.last_modified);
        let mut left = &*changes;
        let mut state = self.monitor_state().await?;
        let (mut new, mut attempts) = (0, 0);
        while !left.is_empty() {
            let (part, rest) = split_update(left, |change| change);
            let mut next = state.clone();
            if !next.has_clock() {
                let stored = self.stored_monitor_entries().await?;
                let positions = stored.iter().map(|stored| stored.entry.position);
                next.start(positions.max().unwrap_or_default(), None, Timestamp::now());
            }
            let unknown = part.iter().filter(|change| next.needs_item(change));
            let stored = self.monitor_entries_of(unknown.collect()).await?;
            let before = next.clock();
            let mut count = 0;
            for change in part {
                let clock = next.clock();
                next.record(change, stored.get(&change.uri()));
                count += usize::from(next.clock() > clock);
            }
            if next.clock() > before || !state.has_clock() {
                self.put_monitor_entries(next.fold(state.clock())).await?;
                match self.replace_monitor_state(&state, next).await? {
                    StateUpdate::Done(written) => state = written,
                    StateUpdate::Refused(present) => {
                        attempts += 1;
                        if attempts == MAX_ATTEMPTS {
                            return Err(StoreError::MonitorContended(attempts));
                        }
                        state = present;
                        continue;
                    }
                }
            }
            new += count;
            left = rest;
        }
        Ok(new)
    }
}

/// A list of an import, with no recent writes.
pub fn imported_list(
    timestamp: Timestamp,
    generation: Generation,
    backdated_writes: u64,
    shares: Shares,
) -> List {
    List {
        timestamp,
        generation,
        closed: false,
        backdated_writes,
        shares,
        recent: super::recent::RecentWrites::default(),
        published: Default::default(),
    }
}
