//! Signatures with a P-384 key of one's own, read from PEM: for the local stack and tests.

use aws_lc_rs::error::KeyRejected;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::{self, PemObject};

use super::payload;

/// The error of an unusable key or a failed signature. It contains nothing of the key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No private key's PEM is in the text.
    #[error("the private key is no PEM of PKCS#8 (PRIVATE KEY) or SEC1 (EC PRIVATE KEY)")]
    Pem(#[source] pem::Error),
    /// A private key of another form.
    #[error("the private key is neither PKCS#8 (PRIVATE KEY) nor SEC1 (EC PRIVATE KEY)")]
    Kind,
    /// A private key of another curve, or a spoiled one.
    #[error("the private key is not one of the curve P-384")]
    Key(#[source] KeyRejected),
    /// The library refused; it does not say why.
    #[error("the text could not be signed")]
    Signing,
}

/// A private key that signs collections.
pub struct LocalEcdsa {
    key: EcdsaKeyPair,
}

impl LocalEcdsa {
    /// The keys of a PEM file's text, in their order: `PRIVATE KEY` or `EC PRIVATE KEY`, of the curve P-384.
    ///
    /// # Errors
    /// There is none, or one of them is no such key.
    pub fn all_from_pem(pem: &str) -> Result<Vec<Self>, Error> {
        let keys = PrivateKeyDer::pem_slice_iter(pem.as_bytes())
            .map(|der| Self::from_der(&der.map_err(Error::Pem)?))
            .collect::<Result<Vec<_>, _>>()?;
        match keys.is_empty() {
            true => Err(Error::Pem(pem::Error::NoItemsFound)),
            false => Ok(keys),
        }
    }

    fn from_der(der: &PrivateKeyDer<'_>) -> Result<Self, Error> {
        let algorithm = &ECDSA_P384_SHA384_FIXED_SIGNING;
        let key = match der {
            PrivateKeyDer::Pkcs8(der) => {
                EcdsaKeyPair::from_pkcs8(algorithm, der.secret_pkcs8_der())
            }
            PrivateKeyDer::Sec1(der) => {
                EcdsaKeyPair::from_private_key_der(algorithm, der.secret_sec1_der())
            }
            _ => return Err(Error::Kind),
        };
        let key = key.map_err(Error::Key)?;
        Ok(Self { key })
    }

    /// The signature of a collection's text ([`payload::text`]): r and s, 48 bytes each, as 128 characters of base64url.
    ///
    /// Another one each time, as ECDSA has it.
    pub fn sign(&self, text: &str) -> Result<String, Error> {
        let signature = self
            .key
            .sign(&SystemRandom::new(), &payload::signed_bytes(text))
            .map_err(|_| Error::Signing)?;
        Ok(URL_SAFE.encode(signature))
    }
}
