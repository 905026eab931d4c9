//! Publications: what becomes of a whole list at once, shown by the list's item alone
//! ([decision 25](../../../docs/decisions/025-signer.md)).
//!
//! | `pk` | `sk` | holds |
//! | --- | --- | --- |
//! | `#layer#`, the list's partition, `#`, the layer's name, `#` and a number | an object's id | the object, its time as `at`; `expires` |
//!
//! A partition takes 1,000 WCU a second (DynamoDB), so a large layer lies in several, by a hash of the ids.
//!
//! The list's item names the *layer* with its size, and holds the signatures of what the list is with it. Whoever reads the
//! list takes of each object the later of two states: the one in its place, and the one in the layer. To settle it copies
//! its objects to their places, which changes nothing of what is read, and then has the item name it no more. That goes in
//! steps, partition by partition in order of ids; the item says how far they came, so that whoever goes on does nothing again,
//! and the stream tells of each. A layer that no list names was never shown, or is settled, and goes when it expires.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use futures::stream::{self, StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::error::ignore_failed_condition;
use super::import::{ImportWrite, MAX_BATCH};
use super::{
    Item, Key, Object, Store, StoreError, all_pages, malformed, number, optional_time, partition,
    time,
};
use crate::resource::ListUri;
use crate::timestamp::Timestamp;

/// What the partition keys of layers begin with.
const PARTITION: &str = "#layer#";
/// The time of an object in a layer: not called `last_modified`, so that the index leaves it out.
const AT: &str = "at";
/// How long a layer is kept: far longer than the stream tries to have it settled.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Requests that are under way at once.
const CONCURRENCY: usize = 16;
/// `BatchWriteItem`s that are under way at once, each of at most 10 MB.
const BATCHES: usize = 4;
/// The objects of a layer for which it gets one more partition; enough to be written within two seconds, at 2 KB each.
const OBJECTS_A_PARTITION: usize = 1000;
/// The most partitions of a layer. A table that was just made spreads them over four partitions of its own.
const MAX_PARTITIONS: usize = 16;
/// The most objects that one step of settling puts in their places; DynamoDB gives at most 1 MB at once.
const STEP: i32 = 500;

/// Attributes of a list's item.
const SIGNATURES: &str = "signatures";
const UNTIL: &str = "signed_until";
const LAYER: &str = "layer";
const LAYER_SIZE: &str = "layer_size";
/// How far the layer is settled: the last of the ids of objects that are in their places, and how many these are.
const PLACED_TO: &str = "layer_placed_to";
const PLACED: &str = "layer_placed";
/// Attributes of the item of a source's list of records.
const EDITOR: &str = "editor";
const REVIEWED: &str = "reviewed";

/// What the item of a list tells of publications.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// JSON of the signatures of all that the list shows, with its timestamp; `None` where none were ever made.
    pub signatures: Option<String>,
    /// Until when the certificates of the signatures are valid; `None` where they have none.
    pub until: Option<Timestamp>,
    /// What is to be read with the list.
    pub layer: Option<Layer>,
    /// Who edits the list, which is the source of publications: the collection's own item says so as well, and need not be
    /// written again.
    pub editor: Option<String>,
    /// The state of the list that is under review, as [`state`] names it.
    pub reviewed: Option<String>,
}

/// Names the objects that a publication writes, until they are in their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its name, random.
    pub name: String,
    /// How many objects it has.
    pub size: usize,
}

/// The state of a layer after one step of settling it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleProgress {
    /// No list shows it: all is in its place.
    Done,
    /// There is more to do.
    Unfinished,
}

/// What a list's item is to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicationWrite {
    /// JSON of the signatures; `None` of a source, which has none.
    pub signatures: Option<String>,
    /// Until when their certificates are valid.
    pub until: Option<Timestamp>,
    /// What changes, where anything does.
    pub layer: Option<Layer>,
}

impl Published {
    pub(super) fn from_item(item: &Item) -> Result<Self, StoreError> {
        let text = |name: &'static str| match item.get(name) {
            None => Ok(None),
            Some(value) => match value.as_s() {
                Ok(text) => Ok(Some(text.clone())),
                Err(_) => Err(malformed(item, name)),
            },
        };
        let size = usize::try_from(count(item, LAYER_SIZE)?).unwrap_or(usize::MAX);
        Ok(Self {
            signatures: text(SIGNATURES)?,
            until: optional_time(item, UNTIL)?,
            layer: text(LAYER)?.map(|name| Layer { name, size }),
            editor: text(EDITOR)?,
            reviewed: text(REVIEWED)?,
        })
    }
}

/// A number of objects in an attribute of an item; 0 where it is absent.
fn count(item: &Item, name: &'static str) -> Result<u64, StoreError> {
    match item.get(name).map(AttributeValue::as_n) {
        None => Ok(0),
        Some(Ok(digits)) => digits.parse().map_err(|_| malformed(item, name)),
        Some(Err(_)) => Err(malformed(item, name)),
    }
}

/// Names a state of a list: its timestamp, and how many transactions wrote to it under past times.
pub fn state(timestamp: Timestamp, past: u64) -> String {
    format!("{timestamp}-{past}")
}

