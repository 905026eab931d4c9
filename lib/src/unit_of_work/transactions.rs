//! What was written in a unit of work, as transactions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde_json::Value;

use super::UnitOfWork;
use super::slot::{ListChange, ListSlot, ObjectSlot};
use crate::event::ResourceChanged;
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::store::membership::{Membership, MembershipChanges};
use crate::store::recent::Wrote;
use crate::store::{CommitError, Content, MAX_TRANSACTION_ITEMS, Object, Store, Write, outbox};
use crate::timestamp::Timestamp;

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
        self,
        waits_for: &impl Fn(&ResourceChanged) -> bool,
    ) -> Result<Vec<Vec<Write>>, CommitError> {
        let now = self.now;
        let memberships = self.membership_changes();
        let entries = self.entries(0, |_| true, waits_for);
        let has = |list: &ListUri| {
            let slot = self.lists.get(list);
            slot.is_some_and(|slot| slot.change != ListChange::None)
        };
        let items = |entry: &outbox::Entry| entry.parts.len() + usize::from(!has(&entry.head));
        let outbox: usize = entries.iter().map(items).sum();
        let lists = self.lists.keys().filter(|list| has(list));
        let objects = self.objects.values();
        let objects: Vec<_> = objects.filter_map(|slot| slot.written.as_ref()).collect();
        let count = objects.len() + lists.count() + memberships.len() + outbox;
        if count > MAX_TRANSACTION_ITEMS {
            return Ok(self.into_parts(waits_for));
        }
        if objects.len() > FEW_OBJECTS {
            let size: usize = objects.into_iter().map(Object::size).sum();
            let parts = entries.iter().flat_map(|entry| &entry.parts);
            if size + parts.map(outbox::Part::size).sum::<usize>() > MAX_SIZE {
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
        let mut writes: Vec<_> = objects.chain(lists).chain(memberships).collect();
        name_writes(&mut writes, now);
        add_entries(&mut writes, entries);
        Ok(vec![writes])
    }

    /// What the outbox is to hold of the `n`-th transaction, which writes what it `has`.
    fn entries(
        &self,
        n: usize,
        has: impl Fn(&ObjectUri) -> bool,
        waits_for: &impl Fn(&ResourceChanged) -> bool,
    ) -> Vec<outbox::Entry> {
        let mut events = self.events.share(self.now, n, has);
        events.retain(|(_, event)| waits_for(event));
        outbox::entries(events, self.now)
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
        let tells = !self.events.is_empty();
        let mut shares = vec![Part::default()];
        for (uri, slot) in objects {
            if shares
                .last()
                .is_none_or(|share| share.size_with(&uri, tells) > MAX_TRANSACTION_ITEMS)
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
            let entries = self.entries(n, has, waits_for);
            let mut writes = share.into_writes(&mut lists, n == last);
            name_writes(&mut writes, self.now);
            add_entries(&mut writes, entries);
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
    /// The heads of the outbox's entries that tell of the objects.
    heads: BTreeSet<ListUri>,
}

impl Part {
    /// How many items it would have at most with one more object, and what `tells` of it in the outbox.
    fn size_with(&self, uri: &ObjectUri, tells: bool) -> usize {
        let child_lists = uri.child_lists();
        let more = std::iter::once(uri.list().clone()).chain(child_lists);
        let more = more.filter(|list| !self.lists.contains(list)).count();
        let outbox = if tells {
            // The last part of each parent's entry, and its head where nothing else writes that.
            let head = outbox::head(uri.parent());
            let heads = self
                .heads
                .iter()
                .chain(Some(&head).filter(|head| !self.heads.contains(head)));
            let items =
                heads.map(|head| 1 + usize::from(head != uri.list() && !self.lists.contains(head)));
            outbox::MAX_FULL_PARTS + items.sum::<usize>()
        } else {
            0
        };
        self.objects.len() + 1 + self.lists.len() + more + outbox
    }

    fn add(&mut self, uri: ObjectUri, slot: ObjectSlot) {
        self.heads.insert(outbox::head(uri.parent()));
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

/// Names in each list what a transaction writes to it.
fn name_writes(writes: &mut [Write], now: Timestamp) {
    let mut by_list = HashMap::<_, Wrote>::new();
    for write in &*writes {
        if let Write::Object { uri, object, .. } = write {
            let is_deleted = object.content == Content::Deleted;
            let wrote = by_list.entry(uri.list().clone()).or_default();
            wrote.add(uri.id(), object.last_modified, is_deleted);
        }
    }
    for write in writes {
        if let Write::List { uri, wrote, .. } = write {
            *wrote = by_list.remove(uri).unwrap_or_default();
            wrote.at = now;
        }
    }
}

/// Adds entries of the outbox to a transaction, each named in its head.
fn add_entries(writes: &mut Vec<Write>, entries: Vec<outbox::Entry>) {
    for outbox::Entry { head, name, parts } in entries {
        let list = writes.iter_mut().find_map(|write| match write {
            Write::List { uri, entry, .. } if *uri == head => Some(entry),
            _ => None,
        });
        match list {
            Some(entry) => *entry = Some(name),
            None => writes.push(Write::Head {
                uri: head,
                entry: name,
            }),
        }
        writes.extend(parts.into_iter().map(Write::Outbox));
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
