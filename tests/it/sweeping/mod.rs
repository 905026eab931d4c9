//! Sweeping removes what nobody can see, and nothing else (decision 28).

mod purge;
mod raise;
mod random;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kinto_local::{Fault, LocalAws};
use kinto_serverless::aggregator::{Aggregator, AggregatorEvent};
use kinto_serverless::queue::BroadcastQueue;
use kinto_serverless::store::sweep::{Limits, Swept};
use kinto_serverless::store::{Key, Store};
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Value, json};
use tests::{COLLECTION, Kinto, RECORDS, TABLE, execute, ids, now, record, settings};
use tokio::time::Instant;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn store(kinto: &Kinto) -> Store {
    Store::new(kinto.aws.dynamodb(), TABLE)
}

/// A whole pass at that time, in runs of one page.
async fn sweep(kinto: &Kinto, tombstones_kept: Option<Duration>, at: Timestamp) -> Swept {
    let (store, mut after, mut sum) = (store(kinto), None, Swept::default());
    loop {
        let limits = Limits {
            tombstones_kept,
            units: 0,
            deadline: Instant::now() + DAY,
        };
        let (swept, end) = store.sweep_from(after, limits, at).await.unwrap();
        sum.scanned += swept.scanned;
        sum.orphans += swept.orphans;
        sum.tombstones += swept.tombstones;
        after = end;
        if after.is_none() {
            return sum;
        }
    }
}

/// Removes what was marked, as DynamoDB's TTL does once the grace is over. Gives how many items that is.
fn expire(aws: &LocalAws) -> usize {
    let last = Timestamp(now()).after(10 * DAY).0 / 1000;
    let items = execute(aws, "Scan", json!({}));
    let items = items["Items"].as_array().unwrap().iter();
    let expired = items.filter(|item| {
        let expires = item["expires"]["N"].as_str();
        expires.is_some_and(|at| at.parse::<u64>().unwrap() <= last)
    });
    let expired: Vec<_> = expired.collect();
    for item in &expired {
        let key = json!({"Key": {"pk": item["pk"], "sk": item["sk"]}});
        execute(aws, "DeleteItem", key);
    }
    pass_a_minute(aws);
    expired.len()
}

/// Has lists name no more what was written last, as after a minute.
fn pass_a_minute(aws: &LocalAws) {
    let items = execute(aws, "Scan", json!({}));
    for item in items["Items"].as_array().unwrap() {
        if item["sk"]["S"] == "#timestamp" {
            let key = json!({"pk": item["pk"], "sk": item["sk"]});
            let update = "REMOVE wrote, wrote_1, wrote_2, before_1, before_2";
            execute(
                aws,
                "UpdateItem",
                json!({"Key": key, "UpdateExpression": update}),
            );
        }
    }
}

/// The partition and sort keys of all items but lists' and the sweep's own.
fn keys(aws: &LocalAws) -> BTreeSet<String> {
    let items = execute(aws, "Scan", json!({}));
    let items = items["Items"].as_array().unwrap().iter();
    let keys = items.map(|item| {
        let text = |name: &str| item[name]["S"].as_str().unwrap().to_owned();
        format!("{} {}", text("pk"), text("sk"))
    });
    keys.filter(|key| !key.ends_with(" #timestamp") && !key.starts_with("#sweep"))
        .collect()
}

/// A bucket with a group, a collection, records, more readers than a list names, and a history.
async fn fill(kinto: &Kinto) {
    let readers: Vec<_> = (0..12).map(|n| format!("basicauth:{n}")).collect();
    let group = json!({"data": {"members": ["basicauth:x", "basicauth:y"]}});
    for (path, body) in [
        ("/buckets/main", json!({})),
        ("/buckets/main/groups/g", group),
        (COLLECTION, json!({})),
        (&record("r1"), json!({"permissions": {"read": readers}})),
        (&record("r2"), json!({})),
    ] {
        assert_eq!(kinto.put(path, body).await.status, 201, "{path}");
    }
    assert_eq!(kinto.delete(&record("r2")).await.status, 200);
}

