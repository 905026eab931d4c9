//! Rebuilding the monitor from the collections themselves.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::{RECORDS, STATE, Stack, between_requests, changed};
use kinto_local::Fault;
use kinto_serverless::aggregator::{AggregatorEvent, Rebuilt};
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Value, json};

#[tokio::test]
async fn the_monitor_is_rebuilt_from_nothing() {
    let stack = Stack::new();
    stack.create(&["one", "two", "gone"]).await;
    stack.kinto.delete("/buckets/main/collections/gone").await;
    stack.kinto.put("/buckets/lost", json!({})).await;
    stack
        .kinto
        .put("/buckets/lost/collections/c", json!({}))
        .await;
    // This deletion did not reach the monitor: its list stays open.
    stack.kinto.delete("/buckets/lost").await;
    assert!(stack.aggregate(&[tests::changed(1, "ghost", 5)]).await);

    let rebuilt = stack.aggregator.rebuild_monitor().await.unwrap();
    let expected = Rebuilt {
        collections: 4,
        raised: 4,
        removed: 1,
    };
    assert_eq!(rebuilt, expected);
    let timestamps = stack.timestamps(&["one", "two", "gone"]).await;
    assert_eq!(timestamps.len(), 2);
    assert_eq!(stack.shown().await, timestamps);
    let deleted = |bucket: &str, collection: &str| (bucket.to_owned(), collection.to_owned());
    let entries = stack.entries().await;
    assert!(entries[&deleted("lost", "c")].deleted && entries[&deleted("main", "gone")].deleted);
    assert!(!stack.kinto.aws.queue().is_empty());

    let requests = stack.kinto.aws.requests();
    requests.take();
    let again = stack.aggregator.rebuild_monitor().await.unwrap();
    assert_eq!((again.raised, again.removed), (0, 0));
    assert_eq!((requests.of("PutItem"), requests.of("UpdateItem")), (0, 0));
    // One query of entries, one of buckets, one of each bucket's collections; the two buckets, and their lists; the
    // state, before and after the search for functions of an earlier version.
    assert_eq!((requests.of("Query"), requests.of("BatchGetItem")), (4, 4));
    assert_eq!((requests.of("GetItem"), requests.total()), (2, 10));

    stack.drain().await;
    assert_eq!(stack.entries().await, entries);
}

#[tokio::test]
async fn an_operator_rebuilds_by_calling_the_function_that_takes_the_stream() {
    let stack = Stack::new();
    stack.create(&["one"]).await;
    let call = async |input: Value| {
        let input: AggregatorEvent = serde_json::from_value(input).unwrap();
        serde_json::to_value(stack.aggregator.answer_event(input).await.unwrap()).unwrap()
    };
    let batch = call(json!({"Records": stack.stream()[..1]})).await;
    assert_eq!(batch, json!({"batchItemFailures": []}));
    let rebuilt = call(json!({"rebuild-monitor": true})).await;
    assert_eq!(
        rebuilt,
        json!({"collections": 1, "raised": 1, "removed": 0})
    );
    stack.kinto.aws.inject(|target, _| {
        target
            .ends_with("Query")
            .then(|| Fault::error("ValidationException"))
    });
    assert!(stack.aggregator.rebuild_monitor().await.is_err());
}

#[tokio::test]
async fn a_rebuilding_goes_on_beside_writes_and_closes_nothing_that_lives() {
    // Before each of its requests in turn, others write, delete the bucket, or create all of it again.
    for (at, rival) in (0..14).flat_map(|at| ["write", "delete", "anew"].map(|rival| (at, rival))) {
        let stack = Stack::new();
        stack.create(&["one", "two"]).await;
        let (met, busy) = (AtomicU32::new(0), AtomicBool::new(false));
        let other = stack.clone();
        stack.kinto.aws.inject(move |_, _| {
            if busy.swap(true, Ordering::SeqCst) {
                return None;
            }
            if met.fetch_add(1, Ordering::SeqCst) == at {
                let other = other.clone();
                between_requests(async move {
                    if rival != "write" {
                        other.kinto.delete("/buckets/main").await;
                    }
                    if rival != "delete" {
                        other.create(&["one"]).await;
                    }
                });
            }
            busy.store(false, Ordering::SeqCst);
            None
        });
        let rebuilt = stack.aggregator.rebuild_monitor().await;
        stack.kinto.aws.clear_faults();
        rebuilt.unwrap_or_else(|error| panic!("{at} {rival}: {error}"));
        let ceilings = stack.ceilings(&["one", "two"]).await;
        for ((_, collection), entry) in stack.entries().await {
            assert!(
                entry.last_modified.0 <= ceilings[&collection],
                "{at} {rival}"
            );
        }
        stack.drain().await;
        assert_eq!(
            stack.shown().await,
            stack.timestamps(&["one", "two"]).await,
            "{at} {rival}"
        );
        if rival != "delete" {
            let written = stack.put("/collections/one/records/after").await;
            assert_eq!(written.status, 201, "{at} {rival}");
        }
    }
}

#[tokio::test]
async fn what_a_rebuilding_raised_shows_in_every_process() {
    let stack = Stack::new();
    stack.create(&["one", "two"]).await;
    assert!(stack.aggregate(&[changed(1, Timestamp::now().0)]).await);
    let process = stack.process();
    stack.poll(&process, RECORDS, STATE).await;
    let known = stack.heard_since(0).await.0;
    stack.aggregator.rebuild_monitor().await.unwrap();
    stack.poll(&process, RECORDS, STATE).await;
    let mut heard: Vec<_> = stack.heard_since(known).await.1;
    heard.sort_unstable();
    let timestamps = stack.timestamps(&["one", "two"]).await;
    assert_eq!(heard, timestamps.into_iter().collect::<Vec<_>>());
}
