//! The outbox: what listeners are to be told of, written in the very transaction that it tells of.
//!
//! | `pk` | `sk` | holds |
//! | --- | --- | --- |
//! | `#outbox#` and the URI that the lists are under | the entry's id, `#`, the number of the part | `events`, `parts`, `expires` |
//!
//! An entry is all that one transaction did under one parent, in order, as compressed JSON, in parts that are small
//! enough for an item. Its partition is that of the parent, so that the stream gives a collection's entries in order.
//! Entries go by themselves, [`KEPT`] after they were written: as long as SQS keeps what asks for them.

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
use crate::resource::ObjectUri;
use crate::timestamp::Timestamp;

/// What the partition keys of entries begin with. The stream's filter for the notifier is made of it.
pub const PARTITION: &str = "#outbox#";
/// How long an entry is kept: 14 days, the longest that SQS keeps a message.
pub const KEPT: Duration = Duration::from_secs(14 * 24 * 3600);
/// Bytes of a part at most; an item may have 400 KB.
const MAX_PART: usize = 380 * 1024;
/// Bytes of a transaction's entries at most: it may have 4 MB, the objects included.
const MAX_ENTRIES: usize = 1536 * 1024;
/// Parts of a transaction's entries at most: each parent has one that need not be full.
///
/// As many objects as a transaction holds have few parents where there are more than
/// [`super::MAX_TRANSACTION_ITEMS`] of them: a batch has 25 requests, and a request for a list one parent.
pub const MAX_PARTS: usize = MAX_ENTRIES.div_ceil(MAX_PART) + 25;
/// Bytes of an entry once decompressed at most, so that no item makes the memory run out. Lambda takes requests of
/// 6 MB; what they replace can be 400 KB for each of 100 items.
const MAX_UNPACKED: u64 = 64 * 1024 * 1024;

/// Names an entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntryId {
    /// The URI of what the lists are under; empty for buckets and accounts.
    pub parent: String,
    /// Which of its entries.
    pub id: String,
}

impl EntryId {
    fn key(&self, part: usize) -> Key {
        Key {
            pk: format!("{PARTITION}{}", self.parent),
            sk: format!("{}#{part:03}", self.id),
        }
    }

    /// The entry that an item with these keys begins; `None` for any other item.
    pub fn of_first_part(pk: &str, sk: &str) -> Option<Self> {
        Some(Self {
            parent: pk.strip_prefix(PARTITION)?.to_owned(),
            id: sk.strip_suffix("#000")?.to_owned(),
        })
    }
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
    /// Bytes that it takes, but for keys and the like.
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

/// The entries of one transaction: its events, each with what its list is under.
///
/// Events that are too large together lose the fields of their objects ([`ResourceChanged::truncated`]).
pub fn entries(events: Vec<(Option<&ObjectUri>, ResourceChanged)>, now: Timestamp) -> Vec<Part> {
    let mut by_parent = BTreeMap::<_, Vec<ResourceChanged>>::new();
    for (parent, event) in events {
        by_parent.entry(parent).or_default().push(event);
    }
    let pack = |by_parent: &BTreeMap<Option<&ObjectUri>, Vec<ResourceChanged>>| -> Vec<_> {
        let packed = by_parent.iter();
        packed
            .map(|(parent, events)| (parent.map(ToString::to_string), compress(events)))
            .collect()
    };
    let mut packed = pack(&by_parent);
    let size: usize = packed.iter().map(|(_, bytes)| bytes.len()).sum();
    if size > MAX_ENTRIES {
        for event in by_parent.values_mut().flatten() {
            *event = event.truncated();
        }
        packed = pack(&by_parent);
    }
    let entries = packed.into_iter().flat_map(|(parent, bytes)| {
        let entry = EntryId {
            parent: parent.unwrap_or_default(),
            id: Uuid::new_v4().to_string(),
        };
        let parts = bytes.len().div_ceil(MAX_PART);
        let chunks = bytes.chunks(MAX_PART).enumerate();
        let of_entry: Vec<_> = chunks
            .map(|(number, chunk)| Part {
                entry: entry.clone(),
                number,
                parts,
                events: chunk.to_vec(),
                expires: now.after(KEPT),
            })
            .collect();
        of_entry
    });
    entries.collect()
}

fn compress(events: &[ResourceChanged]) -> Vec<u8> {
    let json = serde_json::to_vec(events).unwrap_or_default();
    let mut encoder = GzEncoder::new(Vec::with_capacity(json.len() / 2), Compression::fast());
    // The memory of a `Vec` never fails.
    let _ = encoder.write_all(&json);
    encoder.finish().unwrap_or_default()
}

/// The events of an entry; `None` when the bytes are not one.
pub fn decompress(bytes: &[u8]) -> Option<Vec<ResourceChanged>> {
    let mut json = vec![];
    let mut decoder = GzDecoder::new(bytes).take(MAX_UNPACKED);
    decoder.read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok()
}

impl Store {
    /// The events of an entry; `None` when it has expired.
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
            // The TTL takes one part after the other.
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

    fn bytes(parts: &[Part]) -> Vec<u8> {
        parts.iter().flat_map(|part| part.events.clone()).collect()
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
        let parts = entries(events, Timestamp(0));
        let read = |part| decompress(&bytes(std::slice::from_ref(part))).unwrap();
        let ids = |part| read(part).into_iter().map(|e| e.id).collect::<Vec<_>>();
        assert_eq!(parts.len(), 2);
        assert_eq!(
            (&*parts[0].entry.parent, ids(&parts[0])),
            ("", vec!["1".into(), "3".into()])
        );
        assert_eq!(
            (&*parts[1].entry.parent, ids(&parts[1])),
            ("/buckets/a", vec!["2".into()])
        );
    }

    #[test]
    fn what_an_item_cannot_hold_is_in_several() {
        let events = vec![(None, event("1", &noise(1_000_000)))];
        let parts = entries(events.clone(), Timestamp(0));
        assert!(parts.len() > 1 && parts.iter().all(|part| part.events.len() <= MAX_PART));
        assert_eq!(decompress(&bytes(&parts)).unwrap(), [events[0].1.clone()]);
    }

    #[test]
    fn what_a_transaction_cannot_hold_loses_its_fields() {
        let events = vec![(None, event("1", &noise(4_000_000)))];
        let parts = entries(events, Timestamp(0));
        let read = decompress(&bytes(&parts)).unwrap();
        assert!(read[0].truncated && parts.len() == 1);
    }
}
