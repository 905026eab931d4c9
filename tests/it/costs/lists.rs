//! What one request may cost: each test is an attack, a request of a few bytes that would be dear, or what clients really send.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::future::join_all;
use kinto_local::LocalAws;
use serde_json::{Value, json};
use tests::{Answer, BOB, Kinto, NOBODY, TABLE};

const COLLECTION: &str = "/buckets/main/collections/one";
const RECORDS: &str = "/buckets/main/collections/one/records";

/// A user of that name.
fn user(kinto: &Kinto, name: &str) -> Kinto {
    let authorization = format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:")));
    kinto.as_user(authorization.leak())
}

async fn id_of(kinto: &Kinto) -> Value {
    kinto.get("/").await.body["user"]["id"].clone()
}

fn ids(answer: &Answer) -> Vec<&str> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let objects = answer.body["data"].as_array().unwrap();
    objects
        .iter()
        .map(|object| object["id"].as_str().unwrap())
        .collect()
}

fn statuses(batch: &Answer) -> Vec<u64> {
    assert_eq!(batch.status, 200, "{batch:?}");
    let responses = batch.body["responses"].as_array().unwrap();
    responses
        .iter()
        .map(|response| response["status"].as_u64().unwrap())
        .collect()
}

/// A collection with ten records that nobody but alice may read.
async fn private() -> Kinto {
    let kinto = Kinto::with_collection().await;
    for n in 0..10 {
        kinto
            .put(&format!("{RECORDS}/r{n}"), json!({"data": {"n": n}}))
            .await;
    }
    kinto.aws.requests().take();
    kinto
}

/// A collection in which everybody may create records.
async fn open() -> Kinto {
    let kinto = Kinto::with_collection().await;
    let open = json!({"permissions": {"record:create": ["system.Everyone"]}});
    assert_eq!(kinto.patch(COLLECTION, open).await.status, 200);
    kinto.aws.requests().take();
    kinto
}

/// What is shared with the user, and how many pages of the list were read for it.
async fn shared_with(kinto: &Kinto) -> (Vec<String>, u64) {
    kinto.aws.requests().take();
    let listed = kinto.get(RECORDS).await;
    let ids = ids(&listed).into_iter().map(str::to_owned).collect();
    (ids, kinto.aws.requests().of("Query"))
}

#[tokio::test]
async fn who_is_denied_a_list_has_none_of_it_read() {
    let kinto = private().await;
    let requests = kinto.aws.requests();
    for (denied, status) in [(kinto.as_user(NOBODY), 401), (kinto.as_user(BOB), 403)] {
        for method in ["GET", "HEAD", "DELETE"] {
            let answer = denied
                .send(method, &format!("{RECORDS}?n=1&_sort=n"), &[], "")
                .await;
            assert_eq!(answer.status, status, "{method}");
        }
        for list in ["/buckets/main/collections", "/buckets/main/groups"] {
            assert_eq!(denied.get(list).await.status, status, "{list}");
        }
        let batch = json!({"defaults": {"path": RECORDS}, "requests": vec![json!({}); 25]});
        let batch = denied.post("/batch", batch).await;
        assert_eq!(statuses(&batch), [u64::from(status); 25]);
    }
    // Each time who asks, the parents and the list's own item.
    assert_eq!((requests.of("BatchGetItem"), requests.total()), (12, 12));
}

#[tokio::test]
async fn what_is_shared_with_somebody_is_found() {
    let kinto = private().await;
    let bob = kinto.as_user(BOB);
    let grant = json!({"permissions": {"read": [id_of(&bob).await]}});
    kinto.patch(&format!("{RECORDS}/r3"), grant).await;
    assert_eq!(shared_with(&bob).await.0, ["r3"]);
    assert_eq!(
        bob.send("HEAD", RECORDS, &[], "")
            .await
            .header("total-objects"),
        "1"
    );
    assert_eq!(user(&kinto, "carol").get(RECORDS).await.status, 403);

    let group = json!({"data": {"members": [id_of(&user(&kinto, "carol")).await]}});
    kinto.put("/buckets/main/groups/g", group).await;
    let grant = json!({"permissions": {"write": ["/buckets/main/groups/g"]}});
    kinto.patch(&format!("{RECORDS}/r4"), grant).await;
    assert_eq!(shared_with(&user(&kinto, "carol")).await.0, ["r4"]);

    let grant = json!({"permissions": {"read": ["system.Authenticated"]}});
    kinto.patch(&format!("{RECORDS}/r5"), grant).await;
    assert_eq!(shared_with(&user(&kinto, "dave")).await.0, ["r5"]);
    assert_eq!(kinto.as_user(NOBODY).get(RECORDS).await.status, 401);
}

