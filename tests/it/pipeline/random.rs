//! Random steps: the monitor and Megaphone end at the latest, and never go back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Pipeline, TRIGGER, closed};
use kinto_local::Fault;
use proptest::prelude::*;
use serde_json::Value;
use tests::changed;

/// A step of a random schedule.
#[derive(Clone, Debug)]
enum Step {
    /// The records in this range of the stream are delivered, reversed if set, and `fails` requests fail meanwhile.
    Stream {
        from: usize,
        count: usize,
        reversed: bool,
        fails: u32,
    },
    /// A message is delivered; Megaphone answers with this status.
    Message { status: u16 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stream = (0..20_usize, 1..8_usize, any::<bool>(), 0..3_u32).prop_map(
        |(from, count, reversed, fails)| Step::Stream {
            from,
            count,
            reversed,
            fails,
        },
    );
    let message =
        prop::sample::select(vec![200, 201, 429, 503]).prop_map(|status| Step::Message { status });
    prop::collection::vec(prop_oneof![stream, message], 1..12)
}

/// A stream of changes of four collections, each change later than the one before; some delete the collection.
fn stream() -> impl Strategy<Value = Vec<Value>> {
    let collection = prop::sample::select(vec!["one", "two", "three", "quiet"]);
    prop::collection::vec((collection, prop::bool::weighted(0.2)), 1..20).prop_map(|changes| {
        let record = |(n, (collection, gone)): (usize, (&str, bool))| {
            let number = n as u64 + 1;
            if gone {
                closed(number, collection, 100 + number)
            } else {
                changed(number, collection, 100 + number)
            }
        };
        changes.into_iter().enumerate().map(record).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Invariants 3 and 4: in any schedule, nothing goes back, and in the end all have the latest.
    #[test]
    fn monitor_and_megaphone_never_go_back_and_end_at_the_latest(stream in stream(), steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let pipeline = Pipeline::new().await;
            let mut told: Vec<u64> = vec![];
            let mut last_etag = String::new();
            let all_again = Step::Stream { from: 0, count: stream.len(), reversed: false, fails: 0 };
            for step in steps.into_iter().chain([all_again, Step::Message { status: 200 }]) {
                match step {
                    Step::Stream { from, count, reversed, fails } => {
                        let from = from.min(stream.len());
                        let mut batch = stream[from..(from + count).min(stream.len())].to_vec();
                        if reversed {
                            batch.reverse();
                        }
                        let met = AtomicU32::new(0);
                        pipeline.kinto.aws.inject(move |_, _| {
                            (met.fetch_add(1, Ordering::SeqCst) < fails).then(|| Fault::error("ValidationException"))
                        });
                        let failed = pipeline.aggregate(&batch).await;
                        pipeline.kinto.aws.clear_faults();
                        assert!(failed.is_none() || fails > 0);
                    }
                    Step::Message { status } => {
                        pipeline.megaphone_answers(status).await;
                        pipeline.broadcast(&[TRIGGER]).await;
                        told.extend(pipeline.told().await.iter().map(|v| v.trim_matches('"').parse::<u64>().unwrap()));
                    }
                }
                let etag = pipeline.monitor_etag().await;
                assert!(etag >= last_etag, "{etag} after {last_etag}");
                last_etag = etag;
            }
            assert!(told.is_sorted(), "{told:?}");

            let mut latest = BTreeMap::new();
            for record in &stream {
                let image = &record["dynamodb"]["NewImage"];
                let pk = image["pk"]["S"].as_str().unwrap();
                let collection = pk.trim_end_matches("#record").rsplit('/').next().unwrap().to_owned();
                let timestamp: u64 = image["timestamp"]["N"].as_str().unwrap().parse().unwrap();
                latest.insert(collection, (timestamp, image["closed"]["BOOL"] == true));
            }
            let shown: BTreeMap<_, _> =
                latest.into_iter().filter(|(_, (_, gone))| !gone).map(|(c, (t, _))| (c, t)).collect();
            assert_eq!(pipeline.monitor().await, shown);
            // A change whose collection was deleted in the same batch may never be broadcast; one that is shown always
            // is, at its position or a later one.
            let shown_due = shown.iter().filter(|(c, _)| *c != "quiet").map(|(_, t)| *t).max();
            let etag = last_etag.trim_matches('"').parse::<u64>().ok();
            assert!(shown_due <= told.last().copied() && told.last().copied() <= etag, "{told:?} {shown_due:?} {etag:?}");
        });
    }
}
