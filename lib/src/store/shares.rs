//! Shares: the principals that objects of a list are shared with, so that a list is read for no others.
//!
//! The list's item names the first few principals that have a permission on some object of the list; each further one
//! has an item of its own, whose key is all its content. Neither is ever removed before the list gets another parent:
//! for a principal that is named there may be an object; for one that is not, there is none. See
//! [decision 18](../../../docs/decisions/018-shares.md).

use std::collections::BTreeSet;
use std::sync::PoisonError;

use aws_sdk_dynamodb::types::AttributeValue;

use super::{Generation, Item, Key, Store, StoreError, malformed, partition};
use crate::permission::{AUTHENTICATED, EVERYONE};
use crate::resource::{ListUri, ObjectUri};

/// In a list's item: all shares are noted. A list that an earlier version made lacks it until it is made anew.
const ALL: &str = "#";
/// In a list's item: some shares have items of their own.
const MORE: &str = "*";
/// In a list's item: some of the shares with items of their own are groups'.
const MORE_GROUPS: &str = "/";
/// The most principals that a list's item names, each of at most [`MAX_LENGTH`]: the item stays below 1 KB, the unit of
/// the cost of a write.
const MAX_NAMED: usize = 8;
/// The most bytes of a principal that a list's item names.
const MAX_LENGTH: usize = 80;
/// The most bytes of a principal that fit into a DynamoDB key. No user has a longer one.
const MAX_IN_KEY: usize = 2000;

/// The most shares that a process remembers, of 200 bytes each.
const MAX_KNOWN_SHARES: usize = 10_000;

/// The principals that objects of a list are shared with, as its item names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares(BTreeSet<String>);

/// The change of a write to the shares that a list's item names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharesChange {
    /// Replaces them by these.
    Set(Shares),
    /// Adds these, whatever others add meanwhile. Fails if the shares are no longer known.
    Add(BTreeSet<String>),
    /// Marks them as not known.
    Forget,
}

/// The place to note that something is shared with a principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareWrite {
    /// Nowhere: it is noted already, or the list's shares are not known.
    No,
    /// In the list's item.
    InList,
    /// In an item of its own.
    Apart,
}

impl Shares {
    /// The shares of a new list.
    pub fn none() -> Self {
        Self([ALL.to_owned()].into())
    }

    /// Reads the shares that the item of a list names.
    ///
    /// If the list has a timestamp that no writer of shares gave it, an earlier version wrote to it: then something may
    /// be shared that is not noted, and nothing is known.
    pub(super) fn from_item(item: &Item) -> Result<Self, StoreError> {
        let Some(names) = item.get("shared_with") else {
            return Ok(Self::default());
        };
        let names = names.as_ss().map_err(|_| malformed(item, "shared_with"))?;
        let is_known = item.get("shared_at") == item.get("timestamp");
        Ok(match is_known {
            true => Self(names.iter().cloned().collect()),
            false => Self::default(),
        })
    }

    pub(super) fn into_attribute(self) -> Option<AttributeValue> {
        let names: Vec<_> = self.0.into_iter().collect();
        (!names.is_empty()).then_some(AttributeValue::Ss(names))
    }

    /// Returns `true` if all shares are noted, here or in items of their own.
    pub fn are_known(&self) -> bool {
        self.0.contains(ALL)
    }

    /// Returns `true` if all groups that something is shared with are named here.
    ///
    /// A user's membership is looked up only for groups that the list's item names. A group that is stored in an item of its own would
    /// be missed.
    pub fn name_groups(&self) -> bool {
        self.are_known() && !self.0.contains(MORE_GROUPS)
    }

    /// The groups that are named here.
    pub fn groups(&self) -> impl Iterator<Item = ObjectUri> {
        let named = self.0.iter().filter(|name| is_group(name));
        named.filter_map(|name| ObjectUri::parse(name))
    }

    /// Returns `true` if one of the principals is named here.
    pub fn name_one_of(&self, principals: &[String]) -> bool {
        principals
            .iter()
            .any(|principal| self.0.contains(principal))
    }

    /// Returns `true` if others have items of their own.
    pub fn are_more(&self) -> bool {
        self.0.contains(MORE)
    }

