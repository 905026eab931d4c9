//! What was written in a unit of work, as transactions.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::UnitOfWork;
use super::members::MemberWrites;
use super::slot::{ListChange, ListSlot, ObjectSlot};
use crate::event::ResourceChanged;
use crate::resource::{ListUri, ObjectUri};
use crate::store::{CommitError, MAX_TRANSACTION_ITEMS, Object, Store, Write, outbox};

/// Bytes of a transaction at most: DynamoDB's 4 MB, less what keys and lists take.
const MAX_SIZE: usize = 4 * 1024 * 1024 - 256 * 1024;
/// So many objects of 400 KB fit into a transaction beside the outbox's entries; they need not be measured.
const FEW_OBJECTS: usize = 5;

/// Times that a later part of a large commit is tried.
const MAX_PART_ATTEMPTS: u32 = 8;

impl UnitOfWork {
    /// What was written as transactions, in the order in which they are to be committed: one, unless it holds too much.
    /// With the events that somebody `waits_for`.
    ///
    /// # Errors
    /// [`CommitError::TooLarge`]
    pub(super) fn into_transactions(
        mut self,
        waits_for: &impl Fn(&ResourceChanged) -> bool,
    ) -> Result<Vec<Vec<Write>>, CommitError> {
        let outbox = self.outbox(0, |_| true, waits_for);
        let writes_lists = self.lists.values();
        let lists = writes_lists.filter(|slot| slot.change != ListChange::None);
        let mut members = MemberWrites::default();
        let mut is_in_steps = false;
        let mut objects = vec![];
        for (uri, slot) in &self.objects {
            if let Some(written) = &slot.written {
                members.add(uri, slot.read.as_ref(), written);
                is_in_steps |= !slot.steps.is_empty();
                objects.push(written);
            }
        }
        let count =
            objects.len() + lists.count() + members.len() + self.shares.len() + outbox.len();
        if is_in_steps || count > MAX_TRANSACTION_ITEMS {
            return Ok(self.into_parts(waits_for));
        }
        if objects.len() > FEW_OBJECTS {
            let size: usize = objects.into_iter().map(Object::size).sum();
            let outbox = outbox.iter().map(|write| match write {
                Write::Outbox(part) => part.size(),
                _ => 0,
            });
            if size + outbox.sum::<usize>() > MAX_SIZE {
                return Err(CommitError::TooLarge);
            }
        }
        let members = self.write_members(members);
        let objects = self
            .objects
            .into_iter()
            .filter_map(|(uri, slot)| slot.into_write(uri));
        let lists = self
            .lists
            .into_iter()
            .filter_map(|(uri, slot)| slot.into_write(uri));
        let shares = self.shares.into_iter().map(Write::Share);
        let written = objects.chain(lists).chain(members).chain(shares);
        Ok(vec![written.chain(outbox).collect()])
    }

    /// What the outbox is to hold of the `n`-th transaction, which writes what it `has`.
    fn outbox(
        &self,
        n: usize,
        has: impl Fn(&ObjectUri) -> bool,
        waits_for: &impl Fn(&ResourceChanged) -> bool,
    ) -> Vec<Write> {
        let mut events = self.events.share(self.now, n, has);
        events.retain(|(_, event)| waits_for(event));
        let entries = outbox::entries(events, self.now).into_iter();
        entries.map(Write::Outbox).collect()
    }

