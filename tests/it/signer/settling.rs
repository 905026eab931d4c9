//! A publication whose objects are not all in their places yet: what is read of it, who settles it, and what is left.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aws_lambda_events::dynamodb::Event;
use aws_sdk_dynamodb::types::AttributeValue;
use kinto_local::Fault;
use kinto_serverless::aggregator::Aggregator;
use kinto_serverless::queue::BroadcastQueue;
use kinto_serverless::resource::{Kind, ObjectUri};
use kinto_serverless::store::Store;
use kinto_serverless::store::publication::Layer;
use serde_json::{Value, json};
use tests::{TABLE, batch, changed, execute};

use super::{DESTINATION, Expect, PREVIEW, SOURCE, Signer, WITHOUT_PREVIEW, once, prepared};

/// The attribute of the item of a list of records.
pub fn list_attribute(signer: &Signer, collection: &str, name: &str) -> Option<Value> {
    let key = json!({"pk": {"S": format!("{collection}#record")}, "sk": {"S": "#timestamp"}});
    let answer = execute(
        &signer.kinto.aws,
        "GetItem",
        json!({"Key": key, "ConsistentRead": true}),
    );
    answer["Item"].get(name).cloned()
}

#[tokio::test]
async fn a_layer_expires_and_leaves_nothing_in_the_places_of_its_objects() {
    let signer = prepared().await;
    signer.set(tests::ALICE, "to-review").await.expect(200);
    let scan = signer
        .kinto
        .aws
        .dynamodb()
        .scan()
        .table_name(TABLE)
        .send()
        .await
        .unwrap();
    let mut in_layers = 0;
    for item in scan.items() {
        let text = |name: &str| item.get(name).and_then(|it| it.as_s().ok()).cloned();
        let has = |name: &str| item.contains_key(name);
        let pk = text("pk").unwrap();
        if pk.starts_with("#layer#") {
            in_layers += 1;
            assert!(has("expires") && !has("last_modified"), "{item:?}");
        }
        if pk == format!("{PREVIEW}#record") {
            assert!(!has("at") && !has("expires"), "{item:?}");
            let is_list = text("sk").as_deref() == Some("#timestamp");
            assert_eq!(has("last_modified"), !is_list);
            assert!(!is_list || matches!(item["signatures"], AttributeValue::S(_)));
        }
    }
    assert!(in_layers > 3);
}

#[tokio::test]
async fn a_publication_that_was_cut_short_is_settled_by_who_reads_the_stream() {
    for life in 0..7 {
        let signer = prepared().await;
        signer.set(tests::ALICE, "to-review").await.expect(200);
        // Nothing after the commit.
        let is_committed = AtomicBool::new(false);
        signer.kinto.aws.inject(move |target, _| {
            if is_committed.load(Ordering::SeqCst) {
                return Some(Fault::error("ResourceNotFoundException"));
            }
            is_committed.store(target.ends_with("TransactWriteItems"), Ordering::SeqCst);
            None
        });
        signer.set(tests::BOB, "to-sign").await.expect(200);
        signer.kinto.aws.clear_faults();
        let aggregator = aggregator(&signer);
        let shown = shown(&signer);
        assert!(list_attribute(&signer, DESTINATION, "layer").is_some());
        // It may die as well; then the stream gives the batch again.
        let left = AtomicU64::new(life);
        signer.kinto.aws.inject(move |target, _| {
            if !target.starts_with("DynamoDB") {
                return None;
            }
            let spent = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            spent
                .err()
                .map(|_| Fault::error("ResourceNotFoundException"))
        });
        let answer = aggregator.handle(shown.clone()).await;
        signer.kinto.aws.clear_faults();
        assert_eq!(answer.batch_item_failures.len(), 1, "after {life} requests");
        assert_eq!(signer.verified(DESTINATION).await, ["a=2", "c=1", "d=2"]);
        for _ in 0..2 {
            let answer = aggregator.handle(shown.clone()).await;
            assert!(answer.batch_item_failures.is_empty());
            assert_eq!(list_attribute(&signer, DESTINATION, "layer"), None);
            assert_eq!(signer.verified(DESTINATION).await, ["a=2", "c=1", "d=2"]);
        }
        // What comes late settles nothing that is newer.
        signer.write(tests::ALICE, "a", 3).await.expect(200);
        signer.set(tests::ALICE, "to-review").await.expect(200);
        signer.set(tests::BOB, "to-sign").await.expect(200);
        aggregator.handle(shown).await;
        assert_eq!(signer.verified(DESTINATION).await, ["a=3", "c=1", "d=2"]);
    }
}

