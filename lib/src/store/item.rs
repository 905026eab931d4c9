//! Items: their keys, and the attributes common to all kinds.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::TIMESTAMP_KEY;
use super::error::StoreError;
use crate::json::weight;
use crate::resource::{ListUri, ObjectUri};
use crate::timestamp::Timestamp;

/// An item as the SDK returns it.
pub type Item = HashMap<String, AttributeValue>;

/// The key of an item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Partition key.
    pub pk: String,
    /// Sort key.
    pub sk: String,
}

impl Key {
    /// The key of an object.
    pub fn object(uri: &ObjectUri) -> Self {
        Self {
            pk: partition(uri.list()),
            sk: uri.id().to_owned(),
        }
    }

    /// The key of a list's timestamp.
    pub fn list(uri: &ListUri) -> Self {
        Self {
            pk: partition(uri),
            sk: TIMESTAMP_KEY.to_owned(),
        }
    }

    pub(super) fn into_item(self) -> Item {
        [("pk", self.pk), ("sk", self.sk)]
            .map(|(name, value)| (name.to_owned(), AttributeValue::S(value)))
            .into()
    }
}

/// The partition that holds the objects of a list, and the list's timestamp.
pub(super) fn partition(list: &ListUri) -> String {
    match list.parent() {
        Some(parent) => format!("{parent}#{}", list.kind().name()),
        None => format!("#{}", list.kind().name()),
    }
}

/// The weight of an item's data once parsed.
pub fn weight_of(item: &Item) -> usize {
    let data = item.get("data").and_then(|data| data.as_s().ok());
    data.map_or(0, |data| weight::of_text(data.as_bytes()))
}

/// A number attribute.
pub(crate) fn number(timestamp: Timestamp) -> AttributeValue {
    AttributeValue::N(timestamp.to_string())
}

/// The key of an item.
pub(super) fn key_of(item: &Item) -> Result<Key, StoreError> {
    Ok(Key {
        pk: string(item, "pk")?,
        sk: string(item, "sk")?,
    })
}

/// A string attribute of an item.
pub(super) fn string(item: &Item, attribute: &'static str) -> Result<String, StoreError> {
    item.get(attribute)
        .and_then(|value| value.as_s().ok())
        .cloned()
        .ok_or_else(|| malformed(item, attribute))
}

/// A time attribute of an item.
pub(super) fn time(item: &Item, attribute: &'static str) -> Result<Timestamp, StoreError> {
    let value = item.get(attribute).and_then(|value| value.as_n().ok());
    value
        .and_then(|digits| Timestamp::from_digits(digits))
        .ok_or_else(|| malformed(item, attribute))
}

/// A time attribute of an item, which may be absent.
pub(super) fn optional_time(
    item: &Item,
    attribute: &'static str,
) -> Result<Option<Timestamp>, StoreError> {
    item.contains_key(attribute)
        .then(|| time(item, attribute))
        .transpose()
}

/// Returns `true` if a flag of an item is set.
pub(super) fn flag(item: &Item, attribute: &str) -> bool {
    item.get(attribute)
        .and_then(|value| value.as_bool().ok())
        .copied()
        .unwrap_or(false)
}

/// The error for an item in another format than the one we write.
pub(super) fn malformed(item: &Item, attribute: &'static str) -> StoreError {
    let shown = |name: &str| {
        item.get(name)
            .and_then(|value| value.as_s().ok())
            .cloned()
            .unwrap_or_default()
    };
    StoreError::Malformed {
        pk: shown("pk"),
        sk: shown("sk"),
        attribute,
    }
}
