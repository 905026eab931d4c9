//! Changesets and monitor/changes as kinto-changes answers them: content, permissions, caching, redirects, and
//! what a changeset is while others write.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kinto_local::Fault;
use kinto_serverless::timestamp::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use tests::{ALICE, Answer, BOB, Kinto, NOBODY, cases, put_item};
use tokio::time::sleep;

const COLLECTION: &str = "/buckets/main/collections/one";
const CHANGESET: &str = "/buckets/main/collections/one/changeset";
const MONITOR: &str = "/buckets/monitor/collections/changes";

/// The ids of the changes, in order.
fn ids(answer: &Answer) -> Vec<&str> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let changes = answer.body["changes"].as_array().unwrap();
    changes.iter().map(|c| c["id"].as_str().unwrap()).collect()
}

async fn put(kinto: &Kinto, id: &str, data: Value) -> u64 {
    let path = format!("{COLLECTION}/records/{id}");
    let answer = kinto.put(&path, json!({"data": data})).await;
    assert!(answer.status < 300, "{answer:?}");
    answer.last_modified()
}

/// Puts entries into the monitor's state: bucket, collection, timestamp, and whether it is of a deleted collection. Each
/// has its timestamp as its position, or the next one that is free.
fn monitor(kinto: &Kinto, entries: &[(&str, &str, u64, bool)]) {
    let (mut latest, mut clock) = (json!({}), 0);
    for (bucket, collection, last_modified, deleted) in entries {
        clock = (clock + 1).max(*last_modified);
        latest[format!("{bucket}/{collection}")] = json!([clock, last_modified, deleted]);
    }
    let state = json!({
        "pk": "#monitor", "sk": "#state", "clock": clock, "floor": 0, "latest": latest, "due": {}, "adopted": 0,
    });
    put_item(&kinto.aws, &state);
    kinto.aws.requests().take();
}

/// Counts the items that queries read from now on.
fn count_items(kinto: &Kinto) -> Arc<AtomicUsize> {
    let read = Arc::new(AtomicUsize::new(0));
    let (counted, database) = (Arc::clone(&read), kinto.aws.clone());
    kinto.aws.inject(move |target, body| {
        if target.ends_with("Query") {
            let answer = database.database().execute("Query", body).unwrap();
            let answer: Value = serde_json::from_str(&answer).unwrap();
            let scanned = answer["ScannedCount"].as_u64().unwrap();
            counted.fetch_add(scanned as usize, Ordering::SeqCst);
        }
        None
    });
    read
}

/// Now, a moment that no age is too old for.
fn now() -> u64 {
    Timestamp::now().0
}

#[tokio::test]
async fn a_changeset_has_metadata_timestamp_and_changes_in_two_requests() {
    let kinto = Kinto::with_collection().await;
    let collection = kinto
        .put(COLLECTION, json!({"data": {"signature": {"x5u": "…"}}}))
        .await;
    put(&kinto, "a", json!({})).await;
    let text = "\"quoted\" \\ 🦀\n";
    put(
        &kinto,
        "b",
        json!({"text": text, "n": 1.50, "in": {"ner": [null]}}),
    )
    .await;
    let timestamp = put(&kinto, "c", json!({"last_modified": 7}))
        .await
        .max(put(&kinto, "a", json!({"again": true})).await);
    kinto.aws.requests().take();

    let changeset = kinto.get(&format!("{CHANGESET}?_expected=0")).await;
    assert_eq!(ids(&changeset), ["a", "b", "c"]);
    let requests = kinto.aws.requests();
    assert_eq!(
        (
            requests.of("TransactGetItems"),
            requests.of("Query"),
            requests.total()
        ),
        (1, 1, 2)
    );
    let mut metadata = collection.body["data"].clone();
    metadata["bucket"] = "main".into();
    assert_eq!(changeset.body["metadata"], metadata);
    assert_eq!(changeset.body["timestamp"], timestamp);
    assert_eq!(changeset.body["changes"][1]["text"], text);
    let listed = kinto.get(&format!("{COLLECTION}/records")).await;
    assert_eq!(changeset.body["changes"], listed.body["data"]);
    assert_eq!(
        changeset.header("last-modified"),
        listed.header("last-modified")
    );
    assert_eq!(changeset.header("cache-control"), "no-cache, no-store");
    assert_eq!(changeset.header("content-type"), "application/json");

    let head = kinto
        .send("HEAD", &format!("{CHANGESET}?_expected=0"), &[], "")
        .await;
    assert_eq!((head.status, head.body), (200, Value::Null));
}

#[tokio::test]
async fn tombstones_come_with_since_which_costs_what_changed() {
    let kinto = Kinto::with_collection().await;
    for n in 0..50 {
        put(&kinto, &format!("r{n}"), json!({"n": n})).await;
    }
    let known = put(&kinto, "x", json!({})).await;
    put(&kinto, "y", json!({})).await;
    kinto.delete(&format!("{COLLECTION}/records/x")).await;

    let read = count_items(&kinto);
    for since in [format!("%22{known}%22"), known.to_string()] {
        // In a process that remembers nothing.
        let kinto = Kinto::over(&kinto.aws, &[]);
        read.store(0, Ordering::SeqCst);
        let changeset = kinto
            .get(&format!("{CHANGESET}?_expected=1&_since={since}"))
            .await;
        assert_eq!(ids(&changeset), ["x", "y"]);
        let tombstone = &changeset.body["changes"][0];
        let expected =
            json!({"id": "x", "last_modified": changeset.body["timestamp"], "deleted": true});
        assert_eq!(*tombstone, expected);
        assert_eq!(read.load(Ordering::SeqCst), 2);
    }
    kinto.aws.heal();
    let all = kinto.get(&format!("{CHANGESET}?_expected=1")).await;
    assert_eq!(ids(&all).len(), 51);
    let limited = kinto
        .get(&format!("{CHANGESET}?_expected=1&_limit=2"))
        .await;
    assert_eq!(ids(&limited), ["y", "r49"]);
    assert_eq!(limited.body["timestamp"], all.body["timestamp"]);
    let limited = kinto
        .get(&format!("{CHANGESET}?_expected=1&_limit=1&_since={known}"))
        .await;
    assert_eq!(ids(&limited), ["x"]);
    let nothing = kinto
        .get(&format!(
            "{CHANGESET}?_expected=1&_since={}",
            now() + 1_000_000
        ))
        .await;
    assert_eq!(ids(&nothing), [""; 0]);
    assert_eq!(nothing.body["timestamp"], all.body["timestamp"]);
}

