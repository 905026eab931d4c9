//! The history of a bucket: an entry for each write of an object in it, written in the very transaction that writes the
//! object ([decision 24](../../../docs/decisions/024-history.md)).
//!
//! | `pk` | `sk` | holds |
//! | --- | --- | --- |
//! | `#history#`, the bucket's generation, `#` and a shard | a time, `#` and the entry's id | `told`; of a tombstone `deleted`, `expires`; of an entry that was deleted `expires` |
//!
//! All entries of one list are in one of [`SHARDS`] partitions, so that no two lists share an item, and the whole history
//! is that many queries. Deleting an entry empties its item, which then expires, and puts a tombstone with a time of its
//! own, which expires after [`TOMBSTONES_KEPT`].

use std::collections::{BTreeSet, VecDeque};
use std::io::{Read as _, Write as _};
use std::time::Duration;

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Builder;

use super::{Generation, Item, Key, Store, StoreError, flag, malformed, number, partition, string};
use crate::resource::{ListUri, ObjectUri};
use crate::timestamp::Timestamp;

/// What the partition keys begin with.
const PARTITION: &str = "#history#";
/// Partitions of one bucket's history. DynamoDB takes 1,000 WCU a second and 10 GB in each; a read of the history is one
/// `Query` of each.
pub const SHARDS: u8 = 8;
/// Bytes of an entry at most, compressed: an item of DynamoDB may have 400 KB, keys included.
pub const MAX_ENTRY: usize = 399 * 1024;
/// The same before it is compressed: what is read back takes no more memory.
const MAX_UNPACKED: usize = 4 * 1024 * 1024;
/// Bytes of a transaction's entries at most, where it has many.
pub const MAX_ENTRIES: usize = 2 * 1024 * 1024;
/// Bytes that an entry takes beside what it tells, about.
const OVERHEAD: usize = 200;
/// How long a tombstone is kept.
pub const TOMBSTONES_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// What the first byte of an entry's id is from, by the depth of its object: bucket; collection, group; record.
const DEPTHS: [u8; 3] = [2 * ID_RANGE, ID_RANGE, 0];
const ID_RANGE: u8 = 80;
/// Readers that are noted one by one. Others are noted as anybody.
pub const MAX_NOTED: usize = 20;
/// The sharing note ([`super::shares`]) that stands for more principals than are noted one by one.
const ANYBODY: &str = "*";

/// What an entry tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntryContent {
    /// The fields that the API shows, but for `id` and `last_modified`.
    pub shown: Map<String, Value>,
    /// The principals that could read the object when it was written, by its permissions and those of what it is under.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readers: Vec<String>,
    /// The `last_modified` of what was at the URI before, a tombstone too; `None` where nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Timestamp>,
}

/// An entry that is to be written.
#[derive(Clone, Debug)]
pub struct Entry {
    key: Key,
    told: Vec<u8>,
}

impl Entry {
    /// The entry of a write of the object at `uri`, at that time; `None` where it is more than an item can hold.
    pub fn new(
        bucket: &Generation,
        uri: &ObjectUri,
        time: Timestamp,
        last_modified: Timestamp,
        content: &EntryContent,
    ) -> Option<Self> {
        let json = serde_json::to_vec(content).ok()?;
        Self::of(Key::history(bucket, uri, time, last_modified), &json)
    }

    /// The entry that another server wrote of something in that list, with the id and the time that it has there; `None` where it is
    /// more than an item can hold.
    pub fn imported(
        bucket: &Generation,
        list: &ListUri,
        time: Timestamp,
        id: &str,
        content: &EntryContent,
    ) -> Option<Self> {
        let json = serde_json::to_vec(content).ok()?;
        let key = Key::imported_entry(bucket, list, time, id);
        Self::of(key, &json)
    }

    fn of(key: Key, json: &[u8]) -> Option<Self> {
        let told = (json.len() <= MAX_UNPACKED).then(|| compress(json))?;
        (told.len() <= MAX_ENTRY - key.pk.len() - key.sk.len()).then_some(Self { key, told })
    }

    /// Bytes that it takes, but for keys.
    pub fn size(&self) -> usize {
        self.told.len()
    }

