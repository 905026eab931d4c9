//! The root endpoint and the heartbeat.

use serde_json::json;
use tests::{Kinto, NOBODY};

#[tokio::test]
async fn hello_tells_of_the_server_its_capabilities_and_the_user() {
    let kinto = Kinto::with(&[("KINTO_BACKOFF", "30")]);
    let hello = kinto.get("/").await;
    assert_eq!(hello.status, 200);
    assert_eq!(hello.body["url"], "http://kinto.test/v1/");
    assert_eq!(hello.body["http_api_version"], "1.23");
    assert_eq!(hello.body["settings"]["batch_max_requests"], 25);
    assert_eq!(
        hello.body["capabilities"]["changes"]["collections"],
        json!(["/buckets/main"])
    );
    assert!(hello.body["capabilities"]["megaphone"].is_null());
    assert_eq!(hello.body["user"]["principals"][1], "system.Everyone");
    assert_eq!(hello.header("backoff"), "30");
    assert!(kinto.as_user(NOBODY).get("/").await.body["user"].is_null());
    assert_eq!(kinto.get("/nothing").await.header("backoff"), "30");
    assert_eq!(
        kinto.get("/__version__").await.body["name"],
        "kinto-serverless"
    );
    assert_eq!(kinto.get("/__lbheartbeat__").await.body, json!({}));
}

#[tokio::test]
async fn the_heartbeat_tells_when_the_storage_fails() {
    let kinto = Kinto::new();
    let beat = kinto.get("/__heartbeat__").await;
    assert_eq!(
        (beat.status, beat.body),
        (200, json!({"permission": true, "storage": true}))
    );
    kinto
        .aws
        .inject(|_, _| Some(kinto_local::Fault::error("ResourceNotFoundException")));
    let beat = kinto.get("/__heartbeat__").await;
    assert_eq!(
        (beat.status, beat.body),
        (503, json!({"permission": false, "storage": false}))
    );
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
