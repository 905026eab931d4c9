//! Keys in KMS, which a stand-in has: what it is asked, and what its answers and failures become.

use std::collections::HashMap;

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_lc_rs::digest::{Digest, SHA384};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use aws_sdk_secretsmanager::config::Credentials;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kinto_serverless::signer::keys::Signer;
use kinto_serverless::signer::payload;
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Value, json};
use tests::{ALICE, Kinto};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use super::keys::{chain, chains};
use super::{Expect, create_source, verifies};

/// The first key.
pub const KEY: &str = "arn:aws:kms:eu-central-1:123456789012:key/first";
/// The one that follows it.
pub const NEXT: &str = "arn:aws:kms:eu-central-1:123456789012:key/next";
const SOURCE: &str = "/buckets/main-workspace/collections/news";
const DESTINATION: &str = "/buckets/main/collections/news";

/// KMS with keys of P-384.
struct Keys(HashMap<&'static str, EcdsaKeyPair>);

impl Respond for Keys {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let header = |name: &str| request.headers[name].to_str().unwrap();
        assert_eq!(header("x-amz-target"), "TrentService.Sign");
        assert_eq!(header("content-type"), "application/x-amz-json-1.1");
        let authorization = header("authorization");
        assert!(
            authorization.contains("/eu-central-1/kms/aws4_request"),
            "{authorization}"
        );
        let body: Value = request.body_json().unwrap();
        let id = body["KeyId"].as_str().unwrap();
        let message = BASE64_STANDARD.decode(body["Message"].as_str().unwrap());
        let asked = json!({
            "KeyId": id,
            "Message": body["Message"],
            "MessageType": "DIGEST",
            "SigningAlgorithm": "ECDSA_SHA_384",
        });
        assert_eq!(body, asked);
        let Some(key) = self.0.get(id) else {
            let error = json!({"__type": "NotFoundException", "message": "no such key"});
            return ResponseTemplate::new(400).set_body_json(error);
        };
        let digest = Digest::import_less_safe(&message.unwrap(), &SHA384).unwrap();
        let signature = key.sign_digest(&digest).unwrap();
        ResponseTemplate::new(200).set_body_json(json!({
            "KeyId": id,
            "Signature": BASE64_STANDARD.encode(signature),
            "SigningAlgorithm": "ECDSA_SHA_384",
        }))
    }
}

/// Keys with their public halves.
struct Kms {
    server: MockServer,
    public: HashMap<&'static str, Vec<u8>>,
}