impl Layer {
    /// The number of its partitions.
    fn partitions(&self) -> usize {
        (self.size / OBJECTS_A_PARTITION).clamp(1, MAX_PARTITIONS)
    }

    /// The number of the partition that has an id.
    fn partition_of(&self, id: &str) -> usize {
        usize::from(Sha256::digest(id)[0]) % self.partitions()
    }

    fn partition(&self, list: &ListUri, number: usize) -> String {
        format!("{PARTITION}{}#{}#{number}", partition(list), self.name)
    }

    fn key(&self, list: &ListUri, id: &str) -> Key {
        Key {
            pk: self.partition(list, self.partition_of(id)),
            sk: id.to_owned(),
        }
    }
}

/// An object of a layer as it would be in its place.
fn in_place(mut item: Item, list: &ListUri) -> Result<Item, StoreError> {
    let at = time(&item, AT)?;
    item.remove(AT);
    item.remove("expires");
    item.insert("last_modified".to_owned(), number(at));
    item.insert("pk".to_owned(), AttributeValue::S(partition(list)));
    Ok(item)
}

impl Store {
    /// Writes a layer of a list, which nobody reads before the list's item names it.
    ///
    /// One `BatchWriteItem` for each 25 objects, four at once; 1 WCU for each KB of an object.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn write_layer(
        &self,
        list: &ListUri,
        objects: Vec<(String, Object)>,
    ) -> Result<Layer, StoreError> {
        let layer = Layer {
            name: Uuid::new_v4().to_string(),
            size: objects.len(),
        };
        let expires = number(Timestamp(Timestamp::now().after(KEPT).0 / 1000));
        let items = objects.into_iter().map(|(id, object)| {
            let at = number(object.last_modified);
            let mut item = object.into_item(layer.key(list, &id));
            item.remove("last_modified");
            item.insert(AT.to_owned(), at);
            item.insert("expires".to_owned(), expires.clone());
            ImportWrite::put(item)
        });
        let items = items.collect::<Result<Vec<_>, _>>()?;
        let batches: Vec<_> = items.chunks(MAX_BATCH).map(<[_]>::to_vec).collect();
        stream::iter(batches)
            .map(|batch| self.write_batch(batch))
            .buffer_unordered(BATCHES)
            .try_collect::<()>()
            .await?;
        Ok(layer)
    }

    /// The items of a layer, as they would be in their places; `None` when not all are there, so that it was settled long
    /// ago.
    ///
    /// One `Query` for each partition and MB, four partitions at once, 1 RCU for each 4 KB.
    ///
    /// # Errors
    /// Failures of the table.
    pub(super) async fn layer_items(
        &self,
        list: &ListUri,
        layer: &Layer,
    ) -> Result<Option<Vec<Item>>, StoreError> {
        let queries = (0..layer.partitions()).map(|number| self.layer_query(list, layer, number));
        let pages = stream::iter(queries).map(all_pages).buffered(BATCHES);
        let items = pages.try_concat().await?;
        if items.len() < layer.size {
            return Ok(None);
        }
        let items = items.into_iter().map(|item| in_place(item, list));
        items.collect::<Result<_, _>>().map(Some)
    }

    /// Reads a partition of a layer.
    fn layer_query(&self, list: &ListUri, layer: &Layer, number: usize) -> QueryFluentBuilder {
        let partition = layer.partition(list, number);
        self.client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", AttributeValue::S(partition))
            .consistent_read(true)
    }

    /// The objects of a layer by their ids; `None` as for [`Self::layer_items`].
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn layer_objects(
        &self,
        list: &ListUri,
        layer: &Layer,
    ) -> Result<Option<HashMap<String, Object>>, StoreError> {
        let Some(items) = self.layer_items(list, layer).await? else {
            return Ok(None);
        };
        let objects = items.iter().map(|item| {
            let id = super::string(item, "sk")?;
            Ok((id, Object::from_item(item)?))
        });
        objects.collect::<Result<_, _>>().map(Some)
    }

    /// One object of a layer; `None` where it has none of that id. One `BatchGetItem`.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn layer_object(
        &self,
        list: &ListUri,
        layer: &Layer,
        id: &str,
    ) -> Result<Option<Object>, StoreError> {
        let key = layer.key(list, id);
        let item = self.read(std::slice::from_ref(&key)).await?.remove(&key);
        let item = item.map(|item| in_place(item, list)).transpose()?;
        item.as_ref().map(Object::from_item).transpose()
    }

    /// Copies a layer's objects to their places, and has the list's item name it no more: whatever of that was done already,
    /// by whomever, and however often. The layer itself goes when it expires, which costs nothing.
    ///
    /// One `BatchGetItem` where it is settled; else the steps that are left.
    ///
    /// # Errors
    /// Failures of the table; then it is to be called again, and goes on from the last step.
    pub async fn settle_layer(&self, list: &ListUri, layer: &Layer) -> Result<(), StoreError> {
        while self.settle_step(list, layer).await? == SettleProgress::Unfinished {}
        Ok(())
    }

    /// One step of [`Self::settle_layer`]. When it goes on, the list's item was written, and the stream tells of that.
    ///
    /// A `BatchGetItem`, a `Query` of at most 1 MB and one for each partition that has no more, a `PutItem` for each object,
    /// 16 at once, and an `UpdateItem`.
    ///
    /// # Errors
    /// Failures of the table; [`StoreError::Unsettled`] where objects of the layer are not there.
    pub async fn settle_step(
        &self,
        list: &ListUri,
        layer: &Layer,
    ) -> Result<SettleProgress, StoreError> {
        let key = Key::list(list);
        let item = self.read(std::slice::from_ref(&key)).await?.remove(&key);
        let item = item.unwrap_or_default();
        if Published::from_item(&item)?.layer.as_ref() != Some(layer) {
            return Ok(SettleProgress::Done);
        }
        let placed_to = item.get(PLACED_TO).cloned();
        let placed = count(&item, PLACED)?;
        let (items, goes_on) = self.layer_page(list, layer, placed_to.as_ref()).await?;
        let placed = placed + items.len() as u64;
        let last = items.last().and_then(|item| item.get("sk")).cloned();
        stream::iter(items)
            .map(|item| async { self.put_unless_later(in_place(item, list)?).await })
            .buffer_unordered(CONCURRENCY)
            .try_collect::<()>()
            .await?;
        if !goes_on && placed < layer.size as u64 {
            return Err(StoreError::Unsettled(list.clone()));
        }
        // The entry of the outbox was told of when it was written.
        let mut update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key.into_item()))
            .expression_attribute_values(":name", AttributeValue::S(layer.name.clone()));
        // Of two who settle at once one counts.
        let unmoved = match placed_to {
            Some(from) => {
                update = update.expression_attribute_values(":from", from);
                format!("{LAYER} = :name AND {PLACED_TO} = :from")
            }
            None => format!("{LAYER} = :name AND attribute_not_exists({PLACED_TO})"),
        };
        update = update.condition_expression(unmoved);
        update = match last.filter(|_| goes_on) {
            Some(last) => update
                .update_expression(format!(
                    "SET {PLACED_TO} = :last, {PLACED} = :placed REMOVE entry"
                ))
                .expression_attribute_values(":last", last)
                .expression_attribute_values(":placed", AttributeValue::N(placed.to_string())),
            None => update.update_expression(format!(
                "REMOVE {LAYER}, {LAYER_SIZE}, {PLACED_TO}, {PLACED}, entry"
            )),
        };
        ignore_failed_condition("UpdateItem", update.send().await)?;
        match goes_on {
            true => Ok(SettleProgress::Unfinished),
            false => Ok(SettleProgress::Done),
        }
    }

    /// The next items of a layer behind an id, of one partition, and whether there may be more.
    async fn layer_page(
        &self,
        list: &ListUri,
        layer: &Layer,
        behind: Option<&AttributeValue>,
    ) -> Result<(Vec<Item>, bool), StoreError> {
        let mut behind = behind.and_then(|id| id.as_s().ok());
        let first = behind.map_or(0, |id| layer.partition_of(id));
        for number in first..layer.partitions() {
            let mut query = self.layer_query(list, layer, number).limit(STEP);
            if let Some(id) = behind.take() {
                query = query
                    .key_condition_expression("pk = :pk AND sk > :behind")
                    .expression_attribute_values(":behind", AttributeValue::S(id.clone()));
            }
            let page = query.send().await.map_err(StoreError::request("Query"))?;
            let goes_on = page.last_evaluated_key.is_some() || number + 1 < layer.partitions();
            let items = page.items.unwrap_or_default();
            if !items.is_empty() {
                return Ok((items, goes_on));
            }
        }
        Ok((vec![], false))
    }

    /// Puts an object in its place, unless something as late is there. What is older there, in whatever life of the list, may
    /// go: times of a list only rise.
    async fn put_unless_later(&self, item: Item) -> Result<(), StoreError> {
        let at = number(time(&item, "last_modified")?);
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(pk) OR last_modified < :at")
            .expression_attribute_values(":at", at);
        ignore_failed_condition("PutItem", put.send().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(size: usize) -> Layer {
        Layer {
            name: "layer".to_owned(),
            size,
        }
    }

    #[test]
    fn a_layer_has_one_partition_more_for_each_thousand_objects() {
        let partitions = [0, 1, 1_999, 2_000, 10_000, 100_000].map(|size| layer(size).partitions());
        assert_eq!(partitions, [1, 1, 1, 2, 10, 16]);
    }

    #[test]
    fn each_partition_of_a_layer_has_its_part_of_the_objects() {
        let layer = layer(10_000);
        let mut counts = vec![0; layer.partitions()];
        for n in 0..layer.size {
            counts[layer.partition_of(&format!("r{n}"))] += 1;
        }
        // What a partition takes in two seconds.
        assert!(
            counts.iter().all(|count| (800..1_200).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn what_was_settled_by_another_version_is_gone_on_with() {
        assert_eq!(layer(10_000).partition_of("a"), 2);
    }
}
