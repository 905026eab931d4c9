//! What concerns the server rather than its objects. Statuses, headers and error numbers are those that Kinto 26.5.0
//! gave to the same requests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::Read as _;
use std::time::{Duration, Instant};

use aws_lambda_events::apigw::{ApiGatewayV2httpRequest, ApiGatewayV2httpResponse};
use aws_lambda_events::encodings::Body;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use kinto_local::{Options, Stack};
use kinto_serverless::settings::Vars;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tests::{ALICE, Answer, Kinto, NOBODY};

const BUCKET: &str = "/buckets/main";
const RECORDS: &str = "/buckets/main/collections/one/records";
const RECORD: &str = "/buckets/main/collections/one/records/r1";

/// What Lambda takes as the answer of a function, in bytes.
const LAMBDA_LIMIT: usize = 6_291_556;

const ORIGIN: (&str, &str) = ("Origin", "https://app.example");

/// The names in a header that lists some.
fn names(answer: &Answer, header: &str) -> BTreeSet<String> {
    let value = answer.header(header);
    let names = value.split(',').map(|name| name.trim().to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

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
            // Sent unasked too: a cache that no browser asked first must not lock browsers out.
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
    // A browser follows no redirect of a preflight.
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

#[tokio::test]
async fn an_end_of_service_is_announced_on_every_response() {
    let kinto = Kinto::with(&[
        ("KINTO_EOS", "2099-01-01"),
        ("KINTO_EOS_MESSAGE", "Adiós"),
        ("KINTO_BACKOFF", "9"),
    ]);
    for (method, path, status) in [
        ("GET", "/v1/", 200),
        ("PUT", "/v1/buckets/main", 201),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/", 405),
        ("GET", "/buckets", 307),
    ] {
        let answer = kinto.send_raw(method, path, &[], "").await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("backoff"), "9");
        let alert: Value = serde_json::from_str(answer.header("alert")).unwrap();
        assert_eq!(
            alert,
            json!({"code": "soft-eol", "message": "Adiós", "url": "https://kinto.readthedocs.io/"})
        );
    }
    assert_eq!(kinto.get("/").await.body["eos"], "2099-01-01");
}

#[tokio::test]
async fn after_its_end_the_service_answers_410_to_everything() {
    let kinto = Kinto::with(&[
        ("KINTO_EOS", "2020-01-01T00:00:00"),
        ("KINTO_EOS_URL", "https://elsewhere.example/"),
    ]);
    for (method, path) in [
        ("GET", "/v1/"),
        ("PUT", "/v1/buckets/main"),
        ("OPTIONS", "/v1/buckets/main"),
        ("GET", "/v1/__lbheartbeat__"),
        ("GET", "/v1/nothing"),
        ("GET", "/buckets"),
    ] {
        let gone = kinto.send_raw(method, path, &[ORIGIN], "").await;
        assert_eq!(gone.error(), (410, 202), "{method} {path}");
        assert_eq!(gone.header("access-control-allow-origin"), "*");
        assert_eq!(names(&gone, "access-control-expose-headers").len(), 5);
        let alert: Value = serde_json::from_str(gone.header("alert")).unwrap();
        assert_eq!(
            alert,
            json!({"code": "hard-eol", "message": null, "url": "https://elsewhere.example/"})
        );
    }
    assert_eq!(kinto.aws.requests().total(), 0);
}

#[tokio::test]
async fn a_share_of_the_responses_asks_clients_to_back_off() {
    for (share, expected) in [("0", ""), ("100", "5")] {
        let kinto = Kinto::with(&[("KINTO_BACKOFF", "5"), ("KINTO_BACKOFF_PERCENTAGE", share)]);
        for _ in 0..20 {
            assert_eq!(kinto.get("/").await.header("backoff"), expected);
        }
    }
}

#[tokio::test]
async fn a_method_can_be_turned_off_for_an_endpoint() {
    let kinto = Kinto::with(&[
        ("KINTO_OBJECT_BUCKET_PUT_ENABLED", "false"),
        ("KINTO_PLURAL_BUCKET_GET_ENABLED", "no"),
        ("KINTO_OBJECT_RECORD_GET_ENABLED", "0"),
    ]);
    let refused = kinto.put(BUCKET, json!({})).await;
    assert_eq!(refused.error(), (405, 115));
    assert_eq!(refused.header("allow"), "GET, HEAD, PATCH, DELETE, OPTIONS");
    assert_eq!(kinto.get("/buckets").await.error(), (405, 115));
    assert_eq!(kinto.send("HEAD", "/buckets", &[], "").await.status, 200);
    let posted = kinto
        .post("/buckets", json!({"data": {"id": "main"}}))
        .await;
    assert_eq!(posted.status, 201);
    let collection = kinto.put("/buckets/main/collections/one", json!({})).await;
    assert_eq!(collection.status, 201);
    assert_eq!(kinto.put(RECORD, json!({})).await.status, 201);
    assert_eq!(kinto.get(RECORD).await.error(), (405, 115));
    assert_eq!(kinto.send("HEAD", RECORD, &[], "").await.status, 405);

    let asked = [ORIGIN, ("Access-Control-Request-Method", "PUT")];
    assert_eq!(kinto.send("OPTIONS", BUCKET, &asked, "").await.status, 400);
    let api = kinto.get("/__api__").await.body;
    assert!(api["paths"]["/buckets/{id}"]["put"].is_null());
    assert!(api["paths"]["/buckets/{id}"]["patch"].is_object());
}

#[tokio::test]
async fn a_readonly_server_takes_no_write_anywhere_and_its_hello_may_be_kept() {
    let kinto = Kinto::with(&[("KINTO_READONLY", "true")]);
    for path in [BUCKET, "/buckets", "/batch", "/nothing"] {
        assert_eq!(
            kinto.post(path, json!({})).await.error(),
            (405, 115),
            "{path}"
        );
    }
    let hello = kinto.as_user(NOBODY).get("/").await;
    assert_eq!(hello.header("cache-control"), "max-age=86400");
    assert!(!hello.header("expires").is_empty());
    // It names the user.
    let own = kinto.get("/").await;
    assert_eq!(own.header("cache-control"), "no-cache, no-store");
    assert_eq!(
        Kinto::new().get("/").await.header("cache-control"),
        "no-store"
    );
    let paths = kinto.get("/__api__").await.body["paths"].clone();
    assert!(paths["/buckets/{id}"]["put"].is_null() && paths["/buckets/{id}"]["get"].is_object());
}

#[tokio::test]
async fn redirects_can_be_turned_off_and_kept_as_long_as_the_settings_say() {
    let off = Kinto::with(&[
        ("KINTO_VERSION_PREFIX_REDIRECT_ENABLED", "false"),
        ("KINTO_TRAILING_SLASH_REDIRECT_ENABLED", "false"),
    ]);
    for (path, errno) in [("/buckets", 116), ("/v1/buckets/", 111), ("/v1", 111)] {
        let answer = off.send_raw("GET", path, &[], "").await;
        assert_eq!(answer.error(), (404, errno), "{path}");
    }
    let kept = Kinto::with(&[
        ("KINTO_VERSION_PREFIX_REDIRECT_TTL_SECONDS", "60"),
        ("KINTO_TRAILING_SLASH_REDIRECT_TTL_SECONDS", "-1"),
    ]);
    let kept = kept.as_user(NOBODY);
    for (path, cache_control) in [("/buckets", "max-age=60"), ("/v1/buckets/", "no-store")] {
        let answer = kept.send_raw("GET", path, &[], "").await;
        let location = answer.header("location");
        assert_eq!((answer.status, location), (307, "/v1/buckets"));
        assert_eq!(answer.header("cache-control"), cache_control, "{path}");
    }
}

#[tokio::test]
async fn a_redirect_leads_to_a_url_whatever_the_path() {
    let kinto = Kinto::new();
    for (path, location) in [
        ("/buckets/café", "/v1/buckets/caf%C3%A9"),
        ("/v1/a b\n%/", "/v1/a%20b%0A%25"),
        ("//evil.example/", "/v1//evil.example/"),
    ] {
        let answer = kinto.send_raw("GET", path, &[], "").await;
        assert_eq!((answer.status, answer.header("location")), (307, location));
    }
}

#[tokio::test]
async fn hello_shows_what_the_settings_say_of_the_project() {
    let kinto = Kinto::with(&[
        ("KINTO_PROJECT_NAME", "Remote Settings"),
        ("KINTO_PROJECT_VERSION", "3.1"),
    ]);
    let hello = kinto.get("/").await.body;
    assert_eq!(hello["project_name"], "Remote Settings");
    assert_eq!(hello["project_version"], "3.1");
    let keys: Vec<_> = hello.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "project_name",
            "project_version",
            "http_api_version",
            "project_docs",
            "url",
            "config",
            "settings",
            "user",
            "capabilities"
        ]
    );
    assert!(!hello["user"]["id"].as_str().unwrap().is_empty());
    let contribute = kinto.get("/contribute.json").await.body;
    assert_eq!(contribute["name"], "kinto-serverless");
}

