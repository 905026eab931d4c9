//! Megaphones that fail, are slow, or are down.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Listener, World, kinto, versions};
use kinto_local::megaphone::{Behaviour, Megaphone as Receiver};
use kinto_local::stream::Mapping;
use kinto_local::{Options, Stack, stream};
use kinto_serverless::settings::Vars;
use serde_json::json;
use tests::{Kinto, TABLE, changed};
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn a_megaphone_that_fails_holds_up_no_other() {
    let world = World::new(&[
        ("mp", &[]),
        ("slow", &[("DEBOUNCE_SECONDS", "100")]),
        ("broken", &[]),
        (
            "other",
            &[
                ("MATCH_KINTO_CHANGES", "/buckets/main/collections/two"),
                ("BROADCASTER_ID", "two"),
            ],
        ),
    ])
    .await
    .consuming();
    world.receivers[2].behave(|| Behaviour::Refused(503, None));
    for timestamp in 1..=3 {
        world.change(timestamp).await;
        sleep(Duration::from_secs(30)).await;
    }
    assert_eq!(
        world.aggregate(&[changed(4, "two", 4)]).await,
        None,
        "the queue takes it"
    );
    sleep(Duration::from_secs(30)).await;
    let told: Vec<_> = world
        .receivers
        .iter()
        .map(|receiver| versions(&receiver.arrivals()))
        .collect();
    assert_eq!(told, [vec![1, 2, 3, 4], vec![1, 4], vec![], vec![4]]);
    assert_eq!(
        world.receivers[3].arrivals()[0].channel,
        "two/monitor_changes"
    );

    world.receivers[2].behave(|| Behaviour::Taken);
    world.settled().await;
    assert_eq!(versions(&world.receivers[2].arrivals()), [4]);
}

/// Makes the receiver answer its n-th request by `answer`, and records the time of each.
fn answering(
    receiver: &Receiver,
    answer: impl Fn(usize) -> Behaviour + Send + Sync + 'static,
) -> Arc<Mutex<Vec<Instant>>> {
    let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let log = Arc::clone(&times);
    receiver.behave(move || {
        let mut log = log.lock().unwrap();
        log.push(Instant::now());
        answer(log.len() - 1)
    });
    times
}

