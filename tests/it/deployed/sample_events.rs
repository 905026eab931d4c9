//! Every sample event in `events/` is understood and has the effect that its name says; `cargo lambda invoke` sends the
//! same.

use std::collections::BTreeSet;
use std::path::Path;

use kinto_local::sqs::{self, NOTIFICATIONS};
use kinto_serverless::aggregator::{Aggregator, AggregatorEvent, AggregatorResponse};
use kinto_serverless::broadcaster::Broadcaster;
use kinto_serverless::listeners::Listeners;
use kinto_serverless::megaphone::Megaphone;
use kinto_serverless::notifier::{self, Notifier};
use kinto_serverless::queue::{BroadcastQueue, NotificationQueue, QueueConsumer};
use kinto_serverless::settings::{ListenerSettings, Settings, Vars};
use kinto_serverless::store::Store;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tests::{Kinto, TABLE, put_item, settings};
use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

const API: [(&str, i64); 9] = [
    ("api-hello", 200),
    ("api-put-bucket", 201),
    ("api-put-collection", 201),
    ("api-put-record", 201),
    ("api-get-changeset", 200),
    ("api-get-monitor-changes", 200),
    ("api-get-broadcasts", 200),
    ("api-broken-json", 400),
    ("refresh-signatures", 200),
];
/// With the entries of monitor/changes afterwards: collections and their milliseconds after the first change.
const STREAM: [(&str, &[(&str, u64)]); 6] = [
    ("stream-batch", &[("one", 20), ("two", 10)]),
    ("stream-duplicated", &[("one", 20)]),
    ("stream-reordered", &[("one", 20), ("two", 10)]),
    ("stream-poison", &[("three", 20), ("one", 0)]),
    ("stream-collection-deleted", &[]),
    ("stream-bucket-deleted", &[]),
];
/// With the number of messages that end as dead letters.
const QUEUE: [(&str, usize); 3] = [
    ("queue-batch", 0),
    ("queue-duplicated", 0),
    ("queue-poison", 1),
];
/// The notifier's inputs, from the stream and then from the queue.
const NOTIFIER: [&str; 2] = ["notifier-stream", "notifier-queue"];
/// The input of an operator to the aggregator.
const REBUILD: &str = "rebuild-monitor";
const FIRST_CHANGE: u64 = 1_795_289_972_422;

fn event<E: DeserializeOwned>(name: &str) -> E {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../events/{name}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn every_event_has_its_test() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../events");
    let files: BTreeSet<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|file| {
            file.unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    let names = API
        .iter()
        .map(|(name, _)| *name)
        .chain(STREAM.iter().map(|(name, _)| *name));
    let tested = names
        .chain(QUEUE.iter().map(|(name, _)| *name))
        .chain(NOTIFIER)
        .chain([REBUILD])
        .map(str::to_owned)
        .collect();
    assert_eq!(files, tested);
}

#[tokio::test]
async fn api_events_are_answered() {
    let kinto = Kinto::new();
    for (name, status) in API {
        assert_eq!(
            kinto.api.handle(event(name)).await.status_code,
            status,
            "{name}"
        );
    }
}

fn aggregator(kinto: &Kinto, settings: Settings) -> Aggregator {
    Aggregator::new(
        Store::new(kinto.aws.dynamodb(), TABLE),
        BroadcastQueue::new(kinto.aws.sqs(), kinto.aws.queue_url()),
        settings.changes,
        settings.broadcasts,
        settings.megaphones,
    )
}

#[tokio::test]
async fn stream_events_reach_the_monitor() {
    for (name, expected) in STREAM {
        let kinto = Kinto::new();
        let aggregator = aggregator(&kinto, settings(&tests::megaphone("http://127.0.0.1:1")));
        assert!(
            aggregator
                .handle(event(name))
                .await
                .batch_item_failures
                .is_empty(),
            "{name}"
        );
        let shown = kinto
            .get("/buckets/monitor/collections/changes/records")
            .await;
        let shown: Vec<_> = shown.body["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| {
                (
                    entry["collection"].as_str().unwrap(),
                    entry["last_modified"].as_u64().unwrap() - FIRST_CHANGE,
                )
            })
            .collect();
        assert_eq!(shown, expected, "{name}");
    }
}

#[tokio::test]
async fn an_operators_event_rebuilds_the_monitor() {
    let kinto = Kinto::with_collection().await;
    let aggregator = aggregator(&kinto, settings(&[]));
    let input: AggregatorEvent = event(REBUILD);
    let AggregatorResponse::Rebuilt(rebuilt) = aggregator.answer_event(input).await.unwrap() else {
        panic!("it is taken for a batch of the stream");
    };
    assert_eq!((rebuilt.collections, rebuilt.raised), (1, 1));
}

