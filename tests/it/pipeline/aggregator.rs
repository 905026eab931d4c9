//! Batches of the stream: their writes, their broadcast requests, and their retries.

use std::collections::BTreeMap;

use super::{Pipeline, TRIGGER, closed, poison};
use kinto_local::Fault;
use serde_json::{Value, json};
use tests::changed;

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
    // Everything that concerns three collections, one listener and readers of `__broadcasts__`.
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
    // Once more, when there is nothing to do.
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
    // A late, older change does not bring the entry back; one of the collection that was created again does.
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

    pipeline.kinto.aws.clear_faults();
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
        pipeline.kinto.aws.clear_faults();
        assert!(pipeline.kinto.aws.queue().is_empty() || operation == "UpdateItem");
        // The monitor knows the change already; the broadcast is requested nevertheless.
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
