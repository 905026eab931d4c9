//! Creating, replacing, patching and deleting objects. Statuses and error numbers are those of Kinto 26.5.0.

use std::time::Duration;

use kinto_serverless::timestamp::Timestamp;
use serde_json::json;
use tests::{Kinto, RECORD, RECORDS};

#[tokio::test]
async fn put_creates_and_then_replaces() {
    let kinto = Kinto::with_collection().await;
    let created = kinto.put(RECORD, json!({"data": {"a": 1, "b": 2}})).await;
    assert_eq!(created.status, 201);
    assert_eq!(created.body["data"]["id"], "r1");
    assert_eq!(
        created.header("etag"),
        format!("\"{}\"", created.last_modified())
    );
    assert!(!created.header("last-modified").is_empty());

    let replaced = kinto.put(RECORD, json!({"data": {"c": 3}})).await;
    assert_eq!(replaced.status, 200);
    assert!(replaced.last_modified() > created.last_modified());
    let read = kinto.get(RECORD).await;
    assert_eq!(
        read.body["data"],
        json!({"c": 3, "id": "r1", "last_modified": replaced.last_modified()})
    );
    assert_eq!(read.header("cache-control"), "no-cache, no-store");
}

#[tokio::test]
async fn put_without_data_keeps_the_data_and_takes_a_new_time() {
    let kinto = Kinto::with_collection().await;
    let created = kinto.put(RECORD, json!({"data": {"a": 1}})).await;
    let touched = kinto.send("PUT", RECORD, &[], "").await;
    assert_eq!(
        (touched.status, &touched.body["data"]["a"]),
        (200, &json!(1))
    );
    assert!(touched.last_modified() > created.last_modified());
}

#[tokio::test]
async fn post_creates_under_a_new_id_and_shows_what_is_there_under_a_given_one() {
    let kinto = Kinto::with_collection().await;
    let created = kinto.post(RECORDS, json!({"data": {"a": 1}})).await;
    assert_eq!(created.status, 201);
    let id = created.body["data"]["id"].as_str().unwrap();
    assert_eq!(id.len(), 36);
    assert_eq!(
        kinto.get(&format!("{RECORDS}/{id}")).await.body["data"]["a"],
        1
    );

    assert_eq!(
        kinto
            .post(RECORDS, json!({"data": {"id": "r1", "a": 1}}))
            .await
            .status,
        201
    );
    let again = kinto
        .post(RECORDS, json!({"data": {"id": "r1", "a": 2}}))
        .await;
    assert_eq!((again.status, &again.body["data"]["a"]), (200, &json!(1)));
    assert_eq!(
        kinto
            .post(RECORDS, json!({"data": {"id": "b@d"}}))
            .await
            .error(),
        (400, 107)
    );
    assert_eq!(kinto.post("/buckets", json!({})).await.status, 201);
}

#[tokio::test]
async fn patch_changes_the_fields_that_it_names() {
    let kinto = Kinto::with_collection().await;
    kinto
        .put(RECORD, json!({"data": {"a": 1, "b": {"c": 1}}}))
        .await;
    let plain = kinto
        .patch(RECORD, json!({"data": {"b": {"d": 2}, "e": null}}))
        .await;
    assert_eq!(plain.status, 200);
    assert_eq!(
        (&plain.body["data"]["a"], &plain.body["data"]["b"]),
        (&json!(1), &json!({"d": 2}))
    );
    assert!(plain.body["data"].as_object().unwrap().contains_key("e"));

    let merge = [("content-type", "application/merge-patch+json")];
    let merged = kinto
        .send(
            "PATCH",
            RECORD,
            &merge,
            r#"{"data": {"a": null, "b": {"f": 3}}}"#,
        )
        .await;
    assert_eq!(merged.body["data"]["b"], json!({"d": 2, "f": 3}));
    assert!(!merged.body["data"].as_object().unwrap().contains_key("a"));

    let operations = [("content-type", "application/json-patch+json")];
    let body = r#"[{"op": "move", "from": "/data/b/f", "path": "/data/g"},
                   {"op": "add", "path": "/permissions/read/system.Everyone", "value": 1}]"#;
    let patched = kinto.send("PATCH", RECORD, &operations, body).await;
    assert_eq!(
        (patched.status, &patched.body["data"]["g"]),
        (200, &json!(3))
    );
    assert_eq!(
        patched.body["permissions"]["read"],
        json!(["system.Everyone"])
    );
    for wrong in [
        r#"[{"op": "remove", "path": "/data/nope"}]"#,
        r#"[{"op": "boo", "path": "/data/a"}]"#,
        "{}",
    ] {
        assert_eq!(
            kinto
                .send("PATCH", RECORD, &operations, wrong)
                .await
                .error(),
            (400, 107),
            "{wrong}"
        );
    }
    assert_eq!(kinto.patch(RECORD, json!({})).await.error(), (400, 107));
    assert_eq!(
        kinto
            .patch(&format!("{RECORDS}/nope"), json!({"data": {}}))
            .await
            .error(),
        (404, 110)
    );
}

