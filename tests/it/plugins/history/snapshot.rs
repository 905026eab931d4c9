//! The records of a collection as they were at a moment.

use serde_json::{Value, json};
use tests::{Answer, BOB, BUCKET, COLLECTION, Kinto, NOBODY, RECORDS, clock_passes, now, record};

use super::{HISTORY, with_collection};

async fn snapshot(kinto: &Kinto, at: impl std::fmt::Display) -> Answer {
    kinto
        .get(&format!("{BUCKET}/snapshot/collections/one@{at}"))
        .await
}

async fn state(kinto: &Kinto) -> (u64, Value) {
    let list = kinto.get(RECORDS).await;
    let at = list.header("etag").trim_matches('"').parse().unwrap();
    (at, list.body["data"].clone())
}

#[tokio::test]
async fn each_moment_can_be_read_again() {
    let kinto = with_collection().await;
    let mut states = vec![];
    for n in 0..40 {
        let record = record(&format!("r{}", n % 7));
        let answer = match n % 5 {
            4 => kinto.delete(&record).await,
            3 => kinto.patch(&record, json!({"data": {"patched": n}})).await,
            _ => kinto.put(&record, json!({"data": {"n": n}})).await,
        };
        assert!([200, 201, 404].contains(&answer.status), "{answer:?}");
        states.push(state(&kinto).await);
        // In the same bucket, and often in the same shard.
        let other = format!("{BUCKET}/collections/c{n}");
        kinto.put(&other, json!({})).await;
        kinto
            .put(&format!("{other}/records/r{}", n % 7), json!({}))
            .await;
    }
    for (at, records) in &states {
        let answer = snapshot(&kinto, at).await;
        assert_eq!((answer.status, answer.header("etag")), (200, ""));
        let data = answer.body["data"].as_array().unwrap();
        // What was deleted by then and created again since is there as a tombstone (Kinto 26.5).
        let live: Vec<_> = data
            .iter()
            .filter(|it| it["deleted"] != json!(true))
            .collect();
        assert_eq!(json!(live), *records, "{at}");
    }
    let (at, _) = states[0];
    assert_eq!(snapshot(&kinto, at - 1).await.body, json!({"data": []}));
    assert_eq!(snapshot(&kinto, now() + 9).await.body["data"], states[39].1);
}

#[tokio::test]
async fn what_no_entry_tells_is_looked_for_in_older_ones() {
    let kinto = with_collection().await;
    kinto.put(&record("a"), json!({"data": {"n": 1}})).await;
    let (at, records) = state(&kinto).await;
    for n in 2..5 {
        kinto.put(&record("a"), json!({"data": {"n": n}})).await;
        kinto.put(&record(&format!("b{n}")), json!({})).await;
    }
    // The first entry since then is gone, so that no other tells what it replaced.
    kinto
        .delete(&format!("{HISTORY}?record_id=a&target.data.n=2"))
        .await;
    assert_eq!(snapshot(&kinto, at).await.body["data"], records);
    kinto
        .delete(&format!("{HISTORY}?record_id=a&target.data.n=1"))
        .await;
    assert_eq!(snapshot(&kinto, at).await.body["data"], json!([]));
    kinto.delete(HISTORY).await;
    assert_eq!(snapshot(&kinto, at).await.body["data"], json!([]));
    let (now, records) = state(&kinto).await;
    assert_eq!(snapshot(&kinto, now).await.body["data"], records);
}

#[tokio::test]
async fn records_under_past_times_are_as_they_were_too() {
    let kinto = with_collection().await;
    kinto.put(&record("x"), json!({})).await;
    let old = json!({"data": {"last_modified": 5, "n": 1}});
    assert_eq!(kinto.put(&record("old"), old).await.last_modified(), 5);
    let (_, records) = state(&kinto).await;
    // The time of the entry, which may be some milliseconds ahead.
    let entries = kinto.get(HISTORY).await;
    let at = entries.body["data"][0]["last_modified"].as_u64().unwrap();
    clock_passes(at).await;
    kinto.patch(&record("old"), json!({"data": {"n": 2}})).await;
    assert_eq!(snapshot(&kinto, at).await.body["data"], records);
}

#[tokio::test]
async fn a_moment_to_come_in_a_list_that_is_ahead_of_the_clock_can_be_read() {
    let kinto = with_collection().await;
    kinto.put(&record("a"), json!({})).await;
    let ahead = now() + 3_600_000;
    let future = json!({"data": {"last_modified": ahead}});
    assert_eq!(kinto.put(&record("b"), future).await.last_modified(), ahead);
    let (_, records) = state(&kinto).await;
    kinto.delete(RECORDS).await;
    assert_eq!(snapshot(&kinto, ahead).await.body["data"], records);
}

#[tokio::test]
async fn a_change_since_then_costs_an_item_whatever_the_history_holds() {
    let kinto = with_collection().await;
    for n in 0..30 {
        kinto.put(&record(&n.to_string()), json!({})).await;
    }
    let (at, records) = state(&kinto).await;
    kinto.patch(&record("3"), json!({"data": {"n": 1}})).await;
    kinto.delete(&record("4")).await;
    kinto.aws.requests().take();
    assert_eq!(snapshot(&kinto, at).await.body["data"], records);
    let requests = kinto.aws.requests().take();
    // The request's own reads and the two items; the list and the entries since then.
    assert_eq!((requests["BatchGetItem"], requests["Query"]), (2, 2));
}

#[tokio::test]
async fn who_may_not_read_the_collection_reads_no_snapshot() {
    let kinto = with_collection().await;
    let (bob, nobody) = (kinto.as_user(BOB), kinto.as_user(NOBODY));
    let of_bob = bob.user_id().await;
    kinto
        .put(&record("a"), json!({"permissions": {"read": [of_bob]}}))
        .await;
    assert_eq!(snapshot(&bob, 5).await.error(), (403, 121));
    assert_eq!(snapshot(&nobody, 5).await.error(), (401, 104));
    kinto
        .patch(COLLECTION, json!({"permissions": {"read": [of_bob]}}))
        .await;
    assert_eq!(snapshot(&bob, 5).await.status, 200);
    let path = |bucket: &str, collection: &str| {
        format!("/buckets/{bucket}/snapshot/collections/{collection}")
    };
    for (path, error) in [
        (path("none", "one@5"), (403, 121)),
        (path("main", "none@5"), (200, 0)),
        (path("main", "one"), (404, 111)),
        (path("main", "one@"), (404, 111)),
        (path("main", ".one@5"), (404, 111)),
        (path(".main", "one@5"), (404, 111)),
        (path("main", "one@x"), (400, 107)),
        (path("main", "one@\"5\""), (400, 107)),
        (path("main", "one@-5"), (400, 107)),
    ] {
        assert_eq!(kinto.get(&path).await.error(), error, "{path}");
    }
    let put = kinto.put(&path("main", "one@5"), json!({})).await;
    assert_eq!(
        (put.error(), put.header("allow")),
        ((405, 115), "GET, HEAD, OPTIONS")
    );
}
