//! Any sequence of any requests: no response is a 5xx, and nothing panics.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::{answered, event, json_of};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tests::{BUCKET, Kinto, RECORD};

/// A request as a client may send it.
#[derive(Clone, Debug)]
struct Sent {
    method: &'static str,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

fn one_of(words: &'static [&'static str]) -> BoxedStrategy<String> {
    prop::sample::select(words).prop_map(str::to_owned).boxed()
}

fn text() -> BoxedStrategy<String> {
    prop_oneof!["[ -~]{0,12}", "\\PC{0,8}"].boxed()
}

/// An id, mostly `usual`.
fn id(usual: &'static str) -> BoxedStrategy<String> {
    prop_oneof![
        24 => Just(usual.to_owned()),
        4 => one_of(&["main", "one", "r1", "r2", "r3", "r4"]),
        1 => one_of(&["monitor", "changes", "default"]),
        1 => one_of(&["", "*", "..", "-a", "caf\u{e9}", "a b", "%2F", "\u{0}"]),
        1 => text(),
    ]
    .boxed()
}

fn field() -> BoxedStrategy<String> {
    prop_oneof![
        16 => one_of(&["a", "b", "c", "title"]),
        2 => one_of(&["id", "last_modified", "deleted", "a.b", "displayFields", ""]),
        1 => one_of(&["schema", "cache_expires", "members", "record:schema"]),
        1 => text(),
    ]
    .boxed()
}

fn path() -> BoxedStrategy<String> {
    let fixed = one_of(&[
        "/v1/",
        "/v1",
        "/v1/__api__",
        "/v1/__heartbeat__",
        "/v1/__version__",
        "/v1/contribute.json",
        "/v1/permissions",
        "/v1/__flush__",
        "/",
        "",
        "/v0/x",
        "/buckets",
        "//",
        "/v1/buckets/monitor/collections/changes/records",
        "/v1/buckets/monitor/collections/changes/changeset",
    ]);
    let (b, c, r) = (
        id("main"),
        id("one"),
        prop_oneof![id("r1"), id("r2"), id("r3")],
    );
    let bucket = b.clone().prop_map(|b| format!("/v1/buckets/{b}"));
    let list = (b.clone(), one_of(&["collections", "groups"]))
        .prop_map(|(b, kind)| format!("/v1/buckets/{b}/{kind}"));
    let child = (list.clone(), c.clone()).prop_map(|(list, c)| format!("{list}/{c}"));
    let records = (
        b.clone(),
        c.clone(),
        prop_oneof![9 => Just("records"), 1 => Just("changeset")],
    )
        .prop_map(|(b, c, kind)| format!("/v1/buckets/{b}/collections/{c}/{kind}"));
    let record =
        (b, c, r).prop_map(|(b, c, r)| format!("/v1/buckets/{b}/collections/{c}/records/{r}"));
    let wild =
        prop::collection::vec(id("buckets"), 0..7).prop_map(|ids| format!("/{}", ids.join("/")));
    prop_oneof![
        1 => fixed,
        1 => Just("/v1/buckets".to_owned()),
        2 => Just("/v1/batch".to_owned()),
        2 => bucket,
        1 => list,
        4 => child,
        4 => records,
        8 => record,
        1 => wild,
    ]
    .boxed()
}

fn value() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        any::<i64>().prop_map(|n| json!(n)),
        any::<u64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        one_of(&[
            "system.Everyone",
            "system.Authenticated",
            "basicauth:x",
            "/buckets/main/groups/g",
            "3"
        ])
        .prop_map(|w| json!(w)),
        text().prop_map(|w| json!(w)),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|values| json!(values)),
            prop::collection::hash_map(field(), inner, 0..4).prop_map(|fields| json!(fields)),
        ]
    })
    .boxed()
}

/// `{"data": …, "permissions": …}`, mostly of the right types.
fn object() -> BoxedStrategy<Value> {
    let data = prop_oneof![
        24 => prop::collection::hash_map(field(), value(), 0..4).prop_map(|fields| json!(fields)),
        1 => (0..130).prop_map(|levels| (0..levels).fold(json!({}), |inner, _| json!({"a": inner}))),
        1 => value(),
    ];
    let permission = prop_oneof![
        8 => one_of(&["read", "write"]),
        1 => one_of(&["record:create", "collection:create", "group:create", "x"]),
    ];
    let principals = prop_oneof![
        8 => prop::collection::vec(text(), 0..3).prop_map(|principals| json!(principals)),
        1 => value(),
    ];
    let permissions = prop_oneof![
        16 => prop::collection::hash_map(permission, principals, 0..3).prop_map(|p| json!(p)),
        1 => value(),
    ];
    let data = prop::option::weighted(0.8, data);
    let permissions = prop::option::weighted(0.3, permissions);
    (data, permissions)
        .prop_map(|(data, permissions)| {
            let mut object = json!({});
            for (name, value) in [("data", data), ("permissions", permissions)] {
                if let Some(value) = value {
                    object[name] = value;
                }
            }
            object
        })
        .boxed()
}

