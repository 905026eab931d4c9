//! `ResourceChanged`: what is told of a write, before the commit and after it, and what of it survives any failure.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lambda_events::dynamodb::{Event, EventRecord};
use aws_lambda_events::streams::DynamoDbEventResponse;
use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::BoxFuture;
use kinto_local::Fault;
use kinto_local::sqs::{self, NOTIFICATIONS};
use kinto_local::stream::{self, Mapping};
use kinto_serverless::event::ResourceChanged;
use kinto_serverless::listeners::{Listener, Listeners, NotifyError};
use kinto_serverless::notifier::Notifier;
use kinto_serverless::queue::{Inbox, NotificationQueue};
use kinto_serverless::resource::ObjectUri;
use kinto_serverless::settings::{ListenerSettings, Vars};
use kinto_serverless::store::outbox::EntryId;
use kinto_serverless::store::{Item, Store};
use kinto_serverless::timestamp::Timestamp;
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
    /// With the listeners `a` and `b` of records, and two collections.
    async fn new() -> Self {
        let world = Self::of("record");
        for path in ["/buckets/main", COLLECTION, "/buckets/main/collections/two"] {
            assert_eq!(world.kinto.put(path, json!({})).await.status, 201);
        }
        world.kinto.aws.requests().take();
        world
    }

    /// With the listeners `a` and `b` of these kinds.
    fn of(kinds: &str) -> Self {
        let vars = [
            ("KINTO_EVENT_LISTENERS", "a b"),
            ("KINTO_EVENT_LISTENERS_A_USE", "recorder"),
            ("KINTO_EVENT_LISTENERS_B_USE", "recorder"),
            ("KINTO_EVENT_LISTENERS_A_RESOURCES", kinds),
            ("KINTO_EVENT_LISTENERS_B_RESOURCES", kinds),
            ("KINTO_INCLUDES", "kinto.plugins.accounts"),
            ("KINTO_ACCOUNT_CREATE_PRINCIPALS", "system.Everyone"),
            ("KINTO_MULTIAUTH_POLICIES", "account basicauth"),
            (
                "KINTO_MULTIAUTH_POLICY_ACCOUNT_USE",
                "kinto.plugins.accounts.AccountsPolicy",
            ),
        ];
        let kinto = Kinto::with(&vars);
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
        self.delivering(kills)
    }

    /// Has the queue alone delivered.
    fn delivering(mut self, kills: impl Fn() -> bool + Clone + Send + Sync + 'static) -> Self {
        let notifier = self.notifier.clone();
        let queue = self.kinto.aws.queues().notifications.clone();
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

    /// What the stream brings to the notifier of all that was written.
    async fn stream(&self) -> Vec<EventRecord> {
        let records: Arc<Mutex<Vec<EventRecord>>> = Arc::default();
        let brought = Arc::clone(&records);
        let mapping = Mapping::of_notifier(move |event| {
            brought.lock().unwrap().extend(event.records);
            async { DynamoDbEventResponse::default() }
        });
        let aws = self.kinto.aws.clone();
        let reading = stream::consume(aws, TABLE.to_owned(), vec![mapping]);
        let _ = tokio::time::timeout(Duration::from_secs(1), reading).await;
        std::mem::take(&mut *records.lock().unwrap())
    }

    async fn enqueue(&self, records: &[EventRecord]) {
        let mut event = Event::default();
        event.records = records.to_vec();
        let response = self.notifier.enqueue(event).await;
        assert!(response.batch_item_failures.is_empty());
    }

    /// The items of the outbox under a partition key.
    async fn entries(&self, pk: &str) -> Vec<Item> {
        let query = self.kinto.aws.dynamodb().query().table_name(TABLE);
        let query = query.key_condition_expression("pk = :pk");
        let query = query.expression_attribute_values(":pk", AttributeValue::S(pk.to_owned()));
        query.send().await.unwrap().items.unwrap()
    }

    /// What a listener heard of under each parent, in the order in which it first did.
    fn order_by_parent(&self, listener: &str) -> BTreeMap<String, Vec<String>> {
        let mut seen = BTreeSet::new();
        let mut order = BTreeMap::<_, Vec<_>>::new();
        for event in self.recorders[listener].heard() {
            if seen.insert(event.id.clone()) {
                let uri = ObjectUri::parse(&event.impacted_uris[0]).unwrap();
                let parent = uri.parent().map(ToString::to_string).unwrap_or_default();
                order.entry(parent).or_default().push(uri.to_string());
            }
        }
        order
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

/// Where the entries of the collection `one` are.
const OUTBOX: &str = "#outbox##/buckets/main/collections/one";

#[tokio::test(start_paused = true)]
async fn an_entry_that_its_list_names_before_it_is_there_is_waited_for_and_what_follows_with_it() {
    let world = World::new().await;
    world.write("one", 0).await;
    let entry = world.entries(OUTBOX).await.remove(0);
    let entry = world
        .kinto
        .take_item(OUTBOX, entry["sk"].as_s().unwrap())
        .await;
    world.write("one", 1).await;
    world.write("two", 2).await;
    let world = world.consuming(|| false);
    world.until("a", 1).await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.order("a", "two"), ["r2"]);
    assert_eq!(world.order("a", "one"), Vec::<String>::new());
    world.kinto.put_item(entry).await;
    world.until("a", 3).await;
    assert_eq!(world.order("a", "one"), ["r0", "r1"]);
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

#[tokio::test(start_paused = true)]
async fn an_entry_that_has_expired_holds_nothing_up() {
    let world = World::new().await;
    let long_ago = Timestamp::now().0 - 15 * 24 * 3600 * 1000;
    let expired = EntryId {
        parent: "#/buckets/main/collections/one".to_owned(),
        id: format!("t{long_ago}-8000000000000000"),
    };
    let queue = NotificationQueue::new(world.kinto.aws.sqs(), sqs::url(NOTIFICATIONS));
    queue.request("a", &expired).await.unwrap();
    world.write("one", 1).await;
    let world = world.consuming(|| false);
    world.until("a", 1).await;
    assert_eq!(world.order("a", "one"), ["r1"]);
    assert_eq!(
        world.kinto.aws.queues().notifications.dead_letters().len(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_version_of_the_api_writes_is_told_too() {
    let world = World::new().await;
    world.write("one", 0).await;
    // It named the entry nowhere, and kept it elsewhere.
    let mut entry = world.entries(OUTBOX).await.remove(0);
    let pk = OUTBOX.replace("##", "#");
    let sk = "6f0c3b1e-8d55-4d4b-9a0e-0c6f2f0d1c5a#000";
    entry.insert("pk".to_owned(), AttributeValue::S(pk));
    entry.insert("sk".to_owned(), AttributeValue::S(sk.to_owned()));
    world.kinto.put_item(entry).await;
    let stream = world.stream().await;
    let told = |record: &&EventRecord| record.change.new_image.contains_key("entry");
    let (named, unnamed): (Vec<_>, Vec<_>) = stream.iter().partition(told);
    assert_eq!((named.len(), unnamed.len()), (1, 1), "{stream:?}");
    world.enqueue(&[unnamed[0].clone()]).await;
    let world = world.delivering(|| false);
    world.until("a", 1).await;
    assert_eq!(world.order("a", "one"), ["r0"]);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_an_earlier_version_of_the_api_writes_to_tells_nothing_twice() {
    let world = World::new().await;
    world.write("one", 0).await;
    let client = world.kinto.aws.dynamodb();
    let update = client.update_item().table_name(TABLE);
    update
        .key("pk", AttributeValue::S(format!("{COLLECTION}#record")))
        .key("sk", AttributeValue::S("#timestamp".to_owned()))
        .update_expression("SET #timestamp = :later")
        .expression_attribute_names("#timestamp", "timestamp")
        .expression_attribute_values(":later", AttributeValue::N("4000000000000".to_owned()))
        .send()
        .await
        .unwrap();
    let stream = world.stream().await;
    assert_eq!(stream.len(), 2);
    world.enqueue(&stream[1..]).await;
    assert!(world.kinto.aws.queues().notifications.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_the_filter_of_an_earlier_version_brings_is_told_once() {
    let world = World::new().await;
    world.write("one", 0).await;
    let entry = world.entries(OUTBOX).await.remove(0);
    let keys = json!({"pk": {"S": OUTBOX}, "sk": {"S": entry["sk"].as_s().unwrap()}});
    let mut inserted = serde_json::to_value(&world.stream().await[0]).unwrap();
    inserted["eventName"] = "INSERT".into();
    inserted["dynamodb"]["Keys"] = keys.clone();
    inserted["dynamodb"]["NewImage"] = keys;
    let inserted: EventRecord = serde_json::from_value(inserted).unwrap();
    world.enqueue(&[inserted]).await;
    assert_eq!(world.kinto.aws.queues().notifications.waiting().len(), 2);
    world.enqueue(&world.stream().await).await;
    assert_eq!(world.kinto.aws.queues().notifications.waiting().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_account_before_any_bucket_is_told_of_and_in_no_buckets_way() {
    let world = World::of("bucket account").consuming(|| false);
    let password = json!({"data": {"password": "hush hush"}});
    let anybody = world.kinto.as_user(NOBODY);
    assert_eq!(
        anybody.put("/accounts/a", password.clone()).await.status,
        201
    );
    let none = world.kinto.get("/buckets").await;
    assert_eq!((none.status, &none.body), (200, &json!({"data": []})));
    assert_eq!(
        world.kinto.put("/buckets/main", json!({})).await.status,
        201
    );
    assert_eq!(anybody.put("/accounts/b", password).await.status, 201);
    assert_eq!(
        world.kinto.get("/buckets").await.body["data"][0]["id"],
        "main"
    );
    world.until("a", 3).await;
    let told = ["/accounts/a", "/buckets/main", "/accounts/b"].map(str::to_owned);
    assert_eq!(world.order_by_parent("a")[""], told);
}

/// A write of the next object of that kind.
fn path_of(kind: usize, n: usize) -> String {
    match kind {
        0 => format!("{COLLECTION}/records/r{n}"),
        1 => format!("/buckets/main/collections/two/records/r{n}"),
        2 => format!("/buckets/main/groups/g{n}"),
        3 => format!("/buckets/main/collections/c{n}"),
        _ => format!("/buckets/b{n}"),
    }
}

/// Writes, and has the stream bring them as it may: the changes of each item in their order, those of different items in
/// any, in batches of which some come twice in a row.
async fn order_survives_the_stream(writes: Vec<Vec<usize>>, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::of("bucket group collection record");
    let mut written = BTreeMap::<_, Vec<String>>::new();
    let mut add = |uri: String| {
        let parent = ObjectUri::parse(&uri).unwrap();
        let parent = parent.parent().map(ToString::to_string).unwrap_or_default();
        written.entry(parent).or_default().push(uri);
    };
    for path in ["/buckets/main", COLLECTION, "/buckets/main/collections/two"] {
        assert_eq!(world.kinto.put(path, json!({})).await.status, 201);
        add(path.to_owned());
    }
    for (n, kinds) in writes.into_iter().enumerate() {
        let kinds: BTreeSet<_> = kinds.into_iter().collect();
        let paths: Vec<_> = kinds.iter().map(|kind| path_of(*kind, n)).collect();
        let put = |path: &String| {
            let data = json!({"members": []});
            json!({"method": "PUT", "path": path, "body": {"data": data}})
        };
        let requests: Vec<_> = paths.iter().map(put).collect();
        let answer = world
            .kinto
            .post("/batch", json!({"requests": requests}))
            .await;
        assert_eq!(answer.status, 200);
        paths.into_iter().for_each(&mut add);
    }
    let mut by_item = BTreeMap::<_, VecDeque<EventRecord>>::new();
    for record in world.stream().await {
        let keys = serde_json::to_string(&record.change.keys["pk"]).unwrap();
        by_item.entry(keys).or_default().push_back(record);
    }
    let mut stream = vec![];
    while !by_item.is_empty() {
        let key = random.choice(by_item.keys()).unwrap().clone();
        let records = by_item.get_mut(&key).unwrap();
        stream.extend(records.pop_front());
        if records.is_empty() {
            by_item.remove(&key);
        }
    }
    while !stream.is_empty() {
        let size = random.usize(1..=stream.len());
        let batch: Vec<_> = stream.drain(..size).collect();
        // A batch that fails at the end comes again, from anywhere on.
        world.enqueue(&batch).await;
        if random.bool() {
            world.enqueue(&batch[random.usize(..size)..]).await;
        }
    }
    let count = written.values().map(Vec::len).sum();
    let world = world.delivering(|| false);
    for listener in ["a", "b"] {
        world.until(listener, count).await;
        assert_eq!(world.order_by_parent(listener), written, "{listener}");
    }
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
    fn in_whatever_order_the_stream_brings_items_listeners_hear_in_the_order_of_the_commits(
        writes in prop::collection::vec(prop::collection::vec(0..5_usize, 1..4), 1..12),
        seed in any::<u64>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(order_survives_the_stream(writes, seed));
    }

    #[test]
    fn whatever_fails_each_listener_hears_of_every_write_in_order(troubles in prop::collection::vec(trouble(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(nothing_is_lost(troubles));
    }
}
