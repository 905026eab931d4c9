//! Random schedules of shards, deliveries, faults and pollers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use super::{CHANGESET, EarlierBatch, RECORDS, Stack, earlier_entry, etag, size};
use aws_lambda_events::dynamodb::Event;
use fastrand::Rng;
use kinto_local::Fault;
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Value, json};
use tests::Kinto;

/// The number of random schedules, and the seed of the first.
fn schedules() -> (u64, u64) {
    let var = |name: &str| std::env::var(name).ok()?.parse().ok();
    let seed = var("SCHEDULES_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    (var("SCHEDULES").unwrap_or(60), seed)
}

/// `SCHEDULES=3000 cargo test -p tests --test it hears_of_every_change -- --nocapture`
#[test]
fn whoever_polls_by_the_last_etag_or_waits_for_broadcasts_hears_of_every_change() {
    explore(false);
}

#[test]
fn whoever_polls_hears_of_every_change_while_aggregators_of_two_versions_run() {
    explore(true);
}

fn explore(with_earlier_version: bool) {
    let (count, first) = schedules();
    println!("SCHEDULES={count} SCHEDULES_SEED={first}");
    for seed in first..first + count {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let schedule = async { Schedule::new(seed, with_earlier_version).run().await };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(schedule);
        }));
        outcome.unwrap_or_else(|panic| {
            println!("again: SCHEDULES=1 SCHEDULES_SEED={seed}");
            std::panic::resume_unwind(panic)
        });
    }
}

/// The records of one shard of the stream; the first ones are done.
#[derive(Default)]
struct Shard {
    records: Vec<Value>,
    done: usize,
    is_busy: bool,
}

/// A client that polls by the last `ETag`.
#[derive(Clone, Default)]
struct Poller {
    since: u64,
    known: BTreeMap<String, u64>,
}

/// Everything that clients have seen so far.
#[derive(Clone, Default)]
struct Seen {
    etag: u64,
    /// The timestamps of collections in responses that contained all of them.
    entries: BTreeMap<String, u64>,
}

/// Everything that runs concurrently: each is polled in its turn, which takes it at most to its next request.
type Actor = (Option<usize>, Pin<Box<dyn Future<Output = ()>>>);

/// One random schedule of changes on two shards, aggregators that are killed, requests that fail or arrive late, and
/// pollers in several processes.
struct Schedule {
    rng: Rng,
    stack: Rc<Stack>,
    aggregators: Vec<Stack>,
    processes: Vec<Kinto>,
    shards: Rc<RefCell<[Shard; 2]>>,
    pollers: Rc<RefCell<Vec<Option<Poller>>>>,
    seen: Rc<RefCell<Seen>>,
    /// The latest change of each collection, and whether it is a deletion.
    written: Rc<RefCell<BTreeMap<String, (u64, bool)>>>,
    actors: Vec<Actor>,
    now: u64,
    has_earlier_version: bool,
    /// Whether functions of an earlier version still run.
    with_earlier_version: bool,
    /// Requests in transit for which nobody waits any more.
    late: Late,
}

/// Requests with their operation and body.
type Late = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

fn collection(n: usize, is_short: bool) -> String {
    format!("c{n}{}", if is_short { "" } else { LONG })
}

const LONG: &str =
    "-so-that-a-few-collections-are-enough-to-fill-the-state-of-the-monitor-and-some-must-leave-it";

impl Schedule {
    fn new(seed: u64, with_earlier_version: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let stack = Stack::new();
        let now = 1_000_000;
        let mut written = BTreeMap::new();
        if with_earlier_version {
            let batch = EarlierBatch::begin(&stack, "0", Timestamp::now().0);
            for n in 0..rng.usize(..6) {
                batch.put(&collection(n, true), now + n as u64);
                written.insert(collection(n, true), (now + n as u64, false));
            }
            batch.end();
        }
        let late = Arc::default();
        fail_at_random(&stack, rng.fork(), Arc::clone(&late));
        Self {
            aggregators: (0..3).map(|_| stack.with_new_aggregator()).collect(),
            processes: (0..2).map(|_| stack.process()).collect(),
            stack: Rc::new(stack),
            shards: Rc::default(),
            pollers: Rc::new(RefCell::new(vec![Some(Poller::default()); 4])),
            seen: Rc::default(),
            written: Rc::new(RefCell::new(written)),
            actors: vec![],
            now: now + 1000,
            has_earlier_version: with_earlier_version,
            with_earlier_version,
            late,
            rng,
        }
    }

