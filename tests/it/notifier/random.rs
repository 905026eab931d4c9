//! In any order of the stream and under any failure, nothing is lost or out of order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::World;
use aws_lambda_events::dynamodb::EventRecord;
use kinto_local::Fault;
use kinto_serverless::listeners::NotifyError;
use kinto_serverless::resource::ObjectUri;
use proptest::prelude::*;
use serde_json::json;
use tests::{COLLECTION, cases};
use tokio::time::sleep;

/// A write of the next object of that kind.
fn path_of(kind: usize, n: usize) -> String {
    match kind {
        0 => format!("{COLLECTION}/records/r{n}"),
        1 => format!("/buckets/main/collections/two/records/r{n}"),
        2 => format!("/buckets/main/groups/g{n}"),
        3 => format!("/buckets/main/collections/c{n}"),
        _ => format!("/buckets/b{n}"),
    }
}

/// Writes, and delivers the stream as AWS may: the changes of each item in order, those of different items in any
/// order, in batches of which some are repeated.
async fn order_survives_the_stream(writes: Vec<Vec<usize>>, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::of("bucket group collection record");
    let mut written = BTreeMap::<_, Vec<String>>::new();
    let mut add = |uri: String| {
        let parent = ObjectUri::parse(&uri).unwrap();
        let parent = parent.parent().map(ToString::to_string).unwrap_or_default();
        written.entry(parent).or_default().push(uri);
    };
    for path in ["/buckets/main", COLLECTION, "/buckets/main/collections/two"] {
        assert_eq!(world.kinto.put(path, json!({})).await.status, 201);
        add(path.to_owned());
    }
    for (n, kinds) in writes.into_iter().enumerate() {
        let kinds: BTreeSet<_> = kinds.into_iter().collect();
        let paths: Vec<_> = kinds.iter().map(|kind| path_of(*kind, n)).collect();
        let put = |path: &String| {
            let data = json!({"members": []});
            json!({"method": "PUT", "path": path, "body": {"data": data}})
        };
        let requests: Vec<_> = paths.iter().map(put).collect();
        let answer = world
            .kinto
            .post("/batch", json!({"requests": requests}))
            .await;
        assert_eq!(answer.status, 200);
        paths.into_iter().for_each(&mut add);
    }
    let mut by_item = BTreeMap::<_, VecDeque<EventRecord>>::new();
    for record in world.stream().await {
        let keys = serde_json::to_string(&record.change.keys["pk"]).unwrap();
        by_item.entry(keys).or_default().push_back(record);
    }
    let mut stream = vec![];
    while !by_item.is_empty() {
        let key = random.choice(by_item.keys()).unwrap().clone();
        let records = by_item.get_mut(&key).unwrap();
        stream.extend(records.pop_front());
        if records.is_empty() {
            by_item.remove(&key);
        }
    }
    while !stream.is_empty() {
        let size = random.usize(1..=stream.len());
        let batch: Vec<_> = stream.drain(..size).collect();
        // A batch that fails at its end is retried from any of its records on.
        world.enqueue(&batch).await;
        if random.bool() {
            world.enqueue(&batch[random.usize(..size)..]).await;
        }
    }
    let count = written.values().map(Vec::len).sum();
    let world = world.delivering(|| false);
    for listener in ["a", "b"] {
        world.until(listener, count).await;
        assert_eq!(world.order_by_parent(listener), written, "{listener}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// A write to one of the collections.
    Write(bool),
    /// The given number of next requests of these operations fail.
    Fails(&'static str, usize),
    /// The answers to the given number of next requests are lost.
    AnswersLost(&'static str, usize),
    /// The notifier is killed at the end of the given number of next batches.
    Killed(usize),
    /// The first listener is down for the given number of attempts.
    Down(usize),
    /// Time passes, in seconds.
    Wait(u64),
}

fn trouble() -> impl Strategy<Value = Trouble> {
    let operation = || {
        prop_oneof![
            Just("SendMessage"),
            Just("Query"),
            Just("ChangeMessageVisibility")
        ]
    };
    prop_oneof![
        6 => any::<bool>().prop_map(Trouble::Write),
        1 => (operation(), 1..4_usize).prop_map(|(operation, n)| Trouble::Fails(operation, n)),
        1 => (operation(), 1..4_usize).prop_map(|(operation, n)| Trouble::AnswersLost(operation, n)),
        1 => (1..4_usize).prop_map(Trouble::Killed),
        1 => (1..6_usize).prop_map(Trouble::Down),
        1 => (0..400_u64).prop_map(Trouble::Wait),
    ]
}

fn take_one(count: &AtomicUsize) -> bool {
    count
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
        .is_ok()
}

async fn nothing_is_lost(troubles: Vec<Trouble>) {
    let kills = Arc::new(AtomicUsize::new(0));
    let killing = Arc::clone(&kills);
    let world = World::new().await.consuming(move || take_one(&killing));
    let faults: Arc<Mutex<BTreeMap<(&str, bool), usize>>> = Arc::default();
    let injected = Arc::clone(&faults);
    world.kinto.aws.inject(move |target, _| {
        let mut faults = injected.lock().unwrap();
        for ((operation, lost), count) in faults.iter_mut() {
            if target.ends_with(&format!(".{operation}")) && *count > 0 {
                *count -= 1;
                return Some(if *lost {
                    Fault::AnswerLost
                } else {
                    Fault::Unreached
                });
            }
        }
        None
    });
    let mut written = BTreeMap::<_, Vec<String>>::new();
    for (n, trouble) in troubles.into_iter().enumerate() {
        match trouble {
            Trouble::Write(second) => {
                let collection = if second { "two" } else { "one" };
                world.write(collection, n).await;
                written.entry(collection).or_default().push(format!("r{n}"));
            }
            Trouble::Fails(operation, n) => {
                faults.lock().unwrap().insert((operation, false), n);
            }
            Trouble::AnswersLost(operation, n) => {
                faults.lock().unwrap().insert((operation, true), n);
            }
            Trouble::Killed(n) => kills.store(n, Ordering::SeqCst),
            Trouble::Down(n) => world.recorders["a"].answers(NotifyError::failed("down"), n),
            Trouble::Wait(seconds) => sleep(Duration::from_secs(seconds)).await,
        }
    }
    let count: usize = written.values().map(Vec::len).sum();
    for listener in ["a", "b"] {
        world.until(listener, count).await;
        for (collection, records) in &written {
            assert_eq!(
                world.order(listener, collection),
                *records,
                "{listener} {collection}"
            );
        }
    }
    assert!(world.dead_letters().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(24), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_whatever_order_the_stream_brings_items_listeners_hear_in_the_order_of_the_commits(
        writes in prop::collection::vec(prop::collection::vec(0..5_usize, 1..4), 1..12),
        seed in any::<u64>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(order_survives_the_stream(writes, seed));
    }

    #[test]
    fn whatever_fails_each_listener_hears_of_every_write_in_order(troubles in prop::collection::vec(trouble(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(nothing_is_lost(troubles));
    }
}
