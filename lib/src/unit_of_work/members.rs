//! Groups and their members: the groups of each principal, and the writes for members who join or leave.
//!
//! A group is written together with the changes for its members, so that at any moment a member is in exactly the
//! groups that list it ([decision 8](../../../docs/decisions/008-groups.md)). If one transaction cannot hold all of
//! them, the group is written in [`steps`]: first members leave, some at each step, then others join. Each step is a
//! valid group; a failure between two steps leaves one, and the request may be sent again.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::slot::ObjectSlot;
use super::{Needs, UnitOfWork};
use crate::resource::{Kind, ObjectUri};
use crate::store::membership::{MAX_IDS, Member, MembershipChanges};
use crate::store::{
    CommitError, Content, Generation, MAX_TRANSACTION_ITEMS, Object, Store, Write, outbox,
};

/// The most items in one transaction for the members of a group, beside the group, its list and the outbox.
const MAX_STEP: usize = MAX_TRANSACTION_ITEMS - outbox::MAX_FULL_PARTS - 10;

/// The most members who may join or leave in one request: each is an item to write, and each further transaction also
/// writes a copy of the group.
pub(super) const MAX_TURNOVER: usize = 5000;

/// The field of a group that lists its members.
const MEMBERS: &str = "members";

/// The members who join and who leave when a group is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Turnover<'a> {
    leaves: Vec<&'a str>,
    joins: Vec<&'a str>,
}

impl<'a> Turnover<'a> {
    /// The difference between the group that was read and the one to be written.
    fn between(read: Option<&'a Object>, written: &'a Object) -> Self {
        // Memberships of an earlier generation of the bucket are void.
        let read = read.filter(|read| written.parent.owns(&read.parent));
        let (before, after) = (members(read), members(Some(written)));
        Self {
            leaves: before.difference(&after).copied().collect(),
            joins: after.difference(&before).copied().collect(),
        }
    }
}

