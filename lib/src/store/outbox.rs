//! The outbox: events for listeners, written in the very transaction that they describe.
//!
//! | `pk` | `sk` | holds |
//! | --- | --- | --- |
//! | `#outbox##` and the URI that the lists are under | the entry's id, `#`, the number of the part | `events`, `parts`, `expires` |
//!
//! An entry holds the events of one transaction under one parent, in order, as compressed JSON, in parts that each fit
//! into an item. The same transaction names the entry in the item of one list under that parent, its [`head`]: the
//! stream orders the changes of one item as they were committed, but not those of different items, so that the records
//! of the head give the order of a parent's entries ([decision 10](../../../docs/decisions/010-events.md)). The TTL
//! removes entries [`RETENTION`] after they were written: as long as SQS keeps the messages that refer to them.
//!
//! Earlier versions wrote entries under `#outbox#` and the URI, with a random id, and named them in no head.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Item, Key, Store, StoreError, number, string};
use crate::event::ResourceChanged;
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::timestamp::Timestamp;

/// The prefix of the partition keys of entries.
pub const PARTITION: &str = "#outbox#";
/// Follows [`PARTITION`] if the entry is named in its [`head`].
const NAMED: &str = "#";
/// The attribute of a [`head`] that names the entry of its last transaction. The stream's filter for the notifier asks
/// for it.
pub const ENTRY: &str = "entry";
/// The first character of the id of an entry that a head names; the time in milliseconds, `-` and random digits follow.
const ID_PREFIX: char = 't';
/// The retention of an entry: 14 days, the longest that SQS keeps a message.
pub const RETENTION: Duration = Duration::from_secs(14 * 24 * 3600);
/// The most bytes in a part; an item may have 400 KB.
const MAX_PART: usize = 380 * 1024;
/// The most bytes in a transaction's entries: it may have 4 MB, the objects included.
const MAX_ENTRIES: usize = 1536 * 1024;
/// The most full parts of a transaction's entries; each entry has one more, which need not be full.
pub const MAX_FULL_PARTS: usize = MAX_ENTRIES / MAX_PART;
/// The most bytes of an entry once decompressed, so that no item exhausts the memory. Lambda takes requests of 6 MB;
/// the objects that they replace can have 400 KB in each of 100 items.
const MAX_UNPACKED: u64 = 64 * 1024 * 1024;

/// Identifies an entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntryId {
    /// `#` and the URI of the lists' parent, which is empty for buckets and accounts; without the `#` if an earlier
    /// version wrote it.
    pub parent: String,
    /// Its id among the parent's entries.
    pub id: String,
}

impl EntryId {
    fn new(parent: &str, now: Timestamp) -> Self {
        let random = Uuid::new_v4().as_u64_pair().1;
        Self {
            parent: format!("{NAMED}{parent}"),
            id: format!("{ID_PREFIX}{now}-{random:016x}"),
        }
    }

    fn key(&self, part: usize) -> Key {
        Key {
            pk: format!("{PARTITION}{}", self.parent),
            sk: format!("{}#{part:03}", self.id),
        }
    }

    /// The entry whose first part is the item with these keys; `None` for any other item.
    pub fn of_first_part(pk: &str, sk: &str) -> Option<Self> {
        Some(Self {
            parent: pk.strip_prefix(PARTITION)?.to_owned(),
            id: sk.strip_suffix("#000")?.to_owned(),
        })
    }

    /// The entry that the head with this partition key names.
    pub fn of_head(head_pk: &str, id: &str) -> Option<Self> {
        let (parent, _) = head_pk.rsplit_once('#')?;
        Some(Self {
            parent: format!("{NAMED}{parent}"),
            id: id.to_owned(),
        })
    }

    /// The URI of the lists' parent; empty for buckets and accounts.
    pub fn parent_uri(&self) -> &str {
        self.parent.strip_prefix(NAMED).unwrap_or(&self.parent)
    }

    /// Returns `true` if an entry that is not there may still appear: its transaction may commit one item after the
    /// other, the head before the entry. Returns `false` once it has expired, and for an entry that no head names: its
    /// own item was seen, so it cannot still be coming.
    pub fn may_appear(&self, now: Timestamp) -> bool {
        let id = self.id.strip_prefix(ID_PREFIX);
        let written_at = id.and_then(|id| Timestamp::from_digits(id.split('-').next()?));
        written_at.is_some_and(|at| now < at.after(RETENTION))
    }
}

