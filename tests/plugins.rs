//! Kinto's plugins: what they add when `includes` names them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::time::Duration;

use kinto_local::{Options, Stack};
use kinto_serverless::settings::Vars;
use serde_json::{Value, json};
use tests::{ALICE, Answer, BOB, Kinto, NOBODY};

const DEFAULT_BUCKET: (&str, &str) = ("KINTO_INCLUDES", "kinto.plugins.default_bucket");
/// As a Kinto that does not set it.
const EMPTY_KEY: (&str, &str) = ("KINTO_DEFAULT_BUCKET_HMAC_SECRET", "");
const FLUSH: (&str, &str) = ("KINTO_INCLUDES", "kinto.plugins.flush");
/// `a:b`.
const AB: &str = "Basic YTpi";
/// The id of the own bucket of `a:b`, as Kinto 26.5 has it with the secrets of the tests and [`EMPTY_KEY`].
const BUCKET_OF_AB: &str = "e1256f60-790d-e248-c3a6-6cfcddb69adf";

/// The ids of the objects in a list.
fn ids(list: &Answer) -> Vec<&str> {
    let objects = list.body["data"].as_array().unwrap().iter();
    objects
        .map(|object| object["id"].as_str().unwrap())
        .collect()
}

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
    // An id like any other.
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
    // To be asked for it needs no permission of its own.
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
    // Nothing is left to be removed.
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

/// Anybody may make an account; `admin` may do all with all.
const ACCOUNTS: [(&str, &str); 5] = [
    (
        "KINTO_INCLUDES",
        "kinto.plugins.accounts kinto.plugins.default_bucket kinto.plugins.flush",
    ),
    ("MULTIAUTH_POLICIES", "account basicauth"),
    (
        "MULTIAUTH_POLICY_ACCOUNT_USE",
        "kinto.plugins.accounts.AccountsPolicy",
    ),
    ("KINTO_ACCOUNT_CREATE_PRINCIPALS", "system.Everyone"),
    ("KINTO_ACCOUNT_WRITE_PRINCIPALS", "account:admin"),
];
/// `alice:secret`.
const ALICES: &str = "Basic YWxpY2U6c2VjcmV0";
/// `carol:secret`.
const CAROLS: &str = "Basic Y2Fyb2w6c2VjcmV0";
/// `admin:secret`.
const ADMINS: &str = "Basic YWRtaW46c2VjcmV0";
/// `alice:changed`.
const ALICES_NEXT: &str = "Basic YWxpY2U6Y2hhbmdlZA==";

fn password(password: &str) -> Value {
    json!({"data": {"password": password}})
}

async fn user_id(kinto: &Kinto) -> Value {
    kinto.get("/").await.body["user"]["id"].clone()
}

/// With accounts of these ids, each with the password `secret`; called as nobody.
async fn with_accounts(ids: &[&str]) -> Kinto {
    let kinto = Kinto::with(&ACCOUNTS).as_user(NOBODY);
    for id in ids {
        let created = kinto
            .put(&format!("/accounts/{id}"), password("secret"))
            .await;
        assert_eq!(created.status, 201, "{created:?}");
    }
    kinto
}

#[tokio::test]
async fn who_signs_up_is_a_user_from_then_on() {
    let vars: Vec<_> = ACCOUNTS.into_iter().chain([EMPTY_KEY]).collect();
    let kinto = Kinto::with(&vars).as_user(NOBODY);
    let hello = kinto.get("/").await.body;
    assert_eq!(
        hello["capabilities"]["accounts"]["validation_enabled"],
        false
    );
    // Before there is the account, its name and password are those of another user.
    let before = user_id(&kinto.as_user(ALICES)).await;
    assert!(before.as_str().unwrap().starts_with("basicauth:"));

    let body = json!({"data": {"password": "secret", "a": 1}});
    let created = kinto.put("/accounts/alice", body).await;
    assert_eq!(created.status, 201);
    let data = &created.body["data"];
    assert_eq!((&data["id"], &data["a"]), (&json!("alice"), &json!(1)));
    assert_eq!(data.get("password"), None);
    assert_eq!(
        created.body["permissions"],
        json!({"write": ["account:alice"]})
    );

    let alice = kinto.as_user(ALICES);
    let user = alice.get("/").await.body["user"].clone();
    // As Kinto 26.5 with the secrets of the tests.
    assert_eq!(
        user,
        json!({
            "id": "account:alice",
            "principals": ["account:alice", "system.Everyone", "system.Authenticated"],
            "bucket": "73141b75-6d02-0c03-6aee-82ad1ea55d41",
        })
    );
    assert_eq!(alice.get("/accounts/alice").await.body, created.body);
    assert_eq!(ids(&alice.get("/accounts").await), ["alice"]);
    let bucket = alice.get("/buckets/default").await;
    assert_eq!(
        bucket.body["permissions"],
        json!({"write": ["account:alice"]})
    );
}

