//! Deleting lists, whole or by a query. Statuses and error numbers are those of Kinto 26.5.0.

use kinto_local::Fault;
use serde_json::json;
use tests::{BOB, Kinto, NOBODY, RECORDS, batch, put, record, sorted_ids};

#[tokio::test]
async fn deleting_a_list_leaves_a_tombstone_of_each_with_a_time_of_its_own() {
    let kinto = Kinto::with_collection().await;
    batch(&kinto, vec![put("a"), put("b"), put("c")]).await;
    let before = kinto.get(RECORDS).await;
    let deleted = kinto.delete(RECORDS).await;
    assert_eq!(deleted.status, 200);
    let tombstones = deleted.body["data"].as_array().unwrap();
    let order: Vec<_> = tombstones
        .iter()
        .map(|t| t["id"].as_str().unwrap())
        .collect();
    assert_eq!(order, ["c", "b", "a"]);
    assert!(tombstones.iter().all(|t| t["deleted"] == true));
    let times: Vec<_> = tombstones
        .iter()
        .map(|t| t["last_modified"].as_u64().unwrap())
        .collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(deleted.header("etag"), format!("\"{}\"", times[2]));
    assert!(sorted_ids(&kinto).await.is_empty());
    let since = before.header("etag").trim_matches('"').to_owned();
    let changes = kinto.get(&format!("{RECORDS}?_since={since}")).await;
    assert_eq!(changes.body["data"].as_array().unwrap().len(), 3);
    assert_eq!(kinto.delete(RECORDS).await.body, json!({"data": []}));
}

#[tokio::test]
async fn only_what_the_query_asks_for_is_deleted() {
    let kinto = Kinto::with_collection().await;
    let puts = (0..6).map(|n| {
        json!({"method": "PUT", "path": record(&format!("r{n}")), "body": {"data": {"even": n % 2 == 0}}})
    });
    batch(&kinto, puts.collect()).await;
    let deleted = kinto
        .delete(&format!("{RECORDS}?even=true&_limit=2&_sort=id"))
        .await;
    assert_eq!(deleted.body["data"][0]["id"], "r0");
    assert_eq!(sorted_ids(&kinto).await, ["r1", "r3", "r4", "r5"]);
    let next = deleted.header("next-page");
    let path = next
        .strip_prefix("http://kinto.test/v1")
        .unwrap()
        .to_owned();
    let rest = kinto.delete(&path).await;
    assert_eq!((rest.status, rest.header("next-page")), (200, ""));
    assert_eq!(sorted_ids(&kinto).await, ["r1", "r3", "r5"]);
    // The token of a page that was read does not delete the next one.
    let read = kinto.get(&format!("{RECORDS}?_limit=1")).await;
    let next = read.header("next-page").replace("http://kinto.test/v1", "");
    assert_eq!(kinto.delete(&next).await.error(), (400, 107));
    for (query, status) in [("_limit=x", 400), ("_since=x", 400), ("nothing=1", 200)] {
        assert_eq!(
            kinto.delete(&format!("{RECORDS}?{query}")).await.status,
            status
        );
    }
    assert_eq!(sorted_ids(&kinto).await.len(), 3);
}

#[tokio::test]
async fn a_list_is_deleted_only_as_the_client_knows_it() {
    let kinto = Kinto::with_collection().await;
    batch(&kinto, vec![put("a")]).await;
    for (header, value) in [("If-Match", "\"3\""), ("If-None-Match", "*")] {
        let answer = kinto.send("DELETE", RECORDS, &[(header, value)], "").await;
        assert_eq!(answer.error(), (412, 114), "{header}");
    }
    let etag = kinto.get(RECORDS).await.header("etag").to_owned();
    let answer = kinto
        .send("DELETE", RECORDS, &[("If-Match", &etag)], "")
        .await;
    assert_eq!(answer.status, 200);
    assert!(sorted_ids(&kinto).await.is_empty());
}

