//! What one request has read and is about to write.
//!
//! A request, single or batch, reads everything that it needs in one round trip ([`UnitOfWork::read`]), decides without
//! waiting, sees its own writes as it goes, and finally commits them in one transaction ([`UnitOfWork::commit`]), whose
//! conditions require that what it relied on still holds. If a condition fails, nothing was written, and the whole
//! request is retried.

mod allowance;
pub mod client_time;
mod list_clock;
mod members;
pub mod publications;
mod shares;
mod slot;
mod transactions;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::time::Instant;

pub use self::allowance::{Allowance, Exhausted};

use self::list_clock::ListSlot;
use self::publications::{JournalEntry, Publication};
use self::slot::ObjectSlot;
use crate::event::{Action, Events, Impacted, Origin, ResourceChanged};
use crate::permission::Permissions;
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::store::history::{Entry, Removal};
use crate::store::membership::{self, Member, Memberships};
use crate::store::recent::RecentWrites;
use crate::store::{self, CommitError, Content, Generation, Key, List, Object, Store, StoreError};
use crate::timestamp::Timestamp;

/// The greatest weight of the objects that are read together: three of the heaviest, which take about 100 MB of memory.
const MAX_WEIGHT: usize = 1_200_000;

/// What a request must read before it can be answered.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Objects, including their parents.
    pub objects: BTreeSet<ObjectUri>,
    /// Lists whose timestamps are read or written.
    pub lists: BTreeSet<ListUri>,
    /// Principals, each with a bucket in which to look up its groups.
    pub members: BTreeSet<Member>,
    /// Principals whose item for the groups of all buckets is read.
    pub old_members: BTreeSet<String>,
}

impl Needs {
    /// Returns `true` if nothing is needed.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
            && self.lists.is_empty()
            && self.members.is_empty()
            && self.old_members.is_empty()
    }

    /// The union of both.
    pub fn and(mut self, other: Self) -> Self {
        self.objects.extend(other.objects);
        self.lists.extend(other.lists);
        self.members.extend(other.members);
        self.old_members.extend(other.old_members);
        self
    }
}

/// An object that exists, as the unit of work sees it.
#[derive(Clone, Copy, Debug)]
pub struct LiveObject<'a> {
    /// The time of its last write.
    pub last_modified: Timestamp,
    /// Its fields except `id` and `last_modified`.
    pub data: &'a Map<String, Value>,
    /// The permissions on it.
    pub permissions: &'a Permissions,
    generation: &'a Generation,
}

impl LiveObject<'_> {
    /// The generation that what is under it carries.
    pub fn generation(&self) -> &Generation {
        self.generation
    }
}

/// What one request has read and is about to write.
#[derive(Clone, Debug)]
pub struct UnitOfWork {
    now: Timestamp,
    objects: HashMap<ObjectUri, ObjectSlot>,
    lists: HashMap<ListUri, ListSlot>,
    memberships: HashMap<Member, Memberships>,
    old_memberships: HashMap<String, Vec<(ObjectUri, Generation)>>,
    /// The number of members who have joined or left groups.
    turnover: usize,
    events: Events,
    /// Shares to be noted in items of their own.
    shares: BTreeSet<Key>,
    /// The entries of histories that tell of what is written, by its URI.
    entries: BTreeMap<ObjectUri, Vec<Entry>>,
    /// Entries of histories that are deleted.
    removals: Vec<Removal>,
    /// Entries of histories that are deleted where nothing hinders it: what is written does not depend on it.
    trims: Vec<Removal>,
    /// Lists that were read whole, without the data of their objects.
    walked: HashMap<ListUri, Arc<Vec<(String, Object)>>>,
    /// What the layers of lists hold, as far as it was read.
    layer_objects: HashMap<ListUri, HashMap<String, Object>>,
    /// What was written, where somebody asks.
    journal: Option<Vec<JournalEntry>>,
    /// What published collections are to become.
    publications: BTreeMap<ObjectUri, Publication>,
    /// Objects to be written to lists by layers: more than fits into a transaction.
    layer_writes: BTreeMap<ListUri, BTreeMap<String, Object>>,
    /// What remains of the request's allowance.
    pub allowance: Allowance,
}

