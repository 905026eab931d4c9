//! Guarantees through any cache: each check is written once.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::exchange::{Answer, Cache, Request, get, request, strong};
use super::model::HANDED_ON;
use super::{AFTER, LIFETIME, MONITOR, Origin, PATIENCE};
use http::Method;
use http::header::{
    ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING,
    ETAG, HOST, HeaderName, IF_MATCH, IF_NONE_MATCH, LOCATION, ORIGIN, RANGE,
};
use kinto_local::Fault;
use serde_json::{Value, json};
use tests::{ALICE, BOB, NOBODY};

/// Settings that allow browsers from two origins only, and let hello be cached.
pub const CLOSED: [(&str, &str); 3] = [
    ("KINTO_CORS_ORIGINS", "https://a.test https://b.test"),
    ("KINTO_READONLY", "true"),
    ("KINTO_ROOT_CACHE_EXPIRES_SECONDS", "600"),
];

/// All checks. Each has a bucket of its own.
pub async fn checks(origin: &Origin, cache: &impl Cache) {
    every_answer_is_what_the_origin_would_give(origin, cache).await;
    writers_read_their_own_writes(origin, cache).await;
    what_was_refused_is_answered_once_its_cause_is_gone(origin, cache).await;
    a_failure_does_not_outlive_its_cause(origin, cache).await;
    a_change_shows_in_time_however_often_a_copy_was_confirmed(origin, cache).await;
    a_copy_that_is_confirmed_stays_whole(origin, cache).await;
    only_the_state_that_was_expected_is_kept_long(origin, cache).await;
    a_browser_is_let_in_whoever_asked_before(origin, cache).await;
    no_host_gets_into_what_others_are_answered(origin, cache).await;
    a_part_is_a_part_of_the_whole(origin, cache).await;
}

/// The checks of a server with the settings [`CLOSED`].
pub async fn checks_of_a_closed_one(origin: &Origin, cache: &impl Cache) {
    each_origin_is_answered_for_itself(cache).await;
    hello_names_the_user_to_the_user_alone(origin, cache).await;
}

/// Every read by any user, after any other requests, gets the same response as without a cache.
async fn every_answer_is_what_the_origin_would_give(origin: &Origin, cache: &impl Cache) {
    let public = origin.public("mixed").await;
    origin.put("/buckets/secret", &json!({})).await;
    let secret = "/buckets/secret/collections/c";
    origin.put(secret, &json!({})).await;
    let secret = format!("{secret}/records");
    // CloudFront compresses from 1,000 bytes on, the API from 4 KB.
    for (id, length) in [("a", 10), ("b", 1_500), ("c", 6_000)] {
        let data = json!({"data": {"text": "text ".repeat(length / 5)}});
        origin.put(&format!("{public}/records/{id}"), &data).await;
        origin.put(&format!("{secret}/{id}"), &data).await;
    }
    origin.settle(&public).await;
    let etag = origin.get(&format!("{public}/records")).await;
    let etag = etag.header(ETAG).to_owned();
    let weak = format!("W/{etag}");
    let paths = [
        "/".to_owned(),
        "/__api__".to_owned(),
        "/buckets".to_owned(),
        "/buckets/".to_owned(),
        "/buckets/mixed".to_owned(),
        "/buckets/secret".to_owned(),
        public.clone(),
        format!("{public}/nothing"),
        format!("{public}/records"),
        format!("{public}/records?_limit=2"),
        format!("{public}/records?_since={}", etag.replace('"', "%22")),
        format!("{public}/records?_limit=x"),
        format!("{public}/records/a"),
        format!("{public}/records/b"),
        format!("{public}/records/c"),
        format!("{public}/records/d"),
        format!("{public}/changeset?_expected=0"),
        format!("{public}/changeset?_since=1"),
        format!("{secret}?_fields=id"),
        format!("{secret}/a"),
        "/buckets/secret/collections/c/changeset?_expected=0".to_owned(),
        format!("{MONITOR}/records"),
        format!("{MONITOR}/records?_since=1"),
        format!("{MONITOR}/changeset?_expected=0"),
        format!("{MONITOR}/changeset?_expected=%220%22"),
    ];
    // Random, but the same in each run.
    let mut random = fastrand::Rng::with_seed(7);
    let mut one_of = |values: &[&str]| values[random.usize(..values.len())].to_owned();
    let all: Vec<_> = paths.iter().map(String::as_str).collect();
    for n in 0..300 {
        let method = if n % 7 == 0 {
            Method::HEAD
        } else {
            Method::GET
        };
        let request = request(method, &one_of(&all))
            .with(
                AUTHORIZATION,
                &one_of(&[NOBODY, NOBODY, ALICE, BOB, "Bearer x"]),
            )
            .with(
                ACCEPT_ENCODING,
                &one_of(&["", "identity", "gzip", "gzip, br"]),
            )
            .with(ORIGIN, &one_of(&["", "", "https://a.test"]))
            .with(IF_NONE_MATCH, &one_of(&["", "", "", &etag, &weak, "\"1\""]));
        let through = cache.send(request.clone()).await;
        let mut plain = request.clone();
        plain.headers.remove(IF_NONE_MATCH);
        let whole = origin.way.send(&plain).await;
        let confirmed = origin.way.send(&request).await.status == 304;
        assert_same(&request, &through, &whole, confirmed);
    }
}

