//! What monitor/changes holds, whatever happens to the stream on the way: faults in random schedules, bursts, ten
//! thousand collections, tables of an earlier version, and a rebuilding from nothing; and that whoever polls by the last
//! `ETag`, or waits for broadcasts, hears of every change.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use aws_lambda_events::dynamodb::Event;
use fastrand::Rng;
use kinto_local::{Fault, LocalAws};
use kinto_serverless::aggregator::{Aggregator, Input, Rebuilt};
use kinto_serverless::queue::BroadcastQueue;
use kinto_serverless::store::Store;
use kinto_serverless::store::broadcast::Claim;
use kinto_serverless::store::monitor::{CollectionChange, MonitorState};
use kinto_serverless::timestamp::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use tests::{Answer, Kinto, TABLE, cases, execute, put_item, settings};

const RECORDS: &str = "/buckets/monitor/collections/changes/records";

const LISTENER: [(&str, &str); 6] = [
    ("KINTO_EVENT_LISTENERS", "mp"),
    ("KINTO_EVENT_LISTENERS_MP_USE", "kinto_megaphone.listeners"),
    ("KINTO_EVENT_LISTENERS_MP_API_KEY", "hush"),
    ("KINTO_EVENT_LISTENERS_MP_URL", "http://megaphone.test"),
    ("KINTO_EVENT_LISTENERS_MP_BROADCASTER_ID", "remote-settings"),
    (
        "KINTO_EVENT_LISTENERS_MP_MATCH_KINTO_CHANGES",
        "/buckets/main",
    ),
];

