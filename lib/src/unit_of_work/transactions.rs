//! Turns the writes of a unit of work into transactions.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::UnitOfWork;
use super::list_clock::ListSlot;
use super::members::MemberWrites;
use super::slot::ObjectSlot;
use crate::backoff::Backoff;
use crate::event::ResourceChanged;
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::store::history::{Entry, MAX_ENTRIES, Removal};
use crate::store::recent::TransactionWrites;
use crate::store::{CommitError, Content, MAX_TRANSACTION_ITEMS, Object, Store, Write, outbox};
use crate::timestamp::Timestamp;

/// The most bytes in a transaction: DynamoDB's 4 MB, less the keys and lists.
const MAX_SIZE: usize = 4 * 1024 * 1024 - 256 * 1024;
/// The number of 400 KB objects that fit into a transaction beside the outbox's entries and need not be measured.
const FEW_OBJECTS: usize = 5;

/// The longest pause before a later part of a large commit is retried, which doubles each time, and its limit.
const PART_PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(400));

impl UnitOfWork {
    /// The writes as transactions, in the order of their commits: one, unless it would be too large. Includes the
    /// events that a listener `waits_for`.
    ///
    /// # Errors
    /// [`CommitError::TooLarge`].
    pub(super) fn into_transactions(
        mut self,
        waits_for: &impl Fn(&ResourceChanged) -> bool,
    ) -> Result<Vec<Vec<Write>>, CommitError> {
        let now = self.now;
        let entries = self.entries(1, |_| Some(0), waits_for).remove(0);
        let has = |list: &ListUri| {
            let slot = self.lists.get(list);
            slot.is_some_and(ListSlot::is_written)
        };
        let items = |entry: &outbox::Entry| entry.parts.len() + usize::from(!has(&entry.head));
        let outbox: usize = entries.iter().map(items).sum();
        let lists = self.lists.keys().filter(|list| has(list));
        let mut members = MemberWrites::default();
        let mut is_in_steps = false;
        let mut objects = vec![];
        for (uri, slot) in &self.objects {
            if let Some(written) = &slot.written {
                members.add_slot(uri, slot);
                is_in_steps |= !slot.steps.is_empty();
                objects.push(written);
            }
        }
        let told = self.entries.values().flatten();
        let told_size: usize = told.clone().map(Entry::size).sum();
        let shared = self.shares.len();
        let count = objects.len() + lists.count() + members.len() + shared + outbox + told.count();
        if (is_in_steps || count > MAX_TRANSACTION_ITEMS)
            && self.lists.values().any(ListSlot::is_whole)
        {
            return Err(CommitError::TooLarge);
        }
        if is_in_steps || count > MAX_TRANSACTION_ITEMS {
            return Ok(self.into_parts(waits_for));
        }
        if objects.len() > FEW_OBJECTS || told_size > 0 {
            let size = told_size + objects.into_iter().map(Object::size).sum::<usize>();
            let parts = entries.iter().flat_map(|entry| &entry.parts);
            if size + parts.map(outbox::Part::size).sum::<usize>() > MAX_SIZE {
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
        let told = self.entries.into_values().flatten().map(Write::History);
        let written = objects
            .chain(lists)
            .chain(members)
            .chain(shares)
            .chain(told);
        let mut writes: Vec<_> = written.collect();
        name_writes(&mut writes, now);
        add_entries(&mut writes, entries);
        Ok(vec![writes])
    }

    /// The outbox's entries for each of `parts` transactions; `part_of` returns the one in which an object is written.
    fn entries(
        &self,
        parts: usize,
        part_of: impl Fn(&ObjectUri) -> Option<usize>,
        waits_for: &impl Fn(&ResourceChanged) -> bool,
    ) -> Vec<Vec<outbox::Entry>> {
        let parts = self.events.split(self.now, parts, part_of).into_iter();
        let entries = parts.map(|mut events| {
            events.retain(|(_, event)| waits_for(event));
            outbox::entries(events, self.now)
        });
        entries.collect()
    }

    /// The writes as several transactions, in the order of their commits: first the shares; then the objects of each
    /// list by time, with the list's timestamp; a group with the changes for its members, and each of its steps in a
    /// transaction of its own.
    fn into_parts(mut self, waits_for: &impl Fn(&ResourceChanged) -> bool) -> Vec<Vec<Write>> {
        let mut objects = vec![];
        for (uri, slot) in std::mem::take(&mut self.objects) {
            let steps: Vec<_> = slot.into_steps().collect();
            let last = steps.len();
            for (n, slot) in (1..).zip(steps) {
                let (uri, is_last) = (uri.clone(), n == last);
                let told = is_last.then(|| self.entries.remove(&uri)).flatten();
                objects.push(PartObject {
                    told: told.unwrap_or_default(),
                    uri,
                    slot,
                    is_last,
                });
            }
        }
        let shared = std::mem::take(&mut self.shares).into_iter();
        let mut parts = in_chunks(shared.map(Write::Share).collect());
        // The steps of a backdated write have the same time, and a stable sort keeps them in order.
        objects.sort_by_key(|object| {
            let written = object.slot.written.as_ref();
            (object.uri.list().clone(), written.map(|o| o.last_modified))
        });
        let tells = !self.events.is_empty();
        let mut shares = vec![Part::default()];
        for object in objects {
            // An object always fits into an empty part: large groups are split into steps for that.
            if shares
                .last()
                .is_none_or(|share| !share.has_room(&object, tells))
            {
                shares.push(Part::default());
            }
            if let Some(share) = shares.last_mut() {
                share.add(object);
            }
        }
        let mut lists = std::mem::take(&mut self.lists);
        let last = shares.len() - 1;
        let mut part_of = HashMap::new();
        for (n, share) in shares.iter().enumerate() {
            let objects = share.objects.iter().filter(|object| object.is_last);
            part_of.extend(objects.map(|object| (&object.uri, n)));
        }
        let entries = self.entries(shares.len(), |uri| part_of.get(uri).copied(), waits_for);
        for (n, (share, entries)) in shares.into_iter().zip(entries).enumerate() {
            let members = self.write_members(share.members.clone());
            let mut writes = share.into_writes(&mut lists, n == last);
            writes.extend(members);
            name_writes(&mut writes, self.now);
            add_entries(&mut writes, entries);
            parts.push(writes);
        }
        parts
    }
}

/// An object that is written in one of several transactions.
struct PartObject {
    uri: ObjectUri,
    slot: ObjectSlot,
    /// Whether this is the object's final state, not a step to it.
    is_last: bool,
    /// The entries of its bucket's history that tell of it.
    told: Vec<Entry>,
}

/// The writes of one of several transactions.
#[derive(Default)]
struct Part {
    objects: Vec<PartObject>,
    lists: BTreeSet<ListUri>,
    /// The heads of the outbox's entries for the objects.
    heads: BTreeSet<ListUri>,
    members: MemberWrites,
}

impl Part {
    /// Returns `true` if there is room for one more object that the part does not contain yet, and, if `tells` is set,
    /// for its events in the outbox.
    fn has_room(&self, object: &PartObject, tells: bool) -> bool {
        let uri = &object.uri;
        let members = match uri.kind() {
            Kind::Group => {
                let mut members = self.members.clone();
                members.add_slot(uri, &object.slot);
                members.len()
            }
            _ => self.members.len(),
        };
        let lists = std::iter::once(uri.list().clone()).chain(uri.child_lists());
        let lists = lists.filter(|list| !self.lists.contains(list)).count();
        let outbox = if tells {
            // The last part of each parent's entry, and its head unless it is written anyway.
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
        let told = self.objects.iter().chain([object]);
        let told = told.flat_map(|object| &object.told);
        let told_size: usize = told.clone().map(Entry::size).sum();
        if told_size > MAX_ENTRIES && !self.objects.is_empty() {
            return false;
        }
        let objects = self.objects.len() + 1 + told.count();
        let size = objects + self.lists.len() + lists + members + outbox;
        size <= MAX_TRANSACTION_ITEMS && self.objects.iter().all(|other| other.uri != *uri)
    }

    fn add(&mut self, object: PartObject) {
        let uri = &object.uri;
        self.members.add_slot(uri, &object.slot);
        self.heads.insert(outbox::head(uri.parent()));
        self.lists.insert(uri.list().clone());
        self.lists.extend(uri.child_lists());
        self.objects.push(object);
    }

    /// Takes the part's share of the lists' updates.
    fn into_writes(self, lists: &mut HashMap<ListUri, ListSlot>, last: bool) -> Vec<Write> {
        let mut writes = vec![];
        for uri in self.lists {
            let objects = self.objects.iter();
            let objects = objects.filter(|object| *object.uri.list() == uri);
            let times =
                objects.filter_map(|object| Some(object.slot.written.as_ref()?.last_modified));
            // In the order of the objects, which is that of their times.
            let times: Vec<_> = times.collect();
            let Some(slot) = lists.get_mut(&uri) else {
                continue;
            };
            writes.extend(slot.take_share(uri, &times, last));
        }
        for object in self.objects {
            writes.extend(object.slot.into_write(object.uri));
            writes.extend(object.told.into_iter().map(Write::History));
        }
        writes
    }
}

/// Names in each list what a transaction writes to it, except objects of an earlier generation of the list: no reader
/// is shown those, so one that looked for them would not find them.
fn name_writes(writes: &mut [Write], now: Timestamp) {
    let mut by_list = HashMap::<_, TransactionWrites>::new();
    let mut anew = HashMap::new();
    for write in &*writes {
        if let Write::List {
            uri,
            list: Some(list),
            replaced: true,
            ..
        } = write
        {
            anew.insert(uri, &list.generation);
        }
    }
    for write in &*writes {
        if let Write::Object { uri, object, .. } = write {
            let generation = anew.get(uri.list());
            if generation.is_some_and(|generation| !generation.owns(&object.parent)) {
                continue;
            }
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

/// Adds the outbox's entries to a transaction, each named in its head.
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

/// Transactions that take entries out of histories, each with the tombstones of what it takes out.
pub(super) fn of_removals(removals: Vec<Removal>) -> Vec<Vec<Write>> {
    let writes = removals
        .into_iter()
        .flat_map(|removal| [Write::Forget(removal.clone()), Write::Forgotten(removal)]);
    in_chunks(writes.collect())
}

fn in_chunks(writes: Vec<Write>) -> Vec<Vec<Write>> {
    let mut writes = writes.into_iter().peekable();
    let mut chunks = vec![];
    while writes.peek().is_some() {
        chunks.push(writes.by_ref().take(MAX_TRANSACTION_ITEMS).collect());
    }
    chunks
}

/// Commits a part other than the first.
///
/// # Errors
/// Only [`CommitError::Partial`]: an earlier part is committed, whatever the outcome of this one.
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
            // A failed condition never holds again.
            Err(error) => {
                tracing::error!(%error, "a part of a large write was committed, the next one was not");
                return Err(CommitError::Partial);
            }
        }
    }
}