/// Checks that a response through a cache is the `whole` that the origin gives to the plain request, or says that the
/// client has it, if the origin `confirmed` that.
fn assert_same(request: &Request, through: &Answer, whole: &Answer, confirmed: bool) {
    let shown = format!("{request:#?}\nthrough: {through:#?}\nfrom the origin: {whole:#?}");
    if through.status == 304 {
        assert!(confirmed && through.body.is_empty(), "{shown}");
    } else {
        assert_eq!(through.status, whole.status, "{shown}");
        let accepts = request.header(ACCEPT_ENCODING).contains("gzip");
        let is_plain = through.header(CONTENT_ENCODING).is_empty();
        assert!(accepts || is_plain, "{shown}");
        assert_eq!(without_host(through), without_host(whole), "{shown}");
        for name in HANDED_ON {
            let of = |answer: &Answer| answer.header(name.clone()).to_owned();
            assert_eq!(of(through), of(whole), "{shown}");
        }
    }
    let tag = |answer: &Answer| strong(answer.header(ETAG)).to_owned();
    // Squid omits it from a 304 that it creates itself.
    if through.status != 304 || !tag(through).is_empty() {
        assert_eq!(tag(through), tag(whole), "{shown}");
    }
    if whole.status >= 400 || request.headers.contains_key(AUTHORIZATION) {
        let lifetime = through.header(CACHE_CONTROL);
        let is_shared = !lifetime.contains("no-store") && !lifetime.contains("private");
        assert!(!is_shared, "{shown}");
    }
}

/// The JSON of a response, without the host of the request, which differs through a cache.
fn without_host(answer: &Answer) -> Value {
    let mut body = answer.json();
    if let Some(body) = body.as_object_mut() {
        for name in ["url", "host", "servers"] {
            body.remove(name);
        }
    }
    body
}

async fn writers_read_their_own_writes(origin: &Origin, cache: &impl Cache) {
    let collection = origin.public("own").await;
    let record = format!("{collection}/records/a");
    origin.put(&record, &json!({"data": {"n": 0}})).await;
    let paths = [
        record.clone(),
        format!("{collection}/records"),
        format!("{collection}/changeset?_expected=0"),
    ];
    for n in 1..4 {
        for path in &paths {
            // Creates a copy.
            cache.send(get(path)).await;
        }
        let put = request(Method::PUT, &record).json(&json!({"data": {"n": n}}));
        let written = cache.send(put.with(AUTHORIZATION, ALICE)).await;
        assert_eq!(written.status, 200);
        for path in &paths {
            for user in [ALICE, BOB] {
                let read = cache.send(get(path).with(AUTHORIZATION, user)).await;
                let body = read.json();
                let shown = body.get("data").unwrap_or(&body["changes"]);
                let shown = shown.get(0).unwrap_or(shown);
                assert_eq!(shown["n"], n, "{path} {read:?}");
                // Users who may write see the permissions.
                let is_owners = user == ALICE && *path == record;
                let writers = &body["permissions"]["write"];
                assert_eq!(writers.is_array(), is_owners, "{path} {read:?}");
            }
        }
    }
}

