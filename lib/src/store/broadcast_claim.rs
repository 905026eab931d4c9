//! The version of each Megaphone, and the right to send the next one: the state behind the queue's messages. The
//! version that is due is in the monitor's state ([`super::monitor::MonitorState::due`]).
//!
//! | attribute | meaning |
//! | --- | --- |
//! | `due` | the version to be sent, as functions of an earlier version raise it; honoured if it is the higher |
//! | `sent` | the latest version that Megaphone acknowledged |
//! | `not_before` | no request leaves before this time |
//! | `holder` | the claim that set `not_before`; only its holder moves it back |
//!
//! `not_before` serves, alike for all functions, as the lease of the present sender, as the end of the debounce window,
//! and as the pause after a failure.

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};

use super::{Item, Key, Store, StoreError, ignore_failed_condition, number, optional_time, time};
use crate::timestamp::Timestamp;

/// The partition of all states.
pub(super) const PARTITION: &str = "#broadcast";

/// The outcome of a claim to send to a Megaphone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// Granted: nobody else sends before the claim ends. Holds the version to send.
    Granted(Timestamp),
    /// A version is due, but must not be sent before this time.
    NotBefore(Timestamp),
    /// Megaphone has the latest version already.
    NothingDue,
}

fn key(listener: &str) -> Key {
    Key {
        pk: PARTITION.to_owned(),
        sk: listener.to_owned(),
    }
}

impl Store {
    /// Claims for `holder`, a unique name, the exclusive right to send to `listener`'s Megaphone until `until`.
    ///
    /// Granted only if a version is due and `not_before` has passed. `due` is the monitor's version for that listener,
    /// read since `now`. A claim that is repeated after a lost response is granted again. One `UpdateItem`, 1 WCU,
    /// whatever the outcome.
    pub async fn claim_broadcast(
        &self,
        listener: &str,
        holder: &str,
        due: Option<Timestamp>,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<ClaimOutcome, StoreError> {
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
                let version = due.max(optional_time(&item, "due")?);
                Ok(version.map_or(ClaimOutcome::NothingDue, ClaimOutcome::Granted))
            }
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                    let item = refused.item();
                    item.map_or(Ok(ClaimOutcome::NothingDue), |item| refusal(item, due))
                }
                _ => Err(StoreError::request("UpdateItem")(error)),
            },
        }
    }

    /// Records the outcome of a claim: the version that Megaphone took, if it did, and the earliest time of the next
    /// request.
    ///
    /// Changes nothing if another holds the claim by now, whose version is as late or later. One `UpdateItem`, 1 WCU.
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

/// The reason why a claim was not granted, from the item that failed its condition.
fn refusal(item: &Item, due: Option<Timestamp>) -> Result<ClaimOutcome, StoreError> {
    if due.max(optional_time(item, "due")?) <= optional_time(item, "sent")? {
        return Ok(ClaimOutcome::NothingDue);
    }
    time(item, "not_before").map(ClaimOutcome::NotBefore)
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
        let waiting = ClaimOutcome::NotBefore(Timestamp(9));
        for (due, attributes, expected) in [
            (None, &[][..], ClaimOutcome::NothingDue),
            (Some(5), &[("sent", 5)], ClaimOutcome::NothingDue),
            (Some(5), &[("not_before", 9)], waiting),
            (Some(5), &[("sent", 4), ("not_before", 9)], waiting),
            // As an earlier version writes it.
            (None, &[("due", 5), ("sent", 5)], ClaimOutcome::NothingDue),
            (
                Some(4),
                &[("due", 5), ("sent", 5)],
                ClaimOutcome::NothingDue,
            ),
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