/// The stream's record of the item of the destination's list as it is now.
fn shown(signer: &Signer) -> Event {
    let key = json!({"pk": {"S": format!("{DESTINATION}#record")}, "sk": {"S": "#timestamp"}});
    let item = execute(&signer.kinto.aws, "GetItem", json!({"Key": key}))["Item"].clone();
    let mut record = changed(1, "news", 1);
    record["dynamodb"]["Keys"] = key;
    record["dynamodb"]["NewImage"] = item;
    serde_json::from_value(json!({"Records": [record]})).unwrap()
}

/// The aggregator of a server.
fn aggregator(signer: &Signer) -> Aggregator {
    let settings = tests::settings(&[]);
    let aws = &signer.kinto.aws;
    Aggregator::new(
        Store::new(aws.dynamodb(), TABLE),
        BroadcastQueue::new(aws.sqs(), aws.queue_url()),
        settings.changes,
        settings.broadcasts,
        vec![],
    )
}

#[tokio::test]
async fn who_settles_late_overwrites_nothing_that_is_newer() {
    // Before each object that it puts in its place.
    for at in 0..3 {
        let signer = prepared().await;
        signer.set(tests::ALICE, "to-review").await.expect(200);
        let is_committed = AtomicBool::new(false);
        signer.kinto.aws.inject(move |target, _| {
            let is_over = is_committed.load(Ordering::SeqCst);
            is_committed.fetch_or(target.ends_with("TransactWriteItems"), Ordering::SeqCst);
            is_over.then(|| Fault::error("ResourceNotFoundException"))
        });
        signer.set(tests::BOB, "to-sign").await.expect(200);
        signer.kinto.aws.clear_faults();
        let name = list_attribute(&signer, DESTINATION, "layer").unwrap();
        let size = list_attribute(&signer, DESTINATION, "layer_size").unwrap();
        let layer = Layer {
            name: name["S"].as_str().unwrap().to_owned(),
            size: size["N"].as_str().unwrap().parse().unwrap(),
        };
        let rival = signer.clone();
        once(
            &signer,
            at,
            |target| target.ends_with("PutItem"),
            async move || {
                for (id, n) in [("a", 3), ("b", 3), ("d", 3)] {
                    rival.write(tests::ALICE, id, n).await;
                }
                rival.set(tests::ALICE, "to-review").await.expect(200);
                rival.set(tests::BOB, "to-sign").await.expect(200);
            },
        );
        let collection = DESTINATION
            .trim_start_matches('/')
            .split('/')
            .collect::<Vec<_>>();
        let list = ObjectUri::collection(collection[1], collection[3]).children(Kind::Record);
        let store = Store::new(signer.kinto.aws.dynamodb(), TABLE);
        store.settle_layer(&list, &layer).await.unwrap();
        signer.kinto.aws.clear_faults();
        assert_eq!(
            signer.verified(DESTINATION).await,
            ["a=3", "b=3", "c=1", "d=3"]
        );
    }
}