fn operations() -> BoxedStrategy<Value> {
    let pointer = prop_oneof![
        6 => one_of(&["/data/a", "/data/a/b", "/data/a/b/0", "/data/a/b/-", "/data/b", "/data"]),
        6 => (one_of(&["/data", "/permissions", "/permissions/read", ""]), field())
            .prop_map(|(root, field)| format!("{root}/{field}")),
        1 => one_of(&["", "/", "/data", "/permissions", "data", "/data/a/-", "/data/~2", "/data/a/01"]),
        1 => text(),
    ];
    let verb = one_of(&["add", "remove", "replace", "move", "copy", "test", "x"]);
    let operation = (verb, pointer.clone(), pointer, value()).prop_map(
        |(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value}),
    );
    prop::collection::vec(operation, 0..5)
        .prop_map(|operations| json!(operations))
        .boxed()
}

fn batch() -> BoxedStrategy<Value> {
    let method = prop_oneof![
        8 => one_of(&["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"]),
        1 => one_of(&["OPTIONS", "TRACE"]),
    ];
    let headers = prop_oneof![
        8 => Just(json!({})),
        1 => prop::collection::hash_map(text(), text(), 0..2).prop_map(|headers| json!(headers)),
    ];
    let request = (
        prop::option::of(method),
        (path(), query()),
        prop::option::of(object()),
        headers,
    );
    let request = request.prop_map(|(method, (path, query), body, headers)| {
        let mut request = json!({"path": format!("{path}?{query}"), "headers": headers});
        if let Some(method) = method {
            request["method"] = json!(method);
        }
        if let Some(body) = body {
            request["body"] = body;
        }
        request
    });
    let requests = prop::collection::vec(request.clone(), 0..5);
    let defaults = prop::option::weighted(0.2, request);
    let batch = (requests, defaults).prop_map(|(requests, defaults)| {
        let mut batch = json!({"requests": requests});
        if let Some(defaults) = defaults {
            batch["defaults"] = defaults;
        }
        batch
    });
    batch.boxed()
}

/// A body that usually fits the method and the path.
fn body(method: &str, path: &str) -> BoxedStrategy<Vec<u8>> {
    let fitting = match method {
        "POST" if path.ends_with("/batch") => batch(),
        "PATCH" => prop_oneof![operations(), object()].boxed(),
        _ => object(),
    };
    prop_oneof![
        16 => fitting.prop_map(|value| value.to_string().into_bytes()),
        1 => value().prop_map(|value| value.to_string().into_bytes()),
        1 => Just(vec![]),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => Just("[".repeat(20_000).into_bytes()),
    ]
    .boxed()
}

