//! The way of a change behind the API: stream → monitor/changes → queue → Megaphone, whatever comes twice, late,
//! out of order, or not at all.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use aws_lambda_events::dynamodb::Event;
use aws_lambda_events::sqs::SqsEvent;
use kinto_local::Fault;
use kinto_local::queue::Redrive;
use kinto_serverless::aggregator::Aggregator;
use kinto_serverless::broadcaster::Broadcaster;
use kinto_serverless::megaphone::Megaphone;
use kinto_serverless::queue::{BroadcastQueue, Inbox};
use kinto_serverless::store::Store;
use kinto_serverless::timestamp::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use tests::{Kinto, NOBODY, TABLE, changed, settings};
use wiremock::matchers::{body_string, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

const BROADCASTS: &str = "/v1/broadcasts/remote-settings/monitor_changes";

/// The functions behind the API, over its table, and a Megaphone that they speak to.
struct Pipeline {
    kinto: Kinto,
    aggregator: Aggregator,
    broadcaster: Broadcaster,
    megaphone: MockServer,
    /// Hours since the epoch on the broadcaster's clock.
    hours: AtomicU64,
}

impl Pipeline {
    async fn new() -> Self {
        let megaphone = MockServer::start().await;
        let url = megaphone.uri();
        Self::with(megaphone, &url)
    }

    /// With a Megaphone at `url`, which need not be `megaphone`.
    fn with(megaphone: MockServer, url: &str) -> Self {
        let vars = [
            ("KINTO_EVENT_LISTENERS", "mp"),
            ("KINTO_EVENT_LISTENERS_MP_USE", "kinto_megaphone.listeners"),
            ("KINTO_EVENT_LISTENERS_MP_API_KEY", "hush"),
            ("KINTO_EVENT_LISTENERS_MP_URL", url),
            ("KINTO_EVENT_LISTENERS_MP_BROADCASTER_ID", "remote-settings"),
            (
                "KINTO_EVENT_LISTENERS_MP_MATCH_KINTO_CHANGES",
                "/buckets/main",
            ),
            (
                "KINTO_EVENT_LISTENERS_MP_EXCEPT_KINTO_CHANGES",
                "/buckets/main/collections/quiet",
            ),
            // The changes here are of 1970.
            ("KINTO_CHANGES_SINCE_MAX_AGE_DAYS", "-1"),
        ];
        let kinto = Kinto::with(&vars).as_user(NOBODY);
        let settings = settings(&vars);
        let store = Store::new(kinto.aws.dynamodb(), TABLE);
        let queue = BroadcastQueue::new(kinto.aws.sqs(), kinto.aws.queue_url());
        let inbox = Inbox::new(
            kinto.aws.sqs(),
            kinto.aws.queue_url(),
            kinto.aws.dead_letter_url(),
        );
        let megaphones = settings
            .megaphones
            .iter()
            .cloned()
            .map(|m| Megaphone::new(m).unwrap())
            .collect();
        Self {
            aggregator: Aggregator::new(
                store.clone(),
                queue,
                settings.changes,
                settings.broadcasts,
                settings.megaphones,
            ),
            broadcaster: Broadcaster::new(store, inbox, megaphones),
            kinto,
            megaphone,
            hours: AtomicU64::new(1),
        }
    }

    /// Has Megaphone answer with `status` from now on, to whoever knows the key.
    async fn megaphone_answers(&self, status: u16) {
        self.megaphone.reset().await;
        Mock::given(method("PUT"))
            .and(path(BROADCASTS))
            .and(header("authorization", "Bearer hush"))
            .respond_with(ResponseTemplate::new(status).set_body_json(json!({"code": status})))
            .mount(&self.megaphone)
            .await;
    }

    /// The versions that Megaphone was told, in order, whatever it answered.
    async fn told(&self) -> Vec<String> {
        let requests = self.megaphone.received_requests().await.unwrap();
        requests
            .into_iter()
            .map(|request| String::from_utf8(request.body).unwrap())
            .collect()
    }

    /// The sequence number from which on the batch has to come again.
    async fn aggregate(&self, records: &[Value]) -> Option<String> {
        let event: Event = serde_json::from_value(json!({"Records": records})).unwrap();
        let failures = self.aggregator.handle(event).await.batch_item_failures;
        assert!(failures.len() <= 1);
        failures
            .into_iter()
            .next()
            .map(|failure| failure.item_identifier.unwrap())
    }

    /// The ids of the messages that have to come again. They come an hour after those before: no claim holds them up.
    async fn broadcast(&self, bodies: &[&str]) -> Vec<String> {
        let messages: Vec<_> = bodies
            .iter()
            .enumerate()
            .map(|(n, body)| json!({"messageId": n.to_string(), "body": body, "eventSource": "aws:sqs"}))
            .collect();
        let event: SqsEvent = serde_json::from_value(json!({"Records": messages})).unwrap();
        let now = Timestamp(self.hours.fetch_add(1, Ordering::SeqCst) * 3_600_000);
        let response = self.broadcaster.handle_at(event, now).await;
        response
            .batch_item_failures
            .into_iter()
            .map(|failure| failure.item_identifier)
            .collect()
    }

    /// What monitor/changes shows: the timestamp of each collection.
    async fn monitor(&self) -> BTreeMap<String, u64> {
        let answer = self
            .kinto
            .get("/buckets/monitor/collections/changes/records")
            .await;
        assert_eq!(answer.status, 200);
        let entries = answer.body["data"].as_array().unwrap().clone();
        let entry = |e: &Value| {
            (
                e["collection"].as_str().unwrap().to_owned(),
                e["last_modified"].as_u64().unwrap(),
            )
        };
        entries.iter().map(entry).collect()
    }

    /// The `ETag` of monitor/changes.
    async fn monitor_etag(&self) -> String {
        let answer = self
            .kinto
            .get("/buckets/monitor/collections/changes/records")
            .await;
        answer.header("etag").to_owned()
    }
}

/// A record of the stream: the collection is gone.
fn closed(sequence_number: u64, collection: &str, timestamp: u64) -> Value {
    let mut record = changed(sequence_number, collection, timestamp);
    record["dynamodb"]["NewImage"]["closed"] = json!({"BOOL": true});
    record
}

/// A record that passes the filter and cannot be understood.
fn poison(sequence_number: u64) -> Value {
    let mut record = changed(sequence_number, "one", 1);
    record["dynamodb"]["NewImage"]["timestamp"] = json!({"S": "yesterday"});
    record
}

const TRIGGER: &str = r#"{"listener": "mp"}"#;

#[tokio::test]
async fn a_batch_becomes_one_entry_and_one_broadcast_for_the_latest_of_each_collection() {
    let pipeline = Pipeline::new().await;
    pipeline.megaphone_answers(200).await;
    let requests = pipeline.kinto.aws.requests();
    // The first batch of a table starts the monitor's clock.
    assert_eq!(pipeline.aggregate(&[changed(0, "quiet", 1)]).await, None);
    requests.take();
    let batch = [
        changed(1, "one", 10),
        changed(2, "two", 11),
        changed(3, "one", 12),
        changed(4, "quiet", 13),
    ];
    assert_eq!(pipeline.aggregate(&batch).await, None);
    // All that three collections, one listener and readers of `__broadcasts__` are concerned with.
    assert_eq!(
        (requests.of("UpdateItem"), requests.of("SendMessage")),
        (1, 1)
    );
    assert_eq!(requests.total(), 2);

    let expected = BTreeMap::from([
        ("one".to_owned(), 12),
        ("two".to_owned(), 11),
        ("quiet".to_owned(), 13),
    ]);
    assert_eq!(pipeline.monitor().await, expected);
    requests.take();
    assert_eq!(pipeline.broadcast(&[TRIGGER]).await, [""; 0]);
    assert_eq!(pipeline.told().await, ["\"12\""]);
    assert_eq!((requests.of("GetItem"), requests.of("UpdateItem")), (1, 2));
    assert_eq!(requests.total(), 3);
    // Once more, to see that there is nothing to do.
    requests.take();
    assert_eq!(pipeline.broadcast(&[TRIGGER]).await, [""; 0]);
    assert_eq!((requests.of("GetItem"), requests.of("UpdateItem")), (1, 1));
    assert_eq!(requests.total(), 2);
}

#[tokio::test]
async fn duplicates_and_older_changes_alter_nothing() {
    let pipeline = Pipeline::new().await;
    pipeline.megaphone_answers(200).await;
    pipeline
        .aggregate(&[changed(1, "one", 20), changed(1, "one", 20)])
        .await;
    pipeline.aggregate(&[changed(2, "one", 19)]).await;
    assert_eq!(pipeline.monitor().await["one"], 20);
    pipeline.broadcast(&[TRIGGER, TRIGGER]).await;
    pipeline.broadcast(&[TRIGGER]).await;
    assert_eq!(pipeline.told().await, ["\"20\""]);
}

#[tokio::test]
async fn a_deleted_collection_leaves_the_monitor_whose_time_does_not_go_back() {
    let pipeline = Pipeline::new().await;
    pipeline.megaphone_answers(200).await;
    pipeline
        .aggregate(&[changed(1, "one", 20), changed(2, "two", 10)])
        .await;
    pipeline.aggregate(&[closed(3, "one", 30)]).await;
    assert_eq!(
        pipeline.monitor().await,
        BTreeMap::from([("two".to_owned(), 10)])
    );
    assert_eq!(pipeline.monitor_etag().await, "\"30\"");
    // An older change that comes late does not bring the entry back; one of the collection made anew does.
    pipeline.aggregate(&[changed(2, "one", 25)]).await;
    assert_eq!(pipeline.monitor().await.get("one"), None);
    pipeline.aggregate(&[changed(4, "one", 31)]).await;
    assert_eq!(pipeline.monitor().await["one"], 31);
}

#[tokio::test]
async fn a_removed_entry_is_not_broadcast() {
    let pipeline = Pipeline::new().await;
    pipeline.aggregate(&[closed(1, "one", 30)]).await;
    assert_eq!(pipeline.kinto.aws.requests().of("SendMessage"), 0);
}

#[tokio::test]
async fn a_poison_record_is_passed_over_and_holds_up_no_other() {
    let pipeline = Pipeline::new().await;
    assert_eq!(
        pipeline
            .aggregate(&[changed(1, "one", 10), poison(2), changed(3, "two", 11)])
            .await,
        None
    );
    let expected = BTreeMap::from([("one".to_owned(), 10), ("two".to_owned(), 11)]);
    assert_eq!(pipeline.monitor().await, expected);
}

#[tokio::test]
async fn a_list_that_only_counted_a_write_under_a_past_time_is_passed_over() {
    let pipeline = Pipeline::new().await;
    let after = |mut record: Value, timestamp: u64| {
        let before = changed(0, "one", timestamp);
        record["dynamodb"]["OldImage"] = before["dynamodb"]["NewImage"].clone();
        record["dynamodb"]["NewImage"]["past"] = json!({"N": "1"});
        record
    };
    pipeline.kinto.aws.requests().take();
    pipeline
        .aggregate(&[after(changed(1, "one", 10), 10)])
        .await;
    assert_eq!(pipeline.kinto.aws.requests().total(), 0);
    let batch = [
        after(changed(2, "one", 11), 10),
        after(closed(3, "two", 10), 10),
    ];
    pipeline.aggregate(&batch).await;
    let expected = BTreeMap::from([("one".to_owned(), 11)]);
    assert_eq!(pipeline.monitor().await, expected);
    assert!(pipeline.kinto.aws.requests().of("UpdateItem") >= 1);
}

#[tokio::test]
async fn a_batch_comes_again_from_the_earliest_change_that_failed() {
    let pipeline = Pipeline::new().await;
    pipeline.kinto.aws.inject(|target, _| {
        target
            .ends_with("UpdateItem")
            .then(|| Fault::error("InternalServerError"))
    });
    // 9 is earlier than 10 although it sorts after it as text.
    let batch = [
        poison(8),
        changed(9, "two", 11),
        changed(10, "one", 10),
        changed(11, "two", 12),
    ];
    assert_eq!(pipeline.aggregate(&batch).await.as_deref(), Some("9"));
    assert_eq!(pipeline.monitor().await, BTreeMap::new());

    pipeline.kinto.aws.heal();
    assert_eq!(pipeline.aggregate(&batch[1..]).await, None);
    let expected = BTreeMap::from([("one".to_owned(), 10), ("two".to_owned(), 12)]);
    assert_eq!(pipeline.monitor().await, expected);
}

#[tokio::test]
async fn a_broadcast_that_could_not_be_asked_for_is_asked_for_again() {
    let pipeline = Pipeline::new().await;
    pipeline.megaphone_answers(200).await;
    for operation in ["SendMessage", "UpdateItem"] {
        let timestamp = if operation == "SendMessage" { 10 } else { 11 };
        pipeline
            .kinto
            .aws
            .inject(move |target, _| target.ends_with(operation).then_some(Fault::Unreached));
        assert_eq!(
            pipeline
                .aggregate(&[changed(1, "one", timestamp)])
                .await
                .as_deref(),
            Some("1")
        );
        pipeline.kinto.aws.heal();
        assert!(pipeline.kinto.aws.queue().is_empty() || operation == "UpdateItem");
        // The monitor knows the change already; the queue is asked all the same.
        assert_eq!(
            pipeline.aggregate(&[changed(1, "one", timestamp)]).await,
            None
        );
        assert!(!pipeline.kinto.aws.queue().is_empty());
    }
    pipeline.broadcast(&[TRIGGER]).await;
    assert_eq!(pipeline.told().await, ["\"11\""]);
}

#[tokio::test]
async fn a_broadcast_that_megaphone_did_not_take_comes_again() {
    let pipeline = Pipeline::new().await;
    pipeline.aggregate(&[changed(1, "one", 10)]).await;
    for status in [400, 401, 404, 429, 500, 503] {
        pipeline.megaphone_answers(status).await;
        assert_eq!(pipeline.broadcast(&[TRIGGER]).await, ["0"], "{status}");
    }
    pipeline.megaphone_answers(201).await;
    assert_eq!(pipeline.broadcast(&[TRIGGER]).await, [""; 0]);
    assert_eq!(pipeline.told().await, ["\"10\""]);
}

#[tokio::test]
async fn a_broadcast_that_is_not_answered_comes_again() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pipeline = Pipeline::with(
        MockServer::start().await,
        &format!("http://{}", silent.local_addr().unwrap()),
    );
    pipeline.aggregate(&[changed(1, "one", 10)]).await;
    // The clock runs as soon as there is nothing to do but wait: the time limit is met at once.
    tokio::time::pause();
    assert_eq!(pipeline.broadcast(&[TRIGGER]).await, ["0"]);
    tokio::time::resume();
    drop(silent);
    assert_eq!(pipeline.broadcast(&[TRIGGER]).await, ["0"]);
}

