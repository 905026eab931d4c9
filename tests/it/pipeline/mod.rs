//! The way of a change behind the API: stream → monitor/changes → queue → Megaphone, also when something is repeated,
//! late, out of order, or lost.

mod aggregator;
mod broadcaster;
mod random;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lambda_events::dynamodb::Event;
use aws_lambda_events::sqs::SqsEvent;
use kinto_serverless::aggregator::Aggregator;
use kinto_serverless::broadcaster::Broadcaster;
use kinto_serverless::megaphone::Megaphone;
use kinto_serverless::queue::{BroadcastQueue, QueueConsumer};
use kinto_serverless::store::Store;
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Value, json};
use tests::{Kinto, NOBODY, TABLE, changed, settings};
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

const BROADCASTS: &str = "/v1/broadcasts/remote-settings/monitor_changes";

/// The functions behind the API, over its table, and their Megaphone.
struct Pipeline {
    kinto: Kinto,
    aggregator: Aggregator,
    broadcaster: Broadcaster,
    megaphone: MockServer,
    /// Hours since the epoch on the broadcaster's clock.
    hours: AtomicU64,
}

impl Pipeline {
    async fn new() -> Self {
        let megaphone = MockServer::start().await;
        let url = megaphone.uri();
        Self::with(megaphone, &url)
    }

    /// With a Megaphone at `url`, which need not be `megaphone`.
    fn with(megaphone: MockServer, url: &str) -> Self {
        let mut vars = tests::megaphone(url).to_vec();
        vars.extend([
            (
                "KINTO_EVENT_LISTENERS_MP_EXCEPT_KINTO_CHANGES",
                "/buckets/main/collections/quiet",
            ),
            // The changes here are of 1970.
            ("KINTO_CHANGES_SINCE_MAX_AGE_DAYS", "-1"),
        ]);
        let kinto = Kinto::with(&vars).as_user(NOBODY);
        let settings = settings(&vars);
        let store = Store::new(kinto.aws.dynamodb(), TABLE);
        let queue = BroadcastQueue::new(kinto.aws.sqs(), kinto.aws.queue_url());
        let consumer = QueueConsumer::new(
            kinto.aws.sqs(),
            kinto.aws.queue_url(),
            kinto.aws.dead_letter_url(),
        );
        let megaphones = settings
            .megaphones
            .iter()
            .cloned()
            .map(|m| Megaphone::new(m).unwrap())
            .collect();
        Self {
            aggregator: Aggregator::new(
                store.clone(),
                queue,
                settings.changes,
                settings.broadcasts,
                settings.megaphones,
            ),
            broadcaster: Broadcaster::new(store, consumer, megaphones),
            kinto,
            megaphone,
            hours: AtomicU64::new(1),
        }
    }

    /// Makes Megaphone answer with `status` from now on, to clients with the key.
    async fn megaphone_answers(&self, status: u16) {
        self.megaphone.reset().await;
        Mock::given(method("PUT"))
            .and(path(BROADCASTS))
            .and(header("authorization", "Bearer hush"))
            .respond_with(ResponseTemplate::new(status).set_body_json(json!({"code": status})))
            .mount(&self.megaphone)
            .await;
    }

    /// The versions that Megaphone got, in order, whatever it answered.
    async fn told(&self) -> Vec<String> {
        let requests = self.megaphone.received_requests().await.unwrap();
        requests
            .into_iter()
            .map(|request| String::from_utf8(request.body).unwrap())
            .collect()
    }

    /// The sequence number from which the batch must be retried.
    async fn aggregate(&self, records: &[Value]) -> Option<String> {
        let event: Event = serde_json::from_value(json!({"Records": records})).unwrap();
        let failures = self.aggregator.handle(event).await.batch_item_failures;
        assert!(failures.len() <= 1);
        failures
            .into_iter()
            .next()
            .map(|failure| failure.item_identifier.unwrap())
    }

    /// The ids of the messages to retry. Each call is an hour after the one before: no claim delays it.
    async fn broadcast(&self, bodies: &[&str]) -> Vec<String> {
        let messages: Vec<_> = bodies
            .iter()
            .enumerate()
            .map(|(n, body)| json!({"messageId": n.to_string(), "body": body, "eventSource": "aws:sqs"}))
            .collect();
        let event: SqsEvent = serde_json::from_value(json!({"Records": messages})).unwrap();
        let now = Timestamp(self.hours.fetch_add(1, Ordering::SeqCst) * 3_600_000);
        let response = self.broadcaster.handle_at(event, now).await;
        response
            .batch_item_failures
            .into_iter()
            .map(|failure| failure.item_identifier)
            .collect()
    }

    /// The contents of monitor/changes: the timestamp of each collection.
    async fn monitor(&self) -> BTreeMap<String, u64> {
        let answer = self
            .kinto
            .get("/buckets/monitor/collections/changes/records")
            .await;
        assert_eq!(answer.status, 200);
        let entries = answer.body["data"].as_array().unwrap().clone();
        let entry = |e: &Value| {
            (
                e["collection"].as_str().unwrap().to_owned(),
                e["last_modified"].as_u64().unwrap(),
            )
        };
        entries.iter().map(entry).collect()
    }

    /// The `ETag` of monitor/changes.
    async fn monitor_etag(&self) -> String {
        let answer = self
            .kinto
            .get("/buckets/monitor/collections/changes/records")
            .await;
        answer.header("etag").to_owned()
    }
}

/// A record of the stream: the collection was deleted.
fn closed(sequence_number: u64, collection: &str, timestamp: u64) -> Value {
    let mut record = changed(sequence_number, collection, timestamp);
    record["dynamodb"]["NewImage"]["closed"] = json!({"BOOL": true});
    record
}

/// A record that passes the filter and cannot be understood.
fn poison(sequence_number: u64) -> Value {
    let mut record = changed(sequence_number, "one", 1);
    record["dynamodb"]["NewImage"]["timestamp"] = json!({"S": "yesterday"});
    record
}

const TRIGGER: &str = r#"{"listener": "mp"}"#;
