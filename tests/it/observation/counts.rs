//! The metrics that the functions publish.

use std::sync::{Arc, Mutex};

use kinto_local::Fault;
use kinto_serverless::metrics::Metrics;
use serde_json::{Map, Value, json};
use tests::{BOB, COLLECTION, Kinto, NOBODY, RECORD, RECORDS, batch, put};

/// The lines that were published.
#[derive(Clone, Default)]
pub struct Published(Arc<Mutex<Vec<Value>>>);

impl Published {
    /// Metrics that are published here.
    pub fn metrics(&self) -> Metrics {
        let lines = Arc::clone(&self.0);
        Metrics::of("function", true, move |line| {
            lines.lock().unwrap().push(line.clone());
        })
    }

    /// What was published since the last call: the values by the names of their metrics.
    pub fn take(&self) -> Value {
        let mut all = Map::new();
        for line in self.0.lock().unwrap().drain(..) {
            let line = line.as_object().unwrap().iter();
            let values = line.filter(|(name, _)| !["_aws", "FunctionName"].contains(&&***name));
            all.extend(values.map(|(name, value)| (name.clone(), value.clone())));
        }
        Value::Object(all)
    }
}

/// A server with a collection, and what it publishes.
async fn publishing() -> (Published, Kinto) {
    let published = Published::default();
    let mut kinto = Kinto::with_collection().await;
    kinto.api = kinto.api.publishing(published.metrics());
    (published, kinto)
}

#[tokio::test]
async fn a_write_is_counted_and_a_read_that_succeeds_costs_no_line() {
    let (published, kinto) = publishing().await;
    kinto.put(RECORD, json!({})).await;
    assert_eq!(published.take(), json!({"Writes": 1}));
    kinto.get(RECORD).await;
    kinto.get("/").await;
    kinto
        .send("GET", RECORD, &[("If-None-Match", "*")], "")
        .await;
    kinto.send("OPTIONS", RECORD, &[], "").await;
    assert_eq!(published.take(), json!({}));
}

#[tokio::test]
async fn refusals_are_counted_by_their_kind() {
    let (published, kinto) = publishing().await;
    kinto.as_user(NOBODY).get(RECORDS).await;
    assert_eq!(published.take(), json!({"RefusedCredentials": 1}));
    kinto.as_user(BOB).put(RECORD, json!({})).await;
    assert_eq!(published.take(), json!({"RefusedCredentials": 1}));
    kinto.get(RECORD).await;
    assert_eq!(published.take(), json!({"RefusedUnknown": 1}));
    kinto.put(RECORD, json!({"data": 1})).await;
    assert_eq!(published.take(), json!({"RefusedInput": 1}));
    kinto
        .send("PUT", COLLECTION, &[("If-None-Match", "*")], "{}")
        .await;
    assert_eq!(published.take(), json!({"RefusedStale": 1}));
}

#[tokio::test]
async fn each_request_in_a_batch_counts_and_the_batch_does_not() {
    let (published, kinto) = publishing().await;
    let unknown = json!({"path": format!("{RECORDS}/none")});
    batch(&kinto, vec![put("a"), put("b"), unknown]).await;
    let expected = json!({"Writes": 2, "RefusedUnknown": 1});
    assert_eq!(published.take(), expected);
    batch(&kinto, vec![json!({"path": 1})]).await;
    assert_eq!(published.take(), json!({"RefusedInput": 1}));
}

#[tokio::test(start_paused = true)]
async fn contention_is_told_apart_from_failures() {
    let (published, kinto) = publishing().await;
    kinto.aws.inject(|target, _| {
        let conflict = Fault::transaction_canceled(&["ConditionalCheckFailed"]);
        target.ends_with("TransactWriteItems").then_some(conflict)
    });
    kinto.put(RECORD, json!({})).await;
    let counted = published.take();
    assert_eq!(
        (&counted["Contended"], &counted["Failed"]),
        (&json!(1), &Value::Null)
    );
    assert!(counted["Retries"].as_u64().unwrap() > 5, "{counted}");
    assert_eq!(counted["Writes"], Value::Null);

    kinto.aws.inject(|target, _| {
        let fault = Fault::error("InternalServerError");
        target.ends_with("BatchGetItem").then_some(fault)
    });
    kinto.put(RECORD, json!({})).await;
    assert_eq!(published.take(), json!({"Failed": 1}));
}
