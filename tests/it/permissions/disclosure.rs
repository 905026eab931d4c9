//! Attacks: facts that a user must not learn (docs/limits.md).

use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tests::{Answer, Kinto, NOBODY, RECORD, RECORDS};

/// Anybody may create an account; `admin` may do everything.
const ACCOUNTS: [(&str, &str); 5] = [
    ("KINTO_INCLUDES", "kinto.plugins.accounts"),
    ("MULTIAUTH_POLICIES", "account basicauth"),
    (
        "MULTIAUTH_POLICY_ACCOUNT_USE",
        "kinto.plugins.accounts.AccountsPolicy",
    ),
    ("KINTO_ACCOUNT_CREATE_PRINCIPALS", "system.Everyone"),
    ("KINTO_ACCOUNT_WRITE_PRINCIPALS", "account:admin"),
];

/// `admin:secret`.
const ADMINS: &str = "Basic YWRtaW46c2VjcmV0";

/// `alice:secret`.
const ALICES: &str = "Basic YWxpY2U6c2VjcmV0";

fn tells_nothing(answer: &Answer) {
    let text = format!("{:?} {:?}", answer.body, answer.headers);
    assert!(!text.contains("42") && !text.contains("$2b$"), "{text}");
}

#[tokio::test]
async fn who_may_only_create_learns_nothing_of_what_there_is() {
    let (kinto, bob) = Kinto::with_creator().await;
    let if_absent = [("if-none-match", "*")];
    let refused = bob.send("PUT", RECORD, &if_absent, "").await;
    assert_eq!(refused.error(), (412, 114));
    assert_eq!(refused.body["details"], Value::Null);
    assert_eq!(refused.header("etag"), "");
    assert_eq!(refused.header("last-modified"), "");
    let request = json!({"method": "PUT", "path": RECORD, "headers": {"If-None-Match": "*"}});
    let batch = bob.post("/batch", json!({"requests": [request]})).await;
    let inner = &batch.body["responses"][0];
    assert_eq!(inner["status"], 412);
    assert_eq!(inner["body"]["details"], Value::Null);
    assert_eq!(inner["headers"]["ETag"], Value::Null);
    let posted = bob.post(RECORDS, json!({"data": {"id": "r1"}})).await;
    assert_eq!(posted.status, 403);
    for answer in [refused, batch, posted, bob.get(RECORD).await] {
        tells_nothing(&answer);
    }
    // Anybody may create buckets.
    let data = json!({"data": {"secret": "42"}});
    assert_eq!(kinto.put("/buckets/mine", data).await.status, 201);
    let refused = bob.send("PUT", "/buckets/mine", &if_absent, "").await;
    assert_eq!(refused.error(), (412, 114));
    tells_nothing(&refused);
}

#[tokio::test]
async fn who_may_read_is_shown_what_there_is() {
    let (kinto, bob) = Kinto::with_creator().await;
    let if_absent = [("if-none-match", "*")];
    let refused = kinto.send("PUT", RECORD, &if_absent, "").await;
    assert_eq!(refused.error(), (412, 114));
    assert_eq!(refused.body["details"]["existing"]["secret"], "42");
    assert_eq!(
        refused.header("etag"),
        kinto.get(RECORD).await.header("etag")
    );
    let read = json!({"permissions": {"read": [bob.user_id().await]}});
    assert_eq!(kinto.patch(RECORD, read).await.status, 200);
    let refused = bob.send("PUT", RECORD, &if_absent, "").await;
    assert_eq!(refused.body["details"]["existing"]["secret"], "42");
}