#[tokio::test]
async fn a_broadcast_whose_record_failed_is_sent_again_and_never_an_older_one() {
    let pipeline = Pipeline::new().await;
    pipeline.megaphone_answers(200).await;
    pipeline.aggregate(&[changed(1, "one", 10)]).await;
    pipeline.kinto.aws.inject(|target, body| {
        let settles = String::from_utf8_lossy(body).contains("sent = :sent");
        (target.ends_with("UpdateItem") && settles).then_some(Fault::Unreached)
    });
    assert_eq!(pipeline.broadcast(&[TRIGGER]).await, ["0"]);
    pipeline.kinto.aws.heal();
    pipeline.aggregate(&[changed(2, "one", 11)]).await;
    assert_eq!(pipeline.broadcast(&[TRIGGER]).await, [""; 0]);
    assert_eq!(pipeline.told().await, ["\"10\"", "\"11\""]);
}

#[tokio::test]
async fn poison_messages_become_dead_letters_and_hold_up_no_other() {
    let pipeline = Pipeline::new().await;
    pipeline.megaphone_answers(200).await;
    pipeline.aggregate(&[changed(1, "one", 10)]).await;
    let poison = ["not json", r#"{"listener": "gone"}"#, "{}"];
    let messages = [poison[0], poison[1], TRIGGER, poison[2]];
    // Where they cannot be put aside, they come again.
    let send = |target: &str, _: &[u8]| {
        target
            .ends_with("SendMessage")
            .then(|| Fault::error("AccessDenied"))
    };
    pipeline.kinto.aws.inject(send);
    assert_eq!(pipeline.broadcast(&messages).await, ["0", "1", "3"]);
    pipeline.kinto.aws.heal();
    assert_eq!(pipeline.broadcast(&messages).await, [""; 0]);
    let dead = pipeline.kinto.aws.queue().dead_letters();
    let dead: Vec<_> = dead.iter().map(|message| message.body.as_str()).collect();
    assert_eq!(dead, poison);
    assert_eq!(pipeline.told().await, ["\"10\""]);
}

#[tokio::test]
async fn what_is_sent_is_what_megaphone_expects() {
    let pipeline = Pipeline::new().await;
    Mock::given(method("PUT"))
        .and(path(BROADCASTS))
        .and(header("authorization", "Bearer hush"))
        .and(body_string("\"1795289972422\""))
        .respond_with(ResponseTemplate::new(201))
        .expect(1)
        .mount(&pipeline.megaphone)
        .await;
    pipeline
        .aggregate(&[changed(1, "one", 1_795_289_972_422)])
        .await;
    assert_eq!(pipeline.broadcast(&[TRIGGER]).await, [""; 0]);
}

#[tokio::test]
async fn a_megaphone_that_is_down_shows_in_the_heartbeat() {
    let pipeline = Pipeline::new().await;
    Mock::given(path("/__heartbeat__"))
        .respond_with(ResponseTemplate::new(200))
        .mount(&pipeline.megaphone)
        .await;
    assert_eq!(
        pipeline.kinto.get("/__heartbeat__").await.body["megaphone"],
        true
    );
    assert!(pipeline.kinto.get("/").await.body["capabilities"]["megaphone"].is_object());
    pipeline.megaphone.reset().await;
    let beat = pipeline.kinto.get("/__heartbeat__").await;
    assert_eq!(
        (beat.status, &beat.body["megaphone"], &beat.body["storage"]),
        (503, &json!(false), &json!(true))
    );
}

#[tokio::test]
async fn monitor_changes_answers_as_kinto_changes_does() {
    let pipeline = Pipeline::new().await;
    const RECORDS: &str = "/buckets/monitor/collections/changes/records";
    let kinto = &pipeline.kinto;
    let empty = kinto.get(RECORDS).await;
    assert_eq!((empty.status, empty.body), (200, json!({"data": []})));

    pipeline
        .aggregate(&[
            changed(1, "one", 10),
            changed(2, "two", 30),
            changed(3, "three", 20),
        ])
        .await;
    let all = kinto.get(RECORDS).await;
    assert_eq!(all.header("etag"), "\"30\"");
    assert_eq!(all.header("cache-control"), "no-cache, no-store");
    let order: Vec<_> = all.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["last_modified"].clone())
        .collect();
    assert_eq!(order, [json!(30), json!(20), json!(10)]);
    let entry = &all.body["data"][0];
    let shown = json!({"id": entry["id"], "last_modified": 30, "bucket": "main", "collection": "two", "host": ""});
    assert_eq!(*entry, shown);

    let listed = async |query: &str| {
        let answer = kinto.get(&format!("{RECORDS}?{query}")).await;
        assert_eq!(answer.header("etag"), "\"30\"");
        answer.body["data"].as_array().unwrap().len()
    };
    assert_eq!(listed("_since=10").await, 2);
    assert_eq!(listed("_since=%2220%22").await, 1);
    assert_eq!(listed("_before=20&bucket=main").await, 1);
    assert_eq!(listed("collection=one").await, 1);
    assert_eq!(listed("bucket=other").await, 0);
    assert_eq!(
        listed(&format!("id={}", entry["id"].as_str().unwrap())).await,
        1
    );
    assert_eq!(
        kinto.get(&format!("{RECORDS}?colour=red")).await.error(),
        (400, 107)
    );
    assert_eq!(
        kinto.get(&format!("{RECORDS}?_since=x")).await.error(),
        (400, 107)
    );

    for (name, value, status) in [
        ("if-none-match", "\"30\"", 304),
        ("if-match", "\"10\"", 412),
        ("if-none-match", "*", 412),
    ] {
        assert_eq!(
            kinto
                .send("GET", RECORDS, &[(name, value)], "")
                .await
                .status,
            status,
            "{name}"
        );
    }
    for write in ["POST", "PUT", "PATCH", "DELETE"] {
        let refused = kinto.send(write, RECORDS, &[], "").await;
        assert_eq!(
            (refused.error(), refused.header("allow")),
            ((405, 115), "GET, HEAD, OPTIONS")
        );
    }
}

