//! Reading a list: page by page, so that nobody need hold more of it than a page.

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, Select};

use super::object::permissions_of;
use super::{
    BY_LAST_MODIFIED, Generation, Item, Key, Object, Store, StoreError, flag, number, partition,
    string, time,
};
use crate::permission::Permissions;
use crate::resource::ListUri;
use crate::timestamp::Timestamp;

/// Bytes that an object takes in the table beside its data, about.
const OVERHEAD: usize = 256;
/// Bytes that one `Query` reads at most (DynamoDB).
const PAGE: usize = 1024 * 1024;

/// Which objects of a list are read: those written under the parent's generation.
#[derive(Clone, Debug)]
pub struct ListRead<'l> {
    /// The list.
    pub list: &'l ListUri,
    /// The generation of its parent.
    pub generation: &'l Generation,
    /// Only what is later.
    pub since: Option<Timestamp>,
    /// Only what is earlier.
    pub before: Option<Timestamp>,
    /// Whether tombstones are among them.
    pub tombstones: bool,
    /// How many are probably enough.
    pub limit_hint: Option<usize>,
}

impl ListRead<'_> {
    /// The first and the last time that an object may have.
    pub fn times(&self) -> (Timestamp, Timestamp) {
        let last = self.before.map_or(Timestamp(u64::MAX), |before| {
            Timestamp(before.0.saturating_sub(1))
        });
        (self.since.map_or(Timestamp(0), Timestamp::next), last)
    }
}

/// An object of a list as it is stored: its data is not parsed.
#[derive(Debug)]
pub struct ListedObject {
    /// Its id.
    pub id: String,
    /// When it was last written.
    pub last_modified: Timestamp,
    item: Item,
}

impl ListedObject {
    fn from_item(item: Item) -> Result<Self, StoreError> {
        Ok(Self {
            id: string(&item, "sk")?,
            last_modified: time(&item, "last_modified")?,
            item,
        })
    }

    /// An object as it would be stored at `key`.
    pub fn of(key: Key, object: &Object) -> Self {
        Self {
            id: key.sk.clone(),
            last_modified: object.last_modified,
            item: object.clone().into_item(key),
        }
    }

    /// Whether it is a tombstone.
    pub fn is_deleted(&self) -> bool {
        flag(&self.item, "deleted")
    }

    /// The JSON of its fields but for `id` and `last_modified`; `None` of a tombstone.
    pub fn data(&self) -> Option<&str> {
        let data = self.item.get("data").and_then(|data| data.as_s().ok());
        data.map(String::as_str)
    }

    /// What is granted on it.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] when it is not as objects are written.
    pub fn permissions(&self) -> Result<Permissions, StoreError> {
        permissions_of(&self.item)
    }

    /// All of it.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] when it is not as objects are written.
    pub fn to_object(&self) -> Result<Object, StoreError> {
        Object::from_item(&self.item)
    }

    /// The same with no data, which is not parsed.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] when it is not as objects are written.
    pub fn to_object_without_data(&self) -> Result<Object, StoreError> {
        Object::without_data(&self.item)
    }
}

/// Objects that one `Query` read.
#[derive(Debug)]
pub struct Page {
    /// The objects, the latest first.
    pub objects: Vec<ListedObject>,
    /// How many bytes of the table that was, about.
    pub bytes: usize,
}

/// The pages of a list, the latest objects first.
#[derive(Debug)]
pub struct Pages {
    /// Asks for the next one; `None` when there is no more.
    next: Option<QueryFluentBuilder>,
    /// How many objects the next one has at most.
    limit: Option<i32>,
}

impl Pages {
    /// The next page; `None` when there is no more. One `Query` of the index of a MB at most, strongly consistent;
    /// 1 RCU for each 4 KB.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn next(&mut self) -> Result<Option<Page>, StoreError> {
        let Some(query) = self.next.take() else {
            return Ok(None);
        };
        let page = query.clone().set_limit(self.limit).send().await;
        // What was to be limit_hint is not, where objects are left out or have the same time. Few requests find how many are.
        self.limit = self.limit.map(|limit| limit.saturating_mul(2));
        let page = page.map_err(StoreError::request("Query"))?;
        let read = page.scanned_count.max(page.count);
        let mut bytes = usize::try_from(read).unwrap_or_default() * OVERHEAD;
        let mut objects = Vec::with_capacity(page.items().len());
        for item in page.items.unwrap_or_default() {
            let object = ListedObject::from_item(item)?;
            bytes += object.data().map_or(0, str::len);
            objects.push(object);
        }
        let start = page.last_evaluated_key;
        self.next = start.map(|start| query.set_exclusive_start_key(Some(start)));
        Ok(Some(Page { objects, bytes }))
    }
}

impl Store {
    /// The objects of a list, page by page.
    pub fn list(&self, reading: &ListRead<'_>) -> Pages {
        Pages {
            next: self.list_query(reading),
            limit: reading.limit_hint.and_then(|hint| i32::try_from(hint).ok()),
        }
    }

    /// How many objects there are in a list, and how many bytes were read to count them. One `Query` for each MB, as to
    /// read them; nothing of them is sent.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn count(&self, reading: &ListRead<'_>) -> Result<(usize, usize), StoreError> {
        let Some(query) = self.list_query(reading) else {
            return Ok((0, 0));
        };
        let mut pages = query.select(Select::Count).into_paginator().send();
        let (mut count, mut bytes) = (0, 0);
        while let Some(page) = pages.next().await {
            let page = page.map_err(StoreError::request("Query"))?;
            count += usize::try_from(page.count).unwrap_or_default();
            bytes += match page.last_evaluated_key {
                Some(_) => PAGE,
                None => usize::try_from(page.scanned_count).unwrap_or_default() * OVERHEAD,
            };
        }
        Ok((count, bytes))
    }

    /// `None` of what can hold nothing.
    fn list_query(&self, reading: &ListRead<'_>) -> Option<QueryFluentBuilder> {
        let (first, last) = reading.times();
        let filter = if reading.tombstones {
            "parent = :parent"
        } else {
            "parent = :parent AND attribute_not_exists(deleted)"
        };
        let parent = AttributeValue::S(reading.generation.0.clone());
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .index_name(BY_LAST_MODIFIED)
            .key_condition_expression("pk = :pk AND last_modified BETWEEN :first AND :last")
            .filter_expression(filter)
            .expression_attribute_values(":pk", AttributeValue::S(partition(reading.list)))
            .expression_attribute_values(":first", number(first))
            .expression_attribute_values(":last", number(last))
            .expression_attribute_values(":parent", parent)
            .scan_index_forward(false)
            .consistent_read(true);
        (first <= last).then_some(query)
    }
}
