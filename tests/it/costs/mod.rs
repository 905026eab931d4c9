//! What one request may cost: each test is an attack, a request of a few bytes that would be dear, or what clients really
//! send.

mod bodies;
mod history;
mod lists;
mod requests;
mod shares;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use tests::{Kinto, RECORDS};

/// A user of that name.
fn user(kinto: &Kinto, name: &str) -> Kinto {
    let authorization = format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:")));
    kinto.as_user(authorization.leak())
}

/// A collection with ten records that nobody but alice may read.
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
