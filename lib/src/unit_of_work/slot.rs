//! What a unit of work holds of one object and of one list: as it was read, and as it is to be.

use crate::resource::{ListUri, ObjectUri};
use crate::store::{Generation, List, ListCondition, Object, Write};
use crate::timestamp::Timestamp;

/// What was read of one object and what is to be written.
#[derive(Clone, Debug)]
pub(super) struct ObjectSlot {
    pub(super) read: Option<Object>,
    pub(super) written: Option<Object>,
}

/// What was read of one list and what is to be written.
#[derive(Clone, Debug)]
pub(super) struct ListSlot {
    read: Option<List>,
    pub(super) now: List,
    pub(super) change: ListChange,
    /// Whether an answer depends on the exact timestamp that was read.
    pub(super) relied_on: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListChange {
    None,
    /// Objects were written under past times that their client gave: the parent must exist, no more.
    Checked,
    /// Objects were written; the first of the times that they were given.
    Advanced(Timestamp),
    /// The parent was created or deleted.
    Replaced,
}

impl ObjectSlot {
    pub(super) fn new(read: Option<Object>) -> Self {
        Self {
            read,
            written: None,
        }
    }

    pub(super) fn into_write(self, uri: ObjectUri) -> Option<Write> {
        let replaces = self.read.as_ref().map(Object::version);
        self.written.map(|object| Write::Object {
            uri,
            object,
            replaces,
        })
    }
}

impl ListSlot {
    pub(super) fn new(read: Option<List>) -> Self {
        let absent = || List {
            timestamp: Timestamp(0),
            generation: Generation::ROOT,
            closed: false,
        };
        Self {
            now: read.clone().unwrap_or_else(absent),
            read,
            change: ListChange::None,
            relied_on: false,
        }
    }

    /// Gives the time of a write to the list.
    pub(super) fn assign(&mut self, now: Timestamp, at: Option<Timestamp>) -> Timestamp {
        let previous = self.now.timestamp;
        let given = match at {
            Some(at) if at < previous => {
                if self.change == ListChange::None {
                    self.change = ListChange::Checked;
                }
                return at;
            }
            Some(at) => at,
            None => now,
        };
        let time = given.max(previous.next());
        self.now.timestamp = time;
        if !matches!(self.change, ListChange::Advanced(_) | ListChange::Replaced) {
            self.change = ListChange::Advanced(time);
        }
        time
    }

    /// Opens the list for a new parent, or closes it. Its timestamp goes on from where it was, so that
    /// clients who knew the old list see that it was replaced.
    pub(super) fn replace(&mut self, now: Timestamp, generation: Generation, closed: bool) {
        self.now = List {
            timestamp: now.max(self.now.timestamp.next()),
            generation,
            closed,
        };
        self.change = ListChange::Replaced;
    }

    /// Takes a part's share out of what becomes of the list; what is left goes on from there. `latest` is the time of
    /// the latest object of the list in the part, `last` whether no other part follows.
    pub(super) fn take_share(
        &mut self,
        uri: ListUri,
        latest: Option<Timestamp>,
        last: bool,
    ) -> Option<Write> {
        let before = self
            .read
            .as_ref()
            .map_or(Timestamp(0), |read| read.timestamp);
        let reached = match self.change {
            _ if last => self.now.timestamp,
            ListChange::Replaced => latest.unwrap_or_default().max(before.next()),
            ListChange::Advanced(first) => latest.filter(|time| *time >= first).unwrap_or(before),
            ListChange::Checked | ListChange::None => before,
        };
        let now = List {
            timestamp: reached,
            ..self.now.clone()
        };
        let share = Self {
            read: self.read.replace(now.clone()),
            change: match self.change {
                ListChange::Advanced(_) if reached == before => ListChange::Checked,
                change => change,
            },
            relied_on: std::mem::take(&mut self.relied_on),
            now,
        };
        self.change = match self.change {
            ListChange::None => ListChange::None,
            ListChange::Advanced(first) if reached == before => ListChange::Advanced(first),
            _ if reached < self.now.timestamp => ListChange::Advanced(reached.next()),
            _ => ListChange::Checked,
        };
        share.into_write(uri)
    }

    pub(super) fn into_write(self, uri: ListUri) -> Option<Write> {
        let unchanged = || match &self.read {
            Some(read) => ListCondition::Unchanged(read.timestamp),
            None => ListCondition::Absent,
        };
        let generation = || self.now.generation.clone();
        let condition = match self.change {
            ListChange::None => return None,
            _ if self.relied_on || self.read.is_none() => unchanged(),
            ListChange::Replaced => unchanged(),
            ListChange::Checked => ListCondition::Open(generation()),
            ListChange::Advanced(first) => ListCondition::OpenBefore(generation(), first),
        };
        Some(match self.change {
            ListChange::Checked => Write::CheckList { uri, condition },
            _ => Write::List {
                uri,
                list: self.now,
                condition,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(timestamp: u64) -> ListSlot {
        ListSlot::new(Some(List {
            timestamp: Timestamp(timestamp),
            generation: Generation::ROOT,
            closed: false,
        }))
    }

    #[test]
    fn times_are_now_or_the_next_millisecond() {
        let mut slot = slot(100);
        assert_eq!(slot.assign(Timestamp(500), None), Timestamp(500));
        assert_eq!(slot.assign(Timestamp(500), None), Timestamp(501));
        assert_eq!(slot.assign(Timestamp(400), None), Timestamp(502));
        assert_eq!(slot.change, ListChange::Advanced(Timestamp(500)));
    }

    #[test]
    fn a_past_time_is_kept_and_does_not_move_the_list() {
        let mut slot = slot(100);
        assert_eq!(
            slot.assign(Timestamp(500), Some(Timestamp(7))),
            Timestamp(7)
        );
        assert_eq!(slot.now.timestamp, Timestamp(100));
        assert_eq!(slot.change, ListChange::Checked);
    }

    #[test]
    fn a_future_time_is_kept_and_moves_the_list() {
        let mut slot = slot(100);
        assert_eq!(
            slot.assign(Timestamp(500), Some(Timestamp(900))),
            Timestamp(900)
        );
        assert_eq!(slot.assign(Timestamp(500), None), Timestamp(901));
    }

    #[test]
    fn the_lists_own_time_becomes_the_next_millisecond() {
        assert_eq!(
            slot(100).assign(Timestamp(500), Some(Timestamp(100))),
            Timestamp(101)
        );
    }

    #[test]
    fn a_list_that_is_replaced_goes_on_in_time() {
        let mut slot = slot(100);
        slot.replace(Timestamp(50), Generation::unique(), true);
        assert_eq!(slot.now.timestamp, Timestamp(101));
        assert!(slot.now.closed);
    }
}
