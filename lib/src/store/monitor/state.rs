//! The monitor's state: its clock and the latest changes, in the one item that each batch of the stream updates
//! ([decision 13](../../../../docs/decisions/013-monitor-clock.md)).
//!
//! | attribute | value |
//! | --- | --- |
//! | `clock` | the last position given to a change |
//! | `floor` | every change up to this position is in an item of its own |
//! | `latest` | the changes after the floor: for each `bucket/collection` a list of the position, the collection's timestamp and, if the collection was deleted, `true` |
//! | `due` | by listener, the version that is due for its Megaphone |
//! | `pull` | the versions shown to readers of `__broadcasts__` ([`crate::store::polled_broadcast`]) |
//! | `adopted` | the `version` up to which changes written by functions of an earlier version have positions |
//! | `version`, `pending …` | written by functions of an earlier version ([decision 14](../../../../docs/decisions/014-update-in-place.md)): how many batches they wrote, and since when each unfinished one is being written, in ms |

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};

use super::{CollectionChange, PARTITION, StoredMonitorEntry};
use crate::settings::Debounce;
use crate::store::polled_broadcast::PolledBroadcast;
use crate::store::{Item, Key, Store, StoreError, malformed, number, optional_time};
use crate::timestamp::Timestamp;

/// The sort key of the state; an entry's begins with a slash.
pub(super) const STATE_KEY: &str = "#state";

/// The prefix of the attributes that name unfinished batches of an earlier version.
const PENDING: &str = "pending ";

/// An unfinished batch older than this writes nothing more: Lambda stops a function after 15 minutes at most.
const ABANDONED_AFTER: Duration = Duration::from_secs(60 * 60);

/// The most attributes that one update removes: an expression has room for no more.
const MAX_REMOVED: usize = 100;

/// The size of the state in bytes from which changes move to items of their own, so that an update usually costs 1 WCU.
const MAX_BYTES: usize = 1000;

/// Bytes of a state without changes and listeners.
const FIXED_BYTES: usize = 170;

/// Bytes of a change besides its collection's name.
const CHANGE_BYTES: usize = 27;

/// The most bytes of changes in one update, unless it is a single one: the state stays within 4 KB, and a poll costs 1
/// RCU.
const MAX_UPDATE_BYTES: usize = 2800;

/// The monitor's clock, the latest changes, and the versions that are due because of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MonitorState {
    /// `None` until an aggregator of this version has written.
    clock: Option<Timestamp>,
    floor: Timestamp,
    /// In order of positions.
    latest: Vec<StoredMonitorEntry>,
    due: BTreeMap<String, Timestamp>,
    polled_broadcast: Option<PolledBroadcast>,
    adopted: u64,
    version: u64,
    /// The attributes of unfinished batches of an earlier version, with their start times.
    pending: BTreeMap<String, Timestamp>,
}

/// The result of an update of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateUpdate {
    /// The state as it is now.
    Done(MonitorState),
    /// Nothing was written, since the state had changed; holds the present one.
    Refused(MonitorState),
}

impl MonitorState {
    /// Returns `true` if the monitor's clock runs: an aggregator of this version has written.
    pub fn has_clock(&self) -> bool {
        self.clock.is_some()
    }

    /// The last position given to a change.
    pub fn clock(&self) -> Timestamp {
        self.clock.unwrap_or_default()
    }

    /// Every change up to this position is in an item of its own.
    pub fn floor(&self) -> Timestamp {
        self.floor
    }

    /// The changes after the floor, in the order of their positions.
    pub fn latest(&self) -> &[StoredMonitorEntry] {
        &self.latest
    }

    /// The version that is due for a listener's Megaphone.
    pub fn due(&self, listener: &str) -> Option<Timestamp> {
        self.due.get(listener).copied()
    }

    /// The versions shown to readers of `__broadcasts__`; `None` before the first.
    pub fn polled_broadcast(&self) -> Option<PolledBroadcast> {
        self.polled_broadcast
    }

    /// Returns `true` if every change has a position. Otherwise a function of an earlier version has written entries,
    /// or may be doing so at `now`.
    pub fn is_settled(&self, now: Timestamp) -> bool {
        let mut began = self.pending.values();
        self.has_clock()
            && self.adopted == self.version
            && began.all(|began| began.after(ABANDONED_AFTER) <= now)
    }

    /// Returns `true` if functions of an earlier version have left entries to adopt.
    pub fn needs_adoption(&self) -> bool {
        !self.has_clock() || self.adopted != self.version || !self.pending.is_empty()
    }

