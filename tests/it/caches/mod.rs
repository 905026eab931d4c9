//! The API through caches: Debian's Varnish, nginx and Squid as they ship, and models of RFC 9111 and of CloudFront.
//!
//! Every check is written once, for any cache. The origin is the local stack, in the dialect of Remote Settings, whose
//! responses caches can spoil most easily. `tests/run` installs the caches.

mod checks;
mod exchange;
mod model;
mod polling;
mod servers;

use std::time::{Duration, Instant};

use self::checks::{CLOSED, checks, checks_of_a_closed_one};
use self::exchange::{Answer, Request, get, request};
use self::model::{Model, Rules};
use self::polling::Front;
use self::servers::{Program, Server, Way};
use http::Method;
use http::header::{AUTHORIZATION, ETAG};
use kinto_local::{Options, Stack};
use kinto_serverless::settings::Vars;
use serde_json::{Value, json};
use tests::ALICE;

/// The max-age of responses to anonymous users.
const LIFETIME: Duration = Duration::from_secs(2);

/// A little longer, so that they have expired.
const AFTER: Duration = Duration::from_millis(2_100);

/// The additional delay of a change: as shipped, Varnish serves its copy once more while it revalidates, and the
/// machine may be busy.
const PATIENCE: Duration = Duration::from_secs(5);

const MONITOR: &str = "/buckets/monitor/collections/changes";

#[tokio::test]
#[ignore = "needs varnish: tests/run"]
async fn the_api_is_right_through_varnish() {
    through(Program::Varnish).await;
}

#[tokio::test]
#[ignore = "needs nginx-light: tests/run"]
async fn the_api_is_right_through_nginx() {
    through(Program::Nginx).await;
}

#[tokio::test]
#[ignore = "needs squid: tests/run"]
async fn the_api_is_right_through_squid() {
    through(Program::Squid).await;
}

#[tokio::test]
async fn the_api_is_right_through_all_that_rfc_9111_allows() {
    through_model(Rules::Rfc9111).await;
}

#[tokio::test]
async fn the_api_is_right_through_cloudfront() {
    through_model(Rules::CloudFront).await;
}

/// A change reaches clients that poll behind Varnish within the max-age. Its grace, during which it serves its copy
/// once more, is scaled like the max-age: 10 seconds to 60.
#[tokio::test]
#[ignore = "needs varnish: tests/run"]
async fn what_clients_see_behind_varnish_is_never_older_than_the_bound() {
    let origin = Origin::start(&[]).await;
    let collection = origin.public("timely").await;
    let arguments = ["-p", "default_grace=0.333"];
    let cache = Server::start(Program::Varnish, origin.port(), &arguments).await;
    let change = async || {
        origin
            .put(&format!("{collection}/records/a"), &json!({}))
            .await;
        origin.settle(&collection).await;
        let list = origin.get(&format!("{collection}/records")).await;
        list.header(ETAG).trim_matches('"').parse().unwrap()
    };
    change().await;
    let mut ages = polling::poll_in_real_time(&cache, 4 * LIFETIME, change).await;
    ages.sort();
    let p99 = ages[ages.len() * 99 / 100];
    println!(
        "{} polls, p99 {p99:?}, the oldest {:?}",
        ages.len(),
        ages.last()
    );
    assert!(p99 <= LIFETIME, "{p99:?}");
}

