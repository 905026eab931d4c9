//! `chain`: what is published with it verifies for a third party, and for nobody who trusts another root or name.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::ffi::OsString;
use std::path::Path;

use kinto_cli::chain::{Options, run};
use kinto_local::Stack;
use kinto_serverless::settings::Vars;
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384};
use serde_json::{Value, json};
use tokio::process::Command;
use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

const NAME: &str = "news.content-signature.example.org";

/// Makes a chain; gives its file and what clients know its root by.
async fn make(directory: &Path, key: &Path, name: &str) -> (String, String) {
    let arguments = [
        "chain",
        directory.to_str().unwrap(),
        "--name",
        name,
        "--key",
    ];
    let arguments = arguments
        .map(OsString::from)
        .into_iter()
        .chain([key.into()]);
    let mut said = vec![];
    let options = Options::parse(arguments).unwrap().unwrap();
    run(options, &mut said).await.unwrap();
    let said = String::from_utf8(said).unwrap();
    let (file, root) = said.trim().split_once("\nroot ").unwrap();
    (file.to_owned(), root.to_owned())
}

async fn send(stack: &Stack, method: &str, path: &str, body: Value) {
    let url = format!("{}{path}", stack.url());
    let request = reqwest::Client::new().request(method.parse().unwrap(), url);
    let request = request.header("authorization", "Basic YWxpY2U6");
    let request = request.header("content-type", "application/json");
    let answer = request.body(body.to_string()).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
}

/// Returns the output of `third_party.py`, and whether it succeeded.
async fn third_party(url: &str, root: &str, name: &str) -> (bool, String) {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let python = std::env::var_os("KINTO_TEST_PYTHON").map_or_else(
        || workspace.join("target/venv/bin/python"),
        std::path::PathBuf::from,
    );
    let script = workspace.join("tests/signer/third_party.py");
    let mut command = Command::new(python);
    command
        .arg(script)
        .args([url, root, name])
        .kill_on_drop(true);
    let output = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), said)
}

#[tokio::test]
#[ignore = "needs autograph-utils, which tests/run installs"]
async fn a_third_party_verifies_what_is_published_with_a_chain_of_ours_and_trusts_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let (trusted, foreign) = (directory.path().join("a"), directory.path().join("b"));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let public = directory.path().join("public.pem");
    std::fs::write(&public, key.public_key_pem()).unwrap();
    let (file, root) = make(&trusted, &public, NAME).await;
    let (_, other_root) = make(&foreign, &public, NAME).await;
    let chains = MockServer::start().await;
    let text = std::fs::read_to_string(file).unwrap();
    Mock::given(matchers::path("/news.pem"))
        .respond_with(ResponseTemplate::new(200).set_body_string(text))
        .mount(&chains)
        .await;
    let url = format!("{}/news.pem", chains.uri());
    let pem = key.serialize_pem();
    let vars: Vars = [
        ("KINTO_INCLUDES", "kinto_remote_settings"),
        ("KINTO_SIGNER_ECDSA_PRIVATE_KEY", &*pem),
        ("KINTO_SIGNER_X5U", &url),
        ("MULTIAUTH_POLICIES", "basicauth"),
        ("KINTO_USERID_HMAC_SECRET", "s"),
    ]
    .into_iter()
    .collect();
    let stack = Stack::start(&kinto_local::Options::default(), vars)
        .await
        .unwrap();
    let work = "buckets/main-workspace";
    let source = format!("{work}/collections/news");
    send(&stack, "PUT", work, json!({})).await;
    send(&stack, "PUT", &source, json!({})).await;
    let body = json!({"data": {"title": "H\u{e9}llo \u{7f}\u{1f600}"}});
    send(&stack, "PUT", &format!("{source}/records/first"), body).await;
    let approve = json!({"data": {"status": "to-sign"}});
    send(&stack, "PATCH", &source, approve).await;
    let url = format!("{}buckets/main/collections/news", stack.url());
    let (verified, said) = third_party(&url, &root, NAME).await;
    assert!(
        verified && said.trim() == "1 records, 1 signatures",
        "{said}"
    );
    let (verified, said) = third_party(&url, &other_root, NAME).await;
    assert!(
        !verified && said.contains("CertificateHasWrongRoot"),
        "{said}"
    );
    let (verified, said) = third_party(&url, &root, "else.example.org").await;
    assert!(
        !verified && said.contains("CertificateHasWrongSubject"),
        "{said}"
    );
    stack.stop().await;
}
