//! The methods and paths: Kinto's, less those that settings disable.

use serde_json::json;
use tests::{BUCKET, Kinto, NOBODY, RECORD};

#[tokio::test]
async fn methods_and_paths_are_kintos() {
    let kinto = Kinto::with_collection().await;
    let refused = kinto.send("POST", RECORD, &[], "{}").await;
    assert_eq!(refused.error(), (405, 115));
    assert_eq!(
        refused.header("allow"),
        "GET, HEAD, PUT, PATCH, DELETE, OPTIONS"
    );
    assert_eq!(kinto.get("/nothing").await.error(), (404, 111));
    assert_eq!(
        kinto.send_raw("GET", "/v0/buckets", &[], "").await.error(),
        (404, 116)
    );
    for (path, location, max_age) in [
        (
            "/buckets/main?_fields=a",
            "/v1/buckets/main?_fields=a",
            "no-store",
        ),
        ("/v1", "/v1/", "private, max-age=3600"),
        (
            "/v1/buckets/main/",
            "/v1/buckets/main",
            "private, max-age=3600",
        ),
    ] {
        let moved = kinto.send_raw("GET", path, &[], "").await;
        assert_eq!(
            (
                moved.status,
                moved.header("location"),
                moved.header("cache-control")
            ),
            (307, location, max_age)
        );
    }
    let head = kinto.send("HEAD", "/buckets/main", &[], "").await;
    assert_eq!(
        (
            head.status,
            head.body.is_null(),
            head.header("etag").is_empty()
        ),
        (200, true, false)
    );
    let picked = kinto.get("/buckets/main?_fields=nope").await;
    assert_eq!(picked.body["data"].as_object().unwrap().len(), 2);
}

#[tokio::test]
async fn nothing_is_written_when_the_server_is_readonly() {
    let kinto = Kinto::with(&[("KINTO_READONLY", "true")]);
    assert_eq!(
        kinto.put("/buckets/main", json!({})).await.error(),
        (405, 115)
    );
    assert_eq!(kinto.aws.requests().total(), 0);
}

const ORIGIN: (&str, &str) = ("Origin", "https://app.example");

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
