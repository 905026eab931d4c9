//! What is promised of broadcasts: the version at the receiver never goes back, ends at the latest and keeps to the
//! debounce window, and the failure of a Megaphone concerns neither a write nor another Megaphone.
//!
//! The clock is tokio's paused one: hours pass in no time, and queue, functions and Megaphone share it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use aws_lambda_events::dynamodb::Event;
use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent};
use fastrand::Rng;
use kinto_local::dynamodb::DynamoDb;
use kinto_local::megaphone::{Arrival, Behaviour, Megaphone as Receiver};
use kinto_local::queue::Redrive;
use kinto_local::stream::Mapping;
use kinto_local::{Fault, LocalAws, Options, Stack, server, stream};
use kinto_serverless::aggregator::Aggregator;
use kinto_serverless::api::Api;
use kinto_serverless::broadcaster::Broadcaster;
use kinto_serverless::listeners::Listeners;
use kinto_serverless::megaphone::Megaphone;
use kinto_serverless::queue::{BroadcastQueue, Inbox};
use kinto_serverless::settings::{Settings, Vars};
use kinto_serverless::store::Store;
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Value, json};
use tests::{Kinto, NOBODY, TABLE, changed, settings};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// As in template.yaml.
const FUNCTION_TIMEOUT: Duration = Duration::from_secs(40);
/// As in template.yaml.
const REDRIVE: Redrive = Redrive {
    delay: Duration::from_secs(240),
    max_receive_count: 1000,
};

/// What a listener is set to, besides what all have in common.
type Listener<'a> = (&'a str, &'a [(&'a str, &'a str)]);

/// The functions, their table and queue, and a Megaphone for each listener.
struct World {
    aws: LocalAws,
    aggregator: Aggregator,
    broadcaster: Broadcaster,
    settings: Settings,
    receivers: Vec<Receiver>,
    begin: Instant,
    /// What runs beside the test; it ends with this.
    tasks: JoinSet<()>,
    _stop: watch::Sender<bool>,
}

