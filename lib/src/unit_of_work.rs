//! What one request read and wants to write.
//!
//! A request, a single one or a batch, reads all that it must know in one round trip
//! ([`UnitOfWork::read`]), decides on the strength of it without waiting for anything, sees its own
//! writes while it goes on, and commits them at its end in one transaction ([`UnitOfWork::commit`]) whose
//! conditions say that what it relied on still holds. When they do not, nothing was written, and the
//! whole request is done again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::permission::Permissions;
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::store::membership::{Membership, MembershipChanges};
use crate::store::{
    CommitError, Content, Generation, Key, List, ListCondition, MAX_TRANSACTION_ITEMS, Object,
    Store, StoreError, Write,
};
use crate::timestamp::Timestamp;

/// Times that a later part of a large commit is tried.
const MAX_PART_ATTEMPTS: u32 = 8;

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    memberships: HashMap<String, Vec<Membership>>,
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
    /// More than a transaction can hold (a long list that is deleted, a large group) is committed in parts, each
    /// of them all or none, so that whoever reads meanwhile sees times in their order, and no principal in a group
    /// that it is not to be in.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] when something that the unit relied on has changed: read and decide again.
    pub async fn commit(self, store: &Store) -> Result<(), CommitError> {
        let mut parts = self.into_transactions().into_iter();
        if let Some(first) = parts.next() {
            store.commit(first).await?;
        }
        for part in parts {
            commit_part(store, part).await?;
        }
        Ok(())
    }

    fn into_transactions(self) -> Vec<Vec<Write>> {
        let memberships = self.membership_changes();
        let writes_lists = self.lists.values();
        let lists = writes_lists.filter(|slot| slot.change != ListChange::None);
        let objects = self.objects.values();
        let objects = objects.filter(|slot| slot.written.is_some());
        if objects.count() + lists.count() + memberships.len() > MAX_TRANSACTION_ITEMS {
            return self.into_parts();
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
        vec![objects.chain(lists).chain(memberships).collect()]
    }

    /// The same in several transactions, in the order in which they are to be committed: who leaves groups, the
    /// objects of each list by time with the list's timestamp, who joins groups.
    fn into_parts(self) -> Vec<Vec<Write>> {
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
        let mut objects: Vec<_> = self
            .objects
            .into_iter()
            .filter(|(_, slot)| slot.written.is_some())
            .collect();
        objects.sort_by_key(|(uri, slot)| {
            let written = slot.written.as_ref();
            (uri.list().clone(), written.map(|o| o.last_modified))
        });
        let mut lists = self.lists;
        let mut part = Part::default();
        for (uri, slot) in objects {
            if part.size_with(&uri) > MAX_TRANSACTION_ITEMS {
                parts.push(std::mem::take(&mut part).into_writes(&mut lists, false));
            }
            part.add(uri, slot);
        }
        parts.push(part.into_writes(&mut lists, true));
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

impl ObjectSlot {
    fn new(read: Option<Object>) -> Self {
        Self {
            read,
            written: None,
        }
    }

    fn into_write(self, uri: ObjectUri) -> Option<Write> {
        let replaces = self.read.as_ref().map(Object::version);
        self.written.map(|object| Write::Object {
            uri,
            object,
            replaces,
        })
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
    /// How many items it would have with one more object.
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
            let latest = times.max();
            let Some(slot) = lists.get_mut(&uri) else {
                continue;
            };
            writes.extend(slot.take_share(uri, latest, last));
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
async fn commit_part(store: &Store, part: Vec<Write>) -> Result<(), CommitError> {
    for attempt in 0..MAX_PART_ATTEMPTS {
        match store.commit(part.clone()).await {
            Err(CommitError::Conflict) => {
                let longest = 2 << attempt;
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=longest))).await;
            }
            outcome => return outcome,
        }
    }
    Err(CommitError::Partial)
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

    /// Takes a part's share out of what becomes of the list; what is left goes on from there. `latest` is the time of
    /// the latest object of the list in the part, `last` whether no other part follows.
    fn take_share(&mut self, uri: ListUri, latest: Option<Timestamp>, last: bool) -> Option<Write> {
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
