//! The default bucket: each user's own.

use serde_json::{Value, json};
use tests::{ALICE, BOB, Kinto, NOBODY, ids};

const DEFAULT_BUCKET: (&str, &str) = ("KINTO_INCLUDES", "kinto.plugins.default_bucket");

/// The default of Kinto.
const EMPTY_KEY: (&str, &str) = ("KINTO_DEFAULT_BUCKET_HMAC_SECRET", "");

/// `a:b`.
const AB: &str = "Basic YTpi";

/// The id of the default bucket of `a:b` in Kinto 26.5 with the secrets of the tests and [`EMPTY_KEY`].
const BUCKET_OF_AB: &str = "e1256f60-790d-e248-c3a6-6cfcddb69adf";

#[tokio::test]
async fn nothing_of_a_plugin_is_there_without_it() {
    let kinto = Kinto::new();
    let hello = kinto.get("/").await.body;
    assert_eq!(hello["user"]["bucket"], Value::Null);
    for capability in ["default_bucket", "flush_endpoint", "accounts", "openid"] {
        assert_eq!(hello["capabilities"][capability], Value::Null);
    }
    assert_eq!(kinto.post("/__flush__", json!({})).await.status, 404);
    assert_eq!(kinto.get("/accounts").await.error(), (404, 111));
    // An ordinary id.
    assert_eq!(kinto.get("/buckets/default").await.status, 403);
    let created = kinto.put("/buckets/default", json!({})).await;
    assert_eq!(created.body["data"]["id"], "default");
}

#[tokio::test]
async fn everybody_has_a_default_bucket_which_is_the_one_that_kinto_gives_them() {
    let kinto = Kinto::with(&[DEFAULT_BUCKET, EMPTY_KEY]).as_user(AB);
    let hello = kinto.get("/").await.body;
    assert_eq!(hello["user"]["bucket"], BUCKET_OF_AB);
    assert!(hello["capabilities"]["default_bucket"].is_object());
    assert_eq!(
        kinto.as_user(NOBODY).get("/").await.body["user"],
        Value::Null
    );

    let bucket = kinto.get("/buckets/default").await;
    assert_eq!(bucket.status, 200);
    assert_eq!(bucket.body["data"]["id"], BUCKET_OF_AB);
    assert_eq!(
        bucket.body["permissions"],
        json!({"write": [hello["user"]["id"]]})
    );
    let by_id = kinto.get(&format!("/buckets/{BUCKET_OF_AB}")).await;
    assert_eq!(by_id.body, bucket.body);
    let others = kinto.as_user(BOB).get("/buckets/default").await;
    assert_ne!(others.body["data"]["id"], BUCKET_OF_AB);

    let salted = Kinto::with(&[DEFAULT_BUCKET, ("KINTO_DEFAULT_BUCKET_HMAC_SECRET", "salt")]);
    let hello = salted.as_user(AB).get("/").await.body;
    assert_ne!(hello["user"]["bucket"], BUCKET_OF_AB);
}

#[tokio::test]
async fn nobody_has_no_default_bucket() {
    let kinto = Kinto::with(&[DEFAULT_BUCKET]).as_user(NOBODY);
    for path in ["/buckets/default", "/buckets/default/collections/c/records"] {
        assert_eq!(kinto.get(path).await.error(), (401, 104), "{path}");
    }
    assert_eq!(kinto.aws.requests().of("TransactWriteItems"), 0);
}

#[tokio::test]
async fn what_a_request_in_the_default_bucket_takes_for_granted_is_created() {
    let kinto = Kinto::with(&[DEFAULT_BUCKET]);
    for (method, path, status) in [
        ("GET", "/collections", 200),
        ("GET", "/collections/c0", 200),
        ("HEAD", "/collections/c1/records", 200),
        ("GET", "/collections/c2/records/r", 404),
        ("PUT", "/collections/c3", 201),
        ("PUT", "/collections/c4/records/r", 201),
        ("POST", "/collections/c5/records", 201),
        ("DELETE", "/collections/c6", 200),
        ("PATCH", "/collections/c7/records/r", 404),
        ("PUT", "/groups/g", 201),
    ] {
        let path = format!("/buckets/default{path}");
        let body = if method == "PATCH" {
            r#"{"data": {"a": 1}}"#
        } else {
            ""
        };
        let answer = kinto.send(method, &path, &[], body).await;
        assert_eq!(answer.status, status, "{method} {path} {answer:?}");
    }
    let collections = kinto.get("/buckets/default/collections?_sort=id").await;
    assert_eq!(
        ids(&collections),
        ["c0", "c1", "c2", "c3", "c4", "c5", "c7"]
    );
}

