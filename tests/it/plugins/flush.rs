//! `POST /__flush__` removes everything.

use std::time::Duration;

use kinto_local::{Options, Stack};
use kinto_serverless::settings::Vars;
use serde_json::{Value, json};
use tests::{BOB, Kinto, NOBODY, ids};

const FLUSH: (&str, &str) = ("KINTO_INCLUDES", "kinto.plugins.flush");

#[tokio::test]
async fn a_flush_by_anybody_removes_everything() {
    let kinto = Kinto::with(&[FLUSH]);
    assert!(kinto.get("/").await.body["capabilities"]["flush_endpoint"].is_object());
    let bob = kinto.as_user(BOB).get("/").await.body["user"]["id"].clone();
    let (group, record) = ("/buckets/a/groups/g", "/buckets/a/collections/c/records/r");
    let create = async || {
        for path in ["/buckets/a", "/buckets/a/collections/c", "/buckets/b"] {
            assert_eq!(kinto.put(path, json!({})).await.status, 201, "{path}");
        }
        let shared = json!({"permissions": {"read": [group]}});
        assert_eq!(kinto.put(record, shared).await.status, 201);
    };
    create().await;
    let members = json!({"data": {"members": [bob]}});
    assert_eq!(kinto.put(group, members).await.status, 201);
    assert_eq!(kinto.as_user(BOB).get(record).await.status, 200);
    let before = kinto.get("/buckets").await;

    let nobody = kinto.as_user(NOBODY);
    let flushed = nobody.send("POST", "/__flush__", &[], "").await;
    assert_eq!((flushed.status, &flushed.body), (202, &json!({})));
    let after = kinto.get("/buckets").await;
    assert_eq!(after.body["data"], json!([]));
    assert!(after.header("etag") > before.header("etag"));

    create().await;
    assert_eq!(kinto.get(group).await.status, 404);
    assert_eq!(kinto.as_user(BOB).get(record).await.status, 403);
    assert_eq!(kinto.get("/__flush__").await.error(), (405, 115));
}

#[tokio::test]
async fn a_flush_takes_time_by_the_number_of_buckets_alone() {
    let kinto = Kinto::with(&[FLUSH]);
    kinto.put("/buckets/a", json!({})).await;
    kinto.put("/buckets/a/collections/c", json!({})).await;
    for _ in 0..30 {
        kinto
            .post("/buckets/a/collections/c/records", json!({}))
            .await;
    }
    let requests = kinto.aws.requests();
    requests.take();
    assert_eq!(kinto.post("/__flush__", json!({})).await.status, 202);
    // The timestamps of buckets and accounts, the buckets, the lists under them, the accounts.
    assert_eq!((requests.of("BatchGetItem"), requests.of("Query")), (2, 2));
    assert_eq!(requests.of("TransactWriteItems"), 1);

    for n in 0..60 {
        kinto.put(&format!("/buckets/b{n}"), json!({})).await;
    }
    assert_eq!(kinto.post("/__flush__", json!({})).await.status, 202);
    assert_eq!(kinto.get("/buckets").await.body["data"], json!([]));
    // Nothing is left to remove.
    requests.take();
    assert_eq!(kinto.post("/__flush__", json!({})).await.status, 202);
    assert_eq!(requests.of("TransactWriteItems"), 0);
}

#[tokio::test]
async fn a_flush_in_a_batch_takes_what_came_before_it_and_leaves_what_comes_after() {
    let kinto = Kinto::with(&[FLUSH]);
    kinto.put("/buckets/old", json!({})).await;
    let put = |path: &str| json!({"method": "PUT", "path": path});
    let flush = json!({"method": "POST", "path": "/__flush__"});
    let batch = json!({"requests": [put("/buckets/before"), flush, put("/buckets/after")]});
    let answer = kinto.post("/batch", batch).await;
    assert_eq!(answer.body["responses"][1]["status"], 202);
    assert_eq!(ids(&kinto.get("/buckets").await), ["after"]);
}

#[tokio::test]
async fn a_flush_empties_monitor_changes() {
    let vars = Vars::from_iter([FLUSH]);
    let stack = Stack::start(&Options::default(), vars).await.unwrap();
    let client = reqwest::Client::new();
    let send = async |method: &str, path: &str| -> Value {
        let request = client.request(method.parse().unwrap(), stack.url() + path);
        let answer = request.basic_auth("me", Some("")).send().await.unwrap();
        assert!(answer.status().is_success(), "{method} {path}");
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    };
    let shows = async |collections: usize| {
        let changes = "buckets/monitor/collections/changes/records";
        let is_shown = async {
            while send("GET", changes).await["data"].as_array().unwrap().len() != collections {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let shown = tokio::time::timeout(Duration::from_secs(10), is_shown).await;
        shown.unwrap_or_else(|_| panic!("{collections} collections in monitor/changes"));
    };
    send("PUT", "buckets/main").await;
    for collection in ["one", "two"] {
        send("PUT", &format!("buckets/main/collections/{collection}")).await;
    }
    shows(2).await;
    send("POST", "__flush__").await;
    shows(0).await;
    stack.stop().await;
}

#[tokio::test]
async fn a_readonly_server_cannot_be_flushed() {
    let kinto = Kinto::with(&[FLUSH, ("KINTO_READONLY", "true")]);
    assert_eq!(
        kinto.post("/__flush__", json!({})).await.error(),
        (405, 115)
    );
}