    /// Starts the clock of a table whose entries reach up to `highest`: each keeps its timestamp as its position.
    pub fn start(
        &mut self,
        highest: Timestamp,
        polled_broadcast: Option<PolledBroadcast>,
        now: Timestamp,
    ) {
        self.clock = Some(highest);
        self.floor = highest;
        self.polled_broadcast = polled_broadcast;
        self.adopt(self.version, now);
    }

    /// The number of batches that functions of an earlier version wrote.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Records that the entries of an earlier version have positions, up to this `version`.
    pub fn adopt(&mut self, version: u64, now: Timestamp) {
        self.adopted = version;
        self.pending
            .retain(|_, began| began.after(ABANDONED_AFTER) > now);
    }

    /// Advances the clock to `position`, so that later positions follow it.
    pub fn advance(&mut self, position: Timestamp) {
        self.clock = self.clock.max(Some(position));
    }

    /// Returns `true` if the collection's own item is needed to tell whether `change` is known.
    ///
    /// No position is below its change's timestamp, so a change after the clock cannot be known.
    pub fn needs_item(&self, change: &CollectionChange) -> bool {
        change.last_modified <= self.clock() && self.entry(change).is_none()
    }

    /// Returns `true` if `change`, or a later one of its collection, is among the latest changes.
    pub fn knows(&self, change: &CollectionChange) -> bool {
        self.entry(change)
            .is_some_and(|known| known.change.last_modified >= change.last_modified)
    }

    /// Gives `change` the next position, unless it is known; `stored` is the entry in the collection's own item.
    /// Returns the resulting entry of the collection.
    pub fn record(
        &mut self,
        change: &CollectionChange,
        stored: Option<&StoredMonitorEntry>,
    ) -> StoredMonitorEntry {
        let known = self.entry(change).or(stored);
        if let Some(known) =
            known.filter(|known| known.change.last_modified >= change.last_modified)
        {
            return known.clone();
        }
        let position = change.last_modified.max(self.clock().next());
        let entry = StoredMonitorEntry {
            position,
            change: change.clone(),
        };
        self.clock = Some(position);
        self.latest.retain(|other| !other.change.is_of_same(change));
        self.latest.push(entry.clone());
        entry
    }

    fn entry(&self, change: &CollectionChange) -> Option<&StoredMonitorEntry> {
        let mut latest = self.latest.iter();
        latest.find(|entry| entry.change.is_of_same(change))
    }

    /// Makes `position` due for `listener`'s Megaphone, unless a later one is.
    pub fn raise_due(&mut self, listener: &str, position: Timestamp) {
        match self.due.get_mut(listener) {
            Some(due) => *due = position.max(*due),
            None => _ = self.due.insert(listener.to_owned(), position),
        }
    }

    /// Makes `position` the version for readers of `__broadcasts__` from `now` on, unless a later one is known.
    pub fn raise_polled_broadcast(
        &mut self,
        position: Timestamp,
        now: Timestamp,
        debounce: Debounce,
    ) {
        self.polled_broadcast = Some(PolledBroadcast::raised(
            self.polled_broadcast,
            position,
            now,
            debounce,
        ));
    }

    /// Removes the oldest changes until the state is small, up to the position `written`, since later ones are not in
    /// the table yet. The removed ones must be put into items of their own before this state is written.
    pub fn fold(&mut self, written: Timestamp) -> Vec<StoredMonitorEntry> {
        let mut excess = self.bytes().saturating_sub(MAX_BYTES);
        let is_folded = |entry: &&StoredMonitorEntry| {
            let is_folded = excess > 0 && entry.position <= written;
            excess = excess.saturating_sub(bytes(&entry.change));
            is_folded
        };
        let count = self.latest.iter().take_while(is_folded).count();
        let folded: Vec<_> = self.latest.drain(..count).collect();
        if let Some(last) = folded.last() {
            self.floor = last.position;
        }
        folded
    }

    /// The approximate size of the item in bytes.
    fn bytes(&self) -> usize {
        let due: usize = self.due.keys().map(|name| name.len() + 10).sum();
        let latest = self.latest.iter().map(|entry| bytes(&entry.change));
        FIXED_BYTES + due + latest.sum::<usize>()
    }

