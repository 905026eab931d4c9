//! Signatures of what a collection shows, as the clients of Remote Settings verify them.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`resources`] | what is published where |
//! | [`autograph`] | signing by Autograph |
//! | [`canonical`] | JSON in the one form that everybody serialises alike |
//! | [`payload`] | the text that is signed for a collection |
//! | [`chain`] | certificates of keys, by the URL that signatures name |
//! | [`keys`] | the keys of a source, and what signs with them |
//! | [`signature`] | a signature as clients get it |
//! | [`local_ecdsa`] | signing with a key in a file |
//! | [`kms`] | signing with a key in KMS |
//!
//! Who publishes what, and when, is the plugin's part ([decision 25](../../../docs/decisions/025-signer.md)).

pub mod autograph;
pub mod canonical;
pub mod chain;
pub mod keys;
pub mod kms;
pub mod local_ecdsa;
pub mod payload;
pub mod resources;
pub mod signature;

#[cfg(test)]
pub(crate) mod tests;
