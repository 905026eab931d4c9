//! The consumer of a queue: the local counterpart of SQS's event source mapping.

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::{Message, Queue, State};

/// The batch size of the event source mapping.
const BATCH: usize = 10;

impl Queue {
    /// Delivers messages to `handler` for ever: one batch at a time for a group, groups concurrently.
    pub async fn consume<H, F>(self, handler: H)
    where
        H: Fn(SqsEvent) -> F + Clone + Send + 'static,
        F: Future<Output = SqsBatchResponse> + Send + 'static,
    {
        // Dropping the set with this future ends the deliveries too.
        let mut deliveries = JoinSet::new();
        loop {
            let (batches, next) = self.receive(Instant::now());
            for batch in batches {
                deliveries.spawn(self.clone().deliver(batch, handler.clone()));
            }
            let wake = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = wake => {}
                Some(_) = deliveries.join_next() => {}
            }
        }
    }

    async fn deliver<H, F>(self, batch: Vec<Message>, handler: H)
    where
        H: Fn(SqsEvent) -> F,
        F: Future<Output = SqsBatchResponse> + Send + 'static,
    {
        let Some(group) = batch.first().map(|message| message.group.clone()) else {
            return;
        };
        let mut event = SqsEvent::default();
        event.records = batch.iter().map(record).collect();
        // In a task of its own, a panic of the handler fails the batch instead of ending the queue.
        let failed = match tokio::spawn(handler(event)).await {
            Ok(response) => failed(batch, &response),
            Err(panic) => {
                tracing::error!(%panic, "the consumer panicked");
                batch
            }
        };
        self.settle(&group, failed, Instant::now());
    }

    /// The next batch of every group that may have one, and the time when the next blocked group may.
    fn receive(&self, now: Instant) -> (Vec<Vec<Message>>, Option<Instant>) {
        let mut batches = Vec::new();
        let mut next: Option<Instant> = None;
        for group in self.lock().groups.values_mut() {
            if !group.in_flight.is_empty() {
                continue;
            }
            match group.blocked_until {
                Some(until) if until > now => {
                    next = Some(next.map_or(until, |next| next.min(until)));
                }
                _ => batches.push(group.hand_out(BATCH, None)),
            }
        }
        (batches, next)
    }

    fn settle(&self, name: &str, failed: Vec<Message>, now: Instant) {
        let mut state = self.lock();
        let State { groups, dead, .. } = &mut *state;
        let Some(group) = groups.get_mut(name) else {
            return;
        };
        let in_flight = std::mem::take(&mut group.in_flight);
        group.blocked_until = None;
        for message in failed.into_iter().rev() {
            if message.receive_count >= self.redrive.max_receive_count {
                tracing::error!(
                    id = message.id,
                    group = message.group,
                    body = message.body,
                    receive_count = message.receive_count,
                    "dead letter"
                );
                dead.push(message);
            } else {
                let changed = in_flight.get(&message.receipt()).copied().flatten();
                let visible_at = changed.unwrap_or(now + self.redrive.delay);
                group.blocked_until = group.blocked_until.max(Some(visible_at));
                group.waiting.push_front(message);
            }
        }
        if group.waiting.is_empty() {
            groups.remove(name);
        }
        drop(state);
        self.changed.notify_one();
    }
}

/// The messages of `batch` that `response` names; all of them if it names one that is not in the batch, as Lambda
/// treats an empty or unknown identifier.
fn failed(batch: Vec<Message>, response: &SqsBatchResponse) -> Vec<Message> {
    let named = |id: &str| {
        response
            .batch_item_failures
            .iter()
            .any(|failure| failure.item_identifier == id)
    };
    let all = response.batch_item_failures.iter().any(|failure| {
        !batch
            .iter()
            .any(|message| message.id == failure.item_identifier)
    });
    batch
        .into_iter()
        .filter(|message| all || named(&message.id))
        .collect()
}

fn record(message: &Message) -> SqsMessage {
    let mut record = SqsMessage::default();
    record.message_id = Some(message.id.clone());
    record.receipt_handle = Some(message.receipt());
    record.body = Some(message.body.clone());
    record.attributes = message.attributes();
    record.event_source = Some("aws:sqs".to_owned());
    record.event_source_arn = Some("arn:aws:sqs:us-east-1:000000000000:local.fifo".to_owned());
    record.aws_region = Some("us-east-1".to_owned());
    record
}