    pub(super) fn from_item(item: &Item) -> Result<Self, StoreError> {
        let pending = item.iter().filter(|(name, _)| name.starts_with(PENDING));
        let pending = pending.map(|(name, began)| {
            let began = timestamp(began).ok_or_else(|| malformed(item, "pending"))?;
            Ok((name.clone(), began))
        });
        let optional = |attribute| optional_time(item, attribute);
        let latest = map(item, "latest")?.into_iter().flatten();
        let latest = latest.map(|(name, entry)| {
            latest_entry(name, entry).ok_or_else(|| malformed(item, "latest"))
        });
        let mut latest: Vec<_> = latest.collect::<Result<_, _>>()?;
        latest.sort_unstable_by_key(|entry| entry.position);
        let due = map(item, "due")?.into_iter().flatten();
        let due = due.map(|(listener, due)| {
            let due = timestamp(due).ok_or_else(|| malformed(item, "due"))?;
            Ok((listener.clone(), due))
        });
        Ok(Self {
            clock: optional("clock")?,
            floor: optional("floor")?.unwrap_or_default(),
            latest,
            due: due.collect::<Result<_, StoreError>>()?,
            polled_broadcast: map(item, "pull")?
                .map(PolledBroadcast::from_item)
                .transpose()?,
            adopted: optional("adopted")?.unwrap_or_default().0,
            version: optional("version")?.unwrap_or_default().0,
            pending: pending.collect::<Result<_, StoreError>>()?,
        })
    }
}

/// Splits changes into those that fit into one update, at least one, and the rest.
pub fn split_update<T>(changes: &[T], change: impl Fn(&T) -> &CollectionChange) -> (&[T], &[T]) {
    let mut length = 0;
    let fits = |next: &&T| {
        length += bytes(change(next));
        length <= MAX_UPDATE_BYTES
    };
    let count = changes.iter().take_while(fits).count().max(1);
    changes.split_at(count.min(changes.len()))
}

/// The approximate size of a change in the state, in bytes.
fn bytes(change: &CollectionChange) -> usize {
    change.bucket.len() + change.collection.len() + CHANGE_BYTES
}

fn timestamp(value: &AttributeValue) -> Option<Timestamp> {
    Timestamp::from_digits(value.as_n().ok()?)
}

/// A map attribute; `None` if it is absent.
fn map<'i>(
    item: &'i Item,
    attribute: &'static str,
) -> Result<Option<&'i HashMap<String, AttributeValue>>, StoreError> {
    let value = item.get(attribute).map(AttributeValue::as_m);
    value.transpose().map_err(|_| malformed(item, attribute))
}

fn latest_entry(name: &str, entry: &AttributeValue) -> Option<StoredMonitorEntry> {
    let (bucket, collection) = name.split_once('/')?;
    let (position, last_modified, deleted) = match entry.as_l().ok()?.as_slice() {
        [position, last_modified] => (position, last_modified, false),
        [position, last_modified, deleted] => (position, last_modified, *deleted.as_bool().ok()?),
        _ => return None,
    };
    Some(StoredMonitorEntry {
        position: timestamp(position)?,
        change: CollectionChange {
            bucket: bucket.to_owned(),
            collection: collection.to_owned(),
            last_modified: timestamp(last_modified)?,
            deleted,
        },
    })
}

fn latest_attribute(entry: &StoredMonitorEntry) -> (String, AttributeValue) {
    let CollectionChange {
        bucket,
        collection,
        last_modified,
        deleted,
    } = &entry.change;
    let mut values = vec![number(entry.position), number(*last_modified)];
    if *deleted {
        values.push(AttributeValue::Bool(true));
    }
    (format!("{bucket}/{collection}"), AttributeValue::L(values))
}

fn key() -> Key {
    Key {
        pk: PARTITION.to_owned(),
        sk: STATE_KEY.to_owned(),
    }
}

