//! The SQS FIFO queues: between the aggregator and the broadcaster, and between the notifier's two halves.
//!
//! A message is only a trigger: it names the listener, and the version or entry to send is in the table. So a
//! broadcast's message is harmless when it is late, repeated, or moved back from the dead-letter queue.

use std::time::Duration;

use aws_lambda_events::sqs::SqsMessage;
use aws_sdk_sqs::Client;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error_chain::ErrorChain;
use crate::store::outbox::EntryId;
use crate::timestamp::Timestamp;

/// The longest time for which a message is postponed. SQS allows 12 hours from its reception.
const MAX_BACKOFF: Duration = Duration::from_secs(11 * 3600);

/// The body of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BroadcastRequest {
    /// The name of the listener whose Megaphone is to be notified.
    pub listener: String,
}

/// A request to the queue that failed, as far as we know.
#[derive(Debug, thiserror::Error)]
#[error("{operation} failed: {}", ErrorChain(&**.source))]
pub struct QueueError {
    operation: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl QueueError {
    fn of<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        operation: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |error| Self {
            operation,
            source: error.into(),
        }
    }
}

/// The queue of broadcast requests, as the aggregator sees it.
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

    /// Requests a broadcast of `version` by `listener`'s Megaphone; it must be due in the table already.
    ///
    /// Messages of one listener are one group: they wait for each other, and not for other listeners'. SQS drops a
    /// second request for the same version within five minutes.
    pub async fn request(&self, listener: &str, version: Timestamp) -> Result<(), QueueError> {
        let body = BroadcastRequest {
            listener: listener.to_owned(),
        };
        let body = serde_json::to_string(&body).map_err(QueueError::of("SendMessage"))?;
        self.client
            .send_message()
            .queue_url(&self.url)
            .message_group_id(listener)
            .message_deduplication_id(format!("{listener}-{version}"))
            .message_body(body)
            .send()
            .await
            .map_err(QueueError::of("SendMessage"))?;
        Ok(())
    }
}

/// The body of a message between the notifier's halves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationRequest {
    /// The name of the listener to notify.
    pub listener: String,
    /// The outbox's entry to notify it of.
    pub entry: EntryId,
}

/// The queue of notifications, as the notifier's first half sees it.
#[derive(Clone, Debug)]
pub struct NotificationQueue {
    client: Client,
    url: String,
}

impl NotificationQueue {
    /// The FIFO queue at `url`.
    pub fn new(client: Client, url: impl Into<String>) -> Self {
        Self {
            client,
            url: url.into(),
        }
    }

    /// Requests a notification of `listener` of `entry`.
    ///
    /// The notifications of one listener under one parent are one group. SQS drops a second request for the same one
    /// within five minutes.
    pub async fn request(&self, listener: &str, entry: &EntryId) -> Result<(), QueueError> {
        let request = NotificationRequest {
            listener: listener.to_owned(),
            entry: entry.clone(),
        };
        let body = serde_json::to_string(&request).map_err(QueueError::of("SendMessage"))?;
        self.client
            .send_message()
            .queue_url(&self.url)
            .message_group_id(group_id(listener, entry.parent_uri()))
            .message_deduplication_id(format!("{listener}-{}", entry.id))
            .message_body(body)
            .send()
            .await
            .map_err(QueueError::of("SendMessage"))?;
        Ok(())
    }
}

/// The id of the group of messages about `uri`, which may be longer than the 128 characters that SQS allows.
pub fn group_id(prefix: &str, uri: &str) -> String {
    let digest = Sha256::digest(uri.as_bytes());
    let half = digest.iter().take(16).map(|byte| format!("{byte:02x}"));
    format!("{prefix}-{}", half.collect::<String>())
}

/// A message as it was received.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
    /// The message's id.
    pub message_id: String,
    /// Its body.
    pub body: String,
    /// The number of receptions, this one included.
    pub receive_count: u32,
    /// Identifies this reception to SQS.
    receipt_handle: String,
    /// Its group.
    pub group: String,
    /// The time when it was sent.
    pub sent: Option<Timestamp>,
}

impl From<SqsMessage> for ReceivedMessage {
    fn from(mut message: SqsMessage) -> Self {
        let receive_count = message
            .attributes
            .get("ApproximateReceiveCount")
            .and_then(|count| count.parse().ok());
        let sent = message.attributes.get("SentTimestamp");
        Self {
            sent: sent.and_then(|millis| millis.parse().ok()).map(Timestamp),
            message_id: message.message_id.unwrap_or_default(),
            body: message.body.unwrap_or_default(),
            receive_count: receive_count.unwrap_or(1),
            receipt_handle: message.receipt_handle.unwrap_or_default(),
            group: message
                .attributes
                .remove("MessageGroupId")
                .unwrap_or_default(),
        }
    }
}

/// A queue and its dead-letter queue, as the consumer of the messages sees them.
#[derive(Clone, Debug)]
pub struct QueueConsumer {
    client: Client,
    url: String,
    dead_letter_url: String,
}

impl QueueConsumer {
    /// The FIFO queue at `url`, and its dead-letter queue at `dead_letter_url`.
    pub fn new(client: Client, url: impl Into<String>, dead_letter_url: impl Into<String>) -> Self {
        Self {
            client,
            url: url.into(),
            dead_letter_url: dead_letter_url.into(),
        }
    }

    /// Postpones the retry of a message by `pause`, up to 11 hours. The message must also be reported as failed.
    ///
    /// Its group waits with it. Otherwise it is retried after the queue's visibility timeout.
    pub async fn postpone(
        &self,
        message: &ReceivedMessage,
        pause: Duration,
    ) -> Result<(), QueueError> {
        // Rounded up: a moment too early would mean a second retry.
        let seconds = pause.min(MAX_BACKOFF).as_millis().div_ceil(1000);
        self.client
            .change_message_visibility()
            .queue_url(&self.url)
            .receipt_handle(&message.receipt_handle)
            .visibility_timeout(i32::try_from(seconds).unwrap_or(i32::MAX))
            .send()
            .await
            .map_err(QueueError::of("ChangeMessageVisibility"))?;
        Ok(())
    }

    /// Copies a message to the dead-letter queue; it must then be reported as handled.
    ///
    /// SQS does this itself after many receptions; this is for messages known to be hopeless sooner.
    pub async fn dead_letter(&self, message: &ReceivedMessage) -> Result<(), QueueError> {
        self.client
            .send_message()
            .queue_url(&self.dead_letter_url)
            .message_group_id(&message.group)
            // Unique, so that a message that was moved back and fails again is not dropped.
            .message_deduplication_id(Uuid::new_v4().to_string())
            .message_body(&message.body)
            .send()
            .await
            .map_err(QueueError::of("SendMessage"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_an_id_that_sqs_takes_whatever_the_uri() {
        let uri = format!("/buckets/{0}/collections/{0}", "x".repeat(255));
        assert!(group_id(&"l".repeat(64), &uri).len() <= 128);
        assert_ne!(group_id("a", "/buckets/a"), group_id("a", "/buckets/b"));
    }
}
