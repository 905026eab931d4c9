//! The list of everything that a user has permissions on, and JSON patches of permissions.

use serde_json::{Value, json};
use tests::{Answer, BOB, Kinto, NOBODY};

async fn kinto() -> (Kinto, Kinto) {
    let kinto = Kinto::with(&[("KINTO_EXPERIMENTAL_PERMISSIONS_ENDPOINT", "true")]);
    let bob = kinto.as_user(BOB);
    let alice = kinto.get("/").await.body["user"]["id"].clone();
    let grants =
        json!({"permissions": {"read": ["system.Everyone"], "collection:create": [alice]}});
    for (user, path, body) in [
        (&kinto, "/buckets/a", json!({})),
        (
            &kinto,
            "/buckets/a/groups/g",
            json!({"data": {"members": [alice]}}),
        ),
        (&kinto, "/buckets/a/collections/c", json!({})),
        (&kinto, "/buckets/a/collections/c/records/r", json!({})),
        (&bob, "/buckets/b", grants),
        (
            &bob,
            "/buckets/b/collections/c",
            json!({"permissions": {"record:create": ["/buckets/a/groups/g"]}}),
        ),
    ] {
        assert_eq!(user.put(path, body).await.status, 201, "{path}");
    }
    (kinto, bob)
}

fn uris(answer: &Answer) -> Vec<&str> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let entries = answer.body["data"].as_array().unwrap();
    entries
        .iter()
        .map(|entry| entry["uri"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn the_permissions_of_a_user_are_listed_by_object() {
    let (kinto, _) = kinto().await;
    let list = kinto.get("/permissions").await;
    let expected = [
        "/buckets/b/collections/c",
        "/buckets/b",
        "/buckets/a/groups/g",
        "/buckets/a/collections/c/records/r",
        "/buckets/a/collections/c",
        "/buckets/a",
        "/",
    ];
    assert_eq!(uris(&list), expected);
    let all = json!([
        "collection:create",
        "group:create",
        "read",
        "read:attributes",
        "write"
    ]);
    for (at, permissions) in [
        (0, json!(["read:attributes", "record:create"])),
        (1, json!(["collection:create", "read", "read:attributes"])),
        (2, json!(["read", "write"])),
        (5, all),
        (6, json!(["bucket:create"])),
    ] {
        assert_eq!(list.body["data"][at]["permissions"], permissions, "{at}");
    }
    let record = json!({
        "uri": "/buckets/a/collections/c/records/r", "resource_name": "record", "permissions": ["read", "write"],
        "id": "r", "record_id": "r", "collection_id": "c", "bucket_id": "a",
    });
    assert_eq!(list.body["data"][3], record);
    assert_eq!(
        uris(&kinto.as_user(NOBODY).get("/permissions").await),
        ["/buckets/b"]
    );
}

#[tokio::test]
async fn it_is_filtered_sorted_and_paged_as_any_list() {
    let (kinto, _) = kinto().await;
    for (query, expected) in [
        ("resource_name=bucket", vec!["/buckets/b", "/buckets/a"]),
        (
            "exclude_resource_name=record,root,collection&_sort=uri",
            vec!["/buckets/a", "/buckets/a/groups/g", "/buckets/b"],
        ),
        (
            "bucket_id=b",
            vec!["/buckets/b/collections/c", "/buckets/b"],
        ),
        (
            "collection_id=c&bucket_id=a&_since=5",
            vec![
                "/buckets/a/collections/c/records/r",
                "/buckets/a/collections/c",
            ],
        ),
    ] {
        assert_eq!(
            uris(&kinto.get(&format!("/permissions?{query}")).await),
            expected,
            "{query}"
        );
    }
    for bad in [
        "foo=1",
        "permissions=read",
        "_sort=foo",
        "_fields=foo",
        "_token=x",
    ] {
        assert_eq!(
            kinto.get(&format!("/permissions?{bad}")).await.error(),
            (400, 107),
            "{bad}"
        );
    }
    let mut path = "/permissions?_limit=3".to_owned();
    let mut seen = vec![];
    while !path.is_empty() {
        let page = kinto.get(&path).await;
        seen.extend(uris(&page).into_iter().map(str::to_owned));
        path = page.header("next-page").replace("http://kinto.test/v1", "");
    }
    assert_eq!(seen.len(), 7);
    assert_eq!(
        kinto
            .send("HEAD", "/permissions", &[], "")
            .await
            .header("total-objects"),
        "7"
    );
}

#[tokio::test]
async fn records_are_not_read_when_they_are_not_asked_for() {
    let (kinto, _) = kinto().await;
    let requests = kinto.aws.requests();
    requests.take();
    kinto.get("/permissions").await;
    // Buckets; groups and collections of two buckets; records of two collections.
    assert_eq!(requests.of("Query"), 1 + 4 + 2);
    requests.take();
    kinto.get("/permissions?exclude_resource_name=record").await;
    assert_eq!(requests.of("Query"), 1 + 4);
}

#[tokio::test]
async fn in_a_batch_it_shows_what_was_written_before_it() {
    let (kinto, _) = kinto().await;
    let requests = json!([
        {"method": "PUT", "path": "/buckets/a/collections/c/records/new"},
        {"method": "DELETE", "path": "/buckets/a/groups/g"},
        {"path": "/permissions?bucket_id=a"},
    ]);
    let batch = kinto.post("/batch", json!({"requests": requests})).await;
    let listed = &batch.body["responses"][2]["body"]["data"];
    let uris: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["uri"])
        .collect();
    let expected = [
        "/buckets/a/collections/c/records/r",
        "/buckets/a/collections/c/records/new",
        "/buckets/a/collections/c",
        "/buckets/a",
    ];
    assert_eq!(json!(uris), json!(expected));
}

#[tokio::test]
async fn there_is_no_such_list_unless_it_is_switched_on() {
    let kinto = Kinto::new();
    assert_eq!(kinto.get("/permissions").await.error(), (404, 111));
    assert_eq!(
        kinto.get("/").await.body["capabilities"].get("permissions_endpoint"),
        None
    );
    let closed = Kinto::with(&[
        ("KINTO_EXPERIMENTAL_PERMISSIONS_ENDPOINT", "true"),
        ("KINTO_PERMISSIONS_READ_PRINCIPALS", "system.Authenticated"),
    ]);
    assert_eq!(closed.get("/permissions").await.status, 200);
    assert_eq!(closed.as_user(NOBODY).get("/permissions").await.status, 401);
}

#[tokio::test]
async fn a_json_patch_needs_no_value_to_grant() {
    let kinto = Kinto::with_collection().await;
    let patch = |operations: Value| {
        let kinto = kinto.clone();
        async move {
            let header = [("Content-Type", "application/json-patch+json")];
            kinto
                .send("PATCH", "/buckets/main", &header, &operations.to_string())
                .await
        }
    };
    let granted = patch(json!([{"op": "add", "path": "/permissions/read/basicauth:abc"}])).await;
    assert_eq!(
        granted.body["permissions"]["read"],
        json!(["basicauth:abc"])
    );
    let taken = patch(json!([{"op": "remove", "path": "/permissions/read/basicauth:abc"}])).await;
    assert_eq!(taken.body["permissions"].get("read"), None);
    let refused = patch(json!([{"op": "add", "path": "/data/x"}])).await;
    assert_eq!(refused.error(), (400, 107));
}