/// The members of a group; none if the object is deleted or is no group.
fn members(object: Option<&Object>) -> BTreeSet<&str> {
    let members = match object.map(|object| &object.content) {
        Some(Content::Live { data, .. }) => data.get(MEMBERS).and_then(Value::as_array),
        _ => None,
    };
    members
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// The number of members who join or leave a group.
pub(super) fn turnover(read: Option<&Object>, written: &Object) -> usize {
    let Turnover { leaves, joins } = Turnover::between(read, written);
    leaves.len() + joins.len()
}

/// The intermediate states of a group between the one that was read and the one to be written, so that no transaction
/// changes it for too many members; none if one transaction holds all changes. The caller assigns their times.
pub(super) fn steps(read: Option<&Object>, written: &Object) -> Vec<Object> {
    let Turnover { leaves, joins } = Turnover::between(read, written);
    // In a bucket of an earlier version, each member who leaves is removed from two items.
    let items = match written.parent.has_old_memberships() {
        true => 2 * leaves.len() + joins.len(),
        false => leaves.len() + joins.len(),
    };
    if items <= MAX_STEP {
        return vec![];
    }
    let mut steps = vec![];
    let chunk = match written.parent.has_old_memberships() {
        true => MAX_STEP / 2,
        false => MAX_STEP,
    };
    let chunks = |members: &[&str]| -> Vec<BTreeSet<String>> {
        let chunks = members.chunks(chunk);
        chunks
            .map(|chunk| chunk.iter().map(|member| (*member).to_owned()).collect())
            .collect()
    };
    // The last step is `written` itself.
    let mut leaving = chunks(&leaves);
    let mut joining = chunks(&joins);
    match joining.is_empty() {
        true => _ = leaving.pop(),
        false => _ = joining.pop(),
    }
    let mut gone = BTreeSet::new();
    for chunk in leaving {
        gone.extend(chunk);
        steps.extend(read.and_then(|read| with_members(read, |member| !gone.contains(member))));
    }
    let kept = members(read.filter(|read| written.parent.owns(&read.parent)));
    let mut here: BTreeSet<String> = kept.into_iter().map(str::to_owned).collect();
    for chunk in joining {
        here.extend(chunk);
        steps.extend(with_members(written, |member| here.contains(member)));
    }
    steps
}

/// The group with only those of its members that are `kept`.
fn with_members(group: &Object, kept: impl Fn(&str) -> bool) -> Option<Object> {
    let mut group = group.clone();
    let Content::Live { data, .. } = &mut group.content else {
        return None;
    };
    retain_members(data, kept);
    Some(group)
}

fn retain_members(data: &mut Map<String, Value>, kept: impl Fn(&str) -> bool) {
    if let Some(Value::Array(members)) = data.get_mut(MEMBERS) {
        members.retain(|member| member.as_str().is_some_and(&kept));
    }
}

/// The changes for the members of all groups that one transaction writes.
#[derive(Clone, Debug, Default)]
pub(super) struct MemberWrites {
    changes: BTreeMap<Member, MembershipChanges>,
    old: BTreeMap<String, Vec<ObjectUri>>,
}

impl MemberWrites {
    /// Adds the changes of the object at `uri`, if it is a group.
    pub(super) fn add_slot(&mut self, uri: &ObjectUri, slot: &ObjectSlot) {
        if let Some(written) = &slot.written {
            self.add(uri, slot.read.as_ref(), written);
        }
    }

    fn add(&mut self, uri: &ObjectUri, read: Option<&Object>, written: &Object) {
        if uri.kind() != Kind::Group {
            return;
        }
        let Turnover { leaves, joins } = Turnover::between(read, written);
        let moves = joins.iter().map(|principal| (principal, true));
        let moves = moves.chain(leaves.iter().map(|principal| (principal, false)));
        for (principal, joins) in moves {
            let member = Member {
                principal: (*principal).to_owned(),
                bucket: uri.bucket_uri().clone(),
            };
            let changes = self.changes.entry(member).or_default();
            changes.bucket = written.parent.clone();
            let groups = match joins {
                true => &mut changes.joins,
                false => &mut changes.leaves,
            };
            groups.insert(uri.id().to_owned());
        }
        if written.parent.has_old_memberships() {
            for principal in leaves {
                let old = self.old.entry(principal.to_owned()).or_default();
                old.push(uri.clone());
            }
        }
    }

    /// The number of items to write.
    pub(super) fn len(&self) -> usize {
        self.changes.len() + self.old.len()
    }
}

impl UnitOfWork {
    /// The sorted URIs of the groups of `principal`, as far as its memberships were read.
    pub fn groups_of(&self, principal: &str) -> Vec<String> {
        let memberships = self.memberships.iter();
        let of_principal = memberships.filter(|(member, _)| member.principal == principal);
        let held = of_principal
            .filter(|(member, memberships)| self.is_of_bucket(&member.bucket, &memberships.bucket));
        let groups = held.flat_map(|(member, memberships)| {
            let groups = memberships.groups.iter();
            groups.map(|group| ObjectUri::group(member.bucket.id(), group).to_string())
        });
        let old = self.old_memberships.get(principal).into_iter().flatten();
        let old = old.filter(|(group, bucket)| self.is_of_bucket(group.bucket_uri(), bucket));
        let groups = groups.chain(old.map(|(group, _)| group.to_string()));
        groups.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The groups that have a permission on the object at `uri` or on one of its ancestors.
    pub fn groups_named_on(&self, uri: &ObjectUri) -> BTreeSet<ObjectUri> {
        let live = uri.lineage().filter_map(|uri| self.get(uri));
        live.flat_map(|live| live.permissions.groups()).collect()
    }

    /// What must be read to know whether one of the `principals` is in one of these groups, in at most `buckets`
    /// buckets beside those that were read; nothing if all is known.
    ///
    /// For a bucket that the request is not about, the generation is read from its list of groups, since the bucket
    /// itself may be large. If that generation is of an earlier version, more must be read afterwards.
    pub fn needs_of_groups<'a>(
        &self,
        principals: impl Iterator<Item = &'a str> + Clone,
        groups: impl IntoIterator<Item = &'a ObjectUri>,
        buckets: usize,
    ) -> Needs {
        let mut needs = Needs::default();
        let mut others = BTreeSet::new();
        for group in groups {
            let bucket = group.bucket_uri();
            if !self.objects.contains_key(bucket) {
                if others.len() == buckets && !others.contains(bucket) {
                    continue;
                }
                others.insert(bucket);
                let list = group.list();
                if !self.lists.contains_key(list) {
                    needs.lists.insert(list.clone());
                }
            }
            let is_old = self
                .generation_of_bucket(bucket)
                .is_some_and(Generation::has_old_memberships);
            for principal in principals.clone() {
                let member = Member {
                    principal: principal.to_owned(),
                    bucket: bucket.clone(),
                };
                if !self.memberships.contains_key(&member) {
                    needs.members.insert(member);
                }
                if is_old && !self.old_memberships.contains_key(principal) {
                    needs.old_members.insert(principal.to_owned());
                }
            }
        }
        needs
    }

    /// Reads the groups of principals, in at most `buckets` buckets for each.
    ///
    /// One `Query` for each principal, and one round trip for the buckets.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn read_groups(
        &mut self,
        store: &Store,
        principals: &[&str],
        buckets: usize,
    ) -> Result<(), crate::store::StoreError> {
        let limit = i32::try_from(buckets).unwrap_or(i32::MAX);
        let reads = principals.iter().map(|p| store.memberships(p, limit));
        let read = futures::future::try_join_all(reads).await?;
        let mut needs = Needs::default();
        for (principal, (memberships, mut old)) in principals.iter().zip(read) {
            for (member, memberships) in memberships {
                needs.lists.insert(member.bucket.children(Kind::Group));
                self.memberships.insert(member, memberships);
            }
            old.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            old.truncate(buckets);
            for (group, _) in &old {
                needs.lists.insert(group.list().clone());
            }
            self.old_memberships.insert((*principal).to_owned(), old);
        }
        self.read_more(store, needs).await
    }

    /// The generation of a bucket, from the bucket itself or its list of groups; `None` if it does not exist or was not
    /// read.
    fn generation_of_bucket(&self, bucket: &ObjectUri) -> Option<&Generation> {
        if self.objects.contains_key(bucket) {
            return self.get(bucket).map(|live| live.generation);
        }
        let groups = self.lists.get(&bucket.children(Kind::Group))?;
        Some(&groups.now.generation).filter(|_| !groups.now.closed)
    }

    /// Returns `true` if `carried` is the present generation of the bucket.
    fn is_of_bucket(&self, bucket: &ObjectUri, carried: &Generation) -> bool {
        let generation = self.generation_of_bucket(bucket);
        generation.is_some_and(|generation| generation.owns(carried))
    }

    /// Reads the present groups of all principals who join groups, and checks that each may join more.
    ///
    /// # Errors
    /// [`CommitError::TooManyGroups`], [`CommitError::TooLarge`] if too many members join or leave, failures of the
    /// table.
    pub(super) async fn check_members(&mut self, store: &Store) -> Result<(), CommitError> {
        let mut writes = MemberWrites::default();
        if self.turnover > MAX_TURNOVER {
            return Err(CommitError::TooLarge);
        }
        for (uri, slot) in &self.objects {
            writes.add_slot(uri, slot);
        }
        let changes = writes.changes;
        let joining = changes
            .iter()
            .filter(|(_, changes)| !changes.joins.is_empty());
        let needs = Needs {
            members: joining.clone().map(|(member, _)| member.clone()).collect(),
            ..Needs::default()
        };
        self.read_more(store, needs).await?;
        for (member, changes) in joining {
            let known = self.memberships.get(member);
            let known = known.filter(|known| known.bucket == changes.bucket);
            let groups = known.into_iter().flat_map(|known| &known.groups);
            let stay = groups.filter(|group| !changes.leaves.contains(*group));
            let all: BTreeSet<_> = stay.chain(&changes.joins).collect();
            if all.into_iter().map(String::len).sum::<usize>() > MAX_IDS {
                let principal = member.principal.clone();
                return Err(CommitError::TooManyGroups { principal });
            }
        }
        Ok(())
    }

    /// The writes of memberships in one transaction. The first write after the bucket was created again also removes
    /// the memberships of its earlier generation.
    pub(super) fn write_members(&mut self, writes: MemberWrites) -> Vec<Write> {
        let changes = writes.changes.into_iter();
        let changes = changes.filter_map(|(member, mut changes)| {
            let known = self.memberships.get_mut(&member);
            if let Some(known) = known.filter(|known| known.bucket != changes.bucket) {
                if changes.joins.is_empty() {
                    return None;
                }
                let left = std::mem::replace(&mut known.bucket, changes.bucket.clone());
                changes.replaces = Some(left).filter(|left| *left != Generation::ROOT);
            }
            Some(Write::Memberships { member, changes })
        });
        let mut all: Vec<_> = changes.collect();
        let old = writes.old.into_iter();
        all.extend(old.map(|(principal, leaves)| Write::OldMemberships { principal, leaves }));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permission::Permissions;
    use crate::timestamp::Timestamp;
    use serde_json::json;

    fn group(members: impl IntoIterator<Item = usize>) -> Object {
        let members: Vec<_> = members.into_iter().map(|n| format!("m{n:04}")).collect();
        let data = Map::from_iter([(MEMBERS.to_owned(), json!(members))]);
        Object {
            last_modified: Timestamp(1),
            generation: Generation::unique(),
            parent: Generation::ROOT,
            content: Content::Live {
                data,
                permissions: Permissions::default(),
            },
        }
    }

    /// The numbers of members who leave and who join at each step from `read` to `written`.
    fn turnovers(read: Option<&Object>, written: &Object) -> Vec<(usize, usize)> {
        let steps = steps(read, written);
        let mut before = read;
        let mut turnovers = vec![];
        for step in steps.iter().chain([written]) {
            let Turnover { leaves, joins } = Turnover::between(before, step);
            turnovers.push((leaves.len(), joins.len()));
            before = Some(step);
        }
        turnovers
    }

    #[test]
    fn who_leaves_goes_first_and_no_step_is_too_large() {
        assert_eq!(turnovers(None, &group(0..3)), [(0, 3)]);
        assert_eq!(turnovers(None, &group(0..MAX_STEP)), [(0, MAX_STEP)]);
        let (read, written) = (group(0..150), group(100..300));
        let turnovers = turnovers(Some(&read), &written);
        assert!(turnovers.iter().all(|(out, into)| out + into <= MAX_STEP));
        assert_eq!(turnovers.iter().map(|(out, _)| out).sum::<usize>(), 100);
        assert_eq!(turnovers.iter().map(|(_, into)| into).sum::<usize>(), 150);
        let first_joins = turnovers.iter().position(|(_, into)| *into > 0);
        let last_leaves = turnovers.iter().rposition(|(out, _)| *out > 0);
        assert!(last_leaves < first_joins);
    }

    #[test]
    fn the_group_goes_with_the_last_of_its_members() {
        let read = group(0..130);
        let deleted = Object {
            content: Content::Deleted,
            ..read.clone()
        };
        let turnovers = turnovers(Some(&read), &deleted);
        assert_eq!(turnovers.iter().map(|(out, _)| out).sum::<usize>(), 130);
        assert!(
            turnovers
                .iter()
                .all(|(out, _)| (1..=MAX_STEP).contains(out))
        );
    }

    #[test]
    fn nothing_is_written_for_members_who_stay() {
        let mut writes = MemberWrites::default();
        let uri = ObjectUri::group("a", "g");
        writes.add(&uri, Some(&group(0..50)), &group(1..51));
        assert_eq!(writes.len(), 2);
    }

    #[test]
    fn members_of_a_buckets_earlier_life_join_anew() {
        let mut read = group(0..3);
        read.parent = Generation::unique();
        assert_eq!(turnovers(Some(&read), &group(0..3)), [(0, 3)]);
    }
}