    pub(super) fn into_item(self) -> Item {
        let mut item = self.key.into_item();
        let told = AttributeValue::B(Blob::new(self.told));
        item.insert("told".to_owned(), told);
        item
    }
}

/// An entry that is to be deleted, and the tombstone that takes its place.
#[derive(Clone, Debug)]
pub struct Removal {
    entry: Key,
    tombstone: Key,
    expires: Timestamp,
}

impl Removal {
    /// The removal of an entry that was read, at that time.
    pub fn of(entry: &RawEntry, at: Timestamp) -> Self {
        Self {
            tombstone: Key {
                pk: entry.key.pk.clone(),
                sk: sort_key(at, &entry.id),
            },
            entry: entry.key.clone(),
            expires: at.after(TOMBSTONES_KEPT),
        }
    }

    /// What is put in the place of the entry: nothing that is shown, and it goes by itself.
    pub(super) fn into_entry(self) -> Item {
        let mut item = self.entry.into_item();
        let at = self.expires.0 / 1000 - TOMBSTONES_KEPT.as_secs();
        item.insert("expires".to_owned(), number(Timestamp(at)));
        item
    }

    /// The item of the tombstone.
    pub(super) fn into_tombstone(self) -> Item {
        tombstone(self.tombstone, self.expires)
    }
}

/// The item of a tombstone of an entry.
pub(super) fn tombstone(key: Key, expires: Timestamp) -> Item {
    let mut item = key.into_item();
    item.insert("deleted".to_owned(), AttributeValue::Bool(true));
    // DynamoDB's TTL counts seconds.
    item.insert("expires".to_owned(), number(Timestamp(expires.0 / 1000)));
    item
}

/// An entry, or a tombstone, as it is stored: what it tells is not read.
#[derive(Clone, Debug)]
pub struct RawEntry {
    /// Its key.
    pub key: Key,
    /// Its id.
    pub id: String,
    /// When it was written.
    pub time: Timestamp,
    /// Whether it is a tombstone.
    pub is_deleted: bool,
    told: Vec<u8>,
}

impl RawEntry {
    /// `None` of what was deleted and has not gone yet.
    fn from_item(mut item: Item) -> Result<Option<Self>, StoreError> {
        let (pk, sk) = (string(&item, "pk")?, string(&item, "sk")?);
        let (time, id) = sk.split_once('#').ok_or_else(|| malformed(&item, "sk"))?;
        let time = time.parse().map_err(|_| malformed(&item, "sk"))?;
        let is_deleted = flag(&item, "deleted");
        let told = match item.remove("told") {
            Some(AttributeValue::B(told)) => told.into_inner(),
            _ if is_deleted => vec![],
            _ => return Ok(None),
        };
        Ok(Some(Self {
            id: id.to_owned(),
            time: Timestamp(time),
            is_deleted,
            key: Key { pk, sk },
            told,
        }))
    }

    /// The same without what it tells.
    pub fn without_content(self) -> Self {
        Self {
            told: vec![],
            ..self
        }
    }

    /// What it tells; of a tombstone nothing.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] when it is not as [`Entry`]s are written.
    pub fn content(&self) -> Result<EntryContent, StoreError> {
        if self.is_deleted {
            let shown = Map::from_iter([("deleted".to_owned(), true.into())]);
            return Ok(EntryContent {
                shown,
                readers: vec![],
                replaces: None,
            });
        }
        decompress(&self.told).ok_or_else(|| StoreError::Malformed {
            pk: self.key.pk.clone(),
            sk: self.key.sk.clone(),
            attribute: "told",
        })
    }
}

impl Key {
    /// The key of the entry of a write of the object at `uri`, which was written at `time`. Its id follows from what is
    /// written and when, so that who knows that finds the entry by its key. Of entries of one time, which one request may write for a
    /// bucket, a collection and a record that it creates, that of the deepest object has the first id and is shown first.
    pub fn history(
        bucket: &Generation,
        uri: &ObjectUri,
        time: Timestamp,
        last_modified: Timestamp,
    ) -> Self {
        let mut hash = Sha256::new();
        hash.update(format!("{} {uri} {time} {last_modified}", bucket.0));
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        let depth = uri.lineage().skip(1).count();
        bytes[0] = DEPTHS[depth.min(2)] + bytes[0] % ID_RANGE;
        let id = Builder::from_random_bytes(bytes).into_uuid().to_string();
        Self {
            pk: shard_key(bucket, shard_of(uri.list())),
            sk: sort_key(time, &id),
        }
    }