#[tokio::test]
async fn of_many_who_share_a_list_each_finds_their_own_and_others_have_none_of_it_read() {
    let kinto = open().await;
    let users: Vec<_> = (0..20).map(|n| user(&kinto, &format!("user{n}"))).collect();
    let created = users.iter().enumerate().map(|(n, user)| async move {
        user.put(&format!("{RECORDS}/r{n}"), json!({})).await.status
    });
    assert_eq!(join_all(created).await, [201; 20]);
    for (n, user) in users.iter().enumerate() {
        assert_eq!(shared_with(user).await.0, [format!("r{n}")]);
    }
    assert_eq!(shared_with(&user(&kinto, "other")).await, (vec![], 0));
    // Another process knows no more than the table.
    let other = Kinto::over(&kinto.aws, &[]);
    assert_eq!(shared_with(&user(&other, "user19")).await.0, ["r19"]);
    assert_eq!(shared_with(&user(&other, "other")).await, (vec![], 0));
}

#[tokio::test]
async fn a_share_is_written_once() {
    let kinto = open().await;
    for n in 0..12 {
        user(&kinto, &format!("user{n}"))
            .put(&format!("{RECORDS}/r{n}"), json!({}))
            .await;
    }
    let items = Arc::new(Mutex::new(vec![]));
    let seen = Arc::clone(&items);
    kinto.aws.inject(move |target, body| {
        if target.ends_with("TransactWriteItems") {
            let body: Value = serde_json::from_slice(body).unwrap();
            seen.lock()
                .unwrap()
                .push(body["TransactItems"].as_array().unwrap().len());
        }
        None
    });
    for n in [0, 11] {
        user(&kinto, &format!("user{n}"))
            .put(&format!("{RECORDS}/again{n}"), json!({}))
            .await;
    }
    // The record and the list's item.
    assert_eq!(*items.lock().unwrap(), [2, 2]);
}

#[tokio::test]
async fn who_loses_the_collection_still_finds_what_they_made() {
    let kinto = Kinto::with_collection().await;
    let bob = kinto.as_user(BOB);
    let grant = json!({"permissions": {"write": [id_of(&bob).await]}});
    kinto.patch(COLLECTION, grant).await;
    assert_eq!(
        bob.put(&format!("{RECORDS}/r"), json!({})).await.status,
        201
    );
    kinto
        .patch(COLLECTION, json!({"permissions": {"write": []}}))
        .await;
    assert_eq!(shared_with(&bob).await.0, ["r"]);
}

#[tokio::test]
async fn a_list_made_anew_is_shared_with_nobody() {
    let kinto = open().await;
    for n in 0..12 {
        user(&kinto, &format!("user{n}"))
            .put(&format!("{RECORDS}/r{n}"), json!({}))
            .await;
    }
    kinto.delete(COLLECTION).await;
    kinto
        .put(
            COLLECTION,
            json!({"permissions": {"record:create": ["system.Everyone"]}}),
        )
        .await;
    for n in [0, 11] {
        let user = user(&kinto, &format!("user{n}"));
        assert_eq!(shared_with(&user).await, (vec![], 0));
        assert_eq!(
            user.put(&format!("{RECORDS}/r{n}"), json!({})).await.status,
            201
        );
        assert_eq!(shared_with(&user).await.0, [format!("r{n}")]);
    }
}

#[tokio::test]
async fn in_a_batch_what_was_just_shared_is_found() {
    let kinto = open().await;
    let requests = json!([
        {"method": "PUT", "path": format!("{RECORDS}/r")},
        {"path": RECORDS},
        {"method": "HEAD", "path": RECORDS},
    ]);
    let batch = user(&kinto, "carol")
        .post("/batch", json!({"requests": requests}))
        .await;
    assert_eq!(batch.body["responses"][1]["body"]["data"][0]["id"], "r");
    assert_eq!(batch.body["responses"][2]["headers"]["Total-Objects"], "1");
}