#[tokio::test]
async fn a_bucket_or_collection_that_is_put_is_created_by_that_alone() {
    let kinto = Kinto::with(&[DEFAULT_BUCKET, ("KINTO_BUCKET_CREATE_PRINCIPALS", "admin")]);
    assert_eq!(kinto.put("/buckets/default", json!({})).await.status, 403);
    // Reading it needs no permission.
    assert_eq!(kinto.get("/buckets/default").await.status, 200);

    let kinto = Kinto::with(&[DEFAULT_BUCKET]);
    let if_absent = [("if-none-match", "*")];
    let body = r#"{"data": {"id": "default", "a": 1}}"#;
    let put = async || {
        kinto
            .send("PUT", "/buckets/default", &if_absent, body)
            .await
    };
    let created = put().await;
    assert_eq!(created.status, 201);
    assert_eq!(created.body["data"]["a"], 1);
    assert_eq!(put().await.error(), (412, 114));
    let other = kinto.put("/buckets/default", json!({"data": {"id": "x"}}));
    assert_eq!(other.await.error(), (400, 107));
}

#[tokio::test]
async fn the_default_bucket_is_there_again_after_it_was_deleted() {
    let kinto = Kinto::with(&[DEFAULT_BUCKET]);
    let record = "/buckets/default/collections/c/records/r";
    assert_eq!(kinto.put(record, json!({})).await.status, 201);
    assert_eq!(kinto.delete("/buckets/default").await.status, 200);
    assert_eq!(kinto.get("/buckets").await.body["data"], json!([]));
    assert_eq!(kinto.get(record).await.error(), (404, 110));
    assert_eq!(kinto.get("/buckets/default").await.status, 200);
}

#[tokio::test]
async fn a_collection_that_cannot_exist_is_not_created() {
    let kinto = Kinto::with(&[DEFAULT_BUCKET]);
    for path in ["/collections/a.b", "/collections/a.b/records"] {
        let answer = kinto.get(&format!("/buckets/default{path}")).await;
        assert_eq!(answer.error(), (400, 107));
        assert_eq!(answer.body["message"], "path: Invalid collection id");
    }
}

#[tokio::test]
async fn pages_of_the_default_bucket_lead_to_the_bucket_itself() {
    let kinto = Kinto::with(&[DEFAULT_BUCKET, EMPTY_KEY]).as_user(AB);
    let records = "/buckets/default/collections/c/records";
    for _ in 0..2 {
        assert_eq!(kinto.post(records, json!({})).await.status, 201);
    }
    let page = kinto.get(&format!("{records}?_limit=1")).await;
    let next = page.header("next-page");
    let path = format!("/v1/buckets/{BUCKET_OF_AB}/collections/c/records?");
    assert!(
        next.starts_with(&format!("http://kinto.test{path}")),
        "{next}"
    );
}

#[tokio::test]
async fn a_batch_works_in_the_default_bucket() {
    let kinto = Kinto::with(&[DEFAULT_BUCKET, EMPTY_KEY]).as_user(AB);
    let records = "/buckets/default/collections/c/records";
    let put = |id: &str| json!({"method": "PUT", "path": format!("{records}/{id}")});
    let batch = json!({"requests": [
        put("r1"), put("r2"), {"path": records}, {"path": "/buckets/default"},
        {"path": "/buckets/default", "headers": {"Authorization": ""}},
    ]});
    kinto.aws.requests().take();
    let answer = kinto.post("/batch", batch).await;
    let responses = answer.body["responses"].as_array().unwrap();
    let statuses: Vec<_> = responses
        .iter()
        .map(|response| &response["status"])
        .collect();
    assert_eq!(statuses, [201, 201, 200, 200, 401]);
    assert_eq!(responses[2]["path"], format!("/v1{records}"));
    assert_eq!(responses[2]["body"]["data"].as_array().unwrap().len(), 2);
    assert_eq!(responses[3]["body"]["data"]["id"], BUCKET_OF_AB);
    assert_eq!(kinto.aws.requests().of("TransactWriteItems"), 1);
}

#[tokio::test]
async fn the_default_bucket_costs_a_round_trip_more_only_while_it_is_created() {
    let kinto = Kinto::with(&[DEFAULT_BUCKET]);
    let requests = kinto.aws.requests();
    let record = "/buckets/default/collections/c/records/r";
    for (method, reads, writes) in [("PUT", 2, 1), ("PUT", 1, 1), ("GET", 1, 0)] {
        requests.take();
        assert!(kinto.send(method, record, &[], "").await.status < 300);
        assert_eq!(requests.of("BatchGetItem"), reads, "{method}");
        assert_eq!(requests.of("TransactWriteItems"), writes, "{method}");
        assert_eq!(requests.total(), reads + writes, "{method}");
    }
}

#[tokio::test]
async fn parallel_first_requests_create_one_default_bucket() {
    let kinto = Kinto::with(&[DEFAULT_BUCKET]);
    let gets = (0..8).map(|_| kinto.get("/buckets/default/collections/c"));
    let answers = futures::future::join_all(gets).await;
    let first = &answers[0].body;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(answers.iter().all(|answer| answer.body == *first));
}

#[tokio::test]
async fn the_default_bucket_of_a_readonly_server_cannot_be_asked_for() {
    let kinto = Kinto::with(&[DEFAULT_BUCKET, ("KINTO_READONLY", "true")]);
    assert_eq!(kinto.get("/buckets/default").await.error(), (405, 115));
    assert_eq!(kinto.as_user(ALICE).get("/buckets").await.status, 200);
}