    /// The key of an entry, or the tombstone of one, that another server wrote of something in that list.
    pub fn imported_entry(bucket: &Generation, list: &ListUri, time: Timestamp, id: &str) -> Self {
        Self {
            pk: shard_key(bucket, shard_of(list)),
            sk: sort_key(time, id),
        }
    }

    /// The keys of the items that say that these principals, who do not read all of a bucket's history, may read some entry of it, or
    /// have been able to. One for each, or where they are many, or groups of other buckets, one that stands for anybody.
    pub fn history_readers(
        bucket: &ObjectUri,
        generation: &Generation,
        principals: &BTreeSet<&str>,
    ) -> Vec<Self> {
        // Which groups of other buckets a user is in is not known when the notes are looked up.
        let is_named = |principal: &str| match ObjectUri::parse(principal) {
            Some(group) => group.bucket_uri() == bucket,
            None => true,
        };
        let key = |principal| Self::history_reader(bucket, generation, principal);
        let are_named =
            principals.len() <= MAX_NOTED && principals.iter().all(|name| is_named(name));
        match are_named {
            true => principals
                .iter()
                .filter_map(|name| key(Some(name)))
                .collect(),
            false => key(None).into_iter().collect(),
        }
    }

    /// The key of the item that says that a principal may read some entry of a bucket's history, or has been able to;
    /// `None` stands for principals that are not named. `None` of one that no key can hold.
    pub fn history_reader(
        bucket: &ObjectUri,
        generation: &Generation,
        principal: Option<&str>,
    ) -> Option<Self> {
        let share = Self::share(
            &ListUri::buckets(),
            generation,
            principal.unwrap_or(ANYBODY),
        )?;
        Some(Self {
            sk: format!("{bucket}#history"),
            ..share
        })
    }
}

/// The partition of the shard that the entries of a list are in.
fn shard_of(list: &ListUri) -> u8 {
    let hash = Sha256::digest(partition(list));
    hash[0] % SHARDS
}

fn shard_key(bucket: &Generation, shard: u8) -> String {
    format!("{PARTITION}{}#{shard}", bucket.0)
}

/// Sort keys are in the order of the times.
fn sort_key(time: Timestamp, id: &str) -> String {
    format!("{:020}#{id}", time.0)
}

/// The entries, and tombstones, of a bucket's history that are read: those between two times, both exclusive.
#[derive(Clone, Copy, Debug)]
pub struct HistoryRead<'r> {
    /// The bucket's generation.
    pub bucket: &'r Generation,
    /// The list alone whose entries are wanted; others of its shard are read as well.
    pub list: Option<&'r ListUri>,
    /// Only what is later.
    pub since: Option<Timestamp>,
    /// Only what is earlier.
    pub before: Option<Timestamp>,
    /// How many are probably enough.
    pub limit_hint: Option<usize>,
}

impl<'r> HistoryRead<'r> {
    /// All entries of a bucket's history.
    pub fn all(bucket: &'r Generation) -> Self {
        Self {
            bucket,
            list: None,
            since: None,
            before: None,
            limit_hint: None,
        }
    }
}

/// What is read of a history, the latest first.
#[derive(Debug)]
pub struct Entries {
    shards: Vec<Shard>,
    /// How many items the next query of a shard has at most.
    limit: Option<i32>,
    /// How many bytes of the table were read, about, since that was asked for.
    bytes: usize,
}

#[derive(Debug)]
struct Shard {
    /// Asks for the next page; `None` when there is no more.
    next: Option<QueryFluentBuilder>,
    read: VecDeque<RawEntry>,
}