#[tokio::test]
async fn a_list_from_before_there_were_shares_is_read_as_it_was_then() {
    let kinto = private().await;
    let bob = kinto.as_user(BOB);
    let grant = json!({"permissions": {"read": [id_of(&bob).await]}});
    kinto.patch(&format!("{RECORDS}/r3"), grant).await;
    let key = |name: &str| AttributeValue::S(name.to_owned());
    let forgotten = kinto.aws.dynamodb().update_item().table_name(TABLE);
    let forgotten = forgotten.key("pk", key(&format!("{COLLECTION}#record")));
    let forgotten = forgotten.key("sk", key("#timestamp"));
    forgotten
        .update_expression("REMOVE shared_with")
        .send()
        .await
        .unwrap();
    assert_eq!(shared_with(&bob).await.0, ["r3"]);
    assert_eq!(user(&kinto, "carol").get(RECORDS).await.status, 403);
    // What is shared from now on does not make it known with whom else.
    let grant = json!({"permissions": {"read": [id_of(&user(&kinto, "carol")).await]}});
    kinto.patch(&format!("{RECORDS}/r4"), grant).await;
    assert_eq!(shared_with(&bob).await.0, ["r3"]);
    assert_eq!(shared_with(&user(&kinto, "carol")).await.0, ["r4"]);
}

/// Grants `principal` a record as a version would that knows nothing of shares: the list only gets another timestamp.
fn share_as_an_earlier_version(aws: &LocalAws, principal: &Value) {
    let update = |sk: &str, expression: &str, name: &str, value: Value| {
        let request = json!({
            "TableName": TABLE,
            "Key": {"pk": {"S": format!("{COLLECTION}#record")}, "sk": {"S": sk}},
            "UpdateExpression": expression,
            "ExpressionAttributeNames": {"#name": name},
            "ExpressionAttributeValues": {":value": value},
        });
        let done = aws
            .database()
            .execute("UpdateItem", request.to_string().as_bytes());
        assert!(done.is_ok(), "{sk}");
    };
    let granted = json!({"M": {"read": {"L": [{"S": principal}]}}});
    update("r3", "SET #name = :value", "permissions", granted);
    update(
        "#timestamp",
        "ADD #name :value",
        "timestamp",
        json!({"N": "1"}),
    );
}

#[tokio::test]
async fn what_an_earlier_version_shares_meanwhile_is_found_by_this_one_from_then_on() {
    let kinto = private().await;
    let bob = kinto.as_user(BOB);
    share_as_an_earlier_version(&kinto.aws, &id_of(&bob).await);
    assert_eq!(shared_with(&bob).await.0, ["r3"]);
    for n in 0..5 {
        let written = kinto.put(&format!("{RECORDS}/s{n}"), json!({})).await;
        assert_eq!(written.status, 201);
        assert_eq!(shared_with(&bob).await.0, ["r3"]);
    }
    // A collection made anew knows again.
    kinto.delete(COLLECTION).await;
    kinto.put(COLLECTION, json!({})).await;
    kinto.aws.requests().take();
    assert_eq!(bob.get(RECORDS).await.status, 403);
    assert_eq!(kinto.aws.requests().of("Query"), 0);
}

#[tokio::test]
async fn an_earlier_version_that_comes_between_reading_and_writing_is_noticed() {
    let kinto = private().await;
    let bob = kinto.as_user(BOB);
    let (aws, principal) = (kinto.aws.clone(), id_of(&bob).await);
    kinto.aws.inject(move |target, _| {
        if target.ends_with("TransactWriteItems") {
            aws.heal();
            share_as_an_earlier_version(&aws, &principal);
        }
        None
    });
    let written = kinto.put(&format!("{RECORDS}/s"), json!({})).await;
    assert_eq!(written.status, 201);
    assert_eq!(kinto.aws.requests().of("TransactWriteItems"), 2);
    assert_eq!(shared_with(&bob).await.0, ["r3"]);
}

