//! The metrics that the functions publish.

use std::sync::{Arc, Mutex};

use kinto_local::{Fault, LocalAws};
use kinto_serverless::aggregator::Aggregator;
use kinto_serverless::broadcaster::Broadcaster;
use kinto_serverless::megaphone::Megaphone;
use kinto_serverless::metrics::Metrics;
use kinto_serverless::queue::{BroadcastQueue, QueueConsumer};
use kinto_serverless::store::Store;
use serde_json::{Map, Value, json};
use tests::{
    BOB, COLLECTION, Kinto, NOBODY, RECORD, RECORDS, TABLE, batch, changed, megaphone, now, put,
    settings,
};
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

/// The lines that were published.
#[derive(Clone, Default)]
pub struct Published(Arc<Mutex<Vec<Value>>>);

impl Published {
    /// Metrics that are published here.
    pub fn metrics(&self) -> Metrics {
        let lines = Arc::clone(&self.0);
        Metrics::of("function", true, move |line| {
            lines.lock().unwrap().push(line.clone());
        })
    }

    /// The values published since the last call, by the names of their metrics.
    pub fn take(&self) -> Value {
        let mut all = Map::new();
        for line in self.0.lock().unwrap().drain(..) {
            let line = line.as_object().unwrap().iter();
            let values = line.filter(|(name, _)| !["_aws", "FunctionName"].contains(&&***name));
            all.extend(values.map(|(name, value)| (name.clone(), value.clone())));
        }
        Value::Object(all)
    }
}

/// A server with a collection, and what it publishes.
async fn publishing() -> (Published, Kinto) {
    let published = Published::default();
    let mut kinto = Kinto::with_collection().await;
    kinto.api = kinto.api.publishing(published.metrics());
    (published, kinto)
}

#[tokio::test]
async fn a_write_is_counted_and_a_read_that_succeeds_costs_no_line() {
    let (published, kinto) = publishing().await;
    kinto.put(RECORD, json!({})).await;
    assert_eq!(published.take(), json!({"Writes": 1}));
    let record = kinto.get(RECORD).await;
    kinto.get("/").await;
    let known = [("If-None-Match", record.header("etag"))];
    assert_eq!(kinto.send("GET", RECORD, &known, "").await.status, 304);
    assert_eq!(published.take(), json!({}));
}

#[tokio::test]
async fn refusals_are_counted_by_their_kind() {
    let (published, kinto) = publishing().await;
    kinto.as_user(NOBODY).get(RECORDS).await;
    assert_eq!(published.take(), json!({"RefusedCredentials": 1}));
    kinto.as_user(BOB).put(RECORD, json!({})).await;
    assert_eq!(published.take(), json!({"RefusedCredentials": 1}));
    kinto.get(RECORD).await;
    assert_eq!(published.take(), json!({"RefusedUnknown": 1}));
    kinto.put(RECORD, json!({"data": 1})).await;
    assert_eq!(published.take(), json!({"RefusedInput": 1}));
    kinto
        .send("PUT", COLLECTION, &[("If-None-Match", "*")], "{}")
        .await;
    assert_eq!(published.take(), json!({"RefusedStale": 1}));
}

#[tokio::test]
async fn each_request_in_a_batch_counts_and_the_batch_does_not() {
    let (published, kinto) = publishing().await;
    let unknown = json!({"path": format!("{RECORDS}/none")});
    batch(&kinto, vec![put("a"), put("b"), unknown]).await;
    let expected = json!({"Writes": 2, "RefusedUnknown": 1});
    assert_eq!(published.take(), expected);
    batch(&kinto, vec![json!({"path": 1})]).await;
    assert_eq!(published.take(), json!({"RefusedInput": 1}));
}

#[tokio::test(start_paused = true)]
async fn contention_is_told_apart_from_failures() {
    let (published, kinto) = publishing().await;
    kinto.aws.inject(|target, _| {
        let conflict = Fault::transaction_canceled(&["ConditionalCheckFailed"]);
        target.ends_with("TransactWriteItems").then_some(conflict)
    });
    kinto.put(RECORD, json!({})).await;
    let counted = published.take();
    assert_eq!(
        (&counted["Contended"], &counted["Failed"]),
        (&json!(1), &Value::Null)
    );
    assert!(counted["Retries"].as_u64().unwrap() > 5, "{counted}");
    assert_eq!(counted["Writes"], Value::Null);

    kinto.aws.inject(|target, _| {
        let fault = Fault::error("InternalServerError");
        target.ends_with("BatchGetItem").then_some(fault)
    });
    kinto.put(RECORD, json!({})).await;
    assert_eq!(published.take(), json!({"Failed": 1}));
}

