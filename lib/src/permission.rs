//! Permissions: those of an object, and how those of its ancestors extend them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::resource::{Kind, ObjectUri};

/// Everybody, authenticated or not.
pub const EVERYONE: &str = "system.Everyone";
/// Every user with valid credentials.
pub const AUTHENTICATED: &str = "system.Authenticated";

/// The permissions granted on one object: for each permission the principals that have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Permissions(BTreeMap<String, Vec<String>>);

impl Permissions {
    /// The principals that have `permission`.
    pub fn granted(&self, permission: &str) -> &[String] {
        self.0.get(permission).map_or(&[], Vec::as_slice)
    }

    /// Returns `true` if one of `principals` has `permission` on this very object.
    pub fn grants(&self, permission: &str, principals: &[String]) -> bool {
        self.granted(permission)
            .iter()
            .any(|principal| principals.contains(principal))
    }

    /// Grants `permission` to `principal`, once.
    pub fn grant(&mut self, permission: &str, principal: &str) {
        let granted = self.0.entry(permission.to_owned()).or_default();
        if !granted.iter().any(|p| p == principal) {
            granted.push(principal.to_owned());
        }
    }

    /// Replaces the principals of `permission`; an empty list removes the permission.
    pub fn set(&mut self, permission: &str, mut principals: Vec<String>) {
        principals.sort_unstable();
        principals.dedup();
        if principals.is_empty() {
            self.0.remove(permission);
        } else {
            self.0.insert(permission.to_owned(), principals);
        }
    }

    /// The groups that have a permission.
    pub fn groups(&self) -> impl Iterator<Item = ObjectUri> {
        let principals = self.0.values().flatten();
        let named = principals.filter(|principal| principal.starts_with("/buckets/"));
        named.filter_map(|name| ObjectUri::parse(name).filter(|uri| uri.kind() == Kind::Group))
    }

    /// Returns `true` if there are no permissions.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each permission with its principals, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Vec<String>)> {
        self.0.iter()
    }
}

/// The access that a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// See the object.
    Read,
    /// Change or delete the object.
    Write,
    /// Create an object of this kind under the object.
    Create(Kind),
}

impl Access {
    /// The permissions, each on the given kind (`kind` or an ancestor's), any one of which suffices for this access.
    ///
    /// For [`Access::Create`] `kind` is the parent's. The rule is Kinto's inheritance tree: `write` includes
    /// everything, a parent's `read` and `write` extend to its children, and principals that may create children may
    /// see the parent (but not its siblings).
    pub fn granted_by(self, kind: Kind) -> &'static [(Kind, &'static str)] {
        use Kind::{Account, Bucket, Collection, Group, Record};
        match (self, kind) {
            (Self::Read, Bucket) => &[
                (Bucket, "write"),
                (Bucket, "read"),
                (Bucket, "collection:create"),
                (Bucket, "group:create"),
            ],
            (Self::Read, Group) => &[
                (Bucket, "write"),
                (Bucket, "read"),
                (Group, "write"),
                (Group, "read"),
            ],
            (Self::Read, Collection) => &[
                (Bucket, "write"),
                (Bucket, "read"),
                (Collection, "write"),
                (Collection, "read"),
                (Collection, "record:create"),
            ],
            (Self::Read, Record) => &[
                (Bucket, "write"),
                (Bucket, "read"),
                (Collection, "write"),
                (Collection, "read"),
                (Record, "write"),
                (Record, "read"),
            ],
            (Self::Read, Account) => &[(Account, "write"), (Account, "read")],
            (Self::Write, Account) => &[(Account, "write")],
            (Self::Write, Bucket) => &[(Bucket, "write")],
            (Self::Write, Group) => &[(Bucket, "write"), (Group, "write")],
            (Self::Write, Collection) => &[(Bucket, "write"), (Collection, "write")],
            (Self::Write, Record) => &[(Bucket, "write"), (Collection, "write"), (Record, "write")],
            (Self::Create(Group), Bucket) => &[(Bucket, "write"), (Bucket, "group:create")],
            (Self::Create(Collection), Bucket) => {
                &[(Bucket, "write"), (Bucket, "collection:create")]
            }
            (Self::Create(Record), Collection) => &[
                (Bucket, "write"),
                (Collection, "write"),
                (Collection, "record:create"),
            ],
            (Self::Create(_), _) => &[],
        }
    }
}

