//! The writes of a list's last transactions, named in its item, so that a reader can tell whether it has seen all of
//! them.
//!
//! A transaction may commit one item after the other, the list's new timestamp before an object that it was raised for.
//! A reader in between would take that timestamp for the one of what it read, and never ask for the object again
//! ([decision 17](../../../docs/decisions/017-reading-what-is-being-committed.md)).
//!
//! | attribute of a list's item | holds |
//! | --- | --- |
//! | `wrote` | the last transaction's writes to the list |
//! | `wrote_1`, `wrote_2` | the writes of the transactions one and two before it |
//! | `before_1`, `before_2` | the list's timestamp before the last transaction, and before the one preceding it |
//!
//! A transaction's writes are encoded as bytes: its time, and the timestamp that it gave the list (0 if none), 6 bytes
//! each; then for each object 5 bytes of a hash of its id, the highest bit set for a tombstone, and the difference of
//! its time to that of the object before, as zigzag LEB128. So an object usually takes 6 bytes, and the item of a list
//! stays below the 1 KB that is charged anyway.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use super::Item;
use crate::timestamp::Timestamp;

/// The longest time for which a transaction may be unfinished: DynamoDB finishes one that its coordinator abandoned
/// after some seconds. It also limits the effect of a name whose object can no longer be found.
const UNFINISHED: Duration = Duration::from_secs(60);
/// The pauses before a commit in progress is read again, in milliseconds: 1.3 seconds together. A commit usually takes
/// a few milliseconds.
pub const COMMIT_PAUSES: [u64; 7] = [10, 20, 40, 80, 160, 320, 640];

/// The attributes of a list's item that name transactions, the last one first.
const WROTE: [&str; 3] = ["wrote", "wrote_1", "wrote_2"];
/// The attributes of the timestamps that these gave to the list.
const REACHED: [&str; 3] = ["timestamp", "before_1", "before_2"];
/// Shifts the named transactions by one, and names `:wrote` as the last. A missing one is filled with a name that does
/// not count, since it reached another timestamp.
pub(super) const SHIFT: &str = "wrote = :wrote, wrote_1 = if_not_exists(wrote, :wrote), \
    wrote_2 = if_not_exists(wrote_1, :wrote), before_1 = #timestamp, before_2 = if_not_exists(before_1, #timestamp)";
/// Removes the transactions before the last one.
pub(super) const REMOVE_EARLIER: &str = "wrote_1, wrote_2, before_1, before_2";

/// Bytes of an encoded time.
const TIME: usize = 6;
/// Bytes of an encoded hash.
const HASH: usize = 5;
/// The bit of a hash that marks tombstones.
const DELETED: u64 = 1 << (8 * HASH - 1);

/// An object that a transaction wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WrittenObject {
    /// The hash of its id.
    hash: u64,
    last_modified: Timestamp,
    is_deleted: bool,
}

/// The writes of a transaction to a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransactionWrites {
    /// The time of the transaction.
    pub at: Timestamp,
    objects: Vec<WrittenObject>,
}

/// The writes of the last transactions to a list, which may be unfinished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecentWrites {
    /// The time of each transaction with its writes; the last one first.
    transactions: Vec<(Timestamp, Vec<WrittenObject>)>,
}

/// The part of a list that a read covers.
#[derive(Clone, Debug)]
pub struct ReadRange {
    /// The covered times.
    pub times: RangeInclusive<Timestamp>,
    /// Whether tombstones are covered.
    pub tombstones: bool,
}

impl TransactionWrites {
    /// Adds an object.
    pub fn add(&mut self, id: &str, last_modified: Timestamp, is_deleted: bool) {
        self.objects.push(WrittenObject {
            hash: hash(id),
            last_modified,
            is_deleted,
        });
    }

    /// Encodes the writes as an attribute. `reached` is the timestamp that the list gets; `None` if it keeps its own.
    pub(super) fn into_value(self, reached: Option<Timestamp>) -> AttributeValue {
        let mut time = reached.unwrap_or_default().0;
        let mut bytes = vec![];
        push(&mut bytes, self.at.0, TIME);
        push(&mut bytes, time, TIME);
        for object in self.objects {
            let deleted = if object.is_deleted { DELETED } else { 0 };
            push(&mut bytes, object.hash | deleted, HASH);
            // A negative difference wraps here, and the cast restores its sign.
            let later = object.last_modified.0.wrapping_sub(time).cast_signed();
            let mut zigzag = (later << 1 ^ later >> 63).cast_unsigned();
            while zigzag >= 0x80 {
                bytes.extend((zigzag | 0x80).to_le_bytes().first());
                zigzag >>= 7;
            }
            bytes.extend(zigzag.to_le_bytes().first());
            time = object.last_modified.0;
        }
        AttributeValue::B(Blob::new(bytes))
    }
}

