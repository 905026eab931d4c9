//! Valid input of clients, and the refusal of all other. Statuses and error numbers are those of Kinto 26.5.0.

use proptest::prelude::*;
use serde_json::json;
use tests::{Kinto, RECORD, RECORDS, nested};

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

    // Nor by a patch of the existing object.
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

/// Any text that a client may put into a path, header, query or body.
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
            // A header that no HTTP client can send does not reach us.
            let sent = |value: &str| http::HeaderValue::from_str(value).is_ok_and(|value| value.to_str().is_ok());
            let headers: Vec<_> =
                headers.iter().filter(|(_, value)| sent(value)).map(|(name, value)| (*name, value.as_str())).collect();
            let answer = kinto.send(method, &path, &headers, &body).await;
            assert!(answer.status < 500, "{method} {path} {headers:?} {body}: {answer:?}");
            assert!(answer.status < 400 || method == "HEAD" || answer.body["errno"].is_u64(), "{answer:?}");
        });
    }
}
