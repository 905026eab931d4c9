//! Sources that are reviewed, signed and published ([decision 25](../../../docs/decisions/025-signer.md)).

mod canonical;
mod changesets;
mod events;
mod example;
mod history;
mod kept;
mod keys;
mod kms;
mod races;
mod rollback;
mod settling;
mod transitions;
mod walks;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    ParsedPublicKey,
};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use kinto_serverless::signer::payload;
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Value, json};
use tests::{ALICE, Answer, BOB, Kinto};

/// `Authorization` of a third user, `carol:`, who is in no group.
pub const CAROL: &str = "Basic Y2Fyb2w6";
/// The source of these tests.
pub const SOURCE: &str = "/buckets/work/collections/news";
/// What reviewers look at.
pub const PREVIEW: &str = "/buckets/preview/collections/news";
/// What clients read.
pub const DESTINATION: &str = "/buckets/main/collections/news";

/// A server that signs, with the key that verifies.
#[derive(Clone)]
pub struct Signer {
    /// The API, called as alice.
    pub kinto: Kinto,
    public_key: Vec<u8>,
    pem: String,
}

/// Settings with a line, with preview or not.
fn settings<'s>(pem: &'s str, line: &'s str, review: &'s str) -> Vec<(&'s str, &'s str)> {
    vec![
        ("KINTO_INCLUDES", "kinto_remote_settings"),
        ("KINTO_SIGNER_RESOURCES", line),
        ("KINTO_SIGNER_TO_REVIEW_ENABLED", review),
        ("KINTO_SIGNER_ECDSA_PRIVATE_KEY", pem),
    ]
}

/// A key to sign with: as PEM, and as it is.
pub fn new_key() -> (String, EcdsaKeyPair) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let body = BASE64_STANDARD.encode(pair.to_pkcs8v1().unwrap().as_ref());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
    (pem, pair)
}

/// Creates a source with one record.
async fn create_source(kinto: &Kinto, source: &str) {
    let (bucket, _) = source.split_once("/collections/").unwrap();
    kinto.put(bucket, json!({})).await.expect(201);
    kinto.put(source, json!({})).await.expect(201);
    let record = json!({"data": {"n": 1}});
    let path = format!("{source}/records/a");
    kinto.put(&path, record).await.expect(201);
}

const WITH_PREVIEW: &str = "/buckets/work -> /buckets/preview -> /buckets/main";
const WITHOUT_PREVIEW: &str = "/buckets/work -> /buckets/main";

impl Signer {
    /// With review and preview; alice is an editor, bob a reviewer and an editor, both and carol may write the bucket.
    pub async fn new() -> Self {
        Self::with(WITH_PREVIEW, "true").await
    }

    /// With that line of resources.
    pub async fn with(line: &str, review: &str) -> Self {
        Self::with_more(line, review, &[]).await
    }

    /// With other settings besides.
    pub async fn with_more(line: &str, review: &str, more: &[(&str, &str)]) -> Self {
        let (pem, pair) = new_key();
        let kinto = Kinto::with(&[&settings(&pem, line, review), more].concat());
        let signer = Self {
            kinto,
            public_key: pair.public_key().as_der().unwrap().as_ref().to_vec(),
            pem,
        };
        let users = [ALICE, BOB, CAROL];
        let mut writers = vec![];
        for user in users {
            writers.push(signer.kinto.as_user(user).user_id().await);
        }
        let bucket = json!({"permissions": {"write": writers}});
        assert_eq!(signer.kinto.put("/buckets/work", bucket).await.status, 201);
        signer.kinto.put(SOURCE, json!({})).await.expect(201);
        for group in ["editors", "reviewers"] {
            let members = match group {
                "editors" => json!([writers[0], writers[1]]),
                _ => json!([writers[1]]),
            };
            let group = format!("/buckets/work/groups/news-{group}");
            let body = json!({"data": {"members": members}});
            signer.kinto.patch(&group, body).await.expect(200);
        }
        signer
    }

    /// The same server in another process.
    pub fn restarted(&self, line: &str, review: &str) -> Kinto {
        Kinto::over(&self.kinto.aws, &settings(&self.pem, line, review))
    }

    /// Has a user set the status.
    pub async fn set(&self, user: &'static str, status: &str) -> Answer {
        let body = json!({"data": {"status": status}});
        self.kinto.as_user(user).patch(SOURCE, body).await
    }

