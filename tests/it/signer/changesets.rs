//! The signature covers what is shown, at every moment: whatever is published while it is read, and wherever who publishes
//! is killed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use aws_lambda_events::dynamodb::Event;
use aws_sdk_dynamodb::types::AttributeValue;
use kinto_local::Fault;
use kinto_serverless::aggregator::Aggregator;
use kinto_serverless::queue::BroadcastQueue;
use kinto_serverless::resource::{Kind, ObjectUri};
use kinto_serverless::store::Store;
use kinto_serverless::store::publication::Layer;
use proptest::prelude::*;
use serde_json::{Value, json};
use tests::{Kinto, TABLE, batch, cases, changed, execute, in_own_thread};

use super::{DESTINATION, Expect, PREVIEW, SOURCE, Signer, WITH_PREVIEW, WITHOUT_PREVIEW};

/// Records by id.
type State = BTreeMap<String, u64>;

/// Records that are written, or deleted.
type Edits = Vec<(u8, bool)>;

/// What somebody does while others read.
#[derive(Clone, Debug)]
enum Act {
    /// Edits, and publishes; killed after so many requests to the table, if at all.
    Publish(Edits, Option<u64>),
    /// Signs again.
    Resign,
}

/// How what is published is read.
#[derive(Clone, Copy, Debug)]
enum Read {
    /// The whole changeset.
    Changeset,
    /// What changed since the client last read it.
    Since,
    /// The list of records.
    List,
    /// Each single record.
    Records,
}

/// A server, what was ever to be published, and who publishes.
struct World {
    signer: Signer,
    rival: Kinto,
    states: Mutex<Vec<State>>,
    /// The first of the states that may still be shown.
    first: AtomicU64,
    n: AtomicU64,
    /// How many requests to the table the rival has left; none when it is negative.
    life: Arc<Mutex<Option<u64>>>,
}

impl World {
    async fn new() -> Arc<Self> {
        let signer = Signer::with(WITHOUT_PREVIEW, "false").await;
        let rival = signer.restarted(WITHOUT_PREVIEW, "false");
        Arc::new(Self {
            signer,
            rival,
            states: Mutex::new(vec![State::new()]),
            first: AtomicU64::new(0),
            n: AtomicU64::new(0),
            life: Arc::default(),
        })
    }

    async fn act(&self, act: &Act) {
        match act {
            Act::Resign => {
                let body = json!({"data": {"status": "to-resign"}});
                self.rival.patch(SOURCE, body).await.expect(200);
            }
            Act::Publish(edits, life) => {
                let mut state = self.edit(edits).await;
                state.retain(|_, n| *n > 0);
                self.states.lock().unwrap().push(state);
                let last = self.states.lock().unwrap().len() - 1;
                *self.life.lock().unwrap() = *life;
                let body = json!({"data": {"status": "to-sign"}});
                let answer = self.rival.patch(SOURCE, body).await;
                *self.life.lock().unwrap() = None;
                if answer.status == 200 {
                    self.first.store(last as u64, Ordering::SeqCst);
                }
            }
        }
    }

    /// Writes records of the source, and tells what they are then.
    async fn edit(&self, edits: &Edits) -> State {
        let listed = self.rival.get(&format!("{SOURCE}/records")).await;
        let mut state = State::new();
        for record in listed.body["data"].as_array().unwrap() {
            let id = record["id"].as_str().unwrap().to_owned();
            state.insert(id, record["n"].as_u64().unwrap());
        }
        let mut requests = vec![];
        // One that is there in any case, so that something is new.
        for (record, is_deleted) in edits.iter().chain(&[(99, false)]) {
            let n = self.n.fetch_add(1, Ordering::SeqCst) + 1;
            let id = format!("r{record}");
            let path = format!("{SOURCE}/records/{id}");
            if *is_deleted {
                if state.remove(&id).is_some() {
                    requests.push(json!({"method": "DELETE", "path": path}));
                }
            } else {
                let body = json!({"data": {"n": n}});
                requests.push(json!({"method": "PUT", "path": path, "body": body}));
                state.insert(id, n);
            }
        }
        batch(&self.rival, requests).await.expect(200);
        state
    }

