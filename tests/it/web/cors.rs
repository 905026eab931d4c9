//! CORS: responses to browsers.

use serde_json::Value;
use tests::{BUCKET, Kinto, NOBODY, RECORD, names};

const ORIGIN: (&str, &str) = ("Origin", "https://app.example");

#[tokio::test]
async fn each_endpoint_exposes_the_headers_that_kinto_exposes_there() {
    const ALWAYS: &str = "Alert Backoff Content-Length Content-Type Retry-After";
    const OBJECT: &str = "Cache-Control ETag Expires Last-Modified Pragma";
    const LIST: &str = "Cache-Control ETag Expires Last-Modified Next-Page Pragma";
    const COUNT: &str =
        "Cache-Control ETag Expires Last-Modified Next-Page Pragma Total-Objects Total-Records";
    let kinto = Kinto::with_collection().await;
    for (method, path, status, more) in [
        ("GET", "/v1/", 200, ""),
        ("HEAD", "/v1/", 200, ""),
        ("GET", "/v1/__heartbeat__", 200, ""),
        ("GET", "/v1/__api__", 200, ""),
        ("GET", "/v1/contribute.json", 200, ""),
        ("GET", "/v1/buckets", 200, LIST),
        ("HEAD", "/v1/buckets", 200, COUNT),
        ("POST", "/v1/buckets", 201, ""),
        ("GET", "/v1/buckets?_since=x", 400, LIST),
        ("GET", "/v1/buckets/main", 200, OBJECT),
        ("HEAD", "/v1/buckets/main", 200, OBJECT),
        ("PUT", "/v1/buckets/main", 200, ""),
        ("PATCH", "/v1/buckets/main", 400, ""),
        ("DELETE", "/v1/buckets/none", 403, ""),
        ("GET", "/v1/buckets/none", 403, OBJECT),
        ("GET", "/v1/buckets/main/collections/one", 200, OBJECT),
        (
            "GET",
            "/v1/buckets/monitor/collections/changes/records",
            200,
            LIST,
        ),
        (
            "HEAD",
            "/v1/buckets/monitor/collections/changes/records",
            200,
            LIST,
        ),
        ("GET", "/v1/nothing", 404, ""),
        ("GET", "/v2/buckets", 404, ""),
        ("GET", "/v1/buckets/", 307, ""),
        ("GET", "/buckets", 307, ""),
    ] {
        for headers in [&[][..], &[ORIGIN]] {
            let answer = kinto.send_raw(method, path, headers, "").await;
            let expected = ALWAYS.split(' ').chain(more.split(' '));
            let expected = expected.filter(|name| !name.is_empty()).map(str::to_owned);
            assert_eq!(answer.status, status, "{method} {path}");
            assert_eq!(
                names(&answer, "access-control-expose-headers"),
                expected.collect(),
                "{method} {path}"
            );
            let allowed = answer.header("access-control-allow-origin");
            // Sent even without an origin: a cached response to another client must not lock browsers out.
            assert_eq!(allowed, "*");
        }
    }
    for (method, path) in [("POST", "/"), ("PUT", "/buckets"), ("FOO", BUCKET)] {
        let refused = kinto.send(method, path, &[ORIGIN], "").await;
        assert_eq!(refused.error(), (405, 115), "{method} {path}");
        assert_eq!(refused.header("access-control-expose-headers"), "");
        assert_eq!(refused.header("access-control-allow-origin"), "*");
    }
}

#[tokio::test]
async fn a_preflight_tells_what_may_be_sent_and_for_how_long() {
    let kinto = Kinto::new().as_user(NOBODY);
    let asked = [
        ORIGIN,
        ("Access-Control-Request-Method", "PATCH"),
        ("Access-Control-Request-Headers", "authorization, if-match"),
    ];
    let answer = kinto.send("OPTIONS", RECORD, &asked, "").await;
    assert_eq!((answer.status, &answer.body), (200, &Value::Null));
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.header("access-control-max-age"), "3600");
    assert_eq!(answer.header("access-control-expose-headers"), "");
    assert_eq!(
        answer.header("access-control-allow-methods"),
        "GET,HEAD,PUT,PATCH,DELETE,OPTIONS"
    );
    let headers = "Alert Backoff Cache-Control Content-Length Content-Type ETag Expires \
                   Last-Modified Pragma Retry-After authorization if-match";
    assert_eq!(
        names(&answer, "access-control-allow-headers"),
        headers.split(' ').map(str::to_owned).collect()
    );

    let refused = kinto.send("OPTIONS", RECORD, &[], "").await;
    assert_eq!(refused.error(), (400, 107));
    let wrong: Vec<_> = refused.body["details"]
        .as_array()
        .unwrap()
        .iter()
        .map(|detail| detail["name"].as_str().unwrap())
        .collect();
    assert_eq!(wrong, ["Access-Control-Request-Method", "Origin"]);
    for method in ["POST", "patch", "FOO", ""] {
        let asked = [ORIGIN, ("Access-Control-Request-Method", method)];
        let refused = kinto.send("OPTIONS", RECORD, &asked, "").await;
        assert_eq!(refused.error(), (400, 107), "{method}");
        assert_eq!(
            refused.body["details"][0]["name"],
            "Access-Control-Request-Method"
        );
    }
    // A browser does not follow a redirect of a preflight.
    let unversioned = kinto.send_raw("OPTIONS", BUCKET, &[ORIGIN], "").await;
    assert_eq!(unversioned.status, 200);
    assert_eq!(unversioned.header("access-control-allow-origin"), "*");
}

#[tokio::test]
async fn only_browsers_of_the_origins_in_the_settings_may_ask() {
    let kinto = Kinto::with(&[
        (
            "KINTO_CORS_ORIGINS",
            "https://a.example https://*.b.example",
        ),
        ("KINTO_CORS_MAX_AGE_SECONDS", "77"),
    ]);
    for origin in ["https://a.example", "https://x.b.example"] {
        let headers = [("Origin", origin), ("Access-Control-Request-Method", "PUT")];
        for (method, status) in [("PUT", 201), ("GET", 200), ("OPTIONS", 200), ("POST", 405)] {
            let path = format!(
                "/buckets/{}",
                origin.replace(|c: char| !c.is_alphabetic(), "")
            );
            let answer = kinto.send(method, &path, &headers, "").await;
            assert_eq!(answer.status, status, "{method} {origin}");
            assert_eq!(answer.header("access-control-allow-origin"), origin);
            assert_eq!(names(&answer, "vary"), ["origin".to_owned()].into());
            let max_age = answer.header("access-control-max-age");
            assert_eq!(max_age, if method == "OPTIONS" { "77" } else { "" });
        }
    }
    for origin in ["https://b.example", "https://x.b.example.org", "null"] {
        let headers = [("Origin", origin), ("Access-Control-Request-Method", "PUT")];
        for method in ["PUT", "GET", "OPTIONS"] {
            let refused = kinto.send(method, BUCKET, &headers, "").await;
            assert_eq!(refused.status, 400, "{method} {origin}");
            assert_eq!(refused.header("access-control-allow-origin"), "");
        }
    }
    assert_eq!(kinto.get(BUCKET).await.error(), (403, 121));
    assert_eq!(kinto.get("/").await.status, 200);
}