impl Entries {
    /// The next entry or tombstone; `None` when there is no more. One `Query` of a MB at most for each shard that has
    /// nothing read ahead, all at once; strongly consistent, 1 RCU for each 4 KB.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn next(&mut self) -> Result<Option<RawEntry>, StoreError> {
        let is_open = |shard: &Shard| shard.read.is_empty() && shard.next.is_some();
        while self.shards.iter().any(is_open) {
            let limit = self.limit;
            let open = self.shards.iter_mut().filter(|shard| is_open(shard));
            let bytes = try_join_all(open.map(|shard| shard.fill(limit))).await?;
            self.bytes += bytes.iter().sum::<usize>();
            self.limit = limit.map(|limit| limit.saturating_mul(2));
        }
        let latest = self.shards.iter_mut().max_by(|a, b| {
            let place = |shard: &Shard| shard.read.front().map(|entry| entry.key.sk.clone());
            place(a).cmp(&place(b))
        });
        Ok(latest.and_then(|shard| shard.read.pop_front()))
    }

    /// How many bytes of the table were read, about, since this was asked last.
    pub fn take_bytes(&mut self) -> usize {
        std::mem::take(&mut self.bytes)
    }
}

impl Shard {
    /// Reads the next page. Gives about how many bytes that was.
    async fn fill(&mut self, limit: Option<i32>) -> Result<usize, StoreError> {
        let Some(query) = self.next.take() else {
            return Ok(0);
        };
        let page = query.clone().set_limit(limit).send().await;
        let page = page.map_err(StoreError::request("Query"))?;
        let mut bytes = 0;
        for item in page.items.unwrap_or_default() {
            bytes += OVERHEAD;
            if let Some(entry) = RawEntry::from_item(item)? {
                bytes += entry.told.len();
                self.read.push_back(entry);
            }
        }
        let start = page.last_evaluated_key;
        self.next = start.map(|start| query.set_exclusive_start_key(Some(start)));
        Ok(bytes)
    }
}

impl Store {
    /// Reads a bucket's history, page by page.
    pub fn history(&self, reading: HistoryRead<'_>) -> Entries {
        let shards = match reading.list {
            Some(list) => shard_of(list)..shard_of(list) + 1,
            None => 0..SHARDS,
        };
        let shards = shards.map(|shard| Shard {
            next: self.history_query(&reading, shard),
            read: VecDeque::new(),
        });
        Entries {
            shards: shards.collect(),
            limit: reading.limit_hint.and_then(|hint| i32::try_from(hint).ok()),
            bytes: 0,
        }
    }

    /// When the latest entry or tombstone of a bucket's history was written; `None` where there is none. One `Query` of one
    /// item of each shard.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn latest_in_history(
        &self,
        bucket: &Generation,
    ) -> Result<Option<Timestamp>, StoreError> {
        let mut entries = self.history(HistoryRead {
            limit_hint: Some(1),
            ..HistoryRead::all(bucket)
        });
        Ok(entries.next().await?.map(|entry| entry.time))
    }

    /// The entries with these keys that are there.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn history_entries(&self, keys: &[Key]) -> Result<Vec<RawEntry>, StoreError> {
        let found = self.read(keys).await?;
        let found = found.into_values().map(RawEntry::from_item);
        found.filter_map(Result::transpose).collect()
    }

    /// `None` of what can hold nothing.
    fn history_query(&self, reading: &HistoryRead<'_>, shard: u8) -> Option<QueryFluentBuilder> {
        let last = reading
            .before
            .map_or(Some(u64::MAX), |t| t.0.checked_sub(1));
        let (first, last) = (reading.since.map_or(0, |since| since.next().0), last?);
        let bound = |time, end| AttributeValue::S(format!("{time:020}{end}"));
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk AND sk BETWEEN :first AND :last")
            .expression_attribute_values(":pk", AttributeValue::S(shard_key(reading.bucket, shard)))
            .expression_attribute_values(":first", bound(first, "#"))
            // Behind every id.
            .expression_attribute_values(":last", bound(last, "~"))
            .scan_index_forward(false)
            .consistent_read(true);
        (first <= last).then_some(query)
    }
}