impl Store {
    /// Reads the state. One `GetItem`, strongly consistent, usually 1 RCU.
    pub async fn monitor_state(&self) -> Result<MonitorState, StoreError> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key().into_item()))
            .consistent_read(true)
            .send()
            .await
            .map_err(StoreError::request("GetItem"))?;
        let state = answer.item.as_ref().map(MonitorState::from_item);
        Ok(state.transpose()?.unwrap_or_default())
    }

    /// Replaces the state `read` by `next`, unless it has changed since. The clock advances in any case.
    ///
    /// One `UpdateItem`, usually 1 WCU.
    pub async fn replace_monitor_state(
        &self,
        read: &MonitorState,
        mut next: MonitorState,
    ) -> Result<StateUpdate, StoreError> {
        if read.has_clock() {
            next.advance(read.clock().next());
        }
        let latest = next.latest.iter().map(latest_attribute).collect();
        let due = next.due.iter();
        let due = due.map(|(listener, due)| (listener.clone(), number(*due)));
        let over = read.pending.keys();
        let over = over.filter(|name| !next.pending.contains_key(*name));
        let over: Vec<_> = over.take(MAX_REMOVED).collect();
        let names = (0..over.len()).map(|n| format!("#n{n}"));
        let names: Vec<_> = names.collect();
        // Functions of an earlier version put the state into the index.
        let removed: String = names.iter().map(|name| format!(", {name}")).collect();
        let pull = if next.polled_broadcast.is_some() {
            ", pull = :pull"
        } else {
            ""
        };
        let expression = format!(
            "SET clock = :clock, floor = :floor, latest = :latest, due = :due, adopted = :adopted{pull} \
             REMOVE last_modified{removed}"
        );
        let names = names.into_iter().zip(over.into_iter().cloned());
        let names: HashMap<_, _> = names.collect();
        let mut update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key().into_item()))
            .update_expression(expression)
            .set_expression_attribute_names(Some(names).filter(|names| !names.is_empty()))
            .expression_attribute_values(":clock", number(next.clock()))
            .expression_attribute_values(":floor", number(next.floor))
            .expression_attribute_values(":latest", AttributeValue::M(latest))
            .expression_attribute_values(":due", AttributeValue::M(due.collect()))
            .expression_attribute_values(":adopted", number(Timestamp(next.adopted)))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        update = match read.clock {
            Some(clock) => update
                .condition_expression("clock = :read")
                .expression_attribute_values(":read", number(clock)),
            None => update.condition_expression("attribute_not_exists(clock)"),
        };
        if let Some(pull) = next.polled_broadcast {
            update =
                update.expression_attribute_values(":pull", AttributeValue::M(pull.into_item()));
        }
        match update.send().await {
            Ok(answer) => {
                let item = answer.attributes.unwrap_or_default();
                MonitorState::from_item(&item).map(StateUpdate::Done)
            }
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                    let present = refused.item().map(MonitorState::from_item).transpose()?;
                    Ok(StateUpdate::Refused(present.unwrap_or_default()))
                }
                _ => Err(StoreError::request("UpdateItem")(error)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn change(collection: &str, last_modified: u64) -> CollectionChange {
        CollectionChange {
            bucket: "main".to_owned(),
            collection: collection.to_owned(),
            last_modified: Timestamp(last_modified),
            deleted: false,
        }
    }

    #[test]
    fn a_position_is_the_timestamp_or_the_next_one_that_is_free() {
        let mut state = MonitorState::default();
        let mut record =
            |collection: &str, at| state.record(&change(collection, at), None).position.0;
        assert_eq!(record("a", 5), 5);
        assert_eq!(record("b", 5), 6);
        assert_eq!(record("c", 3), 7);
        assert_eq!(record("d", 7), 8);
        assert_eq!(record("d", 20), 20);
        // A known change keeps its position.
        assert_eq!(record("d", 20), 20);
        assert_eq!(record("d", 9), 20);
        assert_eq!(record("c", 3), 7);
        let latest: Vec<_> = state
            .latest()
            .iter()
            .map(|entry| &*entry.change.collection)
            .collect();
        assert_eq!(latest, ["a", "b", "c", "d"]);
    }

    #[test]
    fn the_item_of_a_collection_counts_where_the_state_has_forgotten_it() {
        let mut state = MonitorState::default();
        let stored = state.record(&change("a", 5), None);
        let mut state = MonitorState {
            clock: Some(Timestamp(9)),
            ..MonitorState::default()
        };
        assert!(state.needs_item(&change("a", 9)) && !state.needs_item(&change("a", 10)));
        assert_eq!(state.record(&change("a", 5), Some(&stored)), stored);
        assert_eq!(state.record(&change("a", 6), Some(&stored)).position.0, 10);
        assert!(!state.needs_item(&change("a", 6)));
    }

    proptest! {
        #[test]
        fn every_change_is_in_the_state_or_was_folded_and_the_floor_lies_between(
            changes in prop::collection::vec((0..40_u8, 0..100_u64, any::<bool>()), 1..200),
        ) {
            let mut state = MonitorState::default();
            let (mut written, mut items) = (state.clone(), HashMap::new());
            for (n, at, is_written) in changes {
                let change = change(&format!("{n:->60}"), at);
                let stored = items.get(&change.collection).filter(|_| state.needs_item(&change));
                let entry = state.record(&change, stored);
                prop_assert!(entry.change.last_modified >= change.last_modified);
                if is_written {
                    for folded in state.fold(written.clock()) {
                        prop_assert!(written.latest().contains(&folded));
                        items.insert(folded.change.collection.clone(), folded);
                    }
                    prop_assert!(state.bytes() <= MAX_BYTES || state.latest().iter().all(|e| e.position > written.clock()));
                    written = state.clone();
                }
                prop_assert!(state.latest().iter().all(|entry| entry.position > state.floor()));
                prop_assert!(state.latest().is_sorted_by_key(|entry| entry.position));
                prop_assert!(items.values().all(|entry| entry.position <= state.floor()));
                let known = state.entry(&change).or(items.get(&change.collection));
                prop_assert_eq!(known, Some(&entry));
            }
        }
    }
}
