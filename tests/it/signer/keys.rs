//! Chains of certificates, several keys, and signing anew ([decision 29](../../../docs/decisions/029-keys.md)).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_lambda_events::encodings::Body;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::KeyPair as _;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use kinto_serverless::signer::payload;
use kinto_serverless::timestamp::Timestamp;
use rcgen::{
    CertificateParams, Issuer, KeyPair, PKCS_ECDSA_P384_SHA384, PublicKeyData, SignatureAlgorithm,
    date_time_ymd,
};
use serde_json::{Value, json};
use tests::{Answer, Kinto, in_own_thread, now};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::{Expect, create_source, verifies};
use crate::observation::Log;

const SOURCE: &str = "/buckets/main-workspace/collections/news";
const DESTINATION: &str = "/buckets/main/collections/news";
const DAY: u64 = 24 * 3600;

/// A public key of P-384, out of its `SubjectPublicKeyInfo`.
struct Public(Vec<u8>);

impl PublicKeyData for Public {
    fn der_bytes(&self) -> &[u8] {
        &self.0[self.0.len() - 97..]
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P384_SHA384
    }
}

/// The chain of a key, valid since `began` seconds ago and for `left` seconds more.
pub fn chain(public: &[u8], began: u64, left: u64) -> String {
    let time = |seconds| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let now = now() / 1000;
    let params = |seconds| {
        let mut params = CertificateParams::default();
        params.not_before = time(now - began);
        params.not_after = time(now + seconds);
        params
    };
    let root = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    // It outlives what it signs.
    let issuer = Issuer::new(params(left + DAY), root);
    let leaf = params(left).signed_by(&Public(public.to_vec()), &issuer);
    let root = params(left + DAY).self_signed(issuer.key()).unwrap();
    leaf.unwrap().pem() + &root.pem()
}

/// A private key as PEM, and its public half.
fn key() -> (String, Vec<u8>) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let pem = super::pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref());
    (pem, pair.public_key().as_der().unwrap().as_ref().to_vec())
}

/// A server of chains, each a text under its name.
pub async fn chains(texts: &[(&str, String)]) -> MockServer {
    let server = MockServer::start().await;
    for (name, text) in texts {
        Mock::given(method("GET"))
            .and(path(format!("/{name}")))
            .respond_with(ResponseTemplate::new(200).set_body_string(text))
            .mount(&server)
            .await;
    }
    server
}

async fn approve(kinto: &Kinto) -> Answer {
    kinto
        .patch(SOURCE, json!({"data": {"status": "to-sign"}}))
        .await
}

async fn changeset(kinto: &Kinto) -> Value {
    let path = format!("{DESTINATION}/changeset?_expected=0");
    kinto.get(&path).await.expect(200)
}

/// Panics unless each signature of the changeset is that of the key at its place.
fn check(changeset: &Value, keys: &[&Vec<u8>]) {
    let records = changeset["changes"].as_array().unwrap();
    let timestamp = Timestamp(changeset["timestamp"].as_u64().unwrap());
    let text = payload::text(records, timestamp);
    let signatures = changeset["metadata"]["signatures"].as_array().unwrap();
    assert_eq!(signatures.len(), keys.len());
    for (signature, key) in signatures.iter().zip(keys) {
        assert!(verifies(key, &text, signature), "{changeset}");
    }
}

fn with<'s>(more: &[(&'s str, &'s str)]) -> Kinto {
    let includes = ("KINTO_INCLUDES", "kinto_remote_settings");
    let caches = ("KINTO_RECORD_CACHE_EXPIRES_SECONDS", "3600");
    Kinto::with(&[&[includes, caches], more].concat())
}

/// The event that the stack's schedule sends, with these days.
async fn refresh(kinto: &Kinto, days: u64) -> Value {
    let event = include_str!("../../../events/refresh-signatures.json");
    let event = event.replace("days=7", &format!("days={days}"));
    let answer = kinto
        .api
        .handle(serde_json::from_str(&event).unwrap())
        .await;
    match answer.body {
        Some(Body::Text(text)) => serde_json::from_str(&text).unwrap(),
        body => panic!("{body:?}"),
    }
}

#[tokio::test]
async fn two_keys_in_one_text_sign_side_by_side_each_with_its_chain() {
    let [(first, old), (second, new)] = [key(), key()];
    let chains = chains(&[
        ("new.pem", chain(&new, DAY, 90 * DAY)),
        ("old.pem", chain(&old, DAY, 9 * DAY)),
    ])
    .await;
    let urls = ["new", "old"].map(|name| format!("{}/{name}.pem", chains.uri()));
    let kinto = with(&[
        ("KINTO_SIGNER_ECDSA_PRIVATE_KEY", &(second + &first)),
        ("KINTO_SIGNER_X5U", &urls.join(" ")),
    ]);
    create_source(&kinto, SOURCE).await;
    approve(&kinto).await.expect(200);
    let changeset = changeset(&kinto).await;
    check(&changeset, &[&new, &old]);
    let x5u = |index: usize| changeset["metadata"]["signatures"][index]["x5u"].clone();
    assert_eq!([x5u(0), x5u(1)], urls.map(Value::String));
    let received = chains.received_requests().await.unwrap().len();
    assert_eq!(received, 2, "each chain is fetched once");
}