#[tokio::test]
async fn what_did_not_change_is_not_read_again() {
    let kinto = Kinto::with_collection().await;
    for n in 0..20 {
        put(&kinto, &format!("r{n}"), json!({"n": n})).await;
    }
    kinto.delete(&format!("{COLLECTION}/records/r3")).await;
    let items = count_items(&kinto);
    // The answer, how many requests were sent and how many items were read by queries.
    let get = async |kinto: &Kinto, query: &str| {
        kinto.aws.requests().take();
        items.store(0, Ordering::SeqCst);
        let answer = kinto.get(&format!("{CHANGESET}?_expected=1{query}")).await;
        assert_eq!(answer.status, 200, "{query}");
        assert_eq!(kinto.aws.requests().of("TransactGetItems"), 1, "{query}");
        let requests = kinto.aws.requests().total();
        (answer.body, requests, items.load(Ordering::SeqCst))
    };
    // The same from a process that remembers nothing.
    let afresh = async |query: &str| get(&Kinto::over(&kinto.aws, &[]), query).await.0;

    // Who asks for a part has that read, and nothing is remembered.
    for _ in 0..2 {
        let (_, requests, read) = get(&kinto, "&_limit=3").await;
        assert!(requests > 1 && read <= 6, "{requests} {read}");
    }
    let (whole, requests, read) = get(&kinto, "").await;
    assert_eq!((requests, read), (2, 20));
    let middle = whole["changes"][9]["last_modified"].as_u64().unwrap();
    let since = format!("&_since={middle}");
    let all_queries = [
        "",
        "&_limit=3",
        "&_since=0",
        &since,
        &format!("{since}&_limit=4"),
    ];
    for query in all_queries {
        let unchanged = get(&kinto, query).await;
        assert_eq!(unchanged, (afresh(query).await, 1, 0), "{query}");
    }
    // Others share it, once they may read the collection at all.
    assert_eq!(get(&kinto.as_user(ALICE), "").await, (whole, 1, 0));
    assert_eq!(
        kinto
            .as_user(BOB)
            .get(&format!("{CHANGESET}?_expected=1"))
            .await
            .status,
        403
    );
    let collection = json!({"data": {"signature": "new"}});
    kinto.put(COLLECTION, collection).await;
    let (changed, requests, _) = get(&kinto, "").await;
    assert_eq!(
        (&changed["metadata"]["signature"], requests),
        (&json!("new"), 1)
    );

    // What changed under later times is read alone: one written, one new, one gone.
    for (n, query) in all_queries.into_iter().enumerate() {
        put(&kinto, "r5", json!({"again": n})).await;
        put(&kinto, &format!("new{n}"), json!({})).await;
        kinto
            .delete(&format!("{COLLECTION}/records/r{}", 10 + n))
            .await;
        let (answer, requests, read) = get(&kinto, query).await;
        assert_eq!((requests, read), (2, 3), "{query}");
        assert_eq!(answer, afresh(query).await, "{query}");
        assert_eq!(get(&kinto, query).await, (answer, 1, 0), "{query}");
    }
    // Who has seen more than is remembered has what is later read, no more.
    put(&kinto, "a", json!({})).await;
    let known = put(&kinto, "b", json!({})).await;
    put(&kinto, "c", json!({})).await;
    let (answer, requests, read) = get(&kinto, &format!("&_since={known}")).await;
    assert_eq!(
        (&answer["changes"][0]["id"], requests, read),
        (&json!("c"), 2, 1)
    );
}

#[tokio::test]
async fn what_is_written_under_a_past_time_is_read() {
    let kinto = Kinto::with_collection().await;
    let path = format!("{CHANGESET}?_expected=1");
    let record = |id: &str, data: Value| {
        let path = format!("/v1{COLLECTION}/records/{id}");
        json!({"method": "PUT", "path": path, "body": {"data": data}})
    };
    put(&kinto, "a", json!({})).await;
    assert_eq!(ids(&kinto.get(&path).await), ["a"]);
    put(&kinto, "b", json!({"last_modified": 20})).await;
    assert_eq!(ids(&kinto.get(&path).await), ["a", "b"]);
    // Alone, or together with a later time, in whichever order.
    let past = record("c", json!({"last_modified": 10}));
    let requests = json!({"requests": [record("d", json!({})), past]});
    assert_eq!(kinto.post("/batch", requests).await.status, 200);
    assert_eq!(ids(&kinto.get(&path).await), ["d", "a", "b", "c"]);
    let past = record("e", json!({"last_modified": 5}));
    let requests = json!({"requests": [past, record("d", json!({}))]});
    assert_eq!(kinto.post("/batch", requests).await.status, 200);
    assert_eq!(ids(&kinto.get(&path).await), ["d", "a", "b", "c", "e"]);
    // In a commit of more than one transaction.
    for n in 0..5 {
        let records = (0..25).map(|i| record(&format!("r{n}-{i}"), json!({})));
        let requests: Vec<_> = records.collect();
        kinto.post("/batch", json!({"requests": requests})).await;
    }
    assert_eq!(ids(&kinto.get(&path).await).len(), 130);
    kinto.aws.requests().take();
    let clear = json!({"method": "DELETE", "path": format!("/v1{COLLECTION}/records")});
    let requests = json!({"requests": [clear, record("f", json!({"last_modified": 7}))]});
    assert_eq!(kinto.post("/batch", requests).await.status, 200);
    assert!(kinto.aws.requests().of("TransactWriteItems") > 1);
    assert_eq!(ids(&kinto.get(&path).await), ["f"]);
    // A collection that is made anew has nothing of what was remembered.
    kinto.delete(COLLECTION).await;
    assert_eq!(kinto.get(&path).await.error(), (404, 111));
    kinto.put(COLLECTION, json!({})).await;
    assert_eq!(ids(&kinto.get(&path).await), [""; 0]);
    put(&kinto, "g", json!({"last_modified": 3})).await;
    assert_eq!(ids(&kinto.get(&path).await), ["g"]);
}

#[tokio::test]
async fn a_changeset_is_for_who_may_read_the_collection() {
    let kinto = Kinto::with_collection().await;
    let status = async |user, path: &str| {
        let answer = kinto.as_user(user).get(path).await;
        (answer.status, answer.body["errno"].as_u64())
    };
    let of_one = format!("{CHANGESET}?_expected=1");
    assert_eq!(status(NOBODY, &of_one).await, (401, Some(104)));
    assert_eq!(status(BOB, &of_one).await, (403, Some(121)));
    // Permissions go before parameters.
    assert_eq!(status(NOBODY, CHANGESET).await, (401, Some(104)));
    let unknown = "/buckets/main/collections/two/changeset?_expected=1";
    assert_eq!(kinto.get(unknown).await.error(), (404, 111));
    assert_eq!(status(BOB, unknown).await, (403, Some(121)));
    let invalid = "/buckets/main/collections/-/changeset?_expected=1";
    assert_eq!(kinto.get(invalid).await.status, 403);
    let unknown = "/buckets/none/collections/one/changeset?_expected=1";
    assert_eq!(kinto.get(unknown).await.error(), (403, 121));
    assert_eq!(status(NOBODY, unknown).await, (401, Some(104)));

    let public = json!({"permissions": {"read": ["system.Everyone"]}});
    kinto.patch(COLLECTION, public).await;
    assert_eq!(status(NOBODY, &of_one).await, (200, None));
    for write in ["POST", "PUT", "PATCH", "DELETE"] {
        let refused = kinto.send(write, &of_one, &[], "").await;
        assert_eq!(
            (refused.error(), refused.header("allow")),
            ((405, 115), "GET, HEAD, OPTIONS")
        );
    }
}

