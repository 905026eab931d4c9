//! The principals of a user: the user id, the groups that it is a member of, and the system's.

use std::collections::BTreeSet;

use crate::api::web::error::ApiError;
use crate::permission::{AUTHENTICATED, EVERYONE};
use crate::resource::ObjectUri;
use crate::store::{Store, StoreError};
use crate::unit_of_work::UnitOfWork;

/// The most buckets from which the root endpoint shows a user's groups.
const MAX_SHOWN_BUCKETS: usize = 25;

/// The most buckets, beside those that a request is about, whose groups are looked up for it: those that an object, its
/// collection and its bucket may name ([`crate::api::objects`]).
pub const MAX_OTHER_BUCKETS: usize = 3 * MAX_NAMED_BUCKETS;
/// The most other buckets whose groups the permissions of an object may name.
pub const MAX_NAMED_BUCKETS: usize = 5;

/// The principals of a user that groups may have as members.
pub fn principals_in_groups(user_id: &str) -> [String; 2] {
    [user_id.to_owned(), AUTHENTICATED.to_owned()]
}

/// The user who sends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user id; `None` for an anonymous user.
    pub id: Option<String>,
    /// All principals that the user has; permissions are granted to them.
    pub principals: Vec<String>,
}

impl User {
    /// The anonymous user.
    pub fn anonymous() -> Self {
        Self {
            id: None,
            principals: vec![EVERYONE.to_owned()],
        }
    }

    /// The user with this id, in the groups that `unit` has read.
    pub fn with_id(id: &str, unit: &UnitOfWork) -> Self {
        let mut principals = vec![id.to_owned(), EVERYONE.to_owned()];
        for member in principals_in_groups(id) {
            principals.extend(unit.groups_of(&member));
        }
        principals.push(AUTHENTICATED.to_owned());
        Self {
            id: Some(id.to_owned()),
            principals,
        }
    }

    /// Adds those of `groups` that the user is a member of, from at most `buckets` buckets beside those that the
    /// request is about. Takes no round trip if all is known, and one more where a bucket is of an earlier version.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn add_groups(
        &mut self,
        unit: &mut UnitOfWork,
        store: &Store,
        groups: &BTreeSet<ObjectUri>,
        buckets: usize,
    ) -> Result<(), StoreError> {
        let Some(id) = self.id.clone() else {
            return Ok(());
        };
        let principals = principals_in_groups(&id);
        for _ in 0..2 {
            let is_open = |group: &&ObjectUri| !self.principals.contains(&group.to_string());
            let open = groups.iter().filter(is_open);
            let needs = unit.needs_of_groups(principals.iter().map(String::as_str), open, buckets);
            if needs.is_empty() {
                break;
            }
            unit.read_more(store, needs).await?;
            *self = Self::with_id(&id, unit);
        }
        Ok(())
    }

    /// Adds the groups that the user is a member of, from the first buckets in the order of their ids.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn add_first_groups(
        &mut self,
        unit: &mut UnitOfWork,
        store: &Store,
    ) -> Result<(), StoreError> {
        if let Some(id) = self.id.clone() {
            let principals = principals_in_groups(&id);
            let principals = principals.each_ref().map(|principal| &**principal);
            unit.read_groups(store, &principals, MAX_SHOWN_BUCKETS)
                .await?;
            *self = Self::with_id(&id, unit);
        }
        Ok(())
    }

    /// Checks that the user has one of these principals.
    ///
    /// # Errors
    /// 403, or 401 for an anonymous user.
    pub fn require_one_of(&self, principals: &[String]) -> Result<(), ApiError> {
        let is_user = |principal| self.principals.contains(principal);
        match principals.iter().any(is_user) {
            true => Ok(()),
            false => Err(self.forbidden()),
        }
    }

    /// The error for a user without the permission: 403, or 401 for an anonymous user.
    pub fn forbidden(&self) -> ApiError {
        ApiError::Forbidden {
            authenticated: self.id.is_some(),
        }
    }

    /// The principal that owns what this user creates.
    pub fn principal(&self) -> &str {
        self.id.as_deref().unwrap_or(EVERYONE)
    }
}