/// Every method that Kinto's endpoints may take, without those that `__api__` leaves out.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

#[tokio::test]
async fn the_openapi_document_lists_the_methods_that_each_endpoint_takes() {
    let kinto = Kinto::with(&[("KINTO_EXPERIMENTAL_PERMISSIONS_ENDPOINT", "true")]).as_user(NOBODY);
    let api = kinto.get("/__api__").await.body;
    assert_eq!(
        (
            &api["swagger"],
            &api["host"],
            &api["basePath"],
            &api["schemes"]
        ),
        (
            &json!("2.0"),
            &json!("kinto.test"),
            &json!("/v1"),
            &json!(["http"])
        )
    );
    let paths = api["paths"].as_object().unwrap();
    for (path, item) in paths {
        let filled = path.replace(['{', '}'], "");
        for method in METHODS {
            let answer = kinto.send(method, &filled, &[], "{}").await;
            let is_listed = item.get(method.to_ascii_lowercase()).is_some();
            assert_eq!(is_listed, answer.status != 405, "{method} {path}");
            let is_unknown = answer.status == 404 && answer.body["details"].is_null();
            assert!(!is_unknown, "{method} {path}");
        }
    }
    assert!(Kinto::new().get("/__api__").await.body["paths"]["/permissions"].is_null());
    // As the real server names them, and clients call them.
    for (path, method, id) in [
        ("/", "get", "server_info"),
        ("/__api__", "get", "get_openapi_spec"),
        ("/batch", "post", "batch"),
        ("/permissions", "get", "get_permissionss"),
        ("/buckets", "get", "get_buckets"),
        ("/buckets", "post", "create_bucket"),
        ("/buckets/{id}", "put", "update_bucket"),
        (
            "/buckets/{bucket_id}/collections/{id}",
            "patch",
            "patch_collection",
        ),
        (
            "/buckets/{bucket_id}/collections/{collection_id}/records/{id}",
            "delete",
            "delete_record",
        ),
        (
            "/buckets/monitor/collections/changes/records",
            "get",
            "get_changess",
        ),
    ] {
        assert_eq!(paths[path][method]["operationId"], id, "{method} {path}");
    }
}

