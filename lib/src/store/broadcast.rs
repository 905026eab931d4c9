//! What each Megaphone is to be told and was told, and who may tell it now: the state behind the queue's messages.
//!
//! | attribute | what it is |
//! | --- | --- |
//! | `due` | the latest version that is to be told; only ever raised |
//! | `sent` | the latest version that Megaphone said it took |
//! | `not_before` | no request leaves before this time |
//! | `holder` | who set `not_before`, so that only they move it back |
//!
//! `not_before` is three things in one, and the same for all functions: the lease of the one that is telling now,
//! the end of the debounce window, and the pause after a failure.

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};

use super::{Item, Key, Store, StoreError, number, time, unless_refused};
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
    /// Records that `listener`'s Megaphone has to be told `due`, unless a later one is due already.
    ///
    /// One `UpdateItem`, 1 WCU.
    pub async fn set_broadcast_due(
        &self,
        listener: &str,
        due: Timestamp,
    ) -> Result<(), StoreError> {
        let update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(listener).into_item()))
            .update_expression("SET due = :due")
            .condition_expression("attribute_not_exists(due) OR due < :due")
            .expression_attribute_values(":due", number(due));
        unless_refused("UpdateItem", update.send().await)
    }

    /// Asks for `holder`, a name that nobody else has, to be the only one to tell `listener`'s Megaphone until `until`.
    ///
    /// Granted only if something is due and `not_before` has come. Repeating it after a lost answer grants it again.
    /// One `UpdateItem`, 1 WCU, whatever comes of it.
    pub async fn claim_broadcast(
        &self,
        listener: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, StoreError> {
        let update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(listener).into_item()))
            .update_expression("SET holder = :holder, not_before = :until")
            .condition_expression(
                "attribute_exists(due) AND (attribute_not_exists(sent) OR sent < due) AND \
                 (attribute_not_exists(not_before) OR not_before <= :now OR holder = :holder)",
            )
            .expression_attribute_values(":holder", AttributeValue::S(holder.to_owned()))
            .expression_attribute_values(":now", number(now))
            .expression_attribute_values(":until", number(until))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match update.send().await {
            Ok(answer) => time(&answer.attributes.unwrap_or_default(), "due").map(Claim::Granted),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                    refused.item().map_or(Ok(Claim::NothingDue), refusal)
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
        unless_refused("UpdateItem", update.send().await)
    }
}

/// Why a claim was not granted, from the state that it met.
fn refusal(item: &Item) -> Result<Claim, StoreError> {
    let optional = |attribute| {
        item.contains_key(attribute)
            .then(|| time(item, attribute))
            .transpose()
    };
    if optional("due")? <= optional("sent")? {
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
        let refusal = |attributes: &[(&str, u64)]| refusal(&item(attributes)).unwrap();
        assert_eq!(refusal(&[]), Claim::NothingDue);
        assert_eq!(refusal(&[("due", 5), ("sent", 5)]), Claim::NothingDue);
        let waiting = Claim::NotBefore(Timestamp(9));
        assert_eq!(refusal(&[("due", 5), ("not_before", 9)]), waiting);
        assert_eq!(
            refusal(&[("due", 5), ("sent", 4), ("not_before", 9)]),
            waiting
        );
    }
}
