//! `ResourceChanged`: notifications of a write, before and after the commit, under any failure.

mod delivery;
mod events;
mod outbox;
mod random;
mod synchronous;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lambda_events::dynamodb::{Event, EventRecord};
use aws_lambda_events::streams::DynamoDbEventResponse;
use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::BoxFuture;
use kinto_local::queue::Message;
use kinto_local::sqs::{self, NOTIFICATIONS};
use kinto_local::stream::{self, Mapping};
use kinto_serverless::event::ResourceChanged;
use kinto_serverless::listeners::{Listener, Listeners, NotifyError};
use kinto_serverless::notifier::Notifier;
use kinto_serverless::queue::{NotificationQueue, QueueConsumer};
use kinto_serverless::resource::ObjectUri;
use kinto_serverless::settings::{ListenerSettings, Vars};
use kinto_serverless::store::{Item, Store};
use serde_json::{Value, json};
use tests::{COLLECTION, Kinto, TABLE};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// A listener that records its events, and answers as it is set.
#[derive(Clone, Default)]
struct Recorder {
    heard: Arc<Mutex<Vec<ResourceChanged>>>,
    answer: Arc<Mutex<Option<NotifyError>>>,
    /// How many more times it gives that answer; for ever if it is `usize::MAX`.
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

    /// The events since the last call, as JSON without the parts that always differ.
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

/// The settings of a listener `a`, and those of others.
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

/// An API with a listener that is notified before the commit.
fn asked_before(more: &[(&'static str, &'static str)]) -> (Kinto, Recorder) {
    let mut vars = listeners(&[("KINTO_EVENT_LISTENERS_A_SYNCHRONOUS", "true")]);
    vars.extend(more);
    let recorder = Recorder::default();
    let listeners = settings_of(&vars)
        .into_iter()
        .map(|settings| (settings, Arc::new(recorder.clone()) as Arc<dyn Listener>));
    (Kinto::with_listeners(&vars, listeners.collect()), recorder)
}

/// The same with the bucket `main` and its collection `one`, whose events are taken already.
async fn with_collection(more: &[(&'static str, &'static str)]) -> (Kinto, Recorder) {
    let (kinto, recorder) = asked_before(more);
    assert_eq!(kinto.put("/buckets/main", json!({})).await.status, 201);
    assert_eq!(kinto.put(COLLECTION, json!({})).await.status, 201);
    recorder.take();
    kinto.aws.requests().take();
    (kinto, recorder)
}

/// The local parts of a stack with listeners that are notified after the commit.
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

    /// The notifications that were given up.
    fn dead_letters(&self) -> Vec<Message> {
        self.kinto.aws.queues().notifications.dead_letters()
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
            QueueConsumer::new(kinto.aws.sqs(), url, dead),
            listeners,
        );
        Self {
            kinto,
            recorders,
            notifier,
            tasks: JoinSet::new(),
        }
    }

    /// Delivers stream and queue to the notifier from now on; if `kills` returns `true`, it is killed at the end.
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

    /// Delivers only the queue.
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

    /// Waits until a listener has received that many distinct events.
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

    /// The records of the stream for the notifier.
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

    /// A listener's events under each parent, in the order of their first notification.
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

    /// A listener's records of a collection, in the order of their first notification.
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
