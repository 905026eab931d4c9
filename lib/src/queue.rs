//! The SQS FIFO queue between the aggregator and the broadcaster.
//!
//! A message is a trigger, no more: it names the listener, and what is to be sent stands in the table.
//! A message that comes late, twice, or back from the dead-letter queue is harmless therefore.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::DisplayErrorContext;
use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;

/// The body of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BroadcastRequest {
    /// The name of the listener whose Megaphone is to be told.
    pub listener: String,
}

/// A request that did not get into the queue, as far as we know.
#[derive(Debug, thiserror::Error)]
#[error("SendMessage failed: {}", DisplayErrorContext(&**.0))]
pub struct QueueError(Box<dyn std::error::Error + Send + Sync>);

/// The queue of broadcast requests.
#[derive(Clone, Debug)]
pub struct BroadcastQueue {
    client: Client,
    url: String,
}

impl BroadcastQueue {
    /// The FIFO queue at `url`.
    pub fn new(client: Client, url: impl Into<String>) -> Self {
        Self {
            client,
            url: url.into(),
        }
    }

    /// Asks for `listener`'s Megaphone to be told of `version`, which must be due in the table already.
    ///
    /// Messages of one listener are one group, so that no two broadcasters handle it at once. SQS drops a
    /// second request for the same version within five minutes.
    pub async fn request(&self, listener: &str, version: Timestamp) -> Result<(), QueueError> {
        let body = BroadcastRequest {
            listener: listener.to_owned(),
        };
        let body = serde_json::to_string(&body).map_err(|error| QueueError(error.into()))?;
        self.client
            .send_message()
            .queue_url(&self.url)
            .message_group_id(listener)
            .message_deduplication_id(format!("{listener}-{version}"))
            .message_body(body)
            .send()
            .await
            .map_err(|error| QueueError(error.into()))?;
        Ok(())
    }
}