impl UnitOfWork {
    /// Reads what is needed, in one round trip. Whatever is asked for later must be included.
    pub async fn read(store: &Store, now: Timestamp, needs: Needs) -> Result<Self, StoreError> {
        let mut unit = Self {
            now,
            objects: HashMap::new(),
            lists: HashMap::new(),
            memberships: HashMap::new(),
            old_memberships: HashMap::new(),
            turnover: 0,
            events: Events::default(),
            shares: BTreeSet::new(),
            entries: BTreeMap::new(),
            removals: vec![],
            trims: vec![],
            walked: HashMap::new(),
            layer_objects: HashMap::new(),
            journal: None,
            publications: BTreeMap::new(),
            layer_writes: BTreeMap::new(),
            allowance: Allowance::default(),
        };
        unit.read_more(store, needs).await?;
        Ok(unit)
    }

    /// The time of the writes.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The same unit at another time. The time must not go back.
    pub fn at(self, now: Timestamp) -> Self {
        Self { now, ..self }
    }

    /// Reads what is needed and not known yet, in one round trip; in none if all is known.
    pub async fn read_more(&mut self, store: &Store, needs: Needs) -> Result<(), StoreError> {
        let objects = needs.objects.into_iter();
        let objects: Vec<_> = objects
            .filter(|uri| !self.objects.contains_key(uri))
            .map(|uri| (Key::object(&uri), uri))
            .collect();
        let lists = needs.lists.into_iter();
        let lists: Vec<_> = lists
            .filter(|uri| !self.lists.contains_key(uri))
            .map(|uri| (Key::list(&uri), uri))
            .collect();
        let members = needs.members.into_iter();
        let members: Vec<_> = members
            .filter(|member| !self.memberships.contains_key(member))
            .map(|member| (Key::memberships(&member), member))
            .collect();
        let old_members = needs.old_members.into_iter();
        let old_members: Vec<_> = old_members
            .filter(|principal| !self.old_memberships.contains_key(principal))
            .map(|principal| (Key::old_memberships(&principal), principal))
            .collect();
        let keys: Vec<Key> = objects
            .iter()
            .map(|(key, _)| key)
            .chain(lists.iter().map(|(key, _)| key))
            .chain(members.iter().map(|(key, _)| key))
            .chain(old_members.iter().map(|(key, _)| key))
            .cloned()
            .collect();
        let found = store.read(&keys).await?;
        let weights = found.values().map(store::weight_of);
        if weights.sum::<usize>() > MAX_WEIGHT {
            return Err(StoreError::TooMuch);
        }
        for (key, uri) in objects {
            let read = found.get(&key).map(Object::from_item).transpose()?;
            self.objects.insert(uri, ObjectSlot::new(read));
        }
        for (key, uri) in lists {
            let read = found.get(&key).map(List::from_item).transpose()?;
            self.lists.insert(uri, ListSlot::new(read));
        }
        for (key, member) in members {
            let groups = found.get(&key).map(Memberships::from_item).transpose()?;
            self.memberships.insert(member, groups.unwrap_or_default());
        }
        for (key, principal) in old_members {
            let groups = found.get(&key).map(membership::from_old_item).transpose()?;
            self.old_memberships
                .insert(principal, groups.unwrap_or_default());
        }
        Ok(())
    }

    /// Adds an object that was read by other means, unless it is known already.
    pub fn insert_read(&mut self, uri: &ObjectUri, object: &Object) {
        if !self.objects.contains_key(uri) {
            let slot = ObjectSlot::new(Some(object.clone()));
            self.objects.insert(uri.clone(), slot);
        }
    }

    /// The objects of a list that was read whole, without their data and without the unit's own writes.
    pub fn walked(&self, list: &ListUri) -> Option<Arc<Vec<(String, Object)>>> {
        self.walked.get(list).cloned()
    }

    /// Keeps the objects of a list that was read whole for other requests of the same batch.
    pub fn remember_walk(&mut self, list: ListUri, objects: Arc<Vec<(String, Object)>>) {
        self.walked.insert(list, objects);
    }

