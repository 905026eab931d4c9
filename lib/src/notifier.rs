//! The notifier: from the outbox's entries to the listeners that are notified after the commit.
//!
//! It is invoked with two kinds of batches. Those of the stream contain lists whose items name a new entry of the
//! outbox ([`outbox::head`]): one message for each listener is put into the queue. Those of the queue contain these
//! messages: the entry is read, and the listener is notified of its part of the events, in order. The queue in between
//! keeps a listener that fails from holding up the stream or another listener, and keeps its notifications until they
//! succeed ([decision 10](../../docs/decisions/010-events.md)).
//!
//! Messages of one listener and parent are one group, which the queue delivers in order, one at a time. Notifications
//! happen at least once: an event has an `id` by which to recognise it.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lambda_events::dynamodb::{Event, EventRecord};
use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use aws_lambda_events::streams::{DynamoDbBatchItemFailure, DynamoDbEventResponse};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backoff;
use crate::event::ResourceChanged;
use crate::listeners::{Listeners, NotifyError};
use crate::metrics::Metrics;
use crate::queue::{
    NotificationQueue, NotificationRequest, QueueConsumer, QueueError, ReceivedMessage,
};
use crate::settings::ListenerSettings;
use crate::store::outbox::{self, EntryId};
use crate::store::recent::COMMIT_PAUSES;
use crate::store::{Store, StoreError, TIMESTAMP_KEY};
use crate::timestamp::Timestamp;

/// The pause after a failure that is unlikely to pass.
const REFUSAL_PAUSE: Duration = Duration::from_secs(60);
/// From which reception on it is a fault that an entry is not there: by then a transaction was committed whose coordinator died.
const NOT_YET_RECEPTIONS: u32 = 4;
/// The number of receptions after which a message with such a failure is given up.
const MAX_REFUSALS: u32 = 3;

/// The notifier and its dependencies.
#[derive(Clone, Debug)]
pub struct Notifier {
    store: Store,
    queue: NotificationQueue,
    consumer: QueueConsumer,
    listeners: Listeners,
    metrics: Metrics,
}

/// The function's input: a batch of the stream or of the queue.
#[derive(Debug)]
pub enum NotifierEvent {
    /// Lists name new entries.
    Stream(Event),
    /// Listeners are to be notified.
    Queue(SqsEvent),
}

impl<'de> Deserialize<'de> for NotifierEvent {
    fn deserialize<D: serde::Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let input = Value::deserialize(json)?;
        // Lambda sets `eventSource` in both kinds, and never mixes them.
        let input = match input
            .pointer("/Records/0/eventSource")
            .and_then(Value::as_str)
        {
            Some("aws:sqs") => serde_json::from_value(input).map(Self::Queue),
            _ => serde_json::from_value(input).map(Self::Stream),
        };
        input.map_err(D::Error::custom)
    }
}

/// The function's output: what to retry.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum NotifierResponse {
    /// For the stream.
    Stream(DynamoDbEventResponse),
    /// For the queue.
    Queue(SqsBatchResponse),
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Listener(#[from] NotifyError),
    #[error("the entry is not there yet: its transaction is still being committed")]
    NotYet,
}

impl Notifier {
    /// A notifier; `listeners` are those that are notified after the commit.
    pub fn new(
        store: Store,
        queue: NotificationQueue,
        consumer: QueueConsumer,
        listeners: Listeners,
    ) -> Self {
        Self {
            store,
            queue,
            consumer,
            listeners,
            metrics: Metrics::default(),
        }
    }

