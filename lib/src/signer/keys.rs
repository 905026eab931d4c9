//! The keys that sign, wherever they are kept.

use std::fmt;
use std::sync::Arc;

use aws_config::SdkConfig;
use serde::Serialize;

use super::kms::{self, Kms};
use super::local_ecdsa::{self, LocalEcdsa};

/// The scheme of all signatures: ECDSA with P-384 and SHA-384.
const MODE: &str = "p384ecdsa";

/// The keys of a source: what is published from it gets a signature of each, in their order.
#[derive(Clone)]
pub struct Keys {
    /// Where they are kept.
    pub backend: Backend,
    /// URLs of their chains of certificates, one for each key; empty where clients have the public keys.
    pub chains: Vec<String>,
}

/// Where keys are kept.
#[derive(Clone)]
pub enum Backend {
    /// In the settings.
    LocalEcdsa(Vec<Arc<LocalEcdsa>>),
    /// In KMS, under these ARNs.
    Kms(Vec<String>),
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backend: &dyn fmt::Debug = match &self.backend {
            Backend::LocalEcdsa(keys) => &format!("{} local", keys.len()),
            Backend::Kms(ids) => ids,
        };
        let mut shown = f.debug_struct("Keys");
        shown.field("backend", backend);
        shown.field("chains", &self.chains).finish()
    }
}

/// One signature, as the metadata of a changeset show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signature {
    /// r and s, 48 bytes each, in base64url.
    pub signature: String,
    /// The URL of the chain of certificates, the one of the key first; empty where there is none.
    pub x5u: String,
    /// How it was made.
    pub mode: String,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// By a key in the settings.
    #[error("the local key failed")]
    Local(#[from] local_ecdsa::Error),
    /// By a key in KMS.
    #[error("KMS did not sign")]
    Kms(#[from] kms::Error),
}

/// What signs: the clients that keys are reached with.
#[derive(Clone, Debug, Default)]
pub struct Signer {
    kms: Kms,
}

impl Signer {
    /// With clients of this configuration. They are made when they are needed first.
    pub fn new(sdk: &SdkConfig) -> Self {
        Self { kms: Kms::new(sdk) }
    }

    /// Signs a collection's text ([`super::payload::text`]) with each of the keys.
    ///
    /// # Errors
    /// One of them did not sign: then there is no signature at all.
    pub async fn sign(&self, keys: &Keys, text: &str) -> Result<Vec<Signature>, Error> {
        let mut texts = vec![];
        match &keys.backend {
            Backend::LocalEcdsa(keys) => {
                for key in keys {
                    texts.push(key.sign(text)?);
                }
            }
            Backend::Kms(ids) => {
                let signed = ids.iter().map(|id| self.kms.sign(id, text));
                texts = futures::future::try_join_all(signed).await?;
            }
        }
        let mut chains = keys.chains.iter();
        let signatures = texts.into_iter().map(|signature| Signature {
            signature,
            x5u: chains.next().cloned().unwrap_or_default(),
            mode: MODE.to_owned(),
        });
        Ok(signatures.collect())
    }

    /// Checks that the keys sign, for a heartbeat.
    ///
    /// # Errors
    /// One of them does not.
    pub async fn check(&self, keys: &Keys) -> Result<(), Error> {
        match &keys.backend {
            Backend::LocalEcdsa(keys) => {
                for key in keys {
                    key.sign("heartbeat")?;
                }
            }
            Backend::Kms(ids) => {
                for id in ids {
                    self.kms.check(id).await?;
                }
            }
        }
        Ok(())
    }
}