/// Needs the packages of `tests/requirements.txt`, which `tests/run` installs.
#[tokio::test]
#[ignore = "needs openapi-spec-validator"]
async fn the_openapi_document_is_valid() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let api = Kinto::new().get("/__api__").await.body;
    let mut validator = Command::new("openapi-spec-validator")
        .args(["--schema", "2.0", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = validator.stdin.take().unwrap();
    stdin.write_all(api.to_string().as_bytes()).unwrap();
    drop(stdin);
    assert!(validator.wait().unwrap().success());
}

/// The event of a request of alice's, as API Gateway sends it.
fn event(method: &str, path: &str, headers: &[(String, String)], body: &[u8]) -> Value {
    let (raw_path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut all = json!({"host": "kinto.test", "authorization": ALICE});
    for (name, value) in headers {
        all[name.to_ascii_lowercase()] = json!(value);
    }
    let mut event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": raw_path,
        "rawQueryString": query,
        "headers": all,
        "requestContext": {"http": {"method": method, "path": raw_path}},
        "isBase64Encoded": false,
    });
    match std::str::from_utf8(body) {
        Ok("") => {}
        Ok(text) => event["body"] = json!(text),
        Err(_) => {
            event["body"] = json!(BASE64_STANDARD.encode(body));
            event["isBase64Encoded"] = json!(true);
        }
    }
    event
}

