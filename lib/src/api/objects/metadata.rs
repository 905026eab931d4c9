//! The fields that the API shows in every object beside its data: `id` and `last_modified`.

use serde_json::{Map, Value};

use crate::timestamp::Timestamp;

/// The field that no two objects of a list share.
pub const ID: &str = "id";
/// The field with the time when an object was last written.
pub const LAST_MODIFIED: &str = "last_modified";

/// The data of an object with its id and its time, as the API shows it.
pub fn with_metadata(mut data: Map<String, Value>, id: &str, at: Timestamp) -> Map<String, Value> {
    data.insert(ID.to_owned(), id.into());
    data.insert(LAST_MODIFIED.to_owned(), at.0.into());
    data
}

/// The same as JSON, for data that are JSON already.
pub fn with_metadata_text(data: &str, id: &str, at: Timestamp) -> String {
    let fields = data.trim_end().strip_suffix('}').unwrap_or(data);
    let comma = if fields == "{" { "" } else { "," };
    // No id has a character that JSON escapes, including those of accounts.
    format!(
        "{fields}{comma}\"id\":{},\"last_modified\":{at}}}",
        Value::from(id)
    )
}
