//! Random schedules of changes, faults and redeliveries.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{FUNCTION_TIMEOUT, World, by_hand, clock, killed_after, stopped, versions};
use fastrand::Rng;
use kinto_local::Fault;
use kinto_local::megaphone::Behaviour;
use serde_json::Value;
use tests::changed;
use tokio::time::{sleep, timeout};

/// The number of random schedules, and the seed of the first.
fn schedules() -> (u64, u64) {
    let var = |name: &str| std::env::var(name).ok()?.parse().ok();
    let seed = var("SCHEDULES_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    (var("SCHEDULES").unwrap_or(50), seed)
}

/// `SCHEDULES=10000 cargo test -p tests --test it random_schedules -- --nocapture`
#[test]
fn whatever_happens_the_version_never_goes_back_ends_at_the_latest_and_keeps_to_the_window_in_random_schedules()
 {
    let (count, first) = schedules();
    println!("SCHEDULES={count} SCHEDULES_SEED={first}");
    let mut told = 0;
    for seed in first..first + count {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let outcome = std::panic::catch_unwind(|| runtime.block_on(schedule(seed)));
        told += outcome.unwrap_or_else(|panic| {
            println!("again: SCHEDULES=1 SCHEDULES_SEED={seed}");
            std::panic::resume_unwind(panic)
        });
    }
    println!("{told} broadcasts in {count} schedules");
    assert!(told > 0);
}

/// One random schedule of writes and failures, and of the end, when nothing fails any more. Returns the number of
/// broadcasts.
async fn schedule(seed: u64) -> usize {
    let mut rng = Rng::with_seed(seed);
    let window = *rng.choice(&[0, 0, 5, 60, 300, 600]).unwrap();
    let window_setting = window.to_string();
    let mut world = World::new(&[(
        "mp",
        &[
            ("DEBOUNCE_SECONDS", window_setting.as_str()),
            ("EXCEPT_KINTO_CHANGES", "/buckets/main/collections/quiet"),
        ],
    )])
    .await;
    let storm = Arc::new(AtomicBool::new(true));
    fail_at_random(&world, rng.fork(), &storm);
    world
        .tasks
        .spawn(consume_at_random(&world, rng.fork(), &storm));

    let (mut records, mut latest, mut latest_told) = (vec![], 0, None);
    for _ in 0..rng.usize(1..25) {
        let pause = *rng
            .choice(&[0, 0, 10, 1000, 7000, 60_000, 400_000])
            .unwrap();
        sleep(Duration::from_millis(pause)).await;
        if rng.u8(..5) == 0 {
            let (broadcaster, begin) = (world.broadcaster.clone(), world.begin);
            world.tasks.spawn(async move {
                broadcaster.handle_at(by_hand(), clock(begin)).await;
            });
            continue;
        }
        latest = clock(world.begin).0.max(latest + 1);
        let collection = *rng.choice(&["one", "two", "quiet"]).unwrap();
        if collection != "quiet" {
            latest_told = Some(latest);
        }
        records.push(changed(records.len() as u64 + 1, collection, latest));
        // Some batches begin with earlier records, in any order.
        let from = records.len() - rng.usize(1..=records.len().min(4));
        let mut batch = records[from..].to_vec();
        if rng.bool() {
            rng.shuffle(&mut batch);
        }
        loop {
            let aggregated = world.aggregate(&batch);
            let waits = if rng.u8(..8) == 0 {
                rng.usize(..12)
            } else {
                usize::MAX
            };
            match killed_after(waits, aggregated).await {
                Some(None) => break,
                // All records before it by number, in any position, are done.
                Some(Some(failed)) => {
                    batch.retain(|record| number(record) >= failed.parse().unwrap())
                }
                None => {}
            }
        }
    }
    sleep(Duration::from_secs(rng.u64(..1000))).await;
    storm.store(false, Ordering::SeqCst);
    world.settled().await;
    world.aws.queue().redrive();
    world.settled().await;
    // For messages in transit.
    sleep(Duration::from_secs(90)).await;

    let arrivals = world.receiver().arrivals();
    let told = versions(&arrivals);
    assert!(told.is_sorted(), "back: {told:?}");
    assert_eq!(told.last().copied(), latest_told, "not the latest");
    let window = Duration::from_secs(window);
    for pair in arrivals.windows(2) {
        let apart = pair[1].at.duration_since(pair[0].at);
        assert!(apart >= window, "{apart:?} in a window of {window:?}");
    }
    arrivals.len()
}

fn number(record: &Value) -> u64 {
    let number = &record["dynamodb"]["SequenceNumber"];
    number.as_str().unwrap().parse().unwrap()
}

/// During the storm, requests to the table and the queue fail now and then, and Megaphone often.
fn fail_at_random(world: &World, mut rng: Rng, storm: &Arc<AtomicBool>) {
    let (aws_rng, storms) = (Mutex::new(rng.fork()), Arc::clone(storm));
    world.aws.inject(move |_, _| {
        let mut rng = aws_rng.lock().unwrap();
        if !storms.load(Ordering::SeqCst) || rng.u8(..20) > 0 {
            return None;
        }
        Some(match rng.u8(..3) {
            0 => Fault::Unreached,
            1 => Fault::AnswerLost,
            _ => Fault::error("InternalServerError"),
        })
    });
    let (rng, storms) = (Mutex::new(rng), Arc::clone(storm));
    world.receiver().behave(move || {
        let mut rng = rng.lock().unwrap();
        if !storms.load(Ordering::SeqCst) {
            return Behaviour::Taken;
        }
        match rng.u8(..12) {
            0 => Behaviour::Unanswered,
            1 => Behaviour::Lost,
            2 => Behaviour::Late(Duration::from_secs(rng.u64(..45))),
            3 => Behaviour::Slow(Duration::from_secs(rng.u64(..20))),
            4 => Behaviour::Refused(429, Some(rng.u64(..100))),
            5 => Behaviour::Refused(*rng.choice(&[500, 503, 408]).unwrap(), None),
            6 => Behaviour::Refused(*rng.choice(&[502, 504]).unwrap(), None),
            7 => Behaviour::Refused(*rng.choice(&[400, 401, 403]).unwrap(), None),
            _ => Behaviour::Taken,
        }
    });
}

/// Handles the queue's messages; during the storm, functions are stopped now and then.
fn consume_at_random(
    world: &World,
    rng: Rng,
    storm: &Arc<AtomicBool>,
) -> impl Future<Output = ()> + use<> {
    let (broadcaster, begin) = (world.broadcaster.clone(), world.begin);
    let (rng, storm) = (Arc::new(Mutex::new(rng)), Arc::clone(storm));
    world.aws.queue().clone().consume(move |event| {
        let (broadcaster, mut waits) = (broadcaster.clone(), usize::MAX);
        if storm.load(Ordering::SeqCst) {
            let mut rng = rng.lock().unwrap();
            if rng.u8(..6) == 0 {
                waits = rng.usize(..20);
            }
        }
        async move {
            let handled = killed_after(waits, broadcaster.handle_at(event, clock(begin)));
            match timeout(FUNCTION_TIMEOUT, handled).await {
                Ok(Some(response)) => response,
                Ok(None) | Err(_) => stopped(),
            }
        }
    })
}