/// Kinto with its aggregator, and the stream between them in the hand of the test.
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
        let settings = settings(&LISTENER);
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

    /// The same table with another process of the aggregator, which remembers nothing yet.
    fn with_new_aggregator(&self) -> Self {
        let aws = &self.kinto.aws;
        let settings = settings(&LISTENER);
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

    /// The stream so far, as Lambda would give it.
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

    /// Whether the batch is done with.
    async fn aggregate(&self, records: &[Value]) -> bool {
        let event: Event = serde_json::from_value(json!({"Records": records})).unwrap();
        self.aggregator
            .handle(event)
            .await
            .batch_item_failures
            .is_empty()
    }

    /// Aggregates the stream to its end, with what the aggregator itself adds to it.
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

    /// What monitor/changes shows: the timestamp of each collection.
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

    /// The timestamps of the collections themselves, of those that exist.
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

/// Does something before a request goes on, which waits for it.
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

#[tokio::test]
async fn the_monitor_is_rebuilt_from_nothing() {
    let stack = Stack::new();
    stack.create(&["one", "two", "gone"]).await;
    stack.kinto.delete("/buckets/main/collections/gone").await;
    stack.kinto.put("/buckets/lost", json!({})).await;
    stack
        .kinto
        .put("/buckets/lost/collections/c", json!({}))
        .await;
    // Nobody heard of this deletion: its list stays open.
    stack.kinto.delete("/buckets/lost").await;
    assert!(stack.aggregate(&[tests::changed(1, "ghost", 5)]).await);

    let rebuilt = stack.aggregator.rebuild_monitor().await.unwrap();
    let expected = Rebuilt {
        collections: 4,
        raised: 4,
        removed: 1,
    };
    assert_eq!(rebuilt, expected);
    let timestamps = stack.timestamps(&["one", "two", "gone"]).await;
    assert_eq!(timestamps.len(), 2);
    assert_eq!(stack.shown().await, timestamps);
    let deleted = |bucket: &str, collection: &str| (bucket.to_owned(), collection.to_owned());
    let entries = stack.entries().await;
    assert!(entries[&deleted("lost", "c")].deleted && entries[&deleted("main", "gone")].deleted);
    assert!(!stack.kinto.aws.queue().is_empty());

    let requests = stack.kinto.aws.requests();
    requests.take();
    let again = stack.aggregator.rebuild_monitor().await.unwrap();
    assert_eq!((again.raised, again.removed), (0, 0));
    assert_eq!((requests.of("PutItem"), requests.of("UpdateItem")), (0, 0));
    // One of entries, one of buckets, one of each bucket's collections; the two buckets, and their lists; the state, before
    // and after functions of an earlier version are looked for.
    assert_eq!((requests.of("Query"), requests.of("BatchGetItem")), (4, 4));
    assert_eq!((requests.of("GetItem"), requests.total()), (2, 10));

    stack.drain().await;
    assert_eq!(stack.entries().await, entries);
}

#[tokio::test]
async fn an_operator_rebuilds_by_calling_the_function_that_takes_the_stream() {
    let stack = Stack::new();
    stack.create(&["one"]).await;
    let call = async |input: Value| {
        let input: Input = serde_json::from_value(input).unwrap();
        serde_json::to_value(stack.aggregator.answer(input).await.unwrap()).unwrap()
    };
    let batch = call(json!({"Records": stack.stream()[..1]})).await;
    assert_eq!(batch, json!({"batchItemFailures": []}));
    let rebuilt = call(json!({"rebuild-monitor": true})).await;
    assert_eq!(
        rebuilt,
        json!({"collections": 1, "raised": 1, "removed": 0})
    );
    stack.kinto.aws.inject(|target, _| {
        target
            .ends_with("Query")
            .then(|| Fault::error("ValidationException"))
    });
    assert!(stack.aggregator.rebuild_monitor().await.is_err());
}

#[tokio::test]
async fn a_rebuilding_goes_on_beside_writes_and_closes_nothing_that_lives() {
    // Before each of its requests in turn, others write, delete the bucket, or make all of it anew.
    for (at, rival) in (0..14).flat_map(|at| ["write", "delete", "anew"].map(|rival| (at, rival))) {
        let stack = Stack::new();
        stack.create(&["one", "two"]).await;
        let (met, busy) = (AtomicU32::new(0), AtomicBool::new(false));
        let other = stack.clone();
        stack.kinto.aws.inject(move |_, _| {
            if busy.swap(true, Ordering::SeqCst) {
                return None;
            }
            if met.fetch_add(1, Ordering::SeqCst) == at {
                let other = other.clone();
                between_requests(async move {
                    if rival != "write" {
                        other.kinto.delete("/buckets/main").await;
                    }
                    if rival != "delete" {
                        other.create(&["one"]).await;
                    }
                });
            }
            busy.store(false, Ordering::SeqCst);
            None
        });
        // It may fail where a list was closed under its hand; then it is done again.
        let rebuilt = stack.aggregator.rebuild_monitor().await;
        stack.kinto.aws.heal();
        if rebuilt.is_err() {
            stack.aggregator.rebuild_monitor().await.unwrap();
        }
        let ceilings = stack.ceilings(&["one", "two"]).await;
        for ((_, collection), entry) in stack.entries().await {
            assert!(
                entry.last_modified.0 <= ceilings[&collection],
                "{at} {rival}"
            );
        }
        stack.drain().await;
        assert_eq!(
            stack.shown().await,
            stack.timestamps(&["one", "two"]).await,
            "{at} {rival}"
        );
        if rival != "delete" {
            let written = stack.put("/collections/one/records/after").await;
            assert_eq!(written.status, 201, "{at} {rival}");
        }
    }
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

/// The batch size of the deployed event source mapping.
const BATCH: usize = 500;

#[tokio::test]
async fn a_burst_of_writes_becomes_one_update_for_each_collection_and_batch() {
    let stack = Stack::new();
    let requests = stack.kinto.aws.requests();
    let begin = Timestamp::now().0;
    let mut puts = 0;
    // 100 writes to each of 500 collections, ten collections at a time.
    let collection = |n: usize| n / 1000 * 10 + n % 10;
    for batch in (0..50_000).collect::<Vec<_>>().chunks(BATCH) {
        let records: Vec<_> = batch
            .iter()
            .map(|n| changed(collection(*n), begin + *n as u64))
            .collect();
        requests.take();
        assert!(stack.aggregate(&records).await);
        let updates = if batch[0] == 0 { 2 } else { 1 };
        assert_eq!(
            (requests.of("UpdateItem"), requests.of("SendMessage")),
            (updates, 1)
        );
        // What the state has no room for any more: no collection more than once.
        puts += requests.of("PutItem");
    }
    assert!((400..500).contains(&puts), "{puts}");
    let shown = stack.shown().await;
    assert_eq!(shown.len(), 500);
    for (name, timestamp) in shown {
        let c: u64 = name[1..].parse().unwrap();
        assert_eq!(timestamp, begin + c / 10 * 1000 + 990 + c % 10, "{name}");
    }
}

#[tokio::test]
async fn ten_thousand_collections_are_polled_by_what_changed() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    // As the aggregator writes them, without its 10,000 requests.
    for batch in (0..10_000).collect::<Vec<u64>>().chunks(25) {
        let entry = |n: &u64| {
            let item = json!({
                "pk": {"S": "#monitor"},
                "sk": {"S": format!("/buckets/main/collections/c{n}")},
                "bucket": {"S": "main"},
                "collection": {"S": format!("c{n}")},
                "last_modified": {"N": (begin + n).to_string()},
                "collection_timestamp": {"N": (begin + n).to_string()},
            });
            json!({"PutRequest": {"Item": item}})
        };
        let puts: Vec<_> = batch.iter().map(entry).collect();
        let request = json!({"RequestItems": {TABLE: puts}}).to_string();
        let database = stack.kinto.aws.database();
        database
            .execute("BatchWriteItem", request.as_bytes())
            .unwrap();
    }
    let last = begin + 9_999;
    put_item(
        &stack.kinto.aws,
        &json!({"pk": "#monitor", "sk": "#state", "clock": last, "floor": last, "adopted": 0}),
    );
    let first = stack.process();
    let requests = stack.kinto.aws.requests();
    requests.take();
    let since = first
        .get(&format!("{RECORDS}?_since={}", begin + 9_989))
        .await;
    assert_eq!(since.body["data"].as_array().unwrap().len(), 10);
    assert_eq!(requests.take()["Query"], 1);

    let all = stack.kinto.get(RECORDS).await;
    assert_eq!(all.body["data"].as_array().unwrap().len(), 10_000);
    let etag = all.header("etag");
    assert_eq!(etag, format!("\"{}\"", begin + 9_999));

    // It is read in pages of one MB, once.
    assert!(requests.take()["Query"] <= 5);
    let known = stack
        .kinto
        .send("GET", RECORDS, &[("if-none-match", etag)], "")
        .await;
    assert_eq!((known.status, known.body), (304, Value::Null));
    assert!(stack.aggregate(&[changed(7, last + 5)]).await);
    let since = stack.kinto.get(&format!("{RECORDS}?_since={last}")).await;
    assert_eq!(since.body["data"].as_array().unwrap().len(), 1);
    assert_eq!(requests.of("Query"), 0);
}

/// What happens next in a random schedule.
#[derive(Clone, Debug)]
enum Step {
    /// A record of this collection is written, under a past time if so said.
    Put(usize, bool),
    DeleteRecord(usize),
    Create(usize),
    Delete(usize),
    DeleteBucket,
    CreateBucket,
    /// So many records of the stream come from there on, for the first time or again, reversed if so said; after
    /// this many requests to the table and the queue the function is killed.
    Deliver {
        from: prop::sample::Index,
        count: usize,
        reversed: bool,
        killed: Option<u32>,
    },
}

const COLLECTIONS: [&str; 3] = ["one", "two", "three"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let deliver = (
        any::<prop::sample::Index>(),
        1..6_usize,
        any::<bool>(),
        prop::option::of(0..8_u32),
    );
    let deliver = deliver.prop_map(|(from, count, reversed, killed)| Step::Deliver {
        from,
        count,
        reversed,
        killed,
    });
    let step = prop_oneof![
        6 => (0..3_usize, prop::bool::weighted(0.2)).prop_map(|(c, past)| Step::Put(c, past)),
        2 => (0..3_usize).prop_map(Step::DeleteRecord),
        2 => (0..3_usize).prop_map(Step::Create),
        1 => (0..3_usize).prop_map(Step::Delete),
        1 => Just(Step::DeleteBucket),
        1 => Just(Step::CreateBucket),
        10 => deliver,
    ];
    prop::collection::vec(step, 1..16)
}

async fn take(stack: &Stack, step: Step) {
    let collection = |c: usize| format!("/buckets/main/collections/{}", COLLECTIONS[c]);
    let kinto = &stack.kinto;
    match step {
        Step::Put(c, past) => {
            let data = if past {
                json!({"last_modified": 5})
            } else {
                json!({})
            };
            kinto
                .put(
                    &format!("{}/records/r", collection(c)),
                    json!({"data": data}),
                )
                .await;
        }
        Step::DeleteRecord(c) => _ = kinto.delete(&format!("{}/records/r", collection(c))).await,
        Step::Create(c) => _ = kinto.put(&collection(c), json!({})).await,
        Step::Delete(c) => _ = kinto.delete(&collection(c)).await,
        Step::DeleteBucket => _ = kinto.delete("/buckets/main").await,
        Step::CreateBucket => _ = kinto.put("/buckets/main", json!({})).await,
        Step::Deliver {
            from,
            count,
            reversed,
            killed,
        } => {
            let stream = stack.stream();
            if stream.is_empty() {
                return;
            }
            let from = from.index(stream.len());
            let mut batch = stream[from..(from + count).min(stream.len())].to_vec();
            if reversed {
                batch.reverse();
            }
            let left = Mutex::new(killed);
            kinto.aws.inject(move |_, _| {
                let mut left = left.lock().unwrap();
                match left.as_mut()? {
                    // Nothing that a dead function would ask for is done.
                    0 => Some(Fault::error("ValidationException")),
                    more => {
                        *more -= 1;
                        None
                    }
                }
            });
            // Whatever it reports: who was killed reports nothing.
            stack.aggregate(&batch).await;
            kinto.aws.heal();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(32), ..ProptestConfig::default() })]

    /// Invariants 1 and 3: whatever the stream does and wherever a function is killed, an entry never goes back and
    /// is never above its collection's timestamp; in the end every write that was answered 2xx shows and was told.
    #[test]
    fn the_monitor_never_goes_back_nor_ahead_and_converges(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stack = Stack::new();
            stack.create(&["one"]).await;
            let mut before = BTreeMap::new();
            for step in steps {
                take(&stack, step).await;
                let entries = stack.entries().await;
                let ceilings = stack.ceilings(&COLLECTIONS).await;
                for (key, entry) in &entries {
                    assert!(entry.last_modified.0 <= ceilings[&entry.collection], "ahead: {entry:?}");
                    let last: Option<&CollectionChange> = before.get(key);
                    assert!(last.is_none_or(|last| last.last_modified <= entry.last_modified), "back: {entry:?}");
                }
                assert!(before.keys().all(|key| entries.contains_key(key)), "lost");
                before = entries;
            }
            // What was dropped comes again.
            stack.drain().await;
            let shown = stack.shown().await;
            assert_eq!(shown, stack.timestamps(&COLLECTIONS).await);
            // It is due in the table, and a message says so: what the broadcaster makes of it is the pipeline's test.
            if let Some(latest) = shown.values().max() {
                let now = Timestamp::now();
                let due = stack.state().await.due("mp");
                let claim = stack.store.claim_broadcast("mp", "this test", due, now, now).await.unwrap();
                assert!(matches!(claim, Claim::Granted(due) if due >= Timestamp(*latest)), "{claim:?} {latest}");
                assert!(!stack.kinto.aws.queue().is_empty());
            }
        });
    }
}