#[tokio::test]
async fn what_is_asked_for_must_make_sense() {
    let kinto = Kinto::with_collection().await;
    for path in [CHANGESET.to_owned(), format!("{MONITOR}/changeset")] {
        let missing = kinto.get(&path).await;
        assert_eq!(missing.error(), (400, 107));
        let required =
            json!([{"location": "querystring", "name": "_expected", "description": "Required"}]);
        assert_eq!(missing.body["details"], required);
        for wrong in [
            "_since=abc",
            "_since=%22",
            "_since=4102444800001",
            "_limit=x",
        ] {
            let refused = kinto.get(&format!("{path}?_expected=1&{wrong}")).await;
            assert_eq!(refused.error(), (400, 107), "{wrong}");
        }
    }
}

#[tokio::test]
async fn nothing_of_an_earlier_life_shows() {
    let kinto = Kinto::with_collection().await;
    put(&kinto, "old", json!({})).await;
    let before = kinto.get(&format!("{CHANGESET}?_expected=1")).await;
    kinto.delete(COLLECTION).await;
    assert_eq!(
        kinto.get(&format!("{CHANGESET}?_expected=1")).await.error(),
        (404, 111)
    );
    kinto.put(COLLECTION, json!({})).await;
    for query in [
        "_expected=1",
        "_expected=1&_since=1",
        "_expected=1&_limit=5",
    ] {
        let empty = kinto.get(&format!("{CHANGESET}?{query}")).await;
        assert_eq!(ids(&empty), [""; 0]);
        assert!(empty.body["timestamp"].as_u64() > before.body["timestamp"].as_u64());
    }
    put(&kinto, "new", json!({})).await;
    let limited = kinto
        .get(&format!("{CHANGESET}?_expected=1&_limit=5"))
        .await;
    assert_eq!(ids(&limited), ["new"]);
}

#[tokio::test]
async fn who_has_a_changeset_is_answered_304_until_records_or_metadata_change() {
    let kinto = Kinto::with_collection().await;
    put(&kinto, "a", json!({})).await;
    let path = format!("{CHANGESET}?_expected=1");
    let mut etag = String::new();
    for change in ["none", "record", "metadata"] {
        match change {
            "record" => _ = put(&kinto, "a", json!({})).await,
            "metadata" => _ = kinto.put(COLLECTION, json!({"data": {"n": 1}})).await,
            _ => {}
        }
        let fresh = kinto
            .send("GET", &path, &[("if-none-match", &etag)], "")
            .await;
        assert_eq!(fresh.status, 200, "{change}");
        etag = fresh.header("etag").to_owned();
        kinto.aws.requests().take();
        let known = kinto
            .send("GET", &path, &[("if-none-match", &etag)], "")
            .await;
        assert_eq!((known.status, known.header("etag")), (304, &*etag));
        assert_eq!(kinto.aws.requests().total(), 1);
    }
}

#[tokio::test]
async fn an_answer_that_lambda_could_not_give_is_refused_and_not_cut() {
    let kinto = Kinto::with_collection().await;
    let text = "\"".repeat(150_000);
    for n in 0..21 {
        put(&kinto, &format!("r{n}"), json!({"text": text})).await;
    }
    let refused = kinto.get(&format!("{CHANGESET}?_expected=1")).await;
    assert_eq!(refused.error(), (413, 113), "{:?}", refused.body["message"]);
    let limited = kinto
        .get(&format!("{CHANGESET}?_expected=1&_limit=5"))
        .await;
    assert_eq!(ids(&limited), ["r20", "r19", "r18", "r17", "r16"]);
    // What is left in the table of an earlier life does not count.
    kinto.delete(COLLECTION).await;
    kinto.put(COLLECTION, json!({})).await;
    let empty = kinto.get(&format!("{CHANGESET}?_expected=1")).await;
    assert_eq!(ids(&empty), [""; 0]);
}

#[tokio::test]
async fn a_collection_in_the_hand_of_a_transaction_is_read_again() {
    let kinto = Kinto::with_collection().await;
    let path = format!("{CHANGESET}?_expected=1");
    let met = Arc::new(AtomicUsize::new(0));
    let times = Arc::clone(&met);
    kinto.aws.inject(move |target, _| {
        let hit = target.ends_with("TransactGetItems") && times.fetch_add(1, Ordering::SeqCst) < 3;
        hit.then(|| Fault::transaction_canceled(&["None", "TransactionConflict"]))
    });
    assert_eq!(kinto.get(&path).await.status, 200);
    assert_eq!(met.load(Ordering::SeqCst), 4);
    kinto.aws.inject(|target, _| {
        let hit = target.ends_with("TransactGetItems");
        hit.then(|| Fault::transaction_canceled(&["TransactionConflict"]))
    });
    let refused = kinto.get(&path).await;
    assert_eq!(
        (refused.error(), refused.header("retry-after")),
        ((503, 201), "3")
    );
}

#[tokio::test(start_paused = true)]
async fn a_changeset_waits_for_what_is_being_committed_whether_the_process_remembers_it_or_not() {
    let kinto = Kinto::with_collection().await;
    let partition = "/buckets/main/collections/one#record";
    let path = format!("{CHANGESET}?_expected=1");
    put(&kinto, "a", json!({})).await;
    let cases = [None, Some(1000)].into_iter();
    let cases = cases.flat_map(|past| ["", "&_limit=9", "&_since=1"].map(|query| (past, query)));
    for (n, (past, query)) in cases.enumerate() {
        let id = format!("r{n}");
        let path = format!("{path}{query}");
        let knows_it = Kinto::over(&kinto.aws, &[]);
        assert_eq!(knows_it.get(&path).await.status, 200);
        let knows_nothing = Kinto::over(&kinto.aws, &[]);
        let data = past.map_or(
            json!({}),
            |past: u64| json!({"last_modified": past + n as u64}),
        );
        put(&kinto, &id, data).await;
        for process in [knows_it, knows_nothing] {
            let item = kinto.take_item(partition, &id).await;
            let refused = process.get(&path).await;
            assert_eq!(refused.error(), (503, 201), "{past:?} {query}");
            let there = kinto.clone();
            let committed = tokio::spawn(async move {
                sleep(Duration::from_millis(400)).await;
                there.put_item(item).await;
            });
            let answer = process.get(&path).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let shown = format!("\"{id}\"");
            assert!(
                answer.body["changes"].to_string().contains(&shown),
                "{answer:?}"
            );
            committed.await.unwrap();
        }
    }
}