#[tokio::test]
async fn a_query_of_many_parts_is_refused_before_the_list_is_read() {
    let kinto = private().await;
    let dots = ["a"; 2400].join(".");
    let keys: Vec<_> = (0..2000).map(|n| format!("k{n}")).collect();
    for query in [
        format!("{dots}=1"),
        format!("not_{dots}=1"),
        format!("_sort={dots}"),
        format!("_sort={}", keys[..30].join(",")),
        format!("_fields={}", keys[..1200].join(",")),
        "like_a=*x*&".repeat(100),
        "not_a=1&".repeat(500),
        format!("in_id={}", "x,".repeat(10_000)),
        format!("_sort={}", vec![keys.join(","); 15].join(",")),
        format!("_token={}", "x".repeat(9000)),
    ] {
        let path = format!("{RECORDS}?{query}");
        let refused = kinto.get(&path).await;
        assert_eq!(refused.error(), (400, 107), "{}", &query[..20]);
        assert_eq!(refused.body["details"][0]["location"], "querystring");
        let batch = kinto
            .post("/batch", json!({"requests": [{"path": path}]}))
            .await;
        assert_eq!(statuses(&batch), [400], "{}", &query[..20]);
    }
    assert_eq!(kinto.aws.requests().of("Query"), 0);
}

#[tokio::test]
async fn the_queries_of_clients_are_answered() {
    let kinto = private().await;
    let uuids = vec!["4d2f1a3c-8e5b-4c6a-9f7e-2b1d0c9a8e7f"; 50].join(",");
    for query in [
        format!("exclude_id={uuids}&_since=5&_sort=-last_modified&_limit=100"),
        format!("in_id={uuids}"),
        "_sort=-n,last_modified,id,name&_fields=n,id,last_modified,deep.er.still".to_owned(),
        "_sort=n,n,n,n,n,n,n,n,n,n,n,n,n,n,n,n,n,n,n,n".to_owned(),
        format!("_fields={}", ["n"; 1000].join(",")),
        "min_n=1&max_n=9&like_name=*a*&has_deep.er.still=false&not_kind=%22x%22".to_owned(),
    ] {
        assert_eq!(
            kinto.get(&format!("{RECORDS}?{query}")).await.status,
            200,
            "{query}"
        );
    }
}

/// A collection with records of 300 KB each.
async fn with_large_records(count: usize) -> Kinto {
    let kinto = Kinto::with_collection().await;
    let fill = "x".repeat(300_000);
    for n in 0..count {
        let data = json!({"n": n, "even": n % 2 == 0, "fill": fill});
        kinto
            .put(&format!("{RECORDS}/r{n}"), json!({"data": data}))
            .await;
    }
    kinto.aws.requests().take();
    kinto
}

#[tokio::test]
async fn a_list_is_read_no_further_than_to_what_is_asked_for() {
    let kinto = with_large_records(12).await;
    let requests = kinto.aws.requests();
    // Another order takes all of it, page by page.
    let sorted = kinto.get(&format!("{RECORDS}?_sort=n&_limit=2")).await;
    assert_eq!(ids(&sorted), ["r0", "r1"]);
    let all = requests.take()["Query"];
    let first = kinto.get(&format!("{RECORDS}?even=true&_limit=2")).await;
    assert_eq!(ids(&first), ["r10", "r8"]);
    assert!(requests.take()["Query"] < all);
    let path = first
        .header("next-page")
        .replace("http://kinto.test/v1", "");
    assert_eq!(ids(&kinto.get(&path).await), ["r6", "r4"]);
    assert!(requests.take()["Query"] < all);
}

