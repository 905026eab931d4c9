//! What one request read and wants to write.
//!
//! A request, a single one or a batch, reads all that it must know in one round trip
//! ([`UnitOfWork::read`]), decides on the strength of it without waiting for anything, sees its own
//! writes while it goes on, and commits them at its end in one transaction ([`UnitOfWork::commit`]) whose
//! conditions say that what it relied on still holds. When they do not, nothing was written, and the
//! whole request is done again.

mod allowance;
pub mod client_time;
mod list_clock;
mod members;
pub mod publications;
mod slot;
mod transactions;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::time::Instant;

pub use self::allowance::{Allowance, Exhausted};

use self::list_clock::ListSlot;
use self::publications::{Journaled, Publication};
use self::slot::ObjectSlot;
use crate::event::{Action, Events, Impacted, Origin, ResourceChanged};
use crate::permission::{AUTHENTICATED, EVERYONE, Permissions};
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::store::history::{Entry, Removal};
use crate::store::membership::{self, Member, Memberships};
use crate::store::recent::Recent;
use crate::store::shares::Note;
use crate::store::{self, CommitError, Content, Generation, Key, List, Object, Store, StoreError};
use crate::timestamp::Timestamp;

/// What the objects that are read together may weigh: three of the heaviest, which take about 100 MB of memory.
const MAX_WEIGHT: usize = 1_200_000;

/// What a request must know before it can be answered.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Objects, those that they live under included.
    pub objects: BTreeSet<ObjectUri>,
    /// Lists whose timestamps are to be known, or written.
    pub lists: BTreeSet<ListUri>,
    /// Principals, each with a bucket whose groups that it is in are to be known.
    pub members: BTreeSet<Member>,
    /// Principals whose item for the groups of all buckets is to be known.
    pub old_members: BTreeSet<String>,
}

impl Needs {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
            && self.lists.is_empty()
            && self.members.is_empty()
            && self.old_members.is_empty()
    }

    /// The needs of both.
    pub fn and(mut self, other: Self) -> Self {
        self.objects.extend(other.objects);
        self.lists.extend(other.lists);
        self.members.extend(other.members);
        self.old_members.extend(other.old_members);
        self
    }
}

/// An object that exists, as the unit sees it.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    /// When it was last written.
    pub last_modified: Timestamp,
    /// Its fields but for `id` and `last_modified`.
    pub data: &'a Map<String, Value>,
    /// What is granted on it.
    pub permissions: &'a Permissions,
    generation: &'a Generation,
}

impl Live<'_> {
    /// The generation that what is under it carries.
    pub fn generation(&self) -> &Generation {
        self.generation
    }
}

/// What one request read and wants to write.
#[derive(Clone, Debug)]
pub struct UnitOfWork {
    now: Timestamp,
    objects: HashMap<ObjectUri, ObjectSlot>,
    lists: HashMap<ListUri, ListSlot>,
    memberships: HashMap<Member, Memberships>,
    old_memberships: HashMap<String, Vec<(ObjectUri, Generation)>>,
    /// How many members have joined and left groups.
    turnover: usize,
    events: Events,
    /// Shares that are to be noted in items of their own.
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
    laid: HashMap<ListUri, HashMap<String, Object>>,
    /// What was written, where somebody asks.
    journal: Option<Vec<Journaled>>,
    /// What published collections are to become.
    publications: BTreeMap<ObjectUri, Publication>,
    /// What the request may still cost.
    pub allowance: Allowance,
}

