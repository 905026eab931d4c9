//! Entries that are deleted, by who may write the bucket or by the settings.

use serde_json::json;
use tests::{BUCKET, RECORDS, record};

use super::{HISTORY, entries, kinto, told, with_collection};

#[tokio::test]
async fn entries_are_deleted_by_filters_and_leave_tombstones() {
    let kinto = with_collection().await;
    for id in ["a", "b"] {
        kinto.put(&record(id), json!({})).await;
    }
    let before = kinto.get(HISTORY).await;
    let gone = kinto.delete(&format!("{HISTORY}?record_id=a")).await;
    let tombstones = entries(&gone);
    assert_eq!(
        (tombstones.len(), &tombstones[0]["deleted"]),
        (1, &json!(true))
    );
    assert_eq!(tombstones[0]["id"], entries(&before)[1]["id"]);
    let left = kinto.get(HISTORY).await;
    assert_eq!(told(&left).len(), 3);
    let latest = entries(&before)[0]["last_modified"].as_u64().unwrap();
    let since = kinto.get(&format!("{HISTORY}?_since={}", latest)).await;
    assert_eq!(entries(&since), tombstones);
    assert_eq!(
        told(&kinto.get(&format!("{HISTORY}?deleted=true")).await).len(),
        0
    );
    // A second time there is nothing.
    assert!(entries(&kinto.delete(&format!("{HISTORY}?record_id=a")).await).is_empty());
    // The objects stay.
    assert_eq!(kinto.get(&record("a")).await.status, 200);
}

#[tokio::test]
async fn a_page_is_deleted_and_the_next_one_goes_on() {
    let kinto = with_collection().await;
    for n in 0..130 {
        let requests = vec![json!({"method": "PUT", "path": record(&n.to_string()), "body": {}})];
        tests::batch(&kinto, requests).await;
    }
    let path = format!("/v1{HISTORY}?resource_name=record&_limit=120");
    let first = kinto.send_raw("DELETE", &path, &[], "").await;
    assert_eq!(entries(&first).len(), 120);
    let next = first
        .header("next-page")
        .split_once("kinto.test")
        .unwrap()
        .1
        .to_owned();
    let second = kinto.send_raw("DELETE", &next, &[], "").await;
    assert_eq!(
        (entries(&second).len(), second.header("next-page")),
        (10, "")
    );
    assert_eq!(told(&kinto.get(HISTORY).await).len(), 2);
    let tombstones = kinto.get(&format!("{HISTORY}?_since=1&deleted=true")).await;
    assert_eq!(entries(&tombstones).len(), 130);
    assert_eq!(
        kinto.get(RECORDS).await.body["data"]
            .as_array()
            .unwrap()
            .len(),
        130
    );
}

#[tokio::test]
async fn a_deletion_in_a_batch_is_committed_with_it_and_refused_by_a_stale_tag() {
    let kinto = with_collection().await;
    let stale = [("If-Match", "\"7\"")];
    assert_eq!(
        kinto.send("DELETE", HISTORY, &stale, "").await.error(),
        (412, 114)
    );
    assert_eq!(told(&kinto.get(HISTORY).await).len(), 2);
    let latest = entries(&kinto.get(HISTORY).await)[0]["last_modified"].clone();
    let fresh = [("If-Match", &*format!("\"{latest}\""))];
    assert_eq!(kinto.send("DELETE", HISTORY, &fresh, "").await.status, 200);
    let requests = vec![
        tests::put("a"),
        json!({"method": "DELETE", "path": HISTORY}),
        tests::put("b"),
    ];
    let batch = tests::batch(&kinto, requests).await;
    assert_eq!(tests::statuses(&batch), [201, 200, 201]);
    assert_eq!(told(&kinto.get(HISTORY).await).len(), 2);
}

#[tokio::test]
async fn the_latest_of_each_kind_stay_where_settings_say_how_many() {
    let kinto = kinto(&[
        ("KINTO_HISTORY_AUTO_TRIM_MAX_COUNT", "2"),
        ("KINTO_HISTORY_AUTO_TRIM_THRESHOLD", "0"),
    ]);
    kinto.put(BUCKET, json!({})).await;
    for c in ["one", "two", "three"] {
        let collection = format!("{BUCKET}/collections/{c}");
        kinto.put(&collection, json!({})).await;
        kinto
            .put(&format!("{collection}/records/{c}"), json!({}))
            .await;
    }
    let expected = [
        "create B/collections/three/records/three",
        "create B/collections/three",
        "create B/collections/two/records/two",
        "create B/collections/two",
        "create B",
    ];
    assert_eq!(told(&kinto.get(HISTORY).await), expected);
    let tombstones = kinto.get(&format!("{HISTORY}?_since=1&deleted=true")).await;
    assert_eq!(entries(&tombstones).len(), 2);
    // A batch that writes more than stay.
    let ids = ["a", "b", "c", "d"];
    tests::batch(&kinto, ids.map(tests::put).to_vec()).await;
    let records = kinto.get(&format!("{HISTORY}?resource_name=record")).await;
    assert!(entries(&records).len() <= 4);
    kinto.put(&record("e"), json!({})).await;
    let records = kinto.get(&format!("{HISTORY}?resource_name=record")).await;
    assert_eq!(entries(&records).len(), 2);
    assert_eq!(
        kinto.get("/").await.body["capabilities"]["history"]["auto_trim_max_count"],
        2
    );
}