#[tokio::test]
async fn queue_events_reach_megaphone_once() {
    for (name, dead) in QUEUE {
        let megaphone = MockServer::start().await;
        Mock::given(matchers::method("PUT"))
            .and(matchers::body_string(format!("\"{FIRST_CHANGE}\"")))
            .respond_with(ResponseTemplate::new(200))
            .expect(1)
            .mount(&megaphone)
            .await;
        let aws = Kinto::new().aws;
        let store = Store::new(aws.dynamodb(), TABLE);
        let consumer = QueueConsumer::new(aws.sqs(), aws.queue_url(), aws.dead_letter_url());
        // In the format of an earlier version; the monitor's state of earlier versions is the aggregator's test.
        let due = json!({"pk": "#broadcast", "sk": "mp", "due": FIRST_CHANGE});
        put_item(&aws, &due);
        let megaphones = settings(&tests::megaphone(&megaphone.uri())).megaphones;
        let megaphones = megaphones
            .into_iter()
            .map(|m| Megaphone::new(m).unwrap())
            .collect();
        let response = Broadcaster::new(store, consumer, megaphones)
            .handle(event(name))
            .await;
        assert!(response.batch_item_failures.is_empty(), "{name}");
        assert_eq!(aws.queue().dead_letters().len(), dead, "{name}");
    }
}

#[tokio::test]
async fn notifier_events_tell_a_webhook_of_a_record() {
    let webhook = MockServer::start().await;
    let uris = json!(["/buckets/main/collections/one/records/first"]);
    Mock::given(matchers::method("POST"))
        .and(matchers::body_partial_json(
            json!({"action": "create", "impacted_uris": uris}),
        ))
        .respond_with(ResponseTemplate::new(200))
        .expect(1)
        .mount(&webhook)
        .await;
    let url = webhook.uri();
    let vars: Vars = [
        ("KINTO_EVENT_LISTENERS", "webhook"),
        ("KINTO_EVENT_LISTENERS_WEBHOOK_USE", "webhook"),
        ("KINTO_EVENT_LISTENERS_WEBHOOK_URL", &url),
        (
            "KINTO_EVENT_LISTENERS_WEBHOOK_SECRET",
            "a secret that is long enough",
        ),
    ]
    .into_iter()
    .collect();
    let aws = Kinto::new().aws;
    let listeners = ListenerSettings::from_vars(&vars).unwrap();
    let clients = aws.of_listeners(&kinto_local::aws::of_environment().await);
    let listeners = Listeners::new(listeners, &vars, &clients, &[]).unwrap();
    let (queue, dead) = (sqs::url(NOTIFICATIONS), sqs::dead_letter_url(NOTIFICATIONS));
    let notifier = Notifier::new(
        Store::new(aws.dynamodb(), TABLE),
        NotificationQueue::new(aws.sqs(), &*queue),
        QueueConsumer::new(aws.sqs(), queue, dead),
        listeners,
    );
    let [stream, queue]: [Value; 2] = NOTIFIER.map(event);

    // The message for the entry is that of the other event. The second entry is an earlier version's.
    notifier.handle(input(&stream)).await;
    let messages = aws.queues().notifications.waiting();
    let (body, group) = ("/Records/0/body", "/Records/0/attributes/MessageGroupId");
    assert_eq!(messages.len(), 2);
    assert_eq!(
        [&*messages[0].body, &*messages[0].group],
        [body, group].map(|at| queue.pointer(at).unwrap().as_str().unwrap())
    );

    assert_eq!(messages[1].group, messages[0].group);

    let mut item = stream["Records"][1]["dynamodb"]["NewImage"].clone();
    let message: Value = serde_json::from_str(&messages[0].body).unwrap();
    let entry = |field: &str| message["entry"][field].as_str().unwrap();
    item["pk"]["S"] = format!("#outbox#{}", entry("parent")).into();
    item["sk"]["S"] = format!("{}#000", entry("id")).into();
    let put = json!({"TableName": TABLE, "Item": item}).to_string();
    let put = aws.call("DynamoDB_20120810.PutItem", put.as_bytes());
    assert_eq!(put.ok().unwrap().status, 200);
    let notifier::NotifierResponse::Queue(response) = notifier.handle(input(&queue)).await else {
        panic!("it is taken for a batch of the stream");
    };
    assert!(response.batch_item_failures.is_empty());
}

fn input(event: &Value) -> notifier::NotifierEvent {
    serde_json::from_value(event.clone()).unwrap()
}
