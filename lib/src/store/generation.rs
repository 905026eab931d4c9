//! Generations tell what belongs to an object as it is now from what belonged to one since deleted
//! ([decision 1](../../../docs/decisions/001-generations.md)).

use uuid::Uuid;

/// Identifies an object from one creation to the next: set when it is created, and kept until it is created again.
///
/// The children of an object carry its generation. This makes deletion of a parent a single write: children of an
/// earlier generation no longer exist, whatever the table still holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation(pub(super) String);

impl Generation {
    /// The parent generation of buckets, which have no parent.
    pub const ROOT: Self = Self(String::new());

    /// A new, unique generation (62 random bits), with a mark that earlier versions did not set.
    pub fn unique() -> Self {
        Self(format!("2{:016x}", Uuid::new_v4().as_u64_pair().1))
    }

    /// Returns `true` for buckets of an earlier version, whose generations have no mark, and whose groups' members are
    /// in one item for each principal ([`super::membership`]).
    pub fn has_old_memberships(&self) -> bool {
        self.0.len() == 16
    }

    /// Returns `true` if what was written under `parent` belongs to the object of this generation, and so exists: when
    /// an object is deleted and created again, what it held before does not.
    pub fn owns(&self, parent: &Self) -> bool {
        self == parent
    }
}