    /// Panics unless the records are one of the states that may be shown since `first`.
    fn check(&self, first: u64, records: &[Value], what: Read) {
        let shown: State = records
            .iter()
            .map(|record| {
                let id = record["id"].as_str().unwrap().to_owned();
                (id, record["n"].as_u64().unwrap())
            })
            .collect();
        let states = self.states.lock().unwrap();
        let first = usize::try_from(first).unwrap();
        let is_one = states[first..].contains(&shown);
        assert!(
            is_one,
            "{what:?} shows {shown:?}, none of {:?}",
            &states[first..]
        );
    }

    /// Reads what is published as a client that remembers what it read.
    async fn read(&self, kinto: &Kinto, read: Read, client: &mut Option<Value>) {
        let first = self.first.load(Ordering::SeqCst);
        match read {
            Read::Changeset => {
                let path = format!("{DESTINATION}/changeset?_expected=0");
                let changeset = kinto.get(&path).await.expect(200);
                self.signer.check(&changeset);
                self.check(first, changeset["changes"].as_array().unwrap(), read);
                *client = Some(changeset);
            }
            Read::Since => {
                let Some(known) = client else {
                    return;
                };
                let since = &known["timestamp"];
                let path = format!("{DESTINATION}/changeset?_expected=0&_since={since}");
                let mut changeset = kinto.get(&path).await.expect(200);
                let mut records = known["changes"].as_array().unwrap().clone();
                let changes = changeset["changes"].as_array().unwrap();
                records.retain(|record| changes.iter().all(|it| it["id"] != record["id"]));
                records.extend(changes.iter().filter(|it| it["deleted"] != true).cloned());
                changeset["changes"] = json!(records);
                self.signer.check(&changeset);
                self.check(first, &records, read);
                *client = Some(changeset);
            }
            Read::List => {
                let listed = kinto.get(&format!("{DESTINATION}/records")).await;
                let listed = listed.expect(200);
                self.check_list(first, listed["data"].as_array().unwrap());
            }
            Read::Records => {
                let path = format!("{DESTINATION}/records/r99");
                let answer = kinto.get(&path).await;
                let n = (answer.status == 200).then(|| answer.body["data"]["n"].as_u64().unwrap());
                let states = self.states.lock().unwrap();
                let first = usize::try_from(first).unwrap();
                let ns: Vec<_> = states[first..]
                    .iter()
                    .map(|it| it.get("r99").copied())
                    .collect();
                assert!(ns.contains(&n), "{n:?} is none of {ns:?}");
            }
        }
    }

    /// A list may show more than its timestamp tells of, never less: each record is of a state that may be shown.
    fn check_list(&self, first: u64, records: &[Value]) {
        let states = self.states.lock().unwrap();
        let first = usize::try_from(first).unwrap();
        for record in records {
            let (id, n) = (record["id"].as_str().unwrap(), record["n"].as_u64());
            let is_one = states[first..].iter().any(|it| it.get(id).copied() == n);
            assert!(is_one, "{record} is none of {:?}", &states[first..]);
        }
        let always = states[first]
            .keys()
            .filter(|id| states[first..].iter().all(|it| it.contains_key(*id)));
        for id in always {
            assert!(records.iter().any(|it| it["id"] == **id), "{id} is missing");
        }
    }

    /// Has the rival act before each of the next requests to the table.
    fn interfere(self: &Arc<Self>, schedule: Vec<Vec<Act>>) {
        let (world, busy) = (Arc::clone(self), AtomicBool::new(false));
        let left = Mutex::new(schedule.into_iter());
        self.signer.kinto.aws.inject(move |_, _| {
            if busy.swap(true, Ordering::SeqCst) {
                return world.spend();
            }
            let acts = left.lock().unwrap().next().unwrap_or_default();
            let world = Arc::clone(&world);
            in_own_thread(async move || {
                for act in &acts {
                    world.act(act).await;
                }
            });
            busy.store(false, Ordering::SeqCst);
            None
        });
    }

    /// Spends one of the requests that the rival has left.
    fn spend(&self) -> Option<Fault> {
        let mut life = self.life.lock().unwrap();
        let left = life.as_mut()?;
        match left.checked_sub(1) {
            Some(less) => {
                *left = less;
                None
            }
            None => Some(Fault::error("ResourceNotFoundException")),
        }
    }
}

/// The attribute of the item of a list of records.
fn list_attribute(signer: &Signer, collection: &str, name: &str) -> Option<Value> {
    let key = json!({"pk": {"S": format!("{collection}#record")}, "sk": {"S": "#timestamp"}});
    let answer = execute(
        &signer.kinto.aws,
        "GetItem",
        json!({"Key": key, "ConsistentRead": true}),
    );
    answer["Item"].get(name).cloned()
}

