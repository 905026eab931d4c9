//! Attacks: what nobody may learn, and what no request may do to the requests of others (docs/limits.md).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, UNIX_EPOCH};

use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kinto_local::Fault;
use kinto_serverless::resource::ObjectUri;
use kinto_serverless::store::membership::Member;
use kinto_serverless::store::{Item, Key};
use serde_json::{Value, json};
use tests::{ALICE, Answer, BOB, Kinto, NOBODY, TABLE};

const DAY: u64 = 24 * 60 * 60 * 1000;
const GROUP: &str = "/buckets/main/groups/g";
const RECORDS: &str = "/buckets/main/collections/one/records";
const RECORD: &str = "/buckets/main/collections/one/records/r1";

/// Anybody may make an account; `admin` may do all with all.
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

fn now() -> u64 {
    u64::try_from(UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap()
}

async fn id_of(kinto: &Kinto) -> String {
    let hello = kinto.get("/").await.body;
    hello["user"]["id"].as_str().unwrap().to_owned()
}

fn members<S: AsRef<str>>(members: &[S]) -> Value {
    let members: Vec<_> = members.iter().map(AsRef::as_ref).collect();
    json!({"data": {"members": members}})
}

fn many(n: usize) -> Vec<String> {
    (0..n).map(|n| format!("account:{n}")).collect()
}

/// A collection of alice's with a record, in which bob may create records and nothing else.
async fn with_a_creator() -> (Kinto, Kinto) {
    let kinto = Kinto::with_collection().await;
    let bob = kinto.as_user(BOB);
    let create = json!({"permissions": {"record:create": [id_of(&bob).await]}});
    let collection = "/buckets/main/collections/one";
    assert_eq!(kinto.patch(collection, create).await.status, 200);
    let secret = json!({"data": {"secret": "42"}});
    assert_eq!(kinto.put(RECORD, secret).await.status, 201);
    (kinto, bob)
}

fn tells_nothing(answer: &Answer) {
    let text = format!("{:?} {:?}", answer.body, answer.headers);
    assert!(!text.contains("42") && !text.contains("$2b$"), "{text}");
}

// ---- Disclosure

#[tokio::test]
async fn who_may_only_create_learns_nothing_of_what_there_is() {
    let (kinto, bob) = with_a_creator().await;
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
    // Buckets can be created by anybody.
    let data = json!({"data": {"secret": "42"}});
    assert_eq!(kinto.put("/buckets/mine", data).await.status, 201);
    let refused = bob.send("PUT", "/buckets/mine", &if_absent, "").await;
    assert_eq!(refused.error(), (412, 114));
    tells_nothing(&refused);
}

#[tokio::test]
async fn who_may_read_is_shown_what_there_is() {
    let (kinto, bob) = with_a_creator().await;
    let if_absent = [("if-none-match", "*")];
    let refused = kinto.send("PUT", RECORD, &if_absent, "").await;
    assert_eq!(refused.error(), (412, 114));
    assert_eq!(refused.body["details"]["existing"]["secret"], "42");
    assert_eq!(
        refused.header("etag"),
        kinto.get(RECORD).await.header("etag")
    );
    let read = json!({"permissions": {"read": [id_of(&bob).await]}});
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
    assert_eq!(id_of(&alice).await, "account:alice");
}

#[tokio::test]
async fn a_changeset_is_for_those_who_may_read_the_records() {
    let (kinto, bob) = with_a_creator().await;
    let changeset = "/buckets/main/collections/one/changeset?_expected=1";
    // Bob may read the collection, none of its records.
    assert_eq!(bob.get("/buckets/main/collections/one").await.status, 200);
    assert_eq!(bob.get(changeset).await.error(), (403, 121));
    let bob_id = id_of(&bob).await;
    // One that is shared with him is not all of them.
    let read = json!({"permissions": {"read": [bob_id]}});
    assert_eq!(kinto.patch(RECORD, read.clone()).await.status, 200);
    assert_eq!(bob.get(changeset).await.error(), (403, 121));
    kinto.patch("/buckets/main/collections/one", read).await;
    assert_eq!(bob.get(changeset).await.status, 200);
    let settings = [("KINTO_RECORD_READ_PRINCIPALS", "system.Everyone")];
    let open = Kinto::over(&kinto.aws, &settings).as_user(NOBODY);
    // Its records may be read by all, the collection itself not.
    assert_eq!(open.get(changeset).await.error(), (401, 104));
}

#[tokio::test]
async fn the_default_bucket_of_another_user_cannot_be_guessed() {
    let include = ("KINTO_INCLUDES", "kinto.plugins.default_bucket");
    let kinto = Kinto::with(&[include]);
    let user = kinto.get("/").await.body["user"].clone();
    let unsalted = Kinto::with(&[include, ("KINTO_DEFAULT_BUCKET_HMAC_SECRET", "")]);
    // Under the empty key, which everybody knows; as Kinto's default is.
    assert_ne!(
        unsalted.get("/").await.body["user"]["bucket"],
        user["bucket"]
    );
    // Nor as a user id: HMAC of `basicauth:…` is that of who logs in so.
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
    // Redirects are the same for everybody; what they lead to is not.
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
    // A check of a hash takes thousands of times as long as all the rest; any factor in between tells them apart.
    let known = time("alice:wrong").await;
    for unknown in ["bob:wrong", "carol:wrong"] {
        let unknown = time(unknown).await;
        assert!(unknown > known / 10, "{unknown:?} {known:?}");
    }
    // And what is remembered is so of both.
    assert!(time("alice:wrong").await < known / 10);
    assert!(time("bob:wrong").await < known / 10);
}

// ---- Times

#[tokio::test]
async fn no_client_moves_a_list_further_ahead_than_a_day() {
    let (kinto, bob) = with_a_creator().await;
    let ahead = now() + DAY + 60_000;
    let data = |at: u64| json!({"data": {"last_modified": at}});
    let text = |at: u64| data(at).to_string();
    let far = 4_102_444_800_000;
    for at in [ahead, far, far + 1, u64::MAX] {
        let new = format!("{RECORDS}/new");
        let json_patch =
            format!(r#"[{{"op": "add", "path": "/data/last_modified", "value": {at}}}]"#);
        for (user, method, path, media_type, body) in [
            (&bob, "PUT", &*new, "", text(at)),
            (&bob, "POST", RECORDS, "", text(at)),
            (&kinto, "PUT", RECORD, "", text(at)),
            (&kinto, "PATCH", RECORD, "", text(at)),
            (
                &kinto,
                "PATCH",
                RECORD,
                "application/merge-patch+json",
                text(at),
            ),
            (
                &kinto,
                "PATCH",
                RECORD,
                "application/json-patch+json",
                json_patch,
            ),
            (
                &kinto,
                "DELETE",
                &*format!("{RECORD}?last_modified={at}"),
                "",
                String::new(),
            ),
            (&kinto, "PUT", "/buckets/other", "", text(at)),
            (&kinto, "PUT", GROUP, "", text(at)),
        ] {
            let media_type = [("content-type", media_type)];
            let headers = &media_type[..usize::from(!media_type[0].1.is_empty())];
            let answer = user.send(method, path, headers, &body).await;
            assert_eq!(answer.error(), (400, 107), "{method} {path} {body}");
            let batched = json!({"method": method, "path": path, "body": data(at)});
            if headers.is_empty() && method != "DELETE" {
                let batch = json!({"requests": [batched]});
                let answer = user.post("/batch", batch).await;
                assert_eq!(
                    answer.body["responses"][0]["status"], 400,
                    "{method} {path}"
                );
            }
        }
    }
    let etag = kinto.get(RECORDS).await.header("etag").to_owned();
    assert!(etag.trim_matches('"').parse::<u64>().unwrap() <= now());
    // Within a day it is kept.
    let soon = now() + DAY - 60_000;
    let created = bob.put(&format!("{RECORDS}/new"), data(soon)).await;
    assert_eq!(created.last_modified(), soon);
}

#[tokio::test]
async fn a_list_that_is_far_ahead_takes_back_what_it_answered() {
    let kinto = Kinto::with_collection().await;
    kinto.put(RECORD, json!({})).await;
    // As an earlier version let a client do it.
    let (far, list) = (
        4_102_444_800_000_u64,
        "/buckets/main/collections/one#record",
    );
    let client = kinto.aws.dynamodb();
    client
        .update_item()
        .table_name(TABLE)
        .key("pk", AttributeValue::S(list.to_owned()))
        .key("sk", AttributeValue::S("#timestamp".to_owned()))
        .update_expression("SET #t = :t")
        .expression_attribute_names("#t", "timestamp")
        .expression_attribute_values(":t", AttributeValue::N(far.to_string()))
        .send()
        .await
        .unwrap();
    let written = kinto.put(RECORD, json!({"data": {"a": 1}})).await;
    let last = written.last_modified();
    assert_eq!(last, far + 1);
    for query in [
        "_since",
        "_before",
        "_to",
        "gt_last_modified",
        "last_modified",
    ] {
        for at in [format!("{last}"), format!("%22{last}%22")] {
            let list = kinto.get(&format!("{RECORDS}?{query}={at}")).await;
            assert_eq!(list.status, 200, "{query}={at} {list:?}");
        }
    }
    let beyond = last + 1;
    let refused = kinto.get(&format!("{RECORDS}?_since={beyond}")).await;
    assert_eq!(refused.error(), (400, 107));
    let changeset = "/buckets/main/collections/one/changeset?_expected=1";
    let answer = kinto.get(&format!("{changeset}&_since={last}")).await;
    assert_eq!((answer.status, &answer.body["changes"]), (200, &json!([])));
    let refused = kinto.get(&format!("{changeset}&_since={beyond}")).await;
    assert_eq!(refused.error(), (400, 107));
    // So does what tells of all collections.
    let entry = [
        ("pk", AttributeValue::S("#monitor".to_owned())),
        (
            "sk",
            AttributeValue::S("/buckets/main/collections/one".to_owned()),
        ),
        ("bucket", AttributeValue::S("main".to_owned())),
        ("collection", AttributeValue::S("one".to_owned())),
        ("last_modified", AttributeValue::N(last.to_string())),
    ];
    let entry = entry.map(|(name, value)| (name.to_owned(), value));
    let put = client.put_item().table_name(TABLE);
    put.set_item(Some(entry.into())).send().await.unwrap();
    for path in ["records?", "changeset?_expected=1&"] {
        let path = format!("/buckets/monitor/collections/changes/{path}");
        let all = kinto.get(&path).await;
        let etag = all.header("etag").trim_matches('"').to_owned();
        assert_eq!(etag, last.to_string());
        for at in [etag.clone(), format!("%22{etag}%22")] {
            let none = kinto.get(&format!("{path}_since={at}")).await;
            assert_eq!(none.status, 200, "{path}{at}");
        }
        let refused = kinto.get(&format!("{path}_since={beyond}")).await;
        assert_eq!(refused.error(), (400, 107), "{path}");
    }
    // And the object itself, as it was answered.
    let back = json!({"data": written.body["data"]});
    assert_eq!(kinto.put(RECORD, back.clone()).await.status, 200);
    assert_eq!(kinto.patch(RECORD, back).await.status, 200);
    let deleted = kinto
        .delete(&format!("{RECORD}?last_modified={last}"))
        .await;
    assert_eq!(deleted.status, 200);
}

// ---- Groups

/// Buckets of bob's that all have a group of everybody with credentials.
async fn poison(bob: &Kinto, buckets: usize) {
    for n in 0..buckets {
        let bucket = format!("/buckets/poison{n}");
        let padding = json!({"data": {"x": "x".repeat(10_000)}});
        assert_eq!(bob.put(&bucket, padding).await.status, 201);
        let group = format!("{bucket}/groups/g");
        let all = members(&["system.Authenticated"]);
        assert_eq!(bob.put(&group, all).await.status, 201);
    }
}

#[tokio::test]
async fn groups_of_strangers_cost_nobody_anything() {
    let kinto = Kinto::with_collection().await;
    let bob = kinto.as_user(BOB);
    kinto.put(RECORD, json!({})).await;
    poison(&bob, 20).await;
    let requests = kinto.aws.requests();
    for (path, round_trips) in [(RECORD, 1), ("/buckets/main", 1), (RECORDS, 2)] {
        requests.take();
        assert_eq!(kinto.get(path).await.status, 200);
        assert_eq!(requests.total(), round_trips, "{path}");
    }
    // The groups hold all the same, where they matter.
    let shared = json!({"permissions": {"read": ["/buckets/poison7/groups/g"]}});
    assert_eq!(
        bob.put("/buckets/poison7/collections/c", shared)
            .await
            .status,
        201
    );
    assert_eq!(
        kinto.get("/buckets/poison7/collections/c").await.status,
        200
    );
}

#[tokio::test]
async fn the_root_endpoint_shows_a_bounded_number_of_groups() {
    let kinto = Kinto::new();
    poison(&kinto.as_user(BOB), 30).await;
    let requests = kinto.aws.requests();
    requests.take();
    let hello = kinto.get("/").await;
    let principals = hello.body["user"]["principals"].as_array().unwrap().len();
    assert_eq!(principals, 3 + 25);
    assert!(requests.total() <= 4, "{}", requests.total());
}

#[tokio::test]
async fn a_group_of_another_bucket_that_is_named_takes_one_round_trip() {
    let kinto = Kinto::with_collection().await;
    let bob = kinto.as_user(BOB);
    poison(&bob, 3).await;
    let group = "/buckets/people/groups/readers";
    kinto.put("/buckets/people", json!({})).await;
    kinto.put(group, members(&[id_of(&bob).await])).await;
    let shared = json!({"permissions": {"read": [group]}});
    assert_eq!(kinto.put(RECORD, shared).await.status, 201);
    let requests = kinto.aws.requests();
    requests.take();
    assert_eq!(bob.get(RECORD).await.status, 200);
    assert_eq!(requests.total(), 2);
    let batch = json!({"requests": [{"path": RECORD}, {"path": RECORD}, {"path": RECORDS}]});
    requests.take();
    let answer = bob.post("/batch", batch).await;
    assert_eq!(answer.body["responses"][2]["body"]["data"][0]["id"], "r1");
    assert_eq!(requests.of("BatchGetItem"), 2);
    let list = bob.get("/buckets/main/collections/one/records").await;
    assert_eq!(list.body["data"][0]["id"], "r1");
}

#[tokio::test]
async fn permissions_name_groups_of_few_other_buckets() {
    let kinto = Kinto::with_collection().await;
    let group = |n: usize| format!("/buckets/b{n}/groups/g");
    let read = |n| json!({"permissions": {"read": (0..n).map(group).collect::<Vec<_>>()}});
    assert_eq!(kinto.put(RECORD, read(5)).await.status, 201);
    let refused = kinto.put(RECORD, read(6)).await;
    assert_eq!(refused.error(), (400, 107));
    assert_eq!(kinto.patch(RECORD, read(6)).await.error(), (400, 107));
    // Of its own bucket as many as it wants.
    let own = (0..50).map(|n| format!("/buckets/main/groups/g{n}"));
    let own = json!({"permissions": {"read": own.collect::<Vec<_>>()}});
    assert_eq!(kinto.put(RECORD, own).await.status, 200);
    let requests = kinto.aws.requests();
    requests.take();
    assert_eq!(kinto.as_user(BOB).get(RECORD).await.status, 403);
    assert_eq!(requests.total(), 1);
}

#[tokio::test]
async fn nobody_can_fill_up_what_is_kept_of_another() {
    let kinto = Kinto::with_collection().await;
    let bob = kinto.as_user(BOB);
    let id = id_of(&bob).await;
    kinto.put("/buckets/evil", json!({})).await;
    let name = |n: usize| format!("/buckets/evil/groups/{}{n:03}", "x".repeat(252));
    let mut written = 0;
    let refused = loop {
        let answer = kinto.put(&name(written), members(&[&id])).await;
        if answer.status != 201 {
            break answer;
        }
        written += 1;
    };
    // Who writes too many learns so; nothing of it is written.
    assert_eq!(refused.error(), (400, 107), "{refused:?}");
    assert_eq!(refused.body["details"][0]["name"], "data.members");
    assert_eq!(written, 16 * 1024 / 255);
    assert_eq!(kinto.get(&name(written)).await.status, 404);
    // Bob joins others' groups, and these too again when there is room.
    assert_eq!(kinto.put(GROUP, members(&[&id])).await.status, 201);
    let shared = json!({"permissions": {"read": [GROUP]}});
    kinto.put(RECORD, shared).await;
    assert_eq!(bob.get(RECORD).await.status, 200);
    assert_eq!(kinto.delete(&name(0)).await.status, 200);
    assert_eq!(kinto.put(&name(written), members(&[&id])).await.status, 201);
    // Nor does the next owner of the bucket's id find it full.
    assert_eq!(kinto.delete("/buckets/evil").await.status, 200);
    assert_eq!(bob.put("/buckets/evil", json!({})).await.status, 201);
    assert_eq!(bob.put(&name(0), members(&[&id])).await.status, 201);
    let grants = json!({"permissions": {"read": [name(0)]}});
    assert_eq!(bob.patch("/buckets/evil", grants).await.status, 200);
    let principals = bob.get("/").await.body["user"]["principals"].clone();
    let of_evil = principals.as_array().unwrap().iter();
    let of_evil = of_evil.filter(|p| p.as_str().unwrap().starts_with("/buckets/evil/"));
    assert_eq!(of_evil.count(), 1);
}

#[tokio::test]
async fn a_group_has_a_thousand_members_at_most() {
    let kinto = Kinto::with_collection().await;
    let refused = kinto.put(GROUP, members(&many(1001))).await;
    assert_eq!(refused.error(), (400, 107));
    assert_eq!(refused.body["details"][0]["name"], "data.members");
    assert_eq!(kinto.put(GROUP, members(&many(1000))).await.status, 201);
    assert_eq!(
        kinto.patch(GROUP, members(&many(1001))).await.error(),
        (400, 107)
    );
}

#[tokio::test]
async fn a_request_changes_five_thousand_members_at_most() {
    let kinto = Kinto::with_collection().await;
    let put = |group: &str, members: Value| json!({"method": "PUT", "path": format!("/buckets/main/groups/{group}"), "body": members});
    let all = many(1000);
    let groups = ["a", "b", "c", "d", "e", "f"];
    let requests = groups.map(|group| put(group, members(&all)));
    let refused = kinto.post("/batch", json!({"requests": requests})).await;
    assert_eq!(refused.error(), (413, 113));
    let none = kinto.get("/buckets/main/groups").await.body;
    assert_eq!(none["data"], json!([]));
}

#[tokio::test]
async fn members_who_stay_are_not_written_again() {
    let kinto = Kinto::with_collection().await;
    let mut all = many(300);
    assert_eq!(kinto.put(GROUP, members(&all)).await.status, 201);
    let requests = kinto.aws.requests();
    all[7] = "account:new".to_owned();
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    kinto.aws.inject(move |target, body| {
        if target.ends_with("TransactWriteItems") {
            let body: Value = serde_json::from_slice(body).unwrap();
            let items = body["TransactItems"].as_array().map_or(0, Vec::len);
            counter.fetch_add(items, Ordering::Relaxed);
        }
        None
    });
    for (body, items) in [
        (members(&all), 4),
        (members(&all), 2),
        (json!({"data": {"members": all, "title": "x"}}), 2),
    ] {
        requests.take();
        written.store(0, Ordering::Relaxed);
        assert_eq!(kinto.put(GROUP, body).await.status, 200);
        assert_eq!(requests.of("TransactWriteItems"), 1);
        // The group, its list, and one for each who joins or leaves.
        assert_eq!(written.load(Ordering::Relaxed), items);
    }
}

/// Whether each of those is in the group, by the items that requests read.
async fn are_in(kinto: &Kinto, principals: &[String]) -> Vec<bool> {
    let mut found = vec![];
    for principal in principals {
        let member = Member {
            principal: principal.clone(),
            bucket: ObjectUri::bucket("main"),
        };
        let key = Key::memberships(&member);
        let read = kinto.aws.dynamodb().get_item().table_name(TABLE);
        let read = read
            .key("pk", AttributeValue::S(key.pk))
            .key("sk", AttributeValue::S(key.sk));
        let item = read.send().await.unwrap().item;
        found.push(item.is_some_and(|item| item.contains_key("/g")));
    }
    found
}

/// The members that the group lists, whose items must say the same; and those that are not listed.
async fn check_consistent(kinto: &Kinto, known: &[String]) -> usize {
    let group = kinto.get(GROUP).await;
    let listed: Vec<_> = group.body["data"]["members"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    let expected: Vec<_> = known
        .iter()
        .map(|principal| listed.contains(&&json!(principal)))
        .collect();
    assert_eq!(are_in(kinto, known).await, expected);
    listed.len()
}

#[tokio::test]
async fn a_large_group_that_fails_midway_lists_those_who_are_in_it_and_repeating_completes_it() {
    let everyone = many(400);
    for (before, after) in [(0..0, 0..300), (0..300, 100..400), (0..300, 0..0)] {
        for transactions in 0..8 {
            let kinto = Kinto::with_collection().await;
            let created = kinto.put(GROUP, members(&everyone[before.clone()])).await;
            assert_eq!(created.status, 201);
            let written = kinto.aws.requests();
            written.take();
            kinto.aws.inject(move |target, _| {
                let late = written.of("TransactWriteItems") > transactions;
                (late && target.ends_with("TransactWriteItems"))
                    .then(|| Fault::error("ResourceNotFoundException"))
            });
            let body = members(&everyone[after.clone()]);
            let status = kinto.put(GROUP, body.clone()).await.status;
            kinto.aws.heal();
            check_consistent(&kinto, &everyone).await;
            if status == 200 {
                break;
            }
            assert_eq!(status, 503);
            assert_eq!(kinto.put(GROUP, body).await.status, 200);
            let listed = check_consistent(&kinto, &everyone).await;
            assert_eq!(listed, after.len());
        }
    }
}

#[tokio::test]
async fn parallel_writers_of_a_large_group_leave_those_in_it_whom_it_lists() {
    let kinto = Kinto::with_collection().await;
    let everyone = many(240);
    assert_eq!(
        kinto.put(GROUP, members(&everyone[..120])).await.status,
        201
    );
    let writes = [0..200, 40..240, 0..1, 100..230].map(|range| {
        let body = members(&everyone[range]);
        let kinto = kinto.clone();
        async move { kinto.put(GROUP, body).await.status }
    });
    for status in futures::future::join_all(writes).await {
        assert!([200, 503].contains(&status), "{status}");
    }
    check_consistent(&kinto, &everyone).await;
    assert!(kinto.delete(GROUP).await.status < 300);
    assert_eq!(are_in(&kinto, &everyone).await, vec![false; everyone.len()]);
}

#[tokio::test]
async fn times_of_a_large_group_go_on_and_are_the_lists() {
    let kinto = Kinto::with_collection().await;
    let soon = now() + DAY / 2;
    for (wanted, after) in [(None, 1), (Some(soon), soon), (Some(7), 1)] {
        let mut body = members(&many(200));
        if let Some(at) = wanted {
            body["data"]["last_modified"] = at.into();
        }
        let created = kinto.put(GROUP, body).await;
        assert_eq!(created.status, 201);
        assert_eq!(kinto.get(GROUP).await.body["data"], created.body["data"]);
        let at = created.last_modified();
        match wanted {
            Some(7) => assert_eq!(at, 7),
            _ => {
                assert!(at >= after);
                let list = kinto.get("/buckets/main/groups").await;
                assert_eq!(list.header("etag"), format!("\"{at}\""));
            }
        }
        assert_eq!(kinto.delete(GROUP).await.status, 200);
    }
}

/// Makes the bucket `main` and its groups' memberships what an earlier version would have written.
async fn age(kinto: &Kinto, group: &str, member: &str) {
    let client = kinto.aws.dynamodb();
    let old = "0123456789abcdef";
    let get = async |pk: &str, sk: &str| -> Item {
        let get = client.get_item().table_name(TABLE);
        let get = get
            .key("pk", AttributeValue::S(pk.to_owned()))
            .key("sk", AttributeValue::S(sk.to_owned()));
        get.send().await.unwrap().item.unwrap_or_default()
    };
    let put = async |item: Item| {
        let put = client.put_item().table_name(TABLE).set_item(Some(item));
        put.send().await.unwrap();
    };
    let set = |mut item: Item, attribute: &str| {
        item.insert(attribute.to_owned(), AttributeValue::S(old.to_owned()));
        item
    };
    let bucket = get("#bucket", "main").await;
    put(set(bucket, "generation")).await;
    for kind in ["group", "collection"] {
        let list = get(&format!("/buckets/main#{kind}"), "#timestamp").await;
        put(set(list, "generation")).await;
    }
    for (pk, sk) in [
        ("/buckets/main#group", "g"),
        ("/buckets/main#collection", "one"),
    ] {
        let object = get(pk, sk).await;
        put(set(object, "parent")).await;
    }
    let pk = format!("#principal#{member}");
    let delete = client.delete_item().table_name(TABLE);
    let delete = delete
        .key("pk", AttributeValue::S(pk.clone()))
        .key("sk", AttributeValue::S("/buckets/main".to_owned()));
    delete.send().await.unwrap();
    let item = [("pk", &*pk), ("sk", "#groups"), (group, old)];
    let item = item.map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())));
    put(item.into()).await;
}

