//! Turns at an item that many transactions want at once
//! ([decision 16](../../../docs/decisions/016-turns.md)).
//!
//! | `pk` | `sk` | holds |
//! | --- | --- | --- |
//! | `#turn#`, the partition key of the item, `#`, its sort key | `#turn` | `free_from`, `expires` |
//!
//! `free_from` is the end of the last turn that was given, in milliseconds. The item is another one than that which is
//! contended, so that no transaction ever has it in hand. Turns bind nobody: whoever comes out of turn, or whose clock is
//! wrong, collides with another and is refused by DynamoDB as ever.

use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};

use super::{Key, Store, StoreError, number, time};
use crate::timestamp::Timestamp;

/// The sort key of all of them.
const SORT_KEY: &str = "#turn";
/// How long the item is kept after the last turn was given.
const KEPT: Duration = Duration::from_secs(3600);
/// Times that the next turn is asked for at most. Two are enough, unless others ask for one at the same moment.
const MAX_ATTEMPTS: u32 = 4;

impl Key {
    /// The key of the item that holds the turns at this one.
    fn turns(&self) -> Self {
        Self {
            pk: format!("#turn#{}#{}", self.pk, self.sk),
            sk: SORT_KEY.to_owned(),
        }
    }
}

impl Store {
    /// Reserves the next turn of that `length` at `item` that is not before `earliest`, and tells when it begins; `None`
    /// where too many ask at once.
    ///
    /// One `UpdateItem`, 1 WCU; two where nobody waits. One that is repeated after a lost answer leaves a turn unused.
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
                    number(Timestamp(earliest.after(KEPT).0 / 1000)),
                )
                .return_values(ReturnValue::AllNew)
        };
        for attempt in 0..MAX_ATTEMPTS {
            let update = if attempt % 2 == 0 {
                // Behind those who wait.
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
