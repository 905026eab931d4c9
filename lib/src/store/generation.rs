//! Generations: what belongs to an object as it is now, and what to one that was deleted since
//! ([decision 1](../../../docs/decisions/001-generations.md)).

use uuid::Uuid;

/// Tells one life of an object from the next: made when it is created, kept until it is created again.
///
/// What lives under an object carries the object's generation. That makes deletion of a parent one
/// write: children of an earlier generation are not there any more, whatever the table still holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation(pub(super) String);

impl Generation {
    /// What the buckets, which have no parent, carry as their parent's.
    pub const ROOT: Self = Self(String::new());

    /// A new one, never seen before (62 random bits), with a mark that earlier versions did not give.
    pub fn unique() -> Self {
        Self(format!("2{:016x}", Uuid::new_v4().as_u64_pair().1))
    }

    /// Whether it is of a version whose buckets had their groups' members in one item for each principal
    /// ([`super::membership`]): those have no mark.
    pub fn has_old_memberships(&self) -> bool {
        self.0.len() == 16
    }

    /// Whether what was written under `parent` belongs to the object of this generation, and so exists: after the object
    /// was deleted and created again, what it held before does not.
    pub fn owns(&self, parent: &Self) -> bool {
        self == parent
    }
}
