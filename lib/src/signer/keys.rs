//! The keys that sign, wherever they are kept.

use std::fmt;
use std::sync::Arc;

use aws_config::SdkConfig;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use futures::future::try_join_all;
use serde_json::Map;

use super::autograph::{self, Autograph};
use super::chain::{self, Chain, Chains};
use super::kms::{self, Kms};
use super::local_ecdsa::{self, LocalEcdsa};
use super::signature::Signature;
use crate::timestamp::Timestamp;

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
    /// In a service, which says the chains of certificates itself.
    Autograph(Autograph),
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backend: &dyn fmt::Debug = match &self.backend {
            Backend::LocalEcdsa(keys) => &format!("{} local", keys.len()),
            Backend::Kms(ids) => ids,
            Backend::Autograph(autograph) => &autograph.key_ids,
        };
        let mut shown = f.debug_struct("Keys");
        shown.field("backend", backend);
        shown.field("chains", &self.chains).finish()
    }
}

/// The signatures of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// One of each key.
    pub signatures: Vec<Signature>,
    /// Until when the certificates of all are valid; `None` where there are none.
    pub until: Option<Timestamp>,
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
    /// By a service.
    #[error("the signing service did not sign")]
    Autograph(#[from] autograph::Error),
    /// No key is that of the source.
    #[error("no key is set for this source")]
    NoKeys,
    /// The certificates of a key.
    #[error("no client could verify the signature")]
    Chain(#[from] chain::Error),
}

/// Signs with keys, wherever they are kept.
#[derive(Clone, Debug, Default)]
pub struct Signer {
    kms: Kms,
    chains: Chains,
}

impl Signer {
    /// With clients of this configuration. They are made when they are needed first.
    pub fn new(sdk: &SdkConfig) -> Self {
        Self {
            kms: Kms::new(sdk),
            chains: Chains::default(),
        }
    }

    /// Signs a collection's text ([`super::payload::text`]) with each of the keys.
    ///
    /// # Errors
    /// One of them did not sign, or its certificates are not those that clients need: then there is no signature at all.
    pub async fn sign(&self, keys: &Keys, text: &str, now: Timestamp) -> Result<Signed, Error> {
        let signatures = self.signatures(keys, text).await?;
        let mut until = None;
        for Signature { signature, x5u, .. } in &signatures {
            // A service for development may name a file.
            if !x5u.starts_with("http") {
                continue;
            }
            let chain = self.chains.get(x5u).await?;
            let raw = URL_SAFE.decode(signature).unwrap_or_default();
            chain.check(text, &raw, now)?;
            until = Some(until.map_or(chain.ends, |until: Timestamp| until.min(chain.ends)));
        }
        Ok(Signed { signatures, until })
    }

    async fn signatures(&self, keys: &Keys, text: &str) -> Result<Vec<Signature>, Error> {
        let texts = match &keys.backend {
            Backend::LocalEcdsa(keys) => {
                let signed = keys.iter().map(|key| key.sign(text));
                signed.collect::<Result<Vec<_>, _>>()?
            }
            Backend::Kms(ids) => try_join_all(ids.iter().map(|id| self.kms.sign(id, text))).await?,
            Backend::Autograph(autograph) => {
                let ids = autograph.key_ids.iter();
                return Ok(try_join_all(ids.map(|id| autograph.sign(id, text))).await?);
            }
        };
        let mut chains = keys.chains.iter();
        let signatures = texts.into_iter().map(|signature| Signature {
            signature,
            x5u: chains.next().cloned().unwrap_or_default(),
            more: Map::from_iter([("mode".to_owned(), MODE.into())]),
        });
        Ok(signatures.collect())
    }

    /// The chain of certificates with that URL.
    ///
    /// # Errors
    /// It cannot be fetched, or is none.
    pub async fn chain(&self, url: &str) -> Result<Arc<Chain>, chain::Error> {
        self.chains.get(url).await
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
            Backend::Autograph(autograph) => {
                let ids = autograph.key_ids.iter();
                try_join_all(ids.map(|id| autograph.sign(id, "heartbeat"))).await?;
            }
        }
        Ok(())
    }
}