impl World {
    /// With these listeners, each of which has a Megaphone of its own and is told of the bucket `main`.
    async fn new(listeners: &[Listener<'_>]) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (mut tasks, mut receivers) = (JoinSet::new(), vec![]);
        let names: Vec<&str> = listeners.iter().map(|(name, _)| *name).collect();
        let mut vars = vec![("KINTO_EVENT_LISTENERS".to_owned(), names.join(" "))];
        for (name, more) in listeners {
            let socket = server::bind(0).await.unwrap();
            let url = format!("http://{}", socket.local_addr().unwrap());
            let receiver = Receiver::new("hush");
            tasks.spawn(receiver.clone().serve(socket, stopped.clone()));
            receivers.push(receiver);
            let set = [
                ("USE", "kinto_megaphone.listeners"),
                ("API_KEY", "hush"),
                ("URL", url.as_str()),
                ("BROADCASTER_ID", "remote-settings"),
                ("MATCH_KINTO_CHANGES", "/buckets/main"),
            ];
            for (setting, value) in set.iter().chain(*more) {
                let name = name.to_ascii_uppercase();
                let variable = format!("KINTO_EVENT_LISTENERS_{name}_{setting}");
                vars.push((variable, (*value).to_owned()));
            }
        }
        let vars: Vec<_> = vars
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let settings = settings(&vars);
        let aws = LocalAws::over(DynamoDb::sqlite().unwrap(), REDRIVE);
        aws.create_table(TABLE).unwrap();
        let store = Store::new(aws.dynamodb(), TABLE);
        let queue = BroadcastQueue::new(aws.sqs(), aws.queue_url());
        let inbox = Inbox::new(aws.sqs(), aws.queue_url(), aws.dead_letter_url());
        let megaphones = settings.megaphones.iter().cloned();
        let megaphones = megaphones.map(|m| Megaphone::new(m).unwrap()).collect();
        Self {
            aggregator: Aggregator::new(
                store.clone(),
                queue,
                settings.changes.clone(),
                settings.broadcasts.clone(),
                settings.megaphones.clone(),
            ),
            broadcaster: Broadcaster::new(store, inbox, megaphones),
            settings,
            aws,
            receivers,
            begin: Instant::now(),
            tasks,
            _stop: stop,
        }
    }

    /// The same with the queue's messages handled as they come.
    fn consuming(mut self) -> Self {
        let (broadcaster, begin) = (self.broadcaster.clone(), self.begin);
        let consumed = self.aws.queue().clone().consume(move |event| {
            let broadcaster = broadcaster.clone();
            async move { broadcaster.handle_at(event, clock(begin)).await }
        });
        self.tasks.spawn(consumed);
        self
    }

    /// The only listener's Megaphone.
    fn receiver(&self) -> &Receiver {
        &self.receivers[0]
    }

    /// The first failure's sequence number.
    async fn aggregate(&self, records: &[Value]) -> Option<String> {
        let event: Event = serde_json::from_value(json!({"Records": records})).unwrap();
        let failures = self.aggregator.handle(event).await.batch_item_failures;
        failures.into_iter().find_map(|f| f.item_identifier)
    }

    /// A change of a collection that matches, at once brought to the queue.
    async fn change(&self, timestamp: u64) {
        let record = changed(timestamp, "one", timestamp);
        assert_eq!(self.aggregate(&[record]).await, None);
    }

    /// Waits until no message is left in the queue; a day at most.
    async fn settled(&self) {
        let empty = async {
            while !self.aws.queue().is_empty() {
                sleep(Duration::from_secs(1)).await;
            }
        };
        timeout(Duration::from_secs(86_400), empty)
            .await
            .expect("the queue is empty within a day");
    }
}

fn clock(begin: Instant) -> Timestamp {
    Timestamp(1_795_289_972_000).after(begin.elapsed())
}

fn versions(arrivals: &[Arrival]) -> Vec<u64> {
    let version = |arrival: &Arrival| arrival.version.trim_matches('"').parse().unwrap();
    arrivals.iter().map(version).collect()
}

/// Of each arrival, whole seconds since `begin`.
fn seconds(arrivals: &[Arrival], begin: Instant) -> Vec<u64> {
    let seconds = |arrival: &Arrival| arrival.at.duration_since(begin).as_secs();
    arrivals.iter().map(seconds).collect()
}

/// Drops `future` when it has waited `waits` times, as a function is stopped; `None` then.
async fn killed_after<F: Future>(waits: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = waits;
    std::future::poll_fn(move |context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// The answer of a function that was stopped: every message comes again.
fn stopped() -> SqsBatchResponse {
    let mut response = SqsBatchResponse::default();
    response.add_failure("");
    response
}

/// A batch with one message, as someone sends it by hand.
fn by_hand() -> SqsEvent {
    let message = json!({"messageId": "1", "body": r#"{"listener": "mp"}"#});
    serde_json::from_value(json!({"Records": [message]})).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_first_change_is_told_at_once_and_the_latest_at_the_end_of_each_window() {
    let world = World::new(&[("mp", &[("DEBOUNCE_SECONDS", "300")])])
        .await
        .consuming();
    for timestamp in 1..=10 {
        world.change(timestamp).await;
        sleep(Duration::from_secs(55)).await;
    }
    world.settled().await;
    let arrivals = world.receiver().arrivals();
    assert_eq!(versions(&arrivals), [1, 6, 10]);
    assert_eq!(seconds(&arrivals, world.begin), [0, 300, 600]);
    // After a quiet time the next is told at once again.
    sleep(Duration::from_secs(1000)).await;
    let begin = Instant::now();
    world.change(11).await;
    world.settled().await;
    let last = world.receiver().arrivals().pop().unwrap();
    assert_eq!(versions(std::slice::from_ref(&last)), [11]);
    assert!(last.at.duration_since(begin) < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn without_a_window_every_change_is_told_at_once() {
    let world = World::new(&[("mp", &[])]).await.consuming();
    for timestamp in 1..=3 {
        world.change(timestamp).await;
        world.settled().await;
    }
    assert_eq!(versions(&world.receiver().arrivals()), [1, 2, 3]);
    assert!(world.begin.elapsed() < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_function_that_is_stopped_anywhere_neither_loses_a_broadcast_nor_breaks_the_window() {
    const WINDOW: Duration = Duration::from_secs(60);
    for waits in 0.. {
        let world = World::new(&[("mp", &[("DEBOUNCE_SECONDS", "60")])]).await;
        world.change(1).await;
        let stopped = killed_after(
            waits,
            world.broadcaster.handle_at(by_hand(), clock(world.begin)),
        );
        let ended = stopped.await.is_some();
        let world = world.consuming();
        world.change(2).await;
        world.settled().await;
        let arrivals = world.receiver().arrivals();
        let told = versions(&arrivals);
        assert!(
            told == [2] || told == [1, 2],
            "stopped after {waits} waits: {told:?}"
        );
        let apart = |pair: &[Arrival]| pair[1].at.duration_since(pair[0].at) >= WINDOW;
        assert!(
            arrivals.windows(2).all(apart),
            "stopped after {waits} waits"
        );
        if ended {
            assert!(
                waits >= 3,
                "it waits for the table, Megaphone and the table"
            );
            break;
        }
    }
}

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

/// Has the receiver answer what `answer` says to its n-th request, and notes when each came.
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

/// The whole seconds between one and the next.
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

        // One that was not told since is told by the redrive.
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

/// The API over the world's table.
fn kinto(world: &World) -> Kinto {
    let mut kinto = Kinto::new();
    kinto.aws = world.aws.clone();
    let store = Store::new(world.aws.dynamodb(), TABLE);
    kinto.api = Api::new(store, world.settings.clone(), vec![], Listeners::default());
    kinto
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
    // Beside each other, so that what else this machine does concerns both.
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

#[tokio::test]
async fn who_asks_gets_the_latest_change_by_one_request_to_the_table() {
    let vars = [
        (
            "KINTO_CHANGES_RESOURCES",
            "/buckets/main /buckets/main-preview",
        ),
        ("KINTO_BROADCASTS_READER_TOKEN", "letmein"),
    ];
    let world = World::new(&[]).await;
    let mut settings = settings(&vars);
    settings.megaphones.clear();
    let store = Store::new(world.aws.dynamodb(), TABLE);
    let queue = BroadcastQueue::new(world.aws.sqs(), world.aws.queue_url());
    let mut kinto = kinto(&world).as_user(NOBODY);
    kinto.api = Api::new(
        store.clone(),
        settings.clone(),
        vec![],
        Listeners::default(),
    );
    let aggregator = Aggregator::new(store, queue, settings.changes, settings.broadcasts, vec![]);
    let aggregate = async |record: Value| {
        let event: Event = serde_json::from_value(json!({"Records": [record]})).unwrap();
        assert!(
            aggregator
                .handle(event)
                .await
                .batch_item_failures
                .is_empty()
        );
    };

    let nothing = kinto.get("/__broadcasts__").await;
    assert_eq!(nothing.status, 200);
    assert_eq!(nothing.body, json!({"code": 200, "broadcasts": {}}));

    aggregate(changed(1, "one", 10)).await;
    let mut preview = changed(2, "one", 20);
    for image in ["Keys", "NewImage"] {
        preview["dynamodb"][image]["pk"]["S"] =
            "/buckets/main-preview/collections/one#record".into();
    }
    aggregate(preview).await;
    // The second change in five minutes is held back.
    aggregate(changed(3, "one", 30)).await;

    let shown = json!({"code": 200, "broadcasts": {"remote-settings/monitor_changes": "\"10\""}});
    world.aws.requests().take();
    let pulled = kinto.get("/__broadcasts__").await;
    assert_eq!((pulled.status, &pulled.body), (200, &shown));
    assert_eq!(pulled.header("cache-control"), "no-cache, no-store");
    let requests = world.aws.requests().take();
    assert_eq!((requests["GetItem"], requests.len()), (1, 1));

    let read = async |authorization: &str| {
        let headers = [("authorization", authorization)];
        kinto.send("GET", "/broadcasts", &headers, "").await
    };
    assert_eq!(read("Bearer letmein").await.body, shown);
    assert_eq!(kinto.get("/broadcasts").await.error(), (401, 120));
    for wrong in [
        "Bearer letmein2",
        "Bearer letmei",
        "Bearer ",
        "Bearer LETMEIN",
    ] {
        assert_eq!(read(wrong).await.error(), (401, 121), "{wrong}");
    }
    assert_eq!(
        world.aws.requests().total(),
        1,
        "a wrong token reads nothing"
    );
    // Without a token in the settings there is no such endpoint.
    assert_eq!(Kinto::new().get("/broadcasts").await.error(), (404, 111));
}

/// How many random schedules are tried, and the seed of the first.
fn schedules() -> (u64, u64) {
    let var = |name: &str| std::env::var(name).ok()?.parse().ok();
    let seed = var("SCHEDULES_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    (var("SCHEDULES").unwrap_or(50), seed)
}

/// `SCHEDULES=10000 cargo test -p tests --test broadcasts random_schedules -- --nocapture`
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

/// One random schedule of writes, of what fails meanwhile, and of the end, when nothing fails any more. How many
/// broadcasts there were.
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
        // Sometimes a batch begins with what came before, in whatever order.
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
                // All before it by number, wherever they stood, are done.
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
    // For what is still on its way.
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

/// While it storms, requests to the table and the queue fail now and then, and Megaphone often.
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

/// Handles the queue's messages; while it storms, functions are stopped now and then.
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
