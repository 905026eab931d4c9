//! The broadcaster: from the queue's messages to Megaphone.
//!
//! A message says only whose turn it is. What is sent is the version that is due in the table when it is
//! handled, a position of the monitor's clock, and nothing when Megaphone took that already; so a message that comes late,
//! twice or out of order never makes Megaphone go back.
//!
//! Before a broadcast leaves, it is claimed in the table, so that no other leaves until it was answered, or, if it is
//! not, until it can no longer arrive (`docs/decisions/006-broadcasts.md`). A message that
//! must wait for that, for the end of the debounce window or after a failure is put off by the queue.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent};
use futures::future::{join, join_all};
use tokio::time::Instant;
use uuid::Uuid;

use crate::backoff;
use crate::megaphone::{Megaphone, MegaphoneError};
use crate::metrics::Metrics;
use crate::queue::{BroadcastRequest, QueueConsumer, ReceivedMessage};
use crate::store::broadcast_claim::ClaimOutcome;
use crate::store::{Store, StoreError};
use crate::timestamp::Timestamp;

/// Within this time of its claim, a broadcast that leaves arrives or never will.
///
/// The function is stopped 40 seconds after it began (template.yaml); the rest is for what is under way by then, in
/// the network or behind a gateway, and for clocks that differ.
pub const LEASE: Duration = Duration::from_secs(90);
/// The pause after a refusal, which will hardly pass by itself; by its end a key that was changed has been fetched.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// A message that meets a refusal when it was received this often is given up.
const MAX_REFUSALS: u32 = 3;

/// What the broadcaster works with.
#[derive(Clone, Debug)]
pub struct Broadcaster {
    store: Store,
    consumer: QueueConsumer,
    megaphones: Vec<Megaphone>,
    metrics: Metrics,
}

/// What came of a message.
#[derive(Debug)]
enum Outcome {
    /// Megaphone took this version.
    Sent(Timestamp),
    /// Megaphone has the latest version already.
    NothingDue,
    /// Something is due, but not yet.
    NotBefore(Timestamp),
    /// Megaphone did not take it; the next attempt is not before the time given.
    Failed(MegaphoneError, Timestamp),
}

impl Broadcaster {
    /// The broadcaster with its dependencies.
    pub fn new(store: Store, consumer: QueueConsumer, megaphones: Vec<Megaphone>) -> Self {
        Self {
            store,
            consumer,
            megaphones,
            metrics: Metrics::default(),
        }
    }