const CHANGESET: &str = "/buckets/monitor/collections/changes/changeset?_expected=1";

/// The requests of a poll to which the monitor's state says it all.
const STATE: &[(&str, u64)] = &[("GetItem", 1)];
/// Those of one that needs changes which are in items of their own.
const ENTRIES: &[(&str, u64)] = &[("GetItem", 1), ("Query", 1)];

/// The size of an item as DynamoDB counts it: names, texts, and numbers by two digits a byte.
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
    /// Another process of the API, which remembers nothing yet.
    fn process(&self) -> Kinto {
        Kinto::over(
            &self.kinto.aws,
            &[("KINTO_CHANGES_SINCE_MAX_AGE_DAYS", "-1")],
        )
    }

    /// Polls at the cost of these requests. The answer is that of a process which remembers nothing.
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

    /// What a process of the API without memory answers who goes on from `since`: the `ETag`, and the collections with
    /// their timestamps, the latest change first.
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

#[tokio::test]
async fn a_poll_is_one_small_read_whether_something_changed_or_not() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    let two = [changed(1, begin), changed(2, begin + 1)];
    assert!(stack.aggregate(&two).await);
    let process = stack.process();
    let paths = [
        RECORDS.to_owned(),
        CHANGESET.to_owned(),
        format!("{RECORDS}?_since={begin}"),
        format!("{RECORDS}?_since={}", begin + 9),
        format!("{RECORDS}?_sort=last_modified&_fields=collection"),
        format!("{RECORDS}?collection=c1"),
        format!("{RECORDS}?_limit=1"),
        format!("{CHANGESET}&_since={begin}"),
        format!("{CHANGESET}&collection=c1&_limit=3"),
    ];
    for at in 2..5 {
        for path in &paths {
            stack.poll(&process, path, STATE).await;
        }
        assert!(stack.aggregate(&[changed(1, begin + at)]).await);
    }
}

#[tokio::test]
async fn a_batch_is_one_update_of_a_kilobyte_however_many_came_before() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    let requests = stack.kinto.aws.requests();
    assert!(stack.aggregate(&[changed(0, begin)]).await);
    let (from_the_start, first) = (stack.process(), stack.heard_since(0).await.0);
    stack.poll(&from_the_start, RECORDS, STATE).await;
    for n in 1..60 {
        requests.take();
        assert!(stack.aggregate(&[changed(n, begin + n as u64)]).await);
        let asked = requests.take();
        assert_eq!((asked["UpdateItem"], asked["SendMessage"]), (1, 1));
        // One that the state has no room for moves to an item of its own.
        assert!(asked.get("PutItem").is_none_or(|puts| n > 12 && *puts == 1));
        assert!(asked.values().sum::<u64>() <= 3, "{asked:?}");
        let size = size(&stack.state_item());
        assert!(size <= 1024, "{size}");
    }
    assert!(stack.state().await.floor() > Timestamp(0));

    // Who remembers entries up to the floor, or asks for none before it, needs no more than the state.
    let late = begin + 58;
    stack
        .poll(&stack.process(), &format!("{RECORDS}?_since={late}"), STATE)
        .await;
    stack
        .poll(
            &stack.process(),
            &format!("{RECORDS}?_since={first}"),
            ENTRIES,
        )
        .await;
    stack.poll(&stack.process(), RECORDS, ENTRIES).await;
    for cost in [ENTRIES, STATE] {
        stack.poll(&from_the_start, RECORDS, cost).await;
        assert_eq!(heard(&from_the_start, first).await.1.len(), 59);
    }
}

