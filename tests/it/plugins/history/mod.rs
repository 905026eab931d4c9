//! `kinto.plugins.history`: each bucket keeps what was written in it.

mod deletion;
mod entries;
mod reading;
mod snapshot;
mod undo;

use serde_json::{Value, json};
use tests::{Answer, Kinto};

pub const HISTORY: &str = "/buckets/main/history";
pub const INCLUDES: (&str, &str) = (
    "KINTO_INCLUDES",
    "kinto.plugins.history kinto.plugins.default_bucket kinto.plugins.flush",
);

/// With histories, and these settings besides; called as alice.
pub fn kinto(vars: &[(&str, &str)]) -> Kinto {
    Kinto::with(&[&[INCLUDES], vars].concat())
}

/// With the bucket `main` and the collection `one` in it.
pub async fn with_collection() -> Kinto {
    let kinto = kinto(&[]);
    for path in [tests::BUCKET, tests::COLLECTION] {
        assert_eq!(kinto.put(path, json!({})).await.status, 201);
    }
    kinto
}

/// Each entry of a history as its action and URI, the latest first.
pub fn told(history: &Answer) -> Vec<String> {
    let entries = entries(history).iter();
    entries
        .map(|entry| {
            let field = |name| entry[name].as_str().unwrap_or("-");
            format!(
                "{} {}",
                field("action"),
                field("uri").replace(tests::BUCKET, "B")
            )
        })
        .collect()
}

/// The entries of a history.
pub fn entries(history: &Answer) -> &Vec<Value> {
    assert_eq!(history.status, 200, "{history:?}");
    history.body["data"].as_array().unwrap()
}
