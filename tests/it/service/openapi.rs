//! The document at `__api__`.

use serde_json::json;
use tests::{COLLECTION, Kinto, NOBODY};

/// Every method that Kinto's endpoints may accept, without those that `__api__` omits.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

#[tokio::test]
async fn the_openapi_document_lists_the_methods_that_each_endpoint_takes() {
    let kinto = Kinto::with(&[("KINTO_EXPERIMENTAL_PERMISSIONS_ENDPOINT", "true")]).as_user(NOBODY);
    let api = kinto.get("/__api__").await.body;
    assert_eq!(
        (
            &api["swagger"],
            &api["host"],
            &api["basePath"],
            &api["schemes"]
        ),
        (
            &json!("2.0"),
            &json!("kinto.test"),
            &json!("/v1"),
            &json!(["http"])
        )
    );
    let paths = api["paths"].as_object().unwrap();
    for (path, item) in paths {
        let filled = path.replace(['{', '}'], "");
        for method in METHODS {
            let answer = kinto.send(method, &filled, &[], "{}").await;
            let is_listed = item.get(method.to_ascii_lowercase()).is_some();
            assert_eq!(is_listed, answer.status != 405, "{method} {path}");
            let is_unknown = answer.status == 404 && answer.body["details"].is_null();
            assert!(!is_unknown, "{method} {path}");
        }
    }
    assert!(Kinto::new().get("/__api__").await.body["paths"]["/permissions"].is_null());
    // The real server's names, which clients call.
    for (path, method, id) in [
        ("/", "get", "server_info"),
        ("/__api__", "get", "get_openapi_spec"),
        ("/batch", "post", "batch"),
        ("/permissions", "get", "get_permissionss"),
        ("/buckets", "get", "get_buckets"),
        ("/buckets", "post", "create_bucket"),
        ("/buckets/{id}", "put", "update_bucket"),
        (
            "/buckets/{bucket_id}/collections/{id}",
            "patch",
            "patch_collection",
        ),
        (
            "/buckets/{bucket_id}/collections/{collection_id}/records/{id}",
            "delete",
            "delete_record",
        ),
        (
            "/buckets/monitor/collections/changes/records",
            "get",
            "get_changess",
        ),
    ] {
        assert_eq!(paths[path][method]["operationId"], id, "{method} {path}");
    }
}

/// Needs the packages of `tests/requirements.txt`, which `tests/run` installs.
#[tokio::test]
#[ignore = "needs openapi-spec-validator"]
async fn the_openapi_document_is_valid() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let api = Kinto::new().get("/__api__").await.body;
    let mut validator = Command::new("openapi-spec-validator")
        .args(["--schema", "2.0", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = validator.stdin.take().unwrap();
    stdin.write_all(api.to_string().as_bytes()).unwrap();
    drop(stdin);
    assert!(validator.wait().unwrap().success());
}

#[tokio::test]
async fn the_etag_of_a_changeset_is_as_the_document_says_with_backdated_records_too() {
    let kinto = Kinto::with_collection().await;
    let api = kinto.get("/__api__").await.body;
    let changeset =
        &api["paths"]["/buckets/{bucket_id}/collections/{collection_id}/changeset"]["get"];
    let pattern = changeset["responses"]["200"]["headers"]["ETag"]["pattern"].as_str();
    let pattern = fancy_regex::Regex::new(pattern.unwrap()).unwrap();
    for (id, data, numbers) in [("a", json!({}), 2), ("b", json!({"last_modified": 7}), 3)] {
        let record = format!("{COLLECTION}/records/{id}");
        assert_eq!(kinto.put(&record, json!({"data": data})).await.status, 201);
        let answer = kinto
            .get(&format!("{COLLECTION}/changeset?_expected=1"))
            .await;
        let etag = answer.header("etag");
        assert_eq!(etag.split('-').count(), numbers, "{etag}");
        assert!(pattern.is_match(etag).unwrap(), "{etag} {pattern}");
    }
}