fn edits() -> impl Strategy<Value = Edits> {
    prop::collection::vec((0..6_u8, prop::bool::weighted(0.3)), 0..4)
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => edits().prop_map(|edits| Act::Publish(edits, None)),
        4 => (edits(), 0..25_u64).prop_map(|(edits, life)| Act::Publish(edits, Some(life))),
        1 => Just(Act::Resign),
    ]
}

/// One reading: by which of two processes, of what, and what happens before each of its requests to the table.
type Ask = (bool, Read, Vec<Vec<Act>>);

fn ask() -> impl Strategy<Value = Ask> {
    let read = prop_oneof![
        3 => Just(Read::Changeset),
        3 => Just(Read::Since),
        1 => Just(Read::List),
        1 => Just(Read::Records),
    ];
    let schedule = prop::collection::vec(prop::collection::vec(act(), 0..2), 0..5);
    (any::<bool>(), read, schedule)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(12), ..ProptestConfig::default() })]

    /// Whatever is published between any two requests of a reader, and wherever that is killed, each changeset verifies,
    /// and has records that were published together.
    #[test]
    fn every_changeset_verifies(asks in prop::collection::vec(ask(), 1..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            world.act(&Act::Publish(vec![(0, false), (1, false), (2, false)], None)).await;
            let processes = [
                world.signer.kinto.clone(),
                world.signer.restarted(WITHOUT_PREVIEW, "false"),
            ];
            let mut client = None;
            for (process, read, schedule) in asks {
                world.interfere(schedule);
                let kinto = &processes[usize::from(process)];
                world.read(kinto, read, &mut client).await;
                world.signer.kinto.aws.clear_faults();
            }
        });
    }
}

/// The source with records that a publication changes in every way.
async fn prepared() -> Signer {
    let signer = Signer::with(WITH_PREVIEW, "true").await;
    for id in ["a", "b", "c"] {
        signer.write(tests::ALICE, id, 1).await.expect(201);
    }
    signer.set(tests::ALICE, "to-review").await.expect(200);
    signer.set(tests::BOB, "to-sign").await.expect(200);
    signer.write(tests::ALICE, "a", 2).await.expect(200);
    signer.write(tests::ALICE, "d", 2).await.expect(201);
    let gone = format!("{SOURCE}/records/b");
    signer.kinto.delete(&gone).await.expect(200);
    signer
}

#[tokio::test]
async fn wherever_an_approval_is_killed_all_of_it_is_shown_or_nothing_and_it_can_be_done_again() {
    let (before, after) = (["a=1", "b=1", "c=1"], ["a=2", "c=1", "d=2"]);
    let (mut shown, mut hidden, mut unsettled) = (0, 0, 0);
    for life in 0.. {
        let signer = prepared().await;
        signer.set(tests::ALICE, "to-review").await.expect(200);
        let left = AtomicU64::new(life);
        signer.kinto.aws.inject(move |_, _| {
            let spent = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            spent
                .err()
                .map(|_| Fault::error("ResourceNotFoundException"))
        });
        let answer = signer.set(tests::BOB, "to-sign").await;
        signer.kinto.aws.clear_faults();
        // Another process knows nothing of it.
        let other = signer.restarted(WITH_PREVIEW, "true").as_user(tests::BOB);
        let records = signer.verify(&other, DESTINATION).await;
        let has_layer = list_attribute(&signer, DESTINATION, "layer").is_some();
        unsettled += usize::from(has_layer);
        let listed = other
            .get(&format!("{DESTINATION}/records?_sort=id"))
            .await
            .expect(200);
        let listed = listed["data"].as_array().unwrap().iter();
        let listed: Vec<_> = listed
            .map(|it| format!("{}={}", it["id"].as_str().unwrap(), it["n"]))
            .collect();
        assert_eq!(listed, records, "after {life} requests");
        let status = other.get(&format!("{DESTINATION}/records/b")).await.status;
        assert_eq!(signer.verify(&other, PREVIEW).await, after);
        match signer.status().await.as_str() {
            "signed" => {
                assert_eq!((status, &*records), (404, &after.map(str::to_owned)[..]));
                shown += 1;
            }
            "to-review" => {
                assert_eq!((status, &*records), (200, &before.map(str::to_owned)[..]));
                assert_eq!(answer.status, 503, "{answer:?}");
                let body = json!({"data": {"status": "to-sign"}});
                other.patch(SOURCE, body).await.expect(200);
                hidden += 1;
            }
            status => panic!("{status} after {life} requests"),
        }
        assert_eq!(signer.verify(&other, DESTINATION).await, after);
        // What comes next settles it, and is whole.
        signer.write(tests::ALICE, "a", 3).await.expect(200);
        signer.set(tests::ALICE, "to-review").await.expect(200);
        signer.set(tests::BOB, "to-sign").await.expect(200);
        assert_eq!(
            signer.verify(&other, DESTINATION).await,
            ["a=3", "c=1", "d=2"]
        );
        assert_eq!(list_attribute(&signer, DESTINATION, "layer"), None);
        if answer.status == 200 && !has_layer {
            break;
        }
    }
    // It was killed before and after it was shown, and before all was in its place.
    assert!(
        shown > 3 && hidden > 5 && unsettled > 3,
        "{shown} {hidden} {unsettled}"
    );
}

