//! The text that a collection's signature is over: its live records and its timestamp.

use serde_json::Value;
use sha2::{Digest, Sha384};

use super::canonical;
use crate::timestamp::Timestamp;

/// The prefix of the signed text: a signature of ours is valid for nothing else.
const PREFIX: &[u8] = b"Content-Signature:\0";

/// The text to sign for `records` at their list's `timestamp`: `{"data": […], "last_modified": "…"}` in canonical form.
///
/// The records are put in the order of their ids; tombstones are left out. The timestamp is a string in it.
pub fn text(records: &[Value], timestamp: Timestamp) -> String {
    let id = |record: &&Value| record["id"].as_str().unwrap_or_default().to_owned();
    let mut live: Vec<_> = records
        .iter()
        .filter(|record| !is_tombstone(&record["deleted"]))
        .collect();
    live.sort_by_cached_key(id);
    let mut text = Text::new();
    for record in live {
        text.add(record);
    }
    text.end(timestamp)
}

/// A text to sign that is made record by record, so that they need not be held all at once.
#[derive(Debug)]
pub struct Text {
    text: String,
    is_empty: bool,
}

impl Text {
    /// Of no records so far.
    #[expect(clippy::new_without_default, reason = "a text is begun")]
    pub fn new() -> Self {
        Self {
            text: String::from(r#"{"data":["#),
            is_empty: true,
        }
    }

    /// Adds a record that is no tombstone, with `id` and `last_modified`. They come in the order of their ids.
    pub fn add(&mut self, record: &Value) {
        if !std::mem::take(&mut self.is_empty) {
            self.text.push(',');
        }
        canonical::write(record, &mut self.text);
    }

    /// The whole text, with the list's timestamp.
    pub fn end(mut self, timestamp: Timestamp) -> String {
        self.text.push_str(r#"],"last_modified":"#);
        canonical::write_string(&timestamp.to_string(), &mut self.text);
        self.text.push('}');
        self.text
    }
}

/// Returns `true` if who reads a record with this field `deleted` takes it for a tombstone. Clients ask whether the value is a
/// true one, as their languages see it: also a text, or a number, makes one.
pub fn is_tombstone(deleted: &Value) -> bool {
    match deleted {
        Value::Null | Value::Bool(false) => false,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

/// The bytes that are signed for a text, for keys that hash them themselves.
pub fn signed_bytes(text: &str) -> Vec<u8> {
    [PREFIX, text.as_bytes()].concat()
}

/// SHA-384 of the bytes that are signed, for keys that take no more than that.
pub fn digest(text: &str) -> [u8; 48] {
    let mut hash = Sha384::new_with_prefix(PREFIX);
    hash.update(text);
    hash.finalize().into()
}
