//! What monitor/changes holds, whatever happens to the stream on the way: faults in random schedules, bursts, ten
//! thousand collections, and a rebuilding from nothing; and that processes that remember it show no less for that.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

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
        let aws = LocalAws::sqlite().unwrap();
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
    let ghost = MonitorEntry {
        bucket: "main".to_owned(),
        collection: "ghost".to_owned(),
        last_modified: Timestamp(5),
        deleted: false,
    };
    let writes = stack.store.begin_monitor_writes("ghost", Timestamp::now());
    let writes = writes.await.unwrap();
    writes.put(ghost).await.unwrap();
    writes.end().await.unwrap();

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

const CHANGESET: &str = "/buckets/monitor/collections/changes/changeset?_expected=1";

/// The requests of a poll that is answered from memory.
const REMEMBERED: &[(&str, u64)] = &[("GetItem", 1)];
/// Those of one that reads the entries, where nothing is remembered.
const READ: &[(&str, u64)] = &[("Query", 1)];
/// Those of one that reads them because what is remembered holds no more.
const READ_AGAIN: &[(&str, u64)] = &[("GetItem", 1), ("Query", 1)];

impl Stack {
    /// Another process of the API, which remembers nothing yet.
    fn process(&self) -> Kinto {
        Kinto::over(&self.kinto.aws, &[])
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

    /// The names of the batches whose entries are being written, as the table has them.
    fn pending(&self) -> Vec<String> {
        let key = json!({"pk": {"S": "#monitor"}, "sk": {"S": "#state"}});
        let get = json!({"TableName": TABLE, "Key": key}).to_string();
        let database = self.kinto.aws.database();
        let found = database.execute("GetItem", get.as_bytes()).unwrap();
        let found: Value = serde_json::from_str(&found).unwrap();
        let attributes = found["Item"].as_object().unwrap().keys();
        let names = attributes.filter_map(|name| name.strip_prefix("pending "));
        names.map(str::to_owned).collect()
    }

    /// Handles a batch of one change, of whose requests those fail that `fails` names: operation and a part of the body.
    async fn aggregate_failing(&self, record: Value, fails: (&'static str, &'static str)) -> bool {
        self.kinto.aws.inject(move |target, body| {
            let (operation, part) = fails;
            let is_meant =
                target.ends_with(operation) && String::from_utf8_lossy(body).contains(part);
            is_meant.then(|| Fault::error("ValidationException"))
        });
        let done = self.aggregate(&[record]).await;
        self.kinto.aws.heal();
        done
    }
}

#[tokio::test]
async fn a_poll_when_nothing_changed_is_one_small_read() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    let two = [changed(1, begin), changed(2, begin + 1)];
    assert!(stack.aggregate(&two).await);
    let process = stack.process();
    stack.poll(&process, RECORDS, READ).await;
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
    for path in &paths {
        stack.poll(&process, path, REMEMBERED).await;
    }
    // Clones are one process.
    stack.poll(&process.clone(), RECORDS, REMEMBERED).await;

    assert!(stack.aggregate(&[changed(1, begin + 2)]).await);
    stack.poll(&process, RECORDS, READ_AGAIN).await;
    for path in &paths {
        stack.poll(&process, path, REMEMBERED).await;
    }
}

#[tokio::test]
async fn who_asks_what_is_later_reads_no_more_than_that_where_nothing_is_remembered() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    assert!(
        stack
            .aggregate(&[changed(1, begin), changed(2, begin + 1)])
            .await
    );
    let process = stack.process();
    let since = format!("{RECORDS}?_since={begin}");
    stack.poll(&process, &since, READ).await;
    stack.poll(&process, &since, READ).await;
    stack.poll(&process, RECORDS, READ).await;
    assert!(stack.aggregate(&[changed(1, begin + 2)]).await);
    stack.poll(&process, &since, READ_AGAIN).await;
    // What is remembered no more is not asked about again.
    stack.poll(&process, &since, READ).await;
}

#[tokio::test]
async fn what_changes_no_entry_lets_nobody_forget() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    assert!(stack.aggregate(&[changed(1, begin)]).await);
    let process = stack.process();
    stack.poll(&process, RECORDS, READ).await;
    let mut poison = changed(1, begin + 1);
    poison["dynamodb"]["NewImage"]["timestamp"] = json!({"S": "yesterday"});
    let mut other = changed(1, begin + 1);
    other["dynamodb"]["NewImage"] = json!({"pk": {"S": "#bucket"}, "sk": {"S": "main"}});
    stack.kinto.aws.requests().take();
    assert!(stack.aggregate(&[poison, other]).await);
    assert_eq!(stack.kinto.aws.requests().total(), 0);
    stack.poll(&process, RECORDS, REMEMBERED).await;
}

