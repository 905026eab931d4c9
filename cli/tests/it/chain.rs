//! `chain`: what is published with it verifies for a third party, and for nobody who trusts another root or name.

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

/// A stack that has published a record, with these keys and the chain in that file, and who serves that.
async fn publishing(chain: &str, keys: &[(&str, &str)]) -> (Stack, MockServer) {
    let chains = MockServer::start().await;
    let text = std::fs::read_to_string(chain).unwrap();
    Mock::given(matchers::path("/news.pem"))
        .respond_with(ResponseTemplate::new(200).set_body_string(text))
        .mount(&chains)
        .await;
    let url = format!("{}/news.pem", chains.uri());
    let common = [
        ("KINTO_INCLUDES", "kinto_remote_settings"),
        ("KINTO_SIGNER_X5U", &*url),
        ("MULTIAUTH_POLICIES", "basicauth"),
        ("KINTO_USERID_HMAC_SECRET", "s"),
    ];
    let vars: Vars = common.iter().chain(keys).copied().collect();
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
    (stack, chains)
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
    let pem = key.serialize_pem();
    let (stack, _chains) = publishing(&file, &[("KINTO_SIGNER_ECDSA_PRIVATE_KEY", &pem)]).await;
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

/// Has an emulator of KMS make a key that signs; gives its ARN.
async fn create_key(endpoint: &str) -> Option<String> {
    let credential = "Credential=test/20260101/eu-central-1/kms/aws4_request";
    let authorization = format!("AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=0");
    let request = reqwest::Client::new().post(endpoint);
    let request = request.header("x-amz-target", "TrentService.CreateKey");
    let request = request.header("content-type", "application/x-amz-json-1.1");
    let request = request.header("authorization", authorization);
    let body = json!({"KeySpec": "ECC_NIST_P384", "KeyUsage": "SIGN_VERIFY"});
    let answer = request.body(body.to_string()).send().await.ok()?;
    let made: Value = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
    Some(made["KeyMetadata"]["Arn"].as_str()?.to_owned())
}

/// Runs this test once more with an emulator of AWS in its environment, where alone the SDK looks for one.
async fn again_with_an_emulator(test: &str) {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    // Free again when this is said.
    let free = std::net::TcpListener::bind("127.0.0.1:0").map(|free| free.local_addr());
    let port = free.unwrap().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let mut emulator = Command::new(workspace.join("target/venv/bin/ministack"));
    emulator.env("GATEWAY_PORT", port.to_string());
    emulator.env("BIND_HOST", "127.0.0.1");
    let mut emulator = emulator.kill_on_drop(true).spawn().unwrap();
    let key = async {
        loop {
            match create_key(&endpoint).await {
                Some(key) => return key,
                None => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
    };
    let patience = std::time::Duration::from_secs(60);
    let key = tokio::time::timeout(patience, key).await.unwrap();
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", test, "--ignored", "--nocapture"]);
    again.envs([
        ("AWS_ENDPOINT_URL", &*endpoint),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("KINTO_TEST_KMS_KEY", &key),
    ]);
    let output = again.kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    emulator.kill().await.unwrap();
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs ministack and autograph-utils, which tests/run installs"]
async fn a_third_party_verifies_what_a_key_in_kms_has_signed_with_a_chain_of_that_key() {
    let Ok(key) = std::env::var("KINTO_TEST_KMS_KEY") else {
        let test =
            "chain::a_third_party_verifies_what_a_key_in_kms_has_signed_with_a_chain_of_that_key";
        return again_with_an_emulator(test).await;
    };
    let directory = tempfile::tempdir().unwrap();
    let (file, root) = make(directory.path(), Path::new(&key), NAME).await;
    let keys = [
        ("KINTO_SIGNER_SIGNER_BACKEND", "kms"),
        ("KINTO_SIGNER_KMS_KEY_IDS", &*key),
    ];
    let (stack, _chains) = publishing(&file, &keys).await;
    let url = format!("{}buckets/main/collections/news", stack.url());
    let (verified, said) = third_party(&url, &root, NAME).await;
    assert!(
        verified && said.trim() == "1 records, 1 signatures",
        "{said}"
    );
    stack.stop().await;
    // What a CA is asked to certify is signed by the key too.
    let mut asked = vec![];
    let arguments = ["csr", "--name", NAME, "--key", &key].map(OsString::from);
    run(Options::parse(arguments).unwrap().unwrap(), &mut asked)
        .await
        .unwrap();
    let csr = directory.path().join("csr.pem");
    std::fs::write(&csr, asked).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-verify", "-noout", "-subject", "-in"]);
    let output = openssl.arg(&csr).output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains(NAME), "{said}");
}