async fn what_was_refused_is_answered_once_its_cause_is_gone(origin: &Origin, cache: &impl Cache) {
    let collection = origin.public("refused").await;
    let record = format!("{collection}/records/a");
    let absent = cache.send(get(&record)).await;
    assert_eq!(absent.status, 404);
    let wrong = cache.send(get(&record).with(IF_MATCH, "\"1\"")).await;
    assert_eq!(wrong.status, 404);
    origin.put(&record, &json!({})).await;
    assert_eq!(cache.send(get(&record)).await.status, 200);

    let list = format!("{collection}/records?_sort=id");
    let changed = get(&list).with(IF_MATCH, "\"1\"");
    for user in [NOBODY, ALICE] {
        // Varnish and nginx do not forward a condition on what they may cache.
        let answer = cache.send(changed.clone().with(AUTHORIZATION, user)).await;
        assert!([412, 200].contains(&answer.status), "{answer:?}");
        let plain = cache.send(get(&list).with(AUTHORIZATION, user)).await;
        assert_eq!(plain.status, 200);
    }

    let hidden = "/buckets/hidden";
    origin.put(hidden, &json!({})).await;
    assert_eq!(cache.send(get(hidden)).await.status, 401);
    let bob = get(hidden).with(AUTHORIZATION, BOB);
    assert_eq!(cache.send(bob.clone()).await.status, 403);
    let unknown = get(hidden).with(AUTHORIZATION, "Bearer x");
    assert_eq!(cache.send(unknown).await.status, 401);
    let everyone = json!({"permissions": {"read": ["system.Everyone"]}});
    origin.put(hidden, &everyone).await;
    assert_eq!(cache.send(get(hidden)).await.status, 200);
    assert_eq!(cache.send(bob).await.status, 200);

    // What was public is private again: for users at once, for others in time.
    origin
        .put(hidden, &json!({"permissions": {"read": []}}))
        .await;
    cache.pass(AFTER).await;
    until(cache, &get(hidden), |answer| answer.status == 401).await;
}

async fn a_failure_does_not_outlive_its_cause(origin: &Origin, cache: &impl Cache) {
    let collection = origin.public("failing").await;
    let record = format!("{collection}/records/a");
    origin.put(&record, &json!({})).await;
    let paths = [
        record,
        format!("{collection}/records"),
        format!("{MONITOR}/records?_failing"),
    ];
    origin.stack.aws().inject(|target, _| {
        let is_read = ["Get", "Query"].iter().any(|read| target.contains(read));
        // A fault that the SDK does not retry.
        is_read.then(|| Fault::error("ResourceNotFoundException"))
    });
    for path in &paths {
        let failed = cache.send(get(path)).await;
        assert_eq!(failed.status, 503, "{path} {failed:?}");
    }
    origin.stack.aws().clear_faults();
    for path in &paths {
        let answer = cache.send(get(path)).await;
        assert_eq!(answer.status, 200, "{path} {answer:?}");
    }
}

async fn a_change_shows_in_time_however_often_a_copy_was_confirmed(
    origin: &Origin,
    cache: &impl Cache,
) {
    let collection = origin.public("timely").await;
    let record = format!("{collection}/records/a");
    let paths = [
        record.clone(),
        format!("{collection}/records"),
        format!("{collection}/changeset?_expected=0"),
        format!("{MONITOR}/records?collection=c&bucket=timely"),
        format!("{MONITOR}/changeset?_expected=0&bucket=timely"),
    ];
    origin.put(&record, &json!({"data": {"n": 0}})).await;
    origin.settle(&collection).await;
    let mut before = vec![];
    for path in &paths {
        before.push(cache.send(get(path)).await.json());
    }
    for _ in 0..2 {
        cache.pass(AFTER).await;
        for (path, before) in paths.iter().zip(&before) {
            assert_eq!(cache.send(get(path)).await.json(), *before, "{path}");
        }
    }
    // Copies that were confirmed meanwhile are then in use.
    cache.pass(Duration::from_millis(300)).await;
    origin.put(&record, &json!({"data": {"n": 1}})).await;
    origin.settle(&collection).await;
    // It does cache: otherwise the check would prove nothing.
    assert_eq!(cache.send(get(&paths[1])).await.json(), before[1]);
    cache.pass(LIFETIME).await;
    for (path, before) in paths.iter().zip(&before) {
        until(cache, &get(path), |answer| answer.json() != *before).await;
    }
}

