//! Directives to the caches between clients and the API: a CDN, a company's proxy, a browser.

use kinto_local::Fault;
use serde_json::json;
use tests::{ALICE, Answer, Kinto, NOBODY, RECORDS};

const CHANGESET: &str = "/buckets/main/collections/one/changeset?_expected=0";
const MONITOR: &str = "/buckets/monitor/collections/changes";

/// A public collection with a record, whose responses to anonymous requests may be cached for a minute.
async fn public() -> Kinto {
    let kinto = Kinto::with(&[
        ("KINTO_RECORD_CACHE_EXPIRES_SECONDS", "60"),
        ("KINTO_BUCKET_CACHE_EXPIRES_SECONDS", "60"),
        ("KINTO_COLLECTION_CACHE_EXPIRES_SECONDS", "60"),
        ("KINTO_MONITOR_CHANGES_RECORD_CACHE_EXPIRES_SECONDS", "60"),
        ("KINTO_MAIN_ONE_RECORD_CACHE_EXPIRES_SECONDS", "60"),
        ("KINTO_READONLY", "false"),
    ]);
    let everyone = json!({"permissions": {"read": ["system.Everyone"]}});
    kinto.put("/buckets/main", everyone).await;
    kinto.put("/buckets/main/collections/one", json!({})).await;
    kinto.put(&format!("{RECORDS}/a"), json!({})).await;
    kinto
}

/// URLs of all responses to anonymous requests that may be cached.
fn kept() -> Vec<String> {
    vec![
        "/buckets/main".to_owned(),
        "/buckets/main/collections/one".to_owned(),
        RECORDS.to_owned(),
        format!("{RECORDS}/a"),
        CHANGESET.to_owned(),
        format!("{MONITOR}/records"),
        format!("{MONITOR}/changeset?_expected=0"),
    ]
}

/// Returns `true` if a shared cache may reuse a response for other clients.
fn is_shared(answer: &Answer) -> bool {
    let lifetime = answer.header("cache-control");
    !["private", "no-store"]
        .iter()
        .any(|word| lifetime.contains(word))
}