/// The functions behind the API, over a table of their own, what they publish, and their Megaphone.
struct Functions {
    aws: LocalAws,
    published: Published,
    aggregator: Aggregator,
    broadcaster: Broadcaster,
    megaphone: MockServer,
}

impl Functions {
    async fn new() -> Self {
        let server = MockServer::start().await;
        let published = Published::default();
        let url = server.uri();
        let settings = settings(&megaphone(&url));
        let aws = LocalAws::sqlite().unwrap();
        aws.create_table(TABLE).unwrap();
        let store = Store::new(aws.dynamodb(), TABLE);
        let queue = BroadcastQueue::new(aws.sqs(), aws.queue_url());
        let consumer = QueueConsumer::new(aws.sqs(), aws.queue_url(), aws.dead_letter_url());
        let megaphones = settings.megaphones.iter().cloned();
        let megaphones = megaphones.map(|it| Megaphone::new(it).unwrap()).collect();
        let (changes, broadcasts) = (settings.changes, settings.broadcasts);
        let told = settings.megaphones;
        let aggregator = Aggregator::new(store.clone(), queue, changes, broadcasts, told);
        let broadcaster = Broadcaster::new(store, consumer, megaphones);
        Self {
            aws,
            aggregator: aggregator.publishing(published.metrics()),
            broadcaster: broadcaster.publishing(published.metrics()),
            published,
            megaphone: server,
        }
    }

    async fn aggregate(&self, records: &[Value]) {
        let event = serde_json::from_value(json!({"Records": records})).unwrap();
        self.aggregator.handle(event).await;
    }

    /// Has the message that a broadcast is due, which was sent `age` seconds ago, delivered to Megaphone, which answers
    /// `status`.
    async fn broadcast(&self, age: u64, status: u16) {
        self.megaphone.reset().await;
        let answer = ResponseTemplate::new(status).set_body_json(json!({"code": status}));
        let mock = Mock::given(method("PUT")).respond_with(answer);
        mock.mount(&self.megaphone).await;
        let message = json!({
            "messageId": "m", "body": "{\"listener\":\"mp\"}", "eventSource": "aws:sqs",
            "attributes": {"SentTimestamp": (now() - age * 1000).to_string(), "MessageGroupId": "mp"},
        });
        let event = serde_json::from_value(json!({"Records": [message]})).unwrap();
        self.broadcaster.handle(event).await;
    }
}

#[tokio::test]
async fn the_lag_of_the_monitor_is_that_of_each_write_that_has_its_entry() {
    let functions = Functions::new().await;
    let written = now() - 90_000;
    let batch = [changed(1, "one", written), changed(2, "two", now())];
    functions.aggregate(&batch).await;
    let lags = &functions.published.take()["MonitorLag"];
    let lags = lags
        .as_array()
        .unwrap()
        .iter()
        .map(|lag| lag.as_u64().unwrap());
    let lags: Vec<_> = lags.collect();
    assert!((90_000..150_000).contains(&lags[0]), "{lags:?}");
    assert!(lags[1] < 60_000, "{lags:?}");
    assert_eq!(lags.len(), 2);
}

#[tokio::test]
async fn the_lag_of_a_write_with_a_time_of_the_past_is_taken_from_the_stream() {
    let functions = Functions::new().await;
    let mut backdated = changed(1, "one", 1000);
    backdated["dynamodb"]["ApproximateCreationDateTime"] = json!(now() / 1000 - 30);
    functions.aggregate(&[backdated]).await;
    let lag = functions.published.take()["MonitorLag"][0]
        .as_u64()
        .unwrap();
    assert!((29_000..90_000).contains(&lag), "{lag}");
}

#[tokio::test(start_paused = true)]
async fn changes_without_an_entry_have_no_lag_yet() {
    let functions = Functions::new().await;
    functions
        .aws
        .inject(|_, _| Some(Fault::error("ThrottlingException")));
    functions.aggregate(&[changed(1, "one", now())]).await;
    assert_eq!(functions.published.take(), json!({}));
}

#[tokio::test]
async fn a_broadcast_is_counted_once_megaphone_took_it_and_its_age_at_each_attempt() {
    for (status, broadcasts) in [(503, Value::Null), (200, json!(1))] {
        let functions = Functions::new().await;
        functions.aggregate(&[changed(1, "one", now())]).await;
        functions.published.take();
        functions.broadcast(1000, status).await;
        let published = functions.published.take();
        let age = published["DueAge"].as_f64().unwrap();
        assert!((1000.0..1060.0).contains(&age), "{published}");
        assert_eq!(published["Broadcasts"], broadcasts);
    }
}