/// All permissions that one on an object of `kind` implies on that object, itself included. `read:attributes` allows
/// seeing the object, but not its children (Kinto 26.5, the permissions endpoint).
pub fn implied(kind: Kind, permission: &str) -> &'static [&'static str] {
    match (kind, permission) {
        (Kind::Bucket, "write") => &[
            "collection:create",
            "group:create",
            "read",
            "read:attributes",
            "write",
        ],
        (Kind::Bucket, "collection:create") => &["collection:create", "read:attributes"],
        (Kind::Bucket, "group:create") => &["group:create", "read:attributes"],
        (Kind::Collection, "write") => &["read", "read:attributes", "record:create", "write"],
        (Kind::Collection, "record:create") => &["read:attributes", "record:create"],
        (Kind::Bucket | Kind::Collection, "read") => &["read", "read:attributes"],
        (Kind::Group | Kind::Record | Kind::Account, "write") => &["read", "write"],
        (Kind::Group | Kind::Record | Kind::Account, "read") => &["read"],
        _ => &[],
    }
}

/// Returns `true` if one of `principals` has `access` to the object `uri`.
///
/// `granted` returns the permissions of an object, `None` for one that does not exist; it is called for `uri` and its
/// ancestors only.
pub fn allows<'a>(
    access: Access,
    uri: &ObjectUri,
    principals: &[String],
    granted: impl Fn(&ObjectUri) -> Option<&'a Permissions>,
) -> bool {
    access
        .granted_by(uri.kind())
        .iter()
        .any(|(kind, permission)| {
            uri.lineage()
                .filter(|object| object.kind() == *kind)
                .filter_map(&granted)
                .any(|permissions| permissions.grants(permission, principals))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(permission: &str) -> Permissions {
        let mut permissions = Permissions::default();
        permissions.grant(permission, "alice");
        permissions
    }

    /// Returns `true` if alice, with only `permission` on `on`, has `access` to `uri`.
    fn allowed(on: &ObjectUri, permission: &str, access: Access, uri: &ObjectUri) -> bool {
        let granted = permissions(permission);
        allows(access, uri, &["alice".to_owned()], |object| {
            (object == on).then_some(&granted)
        })
    }

    #[test]
    fn permissions_of_a_bucket_extend_to_what_is_in_it() {
        let bucket = ObjectUri::bucket("a");
        let record = ObjectUri::collection("a", "b")
            .children(Kind::Record)
            .object("c");
        assert!(allowed(&bucket, "write", Access::Write, &record));
        assert!(allowed(&bucket, "read", Access::Read, &record));
        assert!(!allowed(&bucket, "read", Access::Write, &record));
        assert!(!allowed(
            &bucket,
            "collection:create",
            Access::Read,
            &record
        ));
    }

    #[test]
    fn who_may_create_children_may_see_the_parent_only() {
        let collection = ObjectUri::collection("a", "b");
        assert!(allowed(
            &collection,
            "record:create",
            Access::Create(Kind::Record),
            &collection
        ));
        assert!(allowed(
            &collection,
            "record:create",
            Access::Read,
            &collection
        ));
        let record = collection.children(Kind::Record).object("c");
        assert!(!allowed(
            &collection,
            "record:create",
            Access::Read,
            &record
        ));
        assert!(!allowed(
            &collection,
            "record:create",
            Access::Write,
            &collection
        ));
    }

    #[test]
    fn a_grant_to_others_is_none() {
        let bucket = ObjectUri::bucket("a");
        let granted = permissions("write");
        assert!(!allows(Access::Read, &bucket, &["bob".to_owned()], |_| {
            Some(&granted)
        }));
    }

    #[test]
    fn an_empty_list_takes_a_permission_away() {
        let mut permissions = permissions("read");
        permissions.set("read", vec![]);
        assert!(permissions.is_empty());
    }
}