    /// The same, with metrics.
    pub fn publishing(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Handles a batch of the stream or of the queue.
    pub async fn handle(&self, input: NotifierEvent) -> NotifierResponse {
        match input {
            NotifierEvent::Stream(event) => NotifierResponse::Stream(self.enqueue(event).await),
            NotifierEvent::Queue(event) => NotifierResponse::Queue(self.deliver(event).await),
        }
    }

    /// Puts messages into the queue for the entries that a batch of the stream names; returns the records to retry.
    ///
    /// One `SendMessage` for each listener and entry, one after the other, so that those of a parent are queued in the
    /// order of the stream. A listener's part of the events is selected only when it is notified.
    pub async fn enqueue(&self, event: Event) -> DynamoDbEventResponse {
        let mut response = DynamoDbEventResponse::default();
        for record in &event.records {
            let Some(entry) = entry_of(record) else {
                continue;
            };
            let sequence_number = record.change.sequence_number.clone();
            if let Err(error) = self.request(&entry).await {
                tracing::error!(?sequence_number, %error, "an entry of the outbox has to come again");
                let mut failure = DynamoDbBatchItemFailure::default();
                failure.item_identifier = sequence_number;
                response.batch_item_failures.push(failure);
                break;
            }
        }
        response
    }

    async fn request(&self, entry: &EntryId) -> Result<(), QueueError> {
        for settings in self.listeners.settings() {
            self.queue.request(&settings.name, entry).await?;
        }
        Ok(())
    }

    /// Notifies listeners as the messages request; returns the messages to retry.
    ///
    /// One `Query` of the table for each. The messages of one group are handled one after the other, and none after one
    /// that fails; groups concurrently.
    pub async fn deliver(&self, event: SqsEvent) -> SqsBatchResponse {
        let mut groups = BTreeMap::<String, Vec<ReceivedMessage>>::new();
        for message in event
            .records
            .into_iter()
            .map(|message: SqsMessage| ReceivedMessage::from(message))
        {
            groups
                .entry(message.group.clone())
                .or_default()
                .push(message);
        }
        let groups = groups.into_values().map(async |messages| {
            let mut messages = messages.into_iter();
            let mut again = vec![];
            for message in messages.by_ref() {
                if let Err(message) = self.handle_message(message).await {
                    again.push(message);
                    break;
                }
            }
            again.extend(messages);
            again
        });
        let mut response = SqsBatchResponse::default();
        for message in join_all(groups).await.into_iter().flatten() {
            response.add_failure(message.message_id);
        }
        response
    }

    /// Handles a message; gives it back, postponed, if it is to be retried.
    async fn handle_message(&self, message: ReceivedMessage) -> Result<(), ReceivedMessage> {
        let request: NotificationRequest = match serde_json::from_str(&message.body) {
            Ok(request) => request,
            Err(error) => {
                tracing::error!(body = message.body, %error, "a message of the queue cannot be understood");
                return self.dead_letter(message).await;
            }
        };
        let NotificationRequest { listener, entry } = &request;
        let count = message.receive_count;
        let told = self.notify(listener, entry).await;
        self.metrics.due_age(message.sent, Timestamp::now());
        let error = match told {
            Ok(Some(())) => {
                tracing::info!(listener, ?entry, "notified");
                return Ok(());
            }
            Ok(None) => {
                tracing::error!(
                    listener,
                    ?entry,
                    "no such listener is configured, or the entry expired"
                );
                return self.dead_letter(message).await;
            }
            Err(error) => error,
        };
        match error {
            // No error at first: an alarm counts these, and the table only takes its time.
            Failure::NotYet if count < NOT_YET_RECEPTIONS => {
                tracing::warn!(listener, count, %error, "a listener is told later");
            }
            _ => tracing::error!(listener, count, %error, "a listener is not told"),
        }
        let pause = match &error {
            Failure::Listener(error) if error.is_permanent() => {
                if count >= MAX_REFUSALS {
                    return self.dead_letter(message).await;
                }
                REFUSAL_PAUSE
            }
            Failure::Listener(NotifyError::Failed { retry_after, .. }) => {
                backoff::after_failure(count).max(retry_after.unwrap_or_default())
            }
            Failure::Listener(_) | Failure::Store(_) | Failure::Queue(_) | Failure::NotYet => {
                backoff::after_failure(count)
            }
        };
        if let Err(error) = self.consumer.postpone(&message, pause).await {
            tracing::warn!(listener, %error, "a message comes again later than it could");
        }
        Err(message)
    }

    /// Notifies a listener of an entry; `None` if the listener or the entry no longer exists.
    async fn notify(&self, listener: &str, entry: &EntryId) -> Result<Option<()>, Failure> {
        let Some(events) = self.events(entry).await? else {
            return Ok(None);
        };
        Ok(self.listeners.notify(listener, &events).await.transpose()?)
    }

    /// The events of an entry, after waiting up to 1.3 seconds if its transaction is still being committed; `None` if
    /// it has expired.
    async fn events(&self, entry: &EntryId) -> Result<Option<Vec<ResourceChanged>>, Failure> {
        let mut pauses = COMMIT_PAUSES.into_iter();
        loop {
            let events = self.store.outbox_entry(entry).await?;
            if events.is_some() || !entry.may_appear(Timestamp::now()) {
                return Ok(events);
            }
            let pause = pauses.next().ok_or(Failure::NotYet)?;
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Moves a message, which would hold up its group, to the dead-letter queue for inspection. Gives it back if that
    /// fails.
    async fn dead_letter(&self, message: ReceivedMessage) -> Result<(), ReceivedMessage> {
        self.consumer.dead_letter(&message).await.map_err(|error| {
            tracing::error!(%error, "a message that is given up comes again");
            message
        })
    }
}

/// The entry that a record of the stream is about; `None` for any other record.
///
/// The record is either the change of a head that names a new entry, or the first part of an entry itself: of these the
/// mapping's filter lets through only those of earlier versions of the API, which no head names.
fn entry_of(record: &EventRecord) -> Option<EntryId> {
    use serde_dynamo::AttributeValue::S;
    let change = &record.change;
    let (Some(S(pk)), Some(S(sk))) = (change.keys.get("pk"), change.keys.get("sk")) else {
        return None;
    };
    if sk != TIMESTAMP_KEY {
        let is_written = !change.new_image.is_empty();
        return EntryId::of_first_part(pk, sk).filter(|_| is_written);
    }
    // Earlier versions of the API leave the attribute as it is.
    let named = change.new_image.get(outbox::ENTRY);
    match named.filter(|named| change.old_image.get(outbox::ENTRY) != Some(named)) {
        Some(S(id)) => EntryId::of_head(pk, id),
        _ => None,
    }
}

/// Returns `true` if any of `listeners` is notified of an event after the commit, so that it goes into the outbox.
pub fn waits_for(listeners: &[ListenerSettings], event: &ResourceChanged) -> bool {
    let mut later = listeners.iter().filter(|listener| !listener.synchronous);
    later.any(|listener| listener.select(event).is_some())
}