#[tokio::test]
async fn whatever_fails_around_the_entries_comes_again_and_nobody_remembers_meanwhile() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    assert!(stack.aggregate(&[changed(1, begin)]).await);
    let process = stack.process();
    stack.poll(&process, RECORDS, READ).await;
    for (n, (fails, is_pending)) in [
        // The begin, the entry, the end.
        (("UpdateItem", "#own = :now"), false),
        (("PutItem", "#monitor"), true),
        (("UpdateItem", "ADD version"), true),
    ]
    .into_iter()
    .enumerate()
    {
        let record = changed(1, begin + 1 + n as u64);
        assert!(!stack.aggregate_failing(record.clone(), fails).await);
        assert_eq!(!stack.pending().is_empty(), is_pending, "{fails:?}");
        if is_pending {
            stack.poll(&process, RECORDS, READ_AGAIN).await;
            stack.poll(&process, RECORDS, READ).await;
        } else {
            stack.poll(&process, RECORDS, REMEMBERED).await;
        }
        assert!(stack.aggregate(&[record]).await);
        assert_eq!(stack.pending(), [""; 0], "{fails:?}");
        process.get(RECORDS).await;
        stack.poll(&process, RECORDS, REMEMBERED).await;
    }
}

#[tokio::test]
async fn who_died_while_writing_costs_reads_for_an_hour_and_then_nothing() {
    const HOUR: u64 = 60 * 60 * 1000;
    for (age, is_abandoned, is_forgotten) in [
        (HOUR - 60_000, false, false),
        (HOUR, true, false),
        (25 * HOUR, true, true),
    ] {
        let stack = Stack::new();
        let now = Timestamp::now().0;
        assert!(stack.aggregate(&[changed(1, now - 30 * HOUR)]).await);
        let (before, late) = (stack.process(), stack.process());
        stack.poll(&before, RECORDS, READ).await;
        let began = Timestamp(now - age);
        let dead = stack.store.begin_monitor_writes("dead", began).await;
        let entry = MonitorEntry {
            bucket: "main".to_owned(),
            collection: "c2".to_owned(),
            last_modified: began,
            deleted: false,
        };
        dead.unwrap().put(entry).await.unwrap();

        // Who remembers what was before that shows it all the same.
        stack.poll(&before, RECORDS, READ_AGAIN).await;
        let again = if is_abandoned { REMEMBERED } else { READ };
        stack.poll(&before, RECORDS, again).await;
        stack.poll(&late, RECORDS, READ).await;
        stack.poll(&late, RECORDS, again).await;

        // The next batch takes out who will never end, and nobody else.
        assert!(stack.aggregate(&[changed(3, now)]).await);
        let left: &[&str] = if is_forgotten { &[] } else { &["dead"] };
        assert_eq!(stack.pending(), left);
        late.get(RECORDS).await;
        stack.poll(&late, RECORDS, again).await;
    }
}

#[tokio::test]
async fn a_batch_that_fails_again_and_again_is_pending_once() {
    let stack = Stack::new();
    let record = changed(1, Timestamp::now().0);
    for _ in 0..5 {
        let fails = ("PutItem", "#monitor");
        assert!(!stack.aggregate_failing(record.clone(), fails).await);
        assert_eq!(stack.pending().len(), 1);
    }
}

#[tokio::test]
async fn entries_that_say_nothing_of_their_state_are_not_remembered() {
    // A table that was written by a version without it.
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    for at in [begin, begin + 1] {
        let item = json!({
            "pk": {"S": "#monitor"},
            "sk": {"S": "/buckets/main/collections/one"},
            "bucket": {"S": "main"},
            "collection": {"S": "one"},
            "last_modified": {"N": at.to_string()},
        });
        let put = json!({"TableName": TABLE, "Item": item}).to_string();
        let database = stack.kinto.aws.database();
        database.execute("PutItem", put.as_bytes()).unwrap();
        stack.poll(&stack.kinto, RECORDS, READ).await;
        stack.poll(&stack.kinto, RECORDS, READ).await;
    }
}

