//! Signatures of what a collection shows, as the clients of Remote Settings verify them.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`resources`] | what is published where |
//! | [`canonical`] | JSON in the one form that everybody serialises alike |
//! | [`payload`] | the text that is signed for a collection |
//! | [`local_ecdsa`] | signing with a key in a file |
//!
//! Who publishes what, and when, is the plugin's part ([decision 25](../../../docs/decisions/025-signer.md)).

pub mod canonical;
pub mod local_ecdsa;
pub mod payload;
pub mod resources;

#[cfg(test)]
pub(crate) mod tests;