#[tokio::test]
async fn an_answer_to_credentials_is_never_shared() {
    let kinto = public().await;
    for path in kept() {
        for credentials in [ALICE, "Bearer unknown", "Basic", "?"] {
            let headers = [("Authorization", credentials)];
            for method in ["GET", "HEAD"] {
                let answer = kinto.send(method, &path, &headers, "").await;
                assert!(!is_shared(&answer), "{path} {credentials}: {answer:?}");
            }
        }
    }
    for path in [
        "/",
        "/__heartbeat__",
        "/__version__",
        "/__api__",
        "/nothing",
    ] {
        assert!(!is_shared(&kinto.get(path).await), "{path}");
    }
    // The target of the redirect is no secret, but its response is the user's.
    for path in ["/buckets", "/v1/buckets/"] {
        assert!(
            !is_shared(&kinto.send_raw("GET", path, &[], "").await),
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_anonymous_requests_share_is_not_for_those_with_credentials() {
    let anonymous = public().await.as_user(NOBODY);
    for path in kept() {
        let answer = anonymous.get(&path).await;
        assert_eq!(answer.header("cache-control"), "max-age=60", "{path}");
        // Also by Accept-Encoding, whatever the length: a 304 must have the same `Vary`, and does not know the length.
        let vary = answer.header("vary");
        assert_eq!(vary, "authorization, accept-encoding", "{path}");
    }
}

#[tokio::test]
async fn what_shows_urls_of_the_server_depends_on_the_host_unless_the_settings_name_it() {
    let hello = async |vars: &[(&str, &str)]| {
        let vars = [&[("KINTO_READONLY", "true")], vars].concat();
        let kinto = Kinto::with(&vars).as_user(NOBODY);
        let headers = [("Host", "evil.test"), ("X-Forwarded-Proto", "gopher")];
        kinto.send("GET", "/", &headers, "").await
    };
    let named = hello(&[
        ("KINTO_HTTP_HOST", "kinto.test"),
        ("KINTO_HTTP_SCHEME", "https"),
    ])
    .await;
    assert_eq!(named.body["url"], "https://kinto.test/v1/");
    assert_eq!(named.header("vary"), "authorization, accept-encoding");
    let vary = "host, x-forwarded-proto, authorization, accept-encoding";
    assert_eq!(hello(&[]).await.header("vary"), vary);

    let kinto = public().await;
    kinto.put(&format!("{RECORDS}/b"), json!({})).await;
    let anonymous = kinto.as_user(NOBODY);
    let page = anonymous.get(&format!("{RECORDS}?_limit=1")).await;
    let vary = "authorization, accept-encoding, host, x-forwarded-proto";
    assert_eq!(page.header("vary"), vary);
    // Without credentials in the request a redirect is for everybody, and must not lead to a host that a client chose.
    let headers = [("Host", "evil.test"), ("X-Forwarded-Host", "evil.test")];
    for path in ["/v1/buckets/", "/buckets", "/v1"] {
        let moved = anonymous.send_raw("GET", path, &headers, "").await;
        let location = moved.header("location");
        assert!(
            moved.status == 307 && location.starts_with("/v1/"),
            "{moved:?}"
        );
    }
}

#[tokio::test]
async fn where_a_cdn_has_a_secret_nothing_is_answered_without_it() {
    let kinto = Kinto::with(&[("KINTO_ORIGIN_SECRET", "hush")]);
    for shown in ["hush", "hus", "hushh", ""] {
        let headers = [("X-Origin-Secret", shown)];
        for (method, path) in [("GET", "/__lbheartbeat__"), ("PUT", "/buckets/main")] {
            let answer = kinto.send(method, path, &headers, "").await;
            if shown == "hush" {
                assert!(answer.status < 300, "{answer:?}");
            } else {
                assert_eq!(answer.error(), (403, 121), "{method} {shown}");
                assert_eq!(answer.header("cache-control"), "no-store");
            }
        }
    }
    let without = kinto.get("/buckets/main").await;
    assert_eq!(without.error(), (403, 121));
    // The requests of a batch came in that batch.
    let batch = json!({"requests": [{"path": "/v1/buckets/main"}]});
    let headers = [("X-Origin-Secret", "hush")];
    let answer = kinto
        .send("POST", "/batch", &headers, &batch.to_string())
        .await;
    assert_eq!(answer.body["responses"][0]["status"], 200);
}

#[tokio::test]
async fn a_304_says_what_the_200_would() {
    let anonymous = public().await.as_user(NOBODY);
    for path in kept() {
        let whole = anonymous.get(&path).await;
        let etag = whole.header("etag").to_owned();
        // A CDN weakens the tag when it compresses.
        for known in [etag.clone(), format!("W/{etag}")] {
            let headers = [("If-None-Match", &*known)];
            let confirmed = anonymous.send("GET", &path, &headers, "").await;
            assert_eq!(
                (confirmed.status, &confirmed.body),
                (304, &json!(null)),
                "{path} {known}"
            );
            for name in ["cache-control", "vary", "etag", "last-modified"] {
                assert_eq!(confirmed.header(name), whole.header(name), "{path} {name}");
            }
            assert_ne!(confirmed.header("expires"), "", "{path}");
        }
    }
}

#[tokio::test]
async fn no_error_outlives_its_cause() {
    let kinto = public().await;
    let requests: [(&str, &str, u16); 7] = [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/buckets/other", 401),
        ("GET", "/v1/buckets/main/collections/two", 404),
        (
            "GET",
            "/v1/buckets/main/collections/one/records?_limit=x",
            400,
        ),
        ("POST", "/v1/", 405),
        ("PUT", "/v1/buckets/main", 401),
        ("GET", "/v0/", 404),
    ];
    for (method, path, status) in requests {
        let refused = kinto.as_user(NOBODY).send_raw(method, path, &[], "").await;
        assert_eq!(refused.status, status, "{method} {path}");
        assert_eq!(
            refused.header("cache-control"),
            "no-store",
            "{method} {path}"
        );
        assert_eq!(refused.header("expires"), "");
    }
    // Nor is a response that is too large to be sent, nor a server error.
    let large = json!({"data": {"x": "x".repeat(300_000)}}).to_string();
    for n in 0..25 {
        let id = format!("{RECORDS}/large{n}");
        assert_eq!(kinto.send("PUT", &id, &[], &large).await.status, 201);
    }
    let refused = kinto.as_user(NOBODY).get(CHANGESET).await;
    assert_eq!(refused.status, 413);
    assert_eq!(refused.header("cache-control"), "no-store");
    assert_eq!(
        (refused.header("expires"), refused.header("etag")),
        ("", "")
    );
    kinto
        .aws
        .inject(|_, _| Some(Fault::error("InternalServerError")));
    for path in ["/buckets/main", "/__heartbeat__"] {
        let failed = kinto.as_user(NOBODY).get(path).await;
        assert_eq!(
            (failed.status, failed.header("cache-control")),
            (503, "no-store"),
            "{path}"
        );
    }
    kinto.aws.clear_faults();
    let stale = [("If-Match", "\"1\"")];
    let refused = kinto.send("GET", RECORDS, &stale, "").await;
    assert_eq!(
        (refused.status, refused.header("cache-control")),
        (412, "no-store")
    );
    let forbidden = kinto.send("GET", "/buckets/other", &[], "").await;
    assert_eq!(
        (forbidden.status, forbidden.header("cache-control")),
        (403, "no-store")
    );
}

#[tokio::test]
async fn every_read_says_whether_it_may_be_kept() {
    let kinto = Kinto::new();
    for path in [
        "/",
        "/__heartbeat__",
        "/__lbheartbeat__",
        "/__version__",
        "/__api__",
        "/__broadcasts__",
        "/contribute.json",
        "/buckets",
        &format!("{MONITOR}/records"),
        &format!("{MONITOR}/changeset?_expected=0"),
    ] {
        for user in [ALICE, NOBODY] {
            let answer = kinto.as_user(user).get(path).await;
            assert!(
                answer.header("cache-control").contains("no-store"),
                "{path}: {answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_weak_tag_lets_no_write_through() {
    let kinto = public().await;
    let record = format!("{RECORDS}/a");
    let etag = format!("W/{}", kinto.get(&record).await.header("etag"));
    let refused = kinto
        .send("PUT", &record, &[("If-Match", &*etag)], "{}")
        .await;
    assert_eq!(refused.error(), (412, 114));
}

#[tokio::test]
async fn a_page_is_asked_for_by_the_names_that_came() {
    let kinto = public().await;
    for id in ["b", "c"] {
        kinto
            .put(&format!("{RECORDS}/{id}"), json!({"data": {"a b": 1}}))
            .await;
    }
    let page = kinto
        .get(&format!(
            "{RECORDS}?_sort=-last_modified&_limit=1&_fields=id&has_a.b=false"
        ))
        .await;
    let next = page.header("next-page");
    let (_, query) = next.split_once('?').unwrap();
    let names: Vec<_> = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap().0)
        .collect();
    assert_eq!(names, ["_sort", "_fields", "has_a.b", "_limit", "_token"]);
    assert!(query.contains("_sort=-last_modified&"), "{query}");
}