#[tokio::test]
async fn an_edit_that_comes_between_a_review_and_its_approval_is_not_published() {
    // Before each of the approval's requests to the table.
    for at in 0..12 {
        let signer = prepared().await;
        signer.set(tests::ALICE, "to-review").await.expect(200);
        let count = AtomicU64::new(0);
        let (rival, busy) = (
            signer.restarted(WITH_PREVIEW, "true"),
            AtomicBool::new(false),
        );
        signer.kinto.aws.inject(move |_, _| {
            if !busy.load(Ordering::SeqCst) && count.fetch_add(1, Ordering::SeqCst) == at {
                busy.store(true, Ordering::SeqCst);
                let rival = rival.clone();
                let thread = std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread();
                    let runtime = { runtime }.enable_all().build().unwrap();
                    let body = json!({"data": {"n": 7}});
                    runtime.block_on(rival.put(&format!("{SOURCE}/records/a"), body))
                });
                thread.join().unwrap().expect(200);
            }
            None
        });
        let answer = signer.set(tests::BOB, "to-sign").await;
        signer.kinto.aws.clear_faults();
        let published = signer.verified(DESTINATION).await;
        assert!(!published.contains(&"a=7".to_owned()), "{published:?}");
        let came = signer.kinto.get(&format!("{SOURCE}/records/a")).await.body["data"]["n"] == 7;
        match answer.status {
            200 => assert_eq!(published, ["a=2", "c=1", "d=2"]),
            400 => assert_eq!(published, ["a=1", "b=1", "c=1"]),
            status => panic!("{status}"),
        }
        // Either way it is new work.
        if came {
            assert_eq!(signer.status().await, "work-in-progress");
        }
    }
}

#[tokio::test]
async fn what_is_read_while_nothing_is_being_settled_costs_no_more() {
    let signer = prepared().await;
    let other = signer
        .restarted(WITH_PREVIEW, "true")
        .as_user(tests::NOBODY);
    let requests = signer.kinto.aws.requests();
    requests.take();
    other
        .get(&format!("{DESTINATION}/changeset?_expected=0"))
        .await
        .expect(200);
    let taken = requests.take();
    assert_eq!(taken.get("TransactGetItems"), Some(&1), "{taken:?}");
    assert_eq!(taken.values().sum::<u64>(), 2, "{taken:?}");
    other
        .get(&format!("{DESTINATION}/records/a"))
        .await
        .expect(200);
    assert_eq!(requests.take().values().sum::<u64>(), 1);
    // Who edits already writes the record and its list alone.
    signer.write(tests::ALICE, "a", 4).await.expect(200);
    requests.take();
    signer.write(tests::ALICE, "a", 5).await.expect(200);
    let taken = requests.take();
    assert_eq!(taken.get("TransactWriteItems"), Some(&1), "{taken:?}");
    assert_eq!(taken.values().sum::<u64>(), 2, "{taken:?}");
}

