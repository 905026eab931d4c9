//! The costs of a request's body: batches, JSON patches, schemas.

use super::private;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tests::{Answer, COLLECTION, Kinto, NOBODY, RECORDS, statuses};

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
    // The most that fits into a record is accepted.
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

/// A collection with that schema, and the response to it.
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