/// Conditional requests do not empty the copy that plain requests get.
async fn a_copy_that_is_confirmed_stays_whole(origin: &Origin, cache: &impl Cache) {
    let collection = origin.public("whole").await;
    for id in ["a", "b"] {
        origin
            .put(&format!("{collection}/records/{id}"), &json!({}))
            .await;
    }
    origin.settle(&collection).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let recent = now.as_millis() - 3_600_000;
    let paths = [
        format!("{MONITOR}/records?_whole"),
        format!("{MONITOR}/records?_since={recent}&_whole"),
        format!("{MONITOR}/changeset?_expected=0&_whole"),
        format!("{MONITOR}/changeset?_expected=0&_since={recent}&_whole"),
        format!("{collection}/records"),
        format!("{collection}/changeset?_expected=0"),
        format!("{collection}/changeset?_expected=0&_since=1"),
    ];
    for path in &paths {
        let whole = origin.get(path).await;
        let known = get(path).with(IF_NONE_MATCH, whole.header(ETAG));
        assert_confirmed(&cache.send(known).await, &whole);
        assert_eq!(cache.send(get(path)).await.json(), whole.json(), "{path}");
    }
    cache.pass(AFTER).await;
    for path in &paths {
        let whole = origin.get(path).await;
        let known = get(path).with(IF_NONE_MATCH, whole.header(ETAG));
        for _ in 0..2 {
            assert_confirmed(&cache.send(known.clone()).await, &whole);
            assert_eq!(cache.send(get(path)).await.json(), whole.json(), "{path}");
        }
    }
}

/// Checks that a client is told that it has the `whole`. A cache without a copy may send it again.
fn assert_confirmed(answer: &Answer, whole: &Answer) {
    if answer.status != 304 {
        assert_eq!((answer.status, answer.json()), (200, whole.json()));
    }
}

async fn only_the_state_that_was_expected_is_kept_long(origin: &Origin, cache: &impl Cache) {
    let collection = origin.public("expected").await;
    let record = format!("{collection}/records/a");
    origin.put(&record, &json!({"data": {"n": 0}})).await;
    let changeset = |expected: u64| get(&format!("{collection}/changeset?_expected={expected}"));
    let first = origin
        .get(&format!("{collection}/changeset?_expected=0"))
        .await;
    let first = first.json()["timestamp"].as_u64().unwrap();
    let known = cache.send(changeset(first)).await;
    assert_eq!(known.directive("max-age"), Some("3600"));
    // Nobody can block the next state by requesting it before it exists.
    let to_come = 4_000_000_000_000;
    let early = cache.send(changeset(to_come)).await.json();
    assert_eq!(early["timestamp"], first);
    origin.put(&record, &json!({"data": {"n": 1}})).await;
    cache.pass(AFTER).await;
    until(cache, &changeset(to_come), |answer| {
        answer.json()["timestamp"] != early["timestamp"]
    })
    .await;
    assert_eq!(cache.send(changeset(first)).await.json(), known.json());
}

async fn a_browser_is_let_in_whoever_asked_before(origin: &Origin, cache: &impl Cache) {
    let collection = origin.public("browser").await;
    let paths = [
        format!("{collection}/records"),
        format!("{collection}/nothing"),
        "/".to_owned(),
    ];
    for path in &paths {
        cache.send(get(path)).await;
        for from in ["https://a.test", "https://b.test", ""] {
            let answer = cache.send(get(path).with(ORIGIN, from)).await;
            assert_eq!(
                answer.header(ACCESS_CONTROL_ALLOW_ORIGIN),
                "*",
                "{path} {answer:?}"
            );
        }
    }
}