#[tokio::test]
async fn the_hash_of_a_password_is_in_no_answer() {
    let nobody = Kinto::with(&ACCOUNTS).as_user(NOBODY);
    let secret = json!({"data": {"password": "secret"}});
    let mut answers = vec![];
    for id in ["admin", "alice"] {
        let created = nobody.put(&format!("/accounts/{id}"), secret.clone()).await;
        assert_eq!(created.status, 201);
        answers.push(created);
    }
    let if_absent = [("if-none-match", "*")];
    let body = secret.to_string();
    let (admin, alice) = (nobody.as_user(ADMINS), nobody.as_user(ALICES));
    for user in [&nobody, &alice, &admin] {
        for id in ["admin", "alice"] {
            let path = format!("/accounts/{id}");
            answers.push(user.send("PUT", &path, &if_absent, &body).await);
        }
    }
    let json_patch = [("content-type", "application/json-patch+json")];
    let copied = r#"[{"op": "copy", "from": "/data/password", "path": "/data/x"}]"#;
    let refused = alice
        .send("PATCH", "/accounts/alice", &json_patch, copied)
        .await;
    assert_eq!(refused.status, 400);
    let posted = json!({"data": {"id": "alice", "password": "secret"}});
    answers.push(alice.post("/accounts", posted).await);
    for behavior in ["full", "light", "diff"] {
        let headers = [("response-behavior", behavior)];
        let path = "/accounts/alice";
        answers.push(alice.send("PATCH", path, &headers, &body).await);
    }
    let stale = [("if-match", "\"1\"")];
    for method in ["PUT", "PATCH", "DELETE", "GET"] {
        answers.push(alice.send(method, "/accounts/alice", &stale, &body).await);
    }
    for path in [
        "/accounts",
        "/accounts?_fields=password",
        "/accounts?_since=1",
        "/accounts?_sort=password&_limit=1",
        "/accounts/alice",
        "/accounts/alice?_fields=password",
    ] {
        answers.push(admin.get(path).await);
        answers.push(alice.get(path).await);
    }
    let requests = json!([{"path": "/accounts"}, {"path": "/accounts/alice"}]);
    answers.push(admin.post("/batch", json!({"requests": requests})).await);
    for answer in answers {
        let text = answer.body.to_string();
        assert!(
            !text.contains("$2b$") && !text.contains("password"),
            "{text}"
        );
        assert!(!answer.header("next-page").contains("JDJi"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_filter_tells_nothing_of_a_password() {
    let nobody = Kinto::with(&ACCOUNTS).as_user(NOBODY);
    let secret = json!({"data": {"password": "secret"}});
    for id in ["admin", "alice"] {
        nobody.put(&format!("/accounts/{id}"), secret.clone()).await;
    }
    let admin = nobody.as_user(ADMINS);
    for filter in ["like_password=$2b", "has_password=true", "lt_password=9"] {
        let list = admin.get(&format!("/accounts?{filter}")).await;
        assert_eq!(list.body["data"], json!([]), "{filter}");
    }
}

#[tokio::test]
async fn an_account_keeps_its_password_through_what_does_not_name_it() {
    let kinto = Kinto::with(&ACCOUNTS).as_user(NOBODY);
    let secret = json!({"data": {"password": "secret"}});
    kinto.put("/accounts/alice", secret).await;
    let alice = kinto.as_user(ALICES);
    for (media_type, body) in [
        ("application/json", r#"{"data": {"a": 1}}"#),
        ("application/merge-patch+json", r#"{"data": {"b": 1}}"#),
        (
            "application/json-patch+json",
            r#"[{"op": "add", "path": "/data/c", "value": 1}]"#,
        ),
    ] {
        let header = [("content-type", media_type)];
        let patched = alice.send("PATCH", "/accounts/alice", &header, body).await;
        assert_eq!(patched.status, 200, "{patched:?}");
    }
    let header = [("content-type", "application/merge-patch+json")];
    let body = r#"{"data": {"password": null}}"#;
    let refused = alice.send("PATCH", "/accounts/alice", &header, body).await;
    assert_eq!(refused.error(), (400, 107));
    assert_eq!(alice.user_id().await, "account:alice");
}

#[tokio::test]
async fn a_changeset_is_for_those_who_may_read_the_records() {
    let (kinto, bob) = Kinto::with_creator().await;
    let changeset = "/buckets/main/collections/one/changeset?_expected=1";
    // Bob may read the collection, but none of its records.
    assert_eq!(bob.get("/buckets/main/collections/one").await.status, 200);
    assert_eq!(bob.get(changeset).await.error(), (403, 121));
    let bob_id = bob.user_id().await;
    // One record that is shared with him is not all of them.
    let read = json!({"permissions": {"read": [bob_id]}});
    assert_eq!(kinto.patch(RECORD, read.clone()).await.status, 200);
    assert_eq!(bob.get(changeset).await.error(), (403, 121));
    kinto.patch("/buckets/main/collections/one", read).await;
    assert_eq!(bob.get(changeset).await.status, 200);
    let settings = [("KINTO_RECORD_READ_PRINCIPALS", "system.Everyone")];
    let open = Kinto::over(&kinto.aws, &settings).as_user(NOBODY);
    // Everybody may read its records, but not the collection itself.
    assert_eq!(open.get(changeset).await.error(), (401, 104));
}

#[tokio::test]
async fn the_default_bucket_of_another_user_cannot_be_guessed() {
    let include = ("KINTO_INCLUDES", "kinto.plugins.default_bucket");
    let kinto = Kinto::with(&[include]);
    let user = kinto.get("/").await.body["user"].clone();
    let unsalted = Kinto::with(&[include, ("KINTO_DEFAULT_BUCKET_HMAC_SECRET", "")]);
    // Under the empty key, which everybody knows, and which is Kinto's default.
    assert_ne!(
        unsalted.get("/").await.body["user"]["bucket"],
        user["bucket"]
    );
    // Nor by making it a user id: the id of these credentials is the HMAC of `basicauth:…`.
    let id = user["id"].as_str().unwrap();
    let credentials = BASE64_STANDARD.encode(id);
    let header = format!("Basic {credentials}");
    let other = kinto
        .send("GET", "/", &[("authorization", &header)], "")
        .await;
    let other = other.body["user"]["id"].as_str().unwrap().replace('-', "");
    let bucket = user["bucket"].as_str().unwrap().replace('-', "");
    assert!(!other.contains(&bucket), "{other} {bucket}");
}

#[tokio::test]
async fn where_the_settings_let_nobody_create_buckets_nobody_does() {
    let kinto = Kinto::with(&[("KINTO_BUCKET_CREATE_PRINCIPALS", "")]);
    assert_eq!(kinto.put("/buckets/a", json!({})).await.error(), (403, 121));
}

#[tokio::test]
async fn the_bucket_of_the_changes_feed_cannot_be_posted() {
    let kinto = Kinto::new();
    let body = json!({"data": {"id": "monitor"}});
    let refused = kinto.post("/buckets", body.clone()).await;
    assert_eq!(refused.error(), (403, 121));
    let requests = json!([
        {"method": "POST", "path": "/buckets", "body": body},
        {"method": "PUT", "path": "/buckets/monitor"},
        {"method": "POST", "path": "/buckets/monitor/collections", "body": {"data": {"id": "changes"}}},
        {"method": "PUT", "path": "/buckets/monitor/collections/changes"},
    ]);
    let batch = kinto.post("/batch", json!({"requests": requests})).await;
    for response in batch.body["responses"].as_array().unwrap() {
        assert_eq!(response["status"], 403, "{response}");
    }
    assert_eq!(kinto.get("/buckets").await.body["data"], json!([]));
}

#[tokio::test]
async fn what_is_kept_of_an_answer_to_a_user_is_kept_for_that_user_alone() {
    let settings = [
        ("KINTO_MAIN_ONE_RECORD_CACHE_EXPIRES_SECONDS", "60"),
        ("KINTO_MONITOR_CHANGES_RECORD_CACHE_EXPIRES_SECONDS", "60"),
        ("KINTO_CHANGES_SINCE_MAX_AGE_DAYS", "21"),
    ];
    let kinto = Kinto::with(&settings);
    let open = json!({"permissions": {"read": ["system.Everyone"]}});
    assert_eq!(kinto.put("/buckets/main", open).await.status, 201);
    kinto.put("/buckets/main/collections/one", json!({})).await;
    let monitor = "/buckets/monitor/collections/changes";
    let changeset = "/buckets/main/collections/one/changeset?_expected=1";
    // Redirects are the same for everybody; their targets are not.
    for (path, seconds, is_redirect) in [
        (changeset, 60, false),
        (&*format!("{monitor}/records"), 60, false),
        (&*format!("{monitor}/changeset?_expected=1"), 60, false),
        (&*format!("{monitor}/records?_since=1"), 86_400, true),
        ("/buckets/main/", 3600, true),
    ] {
        let kept = format!("max-age={seconds}");
        let anonymous = kinto.as_user(NOBODY).get(path).await;
        assert_eq!(anonymous.header("cache-control"), kept, "{path}");
        let authenticated = kinto.get(path).await;
        let kept = match is_redirect {
            true => format!("private, {kept}"),
            false => "no-cache, no-store".to_owned(),
        };
        assert_eq!(authenticated.header("cache-control"), kept, "{path}");
    }
    let readonly = Kinto::over(&kinto.aws, &[("KINTO_READONLY", "true")]);
    let hello = readonly.get("/").await;
    assert_eq!(hello.header("cache-control"), "no-cache, no-store");
}

#[tokio::test]
async fn the_time_of_an_answer_does_not_tell_which_accounts_there_are() {
    let kinto = Kinto::with(&ACCOUNTS).as_user(NOBODY);
    let secret = json!({"data": {"password": "secret"}});
    assert_eq!(kinto.put("/accounts/alice", secret).await.status, 201);
    let time = async |user: &str| {
        let credentials = BASE64_STANDARD.encode(user);
        let header = format!("Basic {credentials}");
        let begin = Instant::now();
        kinto
            .send("GET", "/", &[("authorization", &header)], "")
            .await;
        begin.elapsed()
    };
    // A hash check takes thousands of times as long as all the rest; any factor in between distinguishes them.
    let known = time("alice:wrong").await;
    for unknown in ["bob:wrong", "carol:wrong"] {
        let unknown = time(unknown).await;
        assert!(unknown > known / 10, "{unknown:?} {known:?}");
    }
    // The outcome is cached for both.
    assert!(time("alice:wrong").await < known / 10);
    assert!(time("bob:wrong").await < known / 10);
}
