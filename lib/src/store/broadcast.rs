//! What each Megaphone is to be told and was told: the state behind the queue's messages.

use super::{Key, Store, StoreError, number, time};
use crate::timestamp::Timestamp;

/// The partition of all states.
const PARTITION: &str = "#broadcast";

/// The state of one listener's broadcasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BroadcastState {
    /// The latest timestamp that Megaphone has to be told; `None` before the first.
    pub due: Option<Timestamp>,
    /// The latest timestamp that Megaphone said it took; `None` before the first.
    pub sent: Option<Timestamp>,
}

impl BroadcastState {
    /// What is to be sent now, if anything.
    pub fn pending(self) -> Option<Timestamp> {
        self.due
            .filter(|due| self.sent.is_none_or(|sent| sent < *due))
    }
}

fn key(listener: &str) -> Key {
    Key {
        pk: PARTITION.to_owned(),
        sk: listener.to_owned(),
    }
}

impl Store {
    /// Reads the state of `listener`, strongly consistent. One `GetItem`, 1 RCU.
    pub async fn broadcast_state(&self, listener: &str) -> Result<BroadcastState, StoreError> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(listener).into_item()))
            .consistent_read(true)
            .send()
            .await
            .map_err(StoreError::request("GetItem"))?;
        let Some(item) = answer.item else {
            return Ok(BroadcastState::default());
        };
        let optional = |attribute| {
            item.contains_key(attribute)
                .then(|| time(&item, attribute))
                .transpose()
        };
        Ok(BroadcastState {
            due: optional("due")?,
            sent: optional("sent")?,
        })
    }

    /// Records that `listener`'s Megaphone has to be told `due`, unless a later one is due already.
    pub async fn set_broadcast_due(
        &self,
        listener: &str,
        due: Timestamp,
    ) -> Result<(), StoreError> {
        self.raise_broadcast(listener, "due", due).await
    }

    /// Records that `listener`'s Megaphone took `sent`, unless it took a later one already.
    pub async fn set_broadcast_sent(
        &self,
        listener: &str,
        sent: Timestamp,
    ) -> Result<(), StoreError> {
        self.raise_broadcast(listener, "sent", sent).await
    }

    /// Raises `attribute` to `to`; never lowers it. One `UpdateItem`, 1 WCU.
    async fn raise_broadcast(
        &self,
        listener: &str,
        attribute: &'static str,
        to: Timestamp,
    ) -> Result<(), StoreError> {
        let update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(listener).into_item()))
            .update_expression("SET #version = :to")
            .condition_expression("attribute_not_exists(#version) OR #version < :to")
            .expression_attribute_names("#version", attribute)
            .expression_attribute_values(":to", number(to));
        match update.send().await {
            Ok(_) => Ok(()),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_conditional_check_failed_exception()) =>
            {
                Ok(())
            }
            Err(error) => Err(StoreError::request("UpdateItem")(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_version_is_pending() {
        let state = |due: Option<u64>, sent: Option<u64>| BroadcastState {
            due: due.map(Timestamp),
            sent: sent.map(Timestamp),
        };
        assert_eq!(state(None, None).pending(), None);
        assert_eq!(state(Some(5), None).pending(), Some(Timestamp(5)));
        assert_eq!(state(Some(5), Some(4)).pending(), Some(Timestamp(5)));
        assert_eq!(state(Some(5), Some(5)).pending(), None);
        assert_eq!(state(Some(5), Some(6)).pending(), None);
    }
}