#[tokio::test]
async fn a_batch_of_many_collections_at_once_leaves_a_state_that_is_one_read_unit() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    assert!(stack.aggregate(&[changed(999, begin)]).await);
    let process = stack.process();
    stack.poll(&process, RECORDS, STATE).await;
    let batch: Vec<_> = (0..300).map(|n| changed(n, begin + 1 + n as u64)).collect();
    assert!(stack.aggregate(&batch).await);
    let size = size(&stack.state_item());
    assert!(size <= 4096, "{size}");
    let (etag, all) = heard(&process, begin).await;
    assert_eq!((etag, all.len()), (begin + 300, 300));
    stack.poll(&process, RECORDS, STATE).await;
    // Names as long as they may be.
    let name = |n: u64| format!("{n:0>255}");
    let batch: Vec<_> = (0..40)
        .map(|n| tests::changed(n, &name(n), begin + 500 + n))
        .collect();
    assert!(stack.aggregate(&batch).await);
    assert_eq!(stack.heard_since(etag).await.1.len(), 40);
}

#[tokio::test]
async fn a_change_that_comes_late_is_heard_by_who_goes_on_from_a_later_one() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    assert!(stack.aggregate(&[tests::changed(1, "b", begin + 4)]).await);
    let (known, _) = stack.heard_since(0).await;
    assert_eq!(known, begin + 4);
    // Another shard, or the same at the same moment.
    for (collection, at) in [("a", begin), ("c", begin + 4)] {
        assert!(stack.aggregate(&[tests::changed(2, collection, at)]).await);
    }
    let heard = pairs(&[("c", begin + 4), ("a", begin)]);
    assert_eq!(stack.heard_since(known).await, (begin + 6, heard));
    assert_eq!(stack.state().await.due("mp"), Some(Timestamp(begin + 6)));
    let broadcasts = stack.process().get("/__broadcasts__").await.body;
    // The first is shown until the others have rested.
    assert_eq!(
        broadcasts["broadcasts"]["remote-settings/monitor_changes"],
        format!("\"{}\"", begin + 4)
    );
}

#[tokio::test]
async fn a_batch_that_comes_again_changes_nothing_and_asks_for_the_broadcast_again() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    let many: Vec<_> = (0..40).map(|n| changed(n, begin + n as u64)).collect();
    for part in many.chunks(8) {
        assert!(stack.aggregate(part).await);
    }
    let before = (stack.state_item(), stack.heard_since(0).await);
    let requests = stack.kinto.aws.requests();
    for other in [stack.clone(), stack.with_new_aggregator()] {
        for (batch, of_items) in [(&many[39..], 0), (&many[..1], 1)] {
            requests.take();
            assert!(other.aggregate(batch).await);
            assert_eq!(requests.of("SendMessage"), 1);
            // Whether an older change is known its own item says.
            assert_eq!(requests.of("BatchGetItem").min(1), of_items);
            assert_eq!((requests.of("UpdateItem"), requests.of("PutItem")), (0, 0));
        }
    }
    // An older change of a collection, whether its entry is in the state or in an item.
    assert!(
        stack
            .aggregate(&[changed(39, begin - 1), changed(0, begin - 1)])
            .await
    );
    assert_eq!((stack.state_item(), stack.heard_since(0).await), before);
}

#[tokio::test]
async fn aggregators_that_write_in_turns_read_the_state_instead_of_being_refused() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    let (one, two) = (stack.clone(), stack.with_new_aggregator());
    let requests = stack.kinto.aws.requests();
    let mut costs = vec![];
    for n in 0..8_u64 {
        let turn = if n % 2 == 0 { &one } else { &two };
        requests.take();
        assert!(turn.aggregate(&[changed(n as usize, begin + n)]).await);
        costs.push((requests.of("GetItem"), requests.of("UpdateItem")));
    }
    // The first start the clock, and are refused once.
    assert_eq!(costs[4..], [(1, 1); 4], "{costs:?}");
    // Alone again, each goes on without reading.
    for n in 8..11 {
        requests.take();
        assert!(one.aggregate(&[changed(n as usize, begin + n)]).await);
    }
    assert_eq!((requests.of("GetItem"), requests.of("UpdateItem")), (0, 1));
    assert_eq!(stack.heard_since(0).await.1.len(), 11);
}

#[tokio::test]
async fn what_cannot_be_understood_or_concerns_no_collection_writes_nothing() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    assert!(stack.aggregate(&[changed(1, begin)]).await);
    let mut poison = changed(1, begin + 1);
    poison["dynamodb"]["NewImage"]["timestamp"] = json!({"S": "yesterday"});
    let mut other = changed(1, begin + 1);
    other["dynamodb"]["NewImage"] = json!({"pk": {"S": "#bucket"}, "sk": {"S": "main"}});
    stack.kinto.aws.requests().take();
    assert!(stack.aggregate(&[poison, other]).await);
    assert_eq!(stack.kinto.aws.requests().total(), 0);
}

#[tokio::test]
async fn whatever_fails_on_the_way_to_the_state_comes_again() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    let fill: Vec<_> = (0..30).map(|n| changed(n, begin + n as u64)).collect();
    assert!(stack.aggregate(&fill).await);
    for (n, fails) in ["UpdateItem", "PutItem", "SendMessage"]
        .into_iter()
        .enumerate()
    {
        // A collection for which something has to leave the state.
        let record = changed(100 + n, begin + 100 + n as u64);
        stack.kinto.aws.inject(move |target, _| {
            target
                .ends_with(fails)
                .then(|| Fault::error("ValidationException"))
        });
        assert!(
            !stack.aggregate(std::slice::from_ref(&record)).await,
            "{fails}"
        );
        stack.kinto.aws.heal();
        let known = stack.heard_since(0).await;
        assert_eq!(known.0 == begin + 100 + n as u64, fails == "SendMessage");
        assert!(stack.aggregate(&[record]).await, "{fails}");
        assert_eq!(stack.heard_since(0).await.1.len(), 31 + n);
    }
}

