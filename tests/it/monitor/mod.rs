//! The contents of monitor/changes under any fault of the stream: faults in random schedules, bursts, ten thousand
//! collections, tables of an earlier version, and a rebuild from nothing; and that clients which poll by the last
//! `ETag`, or wait for broadcasts, receive every change.

mod batches;
mod earlier_version;
mod polling;
mod rebuild;
mod schedules;
mod steps;

use std::collections::BTreeMap;
use std::future::Future;

use aws_lambda_events::dynamodb::Event;
use kinto_local::LocalAws;
use kinto_serverless::aggregator::Aggregator;
use kinto_serverless::queue::BroadcastQueue;
use kinto_serverless::store::Store;
use kinto_serverless::store::broadcast_claim::ClaimOutcome;
use kinto_serverless::store::monitor::{CollectionChange, MonitorState};
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Value, json};
use tests::{Answer, Kinto, TABLE, execute, megaphone, settings};

const RECORDS: &str = "/buckets/monitor/collections/changes/records";

/// Kinto with its aggregator; the test controls the stream between them.
#[derive(Clone)]
struct Stack {
    kinto: Kinto,
    store: Store,
    aggregator: Aggregator,
}

impl Stack {
    fn new() -> Self {
        let aws = LocalAws::sqlite().unwrap();
        aws.create_table(TABLE).unwrap();
        let settings = settings(&megaphone("http://megaphone.test"));
        let store = Store::new(aws.dynamodb(), TABLE);
        let queue = BroadcastQueue::new(aws.sqs(), aws.queue_url());
        Self {
            aggregator: Aggregator::new(
                store.clone(),
                queue,
                settings.changes,
                settings.broadcasts,
                settings.megaphones,
            ),
            kinto: Kinto::over(&aws, &[]),
            store,
        }
    }

    /// The same table with another process of the aggregator, whose cache is empty.
    fn with_new_aggregator(&self) -> Self {
        let aws = &self.kinto.aws;
        let settings = settings(&megaphone("http://megaphone.test"));
        let queue = BroadcastQueue::new(aws.sqs(), aws.queue_url());
        let store = self.store.clone();
        let (changes, broadcasts) = (settings.changes, settings.broadcasts);
        Self {
            aggregator: Aggregator::new(store, queue, changes, broadcasts, settings.megaphones),
            ..self.clone()
        }
    }

    async fn state(&self) -> MonitorState {
        self.store.monitor_state().await.unwrap()
    }

    /// The stream so far, as Lambda delivers it.
    fn stream(&self) -> Vec<Value> {
        let database = self.kinto.aws.database();
        let mut iterator = database.oldest(TABLE);
        let mut stream = vec![];
        loop {
            let (records, next) = database.records(&iterator, 1000).unwrap();
            if records.is_empty() {
                return stream;
            }
            stream.extend(
                records
                    .iter()
                    .map(|record| serde_json::to_value(record).unwrap()),
            );
            iterator = next;
        }
    }

    /// Returns `true` if the batch is done.
    async fn aggregate(&self, records: &[Value]) -> bool {
        let event: Event = serde_json::from_value(json!({"Records": records})).unwrap();
        self.aggregator
            .handle(event)
            .await
            .batch_item_failures
            .is_empty()
    }

    /// Aggregates the stream to its end, including the aggregator's own changes.
    async fn drain(&self) {
        let mut done = 0;
        loop {
            let stream = self.stream();
            if stream.len() == done {
                return;
            }
            for batch in stream[done..].chunks(3) {
                assert!(self.aggregate(batch).await);
            }
            done = stream.len();
        }
    }

    async fn entries(&self) -> BTreeMap<(String, String), CollectionChange> {
        let (_, entries) = self.store.monitor().await.unwrap();
        let changes = entries.into_iter().map(|entry| entry.change);
        let keyed = |c: CollectionChange| ((c.bucket.clone(), c.collection.clone()), c);
        changes.map(keyed).collect()
    }

    /// The contents of monitor/changes: the timestamp of each collection.
    async fn shown(&self) -> BTreeMap<String, u64> {
        let answer = self.kinto.get(RECORDS).await;
        let entries = answer.body["data"].as_array().unwrap().clone();
        let pair = |e: &Value| {
            (
                e["collection"].as_str().unwrap().to_owned(),
                e["last_modified"].as_u64().unwrap(),
            )
        };
        entries.iter().map(pair).collect()
    }

