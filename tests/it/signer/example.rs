//! `examples/verify.py`: a client verifies what is published.

use std::path::Path;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kinto_local::{Options, Stack};
use kinto_serverless::settings::Vars;
use serde_json::{Value, json};
use tests::ALICE;
use tokio::process::Command;

/// A changeset of one record, with a signature of the real signer (known answer).
const KNOWN: &str = r#"{"changes":[{"id":"u","last_modified":1700000000001,"t":"\u00e9\u20ac\ud83d\ude00\u2028/<\"\\\b\t\n\u000b\f\r\u001f\u007f\u0080","\uff6a":1,"\ud83d\ude00":2,"\u00e9":3,"z":4}],"timestamp":1700000000001,"metadata":{"signature":{"signature":"yOuf2ck9LlzcqJ1nSs-7t-mVf6LiMkxt0hz9QyAbkfhobHGWm63s8NGfgWicsS-IpO2CsgAbvAzOErXXE-mMIJkMnGgj7AvU_gtSWymNolaZfVZ5aBVa1-HDPMqNnK_W"}}}"#;
const KNOWN_KEY: &str = "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAES3szFBvMwCwXgrPO3tafiPWF/K75Ek9G3DSRSmMw666Jf8cIbCGWIX+DTepSEk1XPs/JU+lRk8O2DTrpNa7ti7ZZM4gUOZKIEp4EMqpbF5pmqAqYmBKBuRuBGd050/32";

async fn python(arguments: &[&str]) -> (bool, String) {
    let mut python = Command::new("python3");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    python
        .args(arguments)
        .current_dir(examples)
        .kill_on_drop(true);
    let output = python.output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.success(), said)
}

async fn send(stack: &Stack, method: &str, path: &str, body: Value) {
    let url = format!("{}{path}", stack.url());
    let request = reqwest::Client::new().request(method.parse().unwrap(), url);
    let request = request
        .header("authorization", ALICE)
        .body(body.to_string());
    let request = request.header("content-type", "application/json");
    let answer = request.send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

#[tokio::test]
async fn the_example_verifies_what_is_published_and_nothing_else() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let private = pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref());
    let public = pem("PUBLIC KEY", pair.public_key().as_der().unwrap().as_ref());
    let file = std::env::temp_dir().join(format!("kinto-verify-{}.pem", std::process::id()));
    std::fs::write(&file, public).unwrap();
    let vars: Vars = [
        ("KINTO_INCLUDES", "kinto_remote_settings"),
        ("KINTO_SIGNER_ECDSA_PRIVATE_KEY", &*private),
        ("MULTIAUTH_POLICIES", "basicauth"),
        ("KINTO_USERID_HMAC_SECRET", "s"),
    ]
    .into_iter()
    .collect();
    let stack = Stack::start(&Options::default(), vars).await.unwrap();
    let work = "buckets/main-workspace";
    let source = format!("{work}/collections/news");
    send(&stack, "PUT", work, json!({})).await;
    send(&stack, "PUT", &source, json!({})).await;
    let body = json!({"data": {"title": "H\u{e9}llo \u{7f}\u{1f600}"}});
    send(&stack, "PUT", &format!("{source}/records/first"), body).await;
    send(
        &stack,
        "PATCH",
        &source,
        json!({"data": {"status": "to-sign"}}),
    )
    .await;
    let url = format!("{}buckets/main/collections/news", stack.url());
    let (verified, said) = python(&["verify.py", &url, file.to_str().unwrap()]).await;
    assert!(verified && said.starts_with("1 records"), "{said}");
    stack.stop().await;
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn the_example_knows_a_signature_of_the_real_signer_from_a_spoiled_one() {
    let check = "import base64, json, sys, verify\n\
        point = base64.b64decode(sys.argv[2])[-96:]\n\
        key = int.from_bytes(point[:48], 'big'), int.from_bytes(point[48:], 'big')\n\
        print(verify.verifies(json.loads(sys.argv[1]), key))";
    let (_, said) = python(&["-c", check, KNOWN, KNOWN_KEY]).await;
    assert_eq!(said.trim(), "True");
    let spoiled = KNOWN.replace("\"z\":4", "\"z\":5");
    let (_, said) = python(&["-c", check, &spoiled, KNOWN_KEY]).await;
    assert_eq!(said.trim(), "False");
}
