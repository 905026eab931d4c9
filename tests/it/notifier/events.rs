//! The contents of events.

use super::{asked_before, with_collection};
use kinto_local::Fault;
use serde_json::{Value, json};
use tests::{BOB, COLLECTION, NOBODY};

#[tokio::test]
async fn a_creation_an_update_and_a_deletion_tell_what_was_and_what_is() {
    let (kinto, recorder) = with_collection(&[]).await;
    let user = kinto.user_id().await;
    let uri = format!("{COLLECTION}/records/r");
    let payload = |action: &str, timestamp: u64, impacted: Value| {
        json!([{
            "timestamp": timestamp, "action": action, "uri": uri, "user_id": user, "resource_name": "record",
            "bucket_id": "main", "collection_id": "one", "record_id": "r",
            "impacted_records": [impacted], "impacted_uris": [uri],
        }])
    };
    let first = kinto
        .put(&uri, json!({"data": {"n": 1}}))
        .await
        .last_modified();
    let new = json!({"n": 1, "id": "r", "last_modified": first});
    assert_eq!(
        json!(recorder.take()),
        payload("create", first, json!({"new": new}))
    );

    let second = kinto
        .patch(&uri, json!({"data": {"m": 2}}))
        .await
        .last_modified();
    let newer = json!({"n": 1, "m": 2, "id": "r", "last_modified": second});
    assert_eq!(
        json!(recorder.take()),
        payload("update", second, json!({"new": newer, "old": new}))
    );

    let third = kinto.delete(&uri).await.last_modified();
    let tombstone = json!({"deleted": true, "id": "r", "last_modified": third});
    assert_eq!(
        json!(recorder.take()),
        payload("delete", third, json!({"new": tombstone, "old": newer}))
    );
}

#[tokio::test]
async fn the_deletion_of_a_user_tells_what_went_with_them_and_whom() {
    let bob = tests::Kinto::new().as_user(BOB).user_id().await;
    let alice = tests::Kinto::new().user_id().await;
    let deleters: &'static str = alice.clone().leak();
    let (kinto, recorder) =
        with_collection(&[("KINTO_USER_DATA_DELETE_PRINCIPALS", deleters)]).await;
    let may_create = json!({"permissions": {"record:create": [bob]}});
    kinto.patch(COLLECTION, may_create).await;
    let bobs = kinto.as_user(BOB);
    for path in ["/buckets/bobs", "/buckets/bobs/collections/c"] {
        assert_eq!(bobs.put(path, json!({})).await.status, 201);
    }
    for id in ["r1", "r2"] {
        let path = format!("{COLLECTION}/records/{id}");
        assert_eq!(bobs.put(&path, json!({})).await.status, 201);
    }
    recorder.take();
    let uri = format!("/__user_data__/{bob}");
    assert_eq!(kinto.delete(&uri).await.status, 200);
    // As Kinto 26.5 tells it, the innermost last or first.
    let mut told = recorder.take();
    told.sort_by_key(|event| event["resource_name"].as_str().unwrap().to_owned());
    let [bucket, records] = &told[..] else {
        panic!("{told:?}");
    };
    for event in [bucket, records] {
        let said = ["action", "uri", "user_id"].map(|name| &event[name]);
        assert_eq!(said, [&json!("delete"), &json!(uri), &json!(alice)]);
    }
    assert_eq!(bucket["impacted_uris"], json!(["/buckets/bobs"]));
    assert_eq!(bucket.get("bucket_id"), None);
    let uris = ["r1", "r2"].map(|id| format!("{COLLECTION}/records/{id}"));
    assert_eq!(records["impacted_uris"], json!(uris));
    let ids = ["bucket_id", "collection_id"].map(|name| &records[name]);
    assert_eq!(ids, [&json!("main"), &json!("one")]);
    assert_eq!(records["impacted_records"][0]["new"]["deleted"], true);
}