#[tokio::test]
async fn a_count_is_made_by_the_table() {
    let kinto = with_large_records(4).await;
    let queries = Arc::new(Mutex::new(vec![]));
    let seen = Arc::clone(&queries);
    kinto.aws.inject(move |target, body| {
        if target.ends_with("Query") {
            let body: Value = serde_json::from_slice(body).unwrap();
            seen.lock().unwrap().push(body);
        }
        None
    });
    let count = |path: &'static str| {
        let kinto = kinto.clone();
        async move {
            let counted = kinto
                .send("HEAD", &format!("{RECORDS}{path}"), &[], "")
                .await;
            counted.header("total-objects").to_owned()
        }
    };
    assert_eq!(count("").await, "4");
    assert_eq!(count("?_limit=2").await, "4");
    let since = kinto.get(&format!("{RECORDS}/r1")).await.last_modified();
    kinto.delete(&format!("{RECORDS}/r0")).await;
    assert_eq!(count("").await, "3");
    let later = format!("?_since={since}").leak();
    assert_eq!(count(later).await, "2");
    // Beside what was written a moment ago, which must be there (decision 17), nothing is read but the count.
    let queries = std::mem::take(&mut *queries.lock().unwrap());
    let (counts, others): (Vec<_>, Vec<_>) = queries
        .into_iter()
        .partition(|query| query["Select"] == "COUNT");
    assert!(counts.len() >= 4, "some are of several pages");
    for query in others {
        let first = &query["ExpressionAttributeValues"][":first"]["N"];
        assert_ne!(first, "0", "{query}");
    }
    assert_eq!(count("?even=true").await, "1");
}

#[tokio::test]
async fn a_long_list_is_deleted_page_by_page() {
    let kinto = Kinto::with_collection().await;
    for n in 0..25 {
        kinto
            .put(&format!("{RECORDS}/r{n}"), json!({"data": {"n": n}}))
            .await;
    }
    let mut path = format!("{RECORDS}?_limit=10&_sort=n");
    let mut deleted = vec![];
    while !path.is_empty() {
        let page = kinto.delete(&path).await;
        deleted.extend(ids(&page).into_iter().map(str::to_owned));
        path = page.header("next-page").replace("http://kinto.test/v1", "");
    }
    let all: Vec<_> = (0..25).map(|n| format!("r{n}")).collect();
    assert_eq!(deleted, all);
    assert_eq!(
        kinto
            .send("HEAD", RECORDS, &[], "")
            .await
            .header("total-objects"),
        "0"
    );
}

#[tokio::test]
async fn a_batch_walks_through_all_permissions_once() {
    let kinto = Kinto::with(&[("KINTO_EXPERIMENTAL_PERMISSIONS_ENDPOINT", "true")]);
    for path in ["/buckets/main", COLLECTION, &format!("{RECORDS}/r")] {
        kinto.put(path, json!({"data": {"fill": "x"}})).await;
    }
    let requests = kinto.aws.requests();
    requests.take();
    let alone = kinto.get("/permissions").await;
    let queries = requests.take()["Query"];
    let batch = json!({"defaults": {"path": "/permissions"}, "requests": vec![json!({}); 24]});
    let mut batch: Value = batch;
    batch["requests"]
        .as_array_mut()
        .unwrap()
        .push(json!({"path": COLLECTION}));
    let batch = kinto.post("/batch", batch).await;
    assert_eq!(statuses(&batch), [200; 25]);
    assert_eq!(requests.of("Query"), queries);
    let responses = batch.body["responses"].as_array().unwrap();
    assert!(
        responses[..24]
            .iter()
            .all(|response| response["body"] == alone.body)
    );
    assert_eq!(responses[24]["body"]["data"]["fill"], "x");
}

const ACCOUNTS: &[(&str, &str)] = &[
    ("KINTO_INCLUDES", "kinto.plugins.accounts"),
    ("KINTO_MULTIAUTH_POLICIES", "account"),
    (
        "KINTO_MULTIAUTH_POLICY_ACCOUNT_USE",
        "kinto.plugins.accounts.AccountsPolicy",
    ),
    ("KINTO_ACCOUNT_CREATE_PRINCIPALS", "system.Everyone"),
];

fn basic(user: &str, password: &str) -> String {
    format!(
        "Basic {}",
        BASE64_STANDARD.encode(format!("{user}:{password}"))
    )
}

#[tokio::test]
async fn a_batch_has_one_password_of_an_account_checked() {
    let kinto = Kinto::with(ACCOUNTS).as_user(NOBODY);
    let account = json!({"data": {"password": "right"}});
    assert_eq!(kinto.put("/accounts/alice", account).await.status, 201);
    let of = |password: String| json!({"path": "/buckets/x", "headers": {"Authorization": basic("alice", &password)}});
    let wrong: Vec<_> = (0..25).map(|n| of(format!("wrong{n}"))).collect();
    let batch = kinto.post("/batch", json!({"requests": wrong})).await;
    let statuses_of = statuses(&batch);
    assert_eq!(statuses_of[0], 401);
    assert_eq!(statuses_of[1..], [413; 24]);
    let same = vec![of("wrong".to_owned()); 25];
    let batch = kinto.post("/batch", json!({"requests": same})).await;
    assert_eq!(statuses(&batch), [401; 25]);
    let right = vec![of("right".to_owned()); 25];
    let batch = kinto.post("/batch", json!({"requests": right})).await;
    assert_eq!(statuses(&batch), [403; 25]);
}