fn query() -> BoxedStrategy<String> {
    let prefix = one_of(&[
        "",
        "",
        "min_",
        "max_",
        "lt_",
        "gt_",
        "not_",
        "eq_",
        "in_",
        "exclude_",
        "like_",
        "has_",
        "contains_",
        "contains_any_",
        "_",
    ]);
    let filter = (prefix, field()).prop_map(|(prefix, field)| prefix + &field);
    let known = one_of(&[
        "_since",
        "_before",
        "_to",
        "_limit",
        "_sort",
        "_fields",
        "_token",
        "_expected",
        "bucket",
        "collection",
        "last_modified",
    ]);
    let token = prop::collection::hash_map(field(), value(), 0..4).prop_map(|last| {
        let token = json!({"last_object": last, "nonce": "x"}).to_string();
        BASE64_URL_SAFE_NO_PAD.encode(token)
    });
    let given = prop_oneof![
        3 => value().prop_map(|value| value.to_string()),
        3 => one_of(&["1", "\"1\"", "0", "-1", "a,-b,+id", "id,,last_modified", "*", "*a*", "true", "[1,2", "1e999"]),
        1 => any::<u64>().prop_map(|n| n.to_string()),
        1 => token,
        1 => text(),
    ];
    let pair = (prop_oneof![filter, known], given)
        .prop_map(|(name, value)| format!("{}={}", encoded(&name), encoded(&value)));
    let pair =
        prop_oneof![12 => pair, 1 => one_of(&["%ff=%", "&&", "=", "a", "%", "_since=%e9", "+=+"])];
    let pairs = prop::collection::vec(pair, 0..3);
    prop_oneof![2 => Just(vec![]), 1 => pairs]
        .prop_map(|pairs: Vec<String>| pairs.join("&"))
        .boxed()
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

fn headers() -> BoxedStrategy<Vec<(String, String)>> {
    let name = one_of(&[
        "if-match",
        "if-none-match",
        "content-type",
        "accept",
        "accept-encoding",
        "authorization",
        "origin",
        "access-control-request-method",
        "access-control-request-headers",
        "response-behavior",
        "x-forwarded-proto",
        "host",
        "content-encoding",
        "if-modified-since",
    ]);
    let given = prop_oneof![
        3 => one_of(&["application/json", "application/merge-patch+json", "application/json-patch+json"]),
        3 => one_of(&["*", "\"1\"", "\"9999999999999999999999\"", "\"-1\"", "1", "\"1\",\"2\"", "W/\"1\""]),
        2 => one_of(&["Basic YTpi", "Basic", "Basic /w==", "Bearer x", "gzip", "gzip;q=x", "*;q=0", "light", "diff", "PUT", ",,", "https"]),
        1 => text(),
    ];
    let wild = prop::collection::vec((name, given), 0..3);
    let precondition =
        one_of(&["if-match", "if-none-match"]).prop_map(|name| (name, "*".to_owned()));
    prop_oneof![
        6 => Just(vec![]),
        1 => precondition.prop_map(|header| vec![header]),
        2 => wild,
    ]
    .boxed()
}

fn request() -> BoxedStrategy<Sent> {
    let method = prop::sample::select(vec![
        "GET", "GET", "HEAD", "PUT", "PUT", "PUT", "POST", "POST", "PATCH", "PATCH", "DELETE",
        "OPTIONS", "TRACE", "FOO",
    ]);
    let with_body = (method, path()).prop_flat_map(|(method, path)| {
        // Batches accept no other method.
        let method = if path.ends_with("/batch") {
            "POST"
        } else {
            method
        };
        let body = body(method, &path);
        (Just(method), Just(path), body)
    });
    let request =
        (with_body, query(), headers()).prop_map(|((method, path, body), query, headers)| {
            let mut headers = headers;
            // A JSON patch needs its content type; a header that no client can send does not reach us.
            let is_typed = headers.iter().any(|(name, _)| name == "content-type");
            if method == "PATCH" && body.starts_with(b"[") && !is_typed {
                headers.push((
                    "content-type".to_owned(),
                    "application/json-patch+json".to_owned(),
                ));
            }
            headers.retain(|(_, value)| value.parse::<http::HeaderValue>().is_ok());
            Sent {
                method,
                path,
                query,
                headers,
                body,
            }
        });
    request.boxed()
}

/// Turns on everything that is off by default.
const SETTINGS: [(&str, &str); 2] = [
    ("KINTO_EXPERIMENTAL_COLLECTION_SCHEMA_VALIDATION", "true"),
    ("KINTO_EXPERIMENTAL_PERMISSIONS_ENDPOINT", "true"),
];

/// `KINTO_FUZZ_SECONDS` makes it go on for that many seconds.
#[test]
fn no_sequence_of_requests_is_ever_answered_with_a_500_or_makes_the_api_panic() {
    let seconds = std::env::var("KINTO_FUZZ_SECONDS").map_or(0, |value| value.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (mut cases, sent, done) = (0, Cell::new(0), Cell::new(0));
    loop {
        let config = ProptestConfig {
            cases: 150,
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let requests = prop::collection::vec(request(), 1..12);
        let outcome = TestRunner::new(config).run(&requests, |requests| {
            runtime.block_on(async {
                let kinto = Kinto::with(&SETTINGS);
                for path in [BUCKET, "/buckets/main/collections/one", RECORD] {
                    kinto.put(path, json!({"data": {"a": {"b": [1]}}})).await;
                }
                for request in requests {
                    let Sent {
                        method,
                        path,
                        query,
                        headers,
                        body,
                    } = &request;
                    let url = format!("{}?{query}", path.replace('?', ""));
                    let answer = answered(&kinto, event(method, &url, headers, body)).await;
                    let json = json_of(&answer);
                    sent.set(sent.get() + 1);
                    done.set(done.get() + i32::from(answer.status_code < 300));
                    prop_assert!(answer.status_code < 500, "{request:?}: {answer:?}");
                    prop_assert!(
                        answer.status_code < 400 || *method == "HEAD" || json["errno"].is_u64(),
                        "{request:?}: {answer:?}"
                    );
                }
                Ok(())
            })
        });
        outcome.unwrap();
        cases += 150;
        if Instant::now() >= end {
            break;
        }
    }
    let (sent, done) = (sent.get(), done.get());
    println!("{cases} sequences of {sent} requests, {done} of them done");
    assert!(done * 10 > sent, "too few come through to go deep");
}