#[tokio::test]
async fn what_a_rebuilding_raised_shows_in_every_process() {
    let stack = Stack::new();
    stack.create(&["one", "two"]).await;
    assert!(stack.aggregate(&[changed(1, Timestamp::now().0)]).await);
    let process = stack.process();
    stack.poll(&process, RECORDS, STATE).await;
    let known = stack.heard_since(0).await.0;
    stack.aggregator.rebuild_monitor().await.unwrap();
    stack.poll(&process, RECORDS, STATE).await;
    let mut heard: Vec<_> = stack.heard_since(known).await.1;
    heard.sort_unstable();
    let timestamps = stack.timestamps(&["one", "two"]).await;
    assert_eq!(heard, timestamps.into_iter().collect::<Vec<_>>());
}

/// A batch as an aggregator of an earlier version writes it: its entries between a begin and an end in the state.
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
        // It may be refused by its condition.
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

/// An entry's item of an earlier version.
fn earlier_entry(collection: &str, last_modified: u64) -> Value {
    json!({
        "pk": "#monitor", "sk": format!("/buckets/main/collections/{collection}"), "bucket": "main",
        "collection": collection, "last_modified": last_modified,
    })
}

/// A table of an earlier version: two collections, of which everybody was told.
fn earlier_table(begin: u64) -> Stack {
    let stack = Stack::new();
    let batch = EarlierBatch::begin(&stack, "1", begin);
    batch.put("a", begin);
    batch.put("b", begin + 10);
    batch.end();
    for item in [
        json!({"pk": "#broadcast", "sk": "mp", "due": begin + 10, "sent": begin + 10, "not_before": 0}),
        json!({"pk": "#broadcast", "sk": "#pull", "due": begin + 10, "due_at": 0}),
    ] {
        put_item(&stack.kinto.aws, &item);
    }
    stack
}

impl Stack {
    /// The version shown to readers of `__broadcasts__`.
    async fn pulled(&self) -> u64 {
        let answer = self.process().get("/__broadcasts__").await.body;
        let version = &answer["broadcasts"]["remote-settings/monitor_changes"];
        version.as_str().unwrap().trim_matches('"').parse().unwrap()
    }

    /// The version that the broadcaster would send now.
    async fn claimed(&self) -> Claim {
        let (now, due) = (Timestamp::now(), self.state().await.due("mp"));
        let claim = self.store.claim_broadcast("mp", "this test", due, now, now);
        claim.await.unwrap()
    }
}

#[tokio::test]
async fn a_table_of_an_earlier_version_goes_on() {
    let begin = Timestamp::now().0;
    let without_state = earlier_table(begin);
    let key = json!({"Key": {"pk": {"S": "#monitor"}, "sk": {"S": "#state"}}});
    execute(&without_state.kinto.aws, "DeleteItem", key);
    for stack in [earlier_table(begin), without_state] {
        let process = stack.process();
        // Nobody knows whether a function of that version is writing: the entries are read each time.
        for _ in 0..2 {
            stack.poll(&process, RECORDS, ENTRIES).await;
        }
        let all = pairs(&[("b", begin + 10), ("a", begin)]);
        assert_eq!(heard(&process, 0).await, (begin + 10, all));
        assert_eq!(heard(&process, begin).await.1, pairs(&[("b", begin + 10)]));
        assert_eq!(stack.pulled().await, begin + 10);
        assert_eq!(stack.claimed().await, Claim::NothingDue);

        // Of a change that comes late, too, everybody hears; of what they know already nobody.
        assert!(stack.aggregate(&[tests::changed(1, "c", begin + 5)]).await);
        assert_eq!(
            heard(&process, begin + 10).await,
            (begin + 11, pairs(&[("c", begin + 5)]))
        );
        assert_eq!(stack.claimed().await, Claim::Granted(Timestamp(begin + 11)));
        assert_eq!(stack.pulled().await, begin + 11);
        assert!(stack.state_item().get("last_modified").is_none());
        stack.poll(&process, RECORDS, ENTRIES).await;
        stack.poll(&process, RECORDS, STATE).await;
        // Its own entries are known.
        assert!(stack.aggregate(&[tests::changed(2, "b", begin + 10)]).await);
        assert_eq!(heard(&process, begin + 11).await.1, []);
    }
}

#[tokio::test]
async fn a_version_that_is_due_by_an_earlier_one_is_told() {
    let stack = Stack::new();
    put_item(
        &stack.kinto.aws,
        &json!({"pk": "#broadcast", "sk": "mp", "due": 7}),
    );
    assert_eq!(stack.claimed().await, Claim::Granted(Timestamp(7)));
    let other = stack
        .store
        .claim_broadcast("other", "this test", None, Timestamp(1), Timestamp(2));
    assert_eq!(other.await.unwrap(), Claim::NothingDue);
}

#[tokio::test]
async fn an_aggregator_of_an_earlier_version_may_go_on_beside_one_of_this() {
    let begin = Timestamp::now().0;
    let stack = earlier_table(begin);
    let process = stack.process();
    assert!(stack.aggregate(&[tests::changed(1, "c", begin + 20)]).await);
    stack.poll(&process, RECORDS, ENTRIES).await;
    stack.poll(&process, RECORDS, STATE).await;
    let (known, _) = heard(&process, 0).await;

    let batch = EarlierBatch::begin(&stack, "2", Timestamp::now().0);
    batch.put("a", begin + 15);
    batch.put("b", begin + 30);
    for _ in 0..2 {
        // It shows at once, in every process; nobody goes on from a position that is none yet.
        let shown = pairs(&[("b", begin + 30), ("c", begin + 20), ("a", begin + 15)]);
        assert_eq!(heard(&process, 0).await, (known, shown));
        stack.poll(&process, RECORDS, ENTRIES).await;
    }
    // Meanwhile others write.
    assert!(stack.aggregate(&[tests::changed(2, "d", begin + 25)]).await);
    let (between, _) = heard(&process, known).await;
    batch.put("e", begin + 28);
    batch.end();
    assert!(stack.aggregate(&[tests::changed(3, "f", begin + 40)]).await);
    let heard_at_last: BTreeMap<_, _> = heard(&process, known).await.1.into_iter().collect();
    let every = pairs(&[
        ("a", begin + 15),
        ("b", begin + 30),
        ("d", begin + 25),
        ("e", begin + 28),
        ("f", begin + 40),
    ]);
    assert_eq!(heard_at_last, every.into_iter().collect());
    let heard_between: BTreeMap<_, _> = heard(&process, between).await.1.into_iter().collect();
    assert!(heard_between.contains_key("e") && heard_between.contains_key("f"));
    stack.poll(&process, RECORDS, STATE).await;
    // Megaphone was told of `b` at its timestamp; it hears of what came beside it all the same.
    assert!(stack.state().await.due("mp") >= Some(Timestamp(begin + 40)));
}

