//! What the last transactions wrote to a list, named in its item, so that a reading shows whether it has seen all of it.
//!
//! A transaction may commit one item after the other, the list's new timestamp before an object that it was raised for.
//! A reader in between would take the timestamp for that of what it read, and never ask for the object again
//! ([decision 17](../../../docs/decisions/017-reading-what-is-being-committed.md)).
//!
//! | attribute of a list's item | holds |
//! | --- | --- |
//! | `wrote` | what its last transaction wrote to the list |
//! | `wrote_before` | the one before that |
//! | `timestamp_before` | the list's timestamp before the last one |
//!
//! Both name a transaction as bytes, its numbers of 6 bytes each: when it was written, the timestamp that it gave the list
//! (0 if none), and for each object a hash of its id, the highest bit set for a tombstone, and its time. An object takes
//! 12 bytes, so that the item of a list stays below the 1 KB that is charged anyway.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use super::Item;
use crate::timestamp::Timestamp;

/// How long a transaction is taken to be unfinished, if need be: DynamoDB finishes what its coordinator left after some
/// seconds. It also bounds what comes of a name that nothing answers to any more.
const UNFINISHED: Duration = Duration::from_secs(60);
/// The pauses after which what is being committed is read again, in milliseconds: 1.3 seconds together. Usually it takes a
/// few milliseconds.
pub const COMMIT_PAUSES: [u64; 7] = [10, 20, 40, 80, 160, 320, 640];

/// Bytes of a number.
const WIDTH: usize = 6;
/// The bit of a hash that tells tombstones.
const DELETED: u64 = 1 << (8 * WIDTH - 1);

/// An object that a transaction wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named {
    /// Of its id.
    hash: u64,
    last_modified: Timestamp,
    is_deleted: bool,
}

/// What a transaction writes to a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrote(Vec<Named>);

/// What the last transactions wrote to a list, as far as they may be unfinished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    /// When each was written, with what it wrote; the last one first.
    transactions: Vec<(Timestamp, Vec<Named>)>,
}

/// What a reading of a list covers.
#[derive(Clone, Debug)]
pub struct Covered {
    /// The times.
    pub times: RangeInclusive<Timestamp>,
    /// Whether tombstones are among it.
    pub tombstones: bool,
}

impl Wrote {
    /// With one more object.
    pub fn add(&mut self, id: &str, last_modified: Timestamp, is_deleted: bool) {
        self.0.push(Named {
            hash: hash(id),
            last_modified,
            is_deleted,
        });
    }

    /// As an attribute. `reached` is the timestamp that the list has then; `None` when it stays as it is.
    pub(super) fn into_value(self, now: Timestamp, reached: Option<Timestamp>) -> AttributeValue {
        let mut numbers = vec![now.0, reached.unwrap_or_default().0];
        for object in self.0 {
            let deleted = if object.is_deleted { DELETED } else { 0 };
            numbers.extend([object.hash | deleted, object.last_modified.0]);
        }
        let bytes = numbers
            .into_iter()
            .flat_map(|number| number.to_be_bytes().into_iter().skip(8 - WIDTH));
        AttributeValue::B(Blob::new(bytes.collect::<Vec<_>>()))
    }
}

impl Recent {
    /// What the item of a list names, whose timestamp is given.
    ///
    /// A name counts only if the list got its timestamp from that transaction: an earlier version of the API, which names
    /// nothing, may have written since.
    pub fn from_item(item: &Item, timestamp: Timestamp) -> Self {
        let before = super::time(item, "timestamp_before").ok();
        let named = [
            named(item, "wrote", Some(timestamp)),
            named(item, "wrote_before", before),
        ];
        Self {
            // Where the last one does not count, nor does what came before it.
            transactions: named.into_iter().map_while(|named| named).collect(),
        }
    }

