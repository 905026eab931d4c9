//! Random walks that the real signer has gone, as `tests/signer/walks` recorded them: ours answers and publishes the same.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::KeyPair;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kinto_local::{Options, Stack};

use super::new_key;
use crate::clients::{installed, succeeds, workspace};

/// With review and preview, and without; what is published is not in the histories.
const RESOURCES: &str =
    "/buckets/work -> /buckets/preview -> /buckets/main\n/buckets/free -> /buckets/open";

#[tokio::test]
#[ignore = "needs canonicaljson and cryptography for Python: tests/run"]
async fn thirty_random_walks_of_the_real_signer_end_the_same_and_what_is_spoiled_is_noticed() {
    let (pem, pair) = new_key();
    let public_key = BASE64_STANDARD.encode(pair.public_key().as_der().unwrap().as_ref());
    let vars = [
        ("KINTO_USERID_HMAC_SECRET", "local"),
        ("MULTIAUTH_POLICIES", "basicauth"),
        (
            "KINTO_INCLUDES",
            "kinto.plugins.flush kinto.plugins.history kinto_remote_settings",
        ),
        (
            "KINTO_HISTORY_EXCLUDE_RESOURCES",
            "/buckets/preview /buckets/main /buckets/open",
        ),
        ("KINTO_SIGNER_RESOURCES", RESOURCES),
        ("KINTO_SIGNER_TO_REVIEW_ENABLED", "true"),
        ("KINTO_SIGNER_FREE_TO_REVIEW_ENABLED", "false"),
        ("KINTO_SIGNER_ECDSA_PRIVATE_KEY", &pem),
    ];
    let vars = vars.into_iter().collect();
    let stack = Stack::start(&Options::default(), vars).await.unwrap();
    let mut python = installed("python");
    python.arg(workspace().join("tests/signer/walks")).args([
        "--recorded",
        "--spoil",
        "all",
        "--at",
        &stack.url(),
        &public_key,
    ]);
    // It ends by itself: each request that it sends succeeds or fails within a minute.
    assert!(
        succeeds(python).await,
        "a difference from the real signer, see above"
    );
    stack.stop().await;
}
