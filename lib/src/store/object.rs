//! Objects and the timestamps of their lists, and their form as items.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Map, Value};

use super::generation::Generation;
use super::publication::Published;
use super::recent::RecentWrites;
use super::shares::Shares;
use super::{Item, Key, StoreError, flag, malformed, number, string, time};
use crate::json::length;
use crate::permission::Permissions;
use crate::resource::{Kind, ObjectUri};
use crate::timestamp::Timestamp;

/// An object, live or a tombstone.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// The time of its last write, in its list's time.
    pub last_modified: Timestamp,
    /// Its own generation.
    pub generation: Generation,
    /// The generation of the parent that it was written under.
    pub parent: Generation,
    /// Its content.
    pub content: Content,
}

/// Identifies one state of an object: no two states at one URI are equal in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The generation of the object.
    pub generation: Generation,
    /// The time of its last write.
    pub last_modified: Timestamp,
}

/// The content of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// The object exists.
    Live {
        /// Its fields except `id` and `last_modified`.
        data: Map<String, Value>,
        /// The permissions on it.
        permissions: Permissions,
    },
    /// The object was deleted.
    Deleted,
}

impl Object {
    pub(super) fn into_item(self, key: Key) -> Item {
        let mut item = key.into_item();
        item.insert("last_modified".to_owned(), number(self.last_modified));
        item.insert(
            "generation".to_owned(),
            AttributeValue::S(self.generation.0),
        );
        item.insert("parent".to_owned(), AttributeValue::S(self.parent.0));
        match self.content {
            Content::Deleted => {
                item.insert("deleted".to_owned(), AttributeValue::Bool(true));
            }
            Content::Live { data, permissions } => {
                // As JSON text: a DynamoDB map would lose the order of keys and the form of numbers, and would cost
                // more to read.
                item.insert(
                    "data".to_owned(),
                    AttributeValue::S(Value::Object(data).to_string()),
                );
                if !permissions.is_empty() {
                    let granted = permissions.iter().map(|(permission, principals)| {
                        let principals =
                            principals.iter().cloned().map(AttributeValue::S).collect();
                        (permission.clone(), AttributeValue::L(principals))
                    });
                    item.insert(
                        "permissions".to_owned(),
                        AttributeValue::M(granted.collect()),
                    );
                }
            }
        }
        item
    }

    /// Reads an item back.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] if it is not in the format of [`Object`]s.
    pub fn from_item(item: &Item) -> Result<Self, StoreError> {
        let mut object = Self::without_data(item)?;
        if let Content::Live { data, .. } = &mut object.content {
            *data = serde_json::from_str(&string(item, "data")?)
                .map_err(|_| malformed(item, "data"))?;
        }
        Ok(object)
    }

    /// The same object without its data.
    pub fn without_its_data(&self) -> Self {
        Self {
            last_modified: self.last_modified,
            generation: self.generation.clone(),
            parent: self.parent.clone(),
            content: match &self.content {
                Content::Live { permissions, .. } => Content::Live {
                    data: Map::new(),
                    permissions: permissions.clone(),
                },
                Content::Deleted => Content::Deleted,
            },
        }
    }

    /// Reads an item back without its data, which is not parsed.
    pub(super) fn without_data(item: &Item) -> Result<Self, StoreError> {
        let content = if flag(item, "deleted") {
            Content::Deleted
        } else {
            Content::Live {
                data: Map::new(),
                permissions: permissions_of(item)?,
            }
        };
        Ok(Self {
            last_modified: time(item, "last_modified")?,
            generation: Generation(string(item, "generation")?),
            parent: Generation(string(item, "parent")?),
            content,
        })
    }

    /// The approximate size of its item in bytes: keys, times and generations add less than 2 KB.
    pub fn size(&self) -> usize {
        match &self.content {
            Content::Live { data, permissions } => {
                length::of(&(data, permissions)).saturating_add(2048)
            }
            Content::Deleted => 2048,
        }
    }

    /// The fields of [`Self::event_data`] that identify the object.
    pub fn event_identity(&self, uri: &ObjectUri) -> Map<String, Value> {
        let mut told = Map::new();
        if self.content == Content::Deleted {
            told.insert("deleted".to_owned(), true.into());
        }
        told.insert("id".to_owned(), uri.id().into());
        told.insert("last_modified".to_owned(), self.last_modified.0.into());
        told
    }

    /// The object as events show it: the data that the API shows, without an account's password hash.
    pub fn event_data(&self, uri: &ObjectUri) -> Map<String, Value> {
        let mut told = match &self.content {
            Content::Live { data, .. } => data.clone(),
            Content::Deleted => Map::from_iter([("deleted".to_owned(), true.into())]),
        };
        if uri.kind() == Kind::Account {
            told.shift_remove("password");
        }
        told.insert("id".to_owned(), uri.id().into());
        told.insert("last_modified".to_owned(), self.last_modified.0.into());
        told
    }

    /// The permissions on it; `None` for a tombstone.
    pub fn permissions(&self) -> Option<&Permissions> {
        match &self.content {
            Content::Live { permissions, .. } => Some(permissions),
            Content::Deleted => None,
        }
    }

    /// The principals that have a permission on it; none once it is deleted.
    pub fn principals(&self) -> BTreeSet<&str> {
        let granted = self.permissions().into_iter().flat_map(Permissions::iter);
        let principals = granted.flat_map(|(_, granted)| granted);
        principals.map(String::as_str).collect()
    }

    /// Identifies this state of the object.
    pub fn version(&self) -> Version {
        Version {
            generation: self.generation.clone(),
            last_modified: self.last_modified,
        }
    }
}

/// The permissions on the object in an item.
pub(super) fn permissions_of(item: &Item) -> Result<Permissions, StoreError> {
    let mut permissions = Permissions::default();
    if let Some(granted) = item.get("permissions") {
        let granted = granted.as_m().map_err(|_| malformed(item, "permissions"))?;
        for (permission, principals) in granted {
            let principals = principals
                .as_l()
                .map_err(|_| malformed(item, "permissions"))?;
            let principals = principals
                .iter()
                .filter_map(|principal| principal.as_s().ok().cloned());
            permissions.set(permission, principals.collect());
        }
    }
    Ok(permissions)
}

/// The state of a list: its timestamp, and the generation of its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// The highest `last_modified` that the list ever had. Survives deletion of the parent.
    pub timestamp: Timestamp,
    /// The parent's generation.
    pub generation: Generation,
    /// Whether the parent was deleted.
    pub closed: bool,
    /// The number of transactions with backdated writes, which the timestamp does not reflect. Only ever rises.
    pub backdated_writes: u64,
    /// The principals that objects of the list are shared with.
    pub shares: Shares,
    /// The writes of its last transactions.
    pub recent: RecentWrites,
    /// What it tells of publications.
    pub published: Published,
}

impl List {
    /// Reads an item back.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] if it is not in the format of [`List`]s.
    pub fn from_item(item: &Item) -> Result<Self, StoreError> {
        Ok(Self {
            timestamp: time(item, "timestamp")?,
            recent: RecentWrites::from_item(item),
            published: Published::from_item(item)?,
            generation: Generation(string(item, "generation")?),
            closed: flag(item, "closed"),
            // Absent until the first backdated write.
            backdated_writes: match item.get("past") {
                None => 0,
                Some(AttributeValue::N(count)) => {
                    count.parse().map_err(|_| malformed(item, "past"))?
                }
                Some(_) => return Err(malformed(item, "past")),
            },
            shares: Shares::from_item(item)?,
        })
    }
}