#[tokio::test]
async fn a_request_to_a_list_has_the_lists_uri_and_no_id_of_a_record() {
    let (kinto, recorder) = with_collection(&[]).await;
    let records = format!("{COLLECTION}/records");
    let posted = kinto.post(&records, json!({"data": {"id": "a"}})).await;
    assert_eq!(posted.status, 201);
    kinto.post(&records, json!({"data": {"id": "b"}})).await;
    recorder.take();
    // Nothing new was written.
    assert_eq!(
        kinto
            .post(&records, json!({"data": {"id": "a"}}))
            .await
            .status,
        200
    );
    assert_eq!(recorder.take(), Vec::<Value>::new());

    let deleted = kinto.delete(&records).await;
    let timestamp: u64 = deleted.header("etag").trim_matches('"').parse().unwrap();
    let told = recorder.take();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["uri"], records);
    assert_eq!(told[0].get("record_id"), None);
    assert_eq!(told[0]["timestamp"], timestamp);
    assert_eq!(told[0]["impacted_records"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_batch_is_one_event_for_each_list_and_action_in_the_order_in_which_they_began() {
    let (kinto, recorder) = with_collection(&[]).await;
    let put =
        |path: &str, n: u64| json!({"method": "PUT", "path": path, "body": {"data": {"n": n}}});
    let (a, b) = (
        format!("{COLLECTION}/records/a"),
        format!("{COLLECTION}/records/b"),
    );
    let requests = json!([
        put(&a, 1),
        put("/buckets/main/collections/two", 1),
        put(&a, 2),
        put("/buckets/main/collections/two/records/x", 1),
        put(&b, 1),
        {"method": "PUT", "path": "/buckets/nowhere/collections/c/records/x"},
        {"method": "DELETE", "path": a},
    ]);
    let answer = kinto.post("/batch", json!({"requests": requests})).await;
    assert_eq!(answer.status, 200);
    let told = recorder.take();
    let events: Vec<_> = told
        .iter()
        .map(|event| {
            let uris = event["impacted_uris"].as_array().unwrap();
            (
                event["action"].as_str().unwrap(),
                event["uri"].as_str().unwrap(),
                uris.len(),
            )
        })
        .collect();
    assert_eq!(
        events,
        [
            ("create", &*a, 2),
            ("create", "/buckets/main/collections/two", 1),
            ("update", &*a, 1),
            ("create", "/buckets/main/collections/two/records/x", 1),
            ("delete", &*a, 1),
        ]
    );
    // Each saw the writes of the ones before it.
    assert_eq!(told[2]["impacted_records"][0]["old"]["n"], 1);
    assert_eq!(told[4]["impacted_records"][0]["old"]["n"], 2);
}

#[tokio::test]
async fn each_kind_of_object_is_told_of_and_whoever_writes() {
    let (kinto, recorder) = with_collection(&[]).await;
    let everyone = json!({"permissions": {"write": ["system.Everyone"]}});
    kinto.patch("/buckets/main", everyone).await;
    kinto
        .put("/buckets/main/groups/g", json!({"data": {"members": []}}))
        .await;
    kinto
        .as_user(NOBODY)
        .put("/buckets/main/groups/h", json!({"data": {"members": []}}))
        .await;
    let told = recorder.take();
    let kinds: Vec<_> = told.iter().map(|event| &event["resource_name"]).collect();
    assert_eq!(kinds, ["bucket", "group", "group"]);
    assert_eq!(told[0]["bucket_id"], "main");
    assert_eq!(told[1]["group_id"], "g");
    assert_eq!(told[2]["user_id"], Value::Null);
    assert!(
        told.iter()
            .all(|event| !event.to_string().contains("permissions"))
    );
}

#[tokio::test]
async fn an_accounts_password_is_not_told_hashed_or_not() {
    let (kinto, recorder) = asked_before(&[
        ("KINTO_INCLUDES", "kinto.plugins.accounts"),
        ("KINTO_MULTIAUTH_POLICIES", "account"),
        (
            "KINTO_MULTIAUTH_POLICY_ACCOUNT_USE",
            "kinto.plugins.accounts.AccountsPolicy",
        ),
        ("KINTO_ACCOUNT_CREATE_PRINCIPALS", "system.Everyone"),
    ]);
    let account = json!({"data": {"password": "hush hush", "name": "A"}});
    assert_eq!(
        kinto
            .as_user(NOBODY)
            .put("/accounts/a", account)
            .await
            .status,
        201
    );
    let told = recorder.take();
    assert_eq!(told[0]["account_id"], "a");
    assert_eq!(told[0]["impacted_records"][0]["new"]["name"], "A");
    assert!(!told[0].to_string().contains("password"));
}

#[tokio::test]
async fn what_the_default_bucket_creates_by_itself_is_told_as_if_it_had_been_put() {
    let (kinto, recorder) = asked_before(&[("KINTO_INCLUDES", "kinto.plugins.default_bucket")]);
    let answer = kinto
        .put("/buckets/default/collections/c/records/r", json!({}))
        .await;
    assert_eq!(answer.status, 201);
    let told = recorder.take();
    let uris: Vec<_> = told
        .iter()
        .map(|event| event["uri"].as_str().unwrap())
        .collect();
    let bucket = uris[0];
    let (collection, record) = (
        format!("{bucket}/collections/c"),
        format!("{bucket}/collections/c/records/r"),
    );
    assert_eq!(uris, [bucket, &collection, &record]);
    assert!(told.iter().all(|event| event["action"] == "create"));
}

#[tokio::test]
async fn what_is_refused_and_what_is_read_is_not_told() {
    let (kinto, recorder) = with_collection(&[]).await;
    let uri = format!("{COLLECTION}/records/r");
    assert_eq!(kinto.get(COLLECTION).await.status, 200);
    assert_eq!(kinto.as_user(BOB).put(&uri, json!({})).await.status, 403);
    assert_eq!(kinto.put(&uri, json!({"data": 1})).await.status, 400);
    assert_eq!(kinto.delete(&uri).await.status, 404);
    kinto.aws.inject(|target, _| {
        target
            .ends_with(".TransactWriteItems")
            .then(|| Fault::error("ValidationException"))
    });
    assert_eq!(kinto.put(&uri, json!({})).await.status, 500);
    kinto.aws.clear_faults();
    // The listener was asked about the last one before it failed; after a commit that fails, nobody is notified.
    assert_eq!(recorder.take().len(), 1);
}