#[tokio::test]
async fn a_batch_makes_few_accounts() {
    let kinto = Kinto::with(ACCOUNTS).as_user(NOBODY);
    let make = |n| json!({"method": "PUT", "path": format!("/accounts/user{n}"), "body": {"data": {"password": "x"}}});
    let requests: Vec<_> = (0..25).map(make).collect();
    let batch = kinto.post("/batch", json!({"requests": requests})).await;
    let statuses = statuses(&batch);
    assert_eq!(statuses[..4], [201; 4]);
    assert_eq!(statuses[4..], [413; 21]);
}

#[tokio::test]
async fn a_body_of_too_many_values_is_refused_whoever_sends_it() {
    let kinto = private().await;
    for values in ["1,", "{\"\":1},"] {
        let numbers = format!(
            "{{\"data\":{{\"a\":[{}1]}}}}",
            values.repeat(1_500_000 / values.len())
        );
        for user in [&kinto, &kinto.as_user(NOBODY)] {
            let refused = user.send("POST", RECORDS, &[], &numbers).await;
            assert!([401, 413].contains(&refused.status), "{refused:?}");
            let batch = user.send("POST", "/batch", &[], &numbers).await;
            assert_eq!(batch.error(), (413, 113));
        }
    }
    // What a record can hold is taken.
    let most = json!({"data": {"a": vec![1; 190_000]}});
    assert_eq!(kinto.post(RECORDS, most).await.status, 201);
}

#[tokio::test]
async fn a_batch_does_not_read_more_than_it_can_hold() {
    let kinto = Kinto::with_collection().await;
    let heavy = json!({"data": {"a": vec![json!({"": 1}); 45_000]}});
    for n in 0..6 {
        assert_eq!(
            kinto
                .put(&format!("{RECORDS}/r{n}"), heavy.clone())
                .await
                .status,
            201
        );
    }
    let requests: Vec<_> = (0..6)
        .map(|n| json!({"method": "HEAD", "path": format!("{RECORDS}/r{n}")}))
        .collect();
    let few = kinto
        .post("/batch", json!({"requests": requests[..3]}))
        .await;
    assert_eq!(statuses(&few), [200; 3]);
    let many = kinto.post("/batch", json!({"requests": requests})).await;
    assert_eq!(many.error(), (413, 113));
}

#[tokio::test]
async fn a_json_patch_of_too_many_operations_is_refused() {
    let kinto = private().await;
    let record = format!("{RECORDS}/r0");
    let header = [("Content-Type", "application/json-patch+json")];
    let moves = vec![json!({"op": "move", "from": "/data/n", "path": "/data/n"}); 20_000];
    let refused = kinto
        .send("PATCH", &record, &header, &json!(moves).to_string())
        .await;
    assert_eq!(refused.error(), (400, 107));
    let list = json!({"data": {"a": vec![0; 150_000]}});
    assert_eq!(kinto.put(&record, list).await.status, 200);
    let inserts = vec![json!({"op": "add", "path": "/data/a/0", "value": 1}); 1000];
    let refused = kinto
        .send("PATCH", &record, &header, &json!(inserts).to_string())
        .await;
    assert_eq!(refused.error(), (400, 107));
    assert_eq!(
        kinto.get(&record).await.body["data"]["a"]
            .as_array()
            .unwrap()
            .len(),
        150_000
    );
}

/// A collection with that schema, or its refusal.
async fn with_schema(schema: Value) -> (Kinto, Answer) {
    let kinto = Kinto::with(&[("KINTO_EXPERIMENTAL_COLLECTION_SCHEMA_VALIDATION", "true")]);
    kinto.put("/buckets/main", json!({})).await;
    let put = kinto
        .put(COLLECTION, json!({"data": {"schema": schema}}))
        .await;
    (kinto, put)
}

