//! What one request read and wants to write.
//!
//! A request, a single one or a batch, reads all that it must know in one round trip
//! ([`UnitOfWork::read`]), decides on the strength of it without waiting for anything, sees its own
//! writes while it goes on, and commits them at its end in one transaction ([`UnitOfWork::commit`]) whose
//! conditions say that what it relied on still holds. When they do not, nothing was written, and the
//! whole request is done again.

mod slot;
mod transactions;

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use self::slot::{ListSlot, ObjectSlot};
use crate::event::{Action, Events, Impacted, Origin, ResourceChanged};
use crate::permission::Permissions;
use crate::resource::{ListUri, ObjectUri};
use crate::store::membership::Membership;
use crate::store::recent::Recent;
use crate::store::{CommitError, Content, Generation, Key, List, Object, Store, StoreError};
use crate::timestamp::Timestamp;

/// What a request must know before it can be answered.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Objects, those that they live under included.
    pub objects: BTreeSet<ObjectUri>,
    /// Lists whose timestamps are to be known, or written.
    pub lists: BTreeSet<ListUri>,
    /// Principals whose groups are to be known.
    pub principals: BTreeSet<String>,
}

impl Needs {
    /// The needs of both.
    pub fn and(mut self, other: Self) -> Self {
        self.objects.extend(other.objects);
        self.lists.extend(other.lists);
        self.principals.extend(other.principals);
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

/// What one request read and wants to write.
#[derive(Clone, Debug)]
pub struct UnitOfWork {
    now: Timestamp,
    objects: HashMap<ObjectUri, ObjectSlot>,
    lists: HashMap<ListUri, ListSlot>,
    memberships: HashMap<String, Vec<Membership>>,
    events: Events,
}

impl UnitOfWork {
    /// Reads what is needed, in one round trip; in a second one the buckets of groups that a principal is in,
    /// where these are other buckets. What is asked for later must be among it.
    pub async fn read(store: &Store, now: Timestamp, needs: Needs) -> Result<Self, StoreError> {
        let mut unit = Self {
            now,
            objects: HashMap::new(),
            lists: HashMap::new(),
            memberships: HashMap::new(),
            events: Events::default(),
        };
        unit.read_more(store, needs).await?;
        let groups = unit.memberships.values().flatten();
        let buckets = groups.map(|membership| membership.group.bucket_uri().clone());
        let needs = Needs {
            objects: buckets.collect(),
            ..Needs::default()
        };
        unit.read_more(store, needs).await?;
        Ok(unit)
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
        let principals = needs.principals.into_iter();
        let principals: Vec<_> = principals
            .filter(|principal| !self.memberships.contains_key(principal))
            .map(|principal| (Key::groups(&principal), principal))
            .collect();
        let keys: Vec<Key> = objects
            .iter()
            .map(|(key, _)| key)
            .chain(lists.iter().map(|(key, _)| key))
            .chain(principals.iter().map(|(key, _)| key))
            .cloned()
            .collect();
        let found = store.read(&keys).await?;
        for (key, uri) in objects {
            let read = found.get(&key).map(Object::from_item).transpose()?;
            self.objects.insert(uri, ObjectSlot::new(read));
        }
        for (key, uri) in lists {
            let read = found.get(&key).map(List::from_item).transpose()?;
            self.lists.insert(uri, ListSlot::new(read));
        }
        for (key, principal) in principals {
            let groups = found.get(&key).map(Membership::from_item).transpose()?;
            self.memberships
                .insert(principal, groups.unwrap_or_default());
        }
        Ok(())
    }

    /// Takes in an object that was read otherwise, unless it is known already.
    pub fn learn(&mut self, uri: &ObjectUri, object: &Object) {
        if !self.objects.contains_key(uri) {
            let slot = ObjectSlot::new(Some(object.clone()));
            self.objects.insert(uri.clone(), slot);
        }
    }

    /// The URIs of the groups that `principal` is in, in their order.
    pub fn groups_of(&self, principal: &str) -> Vec<String> {
        let memberships = self.memberships.get(principal).into_iter().flatten();
        let mut groups: Vec<_> = memberships
            .filter(|Membership { group, bucket }| {
                let held_by = self.get(group.bucket_uri());
                held_by.is_some_and(|live| live.generation == bucket)
            })
            .map(|membership| membership.group.to_string())
            .collect();
        groups.sort_unstable();
        groups
    }

    /// The objects of a list that were written, by id: what was read of the list by a query is as it was before.
    pub fn written_in<'a>(
        &'a self,
        list: &'a ListUri,
    ) -> impl Iterator<Item = (&'a str, &'a Object)> {
        self.objects
            .iter()
            .filter(move |(uri, _)| uri.list() == list)
            .filter_map(|(uri, slot)| Some((uri.id(), slot.written.as_ref()?)))
    }

    /// The object at `uri`, if it and everything that it lives under exist.
    pub fn get(&self, uri: &ObjectUri) -> Option<Live<'_>> {
        let slot = self.objects.get(uri)?;
        let object = slot.written.as_ref().or(slot.read.as_ref())?;
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
        (object.parent == *parent).then_some(Live {
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
        read.filter(|list| Some(&list.generation) == generation.as_ref())
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
    pub fn telling(self, somebody: bool) -> Self {
        Self {
            events: Events::new(somebody),
            ..self
        }
    }

    /// What is written from now on is told of as this request's; nobody is told when there is none.
    pub fn on_behalf_of(&mut self, origin: impl FnOnce() -> Option<Origin>) {
        self.events.begin(origin);
    }

    /// What was written, as listeners are told of it.
    pub fn events(&self) -> Vec<ResourceChanged> {
        self.events.all(self.now)
    }

    /// Whether there is something to commit.
    pub fn has_writes(&self) -> bool {
        self.objects.values().any(|slot| slot.written.is_some())
    }

    /// Commits what was written, all or none, in one round trip.
    ///
    /// More than a transaction can hold (a long list that is deleted, a large group) is committed in parts, each
    /// of them all or none, so that whoever reads meanwhile sees times in their order, and no principal in a group
    /// that it is not to be in.
    ///
    /// Those of the events that somebody `waits_for` go into the outbox with what they tell of: there is one for each
    /// transaction therefore.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] when something that the unit relied on has changed: read and decide again.
    /// [`CommitError::Contended`] when that may be so. [`CommitError::TooLarge`] when it cannot be one transaction.
    pub async fn commit(
        self,
        store: &Store,
        waits_for: impl Fn(&ResourceChanged) -> bool,
    ) -> Result<(), CommitError> {
        let mut parts = self.into_transactions(&waits_for)?.into_iter();
        if let Some(first) = parts.next() {
            store.commit(first).await?;
        }
        for part in parts {
            transactions::commit_part(store, part).await?;
        }
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
        let now = self.now;
        let last_modified = self.list(uri.list()).assign(now, at);
        let object = Object {
            last_modified,
            generation,
            parent,
            content,
        };
        if self.events.are_gathered() {
            let old = self.stored(uri);
            let impacted = Impacted {
                new: object.told(uri),
                old: old.map(|old| old.told(uri)),
            };
            let timestamp = self.timestamp_of(uri.list());
            self.events.add(uri, action, impacted, timestamp);
        }
        let slot = self
            .objects
            .entry(uri.clone())
            .or_insert_with(|| ObjectSlot::new(None));
        slot.written = Some(object);
        last_modified
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
