//! Whether entries were written since they were read: one small item beside them, which spares reading them again
//! ([decision 9](../../../../docs/decisions/009-monitor-memory.md)).
//!
//! | attribute | what it is |
//! | --- | --- |
//! | `version` | how many times somebody was done with writing entries |
//! | `pending` with a batch's name behind it | that its entries are being written, since this time in ms |
//! | `last_modified` | 0: in the index the state comes before all entries |

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};

use super::{MonitorEntry, PARTITION};
use crate::store::{Item, Key, Store, StoreError, malformed, number, time, unless_refused};
use crate::timestamp::Timestamp;

/// The sort key of the state; an entry's begins with a slash.
pub(super) const STATE_KEY: &str = "#state";

/// What the attributes of batches that are being written begin with.
const PENDING: &str = "pending ";

/// A batch that began longer ago is written no more: a function of Lambda is stopped after 15 minutes at most.
const ABANDONED_AFTER: Duration = Duration::from_secs(60 * 60);

/// A batch that began longer ago does not come again either: the stream holds it for 24 hours.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(25 * 60 * 60);

/// Batches that one end takes out at most: an expression has room for so many.
const MAX_FORGOTTEN: usize = 100;

/// Tells one state of all entries from another, while nobody is writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorState {
    version: u64,
    /// The attributes of batches that are being written, with when that began.
    pending: BTreeMap<String, Timestamp>,
}

impl MonitorState {
    /// Whether nobody was writing when it was read: entries that are read after it stay as they are until it changes.
    pub fn is_settled(&self, now: Timestamp) -> bool {
        let mut began = self.pending.values();
        began.all(|began| began.after(ABANDONED_AFTER) <= now)
    }

    pub(super) fn from_item(item: &Item) -> Result<Self, StoreError> {
        let pending = item.iter().filter(|(name, _)| name.starts_with(PENDING));
        let pending = pending.map(|(name, began)| {
            let began = began.as_n().ok().and_then(|n| Timestamp::from_digits(n));
            let began = began.ok_or_else(|| malformed(item, "pending"))?;
            Ok((name.clone(), began))
        });
        Ok(Self {
            version: time(item, "version")?.0,
            pending: pending.collect::<Result<_, StoreError>>()?,
        })
    }
}

fn key() -> Key {
    Key {
        pk: PARTITION.to_owned(),
        sk: STATE_KEY.to_owned(),
    }
}

/// The right to write entries, from [`Store::begin_monitor_writes`] on until [`Self::end`].
///
/// Without an end, all who poll read the entries themselves until it is abandoned: that costs them time, and no more.
#[derive(Debug)]
pub struct MonitorWrites<'a> {
    store: &'a Store,
    /// The attribute of this batch, and those of batches that will never end.
    over: Vec<String>,
}

impl MonitorWrites<'_> {
    /// Records `entry` unless the monitor knows of a change as late or later. Safe to repeat, in any order.
    ///
    /// One `PutItem`, 1 WCU in the table and 1 to 2 in the index.
    pub async fn put(&self, entry: MonitorEntry) -> Result<(), StoreError> {
        let put = self
            .store
            .client
            .put_item()
            .table_name(&self.store.table)
            .condition_expression("attribute_not_exists(pk) OR last_modified < :last_modified")
            .expression_attribute_values(":last_modified", number(entry.last_modified))
            .set_item(Some(entry.into_item()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::None);
        unless_refused("PutItem", put.send().await)
    }

    /// Makes it known that every entry was acknowledged. To be left out when one was not: it may yet arrive.
    ///
    /// One `UpdateItem`, 1 WCU in the table and 1 in the index.
    pub async fn end(self) -> Result<(), StoreError> {
        let names = (0..self.over.len()).map(|n| format!("#n{n}"));
        let names: Vec<_> = names.collect();
        let expression = format!("ADD version :one REMOVE {}", names.join(", "));
        self.store
            .update_monitor_state()
            .update_expression(expression)
            .set_expression_attribute_names(Some(names.into_iter().zip(self.over).collect()))
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
            .send()
            .await
            .map_err(StoreError::request("UpdateItem"))?;
        Ok(())
    }
}

impl Store {
    /// Makes it known that the entries of `batch` are about to be written: from now on nobody relies on what they have
    /// read before.
    ///
    /// A batch that is repeated has the same name each time, so that its end is that of the attempts before as well.
    /// One `UpdateItem`, 1 WCU in the table and 1 in the index.
    pub async fn begin_monitor_writes(
        &self,
        batch: &str,
        now: Timestamp,
    ) -> Result<MonitorWrites<'_>, StoreError> {
        let own = format!("{PENDING}{batch}");
        let answer = self
            .update_monitor_state()
            .update_expression(
                "SET last_modified = :zero, version = if_not_exists(version, :zero), #own = :now",
            )
            .expression_attribute_names("#own", &own)
            .expression_attribute_values(":zero", number(Timestamp(0)))
            .expression_attribute_values(":now", number(now))
            .return_values(ReturnValue::AllNew)
            .send()
            .await
            .map_err(StoreError::request("UpdateItem"))?;
        let state = MonitorState::from_item(&answer.attributes.unwrap_or_default())?;
        let pending = state.pending.into_iter();
        let forgotten = pending.filter(|(_, began)| began.after(FORGOTTEN_AFTER) <= now);
        let forgotten = forgotten.map(|(name, _)| name).take(MAX_FORGOTTEN);
        let over = std::iter::once(own).chain(forgotten).collect();
        Ok(MonitorWrites { store: self, over })
    }

    /// Reads the state; `None` before the first batch. One `GetItem`, strongly consistent, 1 RCU.
    pub async fn monitor_state(&self) -> Result<Option<MonitorState>, StoreError> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key().into_item()))
            .consistent_read(true)
            .send()
            .await
            .map_err(StoreError::request("GetItem"))?;
        answer
            .item
            .as_ref()
            .map(MonitorState::from_item)
            .transpose()
    }

    fn update_monitor_state(&self) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key().into_item()))
    }
}
