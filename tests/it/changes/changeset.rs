//! Changesets as in kinto-changes: content, permissions, `304`, and costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{CHANGESET, MONITOR, put};
use kinto_local::Fault;
use serde_json::{Value, json};
use tests::{ALICE, Answer, BOB, COLLECTION, Kinto, NOBODY, now};
use tokio::time::sleep;

/// The ids of the changes, in order.
fn ids(answer: &Answer) -> Vec<&str> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let changes = answer.body["changes"].as_array().unwrap();
    changes.iter().map(|c| c["id"].as_str().unwrap()).collect()
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
        // In a process with empty caches.
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
    kinto.aws.clear_faults();
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
    // The response, the number of requests, and the number of items read by queries.
    let get = async |kinto: &Kinto, query: &str| {
        kinto.aws.requests().take();
        items.store(0, Ordering::SeqCst);
        let answer = kinto.get(&format!("{CHANGESET}?_expected=1{query}")).await;
        assert_eq!(answer.status, 200, "{query}");
        assert_eq!(kinto.aws.requests().of("TransactGetItems"), 1, "{query}");
        let requests = kinto.aws.requests().total();
        (answer.body, requests, items.load(Ordering::SeqCst))
    };
    // The same from a process with empty caches.
    let afresh = async |query: &str| get(&Kinto::over(&kinto.aws, &[]), query).await.0;

    // A request for a part reads that part, and nothing is cached.
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
    // Others share the cache, once they may read the collection at all.
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

    // Only changes under later times are read, one written, one new, one deleted; and whether anything was backdated.
    for (n, query) in all_queries.into_iter().enumerate() {
        put(&kinto, "r5", json!({"again": n})).await;
        put(&kinto, &format!("new{n}"), json!({})).await;
        kinto
            .delete(&format!("{COLLECTION}/records/r{}", 10 + n))
            .await;
        let (answer, requests, read) = get(&kinto, query).await;
        assert_eq!((requests, read), (3, 3), "{query}");
        assert_eq!(answer, afresh(query).await, "{query}");
        assert_eq!(get(&kinto, query).await, (answer, 1, 0), "{query}");
    }
    // For a client that has seen more than is cached, only later changes are read.
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
    // Alone, or together with a later time, in either order.
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
    // A collection that is created again has none of the cached records.
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
    // Permissions are checked before parameters.
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
    // What an earlier generation left in the table does not count.
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
