//! What the HTTP API answers. Statuses and error numbers are those that Kinto 26.5.0 gave to the same requests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::time::Duration;

use kinto_serverless::timestamp::Timestamp;
use proptest::prelude::*;
use serde_json::json;
use tests::{BOB, Kinto, NOBODY, nested};

const RECORD: &str = "/buckets/main/collections/one/records/r1";
const RECORDS: &str = "/buckets/main/collections/one/records";

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
    // At most a day ahead: tests/attacks.rs.
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

#[tokio::test]
async fn preconditions_guard_writes_and_spare_reads() {
    let kinto = Kinto::with_collection().await;
    let created = kinto.put(RECORD, json!({"data": {"a": 1}})).await;
    let etag = created.header("etag").to_owned();

    let unchanged = kinto
        .send("GET", RECORD, &[("if-none-match", &etag)], "")
        .await;
    assert_eq!(
        (unchanged.status, unchanged.header("etag")),
        (304, etag.as_str())
    );
    let above = format!("\"{}\"", created.last_modified() + 1);
    for stale in ["\"12345\"", &above] {
        let refused = kinto
            .send("PUT", RECORD, &[("if-match", stale)], "{}")
            .await;
        assert_eq!(refused.error(), (412, 114), "{stale}");
        assert_eq!(refused.body["details"]["existing"], created.body["data"]);
        assert_eq!(refused.header("etag"), etag);
        assert_eq!(
            kinto
                .send("GET", RECORD, &[("if-match", stale)], "")
                .await
                .error(),
            (412, 114)
        );
        assert_eq!(
            kinto
                .send("PATCH", RECORD, &[("if-match", stale)], r#"{"data": {}}"#)
                .await
                .error(),
            (412, 114)
        );
        assert_eq!(
            kinto
                .send("DELETE", RECORD, &[("if-match", stale)], "")
                .await
                .error(),
            (412, 114)
        );
    }
    assert_eq!(
        kinto
            .send("PUT", RECORD, &[("if-none-match", "*")], "{}")
            .await
            .error(),
        (412, 114)
    );
    let missing = kinto
        .send(
            "PUT",
            &format!("{RECORDS}/r9"),
            &[("if-match", &etag)],
            "{}",
        )
        .await;
    assert_eq!(
        (missing.error(), missing.header("etag")),
        ((412, 114), etag.as_str())
    );
    assert_eq!(kinto.get(RECORD).await.header("etag"), etag);

    assert_eq!(
        kinto
            .send("PUT", RECORD, &[("if-match", &etag)], "{}")
            .await
            .status,
        200
    );
    for malformed in ["abc", "12", "\"1"] {
        assert_eq!(
            kinto
                .send("GET", RECORD, &[("if-match", malformed)], "")
                .await
                .error(),
            (400, 107)
        );
    }
}

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

#[tokio::test]
async fn bad_input_is_refused_and_writes_nothing() {
    let kinto = Kinto::with_collection().await;
    let json_type = ("content-type", "application/json");
    for (path, header, body, error) in [
        (RECORD, json_type, "{\"data\": {\"a\": 1}", (400, 107)),
        (RECORD, json_type, "[1]", (400, 107)),
        (RECORD, json_type, "{\"data\": []}", (400, 107)),
        (RECORD, json_type, "{\"data\": {}, \"foo\": 1}", (400, 107)),
        (
            RECORD,
            json_type,
            "{\"data\": {\"id\": \"other\"}}",
            (400, 107),
        ),
        (
            RECORD,
            json_type,
            "{\"permissions\": {\"fly\": []}}",
            (400, 107),
        ),
        (RECORD, ("content-type", "text/plain"), "{}", (415, 107)),
        (RECORD, ("accept", "text/html"), "{}", (406, 107)),
        (RECORD, ("if-match", "abc"), "{}", (400, 107)),
        (&format!("{RECORDS}/b@d"), json_type, "{}", (400, 107)),
        (
            &format!("{RECORDS}/{}", "x".repeat(256)),
            json_type,
            "{}",
            (400, 107),
        ),
        ("/buckets/b@d", json_type, "{}", (400, 107)),
        (
            "/buckets/b@d/collections/x/records/r",
            json_type,
            "{}",
            (404, 111),
        ),
        (
            "/buckets/main/collections/two",
            json_type,
            "{\"data\": {\"schema\": 3}}",
            (400, 107),
        ),
        (
            "/buckets/main/collections/two",
            json_type,
            "{\"data\": {\"cache_expires\": \"x\"}}",
            (400, 107),
        ),
        ("/buckets/monitor", json_type, "{}", (403, 121)),
        (
            "/buckets/monitor/collections/changes/records/r",
            json_type,
            "{}",
            (403, 121),
        ),
    ] {
        let refused = kinto.send("PUT", path, &[header], body).await;
        assert_eq!(refused.error(), error, "{path} {body}");
    }
    let huge = json!({"data": {"text": "x".repeat(400 * 1024)}});
    assert_eq!(kinto.put(RECORD, huge).await.error(), (413, 113));
    assert_eq!(
        kinto
            .as_user("Basic zzz")
            .put(RECORD, json!({}))
            .await
            .error(),
        (401, 104)
    );
    assert_eq!(kinto.aws.requests().of("TransactWriteItems"), 0);
}

#[tokio::test]
async fn an_object_of_just_under_400_kb_is_stored() {
    let kinto = Kinto::with_collection().await;
    let large = json!({"data": {"text": "é".repeat(198 * 1024)}});
    assert_eq!(kinto.put(RECORD, large).await.status, 201);
    assert_eq!(kinto.get(RECORD).await.status, 200);
}

#[tokio::test]
async fn methods_and_paths_are_kintos() {
    let kinto = Kinto::with_collection().await;
    let refused = kinto.send("POST", RECORD, &[], "{}").await;
    assert_eq!(refused.error(), (405, 115));
    assert_eq!(
        refused.header("allow"),
        "GET, HEAD, PUT, PATCH, DELETE, OPTIONS"
    );
    assert_eq!(kinto.get("/nothing").await.error(), (404, 111));
    assert_eq!(
        kinto.send_raw("GET", "/v0/buckets", &[], "").await.error(),
        (404, 116)
    );
    for (path, location, max_age) in [
        (
            "/buckets/main?_fields=a",
            "/v1/buckets/main?_fields=a",
            "no-store",
        ),
        ("/v1", "/v1/", "private, max-age=3600"),
        (
            "/v1/buckets/main/",
            "/v1/buckets/main",
            "private, max-age=3600",
        ),
    ] {
        let moved = kinto.send_raw("GET", path, &[], "").await;
        assert_eq!(
            (
                moved.status,
                moved.header("location"),
                moved.header("cache-control")
            ),
            (307, location, max_age)
        );
    }
    let head = kinto.send("HEAD", "/buckets/main", &[], "").await;
    assert_eq!(
        (
            head.status,
            head.body.is_null(),
            head.header("etag").is_empty()
        ),
        (200, true, false)
    );
    let picked = kinto.get("/buckets/main?_fields=nope").await;
    assert_eq!(picked.body["data"].as_object().unwrap().len(), 2);
}

#[tokio::test]
async fn nothing_is_written_when_the_server_is_readonly() {
    let kinto = Kinto::with(&[("KINTO_READONLY", "true")]);
    assert_eq!(
        kinto.put("/buckets/main", json!({})).await.error(),
        (405, 115)
    );
    assert_eq!(kinto.aws.requests().total(), 0);
}

#[tokio::test]
async fn hello_tells_of_the_server_its_capabilities_and_the_user() {
    let kinto = Kinto::with(&[("KINTO_BACKOFF", "30")]);
    let hello = kinto.get("/").await;
    assert_eq!(hello.status, 200);
    assert_eq!(hello.body["url"], "http://kinto.test/v1/");
    assert_eq!(hello.body["http_api_version"], "1.23");
    assert_eq!(hello.body["settings"]["batch_max_requests"], 25);
    assert_eq!(
        hello.body["capabilities"]["changes"]["collections"],
        json!(["/buckets/main"])
    );
    assert!(hello.body["capabilities"]["megaphone"].is_null());
    assert_eq!(hello.body["user"]["principals"][1], "system.Everyone");
    assert_eq!(hello.header("backoff"), "30");
    assert!(kinto.as_user(NOBODY).get("/").await.body["user"].is_null());
    assert_eq!(kinto.get("/nothing").await.header("backoff"), "30");
    assert_eq!(
        kinto.get("/__version__").await.body["name"],
        "kinto-serverless"
    );
    assert_eq!(kinto.get("/__lbheartbeat__").await.body, json!({}));
}

#[tokio::test]
async fn the_heartbeat_tells_when_the_storage_fails() {
    let kinto = Kinto::new();
    let beat = kinto.get("/__heartbeat__").await;
    assert_eq!(
        (beat.status, beat.body),
        (200, json!({"permission": true, "storage": true}))
    );
    kinto
        .aws
        .inject(|_, _| Some(kinto_local::Fault::error("ResourceNotFoundException")));
    let beat = kinto.get("/__heartbeat__").await;
    assert_eq!(
        (beat.status, beat.body),
        (503, json!({"permission": false, "storage": false}))
    );
}

#[tokio::test]
async fn of_two_errors_the_one_that_kinto_sees_first_is_told() {
    let kinto = Kinto::with_collection().await;
    kinto.put(RECORD, json!({})).await;
    let json_patch = ("Content-Type", "application/json-patch+json");
    for (method, path, headers, body, error) in [
        (
            "GET",
            "/buckets/main/collections/_a/records",
            vec![],
            "",
            (404, 111),
        ),
        (
            "GET",
            "/buckets/-/collections/a/records",
            vec![],
            "",
            (403, 121),
        ),
        (
            "GET",
            "/buckets?_limit=-1",
            vec![("If-None-Match", "*")],
            "",
            (400, 107),
        ),
        (
            "GET",
            "/buckets?in_last_modified=x",
            vec![("If-None-Match", "*")],
            "",
            (412, 114),
        ),
        (
            "PATCH",
            "/buckets/main/collections/none",
            vec![json_patch],
            r#"[{"op": "add", "path": "/data/l"}]"#,
            (404, 110),
        ),
        (
            "PATCH",
            RECORD,
            vec![json_patch],
            r#"[{"op": "add", "path": "/data/l"}]"#,
            (400, 107),
        ),
        (
            "PATCH",
            "/buckets/main/collections/none",
            vec![("Response-Behavior", "LIGHT")],
            "{}",
            (400, 107),
        ),
        (
            "POST",
            "/buckets/main/collections/none/records",
            vec![],
            r#"{"data": {"id": "a b"}}"#,
            (404, 111),
        ),
        (
            "POST",
            RECORDS,
            vec![],
            r#"{"data": {"id": "a b"}}"#,
            (400, 107),
        ),
        (
            "POST",
            RECORDS,
            vec![],
            r#"{"data": {"id": 3}}"#,
            (400, 107),
        ),
        (
            "DELETE",
            "/buckets/main/collections/none?last_modified=abc",
            vec![],
            "",
            (404, 110),
        ),
        (
            "DELETE",
            "/buckets/main/collections/one?last_modified=abc",
            vec![("If-Match", "\"1\"")],
            "",
            (412, 114),
        ),
        (
            "PUT",
            RECORD,
            vec![("Accept", "text/html"), ("Content-Type", "text/html")],
            "{}",
            (406, 107),
        ),
    ] {
        let answer = kinto.send(method, path, &headers, body).await;
        assert_eq!(answer.error(), error, "{method} {path} {headers:?} {body}");
    }
}

#[tokio::test]
async fn a_field_that_became_null_as_asked_is_no_difference() {
    let kinto = Kinto::with_collection().await;
    kinto.put(RECORD, json!({"data": {"t": 1}})).await;
    let body = json!({"data": {"t": null}}).to_string();
    let header = [("Response-Behavior", "diff")];
    let answer = kinto.send("PATCH", RECORD, &header, &body).await;
    assert_eq!((answer.status, &answer.body["data"]), (200, &json!({})));
}

#[tokio::test]
async fn what_is_malformed_in_a_json_patch_is_named() {
    let kinto = Kinto::with_collection().await;
    for (operations, name) in [
        (json!({}), json!("")),
        (json!([3]), json!("0")),
        (json!([{"op": "foo", "path": "/data/x"}]), json!("0.op")),
        (json!([{"op": "add"}]), json!("0.path")),
        (json!([{"op": "add", "path": "data"}]), json!("0.path")),
        (
            json!([{"op": "test", "path": "/data"}, {"path": "/data"}]),
            json!("1.op"),
        ),
        (
            json!([{"op": "remove", "path": "/data/x", "more": 1}]),
            json!("0"),
        ),
        (json!([{"op": "move", "path": "/data/x"}]), json!(null)),
        (json!([{"op": "remove", "path": "/data/none"}]), json!(null)),
    ] {
        let header = [("Content-Type", "application/json-patch+json")];
        let answer = kinto
            .send("PATCH", "/buckets/main", &header, &operations.to_string())
            .await;
        assert_eq!(
            (answer.error(), &answer.body["details"][0]["name"]),
            ((400, 107), &name),
            "{operations}"
        );
    }
}

#[tokio::test]
async fn data_may_be_a_hundred_levels_deep_and_is_then_read_again_anywhere() {
    let kinto = Kinto::with_collection().await;
    for path in ["/buckets/main", RECORD] {
        let answer = kinto.put(path, json!({"data": nested(100)})).await;
        assert!(answer.status < 300, "{answer:?}");
        let too_deep = kinto.put(path, json!({"data": nested(101)})).await;
        assert_eq!(
            (too_deep.error(), &too_deep.body["details"][0]["name"]),
            ((400, 107), &json!("data"))
        );
    }
    let requests = json!([{"path": RECORD}, {"path": RECORDS}]);
    let batch = kinto.post("/batch", json!({"requests": requests})).await;
    let read = [
        kinto.get(RECORD).await.body["data"].clone(),
        kinto.get(RECORDS).await.body["data"][0].clone(),
        batch.body["responses"][0]["body"]["data"].clone(),
        batch.body["responses"][1]["body"]["data"][0].clone(),
    ];
    for data in read {
        assert_eq!(data["a"], nested(99));
    }

    // Nor by a change of what is there.
    let bottom = "/a".repeat(99);
    let operations = json!([{"op": "add", "path": format!("/data{bottom}/b"), "value": {}}]);
    for (content_type, body) in [
        ("application/json", json!({"data": {"a": nested(100)}})),
        (
            "application/merge-patch+json",
            json!({"data": {"b": nested(100)}}),
        ),
        ("application/json-patch+json", operations),
    ] {
        let header = [("content-type", content_type)];
        let answer = kinto
            .send("PATCH", RECORD, &header, &body.to_string())
            .await;
        assert_eq!(answer.error(), (400, 107), "{content_type}");
    }
}

#[tokio::test]
async fn a_request_costs_as_many_round_trips_as_the_design_allows() {
    let kinto = Kinto::with_collection().await;
    let requests = kinto.aws.requests();
    for (method, path, body, reads, writes) in [
        ("PUT", RECORD, "{}", 1, 1),
        ("PUT", RECORD, "{}", 1, 1),
        ("PATCH", RECORD, r#"{"data": {"a": 1}}"#, 1, 1),
        ("GET", RECORD, "", 1, 0),
        ("HEAD", RECORD, "", 1, 0),
        ("DELETE", RECORD, "", 1, 1),
        ("POST", RECORDS, "{}", 1, 1),
        ("GET", "/buckets/main", "", 1, 0),
        ("PUT", "/buckets/other", "{}", 1, 1),
    ] {
        requests.take();
        kinto.send(method, path, &[], body).await;
        let counts = (
            requests.of("BatchGetItem"),
            requests.of("TransactWriteItems"),
            requests.total(),
        );
        assert_eq!(counts, (reads, writes, reads + writes), "{method} {path}");
    }
    requests.take();
    assert_eq!(
        kinto
            .get("/buckets/monitor/collections/changes/records")
            .await
            .status,
        200
    );
    // Before the first batch of the stream, which makes the monitor's state, there may be entries of an earlier version.
    assert_eq!((requests.of("Query"), requests.total()), (1, 2));
    requests.take();
    // Which groups one is in: those of one's own and those of everybody with credentials, at once.
    kinto.get("/").await;
    assert_eq!((requests.of("Query"), requests.total()), (2, 2));
    requests.take();
    kinto.as_user(NOBODY).get("/").await;
    assert_eq!(requests.total(), 0);
}

/// Anything that a client may put where a word of a path, header, query or body stands.
fn word() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "buckets",
        "collections",
        "records",
        "main",
        "one",
        "r1",
        "monitor",
        "changes",
        "__heartbeat__",
        "v1",
        "v0",
        "*",
        "",
        "..",
        "data",
        "permissions",
        "\"1\"",
        "id",
        "last_modified",
        "{}",
        "[]",
        "null",
        "1e999",
        "_since",
        "_fields",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => "[ -~]{0,12}", 1 => "\\PC{0,8}"]
}