/// What another does to the collection while its changeset is read.
#[derive(Clone, Debug)]
enum Write {
    /// A record is written, under a time of its list or under this one.
    Put(u8, Option<u64>),
    /// Two are written at once, the second one under a past time.
    Both(u8, u8, u64),
    Delete(u8),
    /// All records are deleted.
    Clear,
    Metadata,
    /// The collection is deleted and made anew.
    Anew,
}

/// One request for the changeset.
#[derive(Clone, Debug)]
struct Ask {
    /// To which of two processes.
    process: usize,
    since: Option<usize>,
    limit: Option<usize>,
    /// What happens before each of its requests to the table.
    schedule: Vec<Vec<Write>>,
}

/// A state that the collection had: timestamp, metadata, records and tombstones, the latest first.
type State = (Value, Value, Vec<Value>);

/// The collection as its other endpoints tell it while nobody writes; `None` when it is not there.
async fn state(kinto: &Kinto) -> Option<State> {
    let collection = kinto.get(COLLECTION).await;
    let listed = kinto.get(&format!("{COLLECTION}/records?_since=0")).await;
    if collection.status == 404 {
        return None;
    }
    let mut metadata = collection.body["data"].clone();
    metadata["bucket"] = "main".into();
    let timestamp = listed
        .header("etag")
        .trim_matches('"')
        .parse::<u64>()
        .unwrap();
    let records = listed.body["data"].as_array().unwrap().clone();
    Some((timestamp.into(), metadata, records))
}

async fn write(kinto: &Kinto, write: &Write, states: &Mutex<Vec<State>>) {
    let data = |at: &Option<u64>| match at {
        Some(at) => json!({"by": "rival", "last_modified": at}),
        None => json!({"by": "rival"}),
    };
    let records = format!("{COLLECTION}/records");
    match write {
        Write::Put(n, at) => _ = put(kinto, &format!("r{n}"), data(at)).await,
        Write::Both(n, m, at) => {
            let one = |n, at| {
                let path = format!("/v1{records}/r{n}");
                json!({"method": "PUT", "path": path, "body": {"data": data(&at)}})
            };
            let requests = json!({"requests": [one(n, None), one(m, Some(*at))]});
            assert_eq!(kinto.post("/batch", requests).await.status, 200);
        }
        Write::Delete(n) => _ = kinto.delete(&format!("{records}/r{n}")).await,
        Write::Clear => _ = kinto.delete(&records).await,
        Write::Metadata => _ = kinto.put(COLLECTION, json!({"data": {"n": now()}})).await,
        Write::Anew => {
            kinto.delete(COLLECTION).await;
            kinto.put(COLLECTION, json!({})).await;
        }
    }
    let now = state(kinto).await;
    states.lock().unwrap().extend(now);
}

fn ask() -> impl Strategy<Value = Ask> {
    let write = prop_oneof![
        6 => (0..8_u8).prop_map(|n| Write::Put(n, None)),
        // Records of which some are there, some were deleted, and some never were.
        3 => (0..16_u8, 1..1_000_u64).prop_map(|(n, at)| Write::Put(n, Some(at))),
        1 => (0..8_u8, 8..16_u8, 1..1_000_u64).prop_map(|(n, m, at)| Write::Both(n, m, at)),
        4 => (0..8_u8).prop_map(Write::Delete),
        1 => Just(Write::Clear),
        3 => Just(Write::Metadata),
        1 => Just(Write::Anew),
    ];
    (
        prop_oneof![3 => Just(0_usize), 1 => Just(1)],
        prop_oneof![2 => Just(None), 1 => (0..12_usize).prop_map(Some)],
        prop_oneof![3 => Just(None), 1 => (1..4_usize).prop_map(Some)],
        prop::collection::vec(prop::collection::vec(write, 0..3), 0..6),
    )
        .prop_map(|(process, since, limit, schedule)| Ask {
            process,
            since,
            limit,
            schedule,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(24), ..ProptestConfig::default() })]

    /// Invariant 5: whatever is written between any two requests of changesets, whatever was asked for before, each
    /// is a state that there was while it was asked for.
    #[test]
    fn a_changeset_is_one_moments_state(
        has_pages in prop::bool::weighted(0.3),
        asks in prop::collection::vec(ask(), 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(has_pages, asks));
    }
}

#[tokio::test]
async fn a_changeset_is_one_moments_state_where_it_once_was_not() {
    let ask = |since, limit, schedule: [&[Write]; 4]| Ask {
        process: 0,
        since,
        limit,
        schedule: schedule.map(<[Write]>::to_vec).to_vec(),
    };
    let (new, past) = (Write::Put(7, None), Write::Put(6, Some(1)));
    let past_of_anew = Write::Put(7, Some(574));
    for ask in [
        // Moved back behind what is read.
        ask(None, None, [&[], &[], &[past.clone(), new.clone()], &[]]),
        ask(Some(0), Some(2), [&[], &[new], &[past], &[Write::Metadata]]),
        ask(None, Some(3), [&[], &[], &[], &[Write::Delete(4)]]),
        // Left of decision 11: what is read is partly of another life, and nothing in it is later.
        ask(None, None, [&[], &[Write::Anew, past_of_anew], &[], &[]]),
    ] {
        play(true, vec![ask]).await;
    }
}

/// Asks for changesets while others write, and finds each answer among the states that there were.
async fn play(has_pages: bool, asks: Vec<Ask>) {
    let kinto = Kinto::with_collection().await;
    // Large records among the small ones make it two pages.
    let mut times = vec![1];
    for n in 0..8 {
        let is_large = has_pages && n < 6 && n % 2 == 0;
        let text = "x".repeat(if is_large { 380_000 } else { 0 });
        times.push(put(&kinto, &format!("r{n}"), json!({"text": text})).await);
    }
    for n in [1, 6] {
        let gone = kinto.delete(&format!("{COLLECTION}/records/r{n}")).await;
        times.push(gone.last_modified());
    }
    put(&kinto, "past", json!({"last_modified": 5})).await;
    let states = Arc::new(Mutex::new(vec![]));
    let first = state(&kinto).await;
    states.lock().unwrap().extend(first);
    let processes = [kinto.clone(), Kinto::over(&kinto.aws, &[])];
    for ask in asks {
        let since = ask.since.map(|n| times.get(n).copied().unwrap_or_else(now));
        let before = states.lock().unwrap().len() - 1;
        let has_read = interfere(&kinto, ask.schedule, &states);
        let mut path = format!("{CHANGESET}?_expected=1");
        path.extend(since.map(|since| format!("&_since={since}")));
        path.extend(ask.limit.map(|limit| format!("&_limit={limit}")));
        let changeset = processes[ask.process].get(&path).await;
        kinto.aws.heal();
        // With a collection that changes each time that it is looked at, it may be given up.
        if changeset.status == 503 {
            continue;
        }
        assert_eq!(changeset.status, 200, "{:?}", changeset.body);
        let states = &states.lock().unwrap()[before..];
        check(
            &changeset,
            states,
            since,
            ask.limit,
            has_read.load(Ordering::SeqCst),
        );
    }
}