    /// Has a user write a record of the source.
    pub async fn write(&self, user: &'static str, id: &str, n: u64) -> Answer {
        let body = json!({"data": {"n": n}});
        let path = format!("{SOURCE}/records/{id}");
        self.kinto.as_user(user).put(&path, body).await
    }

    /// The source's data.
    pub async fn source(&self) -> Value {
        self.kinto.get(SOURCE).await.expect(200)["data"].clone()
    }

    /// The status of the source.
    pub async fn status(&self) -> String {
        self.source().await["status"].as_str().unwrap().to_owned()
    }

    /// The records of a changeset as `id=n`, sorted, when its signatures verify.
    pub async fn verified(&self, collection: &str) -> Vec<String> {
        self.verify(&self.kinto, collection).await
    }

    /// The same, as another process shows it.
    pub async fn verify(&self, kinto: &Kinto, collection: &str) -> Vec<String> {
        let path = format!("{collection}/changeset?_expected=0");
        let changeset = kinto.get(&path).await.expect(200);
        self.check(&changeset);
        let records = changeset["changes"].as_array().unwrap().iter();
        let mut records: Vec<_> = records
            .map(|record| format!("{}={}", record["id"].as_str().unwrap(), record["n"]))
            .collect();
        records.sort_unstable();
        records
    }

    /// Panics unless every signature of a whole changeset verifies.
    pub fn check(&self, changeset: &Value) {
        let records = changeset["changes"].as_array().unwrap();
        let timestamp = Timestamp(changeset["timestamp"].as_u64().unwrap());
        let metadata = &changeset["metadata"];
        let signatures = metadata["signatures"].as_array().unwrap();
        assert!(!signatures.is_empty(), "{changeset}");
        assert_eq!(metadata["signature"], signatures[0]);
        for signature in signatures {
            assert!(self.verifies(records, timestamp, signature), "{changeset}");
        }
    }

    /// Whether a signature is one of these records at that time.
    pub fn verifies(&self, records: &[Value], timestamp: Timestamp, signature: &Value) -> bool {
        let text = payload::text(records, timestamp);
        verifies(&self.public_key, &text, signature)
    }
}

/// A PEM text.
pub fn pem(label: &str, der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

/// Whether a signature of metadata is one of a text, by that key.
pub fn verifies(public_key: &[u8], text: &str, signature: &Value) -> bool {
    let key = ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, public_key).unwrap();
    let raw = BASE64_URL_SAFE.decode(signature["signature"].as_str().unwrap());
    key.verify_sig(&payload::signed_bytes(text), &raw.unwrap())
        .is_ok()
}

/// What tests say of an answer.
pub trait Expect {
    /// The body, when the status is that one.
    fn expect(self, status: u16) -> Value;
}

impl Expect for Answer {
    #[track_caller]
    fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.body
    }
}

/// The errno of a refusal, when it has that status.
#[track_caller]
pub fn refused(answer: Answer, status: u16) -> u64 {
    answer.expect(status)["errno"].as_u64().unwrap()
}

/// The source with records that a publication changes in every way.
async fn prepared() -> Signer {
    let signer = Signer::with(WITH_PREVIEW, "true").await;
    for id in ["a", "b", "c"] {
        signer.write(tests::ALICE, id, 1).await.expect(201);
    }
    signer.set(tests::ALICE, "to-review").await.expect(200);
    signer.set(tests::BOB, "to-sign").await.expect(200);
    signer.write(tests::ALICE, "a", 2).await.expect(200);
    signer.write(tests::ALICE, "d", 2).await.expect(201);
    let gone = format!("{SOURCE}/records/b");
    signer.kinto.delete(&gone).await.expect(200);
    signer
}

/// Has `rival` act once, before the request to the table that is the `at`-th of others.
fn once(
    signer: &Signer,
    at: u64,
    counts: impl Fn(&str) -> bool + Send + Sync + 'static,
    rival: impl AsyncFn() + Send + Sync + Clone + 'static,
) {
    let (count, busy) = (AtomicU64::new(0), AtomicBool::new(false));
    signer.kinto.aws.inject(move |target, _| {
        if busy.load(Ordering::SeqCst) || !counts(target) {
            return None;
        }
        if count.fetch_add(1, Ordering::SeqCst) == at {
            busy.store(true, Ordering::SeqCst);
            let rival = rival.clone();
            let thread = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = { runtime }.enable_all().build().unwrap();
                runtime.block_on(rival());
            });
            thread.join().unwrap();
        }
        None
    });
}
