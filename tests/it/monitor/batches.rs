//! The writes and the costs of one batch of the stream.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::{ENTRIES, RECORDS, STATE, Stack, between_requests, changed, heard, size};
use kinto_local::Fault;
use kinto_serverless::timestamp::Timestamp;
use serde_json::json;

/// The batch size of the deployed event source mapping.
const BATCH: usize = 500;

#[tokio::test]
async fn a_burst_of_writes_becomes_one_update_for_each_collection_and_batch() {
    let stack = Stack::new();
    let requests = stack.kinto.aws.requests();
    let begin = Timestamp::now().0;
    let mut puts = 0;
    // 100 writes to each of 500 collections, ten collections at a time.
    let collection = |n: usize| n / 1000 * 10 + n % 10;
    for batch in (0..50_000).collect::<Vec<_>>().chunks(BATCH) {
        let records: Vec<_> = batch
            .iter()
            .map(|n| changed(collection(*n), begin + *n as u64))
            .collect();
        requests.take();
        assert!(stack.aggregate(&records).await);
        let updates = if batch[0] == 0 { 2 } else { 1 };
        assert_eq!(
            (requests.of("UpdateItem"), requests.of("SendMessage")),
            (updates, 1)
        );
        // Entries that no longer fit into the state: each collection at most once.
        puts += requests.of("PutItem");
    }
    assert!((400..500).contains(&puts), "{puts}");
    let shown = stack.shown().await;
    assert_eq!(shown.len(), 500);
    for (name, timestamp) in shown {
        let c: u64 = name[1..].parse().unwrap();
        assert_eq!(timestamp, begin + c / 10 * 1000 + 990 + c % 10, "{name}");
    }
}

#[tokio::test]
async fn a_batch_is_one_update_of_a_kilobyte_however_many_came_before() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    let requests = stack.kinto.aws.requests();
    assert!(stack.aggregate(&[changed(0, begin)]).await);
    let (from_the_start, first) = (stack.process(), stack.heard_since(0).await.0);
    stack.poll(&from_the_start, RECORDS, STATE).await;
    for n in 1..60 {
        requests.take();
        assert!(stack.aggregate(&[changed(n, begin + n as u64)]).await);
        let asked = requests.take();
        assert_eq!((asked["UpdateItem"], asked["SendMessage"]), (1, 1));
        // An entry that no longer fits into the state moves to an item of its own.
        assert!(asked.get("PutItem").is_none_or(|puts| n > 12 && *puts == 1));
        assert!(asked.values().sum::<u64>() <= 3, "{asked:?}");
        let size = size(&stack.state_item());
        assert!(size <= 1024, "{size}");
    }
    assert!(stack.state().await.floor() > Timestamp(0));

    // A process that has cached the entries up to the floor, or needs none before it, only needs the state.
    let late = begin + 58;
    stack
        .poll(&stack.process(), &format!("{RECORDS}?_since={late}"), STATE)
        .await;
    stack
        .poll(
            &stack.process(),
            &format!("{RECORDS}?_since={first}"),
            ENTRIES,
        )
        .await;
    stack.poll(&stack.process(), RECORDS, ENTRIES).await;
    for cost in [ENTRIES, STATE] {
        stack.poll(&from_the_start, RECORDS, cost).await;
        assert_eq!(heard(&from_the_start, first).await.1.len(), 59);
    }
}

#[tokio::test]
async fn a_batch_of_many_collections_at_once_leaves_a_state_that_is_one_read_unit() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    assert!(stack.aggregate(&[changed(999, begin)]).await);
    let process = stack.process();
    stack.poll(&process, RECORDS, STATE).await;
    let batch: Vec<_> = (0..300).map(|n| changed(n, begin + 1 + n as u64)).collect();
    assert!(stack.aggregate(&batch).await);
    let size = size(&stack.state_item());
    assert!(size <= 4096, "{size}");
    let (etag, all) = heard(&process, begin).await;
    assert_eq!((etag, all.len()), (begin + 300, 300));
    stack.poll(&process, RECORDS, STATE).await;
    // Names of the greatest length.
    let name = |n: u64| format!("{n:0>255}");
    let batch: Vec<_> = (0..40)
        .map(|n| tests::changed(n, &name(n), begin + 500 + n))
        .collect();
    assert!(stack.aggregate(&batch).await);
    assert_eq!(stack.heard_since(etag).await.1.len(), 40);
}

#[tokio::test]
async fn a_batch_that_comes_again_changes_nothing_and_asks_for_the_broadcast_again() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    let many: Vec<_> = (0..40).map(|n| changed(n, begin + n as u64)).collect();
    for part in many.chunks(8) {
        assert!(stack.aggregate(part).await);
    }
    let before = (stack.state_item(), stack.heard_since(0).await);
    let requests = stack.kinto.aws.requests();
    for other in [stack.clone(), stack.with_new_aggregator()] {
        for (batch, of_items) in [(&many[39..], 0), (&many[..1], 1)] {
            requests.take();
            assert!(other.aggregate(batch).await);
            assert_eq!(requests.of("SendMessage"), 1);
            // Only its own item tells whether an older change is known.
            assert_eq!(requests.of("BatchGetItem").min(1), of_items);
            assert_eq!((requests.of("UpdateItem"), requests.of("PutItem")), (0, 0));
        }
    }
    // An older change of a collection, with its entry in the state or in an item.
    assert!(
        stack
            .aggregate(&[changed(39, begin - 1), changed(0, begin - 1)])
            .await
    );
    assert_eq!((stack.state_item(), stack.heard_since(0).await), before);
}