    /// The timestamps of the existing ones of these collections.
    async fn timestamps(&self, collections: &[&str]) -> BTreeMap<String, u64> {
        let mut timestamps = BTreeMap::new();
        for collection in collections {
            let path = format!("/buckets/main/collections/{collection}/records");
            let listed = self.kinto.send("HEAD", &path, &[], "").await;
            if listed.status == 200 {
                let etag = listed.header("etag").trim_matches('"').parse().unwrap();
                timestamps.insert((*collection).to_owned(), etag);
            }
        }
        timestamps
    }

    /// The timestamps of the collections' lists, whether they exist or not.
    async fn ceilings(&self, collections: &[&str]) -> BTreeMap<String, u64> {
        let mut ceilings = BTreeMap::new();
        for collection in collections {
            let get = json!({
                "TableName": TABLE,
                "Key": {
                    "pk": {"S": format!("/buckets/main/collections/{collection}#record")},
                    "sk": {"S": "#timestamp"},
                },
            });
            let found = self
                .kinto
                .aws
                .database()
                .execute("GetItem", get.to_string().as_bytes());
            let found: Value = serde_json::from_str(&found.unwrap()).unwrap();
            if let Some(timestamp) = found["Item"]["timestamp"]["N"].as_str() {
                ceilings.insert((*collection).to_owned(), timestamp.parse().unwrap());
            }
        }
        ceilings
    }

    async fn put(&self, path: &str) -> Answer {
        self.kinto
            .put(&format!("/buckets/main{path}"), json!({}))
            .await
    }

    async fn create(&self, collections: &[&str]) {
        self.put("").await;
        for collection in collections {
            self.put(&format!("/collections/{collection}")).await;
            self.put(&format!("/collections/{collection}/records/r"))
                .await;
        }
    }
}

/// Runs `what` before a request goes on, which waits for it.
fn between_requests(what: impl Future<Output = ()> + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(what);
    });
    thread.join().unwrap();
}

/// A record of the stream: the list of records of `collection` got `timestamp`.
fn changed(collection: usize, timestamp: u64) -> Value {
    let pk = json!({"S": format!("/buckets/main/collections/c{collection}#record")});
    json!({
        "eventID": timestamp.to_string(),
        "eventName": "MODIFY",
        "eventSource": "aws:dynamodb",
        "awsRegion": "eu-central-1",
        "dynamodb": {
            "ApproximateCreationDateTime": 1.7,
            "Keys": {"pk": pk, "sk": {"S": "#timestamp"}},
            "NewImage": {
                "pk": pk,
                "sk": {"S": "#timestamp"},
                "timestamp": {"N": timestamp.to_string()},
                "generation": {"S": "8000000000000000"},
                "kind": {"S": "record"},
            },
            "SequenceNumber": timestamp.to_string(),
            "SizeBytes": 200,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
    })
}

const CHANGESET: &str = "/buckets/monitor/collections/changes/changeset?_expected=1";

/// The requests of a poll that only needs the monitor's state.
const STATE: &[(&str, u64)] = &[("GetItem", 1)];

/// The requests of a poll that also needs changes in items of their own.
const ENTRIES: &[(&str, u64)] = &[("GetItem", 1), ("Query", 1)];

/// The size of an item as DynamoDB counts it: names, texts, and numbers at two digits a byte.
fn size(item: &Value) -> usize {
    let members = item.as_object().unwrap().iter();
    members
        .map(|(name, value)| name.len() + value_size(value))
        .sum()
}

fn value_size(attribute: &Value) -> usize {
    let (kind, value) = attribute.as_object().unwrap().iter().next().unwrap();
    match &**kind {
        "S" => value.as_str().unwrap().len(),
        "N" => value.as_str().unwrap().len().div_ceil(2) + 1,
        "L" => {
            let values = value.as_array().unwrap().iter();
            3 + values.map(|value| 1 + value_size(value)).sum::<usize>()
        }
        "M" => 3 + value.as_object().unwrap().len() + size(value),
        _ => 1,
    }
}

impl Stack {
    /// Another process of the API, with empty caches.
    fn process(&self) -> Kinto {
        Kinto::over(
            &self.kinto.aws,
            &[("KINTO_CHANGES_SINCE_MAX_AGE_DAYS", "-1")],
        )
    }

    /// Polls, and checks the cost. The response equals that of a process with empty caches.
    async fn poll(&self, process: &Kinto, path: &str, cost: &[(&str, u64)]) {
        let requests = self.kinto.aws.requests();
        requests.take();
        let answer = process.get(path).await;
        let cost = cost.iter().map(|(name, n)| ((*name).to_owned(), *n));
        assert_eq!(requests.take(), cost.collect(), "{path}");
        let expected = self.process().get(path).await;
        assert_eq!(answer.body, expected.body, "{path}");
        assert_eq!(answer.header("etag"), expected.header("etag"), "{path}");
    }

    /// The item of the monitor's state.
    fn state_item(&self) -> Value {
        let key = json!({"Key": {"pk": {"S": "#monitor"}, "sk": {"S": "#state"}}});
        execute(&self.kinto.aws, "GetItem", key)["Item"].clone()
    }

    /// The response of a process with empty caches to a client that continues from `since`: the `ETag`, and the
    /// collections with their timestamps, the latest change first.
    async fn heard_since(&self, since: u64) -> (u64, Vec<(String, u64)>) {
        heard(&self.process(), since).await
    }
}

async fn heard(process: &Kinto, since: u64) -> (u64, Vec<(String, u64)>) {
    let answer = process
        .get(&format!("{RECORDS}?_since=%22{since}%22"))
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let pair = |entry: &Value| {
        let name = entry["collection"].as_str().unwrap().to_owned();
        (name, entry["last_modified"].as_u64().unwrap())
    };
    let entries = answer.body["data"].as_array().unwrap().iter();
    (etag(&answer), entries.map(pair).collect())
}

fn etag(answer: &Answer) -> u64 {
    answer.header("etag").trim_matches('"').parse().unwrap()
}

fn pairs(pairs: &[(&str, u64)]) -> Vec<(String, u64)> {
    let pairs = pairs.iter();
    pairs.map(|(name, at)| ((*name).to_owned(), *at)).collect()
}

/// A batch of an aggregator of an earlier version: entries between a beginning and an end in the state.
struct EarlierBatch<'a> {
    stack: &'a Stack,
    name: &'a str,
}