impl UnitOfWork {
    /// Reads what is needed, in one round trip. What is asked for later must be among it.
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
            laid: HashMap::new(),
            journal: None,
            publications: BTreeMap::new(),
            allowance: Allowance::default(),
        };
        unit.read_more(store, needs).await?;
        Ok(unit)
    }

    /// The time at which it writes.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The same at another time. Its clock must not go back.
    pub fn at(self, now: Timestamp) -> Self {
        Self { now, ..self }
    }

    /// Reads what is needed besides and not known yet, in one round trip; in none if all is known.
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

    /// Takes in an object that was read otherwise, unless it is known already.
    pub fn insert_read(&mut self, uri: &ObjectUri, object: &Object) {
        if !self.objects.contains_key(uri) {
            let slot = ObjectSlot::new(Some(object.clone()));
            self.objects.insert(uri.clone(), slot);
        }
    }

    /// What was read of a whole list before, without the data of its objects; what the unit wrote is not in it.
    pub fn walked(&self, list: &ListUri) -> Option<Arc<Vec<(String, Object)>>> {
        self.walked.get(list).cloned()
    }

    /// Keeps what was read of a whole list for others of the same batch.
    pub fn remember_walk(&mut self, list: ListUri, objects: Arc<Vec<(String, Object)>>) {
        self.walked.insert(list, objects);
    }

    /// The groups that something in the list may be granted to, of the list's own bucket only some; `None` where the
    /// list does not know.
    pub fn sharing_groups(&self, list: &ListUri) -> Option<BTreeSet<ObjectUri>> {
        let shares = &self.lists.get(list)?.now.shares;
        let written = self.written_in(list).flat_map(|(_, object)| {
            let permissions = object.permissions();
            permissions.into_iter().flat_map(Permissions::groups)
        });
        shares
            .name_groups()
            .then(|| shares.groups().chain(written).collect())
    }

    /// Whether an object of the list may be shared with one of these principals. `false` is certain: nothing is.
    ///
    /// No round trip, unless more share something of the list than its item names; then one `BatchGetItem`, 1 RCU for
    /// each principal.
    pub async fn may_share(
        &self,
        store: &Store,
        list: &ListUri,
        principals: &[String],
    ) -> Result<bool, StoreError> {
        let Some(generation) = self.generation_of(list) else {
            return Ok(false);
        };
        let Some(slot) = self
            .lists
            .get(list)
            .filter(|slot| slot.now.shares.are_known())
        else {
            return Ok(true);
        };
        let shares = &slot.now.shares;
        if shares.name_one_of(principals) || self.written_in(list).next().is_some() {
            return Ok(true);
        }
        if !shares.are_more() {
            return Ok(false);
        }
        let apart = principals
            .iter()
            .filter(|principal| !is_of_system(principal));
        let keys = apart.filter_map(|principal| Key::share(list, &generation, principal));
        let found = store.read(&keys.collect::<Vec<_>>()).await?;
        Ok(!found.is_empty())
    }

    /// The objects of a list that were written, or that its layer holds, by id: what was read of the list by a query is as it
    /// was before.
    pub fn written_in<'a>(
        &'a self,
        list: &'a ListUri,
    ) -> impl Iterator<Item = (&'a str, &'a Object)> {
        let objects = self.objects.iter();
        let of_list = objects.filter(move |(uri, _)| uri.list() == list);
        let written = of_list.filter_map(|(uri, slot)| Some((uri.id(), slot.written.as_ref()?)));
        // Nobody writes to a list that has a layer but to publish.
        let laid = self.laid.get(list).into_iter().flatten();
        written.chain(laid.map(|(id, object)| (&**id, object)))
    }

    /// The object at `uri`, if it and everything that it lives under exist.
    pub fn get(&self, uri: &ObjectUri) -> Option<Live<'_>> {
        let slot = self.objects.get(uri)?;
        let written = slot.written.as_ref();
        let object = written.or_else(|| self.laid(uri)).or(slot.read.as_ref())?;
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
        parent.owns(&object.parent).then_some(Live {
            last_modified,
            data,
            permissions,
            generation,
        })
    }

    /// The object at `uri` as it is stored, if it exists.
    pub fn stored(&self, uri: &ObjectUri) -> Option<&Object> {
        self.get(uri)?;
        let slot = self.objects.get(uri)?;
        slot.written.as_ref().or(slot.read.as_ref())
    }

    /// The generation that the objects of a list were written under if they are there still; `None` when what they
    /// live under does not exist.
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

    /// How many transactions wrote to a list under past times, which its timestamp does not tell of.
    pub fn past_of(&self, list: &ListUri) -> u64 {
        self.lists.get(list).map_or(0, |slot| slot.now.past)
    }

    /// What the last transactions wrote to a list before it was read, under the parent that the unit sees.
    pub fn recent_in(&self, list: &ListUri) -> Recent {
        let read = self.lists.get(list).and_then(|slot| slot.read.as_ref());
        let generation = self.generation_of(list);
        read.filter(|list| generation.is_some_and(|generation| generation.owns(&list.generation)))
            .map_or_else(Recent::default, |list| list.recent.clone())
    }

    /// The timestamp of a list. The commit will fail if it is another by then, so that an answer may rest on it.
    pub fn rely_on_timestamp(&mut self, list: &ListUri) -> Timestamp {
        let slot = self.list(list);
        slot.relied_on = true;
        slot.now.timestamp
    }

    /// Creates the object at `uri`, in place of whatever was there, and opens the lists under it.
    ///
    /// `at` is the time that the client wants. A past one is kept and does not move the list's timestamp;
    /// the list's own timestamp becomes the next millisecond (Kinto 26.5, storage). Gives the object's time.
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

    /// Replaces the data and permissions of the object at `uri`, which exists. `at` as for [`Self::create`].
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

    /// Makes the object at `uri`, which exists, a tombstone and closes the lists under it. `at` as for [`Self::create`].
    pub fn delete(&mut self, uri: &ObjectUri, at: Option<Timestamp>) -> Timestamp {
        let generation = self.generation(uri);
        self.replace_child_lists(uri, &generation, true);
        self.write(uri, Action::Delete, generation, Content::Deleted, at)
    }

    /// The same, which gathers events if somebody is to be told of them.
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

    /// The same with another allowance.
    pub fn allowed(self, allowance: Allowance) -> Self {
        Self { allowance, ..self }
    }

    /// What is written from now on is told of as this request's; nobody is told when there is none.
    pub fn set_origin(&mut self, origin: impl FnOnce() -> Option<Origin>) {
        self.events.begin(origin);
    }

    /// Whether somebody is to be told of what is written.
    pub fn tells(&self) -> bool {
        self.events.are_gathered()
    }

    /// What was written, as listeners are told of it.
    pub fn events(&self) -> Vec<ResourceChanged> {
        self.events.all(self.now)
    }

    /// Whether there is something to commit.
    pub fn has_writes(&self) -> bool {
        let mut objects = self.objects.values();
        objects.any(|slot| slot.written.is_some()) || !self.removals.is_empty()
    }

    /// Writes an entry of its bucket's history in the transaction that writes the object at `uri`.
    pub fn add_entry(&mut self, uri: &ObjectUri, entry: Entry) {
        self.entries.entry(uri.clone()).or_default().push(entry);
    }

    /// Notes, unless that is known, what a key without attributes says ([`crate::store::shares`]).
    pub fn note(&mut self, key: Key) {
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

    /// The lists whose items are to be written.
    pub fn written_lists(&self) -> impl Iterator<Item = &ListUri> {
        let written = self.lists.iter();
        written
            .filter(|(_, slot)| slot.is_written())
            .map(|(uri, _)| uri)
    }

    /// Commits what was written, all or none, in one round trip, if its outcome is known at once; it is known by the
    /// deadline otherwise.
    ///
    /// More than a transaction can hold (a long list that is deleted, a large group) is committed in parts, each
    /// of them all or none, so that whoever reads meanwhile sees times in their order, and each principal in the groups
    /// alone that list it.
    ///
    /// Who joins a group costs a round trip before it, for the groups that they are in.
    ///
    /// Those of the events that somebody `waits_for` go into the outbox with what they tell of: there is one for each
    /// transaction therefore.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] when something that the unit relied on has changed: read and decide again.
    /// [`CommitError::Contended`] when that may be so. [`CommitError::TooLarge`] when it cannot be one transaction,
    /// [`CommitError::TooManyGroups`]. [`CommitError::Partial`] when a part was committed and another was not by the
    /// deadline.
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

    /// Opens the lists under an object that is created, or closes those under one that is deleted.
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
                    // The commit refuses it.
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
                new: object.told(uri),
                old: old.map(|old| old.told(uri)),
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

    /// Gives the time of a write to the list, and those of the steps before it.
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
            // Under a past time none of them moves the list; a later one is only reached by the last.
            let of_step = at.map(|at| at.min(reached.next()));
            step.last_modified = list.next_timestamp(now, of_step);
            at = at.map(|at| match at < reached {
                true => at,
                false => at.max(list.now.timestamp.next()),
            });
        }
        list.next_timestamp(now, at)
    }

    /// Notes with whom an object that is to be written is shared, but for those that it was shared with before.
    fn note_shares(&mut self, uri: &ObjectUri, object: &Object) {
        let before = self.objects.get(uri).and_then(|slot| {
            let before = slot.written.as_ref().or(slot.read.as_ref());
            before.filter(|before| object.parent.owns(&before.parent))
        });
        let before = before.map(Object::principals).unwrap_or_default();
        let shared: Vec<String> = object
            .principals()
            .difference(&before)
            .map(|principal| (*principal).to_owned())
            .collect();
        for principal in shared {
            if self.list(uri.list()).share(&principal) == Note::Apart {
                self.shares
                    .extend(Key::share(uri.list(), &object.parent, &principal));
            }
        }
    }

    /// The generation of an object that exists. One that does not has the root's, which no list is open in.
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

/// Whether a principal stands for many users, and is named by a list itself.
fn is_of_system(principal: &str) -> bool {
    matches!(principal, EVERYONE | AUTHENTICATED)
}
