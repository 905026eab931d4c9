//! The reads and the costs of a client's polls.

use super::{CHANGESET, RECORDS, STATE, Stack, changed, pairs};
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Value, json};
use tests::{TABLE, put_item};

#[tokio::test]
async fn ten_thousand_collections_are_polled_by_what_changed() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    // As the aggregator writes them, but without its 10,000 requests.
    for batch in (0..10_000).collect::<Vec<u64>>().chunks(25) {
        let entry = |n: &u64| {
            let item = json!({
                "pk": {"S": "#monitor"},
                "sk": {"S": format!("/buckets/main/collections/c{n}")},
                "bucket": {"S": "main"},
                "collection": {"S": format!("c{n}")},
                "last_modified": {"N": (begin + n).to_string()},
                "collection_timestamp": {"N": (begin + n).to_string()},
            });
            json!({"PutRequest": {"Item": item}})
        };
        let puts: Vec<_> = batch.iter().map(entry).collect();
        let request = json!({"RequestItems": {TABLE: puts}}).to_string();
        let database = stack.kinto.aws.database();
        database
            .execute("BatchWriteItem", request.as_bytes())
            .unwrap();
    }
    let last = begin + 9_999;
    put_item(
        &stack.kinto.aws,
        &json!({"pk": "#monitor", "sk": "#state", "clock": last, "floor": last, "adopted": 0}),
    );
    let first = stack.process();
    let requests = stack.kinto.aws.requests();
    requests.take();
    let since = first
        .get(&format!("{RECORDS}?_since={}", begin + 9_989))
        .await;
    assert_eq!(since.body["data"].as_array().unwrap().len(), 10);
    assert_eq!(requests.take()["Query"], 1);

    let all = stack.kinto.get(RECORDS).await;
    assert_eq!(all.body["data"].as_array().unwrap().len(), 10_000);
    let etag = all.header("etag");
    assert_eq!(etag, format!("\"{}\"", begin + 9_999));

    // It is read in pages of 1 MB, once.
    assert!(requests.take()["Query"] <= 5);
    let known = stack
        .kinto
        .send("GET", RECORDS, &[("if-none-match", etag)], "")
        .await;
    assert_eq!((known.status, known.body), (304, Value::Null));
    assert!(stack.aggregate(&[changed(7, last + 5)]).await);
    let since = stack.kinto.get(&format!("{RECORDS}?_since={last}")).await;
    assert_eq!(since.body["data"].as_array().unwrap().len(), 1);
    assert_eq!(requests.of("Query"), 0);
}

#[tokio::test]
async fn a_poll_is_one_small_read_whether_something_changed_or_not() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    let two = [changed(1, begin), changed(2, begin + 1)];
    assert!(stack.aggregate(&two).await);
    let process = stack.process();
    let paths = [
        RECORDS.to_owned(),
        CHANGESET.to_owned(),
        format!("{RECORDS}?_since={begin}"),
        format!("{RECORDS}?_since={}", begin + 9),
        format!("{RECORDS}?_sort=last_modified&_fields=collection"),
        format!("{RECORDS}?collection=c1"),
        format!("{RECORDS}?_limit=1"),
        format!("{CHANGESET}&_since={begin}"),
        format!("{CHANGESET}&collection=c1&_limit=3"),
    ];
    for at in 2..5 {
        for path in &paths {
            stack.poll(&process, path, STATE).await;
        }
        assert!(stack.aggregate(&[changed(1, begin + at)]).await);
    }
}

#[tokio::test]
async fn a_change_that_comes_late_is_heard_by_who_goes_on_from_a_later_one() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    assert!(stack.aggregate(&[tests::changed(1, "b", begin + 4)]).await);
    let (known, _) = stack.heard_since(0).await;
    assert_eq!(known, begin + 4);
    // Another shard, or the same at the same moment.
    for (collection, at) in [("a", begin), ("c", begin + 4)] {
        assert!(stack.aggregate(&[tests::changed(2, collection, at)]).await);
    }
    let heard = pairs(&[("c", begin + 4), ("a", begin)]);
    assert_eq!(stack.heard_since(known).await, (begin + 6, heard));
    assert_eq!(stack.state().await.due("mp"), Some(Timestamp(begin + 6)));
    let broadcasts = stack.process().get("/__broadcasts__").await.body;
    // The first is shown until the others have been quiet.
    assert_eq!(
        broadcasts["broadcasts"]["remote-settings/monitor_changes"],
        format!("\"{}\"", begin + 4)
    );
}