/// The generation of the bucket whose history an entry is of, and the object that it tells of; `None` of other items, and of entries that
/// are deleted.
pub(super) fn origin(item: &Item) -> Result<Option<(Generation, ObjectUri)>, StoreError> {
    let pk = string(item, "pk")?;
    let generation = pk
        .strip_prefix(PARTITION)
        .and_then(|rest| rest.split_once('#'));
    let Some((generation, _)) = generation else {
        return Ok(None);
    };
    let Some(told) = item.get("told").and_then(|told| told.as_b().ok()) else {
        return Ok(None);
    };
    let told = decompress(told.as_ref()).ok_or_else(|| malformed(item, "told"))?;
    let uri = told.shown.get("uri").and_then(Value::as_str);
    let uri = uri.and_then(ObjectUri::parse);
    Ok(uri.map(|uri| (Generation(generation.to_owned()), uri)))
}

fn compress(json: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(vec![], Compression::default());
    // Writing to memory cannot fail.
    _ = encoder.write_all(json);
    encoder.finish().unwrap_or_default()
}

fn decompress(bytes: &[u8]) -> Option<EntryContent> {
    let mut json = vec![];
    let most = MAX_UNPACKED as u64;
    let mut decoder = ZlibDecoder::new(bytes).take(most);
    decoder.read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::Kind;

    fn content(text: &str) -> EntryContent {
        let shown = json!({"target": {"data": {"text": text}}});
        EntryContent {
            shown: shown.as_object().cloned().unwrap(),
            readers: vec!["account:alice".to_owned()],
            replaces: Some(Timestamp(3)),
        }
    }

    fn entry(text: &str) -> Option<Entry> {
        let (uri, at) = (ObjectUri::collection("a", "b"), Timestamp(5));
        Entry::new(&Generation::unique(), &uri, at, at, &content(text))
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let stored = RawEntry::from_item(entry("x").unwrap().into_item());
        let stored = stored.unwrap().unwrap();
        assert_eq!(stored.content().unwrap(), content("x"));
        assert_eq!((stored.time, stored.is_deleted), (Timestamp(5), false));
        assert_eq!(stored.id.len(), 36);
    }

    #[test]
    fn what_no_item_can_hold_makes_no_entry() {
        let noise = |length| std::iter::repeat_with(fastrand::alphanumeric).take(length);
        assert!(entry(&noise(500_000).collect::<String>()).is_some());
        assert!(entry(&noise(600_000).collect::<String>()).is_none());
        assert!(entry(&"x".repeat(MAX_UNPACKED)).is_none());
    }

    #[test]
    fn the_entries_of_a_list_are_in_one_partition_in_the_order_of_their_times() {
        let bucket = Generation::unique();
        let records = ObjectUri::collection("a", "b").children(Kind::Record);
        let key = |id: &str, time| {
            Key::history(
                &bucket,
                &records.clone().object(id),
                Timestamp(time),
                Timestamp(time),
            )
        };
        assert_eq!(key("x", 9).pk, key("y", 9).pk);
        assert!(key("x", 9).sk < key("y", 10).sk && key("x", 9) != key("y", 9));
        let shards: std::collections::BTreeSet<_> = (0..100)
            .map(|n| shard_of(&ObjectUri::collection("a", format!("c{n}")).children(Kind::Record)))
            .collect();
        assert_eq!(shards.len(), usize::from(SHARDS));
    }

    #[test]
    fn of_one_time_the_deepest_object_comes_first() {
        let bucket = Generation::unique();
        let collection = ObjectUri::collection("a", "b");
        let record = collection.children(Kind::Record).object("c");
        let uris = [record, collection, ObjectUri::bucket("a")];
        let keys = uris.map(|uri| Key::history(&bucket, &uri, Timestamp(5), Timestamp(5)).sk);
        assert!(keys.is_sorted(), "{keys:?}");
    }

    #[test]
    fn a_tombstone_keeps_the_id_and_has_a_time_of_its_own() {
        let stored = RawEntry::from_item(entry("x").unwrap().into_item());
        let stored = stored.unwrap().unwrap();
        let removal = Removal::of(&stored, Timestamp(9));
        assert!(
            RawEntry::from_item(removal.clone().into_entry())
                .unwrap()
                .is_none()
        );
        let tombstone = RawEntry::from_item(removal.into_tombstone())
            .unwrap()
            .unwrap();
        assert_eq!((&tombstone.id, tombstone.time), (&stored.id, Timestamp(9)));
        assert!(tombstone.is_deleted);
        assert_eq!(tombstone.content().unwrap().shown["deleted"], true);
    }
}