    /// The same, with metrics.
    pub fn publishing(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Handles one batch; tells which messages are to come again.
    pub async fn handle(&self, event: SqsEvent) -> SqsBatchResponse {
        self.handle_at(event, Timestamp::now()).await
    }

    /// Handles one batch that begins `now`.
    ///
    /// A message that cannot be understood, or names a listener that is not configured, goes to the dead-letter queue
    /// at once, where it can be looked at: it would hold up its group.
    pub async fn handle_at(&self, event: SqsEvent, now: Timestamp) -> SqsBatchResponse {
        let mut by_listener = BTreeMap::<String, (&Megaphone, ReceivedMessage)>::new();
        let mut hopeless = vec![];
        for message in event.records.into_iter().map(ReceivedMessage::from) {
            let request = serde_json::from_str::<BroadcastRequest>(&message.body);
            let listener = request.as_ref().map(|request| request.listener.as_str());
            match listener.map(|listener| self.megaphone(listener)) {
                // One message is enough to come again for all: the others say the same.
                Ok(Some(megaphone)) => {
                    let name = megaphone.settings().name.clone();
                    by_listener.entry(name).or_insert((megaphone, message));
                }
                Ok(None) => {
                    tracing::error!(body = message.body, "no such listener is configured");
                    hopeless.push(message);
                }
                Err(error) => {
                    tracing::error!(body = message.body, %error, "a message of the queue cannot be understood");
                    hopeless.push(message);
                }
            }
        }
        // Side by side: one Megaphone that does not answer holds up no other.
        let told = by_listener
            .into_values()
            .map(|(megaphone, message)| self.handle_message(megaphone, message, now));
        let given_up = hopeless
            .into_iter()
            .map(|message| self.dead_letter(message));
        let (told, given_up) = join(join_all(told), join_all(given_up)).await;
        let mut response = SqsBatchResponse::default();
        for message in told.into_iter().chain(given_up).flatten() {
            response.add_failure(message.message_id);
        }
        response
    }

    fn megaphone(&self, listener: &str) -> Option<&Megaphone> {
        let mut megaphones = self.megaphones.iter();
        megaphones.find(|megaphone| megaphone.settings().name == listener)
    }

    /// Does what a message asks for; gives it back if it is to come again, put off until then.
    async fn handle_message(
        &self,
        megaphone: &Megaphone,
        message: ReceivedMessage,
        now: Timestamp,
    ) -> Option<ReceivedMessage> {
        let listener = &megaphone.settings().name;
        let begin = Instant::now();
        let count = message.receive_count;
        let not_before = match self.broadcast(megaphone, count, now).await {
            Ok(Outcome::Sent(version)) => {
                tracing::info!(listener, %version, "broadcast");
                self.metrics.count(now, &[("Broadcasts", 1)]);
                self.metrics.due_age(message.sent, now);
                return None;
            }
            Ok(Outcome::NothingDue) => {
                tracing::debug!(listener, "nothing to broadcast");
                return None;
            }
            Ok(Outcome::NotBefore(time)) => {
                tracing::debug!(listener, %time, "a broadcast waits");
                time
            }
            Ok(Outcome::Failed(error, time)) => {
                failed(listener, count, &error);
                self.metrics.due_age(message.sent, now);
                if matches!(error, MegaphoneError::Refused(_)) && count >= MAX_REFUSALS {
                    return self.dead_letter(message).await;
                }
                time
            }
            Err(error) => {
                failed(listener, count, &error);
                self.metrics.due_age(message.sent, now);
                now.after(begin.elapsed() + backoff::after_failure(count))
            }
        };
        let pause = not_before.since(now.after(begin.elapsed()));
        if let Err(error) = self.consumer.postpone(&message, pause).await {
            tracing::warn!(listener, %error, "a message comes again later than it could");
        }
        Some(message)
    }

    /// Sends the version that is due, if Megaphone has not taken it yet and its time has come.
    ///
    /// Three requests to the table and one to Megaphone; two to the table when there is nothing to send.
    async fn broadcast(
        &self,
        megaphone: &Megaphone,
        count: u32,
        now: Timestamp,
    ) -> Result<Outcome, StoreError> {
        let (listener, debounce) = (&megaphone.settings().name, megaphone.settings().debounce);
        let begin = Instant::now();
        let holder = Uuid::new_v4().to_string();
        // What holds if we never get to say how it ended: a window after the last moment at which it may have arrived.
        let until = now.after(LEASE + debounce);
        let due = self.store.monitor_state().await?.due(listener);
        let version = match self
            .store
            .claim_broadcast(listener, &holder, due, now, until)
            .await?
        {
            ClaimOutcome::Granted(version) => version,
            ClaimOutcome::NotBefore(time) => return Ok(Outcome::NotBefore(time)),
            ClaimOutcome::NothingDue => return Ok(Outcome::NothingDue),
        };
        let answer = megaphone.broadcast(version).await;
        let now = now.after(begin.elapsed());
        let (outcome, sent, not_before) = match answer {
            Ok(()) => (Outcome::Sent(version), Some(version), now.after(debounce)),
            Err(error) if error.may_arrive() => return Ok(Outcome::Failed(error, until)),
            Err(error) => {
                let not_before = now.after(error_pause(&error, count));
                (Outcome::Failed(error, not_before), None, not_before)
            }
        };
        self.store
            .settle_broadcast(listener, &holder, sent, not_before)
            .await?;
        Ok(outcome)
    }

    /// Moves a message to the dead letters; gives it back if that fails.
    async fn dead_letter(&self, message: ReceivedMessage) -> Option<ReceivedMessage> {
        match self.consumer.dead_letter(&message).await {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(%error, "a message that is given up comes again");
                Some(message)
            }
        }
    }
}

fn failed(listener: &str, count: u32, error: &(dyn std::error::Error + 'static)) {
    tracing::error!(listener, count, error, "broadcast failed");
}

/// The pause after an attempt that surely did not arrive.
fn error_pause(error: &MegaphoneError, count: u32) -> Duration {
    match error {
        MegaphoneError::Refused(_) => REFUSED_PAUSE,
        MegaphoneError::Unavailable {
            retry_after: Some(retry_after),
            ..
        } => backoff::after_failure(count).max(*retry_after),
        _ => backoff::after_failure(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::StatusCode;

    #[test]
    fn megaphones_own_wish_counts_when_it_is_longer() {
        let busy = |seconds| MegaphoneError::Unavailable {
            status: StatusCode::TOO_MANY_REQUESTS,
            retry_after: Some(Duration::from_secs(seconds)),
        };
        assert_eq!(error_pause(&busy(120), 1).as_secs(), 120);
        assert_eq!(error_pause(&busy(2), 5).as_secs(), 16);
    }
}