/// Has others write before each of the next requests to the table, and notes the states that come of it. What is
/// returned becomes true when one of these requests is a query.
fn interfere(
    kinto: &Kinto,
    schedule: Vec<Vec<Write>>,
    states: &Arc<Mutex<Vec<State>>>,
) -> Arc<AtomicBool> {
    let has_read = Arc::new(AtomicBool::new(false));
    let reads = Arc::clone(&has_read);
    let (rival, seen, busy) = (kinto.clone(), Arc::clone(states), AtomicBool::new(false));
    let left = Mutex::new(schedule.into_iter());
    kinto.aws.inject(move |target, _| {
        if busy.swap(true, Ordering::SeqCst) {
            return None;
        }
        reads.fetch_or(target.ends_with("Query"), Ordering::SeqCst);
        let writes = left.lock().unwrap().next().unwrap_or_default();
        let (rival, seen) = (rival.clone(), Arc::clone(&seen));
        // In a thread of its own: this one is in the middle of the request that the rival is to come before.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                for one in &writes {
                    write(&rival, one, &seen).await;
                }
            });
        });
        thread.join().unwrap();
        busy.store(false, Ordering::SeqCst);
        None
    });
    has_read
}

/// Finds a changeset among the states that there were, in their order.
///
/// When records were read (`has_read`), what was written under past times alone while they were may show in them, or
/// some of it, with the metadata from just before (decision 11).
fn check(
    changeset: &Answer,
    states: &[State],
    since: Option<u64>,
    limit: Option<usize>,
    has_read: bool,
) {
    let shown = changeset.body["changes"].as_array().unwrap();
    let wants = |record: &&Value| match since {
        Some(since) => record["last_modified"].as_u64().unwrap() > since,
        None => record["deleted"] != true,
    };
    let has_records = |(timestamp, _, records): &State| {
        let wanted = records.iter().filter(wants);
        changeset.body["timestamp"] == *timestamp
            && wanted.take(limit.unwrap_or(usize::MAX)).eq(shown)
    };
    let has_metadata = |(timestamp, metadata, _): &State| {
        changeset.body["timestamp"] == *timestamp && changeset.body["metadata"] == *metadata
    };
    let first = states.iter().position(has_metadata);
    let is_one = |(n, state): (usize, &State)| {
        let is_later = has_read && first.is_some_and(|first| first <= n);
        has_records(state) && (is_later || has_metadata(state))
    };
    let is_past_alone = first.is_some_and(|first| {
        let (states, timestamp) = (&states[first..], &changeset.body["timestamp"]);
        let is_past = |record: &Value| record["last_modified"].as_u64() <= timestamp.as_u64();
        let has = |(.., records): &State, record| records.contains(record);
        let wanted = states[0].2.iter().filter(|record| wants(record));
        let mut left_out = wanted.filter(|record| !shown.contains(record));
        states
            .iter()
            .all(|(.., records)| records.iter().all(is_past))
            && shown
                .iter()
                .all(|record| states.iter().any(|state| has(state, record)))
            && (limit.is_some()
                || left_out.all(|record| states.iter().any(|state| !has(state, record))))
    });
    let is_one = states.iter().enumerate().any(is_one);
    let is_left = has_read && is_past_alone;
    if !is_one && !is_left {
        let brief = |records: &[Value]| {
            let each = records
                .iter()
                .map(|r| format!("{}@{}", r["id"], r["last_modified"]));
            each.collect::<Vec<_>>().join(" ")
        };
        let states = states
            .iter()
            .map(|(t, m, r)| format!("{t} {m} {}", brief(r)));
        panic!(
            "since {since:?}, limit {limit:?}: {} {} {}\nwas never:\n{}",
            changeset.body["timestamp"],
            changeset.body["metadata"],
            brief(shown),
            states.collect::<Vec<_>>().join("\n")
        );
    }
}

#[tokio::test]
async fn the_monitors_changeset_is_public_and_has_the_highest_timestamp() {
    let kinto = Kinto::with(&[("KINTO_CHANGES_SINCE_MAX_AGE_DAYS", "-1")]).as_user(NOBODY);
    let empty = kinto.get(&format!("{MONITOR}/changeset?_expected=1")).await;
    let nothing = json!({"metadata": {}, "timestamp": 0, "changes": []});
    assert_eq!((empty.status, empty.body), (200, nothing));

    monitor(
        &kinto,
        &[
            ("main", "one", 10, false),
            ("main", "two", 30, false),
            ("main", "gone", 40, true),
            ("other", "hidden", 50, false),
        ],
    );
    let all = kinto.get(&format!("{MONITOR}/changeset?_expected=1")).await;
    let listed = kinto.get(&format!("{MONITOR}/records")).await;
    assert_eq!(all.body["timestamp"], 40);
    assert_eq!(all.body["changes"], listed.body["data"]);
    assert_eq!(all.header("etag"), "\"40\"");
    assert_eq!(all.header("last-modified"), listed.header("last-modified"));
    assert_eq!(kinto.aws.requests().total(), 2);

    for (query, expected) in [
        ("_since=10", &["two"][..]),
        ("_since=%2230%22", &[]),
        ("_since=50", &[]),
        ("_limit=1", &["two"]),
        ("bucket=main&collection=one", &["one"]),
        ("bucket=other", &[]),
        ("collection=two&_since=30", &[]),
    ] {
        let changeset = kinto
            .get(&format!("{MONITOR}/changeset?_expected=1&{query}"))
            .await;
        assert_eq!(changeset.body["timestamp"], 40, "{query}");
        let changes = changeset.body["changes"].as_array().unwrap();
        let collections: Vec<_> = changes
            .iter()
            .map(|c| c["collection"].as_str().unwrap())
            .collect();
        assert_eq!(collections, expected, "{query}");
    }
    let known = [("if-none-match", "\"40\"")];
    let path = format!("{MONITOR}/changeset?_expected=1");
    assert_eq!(kinto.send("GET", &path, &known, "").await.status, 304);
    for write in ["POST", "PUT", "PATCH", "DELETE"] {
        assert_eq!(kinto.send(write, &path, &[], "").await.error(), (405, 115));
    }
}