#[tokio::test]
async fn nothing_is_published_that_clients_could_not_verify() {
    let [(pem, public), (_, other)] = [key(), key()];
    let chains = chains(&[
        ("other.pem", chain(&other, DAY, DAY)),
        (
            "both.pem",
            chain(&other, DAY, DAY) + &chain(&public, DAY, DAY),
        ),
        ("over.pem", chain(&public, 2 * DAY, 0)),
        ("text.pem", "hello".to_owned()),
        ("large.pem", "x".repeat(100_000)),
    ])
    .await;
    let private = ("KINTO_SIGNER_ECDSA_PRIVATE_KEY", &*pem);
    let before = with(&[private]);
    create_source(&before, SOURCE).await;
    let source = before.get(SOURCE).await.expect(200);
    for name in ["other", "both", "over", "text", "large", "missing"] {
        let url = format!("{}/{name}.pem", chains.uri());
        let vars = [
            ("KINTO_INCLUDES", "kinto_remote_settings"),
            private,
            ("KINTO_SIGNER_X5U", &url),
        ];
        let kinto = Kinto::over(&before.aws, &vars);
        assert_eq!(approve(&kinto).await.status, 503, "{name}");
        assert_eq!(kinto.get(SOURCE).await.expect(200), source);
        let heartbeat = kinto.get("/__heartbeat__").await;
        let is_of_another_key = ["other", "both"].contains(&name);
        assert_eq!(heartbeat.body["signer"], is_of_another_key, "{name}");
    }
    check(&changeset(&before).await, &[&public]);
}

