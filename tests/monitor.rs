//! What monitor/changes holds, whatever happens to the stream on the way: faults in random schedules, bursts, ten
//! thousand collections, and a rebuilding from nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use aws_lambda_events::dynamodb::Event;
use kinto_local::{Fault, LocalAws};
use kinto_serverless::aggregator::{Aggregator, Input, Rebuilt};
use kinto_serverless::queue::BroadcastQueue;
use kinto_serverless::store::Store;
use kinto_serverless::store::broadcast::Claim;
use kinto_serverless::store::monitor::MonitorEntry;
use kinto_serverless::timestamp::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use tests::{Answer, Kinto, TABLE, cases, settings};

const RECORDS: &str = "/buckets/monitor/collections/changes/records";

/// Kinto with its aggregator, and the stream between them in the hand of the test.
#[derive(Clone)]
struct Stack {
    kinto: Kinto,
    store: Store,
    aggregator: Aggregator,
}

impl Stack {
    fn new() -> Self {
        let aws = LocalAws::memory().unwrap();
        aws.create_table(TABLE).unwrap();
        let listener = [
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
        let settings = settings(&listener);
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

    /// The stream so far, as Lambda would give it.
    fn stream(&self) -> Vec<Value> {
        let database = self.kinto.aws.database();
        let mut iterator = database.oldest(TABLE);
        let mut stream = vec![];
        loop {
            let (records, next) = database.records(iterator, 1000).unwrap();
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

    async fn entries(&self) -> BTreeMap<(String, String), MonitorEntry> {
        let entries = self.store.every_monitor_entry().await.unwrap();
        let keyed = |e: MonitorEntry| ((e.bucket.clone(), e.collection.clone()), e);
        entries.into_iter().map(keyed).collect()
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
    let ghost = MonitorEntry {
        bucket: "main".to_owned(),
        collection: "ghost".to_owned(),
        last_modified: Timestamp(5),
        deleted: false,
    };
    stack.store.put_monitor_entry(ghost).await.unwrap();

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
    // One of entries, one of buckets, one of each bucket's collections; the two buckets, and their lists.
    assert_eq!((requests.of("Query"), requests.of("BatchGetItem")), (4, 4));
    assert_eq!(requests.total(), 8);

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
    for (at, rival) in (0..9).flat_map(|at| ["write", "delete", "anew"].map(|rival| (at, rival))) {
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
                let thread = std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    runtime.block_on(async {
                        if rival != "write" {
                            other.kinto.delete("/buckets/main").await;
                        }
                        if rival != "delete" {
                            other.create(&["one"]).await;
                        }
                    });
                });
                thread.join().unwrap();
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
    // 100 writes to each of 500 collections, ten collections at a time.
    let collection = |n: usize| n / 1000 * 10 + n % 10;
    for batch in (0..50_000).collect::<Vec<_>>().chunks(BATCH) {
        let records: Vec<_> = batch
            .iter()
            .map(|n| changed(collection(*n), begin + *n as u64))
            .collect();
        requests.take();
        assert!(stack.aggregate(&records).await);
        // One more for who asks instead of being told.
        assert_eq!(
            (requests.of("PutItem"), requests.of("SendMessage")),
            (10 + 1, 1)
        );
    }
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
    let all = stack.kinto.get(RECORDS).await;
    assert_eq!(all.body["data"].as_array().unwrap().len(), 10_000);
    let etag = all.header("etag");
    assert_eq!(etag, format!("\"{}\"", begin + 9_999));

    let requests = stack.kinto.aws.requests();
    requests.take();
    let known = stack
        .kinto
        .send("GET", RECORDS, &[("if-none-match", etag)], "")
        .await;
    assert_eq!((known.status, known.body), (304, Value::Null));
    let since = stack
        .kinto
        .get(&format!("{RECORDS}?_since={}", begin + 9_989))
        .await;
    assert_eq!(since.body["data"].as_array().unwrap().len(), 10);
    // The first reads pages of one MB of entries, the second just the few.
    let pages = requests.take()["Query"];
    stack
        .kinto
        .get(&format!("{RECORDS}?_since={}", begin + 9_999))
        .await;
    assert_eq!(requests.of("Query"), 1);
    assert!(pages <= 5, "{pages}");
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
                    let last: Option<&MonitorEntry> = before.get(key);
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
                let claim = stack.store.claim_broadcast("mp", "this test", now, now).await.unwrap();
                assert!(matches!(claim, Claim::Granted(due) if due >= Timestamp(*latest)), "{claim:?} {latest}");
                assert!(!stack.kinto.aws.queue().is_empty());
            }
        });
    }
}