impl<'a> EarlierBatch<'a> {
    fn begin(stack: &'a Stack, name: &'a str, now: u64) -> Self {
        let batch = Self { stack, name };
        batch.update(
            "SET last_modified = :zero, version = if_not_exists(version, :zero), #own = :now",
            &json!({":zero": 0, ":now": now}),
        );
        batch
    }

    fn put(&self, collection: &str, last_modified: u64) {
        self.put_item(&earlier_entry(collection, last_modified));
    }

    fn put_item(&self, item: &Value) {
        let values = json!({":last_modified": item["last_modified"]});
        let put = json!({
            "TableName": TABLE,
            "Item": tests::attributes(item),
            "ConditionExpression": "attribute_not_exists(pk) OR last_modified < :last_modified",
            "ExpressionAttributeValues": tests::attributes(&values),
        });
        // Its condition may fail.
        let database = self.stack.kinto.aws.database();
        let _ = database.execute("PutItem", put.to_string().as_bytes());
    }

    fn end(self) {
        self.update("ADD version :one REMOVE #own", &json!({":one": 1}));
    }

    fn update(&self, expression: &str, values: &Value) {
        let update = json!({
            "Key": {"pk": {"S": "#monitor"}, "sk": {"S": "#state"}},
            "UpdateExpression": expression,
            "ExpressionAttributeNames": {"#own": format!("pending {}", self.name)},
            "ExpressionAttributeValues": tests::attributes(values),
        });
        execute(&self.stack.kinto.aws, "UpdateItem", update);
    }
}

/// The item of an entry of an earlier version.
fn earlier_entry(collection: &str, last_modified: u64) -> Value {
    json!({
        "pk": "#monitor", "sk": format!("/buckets/main/collections/{collection}"), "bucket": "main",
        "collection": collection, "last_modified": last_modified,
    })
}

impl Stack {
    /// The version for readers of `__broadcasts__`.
    async fn pulled(&self) -> u64 {
        let answer = self.process().get("/__broadcasts__").await.body;
        let version = &answer["broadcasts"]["remote-settings/monitor_changes"];
        version.as_str().unwrap().trim_matches('"').parse().unwrap()
    }

    /// The version that the broadcaster would send now.
    async fn claimed(&self) -> ClaimOutcome {
        let (now, due) = (Timestamp::now(), self.state().await.due("mp"));
        let claim = self.store.claim_broadcast("mp", "this test", due, now, now);
        claim.await.unwrap()
    }
}