#[tokio::test]
async fn a_rebuilding_gives_positions_to_what_an_earlier_version_wrote() {
    let begin = Timestamp::now().0;
    let stack = earlier_table(begin);
    stack.aggregator.rebuild_monitor().await.unwrap();
    let (known, _) = stack.heard_since(0).await;
    let batch = EarlierBatch::begin(&stack, "2", Timestamp::now().0);
    stack.create(&["late"]).await;
    let late = stack.timestamps(&["late"]).await["late"];
    batch.put("late", late);
    batch.end();
    stack.aggregator.rebuild_monitor().await.unwrap();
    assert!(
        stack
            .heard_since(known)
            .await
            .1
            .contains(&("late".to_owned(), late))
    );
    let process = stack.process();
    stack.poll(&process, RECORDS, ENTRIES).await;
    stack.poll(&process, RECORDS, STATE).await;
}

#[tokio::test]
async fn a_batch_of_an_earlier_version_that_never_ended_costs_reads_for_an_hour() {
    const HOUR: u64 = 60 * 60 * 1000;
    let now = Timestamp::now().0;
    let stack = earlier_table(now - 2 * HOUR);
    assert!(stack.aggregate(&[tests::changed(1, "c", now - HOUR)]).await);
    let process = stack.process();
    for (began, cost) in [(now - HOUR, STATE), (now - HOUR + 60_000, ENTRIES)] {
        // It died before its end.
        EarlierBatch::begin(&stack, "dead", began).put("a", began);
        let (known, _) = heard(&process, 0).await;
        assert!(stack.aggregate(&[tests::changed(2, "c", began + 1)]).await);
        let heard: BTreeMap<_, _> = heard(&process, known).await.1.into_iter().collect();
        assert_eq!(heard.get("a"), Some(&began));
        process.get(RECORDS).await;
        stack.poll(&process, RECORDS, cost).await;
        let is_pending = stack.state_item().get("pending dead").is_some();
        assert_eq!(is_pending, cost == ENTRIES);
    }
}

/// How many random schedules are tried, and the seed of the first.
fn schedules() -> (u64, u64) {
    let var = |name: &str| std::env::var(name).ok()?.parse().ok();
    let seed = var("SCHEDULES_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    (var("SCHEDULES").unwrap_or(60), seed)
}

/// `SCHEDULES=3000 cargo test -p tests --test monitor hears_of_every_change -- --nocapture`
#[test]
fn whoever_polls_by_the_last_etag_or_waits_for_broadcasts_hears_of_every_change() {
    explore(false);
}

#[test]
fn whoever_polls_hears_of_every_change_while_aggregators_of_two_versions_run() {
    explore(true);
}

fn explore(with_earlier_version: bool) {
    let (count, first) = schedules();
    println!("SCHEDULES={count} SCHEDULES_SEED={first}");
    for seed in first..first + count {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let schedule = async { Schedule::new(seed, with_earlier_version).run().await };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(schedule);
        }));
        outcome.unwrap_or_else(|panic| {
            println!("again: SCHEDULES=1 SCHEDULES_SEED={seed}");
            std::panic::resume_unwind(panic)
        });
    }
}

/// The records of one shard of the stream; the first ones are done with.
#[derive(Default)]
struct Shard {
    records: Vec<Value>,
    done: usize,
    is_busy: bool,
}

/// Somebody who polls by the last `ETag`.
#[derive(Clone, Default)]
struct Poller {
    since: u64,
    known: BTreeMap<String, u64>,
}

/// What became known to anybody so far.
#[derive(Clone, Default)]
struct Seen {
    etag: u64,
    /// The timestamps of collections in answers that had all of them.
    entries: BTreeMap<String, u64>,
}

/// Everything that runs at once: each is polled in its turn, which takes it to its next request at most.
type Actor = (Option<usize>, Pin<Box<dyn Future<Output = ()>>>);

/// One random schedule of changes on two shards, aggregators that are killed, requests that fail or arrive late, and
/// pollers in several processes.
struct Schedule {
    rng: Rng,
    stack: Rc<Stack>,
    aggregators: Vec<Stack>,
    processes: Vec<Kinto>,
    shards: Rc<RefCell<[Shard; 2]>>,
    pollers: Rc<RefCell<Vec<Option<Poller>>>>,
    seen: Rc<RefCell<Seen>>,
    /// The latest change of each collection, and whether that is its deletion.
    written: Rc<RefCell<BTreeMap<String, (u64, bool)>>>,
    actors: Vec<Actor>,
    now: u64,
    has_earlier_version: bool,
    /// Whether its functions still run.
    with_earlier_version: bool,
    /// Requests that are on their way although nobody waits for them.
    late: Late,
}

/// Requests with their operation and body.
type Late = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

fn collection(n: usize, is_short: bool) -> String {
    format!("c{n}{}", if is_short { "" } else { LONG })
}

const LONG: &str =
    "-so-that-a-few-collections-are-enough-to-fill-the-state-of-the-monitor-and-some-must-leave-it";

impl Schedule {
    fn new(seed: u64, with_earlier_version: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let stack = Stack::new();
        let now = 1_000_000;
        let mut written = BTreeMap::new();
        if with_earlier_version {
            let batch = EarlierBatch::begin(&stack, "0", Timestamp::now().0);
            for n in 0..rng.usize(..6) {
                batch.put(&collection(n, true), now + n as u64);
                written.insert(collection(n, true), (now + n as u64, false));
            }
            batch.end();
        }
        let late = Arc::default();
        fail_at_random(&stack, rng.fork(), Arc::clone(&late));
        Self {
            aggregators: (0..3).map(|_| stack.with_new_aggregator()).collect(),
            processes: (0..2).map(|_| stack.process()).collect(),
            stack: Rc::new(stack),
            shards: Rc::default(),
            pollers: Rc::new(RefCell::new(vec![Some(Poller::default()); 4])),
            seen: Rc::default(),
            written: Rc::new(RefCell::new(written)),
            actors: vec![],
            now: now + 1000,
            has_earlier_version: with_earlier_version,
            with_earlier_version,
            late,
            rng,
        }
    }

