//! What one request read and wants to write.
//!
//! A request, a single one or a batch, reads all that it must know in one round trip
//! ([`UnitOfWork::read`]), decides on the strength of it without waiting for anything, sees its own
//! writes while it goes on, and commits them at its end in one transaction ([`UnitOfWork::commit`]) whose
//! conditions say that what it relied on still holds. When they do not, nothing was written, and the
//! whole request is done again.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::permission::Permissions;
use crate::resource::{ListUri, ObjectUri};
use crate::store::{
    CommitError, Content, Generation, Key, List, ListCondition, Object, Store, StoreError, Write,
};
use crate::timestamp::Timestamp;

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

/// What was read of one object and what is to be written.
#[derive(Debug)]
struct ObjectSlot {
    read: Option<Object>,
    written: Option<Object>,
}

/// What was read of one list and what is to be written.
#[derive(Debug)]
struct ListSlot {
    read: Option<List>,
    now: List,
    change: ListChange,
    /// Whether an answer depends on the exact timestamp that was read.
    relied_on: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum ListChange {
    None,
    /// Objects were written under past times that their client gave: the parent must exist, no more.
    Checked,
    /// Objects were written; the first of the times that they were given.
    Advanced(Timestamp),
    /// The parent was created or deleted.
    Replaced,
}

/// What one request read and wants to write.
#[derive(Debug)]
pub struct UnitOfWork {
    now: Timestamp,
    objects: HashMap<ObjectUri, ObjectSlot>,
    lists: HashMap<ListUri, ListSlot>,
}

impl UnitOfWork {
    /// Reads `objects` and `lists` in one round trip. What is asked for later must be among them.
    pub async fn read(
        store: &Store,
        now: Timestamp,
        objects: impl IntoIterator<Item = ObjectUri>,
        lists: impl IntoIterator<Item = ListUri>,
    ) -> Result<Self, StoreError> {
        let objects: HashMap<_, _> = objects
            .into_iter()
            .map(|uri| (Key::object(&uri), uri))
            .collect();
        let lists: HashMap<_, _> = lists
            .into_iter()
            .map(|uri| (Key::list(&uri), uri))
            .collect();
        let keys: Vec<Key> = objects.keys().chain(lists.keys()).cloned().collect();
        let found = store.read(&keys).await?;
        let mut unit = Self {
            now,
            objects: HashMap::new(),
            lists: HashMap::new(),
        };
        for (key, uri) in objects {
            let read = found.get(&key).map(Object::from_item).transpose()?;
            unit.objects.insert(
                uri,
                ObjectSlot {
                    read,
                    written: None,
                },
            );
        }
        for (key, uri) in lists {
            let read = found.get(&key).map(List::from_item).transpose()?;
            unit.lists.insert(uri, ListSlot::new(read));
        }
        Ok(unit)
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
        self.write(uri, generation, Content::Live { data, permissions }, at)
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
        self.write(uri, generation, Content::Live { data, permissions }, at)
    }

    /// Makes the object at `uri`, which exists, a tombstone and closes the lists under it. `at` as for [`Self::create`].
    pub fn delete(&mut self, uri: &ObjectUri, at: Option<Timestamp>) -> Timestamp {
        let generation = self.generation(uri);
        self.replace_child_lists(uri, &generation, true);
        self.write(uri, generation, Content::Deleted, at)
    }

    /// Whether there is something to commit.
    pub fn has_writes(&self) -> bool {
        self.objects.values().any(|slot| slot.written.is_some())
    }

    /// Commits what was written, all or none, in one round trip.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] when something that the unit relied on has changed: read and decide again.
    pub async fn commit(self, store: &Store) -> Result<(), CommitError> {
        let objects = self.objects.into_iter().filter_map(|(uri, slot)| {
            slot.written.map(|object| Write::Object {
                uri,
                object,
                replaces: slot.read.as_ref().map(Object::version),
            })
        });
        let lists = self
            .lists
            .into_iter()
            .filter_map(|(uri, slot)| slot.into_write(uri));
        store.commit(objects.chain(lists).collect()).await
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
        let slot = self.objects.entry(uri.clone()).or_insert(ObjectSlot {
            read: None,
            written: None,
        });
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

impl ListSlot {
    fn new(read: Option<List>) -> Self {
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
    fn assign(&mut self, now: Timestamp, at: Option<Timestamp>) -> Timestamp {
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
    fn replace(&mut self, now: Timestamp, generation: Generation, closed: bool) {
        self.now = List {
            timestamp: now.max(self.now.timestamp.next()),
            generation,
            closed,
        };
        self.change = ListChange::Replaced;
    }

    fn into_write(self, uri: ListUri) -> Option<Write> {
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
