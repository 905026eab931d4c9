//! Chains of certificates, which clients fetch by the `x5u` of a signature.
//!
//! The server fetches them too, before it publishes: a signature that goes with no certificate, or with one that is over,
//! no client could verify. Whether clients trust the root is not its part.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, ParsedPublicKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

use super::payload;
use crate::http_client;
use crate::timestamp::Timestamp;

/// The most bytes of a chain; one of three certificates has 3 KB.
const MAX_BYTES: usize = 64 * 1024;
/// How long a fetch may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long a chain is kept: its URL names that one and no other, as clients have it.
const KEPT: Duration = Duration::from_secs(3600);

/// Why a chain is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be fetched.
    #[error("{url} cannot be fetched: {problem}")]
    Fetch {
        /// Its URL.
        url: String,
        /// Why.
        problem: String,
    },
    /// It is no PEM of certificates.
    #[error("{0} is no chain of certificates in PEM")]
    Form(String),
    /// A certificate is not valid yet, or no more.
    #[error("a certificate of {0} is not valid now")]
    Time(String),
    /// The first certificate is of another key.
    #[error("the first certificate of {0} is not that of the key that signs")]
    Key(String),
}

/// A chain of certificates.
#[derive(Debug)]
pub struct Chain {
    url: String,
    key: ParsedPublicKey,
    /// From when on all of its certificates are valid.
    pub begins: Timestamp,
    /// Until when they are.
    pub ends: Timestamp,
}

impl Chain {
    /// Reads a chain: the certificate of the key first.
    ///
    /// # Errors
    /// It has another form.
    pub fn parse(url: &str, pem: &[u8]) -> Result<Self, Error> {
        let form = || Error::Form(url.to_owned());
        let (mut key, mut begins, mut ends) = (None, Timestamp(0), Timestamp(u64::MAX));
        for der in CertificateDer::pem_slice_iter(pem) {
            let der = der.map_err(|_| form())?;
            let certificate = Certificate::from_der(&der)
                .map_err(|_| form())?
                .tbs_certificate;
            let time =
                |time: x509_cert::time::Time| Timestamp(time.to_unix_duration().as_millis() as u64);
            begins = begins.max(time(certificate.validity.not_before));
            ends = ends.min(time(certificate.validity.not_after));
            if key.is_none() {
                let der = certificate
                    .subject_public_key_info
                    .to_der()
                    .map_err(|_| form())?;
                let parsed = ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, der);
                key = Some(parsed.map_err(|_| Error::Key(url.to_owned()))?);
            }
        }
        Ok(Self {
            url: url.to_owned(),
            key: key.ok_or_else(form)?,
            begins,
            ends,
        })
    }

    /// Whether all of its certificates are valid.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.begins <= now && now < self.ends
    }

    /// Checks that clients could verify a signature of a collection's text by it.
    ///
    /// # Errors
    /// It is over, or of another key.
    pub fn check(&self, text: &str, signature: &[u8], now: Timestamp) -> Result<(), Error> {
        if !self.is_valid(now) {
            return Err(Error::Time(self.url.clone()));
        }
        let verified = self.key.verify_sig(&payload::signed_bytes(text), signature);
        verified.map_err(|_| Error::Key(self.url.clone()))
    }
}

/// The chains that this process has fetched; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Chains(Arc<Mutex<HashMap<String, CachedChain>>>);

/// A chain, and when it was fetched.
type CachedChain = (Instant, Arc<Chain>);

impl Chains {
    /// The chain with that URL, fetched at most once an hour.
    ///
    /// # Errors
    /// It cannot be fetched, or is none.
    pub async fn get(&self, url: &str) -> Result<Arc<Chain>, Error> {
        let kept = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept().get(url).cloned();
        if let Some((at, chain)) = known
            && at.elapsed() < KEPT
        {
            return Ok(chain);
        }
        let bytes = fetch(url).await.map_err(|problem| Error::Fetch {
            url: url.to_owned(),
            problem,
        })?;
        let chain = Arc::new(Chain::parse(url, &bytes)?);
        let mut kept = kept();
        // A service names another chain whenever it renews one.
        kept.retain(|_, (at, _)| at.elapsed() < KEPT);
        kept.insert(url.to_owned(), (Instant::now(), Arc::clone(&chain)));
        Ok(chain)
    }
}

async fn fetch(url: &str) -> Result<Vec<u8>, String> {
    let failed = |error: reqwest::Error| error.without_url().to_string();
    let client = http_client::builder(TIMEOUT).timeout(TIMEOUT).build();
    let mut answer = client
        .map_err(failed)?
        .get(url)
        .send()
        .await
        .map_err(failed)?;
    if !answer.status().is_success() {
        return Err(format!("the answer is {}", answer.status()));
    }
    let body = http_client::body_up_to(&mut answer, MAX_BYTES).await;
    let body = body.map_err(failed)?;
    body.ok_or_else(|| format!("it has more than {MAX_BYTES} bytes"))
}