    /// Whether a reading that was begun after this was read shows all that it names. `read` are the objects.
    ///
    /// An object may have been written again meanwhile; then it has a later time. One that was deleted meanwhile, or moved
    /// out of what the reading covers, is missed for nothing: read this again, and then the list.
    pub fn is_seen<'a>(
        &self,
        covered: &Covered,
        now: Timestamp,
        read: impl IntoIterator<Item = (&'a str, Timestamp)>,
    ) -> bool {
        let mut named = HashMap::new();
        let transactions = self.transactions.iter();
        for (_, objects) in transactions.filter(|(at, _)| now.since(*at) < UNFINISHED) {
            for object in objects {
                named.entry(object.hash).or_insert(*object);
            }
        }
        named.retain(|_, object| covered.times.contains(&object.last_modified));
        if named.is_empty() {
            return true;
        }
        let mut seen = HashMap::new();
        for (id, time) in read {
            let hash = hash(id);
            if named.contains_key(&hash) {
                let latest = seen.entry(hash).or_insert(time);
                *latest = time.max(*latest);
            }
        }
        named
            .into_values()
            .all(|object| match seen.get(&object.hash) {
                Some(time) => *time >= object.last_modified,
                None => object.is_deleted && !covered.tombstones,
            })
    }
}

/// What an attribute names; `None` when it is not there, is not to be understood, or gave the list another timestamp than
/// `reached`.
fn named(
    item: &Item,
    attribute: &str,
    reached: Option<Timestamp>,
) -> Option<(Timestamp, Vec<Named>)> {
    let bytes = item.get(attribute)?.as_b().ok()?.as_ref();
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let numbers: Vec<u64> = bytes.chunks(WIDTH).map(number).collect();
    let [at, gave, objects @ ..] = &numbers[..] else {
        return None;
    };
    let counts = *gave == 0 || Some(Timestamp(*gave)) == reached;
    let objects = objects.chunks_exact(2).map(|object| Named {
        hash: object[0] & !DELETED,
        last_modified: Timestamp(object[1]),
        is_deleted: object[0] & DELETED != 0,
    });
    counts.then(|| (Timestamp(*at), objects.collect()))
}