#[tokio::test]
async fn a_client_follows_over_a_publication_that_nobody_has_settled_yet() {
    let signer = prepared().await;
    signer.set(tests::ALICE, "to-review").await.expect(200);
    let is_committed = AtomicBool::new(false);
    signer.kinto.aws.inject(move |target, _| {
        let is_over = is_committed.load(Ordering::SeqCst);
        is_committed.fetch_or(target.ends_with("TransactWriteItems"), Ordering::SeqCst);
        is_over.then(|| Fault::error("ResourceNotFoundException"))
    });
    signer.set(tests::BOB, "to-sign").await.expect(200);
    signer.kinto.aws.clear_faults();
    let path = format!("{DESTINATION}/changeset?_expected=0");
    let known = signer.kinto.get(&path).await.expect(200);
    // All is as it was before.
    signer.write(tests::ALICE, "a", 1).await.expect(200);
    signer.write(tests::ALICE, "b", 1).await.expect(201);
    signer
        .kinto
        .delete(&format!("{SOURCE}/records/d"))
        .await
        .expect(200);
    signer.set(tests::ALICE, "to-review").await.expect(200);
    signer.set(tests::BOB, "to-sign").await.expect(200);
    let path = format!("{path}&_since={}", known["timestamp"]);
    let mut changeset = signer.kinto.get(&path).await.expect(200);
    let mut records = known["changes"].as_array().unwrap().clone();
    let changes = changeset["changes"].as_array().unwrap();
    records.retain(|record| changes.iter().all(|it| it["id"] != record["id"]));
    records.extend(changes.iter().filter(|it| it["deleted"] != true).cloned());
    changeset["changes"] = json!(records);
    signer.check(&changeset);
    assert_eq!(signer.verified(DESTINATION).await, ["a=1", "b=1", "c=1"]);
}

#[tokio::test]
async fn a_large_publication_is_shown_before_all_of_it_is_in_its_place() {
    shown_before_it_is_in_its_place(525, 2).await;
}

#[tokio::test]
async fn so_is_one_whose_layer_lies_in_several_partitions() {
    shown_before_it_is_in_its_place(2_100, 6).await;
}

/// Publishes so many new records, whose layer is settled in so many steps.
async fn shown_before_it_is_in_its_place(records: u64, steps_to_settle: u64) {
    let signer = Signer::with(WITHOUT_PREVIEW, "false").await;
    let count = records as usize;
    for start in (0..records).step_by(25) {
        let put = |n: u64| json!({"method": "PUT", "path": format!("{SOURCE}/records/r{n}"), "body": {"data": {"n": n}}});
        batch(&signer.kinto, (start..start + 25).map(put).collect())
            .await
            .expect(200);
    }
    signer.set(tests::ALICE, "to-sign").await.expect(200);
    assert!(list_attribute(&signer, DESTINATION, "layer").is_some());
    let path = format!("{DESTINATION}/records?_limit=10");
    for is_settled in [false, true] {
        assert_eq!(signer.verified(DESTINATION).await.len(), count);
        let other = signer.restarted(WITHOUT_PREVIEW, "false");
        assert_eq!(signer.verify(&other, DESTINATION).await.len(), count);
        let limited = format!("{DESTINATION}/changeset?_expected=0&_limit=3");
        let limited = other.get(&limited).await.expect(200);
        assert_eq!(limited["changes"].as_array().unwrap().len(), 3);
        let page = other.get(&path).await;
        assert_eq!(tests::ids(&page).len(), 10);
        let head = other
            .send("HEAD", &format!("{DESTINATION}/records"), &[], "")
            .await;
        assert_eq!(head.header("total-objects"), records.to_string());
        let record = other
            .get(&format!("{DESTINATION}/records/r7"))
            .await
            .expect(200);
        assert_eq!(record["data"]["n"], 7);
        let is_there = list_attribute(&signer, DESTINATION, "layer").is_some();
        assert_eq!(is_there, !is_settled);
        // Each step writes the list's item, of which the stream tells.
        let mut steps = 0;
        while list_attribute(&signer, DESTINATION, "layer").is_some() {
            let answer = aggregator(&signer).handle(shown(&signer)).await;
            assert!(answer.batch_item_failures.is_empty());
            assert_eq!(signer.verified(DESTINATION).await.len(), count);
            steps += 1;
        }
        assert_eq!(steps, if is_settled { 0 } else { steps_to_settle });
    }
    let placed = list_attribute(&signer, DESTINATION, "layer_placed");
    assert_eq!(placed, None);
}