fn body() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        any::<i64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        word().prop_map(|w| json!(w)),
    ];
    let value = leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|values| json!(values)),
            prop::collection::hash_map(word(), inner, 0..4).prop_map(|fields| json!(fields)),
        ]
    });
    let member = (
        prop::sample::select(vec!["data", "permissions", "op"]),
        value.clone(),
    );
    let object = prop::collection::hash_map(member.0, member.1, 0..3)
        .prop_map(|fields| json!(fields).to_string());
    prop_oneof![3 => object, 1 => value.prop_map(|v| v.to_string()), 1 => word()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_a_client_sends_is_answered_with_a_5xx(
        method in prop::sample::select(vec!["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"]),
        segments in prop::collection::vec(word(), 0..7),
        in_collection in any::<bool>(),
        query in prop::collection::vec((word(), word()), 0..3),
        headers in prop::collection::vec(
            (
                prop::sample::select(vec!["if-match", "if-none-match", "content-type", "accept", "authorization"]),
                prop_oneof![
                    word(),
                    Just("application/json".to_owned()),
                    Just("application/merge-patch+json".to_owned()),
                    Just("application/json-patch+json".to_owned()),
                ],
            ),
            0..3,
        ),
        body in body(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let kinto = Kinto::with_collection().await;
            kinto.put(RECORD, json!({"data": {"a": {"b": 1}}})).await;
            let mut path = if in_collection { RECORDS.to_owned() } else { String::new() };
            for segment in segments {
                path = format!("{path}/{segment}");
            }
            let query: Vec<_> = query.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
            let path = format!("{}?{}", path.replace('?', ""), query.join("&"));
            // What no HTTP client can send as a header does not reach us.
            let sent = |value: &str| http::HeaderValue::from_str(value).is_ok_and(|value| value.to_str().is_ok());
            let headers: Vec<_> =
                headers.iter().filter(|(_, value)| sent(value)).map(|(name, value)| (*name, value.as_str())).collect();
            let answer = kinto.send(method, &path, &headers, &body).await;
            assert!(answer.status < 500, "{method} {path} {headers:?} {body}: {answer:?}");
            assert!(answer.status < 400 || method == "HEAD" || answer.body["errno"].is_u64(), "{answer:?}");
        });
    }
}