#[tokio::test]
async fn filters_and_sorts_by_last_modified_go_by_the_collections_timestamp_and_paging_by_the_position()
 {
    let kinto = Kinto::with(&[("KINTO_CHANGES_SINCE_MAX_AGE_DAYS", "-1")]).as_user(NOBODY);
    // Seven collections that changed at the same time, and one earlier of which the monitor heard last.
    let names: Vec<_> = (0..7).map(|n| format!("c{n}")).collect();
    let mut entries: Vec<_> = names
        .iter()
        .map(|name| ("main", &**name, 20, false))
        .collect();
    entries.push(("main", "late", 10, false));
    monitor(&kinto, &entries);

    let listed = async |query: &str| {
        let answer = kinto.get(&format!("{MONITOR}/records?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        assert_eq!(answer.header("etag"), "\"27\"");
        let data = answer.body["data"].as_array().unwrap();
        assert!(data.iter().all(|entry| entry.get("position").is_none()));
        let names = data
            .iter()
            .map(|entry| entry["collection"].as_str().unwrap().to_owned());
        let names: Vec<String> = names.collect();
        let next = answer.header("next-page").split("/v1").nth(1);
        (names, next.map(str::to_owned))
    };
    let newest_first = ["late", "c6", "c5", "c4", "c3", "c2", "c1", "c0"];
    assert_eq!(listed("").await.0, newest_first);
    assert_eq!(listed("_since=25").await.0, ["late", "c6"]);
    assert_eq!(listed("_before=22&_limit=9").await.0, ["c1", "c0"]);
    assert_eq!(listed("last_modified=10").await.0, ["late"]);
    assert_eq!(listed("lt_last_modified=20").await.0, ["late"]);
    assert_eq!(listed("gt_last_modified=10&_since=25").await.0, ["c6"]);
    assert_eq!(
        listed("_sort=last_modified&_limit=2").await.0,
        ["late", "c6"]
    );
    assert_eq!(listed("_fields=collection").await.0, newest_first);
    for unknown in ["position=20", "_sort=position", "_fields=position"] {
        let path = format!("{MONITOR}/records?{unknown}");
        assert_eq!(kinto.get(&path).await.error(), (400, 107), "{unknown}");
    }

    for query in [
        "",
        "&_sort=last_modified",
        "&_sort=-last_modified,bucket",
        "&_since=19",
        "&_fields=collection",
    ] {
        let mut path = format!("{MONITOR}/records?_limit=2{query}");
        let mut all = vec![];
        loop {
            let (names, next) = listed(path.split_once('?').unwrap().1).await;
            all.extend(names);
            let Some(next) = next else { break };
            path = next;
        }
        all.sort_unstable();
        let mut every: Vec<_> = newest_first.map(str::to_owned).to_vec();
        every.sort_unstable();
        assert_eq!(all, every, "{query}");
    }
}

#[tokio::test]
async fn what_a_clock_that_is_ahead_said_is_taken_back() {
    let kinto = Kinto::new().as_user(NOBODY);
    let ahead = now() + 3 * 24 * 60 * 60 * 1000;
    monitor(
        &kinto,
        &[("main", "one", ahead, false), ("main", "two", ahead, false)],
    );
    for path in ["records?", "changeset?_expected=1&"] {
        let all = kinto.get(&format!("{MONITOR}/{path}")).await;
        assert_eq!(all.header("etag"), format!("\"{}\"", ahead + 1));
        for (since, count) in [(ahead + 1, 0), (ahead, 1)] {
            let again = kinto
                .get(&format!("{MONITOR}/{path}_since=%22{since}%22"))
                .await;
            assert_eq!(again.status, 200, "{path}");
            let key = if path.starts_with("records") {
                "data"
            } else {
                "changes"
            };
            assert_eq!(again.body[key].as_array().unwrap().len(), count);
        }
    }
}

#[tokio::test]
async fn a_first_poll_reads_the_state_and_those_entries_alone_that_it_needs_besides() {
    let vars = [("KINTO_CHANGES_SINCE_MAX_AGE_DAYS", "-1")];
    let kinto = Kinto::with(&vars);
    for (collection, position, deleted) in [("a", 10, false), ("b", 20, false), ("c", 30, true)] {
        let entry = json!({
            "pk": "#monitor", "sk": format!("/buckets/main/collections/{collection}"), "bucket": "main",
            "collection": collection, "last_modified": position, "collection_timestamp": position, "deleted": deleted,
        });
        put_item(&kinto.aws, &entry);
    }
    let state = |latest: Value| {
        let state = json!({
            "pk": "#monitor", "sk": "#state", "clock": 40, "floor": 30, "latest": latest, "due": {}, "adopted": 0,
        });
        put_item(&kinto.aws, &state);
    };
    let queries = async |path: &str, etag: &str| {
        kinto.aws.requests().take();
        let process = Kinto::over(&kinto.aws, &vars).as_user(NOBODY);
        let answer = process.get(&format!("{MONITOR}/{path}")).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("etag"), etag, "{path}");
        let requests = kinto.aws.requests().take();
        assert_eq!(requests["GetItem"], 1);
        requests.get("Query").copied().unwrap_or_default()
    };
    state(json!({}));
    for path in [
        "records",
        "records?_since=30",
        "records?_since=15&_sort=last_modified",
        "changeset?_expected=1&_since=30",
        "changeset?_expected=1&_since=0",
    ] {
        assert_eq!(queries(path, "\"30\"").await, 1, "{path}");
    }
    // A change that the settings hide does not tell the highest position of what they show.
    state(json!({"other/hidden": [40, 40]}));
    assert_eq!(queries("records?_since=31", "\"30\"").await, 1);
    // One that is shown is the highest.
    state(json!({"main/d": [39, 35], "other/hidden": [40, 40]}));
    assert_eq!(queries("records?_since=30", "\"39\"").await, 0);
    assert_eq!(queries("records?_since=40", "\"39\"").await, 0);
    assert_eq!(queries("records?_since=29", "\"39\"").await, 1);
    assert_eq!(queries("records", "\"39\"").await, 1);
}

#[tokio::test]
async fn the_settings_of_the_monitor_show_at_once() {
    let kinto = Kinto::with(&[]);
    let at = now();
    monitor(
        &kinto,
        &[("main", "one", at, false), ("other", "two", at, false)],
    );
    let shown = async |vars: &[(&str, &str)]| {
        let other = Kinto::over(&kinto.aws, vars);
        let answer = other
            .get(&format!("{MONITOR}/records?_sort=collection"))
            .await;
        let entries = answer.body["data"].as_array().unwrap().clone();
        let capabilities =
            other.get("/").await.body["capabilities"]["changes"]["collections"].clone();
        (entries, capabilities)
    };
    let both = "/buckets/main /buckets/other/collections/two";
    let (entries, collections) =
        shown(&[("KINTO_CHANGES_RESOURCES", both), ("KINTO_HTTP_HOST", "h")]).await;
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["host"], "h");
    assert_eq!(
        collections,
        json!(["/buckets/main", "/buckets/other/collections/two"])
    );
    let (excluded, _) = shown(&[
        ("KINTO_CHANGES_RESOURCES", both),
        (
            "KINTO_CHANGES_EXCLUDED_COLLECTIONS",
            "/buckets/main/collections/one",
        ),
        ("KINTO_HTTP_HOST", "h"),
        ("KINTO_CHANGES_HTTP_HOST", "other"),
    ])
    .await;
    assert_eq!(excluded.len(), 1);
    assert_eq!(
        (&excluded[0]["collection"], &excluded[0]["host"]),
        (&json!("two"), &json!("other"))
    );
    assert_ne!(excluded[0]["id"], entries[1]["id"]);
}