    /// Long names, so that few collections fill the state; short ones where writes of an earlier version would fail
    /// because a collection's entry was folded at a later position (decision 14).
    fn collection(&self, n: usize) -> String {
        collection(n, self.has_earlier_version)
    }

    async fn run(mut self) {
        for _ in 0..self.rng.usize(20..160) {
            match self.rng.u8(..16) {
                0..3 => self.write(),
                3..6 => self.deliver(),
                6..9 => self.poll(),
                9 => self.poll_when_told(),
                10 => self.kill(),
                11 => self.arrive(),
                _ => {}
            }
            for _ in 0..self.rng.usize(..12) {
                self.step().await;
            }
        }
        self.stack.kinto.aws.clear_faults();
        // Everything finishes, the rest is delivered, and something changes once more.
        self.write();
        for _ in 0..3 {
            while !self.actors.is_empty() {
                self.step().await;
            }
            self.arrive();
            self.with_earlier_version = false;
            for shard in 0..2 {
                self.deliver_from(shard, 0, usize::MAX);
                self.deliver_from(1 - shard, 0, usize::MAX);
            }
        }
        assert!(self.actors.is_empty(), "nothing was left to deliver");
        self.check().await;
    }

    /// Changes a collection. Each is on one shard; the clocks of two need not agree.
    fn write(&mut self) {
        let n = self.rng.usize(..14);
        let name = self.collection(n);
        let skew = if self.with_earlier_version {
            self.now += 1000;
            0
        } else {
            self.now += self.rng.u64(..3);
            self.rng.u64(..6)
        };
        let is_gone = self.rng.u8(..8) == 0;
        let mut written = self.written.borrow_mut();
        let last = written.get(&name).map_or(0, |(at, _)| *at);
        let at = (self.now + skew).max(last + 1);
        written.insert(name.clone(), (at, is_gone));
        let shard = &mut self.shards.borrow_mut()[n % 2];
        let mut record = tests::changed(shard.records.len() as u64 + 1, &name, at);
        if is_gone {
            record["dynamodb"]["NewImage"]["closed"] = json!({"BOOL": true});
        }
        shard.records.push(record);
    }

    fn deliver(&mut self) {
        let (shard, again, count) = (
            self.rng.usize(..2),
            self.rng.usize(..3),
            self.rng.usize(1..5),
        );
        self.deliver_from(shard, again, count);
    }

    /// Delivers the next `count` records of a shard to an aggregator, and `again` earlier ones before them.
    fn deliver_from(&mut self, n: usize, again: usize, count: usize) {
        let shards = Rc::clone(&self.shards);
        let (from, batch) = {
            let shard = &mut shards.borrow_mut()[n];
            let from = shard.done.saturating_sub(again);
            let to = shard.done.saturating_add(count).min(shard.records.len());
            if shard.is_busy || shard.done == to {
                return;
            }
            shard.is_busy = true;
            (from, shard.records[from..to].to_vec())
        };
        let stack = self.rng.choice(&self.aggregators).unwrap().clone();
        let is_earlier = self.with_earlier_version && self.rng.bool();
        let name = self.rng.u64(..).to_string();
        let aggregated = async move {
            let failed = if is_earlier {
                aggregate_as_earlier(&stack, &name, &batch).await;
                None
            } else {
                let event: Event = serde_json::from_value(json!({"Records": batch})).unwrap();
                let response = stack.aggregator.handle(event).await;
                let failures = response.batch_item_failures.into_iter();
                failures
                    .filter_map(|failure| failure.item_identifier)
                    .next()
            };
            let shard = &mut shards.borrow_mut()[n];
            shard.is_busy = false;
            let done = match failed {
                // The first record has the number 1.
                Some(number) => number.parse::<usize>().unwrap() - 1,
                None => from + batch.len(),
            };
            shard.done = done.max(shard.done);
        };
        self.actors.push((Some(n), Box::pin(aggregated)));
    }

