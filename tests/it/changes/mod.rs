//! Changesets and monitor/changes, as in kinto-changes.

mod changeset;
mod max_age;
mod moments;
mod monitor;

use serde_json::{Value, json};
use tests::{COLLECTION, Kinto, put_item};

const CHANGESET: &str = "/buckets/main/collections/one/changeset";
const MONITOR: &str = "/buckets/monitor/collections/changes";

async fn put(kinto: &Kinto, id: &str, data: Value) -> u64 {
    let path = format!("{COLLECTION}/records/{id}");
    let answer = kinto.put(&path, json!({"data": data})).await;
    assert!(answer.status < 300, "{answer:?}");
    answer.last_modified()
}

/// Puts entries into the monitor's state: bucket, collection, timestamp, and whether the collection is deleted. Each
/// has its timestamp as its position, or the next free one.
fn monitor(kinto: &Kinto, entries: &[(&str, &str, u64, bool)]) {
    let (mut latest, mut clock) = (json!({}), 0);
    for (bucket, collection, last_modified, deleted) in entries {
        clock = (clock + 1).max(*last_modified);
        latest[format!("{bucket}/{collection}")] = json!([clock, last_modified, deleted]);
    }
    let state = json!({
        "pk": "#monitor", "sk": "#state", "clock": clock, "floor": 0, "latest": latest, "due": {}, "adopted": 0,
    });
    put_item(&kinto.aws, &state);
    kinto.aws.requests().take();
}
