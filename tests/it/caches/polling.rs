//! Clients that poll through caches: the share of requests that reach the origin, and the age of what clients see.
//!
//! Each polls monitor/changes and, for each changed collection, requests the changes since the state that it has.
//! docs/performance.md shows the results of a whole day (`SIMULATED_HOURS=24`).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::MONITOR;
use super::Origin;
use super::exchange::{Answer, Cache, Request, get};
use super::model::{Model, Rules};
use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Value, json};

const CLIENTS: usize = 10_000;
/// The polling interval.
const INTERVAL: Duration = Duration::from_secs(300);
const CHANGES_A_DAY: u32 = 100;
const COLLECTIONS: usize = 20;
/// The longest time until a change shows.
pub const BOUND: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The approximate bytes of a response's headers.
const HEADERS: usize = 600;

/// The caches between the clients and the API.
#[derive(Clone, Copy, Debug)]
pub struct Front {
    pub edges: usize,
    /// Whether they ask a second cache, which asks the API.
    pub has_origin_shield: bool,
    /// Whether clients name their state in the URL, so that each state has a URL of its own.
    pub polls_since: bool,
}

/// The result.
#[derive(Debug)]
pub struct Outcome {
    pub requests: usize,
    pub reached_the_origin: usize,
    pub reached_the_shield: usize,
    pub bytes: usize,
    /// For each poll that showed an outdated state: for how long that had been outdated.
    pub outdated: Vec<Duration>,
}

impl Outcome {
    /// The share of the requests that reached the origin.
    pub fn share(&self) -> f64 {
        self.reached_the_origin as f64 / self.requests as f64
    }
}

/// The API, with its last responses cached while nothing changes, so that a day takes a minute.
struct Api {
    origin: Origin,
    answers: RefCell<HashMap<(String, String), Answer>>,
    requests: Cell<usize>,
    changes: RefCell<Vec<Change>>,
}

/// A change of a collection.
#[derive(Clone, Copy)]
struct Change {
    at: Duration,
    collection: usize,
    timestamp: u64,
}

/// A client's state: the timestamp of monitor/changes, and of each collection.
#[derive(Clone)]
struct Client {
    etag: String,
    collections: [u64; COLLECTIONS],
}

/// Simulates clients that poll through CloudFront for `time` on a clock of its own.
pub async fn poll(front: Front, time: Duration) -> Outcome {
    let origin = Api::new().await;
    let shield = Model::new(Rules::CloudFront, async |request: &Request| {
        origin.answer(request).await
    });
    let edge = |_| {
        Model::new(Rules::CloudFront, async |request: &Request| {
            match front.has_origin_shield {
                true => shield.send(request.clone()).await,
                false => origin.answer(request).await,
            }
        })
    };
    let edges: Vec<_> = (0..front.edges).map(edge).collect();
    let mut clients = vec![origin.client(); CLIENTS];
    let mut outcome = Outcome {
        requests: 0,
        reached_the_origin: 0,
        reached_the_shield: 0,
        bytes: 0,
        outdated: vec![],
    };
    // Many clients get the same response: it is parsed once.
    let mut read: HashMap<Vec<u8>, Rc<Value>> = HashMap::new();
    let mut json = |answer: Answer| match read.get(&answer.body) {
        Some(json) => Rc::clone(json),
        None => {
            let json = Rc::new(answer.json());
            read.insert(answer.body, Rc::clone(&json));
            json
        }
    };
    let between = DAY / CHANGES_A_DAY;
    let mut next_change = between / 2;
    for round in 0.. {
        if INTERVAL * round >= time {
            break;
        }
        for (n, client) in clients.iter_mut().enumerate() {
            let now = INTERVAL * round + INTERVAL.mul_f64(n as f64 / CLIENTS as f64);
            if now >= next_change {
                origin.change(next_change).await;
                next_change += between;
            }
            let edge = &edges[n % front.edges];
            shield.set_now(now);
            edge.set_now(now);
            let mut send = async |request: Request| {
                let answer = edge.send(request).await;
                outcome.requests += 1;
                outcome.bytes += HEADERS + answer.body.len();
                answer
            };
            let mut path = format!("{MONITOR}/changeset?_expected=0");
            if front.polls_since {
                path += &format!("&_since={}", client.etag.replace('"', "%22"));
            }
            let polled = send(get(&path).with(IF_NONE_MATCH, &client.etag)).await;
            let seen = timestamp_of(&polled);
            if polled.status == 200 && polled.header(ETAG) != client.etag {
                let etag = polled.header(ETAG).to_owned();
                let body = json(polled);
                for entry in body["changes"].as_array().unwrap() {
                    let id = entry["collection"].as_str().unwrap();
                    let collection: usize = id[1..].parse().unwrap();
                    let changed = entry["last_modified"].as_u64().unwrap();
                    let own: &mut u64 = &mut client.collections[collection];
                    if changed > *own {
                        let query = format!("_expected={changed}&_since={own}");
                        let path = format!("{}/changeset?{query}", path_of(collection));
                        let body = json(send(get(&path)).await);
                        // The response is that state, with the record's content at that time.
                        assert_eq!(body["timestamp"], changed);
                        assert_eq!(body["changes"][0]["last_modified"], changed);
                        *own = changed;
                    }
                }
                client.etag = etag;
            }
            let changes = origin.changes.borrow();
            if let Some(missed) = changes.iter().find(|change| change.timestamp > seen) {
                outcome.outdated.push(now - missed.at);
            }
        }
    }
    outcome.reached_the_origin = origin.requests.get();
    outcome.reached_the_shield = shield.forwarded();
    if front.has_origin_shield {
        outcome.reached_the_shield = edges.iter().map(Model::forwarded).sum();
    }
    outcome
}

