//! The public key that a certificate is for.

use std::error::Error;

use aws_config::BehaviorVersion;
use aws_lc_rs::digest::{SHA384, digest};
use aws_sdk_kms::Client;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{MessageType, SigningAlgorithmSpec};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kinto_serverless::error_chain::ErrorChain;
use rcgen::{PKCS_ECDSA_P384_SHA384, PublicKeyData, SignatureAlgorithm, SigningKey};
use tokio::runtime::Handle;

/// The bytes of the only part of a PEM text.
///
/// # Errors
/// It is no base64.
pub fn body(pem: &str) -> Result<Vec<u8>, base64::DecodeError> {
    let lines = pem.lines().filter(|line| !line.contains("-----"));
    BASE64_STANDARD.decode(lines.map(str::trim).collect::<String>())
}

/// The first bytes of every `SubjectPublicKeyInfo` of P-384 with an uncompressed point (RFC 5480); the point follows.
const HEAD: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];
/// The bytes of a point: 4, x and y.
const POINT: usize = 97;

/// A public key of P-384.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(Vec<u8>);

impl PublicKey {
    /// The key of a `SubjectPublicKeyInfo`.
    fn from_der(der: &[u8]) -> Result<Self, &'static str> {
        match der.strip_prefix(&HEAD) {
            Some(point) if point.len() == POINT && point[0] == 4 => Ok(Self(point.to_vec())),
            _ => Err("the key must be a public key of the curve P-384, in PEM"),
        }
    }

    /// The key of a PEM file's text.
    ///
    /// # Errors
    /// It is of another kind.
    pub fn from_pem(pem: &str) -> Result<Self, Box<dyn Error>> {
        Ok(Self::from_der(&body(pem)?)?)
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P384_SHA384
    }
}

/// A key in KMS.
#[derive(Debug)]
pub struct KmsKey {
    client: Client,
    id: String,
    public: PublicKey,
}

impl KmsKey {
    /// The key with that ARN, with the AWS of the environment.
    ///
    /// # Errors
    /// KMS refuses, or the key is of another kind.
    pub async fn open(id: &str) -> Result<Self, Box<dyn Error>> {
        let config = aws_config::load_defaults(BehaviorVersion::v2026_01_12()).await;
        let client = Client::new(&config);
        let answer = client.get_public_key().key_id(id).send().await;
        let der = answer
            .map_err(aws_sdk_kms::Error::from)?
            .public_key
            .unwrap_or_else(|| Blob::new([]));
        Ok(Self {
            client,
            id: id.to_owned(),
            public: PublicKey::from_der(der.as_ref())?,
        })
    }

    /// Its public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    async fn signature(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let digest = digest(&SHA384, message);
        let answer = self
            .client
            .sign()
            .key_id(&self.id)
            .message(Blob::new(digest.as_ref()))
            .message_type(MessageType::Digest)
            .signing_algorithm(SigningAlgorithmSpec::EcdsaSha384)
            .send()
            .await;
        let answer = answer.map_err(|error| {
            eprintln!("{}", ErrorChain(&error));
            rcgen::Error::RemoteKeyError
        })?;
        let signature = answer.signature.ok_or(rcgen::Error::RemoteKeyError)?;
        Ok(signature.into_inner())
    }
}

impl PublicKeyData for KmsKey {
    fn der_bytes(&self) -> &[u8] {
        self.public.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.public.algorithm()
    }
}

impl SigningKey for KmsKey {
    /// Waits for KMS: the program's runtime has another thread.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        tokio::task::block_in_place(|| Handle::current().block_on(self.signature(message)))
    }
}
