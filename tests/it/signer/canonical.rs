//! The canonical form of JSON, as the library makes it that the real signer and its clients in Python use.

use kinto_serverless::signer::canonical;
use serde_json::Value;

use crate::clients::{installed, workspace};

#[tokio::test]
#[ignore = "needs canonicaljson for Python: tests/run"]
async fn ten_thousand_random_values_have_the_text_that_canonicaljson_makes() {
    let seed = std::env::var("CANONICAL_SEED").unwrap_or_else(|_| fastrand::u32(..).to_string());
    let mut python = installed("python");
    let script = workspace().join("tests/signer/canonical_cases.py");
    let cases = python.arg(script).args(["10000", &seed]).output().await;
    let cases = String::from_utf8(cases.unwrap().stdout).unwrap();
    let mut count = 0;
    for case in cases.lines() {
        let (json, expected) = case.split_once('\t').unwrap();
        let value: Value = serde_json::from_str(json).unwrap();
        let mut text = String::new();
        canonical::write(&value, &mut text);
        assert_eq!(text, expected, "CANONICAL_SEED={seed}: {json}");
        count += 1;
    }
    assert_eq!(count, 10_000);
}
