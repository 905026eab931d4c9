//! What changed in a list, as one moment had it, whatever is written meanwhile.
//!
//! Why a reading of many pages can be one moment is the subject of
//! [decision 7](../../../docs/decisions/007-changesets.md).

use std::collections::HashSet;

use aws_sdk_dynamodb::types::AttributeValue;

use super::publication::Layer;
use super::recent::{ReadRange, RecentWrites};
use super::{BY_LAST_MODIFIED, Generation, Item, Store, StoreError, flag, number, string, time};
use crate::resource::ListUri;
use crate::timestamp::Timestamp;

/// An object of a list, as it is stored: its data is not parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedObject {
    /// Its id.
    pub id: String,
    /// When it was last written.
    pub last_modified: Timestamp,
    /// The JSON of its fields but for `id` and `last_modified`; `None` for a tombstone.
    pub data: Option<String>,
    /// The generation of the parent that it was written under.
    parent: Generation,
}

impl ChangedObject {
    fn from_item(mut item: Item) -> Result<Self, StoreError> {
        let last_modified = time(&item, "last_modified")?;
        let data = if flag(&item, "deleted") {
            None
        } else {
            Some(take(&mut item, "data")?)
        };
        Ok(Self {
            id: take(&mut item, "sk")?,
            last_modified,
            data,
            parent: Generation(take(&mut item, "parent")?),
        })
    }
}

/// Moves a string attribute out of an item, since data may be large.
fn take(item: &mut Item, attribute: &'static str) -> Result<String, StoreError> {
    match item.remove(attribute) {
        Some(AttributeValue::S(text)) => Ok(text),
        // For its error: the attribute is not there, or no string.
        _ => string(item, attribute),
    }
}

/// What is read of a list.
#[derive(Clone, Copy, Debug)]
pub struct ChangesQuery {
    /// Only what is later.
    pub since: Timestamp,
    /// No more than so many, the latest; all when `None`.
    pub limit: Option<usize>,
    /// When more bytes of data than this have come, no more is read.
    pub max_bytes: usize,
    /// Whether tombstones are shown.
    pub tombstones: bool,
}

impl ChangesQuery {
    /// Whether that is all that there is.
    pub fn is_all(&self) -> bool {
        self.since == Timestamp(0) && self.limit.is_none()
    }
}

/// The objects of a list that are later than a time, as of the moment when the last reading ended.
#[derive(Debug)]
pub struct Changes {
    wanted: ChangesQuery,
    /// The generation of the parent.
    generation: Generation,
    /// All that was read, the latest last; of an object that was written meanwhile more than one state.
    read: Vec<ChangedObject>,
    /// The timestamp of the list at that moment.
    timestamp: Timestamp,
    /// How much data of this generation was read.
    bytes: usize,
    /// Whether nothing earlier that is wanted is left to be read.
    is_whole: bool,
}

impl Changes {
    /// None at all: what there is to [`Store::update_changes`] when all is known of the list with that timestamp.
    pub fn none(generation: &Generation, timestamp: Timestamp, max_bytes: usize) -> Self {
        Self {
            wanted: ChangesQuery {
                since: timestamp,
                limit: None,
                max_bytes,
                tombstones: true,
            },
            generation: generation.clone(),
            read: vec![],
            timestamp,
            bytes: 0,
            is_whole: true,
        }
    }

    /// The timestamp of the list at the moment that the changes are of.
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Whether all of these are there that `recent` names, which was read before the last reading ended.
    pub fn show(&self, recent: &RecentWrites) -> bool {
        let earliest = self.read.first().filter(|_| !self.is_whole);
        let since = self.wanted.since.next();
        let covered = ReadRange {
            times: earliest.map_or(since, |change| change.last_modified)..=self.timestamp,
            tombstones: true,
        };
        let read = self.read.iter();
        let read = read.map(|change| (change.id.as_str(), change.last_modified));
        recent.is_seen(&covered, Timestamp::now(), read)
    }

    /// Whether there is more than was wanted, so that this is not all.
    pub fn are_too_large(&self) -> bool {
        self.bytes > self.wanted.max_bytes
    }

    fn add(&mut self, mut change: ChangedObject) {
        if !self.generation.owns(&change.parent) {
            // It only tells that there was a write; of what is left of an earlier life there may be much.
            change.data = None;
        }
        self.bytes += change.data.as_ref().map_or(0, String::len);
        self.timestamp = self.timestamp.max(change.last_modified);
        self.read.push(change);
    }

    /// Takes in what a layer of the list holds ([`super::publication`]).
    fn lay(&mut self, items: Vec<Item>) -> Result<(), StoreError> {
        for item in items {
            let change = ChangedObject::from_item(item)?;
            if change.last_modified > self.wanted.since {
                self.add(change);
            }
        }
        self.read.sort_by_key(|change| change.last_modified);
        Ok(())
    }

    /// How many more could be shown than are known.
    fn missing(&self) -> usize {
        match self.wanted.limit {
            Some(limit) if !self.is_whole => limit.saturating_sub(self.shown().len()),
            _ => 0,
        }
    }

