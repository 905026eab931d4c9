//! The event source mappings of the table's stream: reads records and passes to each function those that match its
//! filter in template.yaml, and retries what it reports as failed.
//!
//! Both functions read the stream in step; on AWS each has its own pace.
//!
//! A restart begins at the oldest retained record (a day): the aggregator tolerates redelivery, and so nothing is lost
//! that a stopped process had read but not finished.

use std::time::Duration;

use aws_lambda_events::dynamodb::{Event, EventRecord};
use aws_lambda_events::streams::DynamoDbEventResponse;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use serde_dynamo::AttributeValue;
use tokio::time::{Instant, sleep, sleep_until};

use crate::aws::LocalAws;

/// The batch size of the event source mapping.
const BATCH: usize = 100;

/// Writes wake the reader at once; under load this pause lets them gather into a batch. A longer one would save some
/// CPU, and delay the next change.
const BATCH_WINDOW: Duration = Duration::from_millis(3);

/// The interval for sweeping expired items and records.
const SWEEP: Duration = Duration::from_secs(60);

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// A function that receives records of the stream.
pub struct Mapping {
    filter: fn(&EventRecord) -> bool,
    handler: Box<dyn Fn(Event) -> BoxFuture<'static, DynamoDbEventResponse> + Send + Sync>,
}