#[tokio::test]
async fn patch_answers_with_as_much_as_is_asked_for() {
    let kinto = Kinto::with_collection().await;
    kinto.put(RECORD, json!({"data": {"a": 1, "b": 2}})).await;
    let light = [("response-behavior", "light")];
    let answer = kinto
        .send("PATCH", RECORD, &light, r#"{"data": {"a": 1, "b": 3}}"#)
        .await;
    assert_eq!(answer.body, json!({"data": {"b": 3}}));
    let diff = [("response-behavior", "diff")];
    let answer = kinto
        .send("PATCH", RECORD, &diff, r#"{"data": {"b": 4}}"#)
        .await;
    assert_eq!(answer.body, json!({"data": {}}));
    let unknown = [("response-behavior", "verbose")];
    assert_eq!(
        kinto
            .send("PATCH", RECORD, &unknown, r#"{"data": {"b": 5}}"#)
            .await
            .error(),
        (400, 107)
    );
}

#[tokio::test]
async fn delete_leaves_a_tombstone_and_put_brings_the_object_back() {
    let kinto = Kinto::with_collection().await;
    let created = kinto.put(RECORD, json!({})).await;
    let deleted = kinto.delete(RECORD).await;
    assert_eq!(deleted.status, 200);
    assert_eq!(
        deleted.body["data"],
        json!({"id": "r1", "last_modified": deleted.last_modified(), "deleted": true})
    );
    assert!(deleted.last_modified() > created.last_modified());
    assert_eq!(kinto.get(RECORD).await.error(), (404, 110));
    assert_eq!(kinto.delete(RECORD).await.error(), (404, 110));
    assert_eq!(kinto.put(RECORD, json!({})).await.status, 201);
}

#[tokio::test]
async fn a_bucket_or_collection_made_anew_has_none_of_the_old_children() {
    let kinto = Kinto::with_collection().await;
    let old = kinto.put(RECORD, json!({"data": {"old": true}})).await;

    for parent in ["/buckets/main/collections/one", "/buckets/main"] {
        assert_eq!(kinto.delete(parent).await.status, 200);
        assert_ne!(kinto.get(RECORD).await.status, 200);
        assert_eq!(kinto.put(RECORD, json!({})).await.error(), (404, 111));
        kinto.put("/buckets/main", json!({})).await;
        kinto.put("/buckets/main/collections/one", json!({})).await;
        assert_eq!(kinto.get(RECORD).await.error(), (404, 110));
        let anew = kinto.put(RECORD, json!({"data": {"old": false}})).await;
        assert_eq!(
            (anew.status, &anew.body["data"]["old"]),
            (201, &json!(false))
        );
        assert!(anew.last_modified() > old.last_modified());
    }
}

#[tokio::test]
async fn deleting_a_bucket_does_not_touch_one_of_a_longer_name() {
    let kinto = Kinto::new();
    for bucket in ["a", "a-staging"] {
        kinto.put(&format!("/buckets/{bucket}"), json!({})).await;
        kinto
            .put(&format!("/buckets/{bucket}/collections/c"), json!({}))
            .await;
    }
    kinto.delete("/buckets/a").await;
    assert_eq!(
        kinto.get("/buckets/a-staging/collections/c").await.status,
        200
    );
}

#[tokio::test]
async fn a_time_given_by_the_client_is_kept_where_kinto_keeps_it() {
    let kinto = Kinto::with_collection().await;
    let past = kinto
        .put(
            &format!("{RECORDS}/past"),
            json!({"data": {"last_modified": 12345}}),
        )
        .await;
    assert_eq!(past.last_modified(), 12345);
    // At most a day ahead: tests/it/lists/clock.rs.
    let hours = Duration::from_secs(12 * 3600);
    let future = Timestamp::now().after(hours).0;
    let ahead = kinto
        .put(
            &format!("{RECORDS}/ahead"),
            json!({"data": {"last_modified": future}}),
        )
        .await;
    assert_eq!(ahead.last_modified(), future);
    let equal = kinto
        .put(
            &format!("{RECORDS}/equal"),
            json!({"data": {"last_modified": future}}),
        )
        .await;
    assert_eq!(equal.last_modified(), future + 1);
    let not_later = kinto
        .put(
            &format!("{RECORDS}/ahead"),
            json!({"data": {"last_modified": future}}),
        )
        .await;
    assert_eq!(not_later.last_modified(), future + 2);
    let no_integer = kinto
        .put(
            &format!("{RECORDS}/text"),
            json!({"data": {"last_modified": "x"}}),
        )
        .await;
    assert_eq!(no_integer.status, 201);
    let never = kinto
        .put(
            &format!("{RECORDS}/never"),
            json!({"data": {"last_modified": u64::MAX}}),
        )
        .await;
    assert_eq!(never.error(), (400, 107));
}