/// The list under `parent` whose item names the entries under it; every transaction with such an entry writes that
/// item.
pub fn head(parent: Option<&ObjectUri>) -> ListUri {
    match parent {
        None => ListUri::buckets(),
        Some(bucket) if bucket.kind() == Kind::Bucket => bucket.children(Kind::Collection),
        Some(collection) => collection.children(Kind::Record),
    }
}

/// The events of one transaction under one parent.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The list whose item names it.
    pub head: ListUri,
    /// Its name there.
    pub name: String,
    /// Its items.
    pub parts: Vec<Part>,
}

/// One part of an entry: an item.
#[derive(Clone, Debug)]
pub struct Part {
    entry: EntryId,
    number: usize,
    parts: usize,
    events: Vec<u8>,
    expires: Timestamp,
}

impl Part {
    /// Its size in bytes, without keys and the like.
    pub fn size(&self) -> usize {
        self.events.len()
    }

    pub(super) fn into_item(self) -> Item {
        let mut item = self.entry.key(self.number).into_item();
        item.insert(
            "events".to_owned(),
            AttributeValue::B(Blob::new(self.events)),
        );
        let parts = AttributeValue::N(self.parts.to_string());
        item.insert("parts".to_owned(), parts);
        // DynamoDB's TTL counts seconds.
        let expires = Timestamp(self.expires.0 / 1000);
        item.insert("expires".to_owned(), number(expires));
        item
    }
}

/// The entries of one transaction, from its events, each with the parent of its list.
///
/// If the events are too large together, they lose the fields of their objects ([`ResourceChanged::truncated`]).
pub fn entries(events: Vec<(Option<&ObjectUri>, ResourceChanged)>, now: Timestamp) -> Vec<Entry> {
    let mut by_parent = BTreeMap::<_, Vec<ResourceChanged>>::new();
    for (parent, event) in events {
        by_parent.entry(parent).or_default().push(event);
    }
    fn pack<'a>(
        by_parent: &BTreeMap<Option<&'a ObjectUri>, Vec<ResourceChanged>>,
    ) -> Vec<(Option<&'a ObjectUri>, Vec<u8>)> {
        let packed = by_parent.iter();
        packed
            .map(|(parent, events)| (*parent, compress(events)))
            .collect()
    }
    let mut packed = pack(&by_parent);
    let size: usize = packed.iter().map(|(_, bytes)| bytes.len()).sum();
    if size > MAX_ENTRIES {
        for event in by_parent.values_mut().flatten() {
            *event = event.truncated();
        }
        packed = pack(&by_parent);
    }
    let entries = packed.into_iter().map(|(parent, bytes)| {
        let uri = parent.map(ToString::to_string).unwrap_or_default();
        let id = EntryId::new(&uri, now);
        let count = bytes.len().div_ceil(MAX_PART);
        let parts = bytes.chunks(MAX_PART).enumerate();
        let parts = parts.map(|(number, chunk)| Part {
            entry: id.clone(),
            number,
            parts: count,
            events: chunk.to_vec(),
            expires: now.after(RETENTION),
        });
        Entry {
            head: head(parent),
            parts: parts.collect(),
            name: id.id,
        }
    });
    entries.collect()
}

fn compress(events: &[ResourceChanged]) -> Vec<u8> {
    let json = serde_json::to_vec(events).unwrap_or_default();
    let mut encoder = GzEncoder::new(Vec::with_capacity(json.len() / 2), Compression::fast());
    // Writing to a `Vec` never fails.
    let _ = encoder.write_all(&json);
    encoder.finish().unwrap_or_default()
}

/// The events of an entry; `None` if the bytes are not one.
pub fn decompress(bytes: &[u8]) -> Option<Vec<ResourceChanged>> {
    let mut json = vec![];
    let mut decoder = GzDecoder::new(bytes).take(MAX_UNPACKED);
    decoder.read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok()
}

