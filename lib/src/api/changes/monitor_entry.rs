//! One entry of monitor/changes: its id and fields.

use md5::{Digest, Md5};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::api::lists::sort::Keys;
use crate::store::monitor::CollectionChange;
use crate::timestamp::Timestamp;

/// One collection as monitor/changes shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorEntry {
    /// The monitor's clock when the change was recorded.
    pub position: Timestamp,
    /// The bucket's id.
    pub bucket: String,
    /// The collection's id.
    pub collection: String,
    /// The whole entry as JSON, with its id and host.
    pub json: String,
}

/// The fields of an entry, in their order.
#[derive(Serialize)]
struct Fields<'a> {
    /// The UUID made of the MD5 of host and collection URI (kinto-changes 4.1).
    id: &'a str,
    last_modified: Timestamp,
    bucket: &'a str,
    collection: &'a str,
    host: &'a str,
}

impl MonitorEntry {
    /// The entry of a change that was recorded at `position`; `host` is the setting `http_host`.
    pub fn of(position: Timestamp, change: CollectionChange, host: &str) -> Self {
        let uri = change.uri();
        let CollectionChange {
            bucket,
            collection,
            last_modified,
            ..
        } = change;
        let id = Uuid::from_bytes(Md5::digest(format!("{host}{uri}")).into());
        let fields = Fields {
            id: &id.to_string(),
            last_modified,
            bucket: &bucket,
            collection: &collection,
            host,
        };
        Self {
            json: serde_json::to_string(&fields).unwrap_or_default(),
            position,
            bucket,
            collection,
        }
    }

    /// The entry with its position, as an object for [`ListQuery`](crate::api::lists::query::ListQuery).
    pub fn to_object(&self) -> Map<String, Value> {
        let mut object: Map<_, _> = serde_json::from_str(&self.json).unwrap_or_default();
        object.insert(POSITION.to_owned(), self.position.0.into());
        object
    }
}

/// The JSON of a list of entries.
pub fn array(changes: &[&MonitorEntry]) -> String {
    let texts: Vec<_> = changes.iter().map(|change| &*change.json).collect();
    format!("[{}]", texts.join(","))
}

/// The fields of an entry: all that it can be filtered and sorted by.
pub const FIELDS: [&str; 5] = ["id", "last_modified", "bucket", "collection", "host"];

/// The field of the position, which is never shown.
pub const POSITION: &str = "position";

/// The keys of the list: the id too, since entries written by an earlier version may share a position.
pub const KEYS: Keys = Keys {
    time: Some(POSITION),
    unique: "id",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entrys_id_is_the_one_of_kinto_changes() {
        let change = CollectionChange {
            bucket: "a".to_owned(),
            collection: "b".to_owned(),
            last_modified: Timestamp(1),
            deleted: false,
        };
        // Python: uuid.UUID(hashlib.md5(b"www.kinto.com/buckets/a/collections/b").hexdigest())
        let change = MonitorEntry::of(Timestamp(2), change, "www.kinto.com").to_object();
        assert_eq!(change["id"], "df899f02-ae6e-2b3d-4867-c534990c20da");
    }
}