#[tokio::test]
async fn an_old_since_is_sent_to_the_whole_list() {
    let host = ("KINTO_CHANGES_HTTP_HOST", "cdn.example");
    let kinto = Kinto::with(&[host]).as_user(NOBODY);
    let month_ago = now() - 30 * 24 * 60 * 60 * 1000;
    for (asked, location) in [
        (format!("records?_since={month_ago}"), "records"),
        (
            "records?_since=-1&bucket=main".to_owned(),
            "records?bucket=main",
        ),
        (
            format!("changeset?_expected=a%20b&%5Fsince=%22{month_ago}%22&_limit=2"),
            "changeset?_expected=a%20b&_limit=2",
        ),
    ] {
        let redirect = kinto.get(&format!("{MONITOR}/{asked}")).await;
        assert_eq!(redirect.status, 307, "{asked}");
        let url = format!("https://cdn.example/v1{MONITOR}/{location}");
        assert_eq!(redirect.header("location"), url);
        assert_eq!(redirect.header("cache-control"), "max-age=86400");
        assert_ne!(redirect.header("expires"), "");
    }
    let week_ago = now() - 7 * 24 * 60 * 60 * 1000;
    let recent = format!("{MONITOR}/records?_since={week_ago}");
    assert_eq!(kinto.get(&recent).await.status, 200);
    assert_eq!(
        kinto
            .get(&format!("{MONITOR}/records?_since=abc"))
            .await
            .error(),
        (400, 107)
    );

    let kinto = Kinto::with(&[
        ("KINTO_CHANGES_SINCE_MAX_AGE_DAYS", "5"),
        ("KINTO_CHANGES_SINCE_MAX_AGE_REDIRECT_TTL_SECONDS", "-1"),
    ]);
    let redirect = kinto.get(&recent).await;
    let url = format!("/v1{MONITOR}/records");
    assert_eq!((redirect.status, redirect.header("location")), (307, &*url));
    assert_eq!(redirect.header("cache-control"), "no-store");
    let kinto = Kinto::with(&[("KINTO_CHANGES_SINCE_MAX_AGE_DAYS", "-1")]);
    assert_eq!(
        kinto
            .get(&format!("{MONITOR}/records?_since=1"))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn the_successor_differs_in_four_answers() {
    let includes = (
        "KINTO_INCLUDES",
        "kinto_megaphone kinto_remote_settings.changes",
    );
    let (original, successor) = (Kinto::with(&[]), Kinto::with(&[includes]));
    let at = now();
    for kinto in [&original, &successor] {
        monitor(kinto, &[("main", "one", at, false)]);
    }
    let etag = format!("\"{at}\"");
    let both = async |path: &str, headers: &[(&str, &str)]| {
        let path = format!("{MONITOR}/{path}");
        (
            original.send("GET", &path, headers, "").await,
            successor.send("GET", &path, headers, "").await,
        )
    };
    let (a, b) = both("changeset?_expected=1", &[]).await;
    assert_eq!(a.body["metadata"], json!({}));
    assert_eq!(b.body["metadata"], json!({"bucket": "monitor"}));

    // An empty list answers only who says by `_since` what it has. Of the plain URL a cache would take it for all
    // there is.
    let known = [("if-none-match", &*etag)];
    for (plain, since) in [
        ("records".to_owned(), format!("records?_since={at}")),
        (
            "changeset?_expected=1".to_owned(),
            format!("changeset?_expected={at}&_since={at}"),
        ),
    ] {
        let (a, b) = both(&plain, &known).await;
        assert_eq!((a.status, b.status, &b.body), (304, 304, &Value::Null));
        let (a, b) = both(&since, &known).await;
        assert_eq!((a.status, b.status), (304, 200), "{since}");
        let changes = b.body.get("data").unwrap_or(&b.body["changes"]);
        assert_eq!((changes, b.header("etag")), (&json!([]), &*etag));
    }

    for path in ["records", "changeset"] {
        let stale = format!("{path}?_since={at}&_expected={}", at - 1);
        let (a, b) = both(&stale, &[]).await;
        assert_eq!((a.status, b.status), (200, 204));
        assert_eq!(b.header("cache-control"), "private, max-age=86400");
        let (_, b) = both(&format!("{path}?_since={at}&_expected=0"), &[]).await;
        assert_eq!(b.status, 200);
    }

    let (a, b) = both("changeset?_expected=%2212%22&bucket=main", &[]).await;
    assert_eq!((a.status, b.status), (200, 307));
    let url = format!("/v1{MONITOR}/changeset?_expected=12&bucket=main");
    assert_eq!(
        (b.header("location"), b.header("cache-control")),
        (&*url, "no-store")
    );
}

#[tokio::test]
async fn what_is_set_for_a_bucket_reaches_changesets_in_kinto_changes_successor() {
    let kinto = Kinto::with(&[
        ("KINTO_INCLUDES", "kinto_remote_settings"),
        ("KINTO_MAIN_RECORD_CACHE_EXPIRES_SECONDS", "10"),
    ]);
    let public = json!({"permissions": {"read": ["system.Everyone"]}});
    kinto.put("/buckets/main", public).await;
    kinto.put(COLLECTION, json!({})).await;
    let changeset = format!("{CHANGESET}?_expected=1");
    let answer = kinto.as_user(NOBODY).get(&changeset).await;
    assert_eq!(answer.header("cache-control"), "max-age=10");
}

#[tokio::test]
async fn changes_are_kept_for_as_long_as_the_settings_say() {
    let kinto = Kinto::with(&[
        ("KINTO_MONITOR_CHANGES_RECORD_CACHE_EXPIRES_SECONDS", "60"),
        (
            "KINTO_MONITOR_CHANGES_RECORD_CACHE_MAXIMUM_EXPIRES_SECONDS",
            "3600",
        ),
        (
            "KINTO_MONITOR_CHANGES_RECORD_CACHE_MINIMUM_EXPIRES_SECONDS",
            "5",
        ),
        ("KINTO_MAIN_RECORD_CACHE_EXPIRES_SECONDS", "10"),
    ]);
    let at = now();
    monitor(&kinto, &[("main", "one", at, false)]);
    let anonymous = kinto.as_user(NOBODY);
    for (path, seconds) in [
        ("records".to_owned(), 60),
        ("records?bucket=main".to_owned(), 60),
        ("records?_expected=0".to_owned(), 5),
        ("changeset?_expected=0".to_owned(), 5),
        ("changeset?_expected=9999123".to_owned(), 5),
        ("changeset?_expected=abc".to_owned(), 5),
        // The very state will never be another; one that is past is answered with a newer one, one to come with an
        // older one.
        (format!("records?_expected={at}"), 3600),
        (format!("changeset?_expected={at}"), 3600),
        (format!("changeset?_expected=%22{at}%22"), 3600),
        (format!("changeset?_expected=W/%22{at}%22"), 3600),
        (format!("changeset?_expected={}", at - 1), 5),
        (format!("changeset?_expected={}", at + 1), 5),
    ] {
        let path = format!("{MONITOR}/{path}");
        let own = kinto.get(&path).await;
        assert_eq!(own.header("cache-control"), "no-cache, no-store", "{path}");
        assert_eq!(own.header("expires"), "");
        let answer = anonymous.get(&path).await;
        assert_eq!(answer.status, 200, "{path}");
        let vary = answer.header("vary");
        assert_eq!(vary, "authorization, accept-encoding", "{path}");
        assert_eq!(
            answer.header("cache-control"),
            format!("max-age={seconds}"),
            "{path}"
        );
        let expires = httpdate::parse_http_date(answer.header("expires")).unwrap();
        let left = expires
            .duration_since(std::time::SystemTime::now())
            .unwrap_or_default();
        assert!(left.as_secs().abs_diff(seconds) <= 2, "{path}: {left:?}");
    }
    let unset = Kinto::with(&[]).as_user(NOBODY);
    let uncached = unset.get(&format!("{MONITOR}/records")).await;
    assert_eq!(uncached.header("cache-control"), "no-cache, no-store");

    let public = json!({"permissions": {"read": ["system.Everyone"]}});
    kinto.put("/buckets/main", public).await;
    kinto.put(COLLECTION, json!({})).await;
    let path = format!("{CHANGESET}?_expected=1");
    let own = kinto.get(&path).await;
    assert_eq!(own.header("cache-control"), "no-cache, no-store");
    let answer = anonymous.get(&path).await;
    assert_eq!(answer.header("cache-control"), "no-cache, no-store");
    let records = anonymous.get(&format!("{COLLECTION}/records")).await;
    assert_eq!(records.header("cache-control"), "max-age=10");

    // Where anonymous users write they are to see what they wrote.
    let open =
        json!({"permissions": {"read": ["system.Everyone"], "record:create": ["system.Everyone"]}});
    kinto.put(COLLECTION, open).await;
    for path in [path, format!("{COLLECTION}/records")] {
        let answer = anonymous.get(&path).await;
        assert_eq!(answer.header("cache-control"), "no-cache, no-store");
    }
}

#[tokio::test]
async fn one_setting_says_how_long_all_is_kept_that_has_no_setting_of_its_own() {
    let kinto = Kinto::with(&[
        ("KINTO_CACHE_EXPIRES_SECONDS", "60"),
        ("KINTO_COLLECTION_CACHE_EXPIRES_SECONDS", "0"),
        ("KINTO_MAIN_TWO_RECORD_CACHE_EXPIRES_SECONDS", "7"),
    ]);
    let public = json!({"permissions": {"read": ["system.Everyone"]}});
    kinto.put("/buckets/main", public).await;
    kinto.put(COLLECTION, json!({})).await;
    kinto.put("/buckets/main/collections/two", json!({})).await;
    let at = put(&kinto, "a", json!({})).await;
    let anonymous = kinto.as_user(NOBODY);
    for (path, lifetime) in [
        (format!("{MONITOR}/records"), "max-age=60"),
        (format!("{MONITOR}/changeset?_expected=0"), "max-age=60"),
        ("/buckets/main".to_owned(), "max-age=60"),
        ("/buckets/main/groups".to_owned(), "max-age=60"),
        (COLLECTION.to_owned(), "no-cache, no-store"),
        (format!("{COLLECTION}/records"), "max-age=60"),
        (format!("{COLLECTION}/records/a"), "max-age=60"),
        (format!("{CHANGESET}?_expected=0"), "max-age=60"),
        (format!("{CHANGESET}?_expected={at}"), "max-age=600"),
        (
            "/buckets/main/collections/two/records".to_owned(),
            "max-age=7",
        ),
        ("/".to_owned(), "no-store"),
    ] {
        let answer = anonymous.get(&path).await;
        assert_eq!(answer.header("cache-control"), lifetime, "{path}");
    }
}

#[tokio::test]
async fn records_are_kept_by_anonymous_users_for_as_long_as_is_set() {
    let public = json!({"permissions": {"read": ["system.Everyone"]}});
    let of = async |vars: &[(&str, &str)], collection: Value| {
        let kinto = Kinto::with(vars);
        kinto.put("/buckets/main", public.clone()).await;
        kinto.put(COLLECTION, json!({"data": collection})).await;
        put(&kinto, "a", json!({})).await;
        let record = format!("{COLLECTION}/records/a");
        assert_eq!(
            kinto.get(&record).await.header("cache-control"),
            "no-cache, no-store"
        );
        let anonymous = kinto.as_user(NOBODY);
        let listed = anonymous.get(&format!("{COLLECTION}/records")).await;
        let answer = anonymous.get(&record).await;
        assert_eq!(
            listed.header("cache-control"),
            answer.header("cache-control")
        );
        assert_eq!(
            listed.header("expires").is_empty(),
            answer.header("expires").is_empty()
        );
        let bucket = anonymous.get("/buckets/main").await;
        (
            answer.header("cache-control").to_owned(),
            bucket.header("cache-control").to_owned(),
        )
    };
    let none = || "no-cache, no-store".to_owned();
    let kept = |seconds: u32| format!("max-age={seconds}");
    let all = ("KINTO_RECORD_CACHE_EXPIRES_SECONDS", "10");
    assert_eq!(of(&[], json!({})).await, (none(), none()));
    assert_eq!(of(&[all], json!({})).await, (kept(10), none()));
    assert_eq!(
        of(&[all], json!({"cache_expires": 5})).await,
        (kept(10), none())
    );
    assert_eq!(
        of(&[], json!({"cache_expires": 5})).await,
        (kept(5), none())
    );
    let bucket = ("KINTO_MAIN_RECORD_CACHE_EXPIRES_SECONDS", "20");
    assert_eq!(of(&[all, bucket], json!({})).await, (kept(20), none()));
    let one = ("KINTO_MAIN_ONE_RECORD_CACHE_EXPIRES_SECONDS", "0");
    let (never, _) = of(&[all, bucket, one], json!({})).await;
    assert!(never.starts_with("max-age=0, must-revalidate"), "{never}");
    let buckets = ("KINTO_BUCKET_CACHE_EXPIRES_SECONDS", "7");
    assert_eq!(of(&[buckets], json!({})).await, (none(), kept(7)));
}