#[tokio::test]
async fn a_wrong_password_leaves_the_user_to_the_next_policy() {
    let kinto = with_accounts(&["alice"]).await.as_user(ALICES_NEXT);
    let id = user_id(&kinto).await;
    assert!(id.as_str().unwrap().starts_with("basicauth:"), "{id}");
    assert_eq!(kinto.get("/accounts/alice").await.error(), (403, 121));
    assert_eq!(kinto.get("/accounts").await.body["data"], json!([]));

    let [includes, _, used, create, write] = ACCOUNTS;
    let policies = ("MULTIAUTH_POLICIES", "account");
    let kinto = Kinto::with(&[includes, policies, used, create, write]);
    kinto.put("/accounts/alice", password("secret")).await;
    let hello = kinto.as_user(ALICES_NEXT).get("/").await.body;
    assert_eq!(hello["user"], Value::Null);
    assert_eq!(hello["capabilities"]["basicauth"], Value::Null);
    assert_eq!(user_id(&kinto.as_user(ALICES)).await, "account:alice");
}

#[tokio::test]
async fn accounts_are_posted_under_the_id_that_they_give() {
    let kinto = with_accounts(&[]).await;
    let post = async |kinto: &Kinto, data: Value| {
        let answer = kinto.post("/accounts", json!({"data": data})).await;
        (answer.status, answer.body)
    };
    let (status, created) = post(&kinto, json!({"id": "me@x.org", "password": "a"})).await;
    assert_eq!((status, &created["data"]["id"]), (201, &json!("me@x.org")));
    let (status, refused) = post(&kinto, json!({"password": "a"})).await;
    assert_eq!((status, &refused["errno"]), (400, &json!(107)));
    assert_eq!(refused["details"][0]["name"], "data.id");

    let carol = json!({"id": "carol", "password": "secret"});
    assert_eq!(post(&kinto, carol.clone()).await.0, 201);
    assert_eq!(post(&kinto, carol.clone()).await.0, 401);
    assert_eq!(post(&kinto.as_user(CAROLS), carol).await.0, 200);
    let other = json!({"id": "dave", "password": "a"});
    assert_eq!(post(&kinto.as_user(CAROLS), other).await.0, 400);
}

#[tokio::test]
async fn what_is_wrong_with_an_account_is_said() {
    let kinto = with_accounts(&[]).await;
    let long = "é".repeat(37);
    for (path, body, name) in [
        ("/accounts/alice", json!({}), "data"),
        ("/accounts/alice", json!({"permissions": {}}), "data"),
        (
            "/accounts/alice",
            json!({"data": {"a": 1}}),
            "data.password",
        ),
        ("/accounts/alice", password(""), "data.password"),
        ("/accounts/alice", password(&long), "data.password"),
        (
            "/accounts/alice",
            json!({"data": {"password": 3}}),
            "data.password",
        ),
    ] {
        let answer = kinto.put(path, body.clone()).await;
        assert_eq!(answer.error(), (400, 107), "{body}");
        assert_eq!(answer.body["details"][0]["name"], name, "{body}");
    }
    for id in ["a,b", "@a", "a b"] {
        let answer = kinto.put(&format!("/accounts/{id}"), password("a")).await;
        assert_eq!(answer.error(), (400, 107), "{id}");
        assert_eq!(answer.body["message"], "path: Invalid object id");
    }
    // An id like any other among accounts.
    for id in ["monitor", "default"] {
        let answer = kinto.put(&format!("/accounts/{id}"), password("a")).await;
        assert_eq!(answer.status, 201, "{id}");
    }
    let patch = kinto.as_user(ALICES);
    kinto.put("/accounts/alice", password("secret")).await;
    for wrong in [json!(""), json!(null), json!(long)] {
        let body = json!({"data": {"password": wrong}});
        let answer = patch.patch("/accounts/alice", body).await;
        assert_eq!(answer.error(), (400, 107), "{wrong}");
    }
}

#[tokio::test]
async fn nobody_sees_or_takes_over_an_account() {
    let kinto = with_accounts(&["alice"]).await;
    for (method, path) in [
        ("GET", "/accounts"),
        ("DELETE", "/accounts"),
        ("GET", "/accounts/alice"),
        ("GET", "/accounts/zed"),
        ("PUT", "/accounts/alice"),
        ("PATCH", "/accounts/alice"),
        ("DELETE", "/accounts/alice"),
    ] {
        let body = password("changed").to_string();
        let answer = kinto.send(method, path, &[], &body).await;
        assert_eq!(answer.error(), (401, 104), "{method} {path}");
    }
    assert_eq!(user_id(&kinto.as_user(ALICES)).await, "account:alice");
}

