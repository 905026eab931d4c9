//! `__user_data__`: deletes a user, with everything that nobody else could write. The cases are those of Kinto 26.5's
//! own tests.

use serde_json::{Value, json};
use tests::{ALICE, Answer, BOB, Kinto, NOBODY};

const PATH: &str = "/__user_data__";

/// The user id of these credentials.
async fn id(kinto: &Kinto, user: &'static str) -> String {
    let hello = kinto.as_user(user).get("/").await;
    hello.body["user"]["id"].as_str().unwrap().to_owned()
}

/// A server on which Alice may delete users.
async fn server(more: &[(&str, &str)]) -> (Kinto, String, String) {
    let kinto = Kinto::with(&[]);
    let (alice, bob) = (id(&kinto, ALICE).await, id(&kinto, BOB).await);
    let mut vars = vec![("KINTO_USER_DATA_DELETE_PRINCIPALS", &*alice)];
    vars.extend(more);
    (Kinto::with(&vars).as_user(ALICE), alice, bob)
}

fn granted<'a>(answer: &'a Answer, permission: &str) -> &'a Value {
    &answer.body["permissions"][permission]
}

#[tokio::test]
async fn what_the_user_alone_may_write_is_deleted_and_the_rest_forgets_the_user() {
    let (kinto, alice, bob) = server(&[]).await;
    let bobs = kinto.as_user(BOB);
    // Bob's bucket, with a collection of Alice's in it.
    bobs.put("/buckets/bobs", json!({})).await;
    bobs.put("/buckets/bobs/collections/own", json!({})).await;
    let shared = json!({"permissions": {"collection:create": [alice]}});
    bobs.patch("/buckets/bobs", shared).await;
    kinto
        .put("/buckets/bobs/collections/alices", json!({}))
        .await;
    // Alice's bucket, with objects of Bob's in it, and with Bob in a group.
    let written = json!({"permissions": {"write": [bob]}});
    kinto.put("/buckets/alices", written.clone()).await;
    bobs.put("/buckets/alices/collections/bobs", json!({}))
        .await;
    kinto.put("/buckets/alices/collections/c", written).await;
    let record = |id: &str| format!("/buckets/alices/collections/c/records/{id}");
    bobs.put(&record("bobs"), json!({})).await;
    let read = json!({"data": {"n": 1}, "permissions": {"read": [bob, "basicauth:other"]}});
    kinto.put(&record("alices"), read).await;
    let members = json!({"data": {"members": [bob, alice]}});
    kinto.put("/buckets/alices/groups/g", members).await;
    let both = json!({"permissions": {"write": [alice]}});
    bobs.put("/buckets/both", both).await;

    let answer = kinto.delete(&format!("{PATH}/{bob}")).await;
    assert_eq!(
        (answer.status, &answer.body),
        (200, &json!({"data": {"principal": bob}}))
    );

    let status = async |path: &str| kinto.get(path).await.status;
    assert_eq!(status("/buckets/bobs").await, 403);
    assert_eq!(status("/buckets/alices/collections/bobs").await, 404);
    assert_eq!(status(&record("bobs")).await, 404);
    let bucket = kinto.get("/buckets/alices").await;
    assert_eq!(granted(&bucket, "write"), &json!([alice]));
    let collection = kinto.get("/buckets/alices/collections/c").await;
    assert_eq!(granted(&collection, "write"), &json!([alice]));
    let left = kinto.get(&record("alices")).await;
    assert_eq!(left.body["data"]["n"], 1);
    assert_eq!(granted(&left, "read"), &json!(["basicauth:other"]));
    let group = kinto.get("/buckets/alices/groups/g").await;
    assert_eq!(group.body["data"]["members"], json!([alice]));
    let hello = bobs.get("/").await;
    let principals = hello.body["user"]["principals"].as_array().unwrap();
    assert!(!principals.contains(&json!("/buckets/alices/groups/g")));
    let both = kinto.get("/buckets/both").await;
    assert_eq!(granted(&both, "write"), &json!([alice]));

    // A second time, it changes nothing.
    let before = kinto.get("/buckets").await.body;
    assert_eq!(kinto.delete(&format!("{PATH}/{bob}")).await.status, 200);
    assert_eq!(kinto.get("/buckets").await.body, before);
}

#[tokio::test]
async fn who_is_not_named_deletes_nobody() {
    let (kinto, _, bob) = server(&[]).await;
    let path = format!("{PATH}/{bob}");
    kinto.as_user(BOB).put("/buckets/bobs", json!({})).await;
    assert_eq!(kinto.as_user(BOB).delete(&path).await.error(), (403, 121));
    assert_eq!(
        kinto.as_user(NOBODY).delete(&path).await.error(),
        (401, 104)
    );
    assert_eq!(kinto.get(&path).await.error(), (405, 115));
    assert_eq!(kinto.as_user(BOB).get("/buckets/bobs").await.status, 200);
    // Without the setting nobody may.
    let kinto = Kinto::with(&[]).as_user(ALICE);
    assert_eq!(kinto.delete(&path).await.error(), (403, 121));
}

#[tokio::test]
async fn a_user_with_an_account_loses_it() {
    let (kinto, ..) = server(&[
        ("KINTO_INCLUDES", "kinto.plugins.accounts"),
        ("KINTO_MULTIAUTH_POLICIES", "account basicauth"),
        (
            "KINTO_MULTIAUTH_POLICY_ACCOUNT_USE",
            "kinto.plugins.accounts.AccountsPolicy",
        ),
        ("KINTO_ACCOUNT_CREATE_PRINCIPALS", "system.Everyone"),
        ("MULTIAUTH_POLICIES", "account basicauth"),
    ])
    .await;
    let password = json!({"data": {"password": "p"}});
    let created = kinto.as_user(NOBODY).put("/accounts/carol", password).await;
    assert_eq!(created.status, 201);
    let carol = kinto.as_user("Basic Y2Fyb2w6cA==");
    assert_eq!(carol.get("/accounts/carol").await.status, 200);
    let deleted = kinto.delete(&format!("{PATH}/account:carol")).await;
    assert_eq!(deleted.status, 200);
    let hello = carol.get("/").await;
    assert_ne!(hello.body["user"]["id"], "account:carol");
}

#[tokio::test]
async fn more_than_a_transaction_holds_is_deleted_in_parts() {
    let (kinto, alice, bob) = server(&[]).await;
    let bobs = kinto.as_user(BOB);
    kinto
        .put("/buckets/b", json!({"permissions": {"write": [bob]}}))
        .await;
    kinto.put("/buckets/b/collections/c", json!({})).await;
    for n in 0..10 {
        let put = |i: u32| {
            let path = format!("/v1/buckets/b/collections/c/records/r{}", n * 25 + i);
            json!({"method": "PUT", "path": path, "body": {}})
        };
        let requests: Vec<_> = (0..25).map(put).collect();
        let answer = bobs.post("/batch", json!({"requests": requests})).await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(kinto.delete(&format!("{PATH}/{bob}")).await.status, 200);
    let records = kinto.get("/buckets/b/collections/c/records").await;
    assert_eq!(records.body["data"], json!([]));
    let bucket = kinto.get("/buckets/b").await;
    assert_eq!(granted(&bucket, "write"), &json!([alice]));
}
