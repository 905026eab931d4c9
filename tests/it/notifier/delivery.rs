//! Listeners that are notified after the commit: each of everything, in order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::World;
use kinto_serverless::listeners::NotifyError;
use serde_json::{Value, json};
use tests::{COLLECTION, Kinto, nested};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn listeners_are_told_after_the_commit_in_the_order_of_each_collection() {
    let world = World::new().await.consuming(|| false);
    for n in 0..20 {
        world.write(if n % 3 == 0 { "two" } else { "one" }, n).await;
    }
    let expected = |of: fn(usize) -> bool| -> Vec<_> {
        (0..20)
            .filter(|n| of(*n))
            .map(|n| format!("r{n}"))
            .collect()
    };
    for listener in ["a", "b"] {
        world.until(listener, 20).await;
        assert_eq!(world.order(listener, "two"), expected(|n| n % 3 == 0));
        assert_eq!(world.order(listener, "one"), expected(|n| n % 3 != 0));
    }
}

#[tokio::test(start_paused = true)]
async fn data_as_deep_as_it_may_be_reaches_a_listener() {
    let world = World::new().await.consuming(|| false);
    let body = json!({"data": nested(100)});
    let uri = format!("{COLLECTION}/records/r0");
    assert_eq!(world.kinto.put(&uri, body).await.status, 201);
    world.until("a", 1).await;
    let event = serde_json::to_value(&world.recorders["a"].heard()[0]).unwrap();
    assert_eq!(event["impacted_records"][0]["new"]["a"], nested(99));
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_is_down_holds_up_no_other_and_misses_nothing() {
    let world = World::new().await.consuming(|| false);
    world.recorders["a"].answers(NotifyError::failed("down"), 12);
    for n in 0..5 {
        world.write("one", n).await;
    }
    let begin = Instant::now();
    world.until("b", 5).await;
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "{:?}",
        begin.elapsed()
    );
    assert!(world.recorders["a"].heard().is_empty());
    world.until("a", 5).await;
    assert_eq!(world.order("a", "one"), ["r0", "r1", "r2", "r3", "r4"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_listener_will_never_take_goes_to_the_dead_letters_and_comes_from_there_again() {
    let world = World::new().await.consuming(|| false);
    world.recorders["a"].answers(NotifyError::Permanent("410".to_owned()), 3);
    world.write("one", 0).await;
    world.write("one", 1).await;
    world.until("a", 1).await;
    assert_eq!(world.order("a", "one"), ["r1"]);
    let queue = &world.kinto.aws.queues().notifications;
    assert_eq!(queue.dead_letters().len(), 1);
    queue.redrive();
    world.until("a", 2).await;
    assert_eq!(world.order("a", "one"), ["r1", "r0"]);
}

#[tokio::test]
async fn a_write_that_nobody_waits_for_costs_what_it_cost_without_listeners() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = async |kinto: &Kinto, uri: &str| {
        let items = Arc::clone(&count);
        kinto.aws.inject(move |target, body| {
            if target.ends_with(".TransactWriteItems") {
                let body: Value = serde_json::from_slice(body).unwrap();
                items.store(
                    body["TransactItems"].as_array().unwrap().len(),
                    Ordering::SeqCst,
                );
            }
            None
        });
        kinto.aws.requests().take();
        assert_eq!(kinto.put(uri, json!({})).await.status, 201);
        (kinto.aws.requests().take(), count.load(Ordering::SeqCst))
    };
    let plain = Kinto::with_collection().await;
    let uri = format!("{COLLECTION}/records/r");
    let without = counted(&plain, &uri).await;
    assert_eq!((without.0.values().sum::<u64>(), without.1), (2, 2));

    let world = World::new().await;
    // No listener subscribes to buckets.
    let requests = counted(&world.kinto, "/buckets/other").await;
    assert_eq!(requests, counted(&plain, "/buckets/other").await);
    // One more item, in the same transaction.
    let (requests, items) = counted(&world.kinto, &uri).await;
    assert_eq!((requests, items), (without.0, without.1 + 1));
}

#[tokio::test(start_paused = true)]
async fn the_deletion_of_a_long_list_tells_of_each_record_once() {
    let world = World::new().await.consuming(|| false);
    for chunk in 0..10 {
        let put = |n: usize| {
            let path = format!("{COLLECTION}/records/r{}", chunk * 25 + n);
            json!({"method": "PUT", "path": path})
        };
        let requests: Vec<_> = (0..25).map(put).collect();
        assert_eq!(
            world
                .kinto
                .post("/batch", json!({"requests": requests}))
                .await
                .status,
            200
        );
    }
    world.until("a", 10).await;
    world.recorders["a"].take();
    assert_eq!(
        world
            .kinto
            .delete(&format!("{COLLECTION}/records"))
            .await
            .status,
        200
    );
    world.until("a", 3).await;
    let heard = world.recorders["a"].heard();
    let uris: Vec<_> = heard
        .iter()
        .flat_map(|event| &event.impacted_uris)
        .collect();
    assert_eq!(
        (uris.len(), uris.iter().collect::<BTreeSet<_>>().len()),
        (250, 250)
    );
    assert!(heard.iter().all(|event| event.action.name() == "delete"));
}
