//! Raises the times of a table in place, so that clients which know later ones hear of all that it holds
//! (docs/operations.md).
//!
//! | `pk` | `sk` | holds |
//! | --- | --- | --- |
//! | `#raise` | `#state` | `begun`: when the raising that is not at its end began |
//!
//! Within a list objects are raised in the order of their times, to times above those that the list ever had; the list's own
//! item is raised last, and names the raising (`raised`). So one that was interrupted goes on where it was.

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;

use super::error::ignore_failed_condition;
use super::write::FORGET_SIGNATURES;
use super::{
    BY_LAST_MODIFIED, Generation, Key, List, Store, StoreError, Version, flag, number, partition,
    string, time,
};
use crate::resource::ListUri;
use crate::timestamp::Timestamp;

/// The item of a raising's state.
const STATE: (&str, &str) = ("#raise", "#state");
/// In a list's item: which raising it had, by when that began.
const RAISED: &str = "raised";

/// A list that may be raised.
#[derive(Clone, Debug)]
pub struct ListToRaise {
    /// The list.
    pub list: List,
    /// Whether this raising has come to its end with it.
    pub is_done: bool,
}

/// An object or tombstone, as far as its time is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectTime {
    /// Its id.
    pub id: String,
    /// Its state.
    pub version: Version,
    /// Whether it is a tombstone.
    pub is_deleted: bool,
    /// The bytes of its item, about: as far as they are read.
    pub size: usize,
}

/// The objects of a list in the order of their times, page by page.
#[derive(Debug)]
pub struct Times(Option<QueryFluentBuilder>);

impl Times {
    /// The next ones; `None` when there are no more. One `Query` of 1 MB at most, 1 RCU for each 4 KB.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn next(&mut self) -> Result<Option<Vec<ObjectTime>>, StoreError> {
        let Some(query) = self.0.take() else {
            return Ok(None);
        };
        let page = query.clone().send().await;
        let page = page.map_err(StoreError::request("Query"))?;
        let start = page.last_evaluated_key;
        self.0 = start.map(|start| query.set_exclusive_start_key(Some(start)));
        let items = page.items.unwrap_or_default().into_iter();
        let dated = items.map(|item| {
            let data = item.get("data").and_then(|data| data.as_s().ok());
            Ok(ObjectTime {
                id: string(&item, "sk")?,
                version: Version {
                    generation: Generation(string(&item, "generation")?),
                    last_modified: time(&item, "last_modified")?,
                },
                is_deleted: flag(&item, "deleted"),
                size: 256 + data.map_or(0, String::len),
            })
        });
        dated.collect::<Result<_, _>>().map(Some)
    }
}