    /// Kills a function. What it did is done; the batch is retried.
    fn kill(&mut self) {
        if self.actors.is_empty() {
            return;
        }
        let n = self.rng.usize(..self.actors.len());
        if let Some(shard) = self.actors[n].0 {
            drop(self.actors.swap_remove(n));
            self.shards.borrow_mut()[shard].is_busy = false;
        }
    }

    /// Delivers a late request; its condition may fail.
    fn arrive(&mut self) {
        for (operation, body) in std::mem::take(&mut *self.late.lock().unwrap()) {
            let _ = self.stack.kinto.aws.database().execute(&operation, &body);
        }
    }

    /// Advances one of the actors.
    async fn step(&mut self) {
        tokio::time::advance(Duration::from_millis(20)).await;
        if self.actors.is_empty() {
            return;
        }
        let n = self.rng.usize(..self.actors.len());
        let actor = &mut self.actors[n].1;
        let is_done =
            std::future::poll_fn(|context| Poll::Ready(actor.as_mut().poll(context).is_ready()));
        if is_done.await {
            drop(self.actors.swap_remove(n));
        }
    }

    /// One of the processes, or one with empty caches.
    fn process(&mut self) -> Kinto {
        let process = self.rng.choice(&self.processes).unwrap().clone();
        if self.rng.u8(..4) == 0 {
            return self.stack.process();
        }
        process
    }

    fn poll(&mut self) {
        if self.stack.state_item().get("clock").is_none() && self.has_earlier_version {
            // There is no guarantee for polls of a table that only aggregators of an earlier version write.
            return;
        }
        let (n, process) = (self.rng.usize(..4), self.process());
        let kind = (self.rng.u8(..4), self.has_earlier_version);
        let pollers = Rc::clone(&self.pollers);
        let Some(poller) = pollers.borrow_mut()[n].take() else {
            return;
        };
        let (seen, written) = (Rc::clone(&self.seen), Rc::clone(&self.written));
        let polled = async move {
            let poller = poll(&process, poller, kind, &seen, &written).await;
            pollers.borrow_mut()[n] = Some(poller);
        };
        self.actors.push((None, Box::pin(polled)));
    }

    /// A client gets the version that is due, and must find its changes.
    fn poll_when_told(&mut self) {
        let (stack, process) = (Rc::clone(&self.stack), self.process());
        let polled = async move {
            let version = stack.state().await.due("mp").unwrap_or_default().0;
            let answer = process.get(&format!("{CHANGESET}{version}")).await;
            let shown = answer.body["timestamp"].as_u64().unwrap();
            assert!(version <= shown, "told {version}, shown {shown}");
        };
        self.actors.push((None, Box::pin(polled)));
    }

    /// In the end all clients have all changes, and were notified of them.
    async fn check(self) {
        let written = self.written.borrow().clone();
        let live = written.iter().filter(|(_, (_, is_gone))| !is_gone);
        let live: BTreeMap<_, _> = live.map(|(name, (at, _))| (name.clone(), *at)).collect();
        let (state, entries) = self.stack.store.monitor().await.unwrap();
        let mut positions: Vec<_> = entries.iter().map(|entry| entry.position).collect();
        positions.dedup();
        assert_eq!(positions.len(), written.len(), "a position is there twice");
        let pollers = self.pollers.take();
        for poller in pollers {
            let poller = poller.unwrap();
            for process in [&self.processes[0], &self.stack.process()] {
                let kind = (0, self.has_earlier_version);
                let poller = poll(process, poller.clone(), kind, &self.seen, &self.written).await;
                let known = poller
                    .known
                    .iter()
                    .filter(|(name, _)| live.contains_key(*name));
                let known: BTreeMap<_, _> = known.map(|(name, at)| (name.clone(), *at)).collect();
                assert_eq!(known, live, "by {}", poller.since);
            }
        }
        // The earlier version has broadcast what was written before the clock was started.
        let recorded = if self.has_earlier_version {
            state.latest()
        } else {
            &*entries
        };
        let told = recorded.iter().filter(|entry| !entry.change.deleted);
        let highest = told.map(|entry| entry.position).max();
        assert!(
            highest <= state.due("mp"),
            "{highest:?} {:?}",
            state.due("mp")
        );
        assert!(highest.is_none() || !self.stack.kinto.aws.queue().is_empty());
        assert!(size(&self.stack.state_item()) <= 4096);
    }
}