    fn shows(&self, change: &ChangedObject) -> bool {
        self.generation.owns(&change.parent) && (self.wanted.tombstones || change.data.is_some())
    }

    /// What existed at that moment, the latest first.
    pub fn shown(&self) -> Vec<&ChangedObject> {
        let mut seen = HashSet::with_capacity(self.read.len());
        let latest = self.read.iter().rev().filter(|c| seen.insert(&*c.id));
        latest
            .filter(|change| self.shows(change))
            .take(self.wanted.limit.unwrap_or(usize::MAX))
            .collect()
    }
}

impl Store {
    /// Reads the changes of a list.
    ///
    /// `at` is the list's timestamp, read before; `generation` that of its parent, read with it. One `Query` of
    /// the index for each MB, strongly consistent; with a limit it takes one more.
    pub async fn changes(
        &self,
        list: &ListUri,
        generation: &Generation,
        at: Timestamp,
        wanted: ChangesQuery,
    ) -> Result<Changes, StoreError> {
        let mut changes = Changes {
            wanted,
            generation: generation.clone(),
            read: vec![],
            timestamp: at,
            bytes: 0,
            is_whole: wanted.limit.is_none(),
        };
        let mut since = wanted.since;
        if let Some(limit) = wanted.limit {
            self.read_back(list, limit, &mut changes).await?;
            // What was moved on while this was read backwards, and so missed, is behind the latest of it.
            since = since.max(changes.timestamp);
        }
        self.read_on(list, since, &mut changes).await?;
        Ok(changes)
    }

    /// Brings `changes` up to this moment. `at` is the list's timestamp, read since they were read.
    ///
    /// One `Query` of what is later than they are.
    pub async fn update_changes(
        &self,
        list: &ListUri,
        at: Timestamp,
        mut changes: Changes,
    ) -> Result<Changes, StoreError> {
        let since = changes.timestamp;
        changes.timestamp = since.max(at);
        self.read_on(list, since, &mut changes).await?;
        Ok(changes)
    }

    /// Adds what a layer of the list holds to changes that were read without a limit; `false` where that is gone, so that
    /// the list is to be read anew.
    ///
    /// One `Query` for each MB.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn apply_layer(
        &self,
        list: &ListUri,
        layer: &Layer,
        changes: &mut Changes,
    ) -> Result<bool, StoreError> {
        let Some(items) = self.layer_items(list, layer).await? else {
            return Ok(false);
        };
        changes.lay(items)?;
        Ok(true)
    }

    /// Reads the changes later than `since`, the earliest first. If deletions since then left fewer objects than the limit, reads older
    /// ones, and then later ones again.
    async fn read_on(
        &self,
        list: &ListUri,
        mut since: Timestamp,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        loop {
            let mut pages = self
                .by_time(list, since, None)
                .scan_index_forward(true)
                .into_paginator()
                .send();
            while !changes.are_too_large()
                && let Some(page) = pages.next().await
            {
                let page = page.map_err(StoreError::request("Query"))?;
                for item in page.items.into_iter().flatten() {
                    changes.add(ChangedObject::from_item(item)?);
                }
            }
            let missing = changes.missing();
            if missing == 0 || changes.are_too_large() {
                return Ok(());
            }
            since = changes.timestamp;
            self.read_back(list, missing, changes).await?;
        }
    }

    /// Reads so many more that are wanted, from the earliest that was read backwards, with those between them that
    /// are not.
    async fn read_back(
        &self,
        list: &ListUri,
        missing: usize,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        let before = changes.read.first().map(|change| change.last_modified);
        let mut items = self
            .by_time(list, changes.wanted.since, before)
            .scan_index_forward(false)
            .limit(i32::try_from(missing).unwrap_or(i32::MAX))
            .into_paginator()
            .items()
            .send();
        let known = std::mem::take(&mut changes.read);
        let known_ids: HashSet<_> = known.iter().map(|change| &*change.id).collect();
        let mut found = 0;
        while found < missing && !changes.are_too_large() {
            let Some(item) = items.next().await else {
                changes.is_whole = true;
                break;
            };
            let change = ChangedObject::from_item(item.map_err(StoreError::request("Query"))?)?;
            found += usize::from(changes.shows(&change) && !known_ids.contains(&*change.id));
            changes.add(change);
        }
        changes.read.reverse();
        changes.read.extend(known);
        Ok(())
    }

    /// The list by time: what is later than `since`, up to `before`. Of the same time there may be several, under times
    /// that clients gave.
    fn by_time(
        &self,
        list: &ListUri,
        since: Timestamp,
        before: Option<Timestamp>,
    ) -> aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder {
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .index_name(BY_LAST_MODIFIED)
            .expression_attribute_values(":pk", AttributeValue::S(super::partition(list)))
            .expression_attribute_values(":first", number(since.next()))
            .consistent_read(true);
        match before {
            None => query.key_condition_expression("pk = :pk AND last_modified >= :first"),
            Some(last) => query
                .key_condition_expression("pk = :pk AND last_modified BETWEEN :first AND :last")
                .expression_attribute_values(":last", number(last)),
        }
    }
}