fn path_of(collection: usize) -> String {
    format!("/buckets/polled/collections/c{collection}")
}

/// The timestamp of a response, also of a 304.
fn timestamp_of(answer: &Answer) -> u64 {
    Timestamp::from_query(answer.header(ETAG)).unwrap().0
}

impl Api {
    async fn new() -> Self {
        let bound = BOUND.as_secs().to_string();
        let vars = [
            ("KINTO_CACHE_EXPIRES_SECONDS", &*bound),
            // The default.
            ("KINTO_CACHE_MAXIMUM_EXPIRES_SECONDS", "600"),
            ("KINTO_CHANGES_RESOURCES", "/buckets/polled"),
        ];
        let api = Self {
            origin: Origin::start(&vars).await,
            answers: RefCell::default(),
            requests: Cell::default(),
            changes: RefCell::default(),
        };
        let everyone = json!({"permissions": {"read": ["system.Everyone"]}});
        api.origin.put("/buckets/polled", &everyone).await;
        for collection in 0..COLLECTIONS {
            api.origin.put(&path_of(collection), &json!({})).await;
            api.change_in(collection, Duration::ZERO).await;
        }
        api
    }

    /// A client with the present state.
    fn client(&self) -> Client {
        let mut client = Client {
            etag: String::new(),
            collections: [0; COLLECTIONS],
        };
        for change in self.changes.borrow().iter() {
            client.collections[change.collection] = change.timestamp;
            client.etag = Timestamp(change.timestamp).etag();
        }
        client
    }

    /// Changes one collection after the other.
    async fn change(&self, at: Duration) {
        let collection = self.changes.borrow().len() % COLLECTIONS;
        self.change_in(collection, at).await;
    }

    async fn change_in(&self, collection: usize, at: Duration) {
        let path = path_of(collection);
        let data = json!({"data": {"text": "x".repeat(300)}});
        self.origin.put(&format!("{path}/records/a"), &data).await;
        self.origin.settle(&path).await;
        let timestamp = timestamp_of(&self.origin.get(&format!("{path}/records")).await);
        let before = self.changes.borrow().last().copied();
        // Otherwise they could not be distinguished.
        assert!(before.is_none_or(|before| before.timestamp < timestamp));
        self.answers.borrow_mut().clear();
        self.changes.borrow_mut().push(Change {
            at,
            collection,
            timestamp,
        });
    }

    async fn answer(&self, request: &Request) -> Answer {
        self.requests.set(self.requests.get() + 1);
        let known = request.header(IF_NONE_MATCH).to_owned();
        let key = (request.target.clone(), known);
        if let Some(answer) = self.answers.borrow().get(&key) {
            return answer.clone();
        }
        let answer = self.origin.way.send(request).await;
        assert!(answer.header(CACHE_CONTROL).starts_with("max-age="));
        self.answers.borrow_mut().insert(key, answer.clone());
        answer
    }
}

/// Measures the age of what clients see behind a real cache, with a scaled-down max-age: each of 40 polls three times a
/// second while something changes every second. Returns for how long each response had been outdated.
pub async fn poll_in_real_time(
    cache: &impl Cache,
    time: Duration,
    change: impl AsyncFn() -> u64,
) -> Vec<Duration> {
    const CLIENTS: u32 = 40;
    const INTERVAL: Duration = Duration::from_millis(300);
    let changes: RefCell<Vec<(Instant, u64)>> = RefCell::default();
    let outdated = RefCell::new(vec![]);
    let end = Instant::now() + time;
    let writer = async {
        while Instant::now() < end {
            let timestamp = change().await;
            changes.borrow_mut().push((Instant::now(), timestamp));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let client = async |n: u32| {
        tokio::time::sleep(INTERVAL * n / CLIENTS).await;
        while Instant::now() < end {
            let begin = Instant::now();
            let answer = cache.send(get(&format!("{MONITOR}/records"))).await;
            let seen = timestamp_of(&answer);
            // Content always matches its timestamp.
            assert_eq!(answer.json()["data"][0]["last_modified"], seen);
            let age = {
                let changes = changes.borrow();
                let missed = changes.iter().find(|(_, timestamp)| *timestamp > seen);
                missed.map_or(Duration::ZERO, |(at, _)| {
                    begin.saturating_duration_since(*at)
                })
            };
            outdated.borrow_mut().push(age);
            tokio::time::sleep(INTERVAL.saturating_sub(begin.elapsed())).await;
        }
    };
    let clients = futures::future::join_all((0..CLIENTS).map(client));
    futures::join!(writer, clients);
    outdated.into_inner()
}