/// Nor does any other header that is in no cache key.
async fn no_host_gets_into_what_others_are_answered(origin: &Origin, cache: &impl Cache) {
    let collection = origin.public("hosts").await;
    for id in ["a", "b"] {
        origin
            .put(&format!("{collection}/records/{id}"), &json!({}))
            .await;
    }
    let paths = [
        "/buckets/".to_owned(),
        format!("{collection}/records?_limit=1"),
    ];
    for path in &paths {
        let plain = origin.get(path).await;
        for name in [
            "host",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-forwarded-port",
            "x-original-url",
            "forwarded",
            "x-http-method-override",
            "accept-language",
            "cookie",
            "user-agent",
        ] {
            let name: HeaderName = name.parse().unwrap();
            cache.send(get(path).with(name, "evil.test")).await;
        }
        let answer = cache.send(get(path)).await;
        assert_eq!(
            (answer.status, &answer.body),
            (plain.status, &plain.body),
            "{path}"
        );
        for header in [LOCATION, HeaderName::from_static("next-page")] {
            let url = answer.header(header.clone());
            assert!(!url.contains("evil"), "{path} {answer:?}");
            assert_eq!(url.is_empty(), plain.header(header).is_empty(), "{path}");
        }
    }
}

async fn a_part_is_a_part_of_the_whole(origin: &Origin, cache: &impl Cache) {
    let collection = origin.public("parts").await;
    let path = format!("{collection}/records/a");
    let data = json!({"data": {"text": "0123456789".repeat(1_000)}});
    origin.put(&path, &data).await;
    let whole = origin.get(&path).await.body;
    for _ in 0..2 {
        let part = cache.send(get(&path).with(RANGE, "bytes=5-14")).await;
        match part.status {
            206 => assert_eq!(part.body, whole[5..=14]),
            status => assert_eq!((status, &part.body), (200, &whole)),
        }
        assert_eq!(cache.send(get(&path)).await.body, whole);
    }
}

async fn each_origin_is_answered_for_itself(cache: &impl Cache) {
    for path in ["/", "/buckets/"] {
        for from in ["", "https://a.test", "https://b.test", "https://a.test", ""] {
            let answer = cache.send(get(path).with(ORIGIN, from)).await;
            assert!(answer.status < 400, "{answer:?}");
            assert_eq!(
                answer.header(ACCESS_CONTROL_ALLOW_ORIGIN),
                from,
                "{path} {answer:?}"
            );
        }
        let refused = cache.send(get(path).with(ORIGIN, "https://c.test")).await;
        let is_let_in = !refused.header(ACCESS_CONTROL_ALLOW_ORIGIN).is_empty();
        assert!(!is_let_in, "{path} {refused:?}");
    }
}

async fn hello_names_the_user_to_the_user_alone(origin: &Origin, cache: &impl Cache) {
    let own = |body: &Value| body["user"]["id"].as_str().map(str::to_owned);
    for _ in 0..2 {
        for user in [ALICE, NOBODY, BOB, "Bearer x", ALICE] {
            let hello = get("/").with(AUTHORIZATION, user);
            let direct = origin.way.send(&hello).await.json();
            let through = cache.send(hello).await.json();
            assert_eq!(own(&through), own(&direct), "{user}");
        }
        cache.send(get("/").with(HOST, "evil.test")).await;
        let through = cache.send(get("/")).await.json();
        assert!(
            !through["url"].as_str().unwrap().contains("evil"),
            "{through}"
        );
    }
}

/// Repeats a request until its response is right.
async fn until(cache: &impl Cache, request: &Request, is_right: impl Fn(&Answer) -> bool) {
    let begin = Instant::now();
    loop {
        let answer = cache.send(request.clone()).await;
        if is_right(&answer) {
            return;
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "{request:?} is still answered {answer:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