#[tokio::test]
async fn a_message_that_keeps_failing_rests_among_the_dead_letters() {
    let redrive = Redrive {
        delay: Duration::from_millis(1),
        max_receive_count: 3,
    };
    let queue = kinto_local::queue::Queue::new(redrive);
    queue.send("mp", "mp-1", TRIGGER);
    let pipeline = Pipeline::new().await;
    let down = |_: &str, _: &[u8]| Some(Fault::error("ValidationException"));
    pipeline.kinto.aws.inject(down);
    let consumed = queue.clone().consume(move |event| {
        let broadcaster = pipeline.broadcaster.clone();
        async move { broadcaster.handle(event).await }
    });
    let dead = async {
        while queue.dead_letters().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        _ = consumed => panic!("the queue ended"),
        () = dead => {}
        () = tokio::time::sleep(Duration::from_secs(10)) => panic!("the message is not dead after 10 seconds"),
    }
    assert_eq!(queue.dead_letters()[0].receive_count, 3);
}

/// What happens next in a random schedule.
#[derive(Clone, Debug)]
enum Step {
    /// The records in this range of the stream come, backwards if so said, and `fails` requests fail meanwhile.
    Stream {
        from: usize,
        count: usize,
        reversed: bool,
        fails: u32,
    },
    /// A message comes; Megaphone answers with this status.
    Message { status: u16 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stream = (0..20_usize, 1..8_usize, any::<bool>(), 0..3_u32).prop_map(
        |(from, count, reversed, fails)| Step::Stream {
            from,
            count,
            reversed,
            fails,
        },
    );
    let message =
        prop::sample::select(vec![200, 201, 429, 503]).prop_map(|status| Step::Message { status });
    prop::collection::vec(prop_oneof![stream, message], 1..12)
}

/// A stream of changes of four collections, each change later than the one before; some delete the collection.
fn stream() -> impl Strategy<Value = Vec<Value>> {
    let collection = prop::sample::select(vec!["one", "two", "three", "quiet"]);
    prop::collection::vec((collection, prop::bool::weighted(0.2)), 1..20).prop_map(|changes| {
        let record = |(n, (collection, gone)): (usize, (&str, bool))| {
            let number = n as u64 + 1;
            if gone {
                closed(number, collection, 100 + number)
            } else {
                changed(number, collection, 100 + number)
            }
        };
        changes.into_iter().enumerate().map(record).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Invariants 3 and 4: whatever schedule, nothing goes back, and in the end all have the latest.
    #[test]
    fn monitor_and_megaphone_never_go_back_and_end_at_the_latest(stream in stream(), steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let pipeline = Pipeline::new().await;
            let mut told: Vec<u64> = vec![];
            let mut last_etag = String::new();
            let all_again = Step::Stream { from: 0, count: stream.len(), reversed: false, fails: 0 };
            for step in steps.into_iter().chain([all_again, Step::Message { status: 200 }]) {
                match step {
                    Step::Stream { from, count, reversed, fails } => {
                        let from = from.min(stream.len());
                        let mut batch = stream[from..(from + count).min(stream.len())].to_vec();
                        if reversed {
                            batch.reverse();
                        }
                        let met = AtomicU32::new(0);
                        pipeline.kinto.aws.inject(move |_, _| {
                            (met.fetch_add(1, Ordering::SeqCst) < fails).then(|| Fault::error("ValidationException"))
                        });
                        let failed = pipeline.aggregate(&batch).await;
                        pipeline.kinto.aws.heal();
                        assert!(failed.is_none() || fails > 0);
                    }
                    Step::Message { status } => {
                        pipeline.megaphone_answers(status).await;
                        pipeline.broadcast(&[TRIGGER]).await;
                        told.extend(pipeline.told().await.iter().map(|v| v.trim_matches('"').parse::<u64>().unwrap()));
                    }
                }
                let etag = pipeline.monitor_etag().await;
                assert!(etag >= last_etag, "{etag} after {last_etag}");
                last_etag = etag;
            }
            assert!(told.is_sorted(), "{told:?}");

            let mut latest = BTreeMap::new();
            for record in &stream {
                let image = &record["dynamodb"]["NewImage"];
                let pk = image["pk"]["S"].as_str().unwrap();
                let collection = pk.trim_end_matches("#record").rsplit('/').next().unwrap().to_owned();
                let timestamp: u64 = image["timestamp"]["N"].as_str().unwrap().parse().unwrap();
                latest.insert(collection, (timestamp, image["closed"]["BOOL"] == true));
            }
            let shown: BTreeMap<_, _> =
                latest.into_iter().filter(|(_, (_, gone))| !gone).map(|(c, (t, _))| (c, t)).collect();
            assert_eq!(pipeline.monitor().await, shown);
            // A change that was deleted in the same batch may never be told; one that is shown always is, at its position or a
            // later one.
            let shown_due = shown.iter().filter(|(c, _)| *c != "quiet").map(|(_, t)| *t).max();
            let etag = last_etag.trim_matches('"').parse::<u64>().ok();
            assert!(shown_due <= told.last().copied() && told.last().copied() <= etag, "{told:?} {shown_due:?} {etag:?}");
        });
    }
}