/// Has the request answered; the answer is one that Lambda and API Gateway can send on.
async fn answered(kinto: &Kinto, event: Value) -> ApiGatewayV2httpResponse {
    let event: ApiGatewayV2httpRequest = serde_json::from_value(event).unwrap();
    let answer = kinto.api.handle(event).await;
    let length = serde_json::to_string(&answer).unwrap().len();
    assert!(length <= LAMBDA_LIMIT, "{length} bytes");
    let is_binary = matches!(answer.body, Some(Body::Binary(_)));
    assert_eq!(answer.is_base64_encoded, is_binary);
    for (name, value) in &answer.headers {
        assert!(value.to_str().is_ok(), "{name}: {value:?}");
        assert_eq!(answer.headers.get_all(name).iter().count(), 1, "{name}");
    }
    answer
}

/// The JSON of an answer, compressed or not.
fn json_of(answer: &ApiGatewayV2httpResponse) -> Value {
    let gzipped = answer.headers.get("content-encoding").is_some();
    match &answer.body {
        None | Some(Body::Empty) => Value::Null,
        Some(Body::Text(text)) => serde_json::from_str(text).unwrap(),
        Some(Body::Binary(bytes)) if gzipped => {
            let mut text = String::new();
            let mut decoder = flate2::read::GzDecoder::new(&bytes[..]);
            decoder.read_to_string(&mut text).unwrap();
            serde_json::from_str(&text).unwrap()
        }
        Some(Body::Binary(bytes)) => serde_json::from_slice(bytes).unwrap(),
        Some(_) => panic!("another body"),
    }
}

#[tokio::test]
async fn a_large_response_is_compressed_for_clients_that_accept_it() {
    let kinto = Kinto::with_collection().await;
    let text = "abc \"é\" ".repeat(1000);
    kinto.put(RECORD, json!({"data": {"text": text}})).await;
    let gzip = [("Accept-Encoding".to_owned(), "gzip, deflate, br".to_owned())];
    let path = format!("/v1{RECORD}");

    let compressed = answered(&kinto, event("GET", &path, &gzip, b"")).await;
    assert_eq!(compressed.headers["content-encoding"], "gzip");
    assert_eq!(compressed.headers["vary"], "accept-encoding");
    let Some(Body::Binary(bytes)) = &compressed.body else {
        panic!("{compressed:?}");
    };
    assert!(bytes.len() < 400);
    assert_eq!(json_of(&compressed)["data"]["text"], text);

    let plain = answered(&kinto, event("GET", &path, &[], b"")).await;
    assert_eq!(plain.headers["vary"], "accept-encoding");
    assert_eq!(plain.headers.get("content-encoding"), None);
    assert_eq!(plain.headers["etag"], compressed.headers["etag"]);
    assert_eq!(json_of(&plain), json_of(&compressed));

    let head = answered(&kinto, event("HEAD", &path, &gzip, b"")).await;
    assert_eq!(
        (head.headers.get("content-encoding"), &head.body),
        (None, &None)
    );
    let small = answered(&kinto, event("GET", "/v1/buckets/main", &gzip, b"")).await;
    assert!(matches!(small.body, Some(Body::Text(_))));
    assert_eq!(small.headers.get("vary"), None);
}

#[tokio::test]
async fn a_compressed_response_comes_through_the_local_stack() {
    let stack = Stack::start(&Options::default(), Vars::default())
        .await
        .unwrap();
    let request = reqwest::Client::new()
        .get(format!("{}__api__", stack.url()))
        .header("Accept-Encoding", "gzip");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let bytes = answer.bytes().await.unwrap();
    let api: Value = serde_json::from_reader(flate2::read::GzDecoder::new(&bytes[..])).unwrap();
    assert_eq!(api["swagger"], "2.0");
    stack.stop().await;
}

#[tokio::test]
async fn a_list_that_lambda_could_not_answer_comes_in_pages_whatever_it_holds() {
    let kinto = Kinto::with_collection().await;
    // What doubles each time that it is written as JSON, and what does not.
    const OBJECTS: usize = 16;
    for n in 0..OBJECTS {
        let text = if n % 2 == 0 {
            "\"\\".repeat(90_000)
        } else {
            "x".repeat(360_000)
        };
        let path = format!("{RECORDS}/r{n}");
        let put = kinto.put(&path, json!({"data": {"text": text}})).await;
        assert_eq!(put.status, 201);
    }
    // What is not shown takes no room.
    for (query, expected) in [("", 2), ("_sort=id", 2), ("_fields=none", 1)] {
        let (mut seen, mut pages) = (BTreeSet::new(), 0);
        let mut path = format!("/v1{RECORDS}?{query}");
        loop {
            let page = answered(&kinto, event("GET", &path, &[], b"")).await;
            assert_eq!(page.status_code, 200);
            pages += 1;
            for object in json_of(&page)["data"].as_array().unwrap() {
                assert!(seen.insert(object["id"].to_string()), "{object} again");
            }
            let Some(next) = page.headers.get("next-page") else {
                break;
            };
            path = next.to_str().unwrap().replacen("http://kinto.test", "", 1);
        }
        assert_eq!((seen.len(), pages), (OBJECTS, expected), "{query}");
    }
}