/// Polls with the state of `poller`. No response is older than one given before its request.
async fn poll(
    process: &Kinto,
    mut poller: Poller,
    (kind, with_earlier_version): (u8, bool),
    seen: &RefCell<Seen>,
    written: &RefCell<BTreeMap<String, (u64, bool)>>,
) -> Poller {
    let before = seen.borrow().clone();
    let since = format!("\"{}\"", poller.since);
    let answer = match kind {
        // All, unless the client has them.
        3 => {
            process
                .send("GET", RECORDS, &[("if-none-match", &since)], "")
                .await
        }
        2 => process.get(&format!("{CHANGESET}&_since={since}")).await,
        _ => process.get(&format!("{RECORDS}?_since={since}")).await,
    };
    let etag = etag(&answer);
    assert!(
        with_earlier_version || etag >= before.etag.max(poller.since),
        "{etag} after {}",
        before.etag
    );
    let key = if kind == 2 { "changes" } else { "data" };
    let entries = answer.body[key].as_array().cloned().unwrap_or_default();
    assert_eq!(answer.status, if answer.body.is_null() { 304 } else { 200 });
    let mut shown = BTreeMap::new();
    for entry in entries {
        let name = entry["collection"].as_str().unwrap().to_owned();
        let at = entry["last_modified"].as_u64().unwrap();
        assert!(at <= written.borrow()[&name].0, "ahead: {name} {at}");
        shown.insert(name, at);
    }
    let mut seen = seen.borrow_mut();
    seen.etag = etag.max(seen.etag);
    if answer.status == 200 && kind == 3 {
        for (name, at) in &before.entries {
            // One that is no longer shown was deleted.
            assert!(
                shown.get(name).is_none_or(|shown| at <= shown),
                "back: {name}"
            );
        }
        for (name, at) in &shown {
            let highest = seen.entries.entry(name.clone()).or_default();
            *highest = (*highest).max(*at);
        }
    }
    poller.known.extend(shown);
    // If the clock is started below an entry that an aggregator of an earlier version has just written, it passes that
    // in a moment; a client that continues from there misses nothing.
    poller.since = etag.max(poller.since);
    poller
}

/// An aggregator of an earlier version, which may be killed between any two of its requests.
async fn aggregate_as_earlier(stack: &Stack, name: &str, batch: &[Value]) {
    let began = EarlierBatch::begin(stack, name, Timestamp::now().0);
    for record in batch {
        tokio::task::yield_now().await;
        let image = &record["dynamodb"]["NewImage"];
        let collection = image["pk"]["S"].as_str().unwrap();
        let collection = collection
            .rsplit('/')
            .next()
            .unwrap()
            .trim_end_matches("#record");
        let at = image["timestamp"]["N"].as_str().unwrap().parse().unwrap();
        let mut item = earlier_entry(collection, at);
        if image["closed"]["BOOL"] == true {
            item["deleted"] = true.into();
        }
        began.put_item(&item);
    }
    tokio::task::yield_now().await;
    began.end();
}

/// Some requests that write fail, lose their response, or arrive when nobody waits for them any more.
fn fail_at_random(stack: &Stack, rng: Rng, late: Late) {
    let rng = Mutex::new(rng);
    stack.kinto.aws.inject(move |target, body| {
        let operation = target.split_once('.')?.1;
        if !["UpdateItem", "PutItem", "SendMessage"].contains(&operation) {
            return None;
        }
        let mut rng = rng.lock().unwrap();
        match rng.u8(..24) {
            0 => Some(Fault::AnswerLost),
            1 => Some(Fault::error("ValidationException")),
            2 | 3 if operation != "SendMessage" => {
                late.lock()
                    .unwrap()
                    .push((operation.to_owned(), body.to_vec()));
                let is_repeated = rng.bool();
                Some(if is_repeated {
                    Fault::Unreached
                } else {
                    Fault::error("ValidationException")
                })
            }
            _ => None,
        }
    });
}
