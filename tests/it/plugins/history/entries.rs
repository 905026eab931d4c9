//! What makes an entry, and what is in it.

use kinto_local::Fault;
use serde_json::{Value, json};
use tests::{BUCKET, COLLECTION, Kinto, RECORD, RECORDS, batch, clock_passes, put, record};

use super::{HISTORY, entries, kinto, told, with_collection};

#[tokio::test]
async fn each_write_in_a_bucket_makes_an_entry() {
    let kinto = with_collection().await;
    let created = kinto.put(RECORD, json!({"data": {"n": 1}})).await;
    kinto.put(RECORD, json!({"data": {"n": 1}})).await;
    kinto.patch(RECORD, json!({"data": {"n": 2}})).await;
    let members = json!({"data": {"members": ["x"]}});
    kinto.put("/buckets/main/groups/g", members).await;
    kinto.patch(COLLECTION, json!({"data": {"a": 1}})).await;
    kinto
        .patch(BUCKET, json!({"permissions": {"read": ["x"]}}))
        .await;
    let deleted = kinto.delete(RECORD).await;
    let history = kinto.get(HISTORY).await;
    let record = "B/collections/one/records/r1";
    let expected = [
        format!("delete {record}"),
        "update B".to_owned(),
        "update B/collections/one".to_owned(),
        "create B/groups/g".to_owned(),
        format!("update {record}"),
        format!("update {record}"),
        format!("create {record}"),
        "create B/collections/one".to_owned(),
        "create B".to_owned(),
    ];
    assert_eq!(told(&history), expected);
    let entries = entries(&history);
    let alice = kinto.user_id().await;
    let mut creation = entries[6].clone();
    assert!(creation["id"].take().as_str().unwrap().len() == 36);
    let date = creation["date"].take();
    assert!(date.as_str().unwrap().ends_with("000+00:00"), "{date}");
    assert!(creation["last_modified"].take().as_u64() >= Some(created.last_modified()));
    let target = json!({
        "data": {"id": "r1", "n": 1, "last_modified": created.last_modified()},
        "permissions": {"write": [alice]},
    });
    let expected = json!({
        "id": null, "date": null, "last_modified": null, "action": "create", "user_id": alice,
        "uri": RECORD, "resource_name": "record", "collection_id": "one", "record_id": "r1",
        "target": target,
    });
    assert_eq!(creation, expected);
    let tombstone = json!({
        "data": {"id": "r1", "last_modified": deleted.last_modified(), "deleted": true},
        "permissions": {},
    });
    assert_eq!(entries[0]["target"], tombstone);
    let names = |n: usize| {
        let names = ["resource_name", "bucket_id", "collection_id", "group_id"];
        names.map(|name| entries[n][name].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(names(1), ["bucket", "main", "", ""]);
    assert_eq!(names(2), ["collection", "", "one", ""]);
    assert_eq!(names(3), ["group", "", "", "g"]);
}

#[tokio::test]
async fn what_is_refused_or_changes_nothing_there_makes_none() {
    let kinto = with_collection().await;
    kinto.put(RECORD, json!({})).await;
    let before = told(&kinto.get(HISTORY).await);
    let stale = [("If-Match", "\"1\"")];
    let refused = kinto.send("PUT", RECORD, &stale, "{\"data\": {}}").await;
    assert_eq!(refused.status, 412);
    let known = kinto.post(RECORDS, json!({"data": {"id": "r1"}})).await;
    assert_eq!(known.status, 200);
    kinto.get(RECORD).await;
    assert_eq!(told(&kinto.get(HISTORY).await), before);
}

#[tokio::test]
async fn a_list_that_is_deleted_makes_one_for_each_object_and_a_collection_one_for_itself() {
    let kinto = with_collection().await;
    let ids: Vec<_> = (0..120).map(|n| format!("r{n}")).collect();
    for some in ids.chunks(20) {
        let requests = some.iter().map(|id| put(id)).collect();
        assert_eq!(batch(&kinto, requests).await.status, 200);
    }
    assert_eq!(kinto.delete(RECORDS).await.status, 200);
    let deletions = format!("{HISTORY}?action=delete");
    let deleted = kinto.get(&deletions).await;
    let mut uris: Vec<_> = entries(&deleted)
        .iter()
        .map(|e| e["uri"].as_str().unwrap())
        .collect();
    uris.sort_unstable();
    let mut expected: Vec<_> = ids.iter().map(|id| record(id)).collect();
    expected.sort_unstable();
    assert_eq!(uris, expected);
    let last = kinto.put(RECORD, json!({})).await.last_modified();
    // The times of 120 deletions may be ahead of the clock, which the collection's own deletion has its time from.
    clock_passes(last).await;
    kinto.delete(COLLECTION).await;
    let deleted = told(&kinto.get(&deletions).await);
    assert_eq!(
        (deleted.len(), &*deleted[0]),
        (121, "delete B/collections/one")
    );
}

#[tokio::test]
async fn a_history_ends_with_its_bucket() {
    let kinto = with_collection().await;
    kinto.delete(BUCKET).await;
    assert_eq!(kinto.get(HISTORY).await.status, 403);
    kinto.put(BUCKET, json!({})).await;
    assert_eq!(told(&kinto.get(HISTORY).await), ["create B"]);
    assert_eq!(kinto.send("POST", "/__flush__", &[], "").await.status, 202);
    kinto.put(BUCKET, json!({})).await;
    assert_eq!(told(&kinto.get(HISTORY).await), ["create B"]);
}

#[tokio::test]
async fn a_batch_makes_an_entry_for_each_write_in_the_order_of_their_times() {
    let kinto = with_collection().await;
    let requests = vec![
        put("a"),
        json!({"method": "DELETE", "path": record("a")}),
        put("a"),
        json!({"method": "PATCH", "path": COLLECTION, "body": {"data": {"x": 1}}}),
    ];
    assert_eq!(batch(&kinto, requests).await.status, 200);
    let of_record = kinto.get(&format!("{HISTORY}?record_id=a")).await;
    let actions: Vec<_> = entries(&of_record)
        .iter()
        .map(|entry| &entry["action"])
        .collect();
    assert_eq!(actions, ["create", "delete", "create"]);
    let all = kinto.get(HISTORY).await;
    let ids: std::collections::BTreeSet<_> = entries(&all)
        .iter()
        .map(|entry| entry["id"].to_string())
        .collect();
    assert_eq!(ids.len(), 6);
}

#[tokio::test]
async fn a_write_that_fails_makes_no_entry() {
    let kinto = with_collection().await;
    let requests = vec![
        put("a"),
        json!({"method": "PUT", "path": "/buckets/other", "body": {}}),
    ];
    kinto.aws.inject(|target, _| {
        target
            .ends_with("TransactWriteItems")
            .then(|| Fault::error("ResourceNotFoundException"))
    });
    assert!(batch(&kinto, requests).await.status >= 500);
    kinto.aws.clear_faults();
    assert_eq!(told(&kinto.get(HISTORY).await).len(), 2);
}

#[tokio::test]
async fn the_largest_object_fits_into_an_entry() {
    let kinto = with_collection().await;
    let noise: String = std::iter::repeat_with(|| fastrand::char('!'..='~'))
        .filter(|c| !matches!(c, '"' | '\\'))
        .take(405_000)
        .collect();
    let long = json!({"data": {"text": noise}});
    assert_eq!(kinto.put(RECORD, long).await.status, 201);
    let entry = kinto.get(&format!("{HISTORY}?record_id=r1")).await;
    assert_eq!(entries(&entry)[0]["target"]["data"]["text"], noise);
}

#[tokio::test]
async fn excluded_users_and_resources_make_none() {
    let of_bob = Kinto::new().as_user(tests::BOB).user_id().await;
    let bob: &'static str = of_bob.leak();
    let kinto = kinto(&[
        ("KINTO_HISTORY_EXCLUDE_USER_IDS", bob),
        (
            "KINTO_HISTORY_EXCLUDE_RESOURCES",
            "/buckets/b /buckets/main/collections/two /buckets/main/groups/g /buckets/main/collections/one/records/x",
        ),
    ]);
    for path in [
        BUCKET,
        "/buckets/b",
        COLLECTION,
        "/buckets/main/collections/two",
        "/buckets/main/collections/two/records/r",
        RECORD,
        "/buckets/main/collections/one/records/x",
        "/buckets/b/collections/c",
    ] {
        assert_eq!(kinto.put(path, json!({})).await.status, 201, "{path}");
    }
    let members = json!({"data": {"members": []}});
    kinto.put("/buckets/main/groups/g", members).await;
    kinto
        .patch(BUCKET, json!({"permissions": {"write": [bob]}}))
        .await;
    kinto
        .as_user(tests::BOB)
        .patch(RECORD, json!({"data": {"n": 1}}))
        .await;
    let expected = [
        "update B",
        "create B/collections/one/records/r1",
        "create B/collections/one",
        "create B",
    ];
    assert_eq!(told(&kinto.get(HISTORY).await), expected);
    assert!(told(&kinto.get("/buckets/b/history").await).is_empty());
    let capability = kinto.get("/").await.body["capabilities"]["history"].clone();
    let excluded = json!([
        {"bucket": "b"},
        {"bucket": "main", "collection": "two"},
        {"bucket": "main", "group": "g"},
        {"bucket": "main", "collection": "one", "record": "x"},
    ]);
    assert_eq!(capability["excluded_resources"], excluded);
    assert_eq!(capability["auto_trim_max_count"], Value::Null);
}

#[tokio::test]
async fn accounts_have_none_and_a_default_bucket_has_its_own() {
    let kinto = kinto(&[
        (
            "KINTO_INCLUDES",
            "kinto.plugins.history kinto.plugins.default_bucket kinto.plugins.accounts",
        ),
        ("MULTIAUTH_POLICIES", "account basicauth"),
        (
            "MULTIAUTH_POLICY_ACCOUNT_USE",
            "kinto.plugins.accounts.authentication.AccountsAuthenticationPolicy",
        ),
        ("KINTO_ACCOUNT_CREATE_PRINCIPALS", "system.Everyone"),
    ]);
    let account = json!({"data": {"password": "x"}});
    assert_eq!(
        kinto.as_user("").put("/accounts/a", account).await.status,
        201
    );
    assert_eq!(
        kinto
            .put("/buckets/default/collections/c/records/r", json!({}))
            .await
            .status,
        201
    );
    let history = kinto.get("/buckets/default/history").await;
    assert_eq!(told(&history).len(), 3);
    let kinds: Vec<_> = entries(&history)
        .iter()
        .map(|entry| &entry["resource_name"])
        .collect();
    assert_eq!(kinds, ["record", "collection", "bucket"]);
}

#[tokio::test]
async fn what_goes_with_a_user_has_entries_of_who_had_the_user_deleted() {
    let alice = Kinto::new().user_id().await;
    let kinto = kinto(&[("KINTO_USER_DATA_DELETE_PRINCIPALS", &alice)]);
    let bobs = kinto.as_user(tests::BOB);
    let bob = bobs.user_id().await;
    let may = json!({"permissions": {"collection:create": [bob], "group:create": [bob]}});
    assert_eq!(kinto.put(BUCKET, may).await.status, 201);
    assert_eq!(kinto.put(COLLECTION, json!({})).await.status, 201);
    let own = "/buckets/main/collections/own";
    for (path, body) in [
        (own, json!({})),
        ("/buckets/main/collections/own/records/r", json!({})),
        ("/buckets/main/groups/g", json!({"data": {"members": []}})),
        ("/buckets/bobs", json!({})),
    ] {
        assert_eq!(bobs.put(path, body).await.status, 201);
    }
    let before = kinto.get(HISTORY).await;
    let path = format!("/__user_data__/{bob}");
    assert_eq!(kinto.delete(&path).await.status, 200);
    let history = kinto.get(HISTORY).await;
    let mut new = told(&history);
    new.truncate(new.len() - told(&before).len());
    new.sort();
    assert_eq!(new, ["delete B/collections/own", "delete B/groups/g"]);
    for entry in &entries(&history)[..2] {
        assert_eq!(entry["user_id"], alice);
        assert_eq!(entry["target"]["data"]["deleted"], true);
        assert_eq!(entry.get("principal"), None);
    }
}

#[tokio::test]
async fn an_entry_names_who_sent_its_request_of_a_batch() {
    let kinto = kinto(&[]);
    let grant = json!({"permissions": {"write": ["system.Authenticated"]}});
    assert_eq!(kinto.put(BUCKET, grant).await.status, 201);
    let as_bob = json!({"Authorization": tests::BOB});
    let path = |id: &str| format!("{BUCKET}/groups/{id}");
    let body = json!({"data": {"members": []}});
    let requests = vec![
        json!({"method": "PUT", "path": path("a"), "body": body}),
        json!({"method": "PUT", "path": path("b"), "body": body, "headers": as_bob}),
        json!({"method": "PUT", "path": path("c"), "body": body}),
    ];
    assert_eq!(batch(&kinto, requests).await.status, 200);
    let (alice, bob) = (
        kinto.user_id().await,
        kinto.as_user(tests::BOB).user_id().await,
    );
    for (id, user) in [("a", &alice), ("b", &bob), ("c", &alice)] {
        let history = kinto.get(&format!("{HISTORY}?group_id={id}")).await;
        assert_eq!(entries(&history)[0]["user_id"], **user, "{id}");
    }
}