    /// Long names, so that few collections fill the state; short ones where what an earlier version writes would be refused
    /// because a collection's entry was folded at a later position (decision 14).
    fn collection(&self, n: usize) -> String {
        collection(n, self.has_earlier_version)
    }

    async fn run(mut self) {
        for _ in 0..self.rng.usize(20..160) {
            match self.rng.u8(..16) {
                0..3 => self.write(),
                3..6 => self.deliver(),
                6..9 => self.poll(),
                9 => self.poll_when_told(),
                10 => self.kill(),
                11 => self.arrive(),
                _ => {}
            }
            for _ in 0..self.rng.usize(..12) {
                self.step().await;
            }
        }
        self.stack.kinto.aws.heal();
        // Everybody comes to an end, all that is left is delivered, and something changes once more.
        self.write();
        for _ in 0..3 {
            while !self.actors.is_empty() {
                self.step().await;
            }
            self.arrive();
            self.with_earlier_version = false;
            for shard in 0..2 {
                self.deliver_from(shard, 0, usize::MAX);
                self.deliver_from(1 - shard, 0, usize::MAX);
            }
        }
        assert!(self.actors.is_empty(), "nothing was left to deliver");
        self.check().await;
    }

    /// A collection changes. Each is on a shard of its own; clocks of two need not agree.
    fn write(&mut self) {
        let n = self.rng.usize(..14);
        let name = self.collection(n);
        let skew = if self.with_earlier_version {
            self.now += 1000;
            0
        } else {
            self.now += self.rng.u64(..3);
            self.rng.u64(..6)
        };
        let is_gone = self.rng.u8(..8) == 0;
        let mut written = self.written.borrow_mut();
        let last = written.get(&name).map_or(0, |(at, _)| *at);
        let at = (self.now + skew).max(last + 1);
        written.insert(name.clone(), (at, is_gone));
        let shard = &mut self.shards.borrow_mut()[n % 2];
        let mut record = tests::changed(shard.records.len() as u64 + 1, &name, at);
        if is_gone {
            record["dynamodb"]["NewImage"]["closed"] = json!({"BOOL": true});
        }
        shard.records.push(record);
    }

    fn deliver(&mut self) {
        let (shard, again, count) = (
            self.rng.usize(..2),
            self.rng.usize(..3),
            self.rng.usize(1..5),
        );
        self.deliver_from(shard, again, count);
    }

    /// An aggregator gets the next `count` records of a shard, and `again` before them.
    fn deliver_from(&mut self, n: usize, again: usize, count: usize) {
        let shards = Rc::clone(&self.shards);
        let (from, batch) = {
            let shard = &mut shards.borrow_mut()[n];
            let from = shard.done.saturating_sub(again);
            let to = shard.done.saturating_add(count).min(shard.records.len());
            if shard.is_busy || shard.done == to {
                return;
            }
            shard.is_busy = true;
            (from, shard.records[from..to].to_vec())
        };
        let stack = self.rng.choice(&self.aggregators).unwrap().clone();
        let is_earlier = self.with_earlier_version && self.rng.bool();
        let name = self.rng.u64(..).to_string();
        let aggregated = async move {
            let failed = if is_earlier {
                aggregate_as_earlier(&stack, &name, &batch).await;
                None
            } else {
                let event: Event = serde_json::from_value(json!({"Records": batch})).unwrap();
                let response = stack.aggregator.handle(event).await;
                let failures = response.batch_item_failures.into_iter();
                failures
                    .filter_map(|failure| failure.item_identifier)
                    .next()
            };
            let shard = &mut shards.borrow_mut()[n];
            shard.is_busy = false;
            let done = match failed {
                // The first record has the number 1.
                Some(number) => number.parse::<usize>().unwrap() - 1,
                None => from + batch.len(),
            };
            shard.done = done.max(shard.done);
        };
        self.actors.push((Some(n), Box::pin(aggregated)));
    }

    /// A function is killed. What it did is done; the batch comes again.
    fn kill(&mut self) {
        if self.actors.is_empty() {
            return;
        }
        let n = self.rng.usize(..self.actors.len());
        if let Some(shard) = self.actors[n].0 {
            drop(self.actors.swap_remove(n));
            self.shards.borrow_mut()[shard].is_busy = false;
        }
    }

    /// Something that was on its way arrives; its condition may refuse it.
    fn arrive(&mut self) {
        for (operation, body) in std::mem::take(&mut *self.late.lock().unwrap()) {
            let _ = self.stack.kinto.aws.database().execute(&operation, &body);
        }
    }

    /// Takes somebody one step on.
    async fn step(&mut self) {
        tokio::time::advance(Duration::from_millis(20)).await;
        if self.actors.is_empty() {
            return;
        }
        let n = self.rng.usize(..self.actors.len());
        let actor = &mut self.actors[n].1;
        let is_done =
            std::future::poll_fn(|context| Poll::Ready(actor.as_mut().poll(context).is_ready()));
        if is_done.await {
            drop(self.actors.swap_remove(n));
        }
    }

    /// One of the processes, or one that remembers nothing.
    fn process(&mut self) -> Kinto {
        let process = self.rng.choice(&self.processes).unwrap().clone();
        if self.rng.u8(..4) == 0 {
            return self.stack.process();
        }
        process
    }

    fn poll(&mut self) {
        if self.stack.state_item().get("clock").is_none() && self.has_earlier_version {
            // Whoever polls a table that aggregators of an earlier version alone write is promised nothing.
            return;
        }
        let (n, process) = (self.rng.usize(..4), self.process());
        let kind = (self.rng.u8(..4), self.has_earlier_version);
        let pollers = Rc::clone(&self.pollers);
        let Some(poller) = pollers.borrow_mut()[n].take() else {
            return;
        };
        let (seen, written) = (Rc::clone(&self.seen), Rc::clone(&self.written));
        let polled = async move {
            let poller = poll(&process, poller, kind, &seen, &written).await;
            pollers.borrow_mut()[n] = Some(poller);
        };
        self.actors.push((None, Box::pin(polled)));
    }

