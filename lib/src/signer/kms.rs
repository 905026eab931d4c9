//! Signatures with a key in KMS, which never leaves it.
//!
//! KMS takes 4,096 bytes at most to sign, so it gets the digest. It answers in DER, and clients want r and s at their full
//! lengths.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use aws_config::SdkConfig;
use aws_sdk_kms::Client;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{MessageType, SigningAlgorithmSpec};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use x509_cert::der::asn1::UintRef;
use x509_cert::der::{Decode, Reader, SliceReader};

use super::payload;
use crate::error_chain::ErrorChain;

/// The bytes of r, and of s.
const LENGTH: usize = 48;

/// How long a signature shows that its key can sign: heartbeats are open to all, and each signature is paid.
const SHOWS_HEALTH: Duration = Duration::from_secs(300);

/// The error of a signature that KMS did not make.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no configuration of AWS to reach it with.
    #[error("there is no client of KMS")]
    NoClient,
    /// It refused, or did not answer in time.
    #[error("{0}")]
    Request(String),
    /// It answered with something else than a signature of P-384.
    #[error("the answer is no signature of the curve P-384")]
    Answer,
}

/// Signs with keys in KMS.
#[derive(Clone, Debug, Default)]
pub struct Kms {
    sdk: Option<SdkConfig>,
    /// Made by the first signature: a process that publishes nothing needs none.
    client: Arc<OnceLock<Client>>,
    /// When a key signed last; shared by clones.
    signed: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Kms {
    /// With a client of this configuration, its timeouts and retries.
    pub fn new(sdk: &SdkConfig) -> Self {
        Self {
            sdk: Some(sdk.clone()),
            ..Self::default()
        }
    }

    /// Checks that the key signs. What it signed in the last five minutes in this process shows that.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub async fn check(&self, key: &str) -> Result<(), Error> {
        let signed = || self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        let last = signed().get(key).copied();
        match last {
            Some(at) if at.elapsed() < SHOWS_HEALTH => Ok(()),
            _ => self.sign(key, "heartbeat").await.map(drop),
        }
    }

    /// The signature of a collection's text by the key with that ARN: r and s, 48 bytes each, as 128 characters of
    /// base64url.
    ///
    /// # Errors
    /// KMS refuses, does not answer, or the key is of another kind.
    pub async fn sign(&self, key: &str, text: &str) -> Result<String, Error> {
        let sdk = self.sdk.as_ref().ok_or(Error::NoClient)?;
        let client = self.client.get_or_init(|| Client::new(sdk));
        let answer = client
            .sign()
            .key_id(key)
            .message(Blob::new(payload::digest(text)))
            .message_type(MessageType::Digest)
            .signing_algorithm(SigningAlgorithmSpec::EcdsaSha384)
            .send()
            .await
            .map_err(|error| Error::Request(ErrorChain(&error).to_string()))?;
        let der = answer.signature.ok_or(Error::Answer)?;
        let fixed = fixed_of_der(der.as_ref()).ok_or(Error::Answer)?;
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        signed.insert(key.to_owned(), Instant::now());
        Ok(URL_SAFE.encode(fixed))
    }
}

/// r and s at their full lengths, out of their DER: a SEQUENCE of two INTEGERs. `None` for everything else.
fn fixed_of_der(der: &[u8]) -> Option<[u8; 2 * LENGTH]> {
    let mut reader = SliceReader::new(der).ok()?;
    let both = reader.sequence(|reader| Ok([UintRef::decode(reader)?, UintRef::decode(reader)?]));
    let both = reader.finish(both.ok()?).ok()?;
    let mut fixed = [0; 2 * LENGTH];
    for (integer, place) in both.iter().zip(fixed.chunks_exact_mut(LENGTH)) {
        let from = LENGTH.checked_sub(integer.as_bytes().len())?;
        place[from..].copy_from_slice(integer.as_bytes());
    }
    Some(fixed)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED, EcdsaKeyPair, KeyPair,
        UnparsedPublicKey,
    };

    use super::*;

    #[test]
    fn a_signature_in_der_is_the_same_with_r_and_s_at_their_full_lengths() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
        let key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, pair.public_key());
        let mut lengths = std::collections::BTreeSet::new();
        // Of 2,000 signatures some fifteen have an r or s that begins with a zero byte.
        for _ in 0..2000 {
            let der = pair.sign(&SystemRandom::new(), b"text").unwrap();
            lengths.insert(der.as_ref().len());
            let fixed = fixed_of_der(der.as_ref()).unwrap();
            key.verify(b"text", &fixed).unwrap();
        }
        assert!(lengths.len() >= 3, "{lengths:?}");
    }

    #[test]
    fn what_is_no_signature_of_the_curve_is_refused() {
        let good = [0x30, 6, 2, 1, 1, 2, 1, 2];
        let fixed = fixed_of_der(&good).unwrap();
        assert_eq!((fixed[47], fixed[95]), (1, 2));
        for bad in [
            &[][..],
            &good[..7],
            &[&good[..], &[0]].concat(),
            &[0x31, 6, 2, 1, 1, 2, 1, 2],
            &[0x30, 3, 2, 1, 1],
            &[0x30, 9, 2, 1, 1, 2, 1, 2, 2, 1, 3],
            // Negative, empty, too long, and a length in two bytes.
            &[0x30, 6, 2, 1, 0x80, 2, 1, 2],
            &[0x30, 5, 2, 0, 2, 1, 2],
            &[&[0x30, 54, 2, 49][..], &[1; 49], &[2, 1, 2]].concat(),
            &[0x30, 0x81, 6, 2, 1, 1, 2, 1, 2],
        ] {
            assert_eq!(fixed_of_der(bad), None, "{bad:?}");
        }
    }
}