impl Store {
    /// When the raising began that is not at its end; begins one where there is none.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn begin_raising(&self, now: Timestamp) -> Result<Timestamp, StoreError> {
        let mut item = state_key().into_item();
        item.insert("begun".to_owned(), number(now));
        let put = self.client.put_item().table_name(&self.table);
        let put = put
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(pk)");
        ignore_failed_condition("PutItem", put.send().await)?;
        let key = state_key();
        let found = self.read(std::slice::from_ref(&key)).await?.remove(&key);
        found.map_or(Ok(now), |state| time(&state, "begun"))
    }

    /// Ends the raising: the next one is another.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn end_raising(&self) -> Result<(), StoreError> {
        let delete = self.client.delete_item().table_name(&self.table);
        let delete = delete.set_key(Some(state_key().into_item())).send().await;
        delete.map(drop).map_err(StoreError::request("DeleteItem"))
    }

    /// The list as the raising that began then finds it; `None` where it has no item, so that nothing was ever in it.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn raisable(
        &self,
        uri: &ListUri,
        begun: Timestamp,
    ) -> Result<Option<ListToRaise>, StoreError> {
        let key = Key::list(uri);
        let found = self.read(std::slice::from_ref(&key)).await?.remove(&key);
        let raisable = found.map(|item| {
            Ok(ListToRaise {
                list: List::from_item(&item)?,
                is_done: item.get(RAISED) == Some(&number(begun)),
            })
        });
        raisable.transpose()
    }

    /// The objects and tombstones of a list under that generation of its parent, up to a time, the earliest first; with
    /// the latest first those after it.
    pub fn times(
        &self,
        list: &ListUri,
        generation: &Generation,
        at: Timestamp,
        are_after: bool,
    ) -> Times {
        let condition = if are_after {
            "pk = :pk AND last_modified > :at"
        } else {
            "pk = :pk AND last_modified <= :at"
        };
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .index_name(BY_LAST_MODIFIED)
            .key_condition_expression(condition)
            .filter_expression("parent = :parent")
            .expression_attribute_values(":pk", AttributeValue::S(partition(list)))
            .expression_attribute_values(":at", number(at))
            .expression_attribute_values(":parent", AttributeValue::S(generation.0.clone()))
            .scan_index_forward(!are_after)
            .consistent_read(true);
        Times(Some(query))
    }

    /// Gives an object another time, unless it was written meanwhile. One `UpdateItem`, 1 WCU for each KB, and as much again
    /// in the index, from which it is taken and put.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn raise_object(
        &self,
        list: &ListUri,
        object: ObjectTime,
        to: Timestamp,
    ) -> Result<(), StoreError> {
        let key = Key::object(&list.clone().object(object.id));
        let update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key.into_item()))
            .update_expression("SET last_modified = :to")
            .condition_expression("generation = :generation AND last_modified = :was")
            .expression_attribute_values(":to", number(to))
            .expression_attribute_values(":was", number(object.version.last_modified))
            .expression_attribute_values(
                ":generation",
                AttributeValue::S(object.version.generation.0),
            );
        ignore_failed_condition("UpdateItem", update.send().await)
    }

    /// Gives a list another timestamp, and takes back the signatures of what it shows. Returns `false` where it was written
    /// to since it was read.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn raise_list(
        &self,
        uri: &ListUri,
        read: &List,
        to: Timestamp,
        begun: Timestamp,
    ) -> Result<bool, StoreError> {
        // Shares that are not known stay so.
        let (shared, are_shared) = match read.shares.are_known() {
            true => (", shared_at = :to", " AND shared_at = :was"),
            false => ("", ""),
        };
        let updated = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(Key::list(uri).into_item()))
            // The entry of the outbox was told of when it was written.
            .update_expression(format!(
                "SET #timestamp = :to, {RAISED} = :begun{shared} REMOVE {FORGET_SIGNATURES}, entry"
            ))
            .condition_expression(format!("#timestamp = :was{are_shared}"))
            .expression_attribute_names("#timestamp", "timestamp")
            .expression_attribute_values(":to", number(to))
            .expression_attribute_values(":was", number(read.timestamp))
            .expression_attribute_values(":begun", number(begun))
            .send()
            .await;
        let is_raised = updated.is_ok();
        ignore_failed_condition("UpdateItem", updated)?;
        Ok(is_raised)
    }

    /// Removes a tombstone at once, unless something was written over it. One `DeleteItem`, 1 WCU and as much again in the index.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn remove_tombstone(
        &self,
        list: &ListUri,
        tombstone: ObjectTime,
    ) -> Result<(), StoreError> {
        let key = Key::object(&list.clone().object(tombstone.id));
        let delete = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key.into_item()))
            .condition_expression(
                "deleted = :true AND generation = :generation AND last_modified = :at",
            )
            .expression_attribute_values(":true", AttributeValue::Bool(true))
            .expression_attribute_values(":at", number(tombstone.version.last_modified))
            .expression_attribute_values(
                ":generation",
                AttributeValue::S(tombstone.version.generation.0),
            );
        ignore_failed_condition("DeleteItem", delete.send().await)
    }
}

fn state_key() -> Key {
    Key {
        pk: STATE.0.to_owned(),
        sk: STATE.1.to_owned(),
    }
}