#[tokio::test]
async fn what_a_deleted_bucket_held_goes() {
    let kinto = Kinto::with(&[("KINTO_INCLUDES", "kinto.plugins.history")]);
    let nothing = keys(&kinto.aws);
    fill(&kinto).await;
    let held = keys(&kinto.aws);
    assert!(held.iter().any(|key| key.starts_with("#shared#")));
    assert!(held.iter().any(|key| key.starts_with("#history#")));
    assert!(held.iter().any(|key| key.starts_with("#principal#")));
    let at = Timestamp(now());
    assert_eq!(sweep(&kinto, None, at).await.orphans, 0);
    assert_eq!(keys(&kinto.aws), held);

    assert_eq!(kinto.delete("/buckets/main").await.status, 200);
    let swept = sweep(&kinto, None, at).await;
    assert!(swept.orphans > 5, "{swept:?}");
    // The rest are shares that no other item of their partition tells of.
    sweep(&kinto, None, at.after(2 * Duration::from_secs(3600))).await;
    let tombstone = "#bucket main".to_owned();
    let marked = expire(&kinto.aws);
    assert_eq!(marked, held.len() - 1);
    let left: Vec<_> = keys(&kinto.aws).difference(&nothing).cloned().collect();
    assert_eq!(left, [tombstone]);
    // The tombstone of the bucket goes when it is old.
    sweep(&kinto, Some(DAY), at.after(2 * DAY)).await;
    expire(&kinto.aws);
    assert_eq!(keys(&kinto.aws), nothing);

    fill(&kinto).await;
    assert_eq!(ids(&kinto.get(RECORDS).await), ["r1"]);
}

#[tokio::test]
async fn what_is_written_over_before_it_goes_stays() {
    let kinto = Kinto::new();
    fill(&kinto).await;
    kinto.delete("/buckets/main").await;
    let at = Timestamp(now());
    assert!(sweep(&kinto, None, at).await.orphans > 3);
    fill(&kinto).await;
    let before = keys(&kinto.aws);
    expire(&kinto.aws);
    let gone: Vec<_> = before.difference(&keys(&kinto.aws)).cloned().collect();
    // The shares of the former bucket.
    assert!(
        gone.iter().all(|key| key.starts_with("#shared#")),
        "{gone:?}"
    );
    assert_eq!(ids(&kinto.get(RECORDS).await), ["r1"]);
    let list = kinto.get(&format!("{RECORDS}?_since=0")).await;
    assert_eq!(ids(&list).len(), 2);
}

/// A transaction may show a child before the bucket that it creates with it.
#[tokio::test]
async fn what_is_being_created_is_not_taken_for_what_is_over() {
    let kinto = Kinto::new();
    fill(&kinto).await;
    let bucket = kinto.take_item("#bucket", "main").await;
    // In hand of a transaction: a snapshot fails.
    kinto.aws.inject(|target, _| {
        let reads = target.ends_with("TransactGetItems");
        reads.then(|| Fault::transaction_canceled(&["None", "TransactionConflict"]))
    });
    let at = Timestamp(now());
    assert_eq!(sweep(&kinto, None, at).await.orphans, 0);
    // Finished between the first look and the snapshot.
    let (aws, is_done) = (kinto.aws.clone(), AtomicBool::new(false));
    let item = execute_item(&bucket);
    kinto.aws.inject(move |target, _| {
        if target.ends_with("TransactGetItems") && !is_done.swap(true, Ordering::SeqCst) {
            execute(&aws, "PutItem", json!({"Item": item}));
        }
        None
    });
    assert_eq!(sweep(&kinto, None, at).await.orphans, 0);
    kinto.aws.clear_faults();
    assert_eq!(expire(&kinto.aws), 0);
    assert_eq!(ids(&kinto.get(RECORDS).await), ["r1"]);
}

/// An item of the SDK as JSON of DynamoDB.
fn execute_item(item: &kinto_serverless::store::Item) -> Value {
    let members = item.iter().map(|(name, value)| {
        use aws_sdk_dynamodb::types::AttributeValue::{Bool, M, N, S};
        let value = match value {
            S(text) => json!({"S": text}),
            N(digits) => json!({"N": digits}),
            Bool(flag) => json!({"BOOL": flag}),
            M(members) => json!({"M": execute_item(members)}),
            other => {
                let texts = other.as_l().unwrap().iter();
                let texts = texts.map(|text| json!({"S": text.as_s().unwrap()}));
                json!({"L": texts.collect::<Vec<_>>()})
            }
        };
        (name.clone(), value)
    });
    Value::Object(members.collect())
}

#[tokio::test]
async fn tombstones_go_when_they_are_older_than_the_setting() {
    let kinto = Kinto::with_collection().await;
    for id in ["old", "new"] {
        kinto.put(&record(id), json!({})).await;
        kinto.delete(&record(id)).await;
    }
    // The first one was deleted ten days ago.
    let old = Timestamp(now() - 10 * DAY.as_millis() as u64);
    let key = json!({"pk": {"S": format!("{COLLECTION}#record")}, "sk": {"S": "old"}});
    let set = json!({
        "Key": key, "UpdateExpression": "SET last_modified = :at",
        "ExpressionAttributeValues": {":at": {"N": old.to_string()}},
    });
    execute(&kinto.aws, "UpdateItem", set);
    pass_a_minute(&kinto.aws);
    let all = format!("{RECORDS}?_since=0");
    let before = kinto.get(&all).await;
    let sweep = async |kept| {
        let swept = sweep(&kinto, kept, Timestamp(now())).await;
        assert_eq!(kinto.get(&all).await.body, before.body, "the grace");
        expire(&kinto.aws);
        swept.tombstones
    };
    assert_eq!(sweep(None).await, 0);
    assert_eq!(sweep(Some(11 * DAY)).await, 0);
    assert_eq!(kinto.get(&all).await.body, before.body);
    assert_eq!(sweep(Some(9 * DAY)).await, 1);
    let after = kinto.get(&all).await;
    assert_eq!(ids(&after), ["new"]);
    assert_eq!(after.header("etag"), before.header("etag"));
    // As of what never was.
    assert_eq!(kinto.put(&record("old"), json!({})).await.status, 201);
}