    /// The same in several transactions, in the order in which they are to be committed: with whom something is shared;
    /// the objects of each list by time, with the list's timestamp; a group with what changes for its members, each of
    /// its steps in a transaction of its own.
    fn into_parts(mut self, waits_for: &impl Fn(&ResourceChanged) -> bool) -> Vec<Vec<Write>> {
        let mut objects = vec![];
        for (uri, slot) in std::mem::take(&mut self.objects) {
            let steps: Vec<_> = slot.into_steps().collect();
            let last = steps.len();
            for (n, slot) in (1..).zip(steps) {
                let uri = uri.clone();
                objects.push(PartObject {
                    uri,
                    slot,
                    is_last: n == last,
                });
            }
        }
        let shared = std::mem::take(&mut self.shares).into_iter();
        let mut parts = in_chunks(shared.map(Write::Share).collect());
        // Of those of one time, which are steps under a past one, none goes before another.
        objects.sort_by_key(|object| {
            let written = object.slot.written.as_ref();
            (object.uri.list().clone(), written.map(|o| o.last_modified))
        });
        let most = match self.events.is_empty() {
            true => MAX_TRANSACTION_ITEMS,
            false => MAX_TRANSACTION_ITEMS - outbox::MAX_PARTS,
        };
        let mut shares = vec![Part::default()];
        for object in objects {
            if let Some(share) = shares.last_mut()
                && let Err(object) = share.add(object, most)
            {
                let mut share = Part::default();
                // Alone it always fits: its step is made for that.
                let _ = share.add(object, usize::MAX);
                shares.push(share);
            }
        }
        let mut lists = std::mem::take(&mut self.lists);
        let last = shares.len() - 1;
        for (n, share) in shares.into_iter().enumerate() {
            let has = |uri: &ObjectUri| {
                let mut objects = share.objects.iter();
                objects.any(|object| object.is_last && object.uri == *uri)
            };
            let outbox = self.outbox(n, has, waits_for);
            let members = self.write_members(share.members.clone());
            let mut writes = share.into_writes(&mut lists, n == last);
            writes.extend(members);
            writes.extend(outbox);
            parts.push(writes);
        }
        parts
    }
}

/// An object that is written in one of several transactions.
struct PartObject {
    uri: ObjectUri,
    slot: ObjectSlot,
    /// Whether it is so what it is to be, not a step to that.
    is_last: bool,
}

/// What one of several transactions writes.
#[derive(Default)]
struct Part {
    objects: Vec<PartObject>,
    lists: BTreeSet<ListUri>,
    members: MemberWrites,
}

impl Part {
    /// Takes in one more object, unless that made more than `most` items, those of the outbox left out, or it is there
    /// already; then the object comes back.
    fn add(&mut self, object: PartObject, most: usize) -> Result<(), PartObject> {
        let uri = &object.uri;
        let mut members = self.members.clone();
        if let Some(written) = &object.slot.written {
            members.add(uri, object.slot.read.as_ref(), written);
        }
        let lists = std::iter::once(uri.list().clone()).chain(uri.child_lists());
        let lists: Vec<_> = lists.filter(|list| !self.lists.contains(list)).collect();
        let size = self.objects.len() + 1 + self.lists.len() + lists.len() + members.len();
        let mut objects = self.objects.iter();
        if size > most || objects.any(|other| other.uri == *uri) {
            return Err(object);
        }
        self.lists.extend(lists);
        self.members = members;
        self.objects.push(object);
        Ok(())
    }

    /// Takes the part's share out of what becomes of the lists.
    fn into_writes(self, lists: &mut HashMap<ListUri, ListSlot>, last: bool) -> Vec<Write> {
        let mut writes = vec![];
        for uri in self.lists {
            let objects = self.objects.iter();
            let objects = objects.filter(|object| *object.uri.list() == uri);
            let times =
                objects.filter_map(|object| Some(object.slot.written.as_ref()?.last_modified));
            // In their order, which is that of the objects.
            let times: Vec<_> = times.collect();
            let Some(slot) = lists.get_mut(&uri) else {
                continue;
            };
            writes.extend(slot.take_share(uri, &times, last));
        }
        let objects = self.objects.into_iter();
        writes.extend(objects.filter_map(|object| object.slot.into_write(object.uri)));
        writes
    }
}

fn in_chunks(writes: Vec<Write>) -> Vec<Vec<Write>> {
    let mut writes = writes.into_iter().peekable();
    let mut chunks = vec![];
    while writes.peek().is_some() {
        chunks.push(writes.by_ref().take(MAX_TRANSACTION_ITEMS).collect());
    }
    chunks
}

/// Commits a part that is not the first one.
pub(super) async fn commit_part(store: &Store, part: Vec<Write>) -> Result<(), CommitError> {
    for attempt in 0..MAX_PART_ATTEMPTS {
        match store.commit(part.clone()).await {
            Err(CommitError::Conflict | CommitError::Contended) => {
                let longest = 2 << attempt;
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=longest))).await;
            }
            outcome => return outcome,
        }
    }
    Err(CommitError::Partial)
}
