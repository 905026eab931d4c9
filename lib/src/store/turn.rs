//! Turns at an item that many transactions contend for ([decision 16](../../../docs/decisions/016-turns.md)).
//!
//! | `pk` | `sk` | holds |
//! | --- | --- | --- |
//! | `#turn#`, the partition key of the item, `#`, its sort key | `#turn` | `free_from`, `expires` |
//!
//! `free_from` is the end of the last turn that was given, in milliseconds. This item is not the contended one, so that
//! no transaction ever holds it. Turns are advisory: a writer that is out of turn, or whose clock is wrong, conflicts
//! with another and is refused by DynamoDB as usual.

use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};

use super::{Key, Store, StoreError, number, time};
use crate::timestamp::Timestamp;

/// The sort key of all of them.
const SORT_KEY: &str = "#turn";
/// The retention of the item after the last turn was given.
const RETENTION: Duration = Duration::from_secs(3600);
/// The most attempts to reserve a turn. Two are enough, unless others reserve one at the same moment.
const MAX_ATTEMPTS: u32 = 4;

impl Key {
    /// The key of the item with the turns at this one.
    fn turns(&self) -> Self {
        Self {
            pk: format!("#turn#{}#{}", self.pk, self.sk),
            sk: SORT_KEY.to_owned(),
        }
    }
}

impl Store {
    /// Reserves the next turn of this `length` at `item`, not before `earliest`, and returns when it begins; `None` if
    /// too many writers ask at once.
    ///
    /// One `UpdateItem`, 1 WCU; two if nobody waits. One that is retried after a lost response leaves a turn unused.
    pub async fn reserve_turn(
        &self,
        item: &Key,
        earliest: Timestamp,
        length: Duration,
    ) -> Result<Option<Timestamp>, StoreError> {
        let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        let request = |expression: &str, condition: &str, value: u64| {
            self.client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(item.turns().into_item()))
                .update_expression(expression)
                .condition_expression(condition)
                .expression_attribute_values(":earliest", number(earliest))
                .expression_attribute_values(":value", AttributeValue::N(value.to_string()))
                .expression_attribute_values(
                    ":expires",
                    number(Timestamp(earliest.after(RETENTION).0 / 1000)),
                )
                .return_values(ReturnValue::AllNew)
        };
        for attempt in 0..MAX_ATTEMPTS {
            let update = if attempt % 2 == 0 {
                // Behind the writers that wait.
                request(
                    "SET expires = :expires ADD free_from :value",
                    "free_from > :earliest",
                    length,
                )
            } else {
                request(
                    "SET free_from = :value, expires = :expires",
                    "attribute_not_exists(free_from) OR free_from <= :earliest",
                    earliest.0.saturating_add(length),
                )
            };
            match update.send().await {
                Ok(answer) => {
                    let free_from = time(&answer.attributes.unwrap_or_default(), "free_from")?;
                    return Ok(Some(Timestamp(free_from.0.saturating_sub(length))));
                }
                Err(error)
                    if error
                        .as_service_error()
                        .is_some_and(|e| e.is_conditional_check_failed_exception()) => {}
                Err(error) => return Err(StoreError::request("UpdateItem")(error)),
            }
        }
        Ok(None)
    }
}