/// The aggregator of a table, with nobody to tell.
fn aggregator(kinto: &Kinto) -> Aggregator {
    let settings = settings(&[]);
    Aggregator::new(
        store(kinto),
        BroadcastQueue::new(kinto.aws.sqs(), kinto.aws.queue_url()),
        settings.changes,
        settings.broadcasts,
        settings.megaphones,
    )
}

/// The monitor hears of a deleted collection from its list of records, which is found by the collection's item.
#[tokio::test]
async fn a_collection_goes_when_its_list_tells_that_it_is_gone() {
    let kinto = Kinto::new();
    fill(&kinto).await;
    kinto.delete("/buckets/main").await;
    let records = kinto_serverless::resource::ObjectUri::collection("main", "one");
    let records = records.children(kinto_serverless::resource::Kind::Record);
    let is_closed = async || {
        let store = store(&kinto);
        let lists = store.stored_lists(std::slice::from_ref(&records)).await;
        lists.unwrap()[&records].list.closed
    };
    assert!(!is_closed().await, "the aggregator has not come to it");
    sweep(&kinto, None, Timestamp(now())).await;
    assert!(is_closed().await);
    expire(&kinto.aws);
    aggregator(&kinto).rebuild_monitor().await.unwrap();
    let monitor = "/buckets/monitor/collections/changes/records";
    assert!(ids(&kinto.get(monitor).await).is_empty());
}

#[tokio::test]
async fn a_run_is_bounded_and_the_next_one_goes_on() {
    let kinto = Kinto::with_collection().await;
    let requests = |n: u32| {
        let path = record(&format!("r{n}"));
        json!({"method": "PUT", "path": path})
    };
    for part in 0..24 {
        let puts: Vec<_> = (0..25).map(|n| requests(part * 25 + n)).collect();
        let all = tests::batch(&kinto, puts).await;
        assert_eq!(all.status, 200);
    }
    kinto.delete(COLLECTION).await;
    let aggregator = aggregator(&kinto);
    let run = async |units: u64| {
        let input = json!({"sweep": {"units": units, "tombstone-days": 0}});
        let input: AggregatorEvent = serde_json::from_value(input).unwrap();
        let output = aggregator.answer_event(input).await.unwrap();
        serde_json::to_value(&output).unwrap()
    };
    let first = run(10).await;
    assert_eq!(first["is-complete"], false, "{first}");
    assert!(first["scanned"].as_u64().unwrap() <= 500, "{first}");
    let second = run(10).await;
    assert_eq!(second["is-complete"], true, "{second}");
    let count = |run: &Value| run["orphans"].as_u64().unwrap();
    assert_eq!(count(&first) + count(&second), 600);
    assert_eq!(expire(&kinto.aws), 600);
    // The next pass is not due before a week has passed.
    kinto.aws.requests().take();
    assert_eq!(run(10).await["scanned"], 0);
    assert_eq!(kinto.aws.requests().take().get("Scan"), None);
    let key = Key {
        pk: "#sweep".to_owned(),
        sk: "#state".to_owned(),
    };
    let state = store(&kinto).read(std::slice::from_ref(&key)).await;
    assert!(state.unwrap()[&key].contains_key("begun"));
}

#[tokio::test]
async fn a_run_that_fails_is_repeated() {
    let kinto = Kinto::new();
    fill(&kinto).await;
    kinto.delete("/buckets/main").await;
    let left = std::sync::atomic::AtomicU32::new(2);
    kinto.aws.inject(move |target, _| {
        let fails = target.ends_with("UpdateItem") && left.fetch_sub(1, Ordering::SeqCst) == 1;
        fails.then(|| Fault::error("AccessDeniedException"))
    });
    let limits = Limits {
        tombstones_kept: None,
        units: 1000,
        deadline: Instant::now() + DAY,
    };
    let at = Timestamp(now());
    let failed = store(&kinto).sweep(limits, DAY, at).await;
    assert!(failed.is_err());
    kinto.aws.clear_faults();
    let swept = store(&kinto).sweep(limits, DAY, at).await.unwrap();
    assert!(swept.is_complete && swept.orphans > 2, "{swept:?}");
}
