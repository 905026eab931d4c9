//! What was written in a unit of work, as transactions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::UnitOfWork;
use super::slot::{ListChange, ListSlot, ObjectSlot};
use crate::backoff::Backoff;
use crate::event::ResourceChanged;
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::store::membership::{Membership, MembershipChanges};
use crate::store::{CommitError, Content, MAX_TRANSACTION_ITEMS, Object, Store, Write, outbox};

/// Bytes of a transaction at most: DynamoDB's 4 MB, less what keys and lists take.
const MAX_SIZE: usize = 4 * 1024 * 1024 - 256 * 1024;
/// So many objects of 400 KB fit into a transaction beside the outbox's entries; they need not be measured.
const FEW_OBJECTS: usize = 5;

/// The longest pause before a later part of a large commit is repeated, and its limit: it doubles each time.
const PART_PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(400));

impl UnitOfWork {
    /// What was written as transactions, in the order in which they are to be committed: one, unless it holds too much.
    /// With the events that somebody `waits_for`.
    ///
    /// # Errors
    /// [`CommitError::TooLarge`]
    pub(super) fn into_transactions(
        self,
        waits_for: &impl Fn(&ResourceChanged) -> bool,
    ) -> Result<Vec<Vec<Write>>, CommitError> {
        let memberships = self.membership_changes();
        let outbox = self.outbox(0, |_| true, waits_for);
        let writes_lists = self.lists.values();
        let lists = writes_lists.filter(|slot| slot.change != ListChange::None);
        let objects = self.objects.values();
        let objects: Vec<_> = objects.filter_map(|slot| slot.written.as_ref()).collect();
        let count = objects.len() + lists.count() + memberships.len() + outbox.len();
        if count > MAX_TRANSACTION_ITEMS {
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
        let memberships = memberships
            .into_iter()
            .map(|(principal, changes)| Write::Memberships { principal, changes });
        let objects = self
            .objects
            .into_iter()
            .filter_map(|(uri, slot)| slot.into_write(uri));
        let lists = self
            .lists
            .into_iter()
            .filter_map(|(uri, slot)| slot.into_write(uri));
        let written = objects.chain(lists).chain(memberships);
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

    /// The same in several transactions, in the order in which they are to be committed: who leaves groups, the
    /// objects of each list by time with the list's timestamp, who joins groups.
    fn into_parts(mut self, waits_for: &impl Fn(&ResourceChanged) -> bool) -> Vec<Vec<Write>> {
        let (mut leaves, mut joins) = (vec![], vec![]);
        for (principal, changes) in self.membership_changes() {
            let leaving = MembershipChanges {
                leaves: changes.leaves,
                ..MembershipChanges::default()
            };
            let joining = MembershipChanges {
                joins: changes.joins,
                ..MembershipChanges::default()
            };
            if !leaving.leaves.is_empty() {
                leaves.push(Write::Memberships {
                    principal: principal.clone(),
                    changes: leaving,
                });
            }
            if !joining.joins.is_empty() {
                joins.push(Write::Memberships {
                    principal,
                    changes: joining,
                });
            }
        }
        let mut parts = in_chunks(leaves);
        let mut objects: Vec<_> = std::mem::take(&mut self.objects)
            .into_iter()
            .filter(|(_, slot)| slot.written.is_some())
            .collect();
        objects.sort_by_key(|(uri, slot)| {
            let written = slot.written.as_ref();
            (uri.list().clone(), written.map(|o| o.last_modified))
        });
        let most = match self.events.is_empty() {
            true => MAX_TRANSACTION_ITEMS,
            false => MAX_TRANSACTION_ITEMS - outbox::MAX_PARTS,
        };
        let mut shares = vec![Part::default()];
        for (uri, slot) in objects {
            if shares
                .last()
                .is_none_or(|share| share.size_with(&uri) > most)
            {
                shares.push(Part::default());
            }
            if let Some(share) = shares.last_mut() {
                share.add(uri, slot);
            }
        }
        let mut lists = std::mem::take(&mut self.lists);
        let last = shares.len() - 1;
        for (n, share) in shares.into_iter().enumerate() {
            let has = |uri: &ObjectUri| share.objects.iter().any(|(object, _)| object == uri);
            let outbox = self.outbox(n, has, waits_for);
            let mut writes = share.into_writes(&mut lists, n == last);
            writes.extend(outbox);
            parts.push(writes);
        }
        parts.extend(in_chunks(joins));
        parts
    }

    /// What becomes of the memberships of each principal. A group's members join it each time that it is written, so
    /// that to repeat a request completes what one that failed between its parts left undone.
    fn membership_changes(&self) -> BTreeMap<String, MembershipChanges> {
        let mut changes = BTreeMap::<String, MembershipChanges>::new();
        let groups = self.objects.iter();
        for (group, slot) in groups.filter(|(uri, _)| uri.kind() == Kind::Group) {
            let Some(written) = &slot.written else {
                continue;
            };
            let (before, after) = (members(slot.read.as_ref()), members(Some(written)));
            for member in &after {
                let joins = &mut changes.entry((*member).to_owned()).or_default().joins;
                joins.push(Membership {
                    group: group.clone(),
                    bucket: written.parent.clone(),
                });
            }
            for member in before.difference(&after) {
                let leaves = &mut changes.entry((*member).to_owned()).or_default().leaves;
                leaves.push(group.clone());
            }
        }
        changes
    }
}

/// The members of a group; none of what is no group, or is there no more.
fn members(object: Option<&Object>) -> BTreeSet<&str> {
    let members = match object.map(|object| &object.content) {
        Some(Content::Live { data, .. }) => data.get("members").and_then(Value::as_array),
        _ => None,
    };
    members
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// What one of several transactions writes.
#[derive(Default)]
struct Part {
    objects: Vec<(ObjectUri, ObjectSlot)>,
    lists: BTreeSet<ListUri>,
}

impl Part {
    /// How many items it would have with one more object, those of the outbox left out.
    fn size_with(&self, uri: &ObjectUri) -> usize {
        let child_lists = uri.child_lists();
        let more = std::iter::once(uri.list().clone()).chain(child_lists);
        let more = more.filter(|list| !self.lists.contains(list)).count();
        self.objects.len() + 1 + self.lists.len() + more
    }

    fn add(&mut self, uri: ObjectUri, slot: ObjectSlot) {
        self.lists.insert(uri.list().clone());
        self.lists.extend(uri.child_lists());
        self.objects.push((uri, slot));
    }

    /// Takes the part's share out of what becomes of the lists.
    fn into_writes(self, lists: &mut HashMap<ListUri, ListSlot>, last: bool) -> Vec<Write> {
        let mut writes = vec![];
        for uri in self.lists {
            let times = self
                .objects
                .iter()
                .filter(|(object, _)| *object.list() == uri);
            let times = times.filter_map(|(_, slot)| Some(slot.written.as_ref()?.last_modified));
            // In their order, which is that of the objects.
            let times: Vec<_> = times.collect();
            let Some(slot) = lists.get_mut(&uri) else {
                continue;
            };
            writes.extend(slot.take_share(uri, &times, last));
        }
        let objects = self.objects.into_iter();
        writes.extend(objects.filter_map(|(uri, slot)| slot.into_write(uri)));
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
///
/// # Errors
/// [`CommitError::Partial`] alone: an earlier part is committed, whatever became of this one.
pub(super) async fn commit_part(
    store: &Store,
    part: Vec<Write>,
    deadline: Instant,
) -> Result<(), CommitError> {
    let mut backoff = Backoff::new(PART_PAUSES.0, PART_PAUSES.1);
    loop {
        match store.commit(part.clone(), deadline).await {
            Ok(()) => return Ok(()),
            Err(CommitError::Contended { .. }) if backoff.wait_until(deadline).await => {}
            // A condition that does not hold will not hold again.
            Err(error) => {
                tracing::error!(%error, "a part of a large write was committed, the next one was not");
                return Err(CommitError::Partial);
            }
        }
    }
}
