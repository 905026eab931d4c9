//! The time of the next write to a list, and the unit of work's state of that list.

use std::collections::BTreeSet;

use crate::resource::ListUri;
use crate::store::publication::{self, PublicationWrite, Published};
use crate::store::recent::{RecentWrites, TransactionWrites};
use crate::store::shares::{ShareWrite, Shares, SharesChange};
use crate::store::write::{PublicationChange, SourceChange};
use crate::store::{Generation, List, ListCondition, Write};
use crate::timestamp::Timestamp;

/// One list as it was read, and what is to be written to it.
#[derive(Clone, Debug)]
pub(super) struct ListSlot {
    pub(super) read: Option<List>,
    pub(super) now: List,
    pub(super) change: ListChange,
    /// Whether objects were written with backdated times given by the client.
    is_backdated: bool,
    /// Whether a response depends on the exact timestamp that was read.
    pub(super) relied_on: bool,
    /// The principals that objects of the list are newly shared with.
    shared: BTreeSet<String>,
    /// What its item is to show of a publication.
    pub(super) show: Option<PublicationWrite>,
    /// What becomes of it as a source.
    pub(super) source: SourceSlot,
}

/// What a unit of work does to a list as the source of publications.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SourceSlot {
    /// Whether a command rests on exactly what was read of the list.
    pub(super) is_exact: bool,
    /// Who edits it after what the unit does.
    pub(super) editor: Option<Editor>,
    /// Whether it is under review after what the unit does.
    is_reviewed: bool,
}

/// Who edits a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Editor {
    /// Who did so when it was read, which must still hold.
    Same(String),
    /// Somebody who begins to.
    New(String),
}

