//! Entries of the outbox that are late, have expired, or are of an earlier version.

use std::time::Duration;

use super::World;
use aws_lambda_events::dynamodb::EventRecord;
use aws_sdk_dynamodb::types::AttributeValue;
use kinto_local::sqs::{self, NOTIFICATIONS};
use kinto_serverless::queue::NotificationQueue;
use kinto_serverless::store::outbox::EntryId;
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Value, json};
use tests::{COLLECTION, NOBODY, TABLE};
use tokio::time::sleep;

use crate::observation::Log;

/// The partition of the entries under the collection `one`.
const OUTBOX: &str = "#outbox##/buckets/main/collections/one";

#[tokio::test(start_paused = true)]
async fn an_entry_that_its_list_names_before_it_is_there_is_waited_for_and_what_follows_with_it() {
    let world = World::new().await;
    world.write("one", 0).await;
    let entry = world.entries(OUTBOX).await.remove(0);
    let entry = world
        .kinto
        .take_item(OUTBOX, entry["sk"].as_s().unwrap())
        .await;
    world.write("one", 1).await;
    world.write("two", 2).await;
    let log = Log::start();
    let world = world.consuming(|| false);
    world.until("a", 1).await;
    // DynamoDB takes 5 seconds where a transaction's coordinator dies; an alarm counts errors.
    sleep(Duration::from_secs(5)).await;
    assert_eq!(log.errors(), [Value::Null; 0]);
    sleep(Duration::from_secs(3600)).await;
    assert!(log.errors().contains(&json!("a listener is not told")));
    assert_eq!(world.order("a", "two"), ["r2"]);
    assert_eq!(world.order("a", "one"), Vec::<String>::new());
    world.kinto.put_item(entry).await;
    world.until("a", 3).await;
    assert_eq!(world.order("a", "one"), ["r0", "r1"]);
    assert!(world.dead_letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_has_expired_holds_nothing_up() {
    let world = World::new().await;
    let long_ago = Timestamp::now().0 - 15 * 24 * 3600 * 1000;
    let expired = EntryId {
        parent: "#/buckets/main/collections/one".to_owned(),
        id: format!("t{long_ago}-8000000000000000"),
    };
    let queue = NotificationQueue::new(world.kinto.aws.sqs(), sqs::url(NOTIFICATIONS));
    queue.request("a", &expired).await.unwrap();
    world.write("one", 1).await;
    let world = world.consuming(|| false);
    world.until("a", 1).await;
    assert_eq!(world.order("a", "one"), ["r1"]);
    assert_eq!(world.dead_letters().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_version_of_the_api_writes_is_told_too() {
    let world = World::new().await;
    world.write("one", 0).await;
    // That version named the entry nowhere, and stored it elsewhere.
    let mut entry = world.entries(OUTBOX).await.remove(0);
    let pk = OUTBOX.replace("##", "#");
    let sk = "6f0c3b1e-8d55-4d4b-9a0e-0c6f2f0d1c5a#000";
    entry.insert("pk".to_owned(), AttributeValue::S(pk));
    entry.insert("sk".to_owned(), AttributeValue::S(sk.to_owned()));
    world.kinto.put_item(entry).await;
    let stream = world.stream().await;
    let told = |record: &&EventRecord| record.change.new_image.contains_key("entry");
    let (named, unnamed): (Vec<_>, Vec<_>) = stream.iter().partition(told);
    assert_eq!((named.len(), unnamed.len()), (1, 1), "{stream:?}");
    world.enqueue(&[unnamed[0].clone()]).await;
    let world = world.delivering(|| false);
    world.until("a", 1).await;
    assert_eq!(world.order("a", "one"), ["r0"]);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_an_earlier_version_of_the_api_writes_to_tells_nothing_twice() {
    let world = World::new().await;
    world.write("one", 0).await;
    let client = world.kinto.aws.dynamodb();
    let update = client.update_item().table_name(TABLE);
    update
        .key("pk", AttributeValue::S(format!("{COLLECTION}#record")))
        .key("sk", AttributeValue::S("#timestamp".to_owned()))
        .update_expression("SET #timestamp = :later")
        .expression_attribute_names("#timestamp", "timestamp")
        .expression_attribute_values(":later", AttributeValue::N("4000000000000".to_owned()))
        .send()
        .await
        .unwrap();
    let stream = world.stream().await;
    assert_eq!(stream.len(), 2);
    world.enqueue(&stream[1..]).await;
    assert!(world.kinto.aws.queues().notifications.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_the_filter_of_an_earlier_version_brings_is_told_once() {
    let world = World::new().await;
    world.write("one", 0).await;
    let entry = world.entries(OUTBOX).await.remove(0);
    let keys = json!({"pk": {"S": OUTBOX}, "sk": {"S": entry["sk"].as_s().unwrap()}});
    let mut inserted = serde_json::to_value(&world.stream().await[0]).unwrap();
    inserted["eventName"] = "INSERT".into();
    inserted["dynamodb"]["Keys"] = keys.clone();
    inserted["dynamodb"]["NewImage"] = keys;
    let inserted: EventRecord = serde_json::from_value(inserted).unwrap();
    world.enqueue(&[inserted]).await;
    assert_eq!(world.kinto.aws.queues().notifications.waiting().len(), 2);
    world.enqueue(&world.stream().await).await;
    assert_eq!(world.kinto.aws.queues().notifications.waiting().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_account_before_any_bucket_is_told_of_and_in_no_buckets_way() {
    let world = World::of("bucket account").consuming(|| false);
    let password = json!({"data": {"password": "hush hush"}});
    let anybody = world.kinto.as_user(NOBODY);
    assert_eq!(
        anybody.put("/accounts/a", password.clone()).await.status,
        201
    );
    let none = world.kinto.get("/buckets").await;
    assert_eq!((none.status, &none.body), (200, &json!({"data": []})));
    assert_eq!(
        world.kinto.put("/buckets/main", json!({})).await.status,
        201
    );
    assert_eq!(anybody.put("/accounts/b", password).await.status, 201);
    assert_eq!(
        world.kinto.get("/buckets").await.body["data"][0]["id"],
        "main"
    );
    world.until("a", 3).await;
    let told = ["/accounts/a", "/buckets/main", "/accounts/b"].map(str::to_owned);
    assert_eq!(world.order_by_parent("a")[""], told);
}
