//! Random writes, batches, faults and rebuilds.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::Stack;
use kinto_local::Fault;
use kinto_serverless::store::broadcast_claim::ClaimOutcome;
use kinto_serverless::store::monitor::CollectionChange;
use kinto_serverless::timestamp::Timestamp;
use proptest::prelude::*;
use serde_json::json;
use tests::cases;

/// A step of a random schedule.
#[derive(Clone, Debug)]
enum Step {
    /// A record of this collection is written, backdated if set.
    Put(usize, bool),
    DeleteRecord(usize),
    Create(usize),
    Delete(usize),
    DeleteBucket,
    CreateBucket,
    /// This many records of the stream are delivered from there on, for the first time or again, reversed if set; after
    /// this many requests to the table and the queue the function is killed.
    Deliver {
        from: prop::sample::Index,
        count: usize,
        reversed: bool,
        killed: Option<u32>,
    },
}

const COLLECTIONS: [&str; 3] = ["one", "two", "three"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let deliver = (
        any::<prop::sample::Index>(),
        1..6_usize,
        any::<bool>(),
        prop::option::of(0..8_u32),
    );
    let deliver = deliver.prop_map(|(from, count, reversed, killed)| Step::Deliver {
        from,
        count,
        reversed,
        killed,
    });
    let step = prop_oneof![
        6 => (0..3_usize, prop::bool::weighted(0.2)).prop_map(|(c, past)| Step::Put(c, past)),
        2 => (0..3_usize).prop_map(Step::DeleteRecord),
        2 => (0..3_usize).prop_map(Step::Create),
        1 => (0..3_usize).prop_map(Step::Delete),
        1 => Just(Step::DeleteBucket),
        1 => Just(Step::CreateBucket),
        10 => deliver,
    ];
    prop::collection::vec(step, 1..16)
}

async fn take(stack: &Stack, step: Step) {
    let collection = |c: usize| format!("/buckets/main/collections/{}", COLLECTIONS[c]);
    let kinto = &stack.kinto;
    match step {
        Step::Put(c, past) => {
            let data = if past {
                json!({"last_modified": 5})
            } else {
                json!({})
            };
            kinto
                .put(
                    &format!("{}/records/r", collection(c)),
                    json!({"data": data}),
                )
                .await;
        }
        Step::DeleteRecord(c) => _ = kinto.delete(&format!("{}/records/r", collection(c))).await,
        Step::Create(c) => _ = kinto.put(&collection(c), json!({})).await,
        Step::Delete(c) => _ = kinto.delete(&collection(c)).await,
        Step::DeleteBucket => _ = kinto.delete("/buckets/main").await,
        Step::CreateBucket => _ = kinto.put("/buckets/main", json!({})).await,
        Step::Deliver {
            from,
            count,
            reversed,
            killed,
        } => {
            let stream = stack.stream();
            if stream.is_empty() {
                return;
            }
            let from = from.index(stream.len());
            let mut batch = stream[from..(from + count).min(stream.len())].to_vec();
            if reversed {
                batch.reverse();
            }
            let left = Mutex::new(killed);
            kinto.aws.inject(move |_, _| {
                let mut left = left.lock().unwrap();
                match left.as_mut()? {
                    // Requests of a killed function are not executed.
                    0 => Some(Fault::error("ValidationException")),
                    more => {
                        *more -= 1;
                        None
                    }
                }
            });
            // The result is ignored: a killed function has none.
            stack.aggregate(&batch).await;
            kinto.aws.clear_faults();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(32), ..ProptestConfig::default() })]

    /// Invariants 1 and 3: whatever the stream does and wherever a function is killed, an entry never goes back and is
    /// never above its collection's timestamp; in the end every write that was answered 2xx shows and was broadcast.
    #[test]
    fn the_monitor_never_goes_back_nor_ahead_and_converges(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stack = Stack::new();
            stack.create(&["one"]).await;
            let mut before = BTreeMap::new();
            for step in steps {
                take(&stack, step).await;
                let entries = stack.entries().await;
                let ceilings = stack.ceilings(&COLLECTIONS).await;
                for (key, entry) in &entries {
                    assert!(entry.last_modified.0 <= ceilings[&entry.collection], "ahead: {entry:?}");
                    let last: Option<&CollectionChange> = before.get(key);
                    assert!(last.is_none_or(|last| last.last_modified <= entry.last_modified), "back: {entry:?}");
                }
                assert!(before.keys().all(|key| entries.contains_key(key)), "lost");
                before = entries;
            }
            // What was dropped is retried.
            stack.drain().await;
            let shown = stack.shown().await;
            assert_eq!(shown, stack.timestamps(&COLLECTIONS).await);
            // It is due in the table, and a message names it; the broadcaster's part is the pipeline's test.
            if let Some(latest) = shown.values().max() {
                let now = Timestamp::now();
                let due = stack.state().await.due("mp");
                let claim = stack.store.claim_broadcast("mp", "this test", due, now, now).await.unwrap();
                assert!(matches!(claim, ClaimOutcome::Granted(due) if due >= Timestamp(*latest)), "{claim:?} {latest}");
                assert!(!stack.kinto.aws.queue().is_empty());
            }
        });
    }
}