/// The whole seconds between consecutive times.
fn pauses(times: &Mutex<Vec<Instant>>) -> Vec<u64> {
    let times = times.lock().unwrap();
    let pause = |pair: &[Instant]| pair[1].duration_since(pair[0]).as_secs();
    times.windows(2).map(pause).collect()
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_tried_three_times_and_a_redrive_at_any_later_time_is_harmless() {
    for status in [400, 401, 403, 404] {
        let world = World::new(&[("mp", &[])]).await.consuming();
        let times = answering(world.receiver(), move |_| Behaviour::Refused(status, None));
        world.change(1).await;
        world.settled().await;
        assert_eq!(pauses(&times), [60, 60]);
        assert_eq!(world.aws.queue().dead_letters().len(), 1);

        // Half a year later the key is right, and much has changed.
        sleep(Duration::from_secs(183 * 86_400)).await;
        world.receiver().behave(|| Behaviour::Taken);
        world.change(2).await;
        world.settled().await;
        world.aws.queue().redrive();
        world.settled().await;
        assert_eq!(versions(&world.receiver().arrivals()), [2]);

        // The redrive also sends a version that was not sent since.
        world
            .receiver()
            .behave(move || Behaviour::Refused(status, None));
        world.change(3).await;
        world.settled().await;
        world.receiver().behave(|| Behaviour::Taken);
        world.aws.queue().redrive();
        world.settled().await;
        assert_eq!(versions(&world.receiver().arrivals()), [2, 3]);
        assert!(world.aws.queue().dead_letters().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_may_pass_is_tried_again_sooner_first_and_later_then() {
    let world = World::new(&[("mp", &[])]).await.consuming();
    let times = answering(world.receiver(), |request| match request {
        0..8 => Behaviour::Refused(if request % 2 == 0 { 500 } else { 503 }, None),
        8 => Behaviour::Refused(429, Some(600)),
        _ => Behaviour::Taken,
    });
    world.change(1).await;
    world.settled().await;
    assert_eq!(pauses(&times), [1, 2, 4, 8, 16, 32, 60, 60, 600]);
    assert!(world.aws.queue().dead_letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn no_newer_version_leaves_while_one_without_an_answer_may_yet_arrive() {
    let behind_a_gateway = Behaviour::Refused(504, None);
    let slow = Behaviour::Slow(Duration::from_secs(30));
    let late = Behaviour::Late(Duration::from_secs(80));
    for unanswered in [behind_a_gateway, slow, late, Behaviour::Lost] {
        let world = World::new(&[("mp", &[])]).await.consuming();
        let times = answering(world.receiver(), move |request| match request {
            0 => unanswered,
            _ => Behaviour::Taken,
        });
        world.change(1).await;
        sleep(Duration::from_secs(1)).await;
        world.change(2).await;
        world.settled().await;
        assert!(pauses(&times)[0] >= 89, "{unanswered:?}");
        let told = versions(&world.receiver().arrivals());
        assert!(told.is_sorted() && told.last() == Some(&2), "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_megaphone_that_cannot_be_reached_is_tried_again_soon() {
    let world = World::new(&[("mp", &[("URL", "http://127.0.0.1:9")])])
        .await
        .consuming();
    world.change(1).await;
    sleep(Duration::from_secs(20)).await;
    // After 0, 1, 3, 7, 15 seconds: two updates of the table each. The first two were the aggregator's.
    assert_eq!(world.aws.requests().of("UpdateItem"), 2 + 2 * 5);
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// An API with the bucket `main` and its collection `one`, whose changes go the whole way.
async fn with_collection(listener: Listener<'_>) -> (World, Kinto) {
    let mut world = World::new(&[listener]).await.consuming();
    let aggregator = world.aggregator.clone();
    let mapping = Mapping::of_aggregator(move |event| {
        let aggregator = aggregator.clone();
        async move { aggregator.handle(event).await }
    });
    let streamed = stream::consume(world.aws.clone(), TABLE.to_owned(), vec![mapping]);
    world.tasks.spawn(streamed);
    let kinto = kinto(&world);
    for path in ["/buckets/main", "/buckets/main/collections/one"] {
        assert_eq!(kinto.put(path, json!({})).await.status, 201);
    }
    (world, kinto)
}

#[tokio::test(start_paused = true)]
async fn a_megaphone_down_for_ten_minutes_and_1000_writes_gets_one_broadcast_afterwards() {
    // Side by side, so that other load on this machine affects both.
    let (_healthy, beside) = with_collection(("mp", &[])).await;
    let (world, kinto) = with_collection(("mp", &[])).await;
    world.settled().await;
    let before = world.receiver().arrivals().len();
    let times = answering(world.receiver(), |_| Behaviour::Refused(503, None));

    let write = async |kinto: &Kinto, n: usize| {
        let path = format!("/buckets/main/collections/one/records/r{n}");
        let begin = std::time::Instant::now();
        let answer = kinto.put(&path, json!({})).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        (begin.elapsed(), answer.last_modified())
    };
    let (mut healthy, mut down, mut last) = (vec![], vec![], 0);
    for n in 0..1000 {
        if n % 5 == 0 {
            healthy.push(write(&beside, n).await.0);
        }
        let (took, timestamp) = write(&kinto, n).await;
        down.push(took);
        last = timestamp;
        sleep(Duration::from_millis(600)).await;
    }
    let recovered = Instant::now();
    world.receiver().behave(|| Behaviour::Taken);
    world.settled().await;

    let after = &world.receiver().arrivals()[before..];
    assert_eq!(versions(after), [last]);
    let recovery = after[0].at.duration_since(recovered);
    let attempts = times.lock().unwrap().len();
    let (healthy, down) = (median(healthy), median(down));
    println!(
        "a PUT took {down:?} during the outage, {healthy:?} beside it (medians); {attempts} attempts, the broadcast \
         came {recovery:?} after it"
    );
    assert!(attempts <= 20 && recovery <= Duration::from_secs(60));
    assert!(down < healthy * 2, "{down:?} {healthy:?}");
}

#[tokio::test]
async fn a_put_is_answered_as_fast_with_a_megaphone_that_takes_two_seconds() {
    const WRITES: usize = 200;
    let client = reqwest::Client::new();
    let put = async |stack: &Stack, path: &str| {
        let begin = Instant::now();
        let request = client.put(stack.url() + path).basic_auth("me", Some("x"));
        assert_eq!(request.send().await.unwrap().status(), 201);
        begin.elapsed()
    };
    let start = async || {
        let options = Options::default();
        let stack = Stack::start(&options, Vars::default()).await.unwrap();
        put(&stack, "buckets/main").await;
        put(&stack, "buckets/main/collections/one").await;
        stack
    };
    let (quick, slow) = (start().await, start().await);
    let two_seconds = Behaviour::Slow(Duration::from_secs(2));
    slow.megaphone().behave(move || two_seconds);
    let (mut with_quick, mut with_slow) = (vec![], vec![]);
    for n in 0..WRITES {
        let path = format!("buckets/main/collections/one/records/r{n}");
        with_quick.push(put(&quick, &path).await);
        with_slow.push(put(&slow, &path).await);
    }
    let (with_quick, with_slow) = (median(with_quick), median(with_slow));
    println!(
        "a PUT took {with_quick:?} with a quick Megaphone, {with_slow:?} with a slow one (medians of {WRITES})"
    );
    assert!(with_slow < with_quick * 2);
    quick.stop().await;
    slow.stop().await;
}