impl RecentWrites {
    /// Reads the transactions that the item of a list names.
    ///
    /// A name counts only if the list got its timestamp from that transaction: an earlier version of the API, which names
    /// nothing, may have written since.
    pub fn from_item(item: &Item) -> Self {
        let named = WROTE.into_iter().zip(REACHED).map(|(wrote, reached)| {
            let (at, gave, objects) = named(item.get(wrote)?.as_b().ok()?.as_ref())?;
            let counts = gave == Timestamp(0) || super::time(item, reached).ok() == Some(gave);
            counts.then_some((at, objects))
        });
        Self {
            // If one does not count, neither do those before it.
            transactions: named.map_while(|named| named).collect(),
        }
    }

    /// Returns `true` if an object with that id may be among the writes.
    pub fn names(&self, id: &str) -> bool {
        let mut named = self.transactions.iter().flat_map(|(_, objects)| objects);
        !self.transactions.is_empty() && {
            let hash = hash(id);
            named.any(|object| object.hash == hash)
        }
    }

    /// The earliest time of the writes that may be unfinished.
    pub fn earliest(&self, now: Timestamp) -> Option<Timestamp> {
        let transactions = self.transactions.iter();
        let unfinished = transactions.filter(|(at, _)| now.since(*at) < UNFINISHED);
        let objects = unfinished.flat_map(|(_, objects)| objects);
        objects.map(|object| object.last_modified).min()
    }

