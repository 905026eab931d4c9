//! Partitions that near the 10 GB that they may have, or have them.

use kinto_local::Fault;
use serde_json::{Value, json};
use tests::{Kinto, RECORD};

use super::Log;

const LIST: &str = "/buckets/main/collections/one#record";
const SHARD: &str = "#history#generation#3";

/// Has each commit that asks for the sizes of partitions be told these, in GB.
fn sizes(kinto: &Kinto, of_list: f64, of_shard: f64) {
    kinto.aws.inject(move |target, body| {
        let request: Value = serde_json::from_slice(body).unwrap();
        let asks = request["ReturnItemCollectionMetrics"] == "SIZE";
        if !target.ends_with("TransactWriteItems") || !asks {
            return None;
        }
        let metrics = [(LIST, of_list), (SHARD, of_shard)].map(|(pk, size)| {
            json!({"ItemCollectionKey": {"pk": {"S": pk}}, "SizeEstimateRangeGB": [size, size + 1.0]})
        });
        Some(Fault::Refused {
            status: 200,
            body: json!({"ItemCollectionMetrics": {"kinto": metrics}}).to_string(),
        })
    });
}

/// The partitions that were reported while 400 records were written, without repetition, and how often.
async fn reported(kinto: &Kinto, log: &Log) -> (Vec<String>, usize) {
    for _ in 0..400 {
        assert!(kinto.put(RECORD, json!({})).await.status < 300);
    }
    let mut reported: Vec<String> = log
        .lines()
        .iter()
        .map(|line| &line["fields"])
        .filter(|fields| fields["message"] == "a partition of the table is nearly full")
        .map(|fields| fields["partition"].as_str().unwrap().to_owned())
        .collect();
    let times = reported.len();
    reported.sort();
    reported.dedup();
    (reported, times)
}

#[tokio::test]
async fn a_partition_that_is_nearly_full_is_named_by_some_of_the_commits_to_it() {
    let kinto = Kinto::with_collection().await;
    let log = Log::start();
    sizes(&kinto, 7.9, 8.0);
    let (partitions, times) = reported(&kinto, &log).await;
    // The shard of a history as well as a list. One commit in 16 asks; 400 without one are as likely as 1 in 10^11.
    assert_eq!(partitions, [SHARD]);
    assert!((1..100).contains(&times), "{times}");
    sizes(&kinto, 9.5, 0.0);
    assert_eq!(reported(&kinto, &log).await.0, [LIST]);
    sizes(&kinto, 7.9, 0.0);
    assert_eq!(reported(&kinto, &log).await.0, [String::new(); 0]);
}

#[tokio::test]
async fn a_partition_that_is_full_is_named_in_the_log_alone() {
    let kinto = Kinto::with_collection().await;
    let log = Log::start();
    kinto.aws.inject(|target, _| {
        let full = ["None", "ItemCollectionSizeLimitExceeded"];
        let is_commit = target.ends_with("TransactWriteItems");
        is_commit.then(|| Fault::transaction_canceled(&full))
    });
    let refused = kinto.put(RECORD, json!({})).await;
    assert_eq!(refused.status, 507);
    assert!(!refused.body.to_string().contains('#'), "{}", refused.body);
    let lines = log.lines();
    let line = lines.iter().find(|line| line["level"] == "ERROR").unwrap();
    assert_eq!(
        line["fields"]["message"],
        "a partition of the table is full"
    );
    assert_eq!(line["fields"]["partition"], LIST);
}