#[tokio::test]
async fn deleting_a_list_spares_what_the_user_may_not_delete() {
    let kinto = Kinto::with_collection().await;
    let bob = kinto.as_user(BOB);
    let id = bob.get("/").await.body["user"]["id"].clone();
    kinto.put(&record("mine"), json!({})).await;
    kinto
        .put(&record("shared"), json!({"permissions": {"write": [id]}}))
        .await;
    kinto
        .put(&record("shown"), json!({"permissions": {"read": [id]}}))
        .await;
    assert_eq!(kinto.as_user(NOBODY).delete(RECORDS).await.status, 401);
    assert_eq!(bob.delete(RECORDS).await.body["data"][0]["id"], "shared");
    assert_eq!(sorted_ids(&kinto).await, ["mine", "shown"]);
    assert_eq!(bob.delete(RECORDS).await.status, 403);
}

#[tokio::test]
async fn deleting_lists_of_parents_takes_their_children() {
    let kinto = Kinto::with_collection().await;
    batch(&kinto, vec![put("a")]).await;
    let deleted = kinto.delete("/buckets/main/collections").await;
    assert_eq!(deleted.body["data"][0]["id"], "one");
    assert_eq!(kinto.get(RECORDS).await.error(), (404, 111));
    kinto.put("/buckets/main/collections/one", json!({})).await;
    assert!(sorted_ids(&kinto).await.is_empty());
    assert_eq!(kinto.delete("/buckets").await.body["data"][0]["id"], "main");
    assert_eq!(kinto.get("/buckets/main").await.status, 403);
    kinto.put("/buckets/main", json!({})).await;
    assert_eq!(kinto.get(RECORDS).await.error(), (404, 111));
}

#[tokio::test]
async fn a_list_longer_than_a_transaction_is_deleted_in_parts_whose_times_go_on() {
    let kinto = Kinto::with_collection().await;
    for n in 0..10 {
        let puts = (0..25).map(|i| put(&format!("r{n}-{i}"))).collect();
        batch(&kinto, puts).await;
    }
    let deleted = kinto.delete(RECORDS).await;
    let tombstones = deleted.body["data"].as_array().unwrap();
    assert_eq!(tombstones.len(), 250);
    assert!(sorted_ids(&kinto).await.is_empty());
    let list = kinto
        .get(&format!("{RECORDS}?_since=0&_sort=last_modified"))
        .await;
    let listed = list.body["data"].as_array().unwrap();
    assert_eq!(listed, tombstones);
    let latest = &tombstones[249]["last_modified"];
    assert_eq!(list.header("etag"), format!("\"{latest}\""));
    // Later writes continue from there.
    let next = kinto.put(&record("next"), json!({})).await;
    assert!(next.last_modified() > latest.as_u64().unwrap());
}

#[tokio::test]
async fn each_part_of_a_long_deletion_is_complete_up_to_its_timestamp() {
    let kinto = Kinto::with_collection().await;
    for n in 0..10 {
        let puts = (0..25).map(|i| put(&format!("r{n}-{i}"))).collect();
        batch(&kinto, puts).await;
    }
    let written = kinto.aws.requests();
    written.take();
    kinto.aws.inject(move |target, _| {
        let late = written.of("TransactWriteItems") >= 2;
        (late && target.ends_with("TransactWriteItems"))
            .then(|| Fault::error("ResourceNotFoundException"))
    });
    assert_eq!(kinto.delete(RECORDS).await.status, 503);
    kinto.aws.clear_faults();
    let left = sorted_ids(&kinto).await.len();
    assert!(left > 0 && left < 250, "{left}");
    let list = kinto.get(&format!("{RECORDS}?_since=0")).await;
    let latest = &list.body["data"][0]["last_modified"];
    assert_eq!(list.header("etag"), format!("\"{latest}\""));
    assert_eq!(
        kinto.delete(RECORDS).await.body["data"]
            .as_array()
            .unwrap()
            .len(),
        left
    );
    assert!(sorted_ids(&kinto).await.is_empty());
}
