//! `ResourceChanged`: what is told of a write, before the commit and after it, and what of it survives any failure.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use kinto_local::Fault;
use kinto_local::sqs::{self, NOTIFICATIONS};
use kinto_local::stream::{self, Mapping};
use kinto_serverless::event::ResourceChanged;
use kinto_serverless::listeners::{Listener, Listeners, NotifyError};
use kinto_serverless::notifier::Notifier;
use kinto_serverless::queue::{Inbox, NotificationQueue};
use kinto_serverless::settings::{ListenerSettings, Vars};
use kinto_serverless::store::Store;
use proptest::prelude::*;
use serde_json::{Value, json};
use tests::{BOB, Kinto, NOBODY, TABLE, cases, nested};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// A listener that writes down what it hears, and answers what it is to answer.
#[derive(Clone, Default)]
struct Recorder {
    heard: Arc<Mutex<Vec<ResourceChanged>>>,
    answer: Arc<Mutex<Option<NotifyError>>>,
    /// How many times more it answers so; for ever when it is `usize::MAX`.
    times: Arc<AtomicUsize>,
    hangs: Arc<AtomicBool>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recorder")
    }
}

impl Listener for Recorder {
    fn notify<'a>(&'a self, event: &'a ResourceChanged) -> BoxFuture<'a, Result<(), NotifyError>> {
        Box::pin(async {
            if self.hangs.load(Ordering::SeqCst) {
                sleep(Duration::from_secs(3600)).await;
            }
            let left = self.times.load(Ordering::SeqCst);
            if left > 0 {
                if left != usize::MAX {
                    self.times.store(left - 1, Ordering::SeqCst);
                }
                if let Some(error) = self.answer.lock().unwrap().clone() {
                    return Err(error);
                }
            }
            self.heard.lock().unwrap().push(event.clone());
            Ok(())
        })
    }
}

impl Recorder {
    fn heard(&self) -> Vec<ResourceChanged> {
        self.heard.lock().unwrap().clone()
    }

    /// What it heard since the last time, as JSON without what is never the same.
    fn take(&self) -> Vec<Value> {
        let heard = std::mem::take(&mut *self.heard.lock().unwrap());
        let plain = heard.into_iter().map(|event| {
            let mut json = serde_json::to_value(event).unwrap();
            for field in ["id", "date"] {
                assert!(json.as_object_mut().unwrap().shift_remove(field).is_some());
            }
            json
        });
        plain.collect()
    }

    fn answers(&self, error: NotifyError, times: usize) {
        *self.answer.lock().unwrap() = Some(error);
        self.times.store(times, Ordering::SeqCst);
    }
}

fn refused() -> NotifyError {
    NotifyError::Refused {
        status: 403,
        message: "Not on a Sunday".to_owned(),
    }
}

/// The settings of a listener `a`, and of others that come after it.
fn listeners(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let mut vars = vec![
        ("KINTO_EVENT_LISTENERS", "a"),
        ("KINTO_EVENT_LISTENERS_A_USE", "recorder"),
    ];
    vars.extend(more);
    vars
}

fn settings_of(vars: &[(&str, &str)]) -> Vec<ListenerSettings> {
    let vars: Vars = vars.iter().copied().collect();
    ListenerSettings::from_vars(&vars).unwrap()
}

/// An API with a listener that is told before the commit.
fn asked_before(more: &[(&'static str, &'static str)]) -> (Kinto, Recorder) {
    let mut vars = listeners(&[("KINTO_EVENT_LISTENERS_A_SYNCHRONOUS", "true")]);
    vars.extend(more);
    let recorder = Recorder::default();
    let listeners = settings_of(&vars)
        .into_iter()
        .map(|settings| (settings, Arc::new(recorder.clone()) as Arc<dyn Listener>));
    (Kinto::with_listeners(&vars, listeners.collect()), recorder)
}

const COLLECTION: &str = "/buckets/main/collections/one";

/// The same with the bucket `main` and its collection `one`, of which nothing is told any more.
async fn with_collection(more: &[(&'static str, &'static str)]) -> (Kinto, Recorder) {
    let (kinto, recorder) = asked_before(more);
    assert_eq!(kinto.put("/buckets/main", json!({})).await.status, 201);
    assert_eq!(kinto.put(COLLECTION, json!({})).await.status, 201);
    recorder.take();
    kinto.aws.requests().take();
    (kinto, recorder)
}

