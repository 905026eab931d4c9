//! The costs of one request: each test is an attack, a small request that would be expensive, or a request as real
//! clients send it.

mod bodies;
mod history;
mod lists;
mod requests;
mod shares;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use tests::{Kinto, RECORDS};

/// A user with that name.
fn user(kinto: &Kinto, name: &str) -> Kinto {
    let authorization = format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:")));
    kinto.as_user(authorization.leak())
}

/// A collection with ten records that only alice may read.
async fn private() -> Kinto {
    let kinto = Kinto::with_collection().await;
    for n in 0..10 {
        kinto
            .put(&format!("{RECORDS}/r{n}"), json!({"data": {"n": n}}))
            .await;
    }
    kinto.aws.requests().take();
    kinto
}