#[tokio::test]
async fn a_layer_expires_and_leaves_nothing_in_the_places_of_its_objects() {
    let signer = prepared().await;
    signer.set(tests::ALICE, "to-review").await.expect(200);
    let scan = signer
        .kinto
        .aws
        .dynamodb()
        .scan()
        .table_name(TABLE)
        .send()
        .await
        .unwrap();
    let mut in_layers = 0;
    for item in scan.items() {
        let text = |name: &str| item.get(name).and_then(|it| it.as_s().ok()).cloned();
        let has = |name: &str| item.contains_key(name);
        let pk = text("pk").unwrap();
        if pk.starts_with("#layer#") {
            in_layers += 1;
            assert!(has("expires") && !has("last_modified"), "{item:?}");
        }
        if pk == format!("{PREVIEW}#record") {
            assert!(!has("at") && !has("expires"), "{item:?}");
            let is_list = text("sk").as_deref() == Some("#timestamp");
            assert_eq!(has("last_modified"), !is_list);
            assert!(!is_list || matches!(item["signatures"], AttributeValue::S(_)));
        }
    }
    assert!(in_layers > 3);
}

#[tokio::test]
async fn a_publication_that_was_cut_short_is_settled_by_who_reads_the_stream() {
    for life in 0..7 {
        let signer = prepared().await;
        signer.set(tests::ALICE, "to-review").await.expect(200);
        // Nothing after the commit.
        let is_committed = AtomicBool::new(false);
        signer.kinto.aws.inject(move |target, _| {
            if is_committed.load(Ordering::SeqCst) {
                return Some(Fault::error("ResourceNotFoundException"));
            }
            is_committed.store(target.ends_with("TransactWriteItems"), Ordering::SeqCst);
            None
        });
        signer.set(tests::BOB, "to-sign").await.expect(200);
        signer.kinto.aws.clear_faults();
        let aggregator = aggregator(&signer);
        let shown = shown(&signer);
        assert!(list_attribute(&signer, DESTINATION, "layer").is_some());
        // It may die as well; then the stream gives the batch again.
        let left = AtomicU64::new(life);
        signer.kinto.aws.inject(move |target, _| {
            if !target.starts_with("DynamoDB") {
                return None;
            }
            let spent = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            spent
                .err()
                .map(|_| Fault::error("ResourceNotFoundException"))
        });
        let answer = aggregator.handle(shown.clone()).await;
        signer.kinto.aws.clear_faults();
        assert_eq!(answer.batch_item_failures.len(), 1, "after {life} requests");
        assert_eq!(signer.verified(DESTINATION).await, ["a=2", "c=1", "d=2"]);
        for _ in 0..2 {
            let answer = aggregator.handle(shown.clone()).await;
            assert!(answer.batch_item_failures.is_empty());
            assert_eq!(list_attribute(&signer, DESTINATION, "layer"), None);
            assert_eq!(signer.verified(DESTINATION).await, ["a=2", "c=1", "d=2"]);
        }
        // What comes late settles nothing that is newer.
        signer.write(tests::ALICE, "a", 3).await.expect(200);
        signer.set(tests::ALICE, "to-review").await.expect(200);
        signer.set(tests::BOB, "to-sign").await.expect(200);
        aggregator.handle(shown).await;
        assert_eq!(signer.verified(DESTINATION).await, ["a=3", "c=1", "d=2"]);
    }
}

/// The stream's record of the item of the destination's list as it is now.
fn shown(signer: &Signer) -> Event {
    let key = json!({"pk": {"S": format!("{DESTINATION}#record")}, "sk": {"S": "#timestamp"}});
    let item = execute(&signer.kinto.aws, "GetItem", json!({"Key": key}))["Item"].clone();
    let mut record = changed(1, "news", 1);
    record["dynamodb"]["Keys"] = key;
    record["dynamodb"]["NewImage"] = item;
    serde_json::from_value(json!({"Records": [record]})).unwrap()
}

/// The aggregator of a server.
fn aggregator(signer: &Signer) -> Aggregator {
    let settings = tests::settings(&[]);
    let aws = &signer.kinto.aws;
    Aggregator::new(
        Store::new(aws.dynamodb(), TABLE),
        BroadcastQueue::new(aws.sqs(), aws.queue_url()),
        settings.changes,
        settings.broadcasts,
        vec![],
    )
}