#[tokio::test]
async fn a_schema_that_would_be_evaluated_without_end_refuses_the_record() {
    let twice = json!({"$ref": "#/definitions/a"});
    let tree = json!({
        "definitions": {"a": {"anyOf": [
            {"properties": {"a": twice, "b": {"type": "string"}}, "required": ["b"]},
            {"properties": {"a": twice, "c": {"type": "string"}}, "required": ["c"]},
        ]}},
        "properties": {"a": twice},
    });
    let mut doubling = json!({"a0": {"type": "object"}});
    for n in 1..40 {
        let half = json!({"$ref": format!("#/definitions/a{}", n - 1)});
        doubling[format!("a{n}")] = json!({"allOf": [half, half]});
    }
    let all = json!({"definitions": doubling, "properties": {"a": {"$ref": "#/definitions/a39"}}});
    let patterns: serde_json::Map<_, _> =
        (0..300).map(|n| (format!("^x{n}y*$"), json!({}))).collect();
    let many = json!({"properties": {"a": {"items": {"patternProperties": patterns}}}});
    let keys: serde_json::Map<_, _> = (0..2000).map(|n| (format!("k{n}"), json!(n))).collect();
    let endless = json!({"properties": {"a": {"allOf": [{"$ref": "#/properties/a"}]}}});
    let deep = (0..40).fold(json!({}), |inner, _| json!({"a": inner}));
    for (schema, data) in [
        (tree, deep.clone()),
        (all, json!({"a": {}})),
        (many, json!({"a": vec![json!(keys); 4]})),
        (endless, json!({"a": 1})),
    ] {
        let (kinto, put) = with_schema(schema).await;
        assert_eq!(put.status, 201, "{put:?}");
        let refused = kinto
            .put(&format!("{RECORDS}/r"), json!({"data": data}))
            .await;
        assert_eq!(refused.error(), (400, 107), "{refused:?}");
        assert_eq!(refused.body["details"][0]["name"], "schema");
        let taken = kinto
            .put(&format!("{RECORDS}/r"), json!({"data": {"b": 1}}))
            .await;
        assert_eq!(taken.status, 201);
    }
}

#[tokio::test]
async fn a_schema_of_large_patterns_is_refused_and_one_of_those_that_people_write_is_taken() {
    let of = |patterns: &[&str]| {
        let all = patterns.iter().map(|pattern| json!({"pattern": pattern}));
        json!({"properties": {"a": {"allOf": all.collect::<Vec<_>>()}}})
    };
    let large: Vec<_> = (0..20).map(|n| format!(r"\w{{60}}x{n}")).collect();
    let large: Vec<_> = large.iter().map(String::as_str).collect();
    let (_, put) = with_schema(of(&large)).await;
    assert_eq!(put.error(), (400, 107));
    let (kinto, put) = with_schema(of(&[r"^\w{1,60}$", "^[0-9a-f-]{36}$|^x", "^(?!.*y)x"])).await;
    assert_eq!(put.status, 201, "{put:?}");
    let taken = kinto
        .put(&format!("{RECORDS}/r"), json!({"data": {"a": "xa"}}))
        .await;
    assert_eq!(taken.status, 201, "{taken:?}");
    let refused = kinto
        .put(&format!("{RECORDS}/r"), json!({"data": {"a": "xy"}}))
        .await;
    assert_eq!(refused.body["details"][0]["name"], "a");
}

#[tokio::test]
async fn all_records_of_a_batch_share_one_budget_of_their_schemas() {
    let pattern = json!({"items": {"pattern": "^(?=a)a*$"}});
    let (kinto, _) = with_schema(json!({"properties": {"a": pattern}})).await;
    let data = json!({"data": {"a": vec!["aaa"; 3000]}});
    let one = kinto.put(&format!("{RECORDS}/r"), data.clone()).await;
    assert_eq!(one.status, 201, "{one:?}");
    let requests: Vec<_> = (0..10)
        .map(|n| json!({"method": "PUT", "path": format!("{RECORDS}/r{n}"), "body": data}))
        .collect();
    let batch = kinto.post("/batch", json!({"requests": requests})).await;
    let statuses = statuses(&batch);
    assert_eq!((statuses[0], statuses[9]), (201, 400), "{statuses:?}");
}