#[tokio::test]
async fn what_a_rebuilding_raised_shows_in_every_process() {
    let stack = Stack::new();
    stack.create(&["one", "two"]).await;
    assert!(stack.aggregate(&[changed(1, Timestamp::now().0)]).await);
    let process = stack.process();
    stack.poll(&process, RECORDS, READ).await;
    stack.aggregator.rebuild_monitor().await.unwrap();
    stack.poll(&process, RECORDS, READ_AGAIN).await;
    stack.poll(&process, RECORDS, REMEMBERED).await;
    assert_eq!(stack.pending(), [""; 0]);
    // One with nothing to raise lets nobody forget.
    stack.aggregator.rebuild_monitor().await.unwrap();
    stack.poll(&process, RECORDS, REMEMBERED).await;
}

/// What happens next among processes that poll and remember.
#[derive(Clone, Debug)]
enum Move {
    Put(usize),
    Delete(usize),
    /// So many records of the stream come, and before them some that were done already. After some requests all fail, as
    /// of a function that was killed, or those alone that write entries, which then are still on their way.
    Deliver {
        again: usize,
        count: usize,
        fails: Option<(u32, bool)>,
    },
    /// What was on its way arrives, between two polls of every process.
    Arrive,
    /// This process is polled for what is later than what it showed before, or for all.
    Poll {
        process: usize,
        all: bool,
    },
}

fn moves() -> impl Strategy<Value = Vec<(Move, u32, Option<Move>)>> {
    let fails = prop::option::of((0..6_u32, any::<bool>()));
    let deliver = (0..2_usize, 1..5_usize, fails);
    let deliver = deliver.prop_map(|(again, count, fails)| Move::Deliver {
        again,
        count,
        fails,
    });
    let poll = (0..3_usize, prop::bool::weighted(0.7));
    let step = prop_oneof![
        4 => (0..3_usize).prop_map(Move::Put),
        1 => (0..3_usize).prop_map(Move::Delete),
        6 => deliver,
        3 => Just(Move::Arrive),
        6 => poll.prop_map(|(process, all)| Move::Poll { process, all }),
    ];
    // Before one of its requests, another move comes between.
    let between = prop::option::of(step.clone());
    prop::collection::vec((step, 0..8_u32, between), 1..24)
}

