//! With whom something of a list is shared: what its item says, and what is to be noted when objects are written
//! ([decision 18](../../../docs/decisions/018-shares.md)).

use std::collections::BTreeSet;

use super::UnitOfWork;
use crate::permission::{AUTHENTICATED, EVERYONE, Permissions};
use crate::resource::{ListUri, ObjectUri};
use crate::store::shares::ShareWrite;
use crate::store::{Key, Object, Store, StoreError};

impl UnitOfWork {
    /// The groups that may have a permission on something in the list; of the list's own bucket, only some of them.
    /// `None` if the list does not know.
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

    /// Returns `true` if an object of the list may be shared with one of these principals; `false` is certain.
    ///
    /// No round trip, unless more principals share something of the list than its item names; then one `BatchGetItem`,
    /// 1 RCU for each principal.
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

    /// Notes the principals that an object to be written is newly shared with.
    pub(super) fn note_shares(&mut self, uri: &ObjectUri, object: &Object) {
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
            if self.list(uri.list()).share(&principal) == ShareWrite::Apart {
                self.shares
                    .extend(Key::share(uri.list(), &object.parent, &principal));
            }
        }
    }
}

/// Returns `true` if a principal stands for many users, and is named by the list itself.
fn is_of_system(principal: &str) -> bool {
    matches!(principal, EVERYONE | AUTHENTICATED)
}