/// Has `rival` act once, before the request to the table that is the `at`-th of others.
fn once(
    signer: &Signer,
    at: u64,
    counts: impl Fn(&str) -> bool + Send + Sync + 'static,
    rival: impl AsyncFn() + Send + Sync + Clone + 'static,
) {
    let (count, busy) = (AtomicU64::new(0), AtomicBool::new(false));
    signer.kinto.aws.inject(move |target, _| {
        if busy.load(Ordering::SeqCst) || !counts(target) {
            return None;
        }
        if count.fetch_add(1, Ordering::SeqCst) == at {
            busy.store(true, Ordering::SeqCst);
            let rival = rival.clone();
            let thread = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = { runtime }.enable_all().build().unwrap();
                runtime.block_on(rival());
            });
            thread.join().unwrap();
        }
        None
    });
}

/// The records of the source as `id=n`, sorted.
async fn source_records(signer: &Signer) -> Vec<String> {
    let listed = signer
        .kinto
        .get(&format!("{SOURCE}/records?_sort=id"))
        .await
        .expect(200);
    let listed = listed["data"].as_array().unwrap().iter();
    let records = listed.map(|it| format!("{}={}", it["id"].as_str().unwrap(), it["n"]));
    records.collect()
}

#[tokio::test]
async fn what_is_under_review_is_what_the_preview_shows_whoever_edits_meanwhile() {
    let edit = json!({"data": {"n": 7}});
    let request = json!({"data": {"status": "to-review"}});
    let mut under_review = 0;
    for at in 0..12 {
        for is_edit_first in [true, false] {
            // Alice edits already: her edits write nothing but the record and its list.
            let signer = prepared().await;
            let rival = signer.restarted(WITH_PREVIEW, "true");
            let (edit, request) = (edit.clone(), request.clone());
            let record = format!("{SOURCE}/records/a");
            if is_edit_first {
                let body = request.clone();
                once(
                    &signer,
                    at,
                    |_| true,
                    async move || {
                        rival.patch(SOURCE, body.clone()).await.expect(200);
                    },
                );
                signer.kinto.put(&record, edit).await.expect(200);
            } else {
                once(
                    &signer,
                    at,
                    |_| true,
                    async move || {
                        rival.put(&record, edit.clone()).await.expect(200);
                    },
                );
                signer.kinto.patch(SOURCE, request).await.expect(200);
            }
            signer.kinto.aws.clear_faults();
            if signer.status().await == "to-review" {
                under_review += 1;
                assert_eq!(
                    signer.verified(PREVIEW).await,
                    source_records(&signer).await
                );
            }
        }
    }
    assert!(under_review > 5);
}

#[tokio::test]
async fn who_settles_late_overwrites_nothing_that_is_newer() {
    // Before each object that it puts in its place.
    for at in 0..3 {
        let signer = prepared().await;
        signer.set(tests::ALICE, "to-review").await.expect(200);
        let is_committed = AtomicBool::new(false);
        signer.kinto.aws.inject(move |target, _| {
            let is_over = is_committed.load(Ordering::SeqCst);
            is_committed.fetch_or(target.ends_with("TransactWriteItems"), Ordering::SeqCst);
            is_over.then(|| Fault::error("ResourceNotFoundException"))
        });
        signer.set(tests::BOB, "to-sign").await.expect(200);
        signer.kinto.aws.clear_faults();
        let name = list_attribute(&signer, DESTINATION, "layer").unwrap();
        let size = list_attribute(&signer, DESTINATION, "layer_size").unwrap();
        let layer = Layer {
            name: name["S"].as_str().unwrap().to_owned(),
            size: size["N"].as_str().unwrap().parse().unwrap(),
        };
        let rival = signer.clone();
        once(
            &signer,
            at,
            |target| target.ends_with("PutItem"),
            async move || {
                for (id, n) in [("a", 3), ("b", 3), ("d", 3)] {
                    rival.write(tests::ALICE, id, n).await;
                }
                rival.set(tests::ALICE, "to-review").await.expect(200);
                rival.set(tests::BOB, "to-sign").await.expect(200);
            },
        );
        let collection = DESTINATION
            .trim_start_matches('/')
            .split('/')
            .collect::<Vec<_>>();
        let list = ObjectUri::collection(collection[1], collection[3]).children(Kind::Record);
        let store = Store::new(signer.kinto.aws.dynamodb(), TABLE);
        store.settle_layer(&list, &layer).await.unwrap();
        signer.kinto.aws.clear_faults();
        assert_eq!(
            signer.verified(DESTINATION).await,
            ["a=3", "b=3", "c=1", "d=3"]
        );
    }
}