impl Mapping {
    /// The aggregator's mapping: a list of records has a new timestamp, or a bucket was deleted.
    pub fn of_aggregator<F>(handler: impl Fn(Event) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = DynamoDbEventResponse> + Send + 'static,
    {
        Self {
            filter: concerns_monitor,
            handler: Box::new(move |event| handler(event).boxed()),
        }
    }

    /// The notifier's mapping: a list names an entry of the outbox.
    pub fn of_notifier<F>(handler: impl Fn(Event) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = DynamoDbEventResponse> + Send + 'static,
    {
        Self {
            filter: tells_of_entry,
            handler: Box::new(move |event| handler(event).boxed()),
        }
    }

    async fn deliver(&self, records: &[EventRecord]) {
        let records = records.iter().filter(|record| (self.filter)(record));
        deliver(records.cloned().collect(), &self.handler).await;
    }
}

/// Delivers the stream of `table` to the functions for ever, in order; a failed batch is retried until it succeeds.
pub async fn consume(aws: LocalAws, table: String, mappings: Vec<Mapping>) {
    let mut iterator = aws.database().oldest(&table);
    let mut sweep_at = Instant::now();
    loop {
        let records = match aws.database().records(&iterator, BATCH) {
            Ok((records, next)) => {
                iterator = next;
                records
            }
            Err(error) => {
                tracing::error!(%error, "the stream cannot be read");
                sleep(LAST_RETRY).await;
                continue;
            }
        };
        // Between the read and the first await, `records` holds everything on the stream.
        if records.len() < BATCH && sweep_at <= Instant::now() {
            sweep_at = Instant::now() + SWEEP;
            if let Err(error) = aws.database().sweep() {
                tracing::error!(%error, "what expired stays");
            }
        }
        if records.is_empty() {
            tokio::select! {
                () = aws.written() => {}
                () = sleep_until(sweep_at) => {}
            }
        } else {
            join_all(mappings.iter().map(|mapping| mapping.deliver(&records))).await;
            sleep(BATCH_WINDOW).await;
        }
    }
}

async fn deliver<H, F>(mut records: Vec<EventRecord>, handler: &H)
where
    H: Fn(Event) -> F,
    F: Future<Output = DynamoDbEventResponse> + Send + 'static,
{
    let mut pause = FIRST_RETRY;
    while !records.is_empty() {
        let mut batch = Event::default();
        batch.records = records.clone();
        // In a task of its own, a panic of the handler fails the batch instead of ending the stream.
        match tokio::spawn(handler(batch)).await {
            Ok(response) => {
                let done = succeeded(&records, &response);
                records.drain(..done);
            }
            Err(panic) => tracing::error!(%panic, "the consumer of the stream panicked"),
        }
        if !records.is_empty() {
            tracing::warn!(records = records.len(), "stream records come again");
            sleep(pause).await;
            pause = (pause * 2).min(LAST_RETRY);
        }
    }
}

/// The number of records from the first on that need no retry: those before the lowest one that is reported as failed;
/// none if a report names no record, as Lambda treats an empty or unknown identifier.
fn succeeded(records: &[EventRecord], response: &DynamoDbEventResponse) -> usize {
    let position = |failed: &str| {
        records
            .iter()
            .position(|record| record.change.sequence_number.as_deref() == Some(failed))
    };
    response
        .batch_item_failures
        .iter()
        .map(|failure| {
            let failed = failure.item_identifier.as_deref();
            failed.and_then(position).unwrap_or(0)
        })
        .min()
        .unwrap_or(records.len())
}

/// The aggregator's filter in template.yaml.
fn concerns_monitor(record: &EventRecord) -> bool {
    let change = &record.change;
    let new = |attribute| change.new_image.get(attribute);
    let is = |value: Option<&AttributeValue>, text: &str| matches!(value, Some(AttributeValue::S(s)) if s == text);
    if is(change.keys.get("sk"), "#timestamp") {
        return is(new("kind"), "record");
    }
    is(change.keys.get("pk"), "#bucket")
        && matches!(new("deleted"), Some(AttributeValue::Bool(true)))
}

/// The notifier's filter in template.yaml.
fn tells_of_entry(record: &EventRecord) -> bool {
    let change = &record.change;
    let text = |value: Option<&AttributeValue>, is: fn(&str) -> bool| matches!(value, Some(AttributeValue::S(text)) if is(text));
    let (pk, sk) = (change.keys.get("pk"), change.keys.get("sk"));
    let is_head = text(sk, |sk| sk == "#timestamp")
        && text(change.new_image.get("entry"), |entry| {
            entry.starts_with('t')
        });
    let is_unnamed = record.event_name == "INSERT"
        && text(pk, |pk| pk == "#outbox#" || pk.starts_with("#outbox#/"));
    is_head || is_unnamed
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lambda_events::streams::DynamoDbBatchItemFailure;
    use aws_sdk_dynamodb::types::AttributeValue as Value;
    use std::sync::{Arc, Mutex};

    type Batches = Arc<Mutex<Vec<Event>>>;

    async fn put(aws: &LocalAws, pk: &str, sk: &str, version: u64, deleted: bool) {
        let put = aws.dynamodb().put_item().table_name("kinto");
        put.item("pk", Value::S(pk.to_owned()))
            .item("sk", Value::S(sk.to_owned()))
            .item("last_modified", Value::N(version.to_string()))
            .item("kind", Value::S("record".to_owned()))
            .item("deleted", Value::Bool(deleted))
            .send()
            .await
            .unwrap();
    }

    /// Starts the reader with a handler that reports the result of `answer(n, batch)` in its n-th call.
    fn start(
        aws: &LocalAws,
        answer: impl Fn(usize, &Event) -> Option<String> + Clone + Send + Sync + 'static,
    ) -> Batches {
        let batches = Batches::default();
        let log = Arc::clone(&batches);
        let mapping = Mapping::of_aggregator(move |event| {
            let (log, answer) = (Arc::clone(&log), answer.clone());
            async move {
                let call = log.lock().unwrap().len();
                log.lock().unwrap().push(event.clone());
                let mut response = DynamoDbEventResponse::default();
                if let Some(failed) = answer(call, &event) {
                    let mut failure = DynamoDbBatchItemFailure::default();
                    failure.item_identifier = Some(failed);
                    response.batch_item_failures.push(failure);
                }
                response
            }
        });
        tokio::spawn(consume(aws.clone(), "kinto".to_owned(), vec![mapping]));
        batches
    }

    async fn until(batches: &Batches, count: usize) {
        tokio::time::timeout(Duration::from_secs(5), async {
            while batches.lock().unwrap().len() < count {
                sleep(Duration::from_millis(2)).await;
            }
        })
        .await
        .unwrap();
    }

    fn keys(event: &Event) -> Vec<String> {
        event
            .records
            .iter()
            .map(|record| {
                let keys = serde_json::to_value(&record.change.keys).unwrap();
                keys["pk"]["S"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    fn aws() -> LocalAws {
        let aws = LocalAws::memory();
        aws.create_table("kinto").unwrap();
        aws
    }

    #[tokio::test]
    async fn only_records_of_the_filter_arrive_and_with_both_images() {
        let aws = aws();
        let batches = start(&aws, |_, _| None);
        put(&aws, "/a#record", "#timestamp", 1, false).await;
        until(&batches, 1).await;
        put(&aws, "/a#record", "r", 2, false).await;
        put(&aws, "#bucket", "alive", 2, false).await;
        put(&aws, "#bucket", "gone", 2, true).await;
        put(&aws, "/a#record", "#timestamp", 2, false).await;
        until(&batches, 2).await;
        let last = loop {
            let last = batches.lock().unwrap().last().cloned().unwrap();
            if keys(&last).contains(&"/a#record".to_owned()) {
                break last.records.last().cloned().unwrap();
            }
            sleep(Duration::from_millis(2)).await;
        };
        assert_eq!(last.event_name, "MODIFY");
        let images = serde_json::to_value(&last.change).unwrap();
        assert_eq!(images["OldImage"]["last_modified"]["N"], "1");
        assert_eq!(images["NewImage"]["last_modified"]["N"], "2");
        let all: Vec<String> = batches.lock().unwrap().iter().flat_map(keys).collect();
        assert_eq!(all, ["/a#record", "#bucket", "/a#record"]);
    }

    #[tokio::test]
    async fn a_failed_record_is_repeated_with_all_behind_it() {
        let aws = aws();
        for pk in ["a", "b", "c"] {
            put(&aws, pk, "#timestamp", 1, false).await;
        }
        let batches = start(&aws, |call, event| match call {
            0 => panic!("on purpose"),
            1 => event.records[1].change.sequence_number.clone(),
            2 => Some(String::new()),
            _ => None,
        });
        until(&batches, 4).await;
        let seen: Vec<Vec<String>> = batches.lock().unwrap().iter().map(keys).collect();
        assert_eq!(seen[0], ["a", "b", "c"]);
        assert_eq!(seen[1], ["a", "b", "c"]);
        assert_eq!(seen[2], ["b", "c"]);
        assert_eq!(seen[3], ["b", "c"]);
    }
}