    /// Somebody is told the version that is due, and finds what it stands for.
    fn poll_when_told(&mut self) {
        let (stack, process) = (Rc::clone(&self.stack), self.process());
        let polled = async move {
            let version = stack.state().await.due("mp").unwrap_or_default().0;
            let answer = process.get(&format!("{CHANGESET}{version}")).await;
            let shown = answer.body["timestamp"].as_u64().unwrap();
            assert!(version <= shown, "told {version}, shown {shown}");
        };
        self.actors.push((None, Box::pin(polled)));
    }

    /// In the end everybody knows everything, and is told of it.
    async fn check(self) {
        let written = self.written.borrow().clone();
        let live = written.iter().filter(|(_, (_, is_gone))| !is_gone);
        let live: BTreeMap<_, _> = live.map(|(name, (at, _))| (name.clone(), *at)).collect();
        let (state, entries) = self.stack.store.monitor().await.unwrap();
        let mut positions: Vec<_> = entries.iter().map(|entry| entry.position).collect();
        positions.dedup();
        assert_eq!(positions.len(), written.len(), "a position is there twice");
        let pollers = self.pollers.take();
        for poller in pollers {
            let poller = poller.unwrap();
            for process in [&self.processes[0], &self.stack.process()] {
                let kind = (0, self.has_earlier_version);
                let poller = poll(process, poller.clone(), kind, &self.seen, &self.written).await;
                let known = poller
                    .known
                    .iter()
                    .filter(|(name, _)| live.contains_key(*name));
                let known: BTreeMap<_, _> = known.map(|(name, at)| (name.clone(), *at)).collect();
                assert_eq!(known, live, "by {}", poller.since);
            }
        }
        // Of what was written before the clock was started, the earlier version has told.
        let recorded = if self.has_earlier_version {
            state.latest()
        } else {
            &*entries
        };
        let told = recorded.iter().filter(|entry| !entry.change.deleted);
        let highest = told.map(|entry| entry.position).max();
        assert!(
            highest <= state.due("mp"),
            "{highest:?} {:?}",
            state.due("mp")
        );
        assert!(highest.is_none() || !self.stack.kinto.aws.queue().is_empty());
        assert!(size(&self.stack.state_item()) <= 4096);
    }
}

/// Polls as somebody who knows what `poller` does. No answer is older than one that was there before it was asked for.
async fn poll(
    process: &Kinto,
    mut poller: Poller,
    (kind, with_earlier_version): (u8, bool),
    seen: &RefCell<Seen>,
    written: &RefCell<BTreeMap<String, (u64, bool)>>,
) -> Poller {
    let before = seen.borrow().clone();
    let since = format!("\"{}\"", poller.since);
    let answer = match kind {
        // All, unless it is what is known.
        3 => {
            process
                .send("GET", RECORDS, &[("if-none-match", &since)], "")
                .await
        }
        2 => process.get(&format!("{CHANGESET}&_since={since}")).await,
        _ => process.get(&format!("{RECORDS}?_since={since}")).await,
    };
    let etag = etag(&answer);
    assert!(
        with_earlier_version || etag >= before.etag.max(poller.since),
        "{etag} after {}",
        before.etag
    );
    let key = if kind == 2 { "changes" } else { "data" };
    let entries = answer.body[key].as_array().cloned().unwrap_or_default();
    assert_eq!(answer.status, if answer.body.is_null() { 304 } else { 200 });
    let mut shown = BTreeMap::new();
    for entry in entries {
        let name = entry["collection"].as_str().unwrap().to_owned();
        let at = entry["last_modified"].as_u64().unwrap();
        assert!(at <= written.borrow()[&name].0, "ahead: {name} {at}");
        shown.insert(name, at);
    }
    let mut seen = seen.borrow_mut();
    seen.etag = etag.max(seen.etag);
    if answer.status == 200 && kind == 3 {
        for (name, at) in &before.entries {
            // One that is not shown any more was deleted.
            assert!(
                shown.get(name).is_none_or(|shown| at <= shown),
                "back: {name}"
            );
        }
        for (name, at) in &shown {
            let highest = seen.entries.entry(name.clone()).or_default();
            *highest = (*highest).max(*at);
        }
    }
    poller.known.extend(shown);
    // Where the clock is started behind what an aggregator of an earlier version has just written, it comes after that in a
    // moment; who goes on from there misses nothing.
    poller.since = etag.max(poller.since);
    poller
}

/// An aggregator of an earlier version, which may be killed between any two of its requests.
async fn aggregate_as_earlier(stack: &Stack, name: &str, batch: &[Value]) {
    let began = EarlierBatch::begin(stack, name, Timestamp::now().0);
    for record in batch {
        tokio::task::yield_now().await;
        let image = &record["dynamodb"]["NewImage"];
        let collection = image["pk"]["S"].as_str().unwrap();
        let collection = collection
            .rsplit('/')
            .next()
            .unwrap()
            .trim_end_matches("#record");
        let at = image["timestamp"]["N"].as_str().unwrap().parse().unwrap();
        let mut item = earlier_entry(collection, at);
        if image["closed"]["BOOL"] == true {
            item["deleted"] = true.into();
        }
        began.put_item(&item);
    }
    tokio::task::yield_now().await;
    began.end();
}

/// Some requests that write fail, lose their answer, or arrive later than anybody waits for them.
fn fail_at_random(stack: &Stack, rng: Rng, late: Late) {
    let rng = Mutex::new(rng);
    stack.kinto.aws.inject(move |target, body| {
        let operation = target.split_once('.')?.1;
        if !["UpdateItem", "PutItem", "SendMessage"].contains(&operation) {
            return None;
        }
        let mut rng = rng.lock().unwrap();
        match rng.u8(..24) {
            0 => Some(Fault::AnswerLost),
            1 => Some(Fault::error("ValidationException")),
            2 | 3 if operation != "SendMessage" => {
                late.lock()
                    .unwrap()
                    .push((operation.to_owned(), body.to_vec()));
                let is_repeated = rng.bool();
                Some(if is_repeated {
                    Fault::Unreached
                } else {
                    Fault::error("ValidationException")
                })
            }
            _ => None,
        }
    });
}
