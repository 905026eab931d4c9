//! A signature, as clients get it.

use serde::Serialize;
use serde_json::{Map, Value};

/// One signature, as the metadata of a changeset show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signature {
    /// r and s, 48 bytes each, in base64url.
    pub signature: String,
    /// The URL of the chain of certificates, the one of the key first; empty where there is none.
    pub x5u: String,
    /// `mode`, how it was made, and what else a service says of it.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}