    /// Records that something is shared with a principal; adds to `added` what the list's item lacks. Returns where
    /// else to note it.
    pub fn add(&mut self, principal: &str, added: &mut BTreeSet<String>) -> ShareWrite {
        if !self.are_known() || self.0.contains(principal) || principal.is_empty() {
            return ShareWrite::No;
        }
        let is_of_system = matches!(principal, EVERYONE | AUTHENTICATED);
        // Beside `ALL`, and `MORE` and the two of the system if they are there.
        let is_named = is_of_system || principal.len() <= MAX_LENGTH && self.0.len() <= MAX_NAMED;
        let (names, note) = match is_named {
            true => (vec![principal], ShareWrite::InList),
            false if is_group(principal) => (vec![MORE, MORE_GROUPS], ShareWrite::Apart),
            false => (vec![MORE], ShareWrite::Apart),
        };
        for name in names {
            if self.0.insert(name.to_owned()) {
                added.insert(name.to_owned());
            }
        }
        match note {
            ShareWrite::Apart if principal.len() > MAX_IN_KEY => ShareWrite::No,
            note => note,
        }
    }
}

fn is_group(principal: &str) -> bool {
    principal.starts_with("/buckets/")
}

impl From<BTreeSet<String>> for Shares {
    fn from(names: BTreeSet<String>) -> Self {
        Self(names)
    }
}

impl Key {
    /// The key of the item that notes that objects of a list, under a parent of that generation, are shared with a
    /// principal. `None` if the principal does not fit into a key.
    pub fn share(list: &ListUri, parent: &Generation, principal: &str) -> Option<Self> {
        (principal.len() <= MAX_IN_KEY).then(|| Self {
            pk: format!("#shared#{}#{principal}", parent.0),
            sk: partition(list),
        })
    }
}

impl Store {
    /// Returns `true` if this process knows that the share is noted, so that it need not be written.
    pub fn knows_share(&self, share: &Key) -> bool {
        let known = self.known_shares.lock();
        known
            .unwrap_or_else(PoisonError::into_inner)
            .contains(share)
    }

    /// Remembers that these are noted. No share is ever taken back, so that this stays true.
    pub fn remember_shares(&self, shares: impl IntoIterator<Item = Key>) {
        let mut known = self
            .known_shares
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.len() > MAX_KNOWN_SHARES {
            known.clear();
        }
        known.extend(shares);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_few_are_named_in_the_list_the_others_apart() {
        let (mut shares, mut added) = (Shares::none(), BTreeSet::new());
        for n in 0..MAX_NAMED {
            assert_eq!(shares.add(&format!("u{n}"), &mut added), ShareWrite::InList);
        }
        assert!(!shares.are_more());
        assert_eq!(shares.add("v", &mut added), ShareWrite::Apart);
        assert_eq!(shares.add("u0", &mut added), ShareWrite::No);
        assert_eq!(shares.add(EVERYONE, &mut added), ShareWrite::InList);
        assert!(shares.are_more() && shares.name_one_of(&["u3".to_owned()]));
        assert!(!shares.name_one_of(&["v".to_owned()]));
        assert_eq!(added.len(), MAX_NAMED + 2);
    }

    #[test]
    fn a_long_name_is_noted_apart() {
        let (mut shares, mut added) = (Shares::none(), BTreeSet::new());
        assert_eq!(
            shares.add(&"x".repeat(MAX_LENGTH + 1), &mut added),
            ShareWrite::Apart
        );
    }

    #[test]
    fn a_group_that_is_noted_apart_is_not_forgotten() {
        let (mut shares, mut added) = (Shares::none(), BTreeSet::new());
        let group = |n: usize| format!("/buckets/b/groups/g{n}");
        for n in 0..MAX_NAMED {
            shares.add(&group(n), &mut added);
        }
        assert!(shares.name_groups() && shares.groups().count() == MAX_NAMED);
        shares.add("u", &mut added);
        assert!(shares.name_groups());
        assert_eq!(shares.add(&group(MAX_NAMED), &mut added), ShareWrite::Apart);
        assert!(!shares.name_groups() && added.contains(MORE_GROUPS));
        assert!(!Shares::default().name_groups());
    }

    #[test]
    fn a_list_that_does_not_know_all_learns_of_none() {
        let (mut shares, mut added) = (Shares::default(), BTreeSet::new());
        assert_eq!(shares.add("u", &mut added), ShareWrite::No);
        assert!(added.is_empty() && !shares.are_known());
    }
}