/// FNV-1a, as far as it fits: two ids of a list of a million are the same to it once in a hundred million times.
fn hash(id: &str) -> u64 {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ hash >> 47) & (DELETED - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list's item after transactions, each with the timestamp that it gave the list and what it wrote: id, time and
    /// whether that is a tombstone. All of the time 1000.
    fn item(transactions: &[(u64, &[(&str, u64, bool)])]) -> Recent {
        let mut item = Item::new();
        let mut timestamp = Timestamp(0);
        for (reached, objects) in transactions {
            let mut wrote = Wrote::default();
            for (id, time, is_deleted) in *objects {
                wrote.add(id, Timestamp(*time), *is_deleted);
            }
            if let Some(wrote) = item.remove("wrote") {
                item.insert("wrote_before".to_owned(), wrote);
            }
            item.insert(
                "timestamp_before".to_owned(),
                super::super::number(timestamp),
            );
            let reached = Some(Timestamp(*reached)).filter(|at| at.0 > 0);
            timestamp = reached.unwrap_or(timestamp);
            item.insert(
                "wrote".to_owned(),
                wrote.into_value(Timestamp(1000), reached),
            );
        }
        Recent::from_item(&item, timestamp)
    }

    fn covered(first: u64, tombstones: bool) -> Covered {
        Covered {
            times: Timestamp(first)..=Timestamp::MAX,
            tombstones,
        }
    }

    fn is_seen(recent: &Recent, read: &[(&str, u64)]) -> bool {
        let read = read.iter().map(|(id, time)| (*id, Timestamp(*time)));
        recent.is_seen(&covered(1, true), Timestamp(1001), read)
    }

    #[test]
    fn what_the_last_two_transactions_wrote_must_be_seen_or_what_came_later() {
        let recent = item(&[
            (3, &[("x", 3, false)]),
            (5, &[("a", 4, false), ("b", 5, true)]),
            (6, &[("c", 6, false)]),
        ]);
        assert!(is_seen(&recent, &[("a", 4), ("b", 5), ("c", 6)]));
        assert!(is_seen(&recent, &[("c", 6), ("b", 7), ("a", 9)]));
        assert!(!is_seen(&recent, &[("a", 4), ("b", 5)]));
        assert!(!is_seen(&recent, &[("a", 3), ("b", 5), ("c", 6)]));
        assert!(!is_seen(&recent, &[("a", 4), ("c", 6)]));
    }

    #[test]
    fn only_what_the_reading_covers_is_looked_for() {
        let recent = item(&[(5, &[("a", 4, false), ("b", 5, false)])]);
        let read = |first| {
            recent.is_seen(
                &covered(first, true),
                Timestamp(1001),
                [("b", Timestamp(5))],
            )
        };
        assert!(read(5) && !read(4));
    }

    #[test]
    fn without_tombstones_what_was_deleted_must_not_be_there_as_it_was() {
        let recent = item(&[(5, &[("a", 5, true)])]);
        let read = |times: &[u64]| {
            let read = times.iter().map(|time| ("a", Timestamp(*time)));
            recent.is_seen(&covered(1, false), Timestamp(1001), read)
        };
        assert!(read(&[]) && read(&[6]) && !read(&[2]));
    }

    #[test]
    fn of_an_object_that_was_written_twice_the_last_write_counts() {
        let recent = item(&[(4, &[("a", 4, false)]), (5, &[("a", 5, true)])]);
        let nothing: [(&str, Timestamp); 0] = [];
        assert!(recent.is_seen(&covered(1, false), Timestamp(1001), nothing));
    }

    #[test]
    fn a_name_is_of_no_use_once_the_list_moved_on_without_one() {
        let mut named = Item::new();
        let mut wrote = Wrote::default();
        wrote.add("a", Timestamp(5), false);
        let value = wrote.into_value(Timestamp(1000), Some(Timestamp(5)));
        named.insert("wrote".to_owned(), value.clone());
        assert!(!is_seen(&Recent::from_item(&named, Timestamp(5)), &[]));
        assert!(is_seen(&Recent::from_item(&named, Timestamp(6)), &[]));
        // The same, once another one has a name again.
        let later = Wrote::default().into_value(Timestamp(1000), Some(Timestamp(7)));
        named.insert("wrote".to_owned(), later);
        named.insert("wrote_before".to_owned(), value);
        named.insert(
            "timestamp_before".to_owned(),
            super::super::number(Timestamp(6)),
        );
        assert!(is_seen(&Recent::from_item(&named, Timestamp(7)), &[]));
        named.insert(
            "timestamp_before".to_owned(),
            super::super::number(Timestamp(5)),
        );
        assert!(!is_seen(&Recent::from_item(&named, Timestamp(7)), &[]));
    }

    #[test]
    fn nothing_is_looked_for_longer_than_a_transaction_can_take() {
        let recent = item(&[(5, &[("a", 5, false)])]);
        let at = |now| recent.is_seen(&covered(1, true), Timestamp(now), []);
        assert!(!at(60_999) && at(61_000));
    }

    #[test]
    fn a_write_under_a_past_time_is_looked_for_too() {
        let recent = item(&[(5, &[("a", 5, false)]), (0, &[("b", 2, false)])]);
        assert!(is_seen(&recent, &[("a", 5), ("b", 2)]));
        assert!(!is_seen(&recent, &[("a", 5)]));
        assert!(!is_seen(&recent, &[("b", 2)]));
    }

    #[test]
    fn the_item_of_a_list_stays_below_a_kilobyte_after_the_largest_batches() {
        let mut wrote = Wrote::default();
        for n in 0..25 {
            wrote.add(&n.to_string(), Timestamp::MAX, true);
        }
        let AttributeValue::B(bytes) = wrote.into_value(Timestamp::MAX, Some(Timestamp::MAX))
        else {
            panic!("bytes")
        };
        // Twice, and 300 bytes for its keys and everything else.
        assert!(2 * bytes.as_ref().len() + 300 < 1024);
    }
}