#[tokio::test]
async fn memberships_of_an_earlier_version_hold_until_their_members_leave() {
    let kinto = Kinto::with_collection().await;
    let bob = kinto.as_user(BOB);
    let id = id_of(&bob).await;
    kinto.put(GROUP, members(&[&id])).await;
    let shared = json!({"permissions": {"read": [GROUP]}});
    kinto.put(RECORD, shared.clone()).await;
    kinto.put("/buckets/other", shared).await;
    age(&kinto, GROUP, &id).await;
    for path in [RECORD, "/buckets/other"] {
        assert_eq!(bob.get(path).await.status, 200, "{path}");
    }
    let principals = bob.get("/").await.body["user"]["principals"].clone();
    assert!(principals.as_array().unwrap().contains(&json!(GROUP)));
    // Others join as they do now, and bob stays.
    let carol = kinto.as_user("Basic Y2Fyb2w6");
    assert_eq!(carol.get(RECORD).await.status, 403);
    let both = members(&[id, id_of(&carol).await]);
    assert_eq!(kinto.put(GROUP, both).await.status, 200);
    for user in [&bob, &carol] {
        assert_eq!(user.get(RECORD).await.status, 200);
    }
    let none: [&str; 0] = [];
    assert_eq!(kinto.put(GROUP, members(&none)).await.status, 200);
    for user in [&bob, &carol] {
        assert_eq!(user.get(RECORD).await.status, 403);
        assert_eq!(user.get("/buckets/other").await.status, 403);
    }
}