async fn user_id(kinto: &Kinto) -> String {
    kinto.get("/").await.body["user"]["id"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn a_creation_an_update_and_a_deletion_tell_what_was_and_what_is() {
    let (kinto, recorder) = with_collection(&[]).await;
    let user = user_id(&kinto).await;
    let uri = format!("{COLLECTION}/records/r");
    let payload = |action: &str, timestamp: u64, impacted: Value| {
        json!([{
            "timestamp": timestamp, "action": action, "uri": uri, "user_id": user, "resource_name": "record",
            "bucket_id": "main", "collection_id": "one", "record_id": "r",
            "impacted_records": [impacted], "impacted_uris": [uri],
        }])
    };
    let first = kinto
        .put(&uri, json!({"data": {"n": 1}}))
        .await
        .last_modified();
    let new = json!({"n": 1, "id": "r", "last_modified": first});
    assert_eq!(
        json!(recorder.take()),
        payload("create", first, json!({"new": new}))
    );

    let second = kinto
        .patch(&uri, json!({"data": {"m": 2}}))
        .await
        .last_modified();
    let newer = json!({"n": 1, "m": 2, "id": "r", "last_modified": second});
    assert_eq!(
        json!(recorder.take()),
        payload("update", second, json!({"new": newer, "old": new}))
    );

    let third = kinto.delete(&uri).await.last_modified();
    let tombstone = json!({"deleted": true, "id": "r", "last_modified": third});
    assert_eq!(
        json!(recorder.take()),
        payload("delete", third, json!({"new": tombstone, "old": newer}))
    );
}

#[tokio::test]
async fn a_request_to_a_list_has_the_lists_uri_and_no_id_of_a_record() {
    let (kinto, recorder) = with_collection(&[]).await;
    let records = format!("{COLLECTION}/records");
    let posted = kinto.post(&records, json!({"data": {"id": "a"}})).await;
    assert_eq!(posted.status, 201);
    kinto.post(&records, json!({"data": {"id": "b"}})).await;
    recorder.take();
    // There is nothing new to tell of.
    assert_eq!(
        kinto
            .post(&records, json!({"data": {"id": "a"}}))
            .await
            .status,
        200
    );
    assert_eq!(recorder.take(), Vec::<Value>::new());

    let deleted = kinto.delete(&records).await;
    let timestamp: u64 = deleted.header("etag").trim_matches('"').parse().unwrap();
    let told = recorder.take();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["uri"], records);
    assert_eq!(told[0].get("record_id"), None);
    assert_eq!(told[0]["timestamp"], timestamp);
    assert_eq!(told[0]["impacted_records"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_batch_is_one_event_for_each_list_and_action_in_the_order_in_which_they_began() {
    let (kinto, recorder) = with_collection(&[]).await;
    let put =
        |path: &str, n: u64| json!({"method": "PUT", "path": path, "body": {"data": {"n": n}}});
    let (a, b) = (
        format!("{COLLECTION}/records/a"),
        format!("{COLLECTION}/records/b"),
    );
    let requests = json!([
        put(&a, 1),
        put("/buckets/main/collections/two", 1),
        put(&a, 2),
        put("/buckets/main/collections/two/records/x", 1),
        put(&b, 1),
        {"method": "PUT", "path": "/buckets/nowhere/collections/c/records/x"},
        {"method": "DELETE", "path": a},
    ]);
    let answer = kinto.post("/batch", json!({"requests": requests})).await;
    assert_eq!(answer.status, 200);
    let told = recorder.take();
    let events: Vec<_> = told
        .iter()
        .map(|event| {
            let uris = event["impacted_uris"].as_array().unwrap();
            (
                event["action"].as_str().unwrap(),
                event["uri"].as_str().unwrap(),
                uris.len(),
            )
        })
        .collect();
    assert_eq!(
        events,
        [
            ("create", &*a, 2),
            ("create", "/buckets/main/collections/two", 1),
            ("update", &*a, 1),
            ("create", "/buckets/main/collections/two/records/x", 1),
            ("delete", &*a, 1),
        ]
    );
    // Each saw what the ones before it had written.
    assert_eq!(told[2]["impacted_records"][0]["old"]["n"], 1);
    assert_eq!(told[4]["impacted_records"][0]["old"]["n"], 2);
}

#[tokio::test]
async fn each_kind_of_object_is_told_of_and_whoever_writes() {
    let (kinto, recorder) = with_collection(&[]).await;
    let everyone = json!({"permissions": {"write": ["system.Everyone"]}});
    kinto.patch("/buckets/main", everyone).await;
    kinto
        .put("/buckets/main/groups/g", json!({"data": {"members": []}}))
        .await;
    kinto
        .as_user(NOBODY)
        .put("/buckets/main/groups/h", json!({"data": {"members": []}}))
        .await;
    let told = recorder.take();
    let kinds: Vec<_> = told.iter().map(|event| &event["resource_name"]).collect();
    assert_eq!(kinds, ["bucket", "group", "group"]);
    assert_eq!(told[0]["bucket_id"], "main");
    assert_eq!(told[1]["group_id"], "g");
    assert_eq!(told[2]["user_id"], Value::Null);
    assert!(
        told.iter()
            .all(|event| !event.to_string().contains("permissions"))
    );
}

#[tokio::test]
async fn an_accounts_password_is_not_told_hashed_or_not() {
    let (kinto, recorder) = asked_before(&[
        ("KINTO_INCLUDES", "kinto.plugins.accounts"),
        ("KINTO_MULTIAUTH_POLICIES", "account"),
        (
            "KINTO_MULTIAUTH_POLICY_ACCOUNT_USE",
            "kinto.plugins.accounts.AccountsPolicy",
        ),
        ("KINTO_ACCOUNT_CREATE_PRINCIPALS", "system.Everyone"),
    ]);
    let account = json!({"data": {"password": "hush hush", "name": "A"}});
    assert_eq!(
        kinto
            .as_user(NOBODY)
            .put("/accounts/a", account)
            .await
            .status,
        201
    );
    let told = recorder.take();
    assert_eq!(told[0]["account_id"], "a");
    assert_eq!(told[0]["impacted_records"][0]["new"]["name"], "A");
    assert!(!told[0].to_string().contains("password"));
}

#[tokio::test]
async fn what_the_default_bucket_creates_by_itself_is_told_as_if_it_had_been_put() {
    let (kinto, recorder) = asked_before(&[("KINTO_INCLUDES", "kinto.plugins.default_bucket")]);
    let answer = kinto
        .put("/buckets/default/collections/c/records/r", json!({}))
        .await;
    assert_eq!(answer.status, 201);
    let told = recorder.take();
    let uris: Vec<_> = told
        .iter()
        .map(|event| event["uri"].as_str().unwrap())
        .collect();
    let bucket = uris[0];
    let (collection, record) = (
        format!("{bucket}/collections/c"),
        format!("{bucket}/collections/c/records/r"),
    );
    assert_eq!(uris, [bucket, &collection, &record]);
    assert!(told.iter().all(|event| event["action"] == "create"));
}

#[tokio::test]
async fn what_is_refused_and_what_is_read_is_not_told() {
    let (kinto, recorder) = with_collection(&[]).await;
    let uri = format!("{COLLECTION}/records/r");
    assert_eq!(kinto.get(COLLECTION).await.status, 200);
    assert_eq!(kinto.as_user(BOB).put(&uri, json!({})).await.status, 403);
    assert_eq!(kinto.put(&uri, json!({"data": 1})).await.status, 400);
    assert_eq!(kinto.delete(&uri).await.status, 404);
    kinto.aws.inject(|target, _| {
        target
            .ends_with(".TransactWriteItems")
            .then(|| Fault::error("ValidationException"))
    });
    assert_eq!(kinto.put(&uri, json!({})).await.status, 500);
    kinto.aws.heal();
    // The last one was asked for before it failed; after a commit that fails, nobody is told.
    assert_eq!(recorder.take().len(), 1);
}

#[tokio::test]
async fn a_listener_that_is_asked_before_can_refuse_and_then_nothing_is_written() {
    let (kinto, recorder) =
        with_collection(&[("KINTO_EVENT_LISTENERS_A_RESOURCES", "record")]).await;
    recorder.answers(refused(), usize::MAX);
    let uri = format!("{COLLECTION}/records/r");
    let answer = kinto.put(&uri, json!({})).await;
    assert_eq!(answer.error(), (403, 121));
    assert_eq!(answer.body["message"], "Not on a Sunday");
    assert_eq!(kinto.get(&uri).await.status, 404);

    // A batch as a whole: what its listener has nothing against, too.
    let requests = json!([
        {"method": "PUT", "path": "/buckets/main/collections/two"},
        {"method": "PUT", "path": uri},
    ]);
    let answer = kinto.post("/batch", json!({"requests": requests})).await;
    assert_eq!(answer.error(), (403, 121));
    assert_eq!(kinto.get("/buckets/main/collections/two").await.status, 404);
    // Of what it does not hear of, it is not asked.
    assert_eq!(
        kinto
            .put("/buckets/main/collections/two", json!({}))
            .await
            .status,
        201
    );
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_does_not_answer_in_time_or_fails_has_nothing_written() {
    let (kinto, recorder) =
        with_collection(&[("KINTO_EVENT_LISTENERS_A_TIMEOUT_SECONDS", "3")]).await;
    let uri = format!("{COLLECTION}/records/r");
    recorder.hangs.store(true, Ordering::SeqCst);
    let begin = Instant::now();
    let answer = kinto.put(&uri, json!({})).await;
    assert_eq!(answer.error(), (503, 201));
    assert_eq!(answer.header("retry-after"), "3");
    assert_eq!(begin.elapsed().as_secs(), 3);
    recorder.hangs.store(false, Ordering::SeqCst);
    for error in [
        NotifyError::failed("down"),
        NotifyError::Gone("wrong".to_owned()),
    ] {
        recorder.answers(error, 1);
        assert_eq!(kinto.put(&uri, json!({})).await.error(), (503, 201));
    }
    assert_eq!(kinto.get(&uri).await.status, 404);
    assert_eq!(kinto.put(&uri, json!({})).await.status, 201);
}

/// The local parts of a stack with listeners that are told after the commit.
struct World {
    kinto: Kinto,
    recorders: BTreeMap<&'static str, Recorder>,
    notifier: Notifier,
    tasks: JoinSet<()>,
}

impl World {
    /// With the listeners `a` and `b`.
    async fn new() -> Self {
        let vars = [
            ("KINTO_EVENT_LISTENERS", "a b"),
            ("KINTO_EVENT_LISTENERS_A_USE", "recorder"),
            ("KINTO_EVENT_LISTENERS_B_USE", "recorder"),
            ("KINTO_EVENT_LISTENERS_A_RESOURCES", "record"),
            ("KINTO_EVENT_LISTENERS_B_RESOURCES", "record"),
        ];
        let kinto = Kinto::with(&vars);
        for path in ["/buckets/main", COLLECTION, "/buckets/main/collections/two"] {
            assert_eq!(kinto.put(path, json!({})).await.status, 201);
        }
        let recorders = BTreeMap::from([("a", Recorder::default()), ("b", Recorder::default())]);
        let listeners: Listeners = settings_of(&vars)
            .into_iter()
            .map(|settings| {
                let recorder = recorders[&*settings.name].clone();
                (settings, Arc::new(recorder) as Arc<dyn Listener>)
            })
            .collect();
        let (url, dead) = (sqs::url(NOTIFICATIONS), sqs::dead_letter_url(NOTIFICATIONS));
        let notifier = Notifier::new(
            Store::new(kinto.aws.dynamodb(), TABLE),
            NotificationQueue::new(kinto.aws.sqs(), &*url),
            Inbox::new(kinto.aws.sqs(), url, dead),
            listeners,
        );
        kinto.aws.requests().take();
        Self {
            kinto,
            recorders,
            notifier,
            tasks: JoinSet::new(),
        }
    }

    /// Has stream and queue delivered to the notifier from now on; where `kills` says so, it is killed in the end.
    fn consuming(mut self, kills: impl Fn() -> bool + Clone + Send + Sync + 'static) -> Self {
        let (notifier, dies) = (self.notifier.clone(), kills.clone());
        let mapping = Mapping::of_notifier(move |event| {
            let (notifier, dies) = (notifier.clone(), dies.clone());
            async move {
                let response = notifier.enqueue(event).await;
                assert!(!dies(), "killed on purpose");
                response
            }
        });
        let aws = &self.kinto.aws;
        self.tasks.spawn(stream::consume(
            aws.clone(),
            TABLE.to_owned(),
            vec![mapping],
        ));
        let notifier = self.notifier.clone();
        let queue = aws.queues().notifications.clone();
        self.tasks.spawn(queue.consume(move |event| {
            let (notifier, dies) = (notifier.clone(), kills.clone());
            async move {
                let response = notifier.deliver(event).await;
                assert!(!dies(), "killed on purpose");
                response
            }
        }));
        self
    }

    async fn write(&self, collection: &str, n: usize) {
        let uri = format!("/buckets/main/collections/{collection}/records/r{n}");
        assert_eq!(
            self.kinto.put(&uri, json!({"data": {"n": n}})).await.status,
            201
        );
    }

    /// Waits until a listener heard of that many events that are not the same.
    async fn until(&self, listener: &str, count: usize) {
        let heard = async {
            loop {
                let ids: BTreeSet<_> = self.recorders[listener]
                    .heard()
                    .into_iter()
                    .map(|event| event.id)
                    .collect();
                if ids.len() >= count {
                    break;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(3600), heard)
            .await
            .unwrap();
    }

    /// The records that a listener heard of in a collection, in the order in which it first did.
    fn order(&self, listener: &str, collection: &str) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let heard = self.recorders[listener].heard().into_iter();
        heard
            .filter(|event| {
                event.ids["collection_id"] == collection && seen.insert(event.id.clone())
            })
            .map(|event| event.ids["record_id"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn listeners_are_told_after_the_commit_in_the_order_of_each_collection() {
    let world = World::new().await.consuming(|| false);
    for n in 0..20 {
        world.write(if n % 3 == 0 { "two" } else { "one" }, n).await;
    }
    let expected = |of: fn(usize) -> bool| -> Vec<_> {
        (0..20)
            .filter(|n| of(*n))
            .map(|n| format!("r{n}"))
            .collect()
    };
    for listener in ["a", "b"] {
        world.until(listener, 20).await;
        assert_eq!(world.order(listener, "two"), expected(|n| n % 3 == 0));
        assert_eq!(world.order(listener, "one"), expected(|n| n % 3 != 0));
    }
}

#[tokio::test(start_paused = true)]
async fn data_as_deep_as_it_may_be_reaches_a_listener() {
    let world = World::new().await.consuming(|| false);
    let body = json!({"data": nested(100)});
    let uri = format!("{COLLECTION}/records/r0");
    assert_eq!(world.kinto.put(&uri, body).await.status, 201);
    world.until("a", 1).await;
    let event = serde_json::to_value(&world.recorders["a"].heard()[0]).unwrap();
    assert_eq!(event["impacted_records"][0]["new"]["a"], nested(99));
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_is_down_holds_up_no_other_and_misses_nothing() {
    let world = World::new().await.consuming(|| false);
    world.recorders["a"].answers(NotifyError::failed("down"), 12);
    for n in 0..5 {
        world.write("one", n).await;
    }
    let begin = Instant::now();
    world.until("b", 5).await;
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "{:?}",
        begin.elapsed()
    );
    assert!(world.recorders["a"].heard().is_empty());
    world.until("a", 5).await;
    assert_eq!(world.order("a", "one"), ["r0", "r1", "r2", "r3", "r4"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_listener_will_never_take_goes_to_the_dead_letters_and_comes_from_there_again() {
    let world = World::new().await.consuming(|| false);
    world.recorders["a"].answers(NotifyError::Gone("410".to_owned()), 3);
    world.write("one", 0).await;
    world.write("one", 1).await;
    world.until("a", 1).await;
    assert_eq!(world.order("a", "one"), ["r1"]);
    let queue = &world.kinto.aws.queues().notifications;
    assert_eq!(queue.dead_letters().len(), 1);
    queue.redrive();
    world.until("a", 2).await;
    assert_eq!(world.order("a", "one"), ["r1", "r0"]);
}

#[tokio::test]
async fn a_write_that_nobody_waits_for_costs_what_it_cost_without_listeners() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = async |kinto: &Kinto, uri: &str| {
        let items = Arc::clone(&count);
        kinto.aws.inject(move |target, body| {
            if target.ends_with(".TransactWriteItems") {
                let body: Value = serde_json::from_slice(body).unwrap();
                items.store(
                    body["TransactItems"].as_array().unwrap().len(),
                    Ordering::SeqCst,
                );
            }
            None
        });
        kinto.aws.requests().take();
        assert_eq!(kinto.put(uri, json!({})).await.status, 201);
        (kinto.aws.requests().take(), count.load(Ordering::SeqCst))
    };
    let plain = Kinto::with_collection().await;
    let uri = format!("{COLLECTION}/records/r");
    let without = counted(&plain, &uri).await;
    assert_eq!((without.0.values().sum::<u64>(), without.1), (2, 2));

    let world = World::new().await;
    // Nobody waits for buckets.
    let requests = counted(&world.kinto, "/buckets/other").await;
    assert_eq!(requests, counted(&plain, "/buckets/other").await);
    // One item more, in the same transaction.
    let (requests, items) = counted(&world.kinto, &uri).await;
    assert_eq!((requests, items), (without.0, without.1 + 1));
}

#[tokio::test(start_paused = true)]
async fn the_deletion_of_a_long_list_tells_of_each_record_once() {
    let world = World::new().await.consuming(|| false);
    for chunk in 0..10 {
        let put = |n: usize| {
            let path = format!("{COLLECTION}/records/r{}", chunk * 25 + n);
            json!({"method": "PUT", "path": path})
        };
        let requests: Vec<_> = (0..25).map(put).collect();
        assert_eq!(
            world
                .kinto
                .post("/batch", json!({"requests": requests}))
                .await
                .status,
            200
        );
    }
    world.until("a", 10).await;
    world.recorders["a"].take();
    assert_eq!(
        world
            .kinto
            .delete(&format!("{COLLECTION}/records"))
            .await
            .status,
        200
    );
    world.until("a", 3).await;
    let heard = world.recorders["a"].heard();
    let uris: Vec<_> = heard
        .iter()
        .flat_map(|event| &event.impacted_uris)
        .collect();
    assert_eq!(
        (uris.len(), uris.iter().collect::<BTreeSet<_>>().len()),
        (250, 250)
    );
    assert!(heard.iter().all(|event| event.action.name() == "delete"));
}

#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// A write to one of the collections.
    Write(bool),
    /// The next so many requests of these operations fail.
    Fails(&'static str, usize),
    /// The answer to the next so many requests is lost.
    AnswersLost(&'static str, usize),
    /// The notifier is killed the next so many times that it is done.
    Killed(usize),
    /// The first listener is down for so many attempts.
    Down(usize),
    /// Time goes by, in seconds.
    Wait(u64),
}

fn trouble() -> impl Strategy<Value = Trouble> {
    let operation = || {
        prop_oneof![
            Just("SendMessage"),
            Just("Query"),
            Just("ChangeMessageVisibility")
        ]
    };
    prop_oneof![
        6 => any::<bool>().prop_map(Trouble::Write),
        1 => (operation(), 1..4_usize).prop_map(|(operation, n)| Trouble::Fails(operation, n)),
        1 => (operation(), 1..4_usize).prop_map(|(operation, n)| Trouble::AnswersLost(operation, n)),
        1 => (1..4_usize).prop_map(Trouble::Killed),
        1 => (1..6_usize).prop_map(Trouble::Down),
        1 => (0..400_u64).prop_map(Trouble::Wait),
    ]
}

fn take_one(count: &AtomicUsize) -> bool {
    count
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
        .is_ok()
}

async fn nothing_is_lost(troubles: Vec<Trouble>) {
    let kills = Arc::new(AtomicUsize::new(0));
    let killing = Arc::clone(&kills);
    let world = World::new().await.consuming(move || take_one(&killing));
    let faults: Arc<Mutex<BTreeMap<(&str, bool), usize>>> = Arc::default();
    let injected = Arc::clone(&faults);
    world.kinto.aws.inject(move |target, _| {
        let mut faults = injected.lock().unwrap();
        for ((operation, lost), count) in faults.iter_mut() {
            if target.ends_with(&format!(".{operation}")) && *count > 0 {
                *count -= 1;
                return Some(if *lost {
                    Fault::AnswerLost
                } else {
                    Fault::Unreached
                });
            }
        }
        None
    });
    let mut written = BTreeMap::<_, Vec<String>>::new();
    for (n, trouble) in troubles.into_iter().enumerate() {
        match trouble {
            Trouble::Write(second) => {
                let collection = if second { "two" } else { "one" };
                world.write(collection, n).await;
                written.entry(collection).or_default().push(format!("r{n}"));
            }
            Trouble::Fails(operation, n) => {
                faults.lock().unwrap().insert((operation, false), n);
            }
            Trouble::AnswersLost(operation, n) => {
                faults.lock().unwrap().insert((operation, true), n);
            }
            Trouble::Killed(n) => kills.store(n, Ordering::SeqCst),
            Trouble::Down(n) => world.recorders["a"].answers(NotifyError::failed("down"), n),
            Trouble::Wait(seconds) => sleep(Duration::from_secs(seconds)).await,
        }
    }
    let count: usize = written.values().map(Vec::len).sum();
    for listener in ["a", "b"] {
        world.until(listener, count).await;
        for (collection, records) in &written {
            assert_eq!(
                world.order(listener, collection),
                *records,
                "{listener} {collection}"
            );
        }
    }
    assert!(
        world
            .kinto
            .aws
            .queues()
            .notifications
            .dead_letters()
            .is_empty()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(24), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_fails_each_listener_hears_of_every_write_in_order(troubles in prop::collection::vec(trouble(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(nothing_is_lost(troubles));
    }
}