#[tokio::test]
async fn aggregators_that_write_in_turns_read_the_state_instead_of_being_refused() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    let (one, two) = (stack.clone(), stack.with_new_aggregator());
    let requests = stack.kinto.aws.requests();
    let mut costs = vec![];
    for n in 0..8_u64 {
        let turn = if n % 2 == 0 { &one } else { &two };
        requests.take();
        assert!(turn.aggregate(&[changed(n as usize, begin + n)]).await);
        costs.push((requests.of("GetItem"), requests.of("UpdateItem")));
    }
    // The first ones start the clock, and fail once.
    assert_eq!(costs[4..], [(1, 1); 4], "{costs:?}");
    // Alone again, each continues without reading.
    for n in 8..11 {
        requests.take();
        assert!(one.aggregate(&[changed(n as usize, begin + n)]).await);
    }
    assert_eq!((requests.of("GetItem"), requests.of("UpdateItem")), (0, 1));
    assert_eq!(stack.heard_since(0).await.1.len(), 11);
}

#[tokio::test]
async fn what_cannot_be_understood_or_concerns_no_collection_writes_nothing() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    assert!(stack.aggregate(&[changed(1, begin)]).await);
    let mut poison = changed(1, begin + 1);
    poison["dynamodb"]["NewImage"]["timestamp"] = json!({"S": "yesterday"});
    let mut other = changed(1, begin + 1);
    other["dynamodb"]["NewImage"] = json!({"pk": {"S": "#bucket"}, "sk": {"S": "main"}});
    stack.kinto.aws.requests().take();
    assert!(stack.aggregate(&[poison, other]).await);
    assert_eq!(stack.kinto.aws.requests().total(), 0);
}

#[tokio::test]
async fn whatever_fails_on_the_way_to_the_state_comes_again() {
    let stack = Stack::new();
    let begin = Timestamp::now().0;
    let fill: Vec<_> = (0..30).map(|n| changed(n, begin + n as u64)).collect();
    assert!(stack.aggregate(&fill).await);
    for (n, fails) in ["UpdateItem", "PutItem", "SendMessage"]
        .into_iter()
        .enumerate()
    {
        // A collection whose entry displaces another one from the state.
        let record = changed(100 + n, begin + 100 + n as u64);
        stack.kinto.aws.inject(move |target, _| {
            target
                .ends_with(fails)
                .then(|| Fault::error("ValidationException"))
        });
        assert!(
            !stack.aggregate(std::slice::from_ref(&record)).await,
            "{fails}"
        );
        stack.kinto.aws.clear_faults();
        let known = stack.heard_since(0).await;
        assert_eq!(known.0 == begin + 100 + n as u64, fails == "SendMessage");
        assert!(stack.aggregate(&[record]).await, "{fails}");
        assert_eq!(stack.heard_since(0).await.1.len(), 31 + n);
    }
}

#[tokio::test]
async fn a_bucket_that_comes_again_or_is_closed_by_another_while_it_is_closed_fails_no_batch() {
    // Before each of the aggregator's requests in turn.
    for (at, rival) in (0..5).flat_map(|at| ["anew", "again", "closed"].map(|rival| (at, rival))) {
        let stack = Stack::new();
        stack.create(&["one", "two"]).await;
        stack.drain().await;
        let known = stack.stream().len();
        stack.kinto.delete("/buckets/main").await;
        let batch = stack.stream().split_off(known);
        let (met, busy) = (AtomicU32::new(0), AtomicBool::new(false));
        let (other, same) = (stack.with_new_aggregator(), batch.clone());
        stack.kinto.aws.inject(move |_, _| {
            if busy.swap(true, Ordering::SeqCst) {
                return None;
            }
            if met.fetch_add(1, Ordering::SeqCst) == at {
                let (other, same) = (other.clone(), same.clone());
                between_requests(async move {
                    if rival == "closed" {
                        assert!(other.aggregate(&same).await);
                        return;
                    }
                    other.create(&["one", "two"]).await;
                    if rival == "again" {
                        other.kinto.delete("/buckets/main").await;
                    }
                });
            }
            busy.store(false, Ordering::SeqCst);
            None
        });
        let is_done = stack.aggregate(&batch).await;
        stack.kinto.aws.clear_faults();
        assert!(is_done, "{at} {rival}");
        stack.drain().await;
        let timestamps = stack.timestamps(&["one", "two"]).await;
        assert_eq!(stack.shown().await, timestamps, "{at} {rival}");
        assert_eq!(timestamps.is_empty(), rival != "anew", "{at} {rival}");
    }
}

#[tokio::test]
async fn a_list_is_closed_once_where_the_answer_to_that_is_lost() {
    let stack = Stack::new();
    stack.create(&["one"]).await;
    stack.drain().await;
    let known = stack.stream().len();
    stack.kinto.delete("/buckets/main").await;
    let is_lost = AtomicBool::new(false);
    stack.kinto.aws.inject(move |target, _| {
        let loses = target.ends_with("UpdateItem") && !is_lost.swap(true, Ordering::SeqCst);
        loses.then_some(Fault::AnswerLost)
    });
    assert!(stack.aggregate(&stack.stream()[known..]).await);
    stack.kinto.aws.clear_faults();
    stack.drain().await;
    assert!(stack.shown().await.is_empty());
}