#[tokio::test]
async fn what_cannot_be_a_member_stays_refused() {
    let kinto = Kinto::with_collection().await.as_user(ALICE);
    for bad in ["system.Everyone", "/buckets/main/groups/other"] {
        assert_eq!(kinto.put(GROUP, members(&[bad])).await.error(), (400, 107));
    }
}

#[tokio::test]
async fn a_bad_token_is_shown_to_the_provider_once() {
    use wiremock::matchers::path;
    use wiremock::{Mock, MockServer, ResponseTemplate};
    let provider = MockServer::start().await;
    let url = provider.uri();
    let metadata = json!({
        "issuer": url,
        "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/tokens"),
        "userinfo_endpoint": format!("{url}/profile"),
        "jwks_uri": format!("{url}/keys"),
    });
    for (at, answer) in [
        (
            "/.well-known/openid-configuration",
            ResponseTemplate::new(200).set_body_json(metadata),
        ),
        (
            "/keys",
            ResponseTemplate::new(200).set_body_json(json!({"keys": []})),
        ),
        ("/profile", ResponseTemplate::new(401)),
    ] {
        Mock::given(path(at))
            .respond_with(answer)
            .mount(&provider)
            .await;
    }
    let kinto = Kinto::with(&[
        ("KINTO_INCLUDES", "kinto.plugins.openid"),
        ("MULTIAUTH_POLICIES", "idp"),
        (
            "MULTIAUTH_POLICY_IDP_USE",
            "kinto.plugins.openid.OpenIDConnectPolicy",
        ),
        ("MULTIAUTH_POLICY_IDP_ISSUER", &url),
        ("MULTIAUTH_POLICY_IDP_CLIENT_ID", "me"),
    ])
    .as_user(NOBODY);
    let asked = async || {
        let requests = provider.received_requests().await.unwrap();
        requests
            .iter()
            .filter(|r| r.url.path() == "/profile")
            .count()
    };
    for (token, times) in [("a", 1), ("a", 1), ("b", 2), ("a", 2), ("b", 2)] {
        let header = format!("Bearer {token}");
        let hello = kinto
            .send("GET", "/", &[("authorization", &header)], "")
            .await;
        assert_eq!(hello.body["user"], Value::Null);
        assert_eq!(asked().await, times, "{token}");
    }
    // Where a code is sent to, no header says.
    let login = "/openid/idp/login?callback=http://localhost:3000/&scope=openid";
    let headers = [
        ("host", "evil.example"),
        ("x-forwarded-host", "evil.example"),
    ];
    let sent = kinto.send("GET", login, &headers, "").await;
    assert_eq!(sent.status, 307);
    assert!(
        !sent.header("location").contains("evil.example"),
        "{sent:?}"
    );
    assert!(sent.header("location").contains("kinto.test"), "{sent:?}");
}
