//! The broadcaster: from the queue's messages to Megaphone.
//!
//! A message says only whose turn it is. What is sent is the version that is due in the table when it is
//! handled, and nothing when Megaphone took that already; so a message that comes late, twice or out of
//! order never makes Megaphone go back.

use std::collections::BTreeMap;

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent};

use crate::megaphone::{Megaphone, MegaphoneError};
use crate::queue::BroadcastRequest;
use crate::store::{Store, StoreError};
use crate::timestamp::Timestamp;

/// What the broadcaster works with.
#[derive(Clone, Debug)]
pub struct Broadcaster {
    store: Store,
    megaphones: Vec<Megaphone>,
}

/// Why a broadcast has to be tried again.
#[derive(Debug, thiserror::Error)]
pub enum BroadcastError {
    /// The table failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Megaphone failed, or refused.
    #[error(transparent)]
    Megaphone(#[from] MegaphoneError),
}

impl Broadcaster {
    /// The broadcaster with its dependencies.
    pub fn new(store: Store, megaphones: Vec<Megaphone>) -> Self {
        Self { store, megaphones }
    }

    /// Handles one batch; tells which messages are to come again.
    ///
    /// A message that cannot be understood, or names a listener that is not configured, is among those: it
    /// ends in the dead-letter queue, where it can be looked at, and holds up no other.
    pub async fn handle(&self, event: SqsEvent) -> SqsBatchResponse {
        let mut response = SqsBatchResponse::default();
        let mut by_listener = BTreeMap::<String, Vec<String>>::new();
        for message in event.records {
            let message_id = message.message_id.unwrap_or_default();
            match serde_json::from_str::<BroadcastRequest>(
                message.body.as_deref().unwrap_or_default(),
            ) {
                Ok(request) => by_listener
                    .entry(request.listener)
                    .or_default()
                    .push(message_id),
                Err(error) => {
                    tracing::error!(message_id, %error, "a message of the queue cannot be understood");
                    response.add_failure(message_id);
                }
            }
        }
        for (listener, message_ids) in by_listener {
            let Some(megaphone) = self
                .megaphones
                .iter()
                .find(|m| m.settings().name == listener)
            else {
                tracing::error!(listener, "no such listener is configured");
                message_ids
                    .into_iter()
                    .for_each(|id| response.add_failure(id));
                continue;
            };
            match self.broadcast(megaphone).await {
                Ok(Some(version)) => tracing::info!(listener, %version, "broadcast"),
                Ok(None) => tracing::debug!(listener, "nothing to broadcast"),
                Err(error) => {
                    tracing::error!(
                        listener,
                        error = &error as &dyn std::error::Error,
                        "broadcast failed"
                    );
                    message_ids
                        .into_iter()
                        .for_each(|id| response.add_failure(id));
                }
            }
        }
        response
    }

    /// Sends the version that is due, if Megaphone has not taken it yet, and records that it did.
    ///
    /// Two requests to the table and one to Megaphone; one to the table when nothing is pending.
    async fn broadcast(&self, megaphone: &Megaphone) -> Result<Option<Timestamp>, BroadcastError> {
        let listener = &megaphone.settings().name;
        let Some(version) = self.store.broadcast_state(listener).await?.pending() else {
            return Ok(None);
        };
        megaphone.broadcast(version).await?;
        self.store.set_broadcast_sent(listener, version).await?;
        Ok(Some(version))
    }
}
