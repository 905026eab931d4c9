//! Permissions to read, write and create. Statuses and error numbers are those of Kinto 26.5.0.

use serde_json::json;
use tests::{BOB, Kinto, NOBODY, RECORD, RECORDS};

#[tokio::test]
async fn who_creates_owns_and_others_need_a_grant() {
    let alice = Kinto::with_collection().await;
    let (bob, nobody) = (alice.as_user(BOB), alice.as_user(NOBODY));
    let created = alice.put(RECORD, json!({})).await;
    let owner = created.body["permissions"]["write"][0]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(owner.starts_with("basicauth:"));

    for (method, body) in [
        ("GET", ""),
        ("PUT", "{}"),
        ("PATCH", r#"{"data": {}}"#),
        ("DELETE", ""),
    ] {
        assert_eq!(
            bob.send(method, RECORD, &[], body).await.error(),
            (403, 121),
            "{method}"
        );
        let refused = nobody.send(method, RECORD, &[], body).await;
        assert_eq!(refused.error(), (401, 104), "{method}");
        assert_eq!(refused.header("www-authenticate"), "Basic realm=\"Realm\"");
    }
    alice
        .patch(
            RECORD,
            json!({"permissions": {"read": ["system.Everyone"]}}),
        )
        .await;
    assert_eq!(nobody.get(RECORD).await.body["permissions"], json!({}));
    assert_eq!(nobody.delete(RECORD).await.status, 401);

    let collection = "/buckets/main/collections/one";
    alice
        .patch(
            collection,
            json!({"permissions": {"record:create": ["system.Authenticated"]}}),
        )
        .await;
    assert_eq!(
        bob.put(&format!("{RECORDS}/bobs"), json!({})).await.status,
        201
    );
    assert_eq!(bob.get(RECORD).await.status, 200);
    assert_eq!(bob.get(collection).await.status, 200);
    assert_eq!(bob.put(RECORD, json!({})).await.status, 403);
    assert_eq!(
        bob.send("PUT", RECORD, &[("if-none-match", "*")], "{}")
            .await
            .error(),
        (412, 114)
    );
    assert_eq!(
        alice.get(&format!("{RECORDS}/bobs")).await.body["permissions"],
        json!({})
    );
}

#[tokio::test]
async fn settings_grant_what_no_object_grants() {
    let kinto = Kinto::with(&[("KINTO_BUCKET_CREATE_PRINCIPALS", "system.Everyone")]);
    let made = kinto.as_user(NOBODY).put("/buckets/free", json!({})).await;
    assert_eq!(
        (made.status, &made.body["permissions"]["write"]),
        (201, &json!(["system.Everyone"]))
    );
    let kinto = Kinto::with(&[("KINTO_BUCKET_CREATE_PRINCIPALS", "basicauth:somebody")]);
    assert_eq!(
        kinto.put("/buckets/free", json!({})).await.error(),
        (403, 121)
    );
}

#[tokio::test]
async fn permissions_are_replaced_by_put_and_changed_by_patch() {
    let kinto = Kinto::with_collection().await;
    let granted = |answer: &tests::Answer, permission: &str| {
        answer.body["permissions"][permission]
            .as_array()
            .map_or(0, Vec::len)
    };
    kinto
        .put(
            RECORD,
            json!({"permissions": {"read": ["a", "b"], "write": ["c"]}}),
        )
        .await;
    let kept = kinto.put(RECORD, json!({"data": {}})).await;
    assert_eq!((granted(&kept, "read"), granted(&kept, "write")), (2, 2));
    let patched = kinto
        .patch(RECORD, json!({"permissions": {"read": ["d"]}}))
        .await;
    assert_eq!(
        (granted(&patched, "read"), granted(&patched, "write")),
        (1, 2)
    );
    let replaced = kinto
        .put(RECORD, json!({"permissions": {"read": ["e"]}}))
        .await;
    assert_eq!(
        (granted(&replaced, "read"), granted(&replaced, "write")),
        (1, 1)
    );
}

#[tokio::test]
async fn what_does_not_exist_is_told_to_those_who_may_know() {
    let alice = Kinto::with_collection().await;
    let (bob, nobody) = (alice.as_user(BOB), alice.as_user(NOBODY));
    assert_eq!(alice.get("/buckets/unknown").await.error(), (403, 121));
    assert_eq!(nobody.get("/buckets/unknown").await.error(), (401, 104));
    assert_eq!(
        alice
            .get("/buckets/unknown/collections/c/records/r")
            .await
            .error(),
        (403, 121)
    );
    assert_eq!(
        alice
            .put("/buckets/unknown/collections/c", json!({}))
            .await
            .error(),
        (403, 121)
    );
    let missing = alice
        .put("/buckets/main/collections/nope/records/r", json!({}))
        .await;
    assert_eq!(missing.error(), (404, 111));
    assert_eq!(
        missing.body["details"],
        json!({"id": "nope", "resource_name": "collection"})
    );
    assert_eq!(
        alice
            .get("/buckets/main/collections/nope/records/r")
            .await
            .error(),
        (404, 111)
    );
    let missing = alice.get(&format!("{RECORDS}/nope")).await;
    assert_eq!(missing.error(), (404, 110));
    assert_eq!(
        missing.body["details"],
        json!({"id": "nope", "resource_name": "record"})
    );
    assert_eq!(
        bob.get(&format!("{RECORDS}/nope")).await.error(),
        (403, 121)
    );
}
