//! Objects that are shared with a user are found without reading the list.

use std::sync::{Arc, Mutex};

use super::{private, user};
use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::join_all;
use kinto_local::LocalAws;
use serde_json::{Value, json};
use tests::{BOB, COLLECTION, Kinto, NOBODY, RECORDS, TABLE, ids};

/// A collection in which everybody may create records.
async fn open() -> Kinto {
    let kinto = Kinto::with_collection().await;
    let open = json!({"permissions": {"record:create": ["system.Everyone"]}});
    assert_eq!(kinto.patch(COLLECTION, open).await.status, 200);
    kinto.aws.requests().take();
    kinto
}

/// The objects that are shared with the user, and the number of pages of the list read for them.
async fn shared_with(kinto: &Kinto) -> (Vec<String>, u64) {
    kinto.aws.requests().take();
    let listed = kinto.get(RECORDS).await;
    let ids = ids(&listed).into_iter().map(str::to_owned).collect();
    (ids, kinto.aws.requests().of("Query"))
}

#[tokio::test]
async fn what_is_shared_with_somebody_is_found() {
    let kinto = private().await;
    let bob = kinto.as_user(BOB);
    let grant = json!({"permissions": {"read": [bob.user_id().await]}});
    kinto.patch(&format!("{RECORDS}/r3"), grant).await;
    assert_eq!(shared_with(&bob).await.0, ["r3"]);
    assert_eq!(
        bob.send("HEAD", RECORDS, &[], "")
            .await
            .header("total-objects"),
        "1"
    );
    assert_eq!(user(&kinto, "carol").get(RECORDS).await.status, 403);

    let group = json!({"data": {"members": [user(&kinto, "carol").user_id().await]}});
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
    // Another process only knows the table.
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
    let grant = json!({"permissions": {"write": [bob.user_id().await]}});
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
    let grant = json!({"permissions": {"read": [bob.user_id().await]}});
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
    // A new share does not reveal the earlier ones.
    let grant = json!({"permissions": {"read": [user(&kinto, "carol").user_id().await]}});
    kinto.patch(&format!("{RECORDS}/r4"), grant).await;
    assert_eq!(shared_with(&bob).await.0, ["r3"]);
    assert_eq!(shared_with(&user(&kinto, "carol")).await.0, ["r4"]);
}

/// Grants `principal` a record as a version that does not know shares would: the list only gets another timestamp.
fn share_as_an_earlier_version(aws: &LocalAws, principal: &str) {
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
    share_as_an_earlier_version(&kinto.aws, &bob.user_id().await);
    assert_eq!(shared_with(&bob).await.0, ["r3"]);
    for n in 0..5 {
        let written = kinto.put(&format!("{RECORDS}/s{n}"), json!({})).await;
        assert_eq!(written.status, 201);
        assert_eq!(shared_with(&bob).await.0, ["r3"]);
    }
    // A collection that is created again knows its shares.
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
    let (aws, principal) = (kinto.aws.clone(), bob.user_id().await);
    kinto.aws.inject(move |target, _| {
        if target.ends_with("TransactWriteItems") {
            aws.clear_faults();
            share_as_an_earlier_version(&aws, &principal);
        }
        None
    });
    let written = kinto.put(&format!("{RECORDS}/s"), json!({})).await;
    assert_eq!(written.status, 201);
    assert_eq!(kinto.aws.requests().of("TransactWriteItems"), 2);
    assert_eq!(shared_with(&bob).await.0, ["r3"]);
}