    /// Returns `true` if a read of the list that began after this was read shows all named writes. `read` are its
    /// objects.
    ///
    /// An object may have been written again meanwhile; then it has a later time. One that was deleted meanwhile, or
    /// moved out of what the read covers, is missed in vain: read this again, and then the list.
    pub fn is_seen<'a>(
        &self,
        covered: &ReadRange,
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

/// Appends the lowest bytes of a number.
fn push(bytes: &mut Vec<u8>, number: u64, width: usize) {
    bytes.extend(number.to_be_bytes().into_iter().skip(8 - width));
}

/// Takes a number off the front of `bytes`; `None` if they are too few.
fn take(bytes: &mut &[u8], width: usize) -> Option<u64> {
    let (first, rest) = bytes.split_at_checked(width)?;
    *bytes = rest;
    Some(
        first
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    )
}

/// The time of a transaction, the timestamp that it gave the list, and its writes; `None` if the bytes are malformed.
fn named(mut bytes: &[u8]) -> Option<(Timestamp, Timestamp, Vec<WrittenObject>)> {
    let (at, reached) = (take(&mut bytes, TIME)?, take(&mut bytes, TIME)?);
    let (mut time, mut objects) = (reached, vec![]);
    while !bytes.is_empty() {
        let hash = take(&mut bytes, HASH)?;
        let mut zigzag = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = take(&mut bytes, 1)?;
            zigzag |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        let later = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
        time = time.wrapping_add(later);
        objects.push(WrittenObject {
            hash: hash & !DELETED,
            last_modified: Timestamp(time),
            is_deleted: hash & DELETED != 0,
        });
    }
    Some((Timestamp(at), Timestamp(reached), objects))
}

/// FNV-1a, truncated: an id has the same hash as one of a thousand others once in half a billion times.
fn hash(id: &str) -> u64 {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ hash >> 39) & (DELETED - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrote() -> TransactionWrites {
        TransactionWrites {
            at: Timestamp(1000),
            ..TransactionWrites::default()
        }
    }

    /// A transaction: the timestamp that it gave the list, 0 for none, and the id, time and tombstone flag of each
    /// object.
    type Transaction<'a> = (u64, &'a [(&'a str, u64, bool)]);

    /// A list's item after transactions at the time 1000.
    fn item(transactions: &[Transaction<'_>]) -> Item {
        let mut item = Item::new();
        for (reached, objects) in transactions {
            let mut wrote = wrote();
            for (id, time, is_deleted) in *objects {
                wrote.add(id, Timestamp(*time), *is_deleted);
            }
            let reached = Some(Timestamp(*reached)).filter(|at| at.0 > 0);
            for names in [WROTE, REACHED] {
                for pair in names.windows(2).rev() {
                    if let Some(value) = item.get(pair[0]).cloned() {
                        item.insert(pair[1].to_owned(), value);
                    }
                }
            }
            if let Some(reached) = reached {
                item.insert("timestamp".to_owned(), super::super::number(reached));
            }
            item.insert("wrote".to_owned(), wrote.into_value(reached));
        }
        item
    }

    fn recent(transactions: &[Transaction<'_>]) -> RecentWrites {
        RecentWrites::from_item(&item(transactions))
    }

    fn covered(first: u64, tombstones: bool) -> ReadRange {
        ReadRange {
            times: Timestamp(first)..=Timestamp::MAX,
            tombstones,
        }
    }

    fn is_seen(recent: &RecentWrites, read: &[(&str, u64)]) -> bool {
        let read = read.iter().map(|(id, time)| (*id, Timestamp(*time)));
        recent.is_seen(&covered(1, true), Timestamp(1001), read)
    }

    #[test]
    fn what_the_last_three_transactions_wrote_must_be_seen_or_what_came_later() {
        let recent = recent(&[
            (2, &[("x", 2, false)]),
            (3, &[("y", 3, false)]),
            (5, &[("a", 4, false), ("b", 5, true)]),
            (6, &[("c", 6, false)]),
        ]);
        let all = [("y", 3), ("a", 4), ("b", 5), ("c", 6)];
        assert!(is_seen(&recent, &all));
        assert!(is_seen(&recent, &[("c", 6), ("b", 7), ("y", 8), ("a", 9)]));
        for n in 0..all.len() {
            let mut read = all.to_vec();
            read[n].1 -= 1;
            assert!(!is_seen(&recent, &read), "{read:?}");
            read.remove(n);
            assert!(!is_seen(&recent, &read), "{read:?}");
        }
    }

    #[test]
    fn only_what_the_reading_covers_is_looked_for() {
        let recent = recent(&[(5, &[("a", 4, false), ("b", 5, false)])]);
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
        let recent = recent(&[(5, &[("a", 5, true)])]);
        let read = |times: &[u64]| {
            let read = times.iter().map(|time| ("a", Timestamp(*time)));
            recent.is_seen(&covered(1, false), Timestamp(1001), read)
        };
        assert!(read(&[]) && read(&[6]) && !read(&[2]));
    }

    #[test]
    fn of_an_object_that_was_written_twice_the_last_write_counts() {
        let recent = recent(&[(4, &[("a", 4, false)]), (5, &[("a", 5, true)])]);
        let nothing: [(&str, Timestamp); 0] = [];
        assert!(recent.is_seen(&covered(1, false), Timestamp(1001), nothing));
    }

    #[test]
    fn a_name_is_of_no_use_once_the_list_moved_on_without_one() {
        let mut item = item(&[(5, &[("a", 5, false)]), (6, &[])]);
        assert!(!is_seen(&RecentWrites::from_item(&item), &[]));
        item.insert("before_1".to_owned(), super::super::number(Timestamp(4)));
        assert!(is_seen(&RecentWrites::from_item(&item), &[]));
        let mut item = self::item(&[(5, &[("a", 5, false)])]);
        assert!(!is_seen(&RecentWrites::from_item(&item), &[]));
        item.insert("timestamp".to_owned(), super::super::number(Timestamp(6)));
        assert!(is_seen(&RecentWrites::from_item(&item), &[]));
    }

    #[test]
    fn any_times_can_be_told() {
        let times = [
            7,
            0,
            Timestamp::MAX.0,
            1_700_000_000_123,
            1_700_000_000_124,
            1,
            u64::MAX,
        ];
        let mut wrote = wrote();
        for time in times {
            wrote.add("x", Timestamp(time), time % 2 == 0);
        }
        let expected = wrote.objects.clone();
        for reached in [None, Some(Timestamp(1_700_000_000_124))] {
            let value = wrote.clone().into_value(reached);
            let bytes = value.as_b().unwrap().as_ref();
            let told = (
                Timestamp(1000),
                reached.unwrap_or_default(),
                expected.clone(),
            );
            assert_eq!(named(bytes), Some(told));
            assert_eq!(named(&bytes[..bytes.len() - 1]), None);
        }
    }

    #[test]
    fn nothing_is_looked_for_longer_than_a_transaction_can_take() {
        let recent = recent(&[(5, &[("a", 5, false)])]);
        let at = |now| recent.is_seen(&covered(1, true), Timestamp(now), []);
        assert!(!at(60_999) && at(61_000));
    }

    #[test]
    fn a_write_under_a_past_time_is_looked_for_too() {
        let recent = recent(&[(5, &[("a", 5, false)]), (0, &[("b", 2, false)])]);
        assert!(is_seen(&recent, &[("a", 5), ("b", 2)]));
        assert!(!is_seen(&recent, &[("a", 5)]));
        assert!(!is_seen(&recent, &[("b", 2)]));
    }

    #[test]
    fn the_item_of_a_list_stays_below_a_kilobyte_after_the_largest_batches() {
        let mut wrote = wrote();
        for n in 0..25 {
            wrote.add(&n.to_string(), Timestamp(1_700_000_000_000 + n), true);
        }
        let value = wrote.into_value(Some(Timestamp(1_700_000_000_024)));
        // Three transactions, and 400 bytes for keys and everything else.
        assert!(3 * value.as_b().unwrap().as_ref().len() + 400 < 1024);
    }
}