#[tokio::test]
async fn no_cache_keeps_a_changeset_longer_than_its_certificates_are_valid() {
    let (pem, public) = key();
    let chains = chains(&[("a.pem", chain(&public, DAY, 100))]).await;
    let url = format!("{}/a.pem", chains.uri());
    let kinto = with(&[
        ("KINTO_SIGNER_ECDSA_PRIVATE_KEY", &pem),
        ("KINTO_SIGNER_MAIN_WORKSPACE_NEWS_X5U", &url),
    ]);
    create_source(&kinto, SOURCE).await;
    approve(&kinto).await.expect(200);
    let path = format!("{DESTINATION}/changeset?_expected=0");
    let answer = kinto.as_user("").get(&path).await;
    let seconds = answer.header("cache-control").strip_prefix("max-age=");
    let seconds: u64 = seconds.expect("max-age").parse().unwrap();
    assert!((80..=100).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn what_was_signed_long_ago_is_signed_anew_under_a_time_that_caches_know() {
    let (pem, public) = key();
    let kinto = with(&[("KINTO_SIGNER_ECDSA_PRIVATE_KEY", &pem)]);
    create_source(&kinto, SOURCE).await;
    approve(&kinto).await.expect(200);
    let before = changeset(&kinto).await;
    assert_eq!(
        refresh(&kinto, 7).await,
        json!({"signed": 0, "failed": 0, "left": 0})
    );
    assert_eq!(changeset(&kinto).await, before);
    kinto
        .put(&format!("{SOURCE}/records/b"), json!({"data": {"n": 2}}))
        .await
        .expect(201);
    assert_eq!(
        refresh(&kinto, 0).await,
        json!({"signed": 1, "failed": 0, "left": 0})
    );
    let after = changeset(&kinto).await;
    check(&after, &[&public]);
    assert!(after["timestamp"].as_u64() > before["timestamp"].as_u64());
    assert_eq!(after["changes"], before["changes"], "no record is another");
    let source = kinto.get(SOURCE).await.expect(200);
    assert_eq!(source["data"]["status"], "work-in-progress");
    assert_eq!(
        source["data"]["last_signature_by"],
        "plugin:remote-settings"
    );
    // Who has the records hears of the signature alone.
    let since = before["timestamp"].as_u64().unwrap();
    let path = format!("{DESTINATION}/changeset?_expected=0&_since=\"{since}\"");
    let changes = kinto.get(&path).await.expect(200);
    assert_eq!(changes["changes"], json!([]));
    assert_eq!(
        changes["metadata"]["signatures"],
        after["metadata"]["signatures"]
    );
    approve(&kinto).await.expect(200);
    check(&changeset(&kinto).await, &[&public]);
}

#[tokio::test]
async fn a_source_that_others_write_each_time_is_left_for_the_next_run_and_is_no_error() {
    let (pem, public) = key();
    let kinto = with(&[("KINTO_SIGNER_ECDSA_PRIVATE_KEY", &pem)]);
    create_source(&kinto, SOURCE).await;
    approve(&kinto).await.expect(200);
    let before = changeset(&kinto).await;
    let (other, busy) = (kinto.clone(), AtomicBool::new(false));
    kinto.aws.inject(move |target, _| {
        if target.ends_with("TransactWriteItems") && !busy.swap(true, Ordering::SeqCst) {
            let other = other.clone();
            in_own_thread(async move || {
                let body = json!({"data": {"at": now()}});
                other.patch(SOURCE, body).await.expect(200);
            });
            busy.store(false, Ordering::SeqCst);
        }
        None
    });
    let log = Log::start();
    let refreshed = refresh(&kinto, 0).await;
    assert_eq!(refreshed, json!({"signed": 0, "failed": 0, "left": 1}));
    assert_eq!(log.errors(), [Value::Null; 0]);
    kinto.aws.clear_faults();
    assert_eq!(changeset(&kinto).await, before);
    let refreshed = refresh(&kinto, 0).await;
    assert_eq!(refreshed, json!({"signed": 1, "failed": 0, "left": 0}));
    check(&changeset(&kinto).await, &[&public]);
}

#[tokio::test]
async fn nobody_has_the_event_of_the_schedule_sent_by_a_request() {
    let (pem, _) = key();
    let kinto = with(&[("KINTO_SIGNER_ECDSA_PRIVATE_KEY", &pem)]);
    let headers = [("routekey", "refresh-signatures")];
    for path in ["/refresh-signatures?days=0", "/v1/refresh-signatures"] {
        let answer = kinto.send_raw("POST", path, &headers, "").await;
        assert!((300..500).contains(&answer.status), "{answer:?}");
        assert_eq!(answer.body.get("signed"), None);
    }
}

#[tokio::test]
async fn autograph_signs_with_each_of_its_keys_and_says_the_rest() {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use kinto_serverless::signer::local_ecdsa::LocalEcdsa;

    /// Autograph with one key under any name, which clients have no certificate of.
    struct Autograph(LocalEcdsa);

    impl wiremock::Respond for Autograph {
        fn respond(&self, request: &wiremock::Request) -> ResponseTemplate {
            let authorization = request.headers["authorization"].to_str().unwrap();
            assert!(
                authorization.starts_with("Hawk id=\"alice\", ts="),
                "{authorization}"
            );
            let body: Value = request.body_json().unwrap();
            let [asked] = body.as_array().unwrap().as_slice() else {
                panic!("{body}");
            };
            let text = BASE64_STANDARD
                .decode(asked["input"].as_str().unwrap())
                .unwrap();
            let signature = self.0.sign(&String::from_utf8(text).unwrap()).unwrap();
            ResponseTemplate::new(201).set_body_json(json!([{
                "ref": "r",
                "type": "contentsignature",
                "mode": "p384ecdsa",
                "signer_id": asked["keyid"],
                "public_key": "MHYw",
                "signature": signature,
                "x5u": "file:///tmp/chain.pem",
                "other": "is not taken over",
            }]))
        }
    }

    let (pem, public) = key();
    let key = LocalEcdsa::all_from_pem(&pem).unwrap().remove(0);
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/sign/data"))
        .respond_with(Autograph(key))
        .mount(&server)
        .await;
    let kinto = with(&[
        (
            "KINTO_SIGNER_SIGNER_BACKEND",
            "kinto_remote_settings.signer.backends.autograph",
        ),
        ("KINTO_SIGNER_AUTOGRAPH_SERVER_URL", &server.uri()),
        ("KINTO_SIGNER_AUTOGRAPH_HAWK_ID", "alice"),
        ("KINTO_SIGNER_AUTOGRAPH_HAWK_SECRET", "secret"),
        ("KINTO_SIGNER_AUTOGRAPH_KEY_IDS", "one two"),
    ]);
    create_source(&kinto, SOURCE).await;
    approve(&kinto).await.expect(200);
    let published = changeset(&kinto).await;
    check(&published, &[&public, &public]);
    let signature = &published["metadata"]["signatures"][1];
    let fields: Vec<_> = signature.as_object().unwrap().keys().collect();
    let all = [
        "signature",
        "x5u",
        "mode",
        "public_key",
        "type",
        "signer_id",
        "ref",
    ];
    assert_eq!(fields, all);
    assert_eq!(signature["signer_id"], "two");
    server.reset().await;
    assert_eq!(
        kinto
            .patch(SOURCE, json!({"data": {"status": "to-resign"}}))
            .await
            .status,
        503
    );
    assert_eq!(changeset(&kinto).await, published);
}