#[tokio::test]
async fn a_user_has_their_own_account_alone() {
    let kinto = with_accounts(&["alice", "carol"]).await;
    let alice = kinto.as_user(ALICES);
    for (method, path, status) in [
        ("GET", "/accounts/carol", 403),
        ("GET", "/accounts/zed", 403),
        ("PUT", "/accounts/carol", 400),
        ("PATCH", "/accounts/carol", 403),
        ("DELETE", "/accounts/carol", 403),
        ("PUT", "/accounts/bob", 400),
    ] {
        let body = password("x").to_string();
        let answer = alice.send(method, path, &[], &body).await;
        assert_eq!(answer.status, status, "{method} {path}");
    }
    // Not even one that is shared with them, as in Kinto.
    let shared = json!({"permissions": {"write": ["account:alice"]}});
    let answer = kinto.as_user(CAROLS).patch("/accounts/carol", shared).await;
    assert_eq!(answer.status, 200);
    assert_eq!(alice.get("/accounts/carol").await.error(), (404, 110));
    assert_eq!(
        alice.put("/accounts/carol", password("x")).await.error(),
        (400, 107)
    );
    assert_eq!(alice.delete("/accounts/carol").await.error(), (404, 110));
    assert_eq!(ids(&alice.get("/accounts").await), ["alice"]);

    // Another user of the same name, whom the next policy knows.
    let basic = kinto.put("/accounts/bob", password("x")).await;
    assert_eq!(basic.status, 201);
    let bob = kinto.as_user(BOB);
    assert_eq!(bob.get("/accounts/bob").await.status, 403);
    assert_eq!(bob.put("/accounts/eve", password("x")).await.status, 400);

    assert_eq!(ids(&alice.delete("/accounts").await), ["alice"]);
    assert_eq!(user_id(&kinto.as_user(CAROLS)).await, "account:carol");
}

#[tokio::test]
async fn a_password_that_is_changed_holds_at_once_and_no_other_change_touches_it() {
    let kinto = with_accounts(&["alice"]).await;
    let (alice, next) = (kinto.as_user(ALICES), kinto.as_user(ALICES_NEXT));
    let more = json!({"data": {"a": 1}});
    let patched = alice.patch("/accounts/alice", more).await;
    assert_eq!(patched.status, 200);
    assert_eq!(user_id(&alice).await, "account:alice");

    let patched = alice.patch("/accounts/alice", password("changed")).await;
    assert_eq!(patched.status, 200);
    assert_eq!(alice.get("/accounts/alice").await.status, 403);
    assert_eq!(next.get("/accounts/alice").await.status, 200);

    let operations = r#"[{"op": "replace", "path": "/data/password", "value": "secret"}]"#;
    let json_patch = [("content-type", "application/json-patch+json")];
    let path = "/accounts/alice";
    let patched = next.send("PATCH", path, &json_patch, operations).await;
    assert_eq!(patched.status, 200);
    assert_eq!(next.get(path).await.status, 403);
    assert_eq!(alice.get(path).await.status, 200);

    assert_eq!(alice.delete(path).await.status, 200);
    assert_ne!(user_id(&alice).await, "account:alice");
}

#[tokio::test]
async fn administrators_have_all_accounts() {
    let kinto = with_accounts(&["admin", "alice"]).await;
    let admin = kinto.as_user(ADMINS);
    let created = admin.put("/accounts/carol", password("secret")).await;
    assert_eq!(created.status, 201);
    assert_eq!(
        created.body["permissions"],
        json!({"write": ["account:carol"]})
    );
    let posted = json!({"data": {"id": "dave", "password": "x"}});
    assert_eq!(admin.post("/accounts", posted).await.status, 201);
    // To write all is not to list all (Kinto 26.5): account_read_principals would be.
    let listed = admin.get("/accounts?_sort=id").await;
    assert_eq!(ids(&listed), ["admin"]);
    let changed = admin.put("/accounts/alice", password("changed")).await;
    assert_eq!(changed.status, 200);
    assert_eq!(user_id(&kinto.as_user(ALICES_NEXT)).await, "account:alice");
    assert_eq!(admin.get("/accounts/zed").await.error(), (404, 110));
    assert_eq!(admin.delete("/accounts/carol").await.status, 200);
    assert_eq!(ids(&admin.delete("/accounts").await).len(), 3);
    assert_ne!(user_id(&admin).await, "account:admin");
}

#[tokio::test]
async fn who_may_read_all_accounts_lists_them() {
    let read = ("KINTO_ACCOUNT_READ_PRINCIPALS", "account:admin");
    let settings: Vec<_> = ACCOUNTS.into_iter().chain([read]).collect();
    let kinto = Kinto::with(&settings);
    let nobody = kinto.as_user(NOBODY);
    for id in ["admin", "alice"] {
        nobody
            .put(&format!("/accounts/{id}"), password("secret"))
            .await;
    }
    let all = kinto.as_user(ADMINS).get("/accounts?_sort=id").await;
    assert_eq!(ids(&all), ["admin", "alice"]);
}