/// A day of 10,000 clients that poll every 5 minutes, or its first hour.
#[tokio::test]
async fn few_of_the_requests_of_many_clients_reach_the_origin() {
    let hours = std::env::var("SIMULATED_HOURS").unwrap_or_default();
    let time = Duration::from_secs(3600 * hours.parse().unwrap_or(1));
    for (edges, has_origin_shield, polls_since) in [
        (1, false, false),
        (13, false, false),
        (13, false, true),
        (13, true, false),
    ] {
        let front = Front {
            edges,
            has_origin_shield,
            polls_since,
        };
        let mut outcome = polling::poll(front, time).await;
        outcome.outdated.sort();
        let oldest = outcome.outdated.last().copied().unwrap_or_default();
        println!(
            "{front:?}: {} requests, {} to the origin ({:.3} %), {} to the shield, {:.2} GB, {} outdated, at most {oldest:?}",
            outcome.requests,
            outcome.reached_the_origin,
            100.0 * outcome.share(),
            outcome.reached_the_shield,
            outcome.bytes as f64 / 1e9,
            outcome.outdated.len(),
        );
        assert!(oldest <= polling::BOUND, "{front:?}: {oldest:?}");
        assert!(
            polls_since || outcome.share() <= 0.006,
            "{front:?}: {}",
            outcome.share()
        );
    }
}

async fn through(program: Program) {
    let origin = Origin::start(&[]).await;
    let cache = Server::start(program, origin.port(), &[]).await;
    checks(&origin, &cache).await;

    let closed = Origin::start(&CLOSED).await;
    let cache = Server::start(program, closed.port(), &[]).await;
    checks_of_a_closed_one(&closed, &cache).await;
}

async fn through_model(rules: Rules) {
    let origin = Origin::start(&[]).await;
    let way = origin.way.clone();
    let cache = Model::new(rules, async |request: &Request| way.send(request).await);
    checks(&origin, &cache).await;

    let closed = Origin::start(&CLOSED).await;
    let way = closed.way.clone();
    let cache = Model::new(rules, async |request: &Request| way.send(request).await);
    checks_of_a_closed_one(&closed, &cache).await;
}

/// The stack without a cache.
struct Origin {
    stack: Stack,
    way: Way,
}

impl Origin {
    /// Starts it with these settings added.
    async fn start(vars: &[(&str, &str)]) -> Self {
        let lifetime = LIFETIME.as_secs().to_string();
        let buckets = "/buckets/mixed /buckets/timely /buckets/whole";
        let all = [
            ("KINTO_INCLUDES", "kinto_remote_settings.changes"),
            ("KINTO_CHANGES_RESOURCES", buckets),
            ("KINTO_CACHE_EXPIRES_SECONDS", &lifetime),
            ("KINTO_CACHE_MAXIMUM_EXPIRES_SECONDS", "3600"),
        ];
        let vars: Vars = all.iter().chain(vars).copied().collect();
        let stack = Stack::start(&Options::default(), vars).await.unwrap();
        let port = port_of(&stack);
        Self {
            stack,
            way: Way::to(port),
        }
    }

    fn port(&self) -> u16 {
        port_of(&self.stack)
    }

    async fn get(&self, path: &str) -> Answer {
        self.way.send(&get(path)).await
    }

    /// Writes as the first user.
    async fn put(&self, path: &str, body: &Value) {
        let put = request(Method::PUT, path)
            .json(body)
            .with(AUTHORIZATION, ALICE);
        let answer = self.way.send(&put).await;
        assert!(answer.status < 300, "{path} {answer:?}");
    }

    /// Creates a bucket that everybody may read, with a collection in it.
    async fn public(&self, bucket: &str) -> String {
        let everyone = json!({"permissions": {"read": ["system.Everyone"]}});
        self.put(&format!("/buckets/{bucket}"), &everyone).await;
        let collection = format!("/buckets/{bucket}/collections/c");
        self.put(&collection, &json!({})).await;
        collection
    }

    /// Waits until monitor/changes shows the latest write to a collection.
    async fn settle(&self, collection: &str) {
        let list = self.get(&format!("{collection}/records")).await;
        let begin = Instant::now();
        loop {
            let monitor = self.get(&format!("{MONITOR}/records")).await;
            let entries = monitor.json()["data"].clone();
            let is_shown = entries
                .as_array()
                .unwrap()
                .iter()
                .any(|entry| format!("\"{}\"", entry["last_modified"]) == list.header(ETAG));
            if is_shown {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{list:?} {monitor:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn port_of(stack: &Stack) -> u16 {
    let url: reqwest::Url = stack.url().parse().unwrap();
    url.port().unwrap()
}