/// The processes, and how far the stream is done with.
#[derive(Clone)]
struct Polled {
    stack: Stack,
    processes: [Kinto; 3],
    /// The highest time that each process showed.
    since: Arc<Mutex<[u64; 3]>>,
    done: Arc<Mutex<usize>>,
    on_their_way: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Polled {
    fn new() -> Self {
        let stack = Stack::new();
        Self {
            processes: [(); 3].map(|()| stack.process()),
            stack,
            since: Arc::default(),
            done: Arc::default(),
            on_their_way: Arc::default(),
        }
    }

    /// What the table says: each collection's time, and whether it is deleted.
    fn entries(&self) -> BTreeMap<String, (u64, bool)> {
        let query = json!({
            "TableName": TABLE,
            "KeyConditionExpression": "pk = :pk AND begins_with(sk, :slash)",
            "ExpressionAttributeValues": {":pk": {"S": "#monitor"}, ":slash": {"S": "/"}},
        });
        let database = self.stack.kinto.aws.database();
        let found = database.execute("Query", query.to_string().as_bytes());
        let found: Value = serde_json::from_str(&found.unwrap()).unwrap();
        let entry = |item: &Value| {
            let time = item["last_modified"]["N"].as_str().unwrap().parse();
            let name = item["collection"]["S"].as_str().unwrap().to_owned();
            (name, (time.unwrap(), item["deleted"]["BOOL"] == true))
        };
        found["Items"]
            .as_array()
            .unwrap()
            .iter()
            .map(entry)
            .collect()
    }

    /// The changes of collections on the stream.
    fn stream(&self) -> Vec<Value> {
        let mut stream = self.stack.stream();
        stream.retain(|record| record["dynamodb"]["Keys"]["sk"]["S"] == "#timestamp");
        stream.retain(|record| record["dynamodb"]["NewImage"]["kind"]["S"] == "record");
        stream
    }

    /// No poll shows less than the table held when it began, and so none less than another did that was over by then.
    async fn poll(&self, process: usize, all: bool) {
        let since = if all {
            0
        } else {
            self.since.lock().unwrap()[process]
        };
        let path = if since == 0 {
            RECORDS.to_owned()
        } else {
            format!("{RECORDS}?_since={since}")
        };
        let before = self.entries();
        let answer = self.processes[process].get(&path).await;
        let after = self.entries();
        assert_eq!(answer.status, 200);
        let etag = answer
            .header("etag")
            .trim_matches('"')
            .parse::<u64>()
            .unwrap();
        let latest = |entries: &BTreeMap<_, (u64, bool)>| {
            let times = entries.values().map(|(time, _)| *time);
            times.max().unwrap_or_default()
        };
        assert!(
            (latest(&before)..=latest(&after)).contains(&etag),
            "{etag} {before:?} {after:?}"
        );
        self.since.lock().unwrap()[process] = etag;

        let mut shown = BTreeMap::new();
        for entry in answer.body["data"].as_array().unwrap() {
            let name = entry["collection"].as_str().unwrap().to_owned();
            shown.insert(name, entry["last_modified"].as_u64().unwrap());
        }
        for (name, (latest, gone)) in &after {
            let known = before.get(name);
            let earliest = known.map_or(0, |(time, _)| *time);
            match shown.get(name) {
                Some(time) => assert!(
                    (earliest..=*latest).contains(time),
                    "{name} {time} {known:?}"
                ),
                None => assert!(
                    *gone
                        || *latest <= since
                        || known.is_none_or(|(time, gone)| *gone || *time <= since),
                    "{name} {known:?}"
                ),
            }
        }
    }

    async fn take(&self, step: Move, at: u32, between: Option<Move>) {
        let (met, busy) = (AtomicU32::new(0), AtomicBool::new(false));
        let fails = match step {
            Move::Deliver { fails, .. } => fails,
            _ => None,
        };
        let other = self.clone();
        self.stack.kinto.aws.inject(move |target, body| {
            if busy.load(Ordering::SeqCst) {
                return None;
            }
            let n = met.fetch_add(1, Ordering::SeqCst);
            if n == at
                && let Some(step) = between.clone()
            {
                busy.store(true, Ordering::SeqCst);
                let other = other.clone();
                between_requests(async move { other.alone(step).await });
                busy.store(false, Ordering::SeqCst);
            }
            let (_, is_dead) = fails.filter(|(after, _)| n >= *after)?;
            let is_entry =
                target.ends_with("PutItem") && String::from_utf8_lossy(body).contains("#monitor");
            if is_entry {
                other.on_their_way.lock().unwrap().push(body.to_vec());
            }
            (is_dead || is_entry).then(|| Fault::error("ValidationException"))
        });
        self.alone(step).await;
        self.stack.kinto.aws.heal();
    }

    async fn alone(&self, step: Move) {
        let kinto = &self.stack.kinto;
        let collection = |c: usize| format!("/buckets/main/collections/{}", COLLECTIONS[c]);
        match step {
            Move::Put(c) => {
                kinto.put(&collection(c), json!({})).await;
                kinto
                    .put(&format!("{}/records/r", collection(c)), json!({}))
                    .await;
            }
            Move::Delete(c) => _ = kinto.delete(&collection(c)).await,
            Move::Arrive => {
                self.poll_all().await;
                for put in std::mem::take(&mut *self.on_their_way.lock().unwrap()) {
                    // It may be refused by its condition.
                    let _ = kinto.aws.database().execute("PutItem", &put);
                }
                self.poll_all().await;
            }
            Move::Poll { process, all } => self.poll(process, all).await,
            Move::Deliver {
                again,
                count,
                fails,
            } => {
                let done = *self.done.lock().unwrap();
                let stream = self.stream();
                let from = done.saturating_sub(again);
                let batch = &stream[from..(done + count).min(stream.len())];
                let is_done = self.stack.aggregate(batch).await;
                // Who was killed reports nothing.
                if is_done && !matches!(fails, Some((_, true))) {
                    let mut done = self.done.lock().unwrap();
                    *done = (from + batch.len()).max(*done);
                }
            }
        }
    }

    async fn poll_all(&self) {
        for process in 0..self.processes.len() {
            self.poll(process, true).await;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(32), ..ProptestConfig::default() })]

    /// Invariant 3 for who polls, in whatever process: wherever a function is killed and whatever comes between two
    /// requests, nobody shows less for what they remember.
    #[test]
    fn no_process_ever_shows_less_than_another_did_and_all_converge(moves in moves()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let polled = Polled::new();
            polled.stack.create(&COLLECTIONS).await;
            for (step, at, between) in moves {
                polled.take(step, at, between).await;
            }
            let rest = Move::Deliver { again: 0, count: usize::MAX / 2, fails: None };
            polled.alone(rest).await;
            assert_eq!(*polled.done.lock().unwrap(), polled.stream().len());
            let timestamps = polled.stack.timestamps(&COLLECTIONS).await;
            for _ in 0..2 {
                for kinto in &polled.processes {
                    let polled = Stack { kinto: kinto.clone(), ..polled.stack.clone() };
                    assert_eq!(polled.shown().await, timestamps);
                }
                polled.alone(Move::Arrive).await;
            }
        });
    }
}