#[tokio::test]
async fn accounts_are_made_by_those_alone_whom_the_settings_allow_it() {
    let [includes, policies, used, _, write] = ACCOUNTS;
    let kinto = Kinto::with(&[includes, policies, used, write]);
    let nobody = kinto.as_user(NOBODY);
    let answer = nobody.put("/accounts/alice", password("a")).await;
    assert_eq!(answer.error(), (401, 104));
    let answer = kinto.put("/accounts/alice", password("a")).await;
    assert_eq!(answer.error(), (403, 121));
}

#[tokio::test]
async fn a_group_has_accounts_as_members() {
    let kinto = with_accounts(&["alice", "carol"]).await;
    let (alice, carol) = (kinto.as_user(ALICES), kinto.as_user(CAROLS));
    assert_eq!(alice.put("/buckets/a", json!({})).await.status, 201);
    let members = json!({"data": {"members": ["account:carol"]}});
    alice.put("/buckets/a/groups/g", members).await;
    let shared = json!({"permissions": {"read": ["/buckets/a/groups/g"]}});
    alice.patch("/buckets/a", shared).await;
    assert_eq!(carol.get("/buckets/a").await.status, 200);
    assert_eq!(kinto.as_user(BOB).get("/buckets/a").await.status, 403);
}

#[tokio::test]
async fn an_account_costs_no_round_trip_of_its_own() {
    let alice = with_accounts(&["alice"]).await.as_user(ALICES);
    let requests = alice.aws.requests();
    for (path, writes) in [("/buckets/a", 1), ("/buckets/a", 1), ("/accounts/alice", 1)] {
        requests.take();
        assert!(alice.put(path, password("secret")).await.status < 300);
        assert_eq!(requests.of("BatchGetItem"), 1, "{path}");
        assert_eq!(requests.of("TransactWriteItems"), writes, "{path}");
        assert_eq!(requests.total(), 1 + writes, "{path}");
    }
}

#[tokio::test]
async fn an_account_made_in_a_batch_can_be_used_in_it() {
    let kinto = with_accounts(&[]).await;
    let batch = json!({"requests": [
        {"method": "PUT", "path": "/accounts/alice", "body": password("secret")},
        {"method": "PUT", "path": "/buckets/a", "headers": {"Authorization": ALICES}},
        {"path": "/accounts/alice", "headers": {"Authorization": ALICES}},
    ]});
    let answer = kinto.post("/batch", batch).await;
    let responses = answer.body["responses"].as_array().unwrap();
    let statuses: Vec<_> = responses
        .iter()
        .map(|response| &response["status"])
        .collect();
    assert_eq!(statuses, [201, 201, 200]);
    assert_eq!(
        responses[1]["body"]["permissions"],
        json!({"write": ["account:alice"]})
    );
}

#[tokio::test]
async fn a_flush_removes_the_accounts() {
    let kinto = with_accounts(&["alice"]).await;
    assert_eq!(user_id(&kinto.as_user(ALICES)).await, "account:alice");
    assert_eq!(kinto.post("/__flush__", json!({})).await.status, 202);
    assert_ne!(user_id(&kinto.as_user(ALICES)).await, "account:alice");
    let again = kinto.put("/accounts/alice", password("changed")).await;
    assert_eq!(again.status, 201);
    assert_ne!(user_id(&kinto.as_user(ALICES)).await, "account:alice");
}

#[tokio::test]
async fn the_permissions_endpoint_lists_ones_own_account_and_that_one_may_create_accounts() {
    let mut vars = ACCOUNTS.to_vec();
    vars.push(("KINTO_EXPERIMENTAL_PERMISSIONS_ENDPOINT", "true"));
    vars.push(("KINTO_ACCOUNT_CREATE_PRINCIPALS", "system.Everyone"));
    let nobody = Kinto::with(&vars).as_user(NOBODY);
    for id in ["alice", "bob"] {
        let body = json!({"data": {"password": "secret"}});
        assert_eq!(
            nobody.put(&format!("/accounts/{id}"), body).await.status,
            201
        );
    }
    let listed = nobody
        .as_user("Basic YWxpY2U6c2VjcmV0")
        .get("/permissions")
        .await;
    assert_eq!(
        listed.body["data"],
        json!([
            {
                "uri": "/accounts/alice", "resource_name": "account", "id": "alice", "account_id": "alice",
                "permissions": ["read", "write"],
            },
            {"uri": "/", "resource_name": "root", "permissions": ["bucket:create", "account:create"]},
        ])
    );
}