impl SourceSlot {
    /// What the list's item is to become, in this state.
    fn into_change(
        self,
        read: Option<&List>,
        timestamp: Timestamp,
        is_backdated: bool,
        replaced: bool,
    ) -> SourceChange {
        let before = read.map_or(0, |read| read.backdated_writes);
        let published = read.map(|read| &read.published);
        let mut change = SourceChange {
            backdated_writes: self.is_exact.then_some(before),
            ..SourceChange::default()
        };
        match self.editor {
            Some(Editor::Same(editor)) if !self.is_exact => change.edited_by = Some(editor),
            Some(Editor::Same(editor) | Editor::New(editor)) => {
                change.editor = Some(Some(editor));
                change.reviewed = Some(None);
            }
            None if self.is_exact => {
                let state = || publication::state(timestamp, before + u64::from(is_backdated));
                change.editor = Some(None);
                change.reviewed = Some(self.is_reviewed.then(state));
            }
            // Of an earlier life of the list.
            None if replaced
                && published.is_some_and(|it| it.editor.is_some() || it.reviewed.is_some()) =>
            {
                change.editor = Some(None);
                change.reviewed = Some(None);
            }
            None => {}
        }
        change
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListChange {
    None,
    /// All writes were backdated: only the parent must still exist.
    Checked,
    /// Objects were written; holds the first of the times that they were given.
    Advanced(Timestamp),
    /// The parent was created or deleted.
    Replaced,
}

impl ListSlot {
    pub(super) fn new(read: Option<List>) -> Self {
        let absent = || List {
            timestamp: Timestamp(0),
            generation: Generation::ROOT,
            closed: false,
            backdated_writes: 0,
            shares: Shares::none(),
            recent: RecentWrites::default(),
            published: Published::default(),
        };
        Self {
            now: read.clone().unwrap_or_else(absent),
            read,
            change: ListChange::None,
            is_backdated: false,
            relied_on: false,
            shared: BTreeSet::new(),
            show: None,
            source: SourceSlot::default(),
        }
    }

    /// Whether its item is to be written.
    pub(super) fn is_written(&self) -> bool {
        self.change != ListChange::None || self.is_whole()
    }

    /// Whether its write is to be in one transaction with all others: a command, or a publication.
    pub(super) fn is_whole(&self) -> bool {
        self.show.is_some() || self.source.is_exact
    }

    /// Has the item show a publication, whose objects have times up to `at` where it changes any.
    pub(super) fn publish(&mut self, at: Option<Timestamp>, show: PublicationWrite) {
        if let Some(at) = at {
            self.next_timestamp(at, None);
        }
        self.relied_on = true;
        self.show = Some(show);
    }

    /// Makes the write a command, which rests on all that the list holds; after it that is under review, or not.
    pub(super) fn end_editing(&mut self, is_reviewed: bool) {
        self.relied_on = true;
        self.source = SourceSlot {
            is_exact: true,
            editor: None,
            is_reviewed,
        };
    }

    /// Records that an object of the list is shared with a principal. Returns where else to note it.
    pub(super) fn share(&mut self, principal: &str) -> ShareWrite {
        self.now.shares.add(principal, &mut self.shared)
    }

    /// Returns the time of a write to the list.
    pub(super) fn next_timestamp(&mut self, now: Timestamp, at: Option<Timestamp>) -> Timestamp {
        let previous = self.now.timestamp;
        let given = match at {
            Some(at) if at < previous => {
                self.is_backdated = true;
                if self.change == ListChange::None {
                    self.change = ListChange::Checked;
                }
                return at;
            }
            Some(at) => at,
            None => now,
        };
        let time = given.later_than(previous);
        self.now.timestamp = time;
        if !matches!(self.change, ListChange::Advanced(_) | ListChange::Replaced) {
            self.change = ListChange::Advanced(time);
        }
        time
    }

    /// Opens the list for a new parent, or closes it. Its timestamp continues from the old one, so that clients that
    /// knew the old list see that it was replaced.
    pub(super) fn replace(&mut self, now: Timestamp, generation: Generation, closed: bool) {
        self.now = List {
            timestamp: now.later_than(self.now.timestamp),
            generation,
            closed,
            shares: Shares::none(),
            ..self.now.clone()
        };
        self.change = ListChange::Replaced;
    }

    /// Splits off the list's update for one of several transactions; `self` keeps the updates that remain. `times` are
    /// those of the list's objects in this part, earliest first; `last` is set if no other part follows.
    pub(super) fn take_share(
        &mut self,
        uri: ListUri,
        times: &[Timestamp],
        last: bool,
    ) -> Option<Write> {
        let latest = times.last().copied();
        let before = self
            .read
            .as_ref()
            .map_or(Timestamp(0), |read| read.timestamp);
        let reached = match self.change {
            _ if last => self.now.timestamp,
            ListChange::Replaced => latest.unwrap_or_default().later_than(before),
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
            is_backdated: match self.change {
                // Between two parts, readers may have read the list up to just before `first`.
                ListChange::Advanced(first) => times.first().is_some_and(|time| *time < first),
                _ => self.is_backdated,
            },
            relied_on: std::mem::take(&mut self.relied_on),
            // Each part names them, since any part may be the last that is committed.
            shared: self.shared.clone(),
            // Neither this nor a command is ever one of several parts.
            show: None,
            source: self.source.clone(),
            now,
        };
        // Who begins to edit in the first part must still do so in those that follow.
        self.source.editor = self.source.editor.take().map(|editor| match editor {
            Editor::New(editor) | Editor::Same(editor) => Editor::Same(editor),
        });
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
        if !self.is_written() {
            return None;
        }
        let condition = match self.change {
            ListChange::None => unchanged(),
            _ if self.relied_on || self.read.is_none() => unchanged(),
            ListChange::Replaced => unchanged(),
            ListChange::Checked => ListCondition::Open(generation()),
            ListChange::Advanced(first) => ListCondition::OpenBefore(generation(), first),
        };
        // What is not there yet is written as a whole.
        let moves =
            !matches!(self.change, ListChange::Checked | ListChange::None) || self.read.is_none();
        let replaced = self.change == ListChange::Replaced;
        let is_new = replaced || self.read.is_none();
        let published = self.read.as_ref().map(|read| &read.published);
        let is_backdated = self.is_backdated || self.change == ListChange::Checked;
        let timestamp = self.now.timestamp;
        let read = self.read.as_ref();
        let source = self
            .source
            .into_change(read, timestamp, is_backdated, replaced);
        let showed = published.is_some_and(|it| it.signatures.is_some() || it.layer.is_some());
        Some(Write::List {
            uri,
            shares: match is_new {
                true => SharesChange::Set(self.now.shares.clone()),
                false if self.now.shares.are_known() => SharesChange::Add(self.shared),
                false => SharesChange::Forget,
            },
            list: moves.then_some(self.now),
            is_backdated,
            condition,
            entry: None,
            wrote: TransactionWrites::default(),
            replaced,
            publication: match self.show {
                Some(show) => PublicationChange::Publish(Box::new(show)),
                None if replaced && showed => PublicationChange::Forget,
                None => PublicationChange::Keep,
            },
            source: Box::new(source),
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
            backdated_writes: 0,
            shares: Shares::none(),
            recent: RecentWrites::default(),
            published: Published::default(),
        }))
    }

    #[test]
    fn times_are_now_or_the_next_millisecond() {
        let mut slot = slot(100);
        assert_eq!(slot.next_timestamp(Timestamp(500), None), Timestamp(500));
        assert_eq!(slot.next_timestamp(Timestamp(500), None), Timestamp(501));
        assert_eq!(slot.next_timestamp(Timestamp(400), None), Timestamp(502));
        assert_eq!(slot.change, ListChange::Advanced(Timestamp(500)));
    }

    #[test]
    fn a_backdated_time_is_kept_and_does_not_move_the_list() {
        let mut slot = slot(100);
        assert_eq!(
            slot.next_timestamp(Timestamp(500), Some(Timestamp(7))),
            Timestamp(7)
        );
        assert_eq!(slot.now.timestamp, Timestamp(100));
        assert_eq!(slot.change, ListChange::Checked);
    }

    /// The list's timestamp after a write, and whether the write counts as backdated.
    fn timestamp_and_backdated(write: Option<Write>) -> (Option<u64>, bool) {
        match write {
            Some(Write::List {
                list, is_backdated, ..
            }) => (list.map(|list| list.timestamp.0), is_backdated),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn backdated_writes_are_counted_whatever_else_is_written() {
        let list = ListUri::buckets;
        let mut alone = slot(100);
        alone.next_timestamp(Timestamp(500), Some(Timestamp(7)));
        assert_eq!(
            timestamp_and_backdated(alone.into_write(list())),
            (None, true)
        );
        let mut none = slot(100);
        none.next_timestamp(Timestamp(500), None);
        assert_eq!(
            timestamp_and_backdated(none.clone().into_write(list())),
            (Some(500), false)
        );
        // Later than the timestamp that was read, but another write may have moved the list past it.
        none.next_timestamp(Timestamp(500), Some(Timestamp(300)));
        assert_eq!(
            timestamp_and_backdated(none.into_write(list())),
            (Some(500), true)
        );
    }

    #[test]
    fn each_part_counts_its_own_backdated_writes() {
        let list = ListUri::buckets;
        let mut slot = slot(100);
        for at in [Some(7), None, Some(8), None, None].map(|at| at.map(Timestamp)) {
            slot.next_timestamp(Timestamp(500), at);
        }
        let mut share = |times: &[u64], last| {
            let times: Vec<_> = times.iter().copied().map(Timestamp).collect();
            timestamp_and_backdated(slot.take_share(list(), &times, last))
        };
        assert_eq!(share(&[7], false), (None, true));
        assert_eq!(share(&[8, 500], false), (Some(500), true));
        assert_eq!(share(&[501, 502], true), (Some(502), false));
    }

    #[test]
    fn a_future_time_is_kept_and_moves_the_list() {
        let mut slot = slot(100);
        assert_eq!(
            slot.next_timestamp(Timestamp(500), Some(Timestamp(900))),
            Timestamp(900)
        );
        assert_eq!(slot.next_timestamp(Timestamp(500), None), Timestamp(901));
    }

    #[test]
    fn the_lists_own_time_becomes_the_next_millisecond() {
        assert_eq!(
            slot(100).next_timestamp(Timestamp(500), Some(Timestamp(100))),
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