    /// The objects of a list that the unit wrote, by id: a query of the list returns them as they were before.
    pub fn written_in<'a>(
        &'a self,
        list: &'a ListUri,
    ) -> impl Iterator<Item = (&'a str, &'a Object)> {
        let objects = self.objects.iter();
        let of_list = objects.filter(move |(uri, _)| uri.list() == list);
        let written = of_list.filter_map(|(uri, slot)| Some((uri.id(), slot.written.as_ref()?)));
        let laid = self.layer_objects.get(list).into_iter().flatten();
        let laid = laid.filter(|(id, _)| !self.is_written(&list.clone().object(&***id)));
        written.chain(laid.map(|(id, object)| (&**id, object)))
    }

    /// Whether the unit writes the object at `uri` to its place.
    fn is_written(&self, uri: &ObjectUri) -> bool {
        let slot = self.objects.get(uri);
        slot.is_some_and(|slot| slot.written.is_some())
    }

    /// The object at `uri`, if it and all its ancestors exist.
    pub fn get(&self, uri: &ObjectUri) -> Option<LiveObject<'_>> {
        let slot = self.objects.get(uri)?;
        let written = slot.written.as_ref();
        let object = written
            .or_else(|| self.layer_object(uri))
            .or(slot.read.as_ref())?;
        let Content::Live { data, permissions } = &object.content else {
            return None;
        };
        let parent = match uri.parent() {
            Some(parent) => self.get(parent)?.generation,
            None => &Generation::ROOT,
        };
        let Object {
            last_modified,
            ref generation,
            ..
        } = *object;
        parent.owns(&object.parent).then_some(LiveObject {
            last_modified,
            data,
            permissions,
            generation,
        })
    }

    /// The object at `uri` in its stored form, if it exists.
    pub fn stored(&self, uri: &ObjectUri) -> Option<&Object> {
        self.get(uri)?;
        let slot = self.objects.get(uri)?;
        let written = slot.written.as_ref();
        written
            .or_else(|| self.layer_object(uri))
            .or(slot.read.as_ref())
    }

    /// The generation that the existing objects of a list carry as their parent's; `None` if the parent does not exist.
    pub fn generation_of(&self, list: &ListUri) -> Option<Generation> {
        match list.parent() {
            Some(parent) => self.get(parent).map(|live| live.generation.clone()),
            None => Some(Generation::ROOT),
        }
    }

    /// The timestamp of a list.
    pub fn timestamp_of(&self, list: &ListUri) -> Timestamp {
        self.lists
            .get(list)
            .map_or(Timestamp(0), |slot| slot.now.timestamp)
    }

    /// The number of transactions with backdated writes to a list, which its timestamp does not reflect.
    pub fn backdated_writes(&self, list: &ListUri) -> u64 {
        self.lists
            .get(list)
            .map_or(0, |slot| slot.now.backdated_writes)
    }

    /// The last transactions' writes to a list before it was read, under the parent that the unit sees.
    pub fn recent_writes(&self, list: &ListUri) -> RecentWrites {
        self.list_as_read(list)
            .map_or_else(RecentWrites::default, |list| list.recent.clone())
    }

    /// A list as it was read, if that was under the parent that the unit sees.
    pub(super) fn list_as_read(&self, list: &ListUri) -> Option<&List> {
        let read = self.lists.get(list)?.read.as_ref()?;
        let generation = self.generation_of(list)?;
        generation.owns(&read.generation).then_some(read)
    }

    /// The timestamp of a list, for a response that relies on it. The commit fails if the timestamp has changed by
    /// then.
    pub fn rely_on_timestamp(&mut self, list: &ListUri) -> Timestamp {
        let slot = self.list(list);
        slot.relied_on = true;
        slot.now.timestamp
    }

    /// Creates the object at `uri`, replacing whatever was there, and opens its child lists.
    ///
    /// `at` is the time that the client asks for. A backdated one is kept and does not move the list's timestamp; the
    /// list's own timestamp becomes the next millisecond (Kinto 26.5, storage). Returns the object's time.
    pub fn create(
        &mut self,
        uri: &ObjectUri,
        data: Map<String, Value>,
        permissions: Permissions,
        at: Option<Timestamp>,
    ) -> Timestamp {
        let generation = Generation::unique();
        self.replace_child_lists(uri, &generation, false);
        let content = Content::Live { data, permissions };
        self.write(uri, Action::Create, generation, content, at)
    }

    /// Replaces the data and permissions of the existing object at `uri`. `at` as for [`Self::create`].
    pub fn update(
        &mut self,
        uri: &ObjectUri,
        data: Map<String, Value>,
        permissions: Permissions,
        at: Option<Timestamp>,
    ) -> Timestamp {
        let generation = self.generation(uri);
        let content = Content::Live { data, permissions };
        self.write(uri, Action::Update, generation, content, at)
    }

    /// Replaces the existing object at `uri` by a tombstone and closes its child lists. `at` as for [`Self::create`].
    pub fn delete(&mut self, uri: &ObjectUri, at: Option<Timestamp>) -> Timestamp {
        let generation = self.generation(uri);
        self.replace_child_lists(uri, &generation, true);
        self.write(uri, Action::Delete, generation, Content::Deleted, at)
    }

    /// The same unit, which gathers events if there are listeners.
    pub fn with_events(self, somebody: bool) -> Self {
        Self {
            events: Events::new(somebody),
            ..self
        }
    }

    /// Grants more on an object that this unit has written, at the same time.
    pub fn grant(&mut self, uri: &ObjectUri, permission: &str, principals: &[String]) {
        let written = |unit: &Self| unit.objects.get(uri)?.written.clone();
        let Some(mut object) = written(self) else {
            return;
        };
        if let Content::Live { permissions, .. } = &mut object.content {
            for principal in principals {
                permissions.grant(permission, principal);
            }
        }
        self.note_shares(uri, &object);
        if let Some(slot) = self.objects.get_mut(uri) {
            slot.written = Some(object);
        }
    }

    /// The same unit with another allowance.
    pub fn allowed(self, allowance: Allowance) -> Self {
        Self { allowance, ..self }
    }

    /// Sets the origin of the events of all writes to come; with none, these writes publish no events.
    pub fn set_origin(&mut self, origin: impl FnOnce() -> Option<Origin>) {
        self.events.begin(origin);
    }

    /// Returns `true` if the writes publish events.
    pub fn publishes_events(&self) -> bool {
        self.events.are_gathered()
    }

    /// The events of the writes, for listeners.
    pub fn events(&self) -> Vec<ResourceChanged> {
        self.events.all(self.now)
    }

    /// Returns `true` if there is something to commit.
    pub fn has_writes(&self) -> bool {
        let mut objects = self.objects.values();
        objects.any(|slot| slot.written.is_some()) || !self.removals.is_empty()
    }

    /// Writes an entry of its bucket's history in the transaction that writes the object at `uri`.
    pub fn add_entry(&mut self, uri: &ObjectUri, entry: Entry) {
        self.entries.entry(uri.clone()).or_default().push(entry);
    }

    /// Notes, unless that is known, what a key without attributes says ([`crate::store::shares`]).
    pub fn add_marker(&mut self, key: Key) {
        self.shares.insert(key);
    }

    /// Deletes entries of histories, in parts behind all else that is written.
    pub fn remove_entries(&mut self, removals: impl IntoIterator<Item = Removal>) {
        self.removals.extend(removals);
    }

    /// Deletes entries of histories when all else is written. Where that fails they stay.
    pub fn trim_entries(&mut self, removals: impl IntoIterator<Item = Removal>) {
        self.trims.extend(removals);
    }

    /// The object at `uri` as it was read, a tombstone too, if it was written under the parent that it has now.
    pub fn as_read(&self, uri: &ObjectUri) -> Option<&Object> {
        let read = self.objects.get(uri)?.read.as_ref()?;
        let generation = self.generation_of(uri.list())?;
        generation.owns(&read.parent).then_some(read)
    }

    /// The lists whose items are about to be written.
    pub fn written_lists(&self) -> impl Iterator<Item = &ListUri> {
        let written = self.lists.iter();
        written
            .filter(|(_, slot)| slot.is_written())
            .map(|(uri, _)| uri)
    }

    /// Commits all writes or none, in one round trip if the outcome is known at once, otherwise by the deadline.
    ///
    /// Writes that exceed one transaction (deletion of a long list, a large group) are committed in parts, each of them
    /// all or none, so that readers in between see times in order, and each principal in exactly the groups that list
    /// it.
    ///
    /// If members join a group, one more round trip before the commit reads the groups that they are in.
    ///
    /// Events that a listener `waits_for` go into the outbox in the transaction of their writes; each transaction has
    /// entries of its own.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] if something that the unit relied on has changed: read and decide again.
    /// [`CommitError::Contended`] if it may have changed. [`CommitError::TooLarge`] if the writes exceed one
    /// transaction and cannot be split, [`CommitError::TooManyGroups`]. [`CommitError::Partial`] if one part was
    /// committed and another was not by the deadline.
    pub async fn commit(
        mut self,
        store: &Store,
        waits_for: impl Fn(&ResourceChanged) -> bool,
        deadline: Instant,
    ) -> Result<(), CommitError> {
        self.check_members(store).await?;
        self.shares.retain(|share| !store.knows_share(share));
        let shares = self.shares.clone();
        let trims = transactions::of_removals(std::mem::take(&mut self.trims));
        let removals = transactions::of_removals(std::mem::take(&mut self.removals));
        let mut parts = self.into_transactions(&waits_for)?;
        parts.extend(removals);
        parts.retain(|part| !part.is_empty());
        let mut parts = parts.into_iter();
        if let Some(first) = parts.next() {
            store.commit(first, deadline).await?;
        }
        for part in parts {
            transactions::commit_part(store, part, deadline).await?;
        }
        for part in trims {
            if let Err(error) = store.commit(part, deadline).await {
                tracing::warn!(%error, "a history was not trimmed");
                break;
            }
        }
        store.remember_shares(shares);
        Ok(())
    }

    /// Opens the child lists of an object that is created, or closes those of one that is deleted.
    fn replace_child_lists(&mut self, uri: &ObjectUri, generation: &Generation, closed: bool) {
        let now = self.now;
        for list in uri.child_lists() {
            self.list(&list).replace(now, generation.clone(), closed);
        }
    }

    fn write(
        &mut self,
        uri: &ObjectUri,
        action: Action,
        generation: Generation,
        content: Content,
        at: Option<Timestamp>,
    ) -> Timestamp {
        let parent = uri
            .parent()
            .map_or(Generation::ROOT, |parent| self.generation(parent));
        let mut object = Object {
            last_modified: Timestamp(0),
            generation,
            parent,
            content,
        };
        let mut steps = match uri.kind() {
            Kind::Group => {
                let read = self.objects.get(uri).and_then(|slot| slot.read.as_ref());
                self.turnover += members::turnover(read, &object);
                match self.turnover > members::MAX_TURNOVER {
                    // The commit fails for too many members.
                    true => vec![],
                    false => members::steps(read, &object),
                }
            }
            _ => vec![],
        };
        let last_modified = self.assign_times(uri.list(), &mut steps, at);
        object.last_modified = last_modified;
        if self.events.are_gathered() {
            let old = self.stored(uri);
            let impacted = Impacted {
                new: object.event_data(uri),
                old: old.map(|old| old.event_data(uri)),
            };
            let timestamp = self.timestamp_of(uri.list());
            self.events.add(uri, action, impacted, timestamp);
        }
        self.note_shares(uri, &object);
        self.note_in_journal(uri, action);
        let slot = self
            .objects
            .entry(uri.clone())
            .or_insert_with(|| ObjectSlot::new(None));
        slot.written = Some(object);
        slot.steps = steps;
        last_modified
    }

    /// Assigns the time of a write to the list, and the times of the steps before it.
    fn assign_times(
        &mut self,
        list: &ListUri,
        steps: &mut [Object],
        mut at: Option<Timestamp>,
    ) -> Timestamp {
        let now = self.now;
        let list = self.list(list);
        for step in steps {
            let reached = list.now.timestamp;
            // A backdated write's steps do not move the list; a time in the future is reached only by the last step.
            let of_step = at.map(|at| at.min(reached.next()));
            step.last_modified = list.next_timestamp(now, of_step);
            at = at.map(|at| match at < reached {
                true => at,
                false => at.later_than(list.now.timestamp),
            });
        }
        list.next_timestamp(now, at)
    }

    /// The generation of an existing object. For a missing one, the root's, under which no list is open.
    fn generation(&self, uri: &ObjectUri) -> Generation {
        self.get(uri)
            .map_or(Generation::ROOT, |live| live.generation.clone())
    }

    fn list(&mut self, uri: &ListUri) -> &mut ListSlot {
        self.lists
            .entry(uri.clone())
            .or_insert_with(|| ListSlot::new(None))
    }
}
