//! JSON schemas of records, groups and collections. Statuses and names are those of Kinto 26.5.0.

use serde_json::{Value, json};
use tests::{COLLECTION, Kinto, RECORD};

async fn with_schema(field: &str, schema: Value) -> Kinto {
    let kinto = Kinto::with(&[("KINTO_EXPERIMENTAL_COLLECTION_SCHEMA_VALIDATION", "true")]);
    let at = |name: &str| match field == name {
        true => json!({"data": {field: schema.clone()}}),
        false => json!({}),
    };
    let bucket = match field {
        "schema" => json!({}),
        field => at(field),
    };
    assert_eq!(kinto.put("/buckets/main", bucket).await.status, 201);
    assert_eq!(kinto.put(COLLECTION, at("schema")).await.status, 201);
    kinto
}

fn titled() -> Value {
    json!({"properties": {"title": {"type": "string"}}, "required": ["title"]})
}

#[tokio::test]
async fn a_record_must_match_the_schema_of_its_collection_and_tells_which() {
    let kinto = with_schema("schema", titled()).await;
    assert!(kinto.get("/").await.body["capabilities"]["schema"].is_object());
    let refused = kinto.put(RECORD, json!({"data": {"title": 3}})).await;
    assert_eq!(refused.error(), (400, 107));
    assert_eq!(refused.body["details"][0]["name"], "title");
    assert_eq!(kinto.get(RECORD).await.status, 404);
    let version = kinto.get(COLLECTION).await.last_modified();
    let created = kinto.put(RECORD, json!({"data": {"title": "x"}})).await;
    assert_eq!(created.status, 201);
    assert_eq!(created.body["data"]["schema"], version);
    let patched = kinto.patch(RECORD, json!({"data": {"title": null}})).await;
    assert_eq!(patched.error(), (400, 107));
    let posted = kinto
        .post(&format!("{COLLECTION}/records"), json!({"data": {}}))
        .await;
    assert_eq!(posted.error(), (400, 107));
}

#[tokio::test]
async fn a_new_schema_holds_from_the_next_write_on() {
    let kinto = with_schema("schema", titled()).await;
    let first = kinto.put(RECORD, json!({"data": {"title": "x"}})).await;
    let other = json!({"data": {"schema": {"required": ["other"]}}});
    assert_eq!(kinto.patch(COLLECTION, other).await.status, 200);
    assert_eq!(
        kinto.patch(RECORD, json!({"data": {"a": 1}})).await.error(),
        (400, 107)
    );
    let second = kinto.patch(RECORD, json!({"data": {"other": 1}})).await;
    assert!(second.body["data"]["schema"].as_u64() > first.body["data"]["schema"].as_u64());
}

#[tokio::test]
async fn a_bucket_has_schemas_for_what_it_holds() {
    for (field, path) in [
        ("record:schema", RECORD),
        ("collection:schema", "/buckets/main/collections/two"),
        ("group:schema", "/buckets/main/groups/g"),
    ] {
        let kinto = Kinto::with(&[("KINTO_EXPERIMENTAL_COLLECTION_SCHEMA_VALIDATION", "true")]);
        kinto.put("/buckets/main", json!({})).await;
        kinto.put(COLLECTION, json!({})).await;
        kinto
            .patch("/buckets/main", json!({"data": {field: titled()}}))
            .await;
        assert_eq!(
            kinto.put(path, json!({"data": {}})).await.error(),
            (400, 107),
            "{field}"
        );
        let created = kinto.put(path, json!({"data": {"title": "x"}})).await;
        assert_eq!(created.status, 201, "{field}");
        assert_eq!(created.body["data"].get("schema"), None);
    }
}

#[tokio::test]
async fn what_is_no_schema_is_refused_with_or_without_validation() {
    let kinto = Kinto::with_collection().await;
    for schema in [
        json!(3),
        json!({"type": "nonsense"}),
        json!({"properties": []}),
    ] {
        let body = json!({"data": {"schema": schema}});
        let put = kinto.put(COLLECTION, body.clone()).await;
        assert_eq!(
            (put.error(), &put.body["details"][0]["name"]),
            ((400, 107), &json!("data.schema"))
        );
        let patched = kinto.patch(COLLECTION, body).await;
        assert_eq!(
            (patched.error(), &patched.body["details"][0]["name"]),
            ((400, 107), &json!("schema"))
        );
    }
    let kept = kinto
        .put(COLLECTION, json!({"data": {"schema": titled()}}))
        .await;
    assert_eq!(kept.status, 200);
    assert_eq!(
        kinto
            .put(RECORD, json!({"data": {"title": 3}}))
            .await
            .status,
        201
    );
}
