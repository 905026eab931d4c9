//! `kinto-serverless purge-deleted` (what Kinto's own does is compared in tests/moving/purge.py).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kinto_cli::maintenance::purge::{Options, WAIT, purge};
use kinto_serverless::resource::Kind;
use serde_json::json;
use tests::{COLLECTION, Kinto, RECORDS, execute, ids, record};
use tokio::time::Instant;

use super::{execute_item, pass_a_minute, store};

fn of_records(max_retained: u64) -> Options {
    Options {
        kinds: vec![Kind::Record],
        max_retained,
        dry_run: false,
        wait: Duration::ZERO,
        capacity: None,
    }
}

/// Two collections, each with four tombstones and an object; a group's tombstone.
async fn filled() -> Kinto {
    let kinto = Kinto::with_collection().await;
    kinto.put("/buckets/main/collections/two", json!({})).await;
    kinto.put("/buckets/main/groups/g", json!({})).await;
    kinto.delete("/buckets/main/groups/g").await;
    for collection in ["one", "two"] {
        for n in [3, 1, 4, 2, 5] {
            let path = format!("/buckets/main/collections/{collection}/records/r{n}");
            assert_eq!(kinto.put(&path, json!({})).await.status, 201);
            if n < 5 {
                assert_eq!(kinto.delete(&path).await.status, 200);
            }
        }
    }
    pass_a_minute(&kinto.aws);
    kinto
}

#[tokio::test]
async fn each_list_keeps_its_latest_tombstones() {
    let kinto = filled().await;
    let all = format!("{RECORDS}?_since=0");
    let before = kinto.get(&all).await;
    let dry = Options {
        dry_run: true,
        ..of_records(2)
    };
    let purged = purge(&store(&kinto), &dry).await.unwrap();
    assert_eq!(purged, [("record", 4)].into());
    assert_eq!(kinto.get(&all).await.body, before.body);

    let purged = purge(&store(&kinto), &of_records(2)).await.unwrap();
    assert_eq!(purged, [("record", 4)].into());
    let after = kinto.get(&all).await;
    assert_eq!(ids(&after), ["r5", "r2", "r4"]);
    assert_eq!(after.header("etag"), before.header("etag"));
    let other = kinto.get("/buckets/main/collections/two/records?_since=0");
    assert_eq!(ids(&other.await), ["r5", "r2", "r4"]);
    let groups = kinto.get("/buckets/main/groups?_since=0").await;
    assert_eq!(ids(&groups), ["g"]);

    // Again: nothing is left to remove.
    let purged = purge(&store(&kinto), &of_records(2)).await.unwrap();
    assert_eq!(purged, [("record", 0)].into());
    purge(&store(&kinto), &of_records(0)).await.unwrap();
    assert_eq!(ids(&kinto.get(&all).await), ["r5"]);
}

#[tokio::test]
async fn what_is_written_over_a_tombstone_stays() {
    let kinto = filled().await;
    kinto.put(&record("r1"), json!({})).await;
    let key = format!("{COLLECTION}#record");
    let live = kinto.take_item(&key, "r1").await;
    kinto.delete(&record("r5")).await;
    let mut tombstone = live.clone();
    let deleted = aws_sdk_dynamodb::types::AttributeValue::Bool(true);
    let at = aws_sdk_dynamodb::types::AttributeValue::N("1000".to_owned());
    tombstone.insert("deleted".to_owned(), deleted);
    tombstone.insert("last_modified".to_owned(), at);
    kinto.put_item(tombstone).await;
    pass_a_minute(&kinto.aws);
    let (aws, is_done) = (kinto.aws.clone(), AtomicBool::new(false));
    let item = execute_item(&live);
    kinto.aws.inject(move |target, _| {
        if target.ends_with("DeleteItem") && !is_done.swap(true, Ordering::SeqCst) {
            execute(&aws, "PutItem", json!({"Item": item}));
        }
        None
    });
    purge(&store(&kinto), &of_records(0)).await.unwrap();
    kinto.aws.clear_faults();
    assert_eq!(
        ids(&kinto.get(&format!("{RECORDS}?_since=0")).await),
        ["r1"]
    );
}

/// Somebody who reads a list looks for what it names as just written.
#[tokio::test(start_paused = true)]
async fn what_a_list_names_as_just_written_is_left_for_a_while() {
    let kinto = filled().await;
    kinto.delete(&record("r5")).await;
    let began = Instant::now();
    purge(&store(&kinto), &of_records(0)).await.unwrap();
    assert!(began.elapsed() >= WAIT);
}

#[tokio::test(start_paused = true)]
async fn where_others_use_the_table_a_tombstone_is_left_for_a_while() {
    let kinto = filled().await;
    let began = Instant::now();
    let options = Options {
        wait: WAIT,
        ..of_records(0)
    };
    let aws = kinto.aws.clone();
    aws.inject(move |target, _| {
        if target.ends_with("DeleteItem") {
            assert!(began.elapsed() >= WAIT);
        }
        None
    });
    let purged = purge(&store(&kinto), &options).await.unwrap();
    assert_eq!(purged, [("record", 8)].into());
    kinto.aws.clear_faults();
    assert_eq!(
        ids(&kinto.get(&format!("{RECORDS}?_since=0")).await),
        ["r5"]
    );
}