impl Kms {
    async fn with(ids: &[&'static str]) -> Self {
        let server = MockServer::start().await;
        let (mut keys, mut public) = (HashMap::new(), HashMap::new());
        for id in ids {
            let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
            let key = pair.public_key().as_der().unwrap();
            public.insert(*id, key.as_ref().to_vec());
            keys.insert(*id, pair);
        }
        Mock::given(any())
            .respond_with(Keys(keys))
            .mount(&server)
            .await;
        Self { server, public }
    }

    async fn requests(&self) -> usize {
        self.server.received_requests().await.unwrap().len()
    }

    /// A server that signs with these keys, with a source and a record in it that is not published.
    async fn kinto(&self, settings: &[(&str, &str)]) -> Kinto {
        let common = [
            ("KINTO_INCLUDES", "kinto_remote_settings"),
            ("KINTO_SIGNER_SIGNER_BACKEND", "kms"),
        ];
        let mut kinto = Kinto::with(&[&common, settings].concat());
        kinto.api = kinto
            .api
            .signing_with(Signer::new(&sdk(&self.server.uri()).await));
        kinto
    }

    /// Panics unless the destination's records are `n` many, and each of its signatures is that of the key at its place.
    async fn check(&self, kinto: &Kinto, n: usize, keys: &[&str]) -> Value {
        let path = format!("{DESTINATION}/changeset?_expected=0");
        let changeset = kinto.get(&path).await.expect(200);
        let records = changeset["changes"].as_array().unwrap();
        assert_eq!(records.len(), n);
        let timestamp = Timestamp(changeset["timestamp"].as_u64().unwrap());
        let text = payload::text(records, timestamp);
        let signatures = changeset["metadata"]["signatures"].as_array().unwrap();
        assert_eq!(signatures.len(), keys.len());
        for (signature, key) in signatures.iter().zip(keys) {
            assert!(verifies(&self.public[key], &text, signature), "{changeset}");
        }
        changeset["metadata"].clone()
    }
}

async fn sdk(endpoint: &str) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(Region::new("eu-central-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .endpoint_url(endpoint)
        .load()
        .await
}

async fn approve(kinto: &Kinto) -> tests::Answer {
    let body = json!({"data": {"status": "to-sign"}});
    kinto.as_user(ALICE).patch(SOURCE, body).await
}

#[tokio::test]
async fn what_is_published_has_a_signature_of_the_key_in_kms_with_the_url_of_its_chain() {
    let kms = Kms::with(&[KEY]).await;
    let text = chain(&kms.public[KEY], 3600, 3600);
    let chains = chains(&[("news.pem", text)]).await;
    let url = format!("{}/news.pem", chains.uri());
    let settings = [
        ("KINTO_SIGNER_KMS_KEY_IDS", KEY),
        ("KINTO_SIGNER_MAIN_WORKSPACE_NEWS_X5U", &*url),
    ];
    let kinto = kms.kinto(&settings).await;
    create_source(&kinto, SOURCE).await;
    kms.check(&kinto, 0, &[KEY]).await;
    approve(&kinto).await.expect(200);
    let metadata = kms.check(&kinto, 1, &[KEY]).await;
    let signature = &metadata["signature"];
    assert_eq!(signature["x5u"], url);
    assert_eq!(signature["mode"], "p384ecdsa");
    assert_eq!(signature.as_object().unwrap().len(), 3);
}

#[tokio::test]
async fn two_keys_sign_side_by_side_while_one_takes_the_place_of_the_other() {
    let kms = Kms::with(&[KEY, NEXT]).await;
    let both = format!("{NEXT} {KEY}");
    let kinto = kms.kinto(&[("KINTO_SIGNER_KMS_KEY_IDS", &both)]).await;
    create_source(&kinto, SOURCE).await;
    approve(&kinto).await.expect(200);
    let metadata = kms.check(&kinto, 1, &[NEXT, KEY]).await;
    assert_eq!(metadata["signature"], metadata["signatures"][0]);
    assert_eq!(metadata["signature"]["x5u"], "");
}

#[tokio::test]
async fn where_kms_does_not_sign_the_answer_is_503_and_nothing_changes() {
    let kms = Kms::with(&[KEY]).await;
    let kinto = kms.kinto(&[("KINTO_SIGNER_KMS_KEY_IDS", KEY)]).await;
    create_source(&kinto, SOURCE).await;
    let before = kinto.get(SOURCE).await.expect(200);
    let failures = [
        ResponseTemplate::new(500),
        ResponseTemplate::new(400).set_body_json(json!({"__type": "AccessDeniedException"})),
        ResponseTemplate::new(200).set_body_json(json!({})),
        // No signature.
        ResponseTemplate::new(200).set_body_json(json!({"Signature": "MAYCAQGCAQI="})),
    ];
    for (index, failure) in failures.into_iter().enumerate() {
        kms.server.reset().await;
        Mock::given(any())
            .respond_with(failure)
            .mount(&kms.server)
            .await;
        let answer = approve(&kinto).await;
        assert_eq!(answer.status, 503, "{index}: {:?}", answer.body);
        assert_eq!(kinto.get(SOURCE).await.expect(200), before);
    }
}

#[tokio::test]
async fn the_heartbeat_signs_once_in_a_while_and_tells_when_kms_does_not() {
    let kms = Kms::with(&[KEY]).await;
    let kinto = kms.kinto(&[("KINTO_SIGNER_KMS_KEY_IDS", KEY)]).await;
    for _ in 0..3 {
        let heartbeat = kinto.get("/__heartbeat__").await.expect(200);
        assert_eq!(heartbeat["signer"], true);
    }
    assert_eq!(kms.requests().await, 1);
    let gone = kms.kinto(&[("KINTO_SIGNER_KMS_KEY_IDS", NEXT)]).await;
    let heartbeat = gone.get("/__heartbeat__").await;
    assert_eq!(
        (heartbeat.status, &heartbeat.body["signer"]),
        (503, &json!(false))
    );
}