impl Store {
    /// The events of an entry; `None` if it is missing or incomplete: it has expired, or its transaction is still being
    /// committed ([`EntryId::may_appear`]).
    ///
    /// One `Query`, strongly consistent: 1 RCU for each 4 KB.
    pub async fn outbox_entry(
        &self,
        entry: &EntryId,
    ) -> Result<Option<Vec<ResourceChanged>>, StoreError> {
        let Key { pk, sk } = entry.key(0);
        let prefix = sk.trim_end_matches("000").to_owned();
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk AND begins_with(sk, :id)")
            .expression_attribute_values(":pk", AttributeValue::S(pk))
            .expression_attribute_values(":id", AttributeValue::S(prefix))
            .consistent_read(true);
        let parts = super::all_pages(query).await?;
        let Some(first) = parts.first() else {
            return Ok(None);
        };
        let count = first.get("parts").and_then(|parts| parts.as_n().ok());
        let is_whole = count.and_then(|count| count.parse().ok()) == Some(parts.len());
        let mut bytes = vec![];
        for part in &parts {
            let events = part.get("events").and_then(|events| events.as_b().ok());
            bytes.extend_from_slice(events.map_or(&[], AsRef::as_ref));
        }
        match decompress(&bytes).filter(|_| is_whole) {
            Some(events) => Ok(Some(events)),
            // The TTL removes one part after the other, and a commit may write them so.
            None if !is_whole => Ok(None),
            None => Err(StoreError::Malformed {
                pk: string(first, "pk")?,
                sk: string(first, "sk")?,
                attribute: "events",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(id: &str, text: &str) -> ResourceChanged {
        serde_json::from_value(json!({
            "id": id, "timestamp": 9, "action": "create", "uri": "/buckets/a", "user_id": null,
            "resource_name": "bucket", "date": "", "impacted_uris": ["/buckets/a"],
            "impacted_records": [{"new": {"id": "a", "last_modified": 9, "text": text}}],
        }))
        .unwrap()
    }

    fn read(entry: &Entry) -> Vec<ResourceChanged> {
        let parts = entry.parts.iter();
        let bytes: Vec<u8> = parts.flat_map(|part| part.events.clone()).collect();
        decompress(&bytes).unwrap()
    }

    fn noise(length: usize) -> String {
        std::iter::repeat_with(fastrand::alphanumeric)
            .take(length)
            .collect()
    }

    #[test]
    fn an_entry_holds_the_events_under_one_parent_in_their_order() {
        let bucket = ObjectUri::bucket("a");
        let events = vec![
            (None, event("1", "")),
            (Some(&bucket), event("2", "")),
            (None, event("3", "")),
        ];
        let entries = entries(events, Timestamp(0));
        let told: Vec<_> = entries
            .iter()
            .map(|entry| {
                let ids = read(entry).into_iter().map(|event| event.id);
                (
                    entry.parts[0].entry.parent_uri(),
                    ids.collect::<Vec<_>>().join(" "),
                )
            })
            .collect();
        let expected = [("", "1 3"), ("/buckets/a", "2")].map(|(uri, ids)| (uri, ids.to_owned()));
        assert_eq!(told, expected);
    }

    #[test]
    fn one_list_under_each_parent_names_its_entries() {
        let bucket = ObjectUri::bucket("a");
        let collection = ObjectUri::collection("a", "b");
        for parent in [None, Some(&bucket), Some(&collection)] {
            let entries = entries(vec![(parent, event("1", ""))], Timestamp(7));
            let [entry] = &entries[..] else {
                panic!("{entries:?}")
            };
            let head = Key::list(&entry.head);
            let named = EntryId::of_head(&head.pk, &entry.name).unwrap();
            let first = named.key(0);
            assert_eq!(
                EntryId::of_first_part(&first.pk, &first.sk),
                Some(named.clone())
            );
            assert_eq!(entry.parts[0].entry, named);
        }
    }

    #[test]
    fn an_entry_may_come_until_it_has_expired() {
        let entry = EntryId::new("/buckets/a", Timestamp(1000));
        assert!(entry.may_appear(Timestamp(1000)));
        assert!(!entry.may_appear(Timestamp(1000).after(RETENTION)));
        // Of an earlier version.
        let entry = EntryId {
            parent: "/buckets/a".to_owned(),
            id: Uuid::new_v4().to_string(),
        };
        assert!(!entry.may_appear(Timestamp(1000)));
    }

    #[test]
    fn what_an_item_cannot_hold_is_in_several() {
        let events = vec![(None, event("1", &noise(1_000_000)))];
        let entry = &entries(events.clone(), Timestamp(0))[0];
        let is_small = |part: &Part| part.events.len() <= MAX_PART;
        assert!(entry.parts.len() > 1 && entry.parts.iter().all(is_small));
        assert_eq!(read(entry), [events[0].1.clone()]);
    }

    #[test]
    fn what_a_transaction_cannot_hold_loses_its_fields() {
        let events = vec![(None, event("1", &noise(4_000_000)))];
        let entry = &entries(events, Timestamp(0))[0];
        assert!(read(entry)[0].truncated && entry.parts.len() == 1);
    }
}
