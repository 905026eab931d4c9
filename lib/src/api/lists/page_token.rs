//! The token of a page: the fields that the list is sorted by, of the last object of the page before.
//!
//! A page begins after the place of that object, whatever has become of it since.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::Method;
use serde_json::{Map, Value, json};

use crate::api::lists::sort::Keys;
use crate::api::objects::metadata::ID;
use crate::api::web::error::{ApiError, Location};

/// The field that marks the token of a deletion.
const DELETES: &str = "deletes";

/// Encodes the token of the page after an object with these fields.
pub fn encode(last: &Map<String, Value>, method: &Method) -> String {
    let mut token = json!({"last_object": last});
    if method == Method::DELETE {
        token[DELETES] = true.into();
    }
    BASE64_URL_SAFE_NO_PAD.encode(token.to_string())
}

/// Decodes the fields in a token, the keys included. Only the token of a deletion goes on deleting (Kinto 26.5).
///
/// # Errors
/// 400 for a token that does not belong to this list and method.
pub fn decode(token: &str, keys: Keys, method: &Method) -> Result<Map<String, Value>, ApiError> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
    let content: Option<Value> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let content =
        content.filter(|content| method != Method::DELETE || content.get(DELETES).is_some());
    let last = content.and_then(|mut content| content.get_mut("last_object").map(Value::take));
    let has_key = |last: &Map<String, Value>, key| match last.get(key) {
        Some(Value::Number(number)) => keys.time == Some(key) && number.is_u64(),
        Some(Value::String(_)) => keys.time != Some(key),
        // Tokens of an earlier version have no id; their page begins after all objects of their time.
        None => key == ID,
        Some(_) => false,
    };
    match last {
        Some(Value::Object(last)) if keys.order().all(|(key, _)| has_key(&last, key)) => Ok(last),
        _ => Err(ApiError::invalid_unnamed(
            Location::Querystring,
            "_token has invalid content",
        )),
    }
}