#[tokio::test]
async fn no_more_of_a_list_is_read_than_one_page_can_hold() {
    let kinto = Kinto::with_collection().await;
    for n in 0..20 {
        let data = json!({"data": {"text": "x".repeat(380_000)}});
        kinto.put(&format!("{RECORDS}/r{n}"), data).await;
    }
    kinto.aws.requests().take();
    answered(&kinto, event("GET", &format!("/v1{RECORDS}"), &[], b"")).await;
    // The parents and the list's timestamp, then a `Query` for each MB of a page; all of it would take 9.
    let requests = kinto.aws.requests().total();
    assert!((5..=7).contains(&requests), "{requests}");
}

#[tokio::test]
async fn a_batch_whose_responses_could_not_be_sent_together_is_refused_and_writes_nothing() {
    let kinto = Kinto::with_collection().await;
    let text = "x".repeat(380_000);
    kinto.put(RECORD, json!({"data": {"text": text}})).await;
    let mut requests = vec![json!({"path": RECORD}); 13];
    requests.push(json!({"method": "PUT", "path": format!("{RECORDS}/r2")}));
    let body = json!({"requests": requests}).to_string();
    let refused = answered(&kinto, event("POST", "/v1/batch", &[], body.as_bytes())).await;
    assert_eq!(
        (refused.status_code, &json_of(&refused)["errno"]),
        (413, &json!(113))
    );
    assert_eq!(kinto.get(&format!("{RECORDS}/r2")).await.status, 404);

    requests.truncate(10);
    let body = json!({"requests": requests}).to_string();
    let batch = answered(&kinto, event("POST", "/v1/batch", &[], body.as_bytes())).await;
    assert_eq!(batch.status_code, 200);
    assert_eq!(
        batch.headers["access-control-expose-headers"]
            .to_str()
            .unwrap()
            .split(',')
            .count(),
        5
    );
}

#[tokio::test]
async fn bodies_are_json_in_utf_8_and_not_compressed() {
    let kinto = Kinto::with_collection().await;
    let path = format!("/v1{RECORD}");
    let send = async |content_type: &str, encoding: &str, body: &[u8]| {
        let headers = [
            ("content-type", content_type),
            ("content-encoding", encoding),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let answer = answered(&kinto, event("PUT", &path, &headers, body)).await;
        (answer.status_code, json_of(&answer))
    };
    let utf_8 = "{\"data\": {\"a\": \"é\"}}".as_bytes();
    let (status, body) = send("application/json; charset=utf-8", "", utf_8).await;
    assert_eq!((status, &body["data"]["a"]), (201, &json!("é")));
    assert_eq!(
        send("application/json", "", b"{\"data\": {\"a\": \"\xe9\"}}")
            .await
            .0,
        400
    );
    let mut encoder = flate2::read::GzEncoder::new(utf_8, flate2::Compression::fast());
    let mut gzipped = vec![];
    encoder.read_to_end(&mut gzipped).unwrap();
    assert_eq!(send("application/json", "gzip", &gzipped).await.0, 400);
    assert_eq!(send("application/json, text/plain", "", utf_8).await.0, 415);
}

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

/// What fits the method and the path, mostly.
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
        // Batches take nothing else.
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
            // A patch of operations says so; what no client can send as a header does not reach us.
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

/// With all that is off by default.
const SETTINGS: [(&str, &str); 2] = [
    ("KINTO_EXPERIMENTAL_COLLECTION_SCHEMA_VALIDATION", "true"),
    ("KINTO_EXPERIMENTAL_PERMISSIONS_ENDPOINT", "true"),
];

/// `KINTO_FUZZ_SECONDS` makes it go on for that long.
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