#[tokio::test]
async fn a_client_follows_over_a_publication_that_nobody_has_settled_yet() {
    let signer = prepared().await;
    signer.set(tests::ALICE, "to-review").await.expect(200);
    let is_committed = AtomicBool::new(false);
    signer.kinto.aws.inject(move |target, _| {
        let is_over = is_committed.load(Ordering::SeqCst);
        is_committed.fetch_or(target.ends_with("TransactWriteItems"), Ordering::SeqCst);
        is_over.then(|| Fault::error("ResourceNotFoundException"))
    });
    signer.set(tests::BOB, "to-sign").await.expect(200);
    signer.kinto.aws.clear_faults();
    let path = format!("{DESTINATION}/changeset?_expected=0");
    let known = signer.kinto.get(&path).await.expect(200);
    // All is as it was before.
    signer.write(tests::ALICE, "a", 1).await.expect(200);
    signer.write(tests::ALICE, "b", 1).await.expect(201);
    signer
        .kinto
        .delete(&format!("{SOURCE}/records/d"))
        .await
        .expect(200);
    signer.set(tests::ALICE, "to-review").await.expect(200);
    signer.set(tests::BOB, "to-sign").await.expect(200);
    let path = format!("{path}&_since={}", known["timestamp"]);
    let mut changeset = signer.kinto.get(&path).await.expect(200);
    let mut records = known["changes"].as_array().unwrap().clone();
    let changes = changeset["changes"].as_array().unwrap();
    records.retain(|record| changes.iter().all(|it| it["id"] != record["id"]));
    records.extend(changes.iter().filter(|it| it["deleted"] != true).cloned());
    changeset["changes"] = json!(records);
    signer.check(&changeset);
    assert_eq!(signer.verified(DESTINATION).await, ["a=1", "b=1", "c=1"]);
}

#[tokio::test]
async fn a_large_publication_is_shown_before_all_of_it_is_in_its_place() {
    shown_before_it_is_in_its_place(525, 2).await;
}

#[tokio::test]
async fn so_is_one_whose_layer_lies_in_several_partitions() {
    shown_before_it_is_in_its_place(2_100, 6).await;
}

/// Publishes so many new records, whose layer is settled in so many steps.
async fn shown_before_it_is_in_its_place(records: u64, steps_to_settle: u64) {
    let signer = Signer::with(WITHOUT_PREVIEW, "false").await;
    let count = records as usize;
    for start in (0..records).step_by(25) {
        let put = |n: u64| json!({"method": "PUT", "path": format!("{SOURCE}/records/r{n}"), "body": {"data": {"n": n}}});
        batch(&signer.kinto, (start..start + 25).map(put).collect())
            .await
            .expect(200);
    }
    signer.set(tests::ALICE, "to-sign").await.expect(200);
    assert!(list_attribute(&signer, DESTINATION, "layer").is_some());
    let path = format!("{DESTINATION}/records?_limit=10");
    for is_settled in [false, true] {
        assert_eq!(signer.verified(DESTINATION).await.len(), count);
        let other = signer.restarted(WITHOUT_PREVIEW, "false");
        assert_eq!(signer.verify(&other, DESTINATION).await.len(), count);
        let limited = format!("{DESTINATION}/changeset?_expected=0&_limit=3");
        let limited = other.get(&limited).await.expect(200);
        assert_eq!(limited["changes"].as_array().unwrap().len(), 3);
        let page = other.get(&path).await;
        assert_eq!(tests::ids(&page).len(), 10);
        let head = other
            .send("HEAD", &format!("{DESTINATION}/records"), &[], "")
            .await;
        assert_eq!(head.header("total-objects"), records.to_string());
        let record = other
            .get(&format!("{DESTINATION}/records/r7"))
            .await
            .expect(200);
        assert_eq!(record["data"]["n"], 7);
        let is_there = list_attribute(&signer, DESTINATION, "layer").is_some();
        assert_eq!(is_there, !is_settled);
        // Each step writes the list's item, of which the stream tells.
        let mut steps = 0;
        while list_attribute(&signer, DESTINATION, "layer").is_some() {
            let answer = aggregator(&signer).handle(shown(&signer)).await;
            assert!(answer.batch_item_failures.is_empty());
            assert_eq!(signer.verified(DESTINATION).await.len(), count);
            steps += 1;
        }
        assert_eq!(steps, if is_settled { 0 } else { steps_to_settle });
    }
    let placed = list_attribute(&signer, DESTINATION, "layer_placed");
    assert_eq!(placed, None);
}
