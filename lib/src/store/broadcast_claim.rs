//! What each Megaphone was told, and who may tell it now: the state behind the queue's messages. The version that it is to
//! be told is in the monitor's state ([`super::monitor::MonitorState::due`]).
//!
//! | attribute | what it is |
//! | --- | --- |
//! | `due` | the version to be told, as functions of an earlier version raise it; honoured if it is the higher |
//! | `sent` | the latest version that Megaphone said it took |
//! | `not_before` | no request leaves before this time |
//! | `holder` | who set `not_before`, so that only they move it back |
//!
//! `not_before` is three things in one, and the same for all functions: the lease of the one that is telling now,
//! the end of the debounce window, and the pause after a failure.

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};

use super::{Item, Key, Store, StoreError, ignore_failed_condition, number, time};
use crate::timestamp::Timestamp;

/// The partition of all states.
pub(super) const PARTITION: &str = "#broadcast";

/// What came of asking for the right to tell a Megaphone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody else will tell it before the time given; this is the version to tell.
    Granted(Timestamp),
    /// Something is to be told, but not before this time.
    NotBefore(Timestamp),
    /// Megaphone took the latest version already.
    NothingDue,
}

fn key(listener: &str) -> Key {
    Key {
        pk: PARTITION.to_owned(),
        sk: listener.to_owned(),
    }
}

impl Store {
    /// Asks for `holder`, a name that nobody else has, to be the only one to tell `listener`'s Megaphone until `until`.
    ///
    /// Granted only if something is due and `not_before` has come. `due` is the monitor's version for that listener, read
    /// since `now`. Repeating it after a lost answer grants it again.
    /// One `UpdateItem`, 1 WCU, whatever comes of it.
    pub async fn claim_broadcast(
        &self,
        listener: &str,
        holder: &str,
        due: Option<Timestamp>,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, StoreError> {
        let is_due = match due {
            Some(_) => "(attribute_not_exists(sent) OR sent < :due OR sent < due)",
            None => "attribute_exists(due) AND (attribute_not_exists(sent) OR sent < due)",
        };
        let condition = format!(
            "{is_due} AND (attribute_not_exists(not_before) OR not_before <= :now OR holder = :holder)"
        );
        let mut update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(listener).into_item()))
            .update_expression("SET holder = :holder, not_before = :until")
            .condition_expression(condition)
            .expression_attribute_values(":holder", AttributeValue::S(holder.to_owned()))
            .expression_attribute_values(":now", number(now))
            .expression_attribute_values(":until", number(until))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        if let Some(due) = due {
            update = update.expression_attribute_values(":due", number(due));
        }
        match update.send().await {
            Ok(answer) => {
                let item = answer.attributes.unwrap_or_default();
                let version = due.max(optional(&item, "due")?);
                Ok(version.map_or(Claim::NothingDue, Claim::Granted))
            }
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                    let item = refused.item();
                    item.map_or(Ok(Claim::NothingDue), |item| refusal(item, due))
                }
                _ => Err(StoreError::request("UpdateItem")(error)),
            },
        }
    }

    /// Records what came of a claim: the version that Megaphone took, if it did, and when the next may be told.
    ///
    /// Changes nothing when another holds the claim by now, whose version is as late or later.
    /// One `UpdateItem`, 1 WCU.
    pub async fn settle_broadcast(
        &self,
        listener: &str,
        holder: &str,
        sent: Option<Timestamp>,
        not_before: Timestamp,
    ) -> Result<(), StoreError> {
        let expression = match sent {
            Some(_) => "SET not_before = :not_before, sent = :sent",
            None => "SET not_before = :not_before",
        };
        let mut update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(listener).into_item()))
            .update_expression(expression)
            .condition_expression("holder = :holder")
            .expression_attribute_values(":holder", AttributeValue::S(holder.to_owned()))
            .expression_attribute_values(":not_before", number(not_before));
        if let Some(sent) = sent {
            update = update.expression_attribute_values(":sent", number(sent));
        }
        ignore_failed_condition("UpdateItem", update.send().await)
    }
}

/// A time attribute that an item may lack.
fn optional(item: &Item, attribute: &'static str) -> Result<Option<Timestamp>, StoreError> {
    item.contains_key(attribute)
        .then(|| time(item, attribute))
        .transpose()
}

/// Why a claim was not granted, from the state that it met.
fn refusal(item: &Item, due: Option<Timestamp>) -> Result<Claim, StoreError> {
    if due.max(optional(item, "due")?) <= optional(item, "sent")? {
        return Ok(Claim::NothingDue);
    }
    time(item, "not_before").map(Claim::NotBefore)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_claim_tells_whether_and_until_when_to_wait() {
        let item = |attributes: &[(&str, u64)]| -> Item {
            let numbers = attributes.iter();
            numbers
                .map(|(name, value)| ((*name).to_owned(), number(Timestamp(*value))))
                .collect()
        };
        let waiting = Claim::NotBefore(Timestamp(9));
        for (due, attributes, expected) in [
            (None, &[][..], Claim::NothingDue),
            (Some(5), &[("sent", 5)], Claim::NothingDue),
            (Some(5), &[("not_before", 9)], waiting),
            (Some(5), &[("sent", 4), ("not_before", 9)], waiting),
            // As an earlier version has it.
            (None, &[("due", 5), ("sent", 5)], Claim::NothingDue),
            (Some(4), &[("due", 5), ("sent", 5)], Claim::NothingDue),
            (
                Some(4),
                &[("due", 5), ("sent", 4), ("not_before", 9)],
                waiting,
            ),
        ] {
            let refused = refusal(&item(attributes), due.map(Timestamp)).unwrap();
            assert_eq!(refused, expected, "{due:?} {attributes:?}");
        }
    }
}
