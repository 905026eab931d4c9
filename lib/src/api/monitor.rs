//! monitor/changes: which collections changed, and when.

use http::Method;
use md5::{Digest, Md5};
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::body::check_media_types;
use super::error::ApiError;
use super::listing::{self, ListQuery};
use super::request::Request;
use super::response::Response;
use crate::resource::ObjectUri;
use crate::settings::Settings;
use crate::store::monitor::MonitorEntry;
use crate::timestamp::Timestamp;

/// One collection as monitor/changes shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Change<'a> {
    /// UUID made of the md5 of host and collection URI (kinto-changes 4.1).
    id: String,
    last_modified: Timestamp,
    bucket: &'a str,
    collection: &'a str,
    host: &'a str,
}

impl<'a> Change<'a> {
    fn of(entry: &'a MonitorEntry, host: &'a str) -> Self {
        let uri = ObjectUri::collection(&entry.bucket, &entry.collection);
        let id = Uuid::from_bytes(Md5::digest(format!("{host}{uri}")).into());
        Self {
            id: id.to_string(),
            last_modified: entry.last_modified,
            bucket: &entry.bucket,
            collection: &entry.collection,
            host,
        }
    }

    fn into_object(self) -> Map<String, Value> {
        match json!(self) {
            Value::Object(object) => object,
            _ => Map::new(),
        }
    }
}

/// The fields of an entry, all there are to filter and sort by.
const FIELDS: [&str; 5] = ["id", "last_modified", "bucket", "collection", "host"];

/// `GET /v1/buckets/monitor/collections/changes/records`, for everyone.
///
/// `entries` are all there are. The latest change comes first. `ETag` is the highest timestamp of what the
/// settings show, filtered or not, that of a collection deleted since included: it never goes back.
pub fn records(
    request: &Request,
    settings: &Settings,
    entries: &[MonitorEntry],
) -> Result<Response, ApiError> {
    let Settings { api, changes, .. } = settings;
    check_media_types(request)?;
    let mut shown: Vec<_> = entries
        .iter()
        .filter(|entry| changes.shows(&entry.bucket, &entry.collection))
        .collect();
    let timestamp = shown
        .iter()
        .map(|entry| entry.last_modified)
        .max()
        .unwrap_or_default();
    if let Some(answer) = listing::check_preconditions(request, timestamp)? {
        return Ok(answer);
    }
    let query = ListQuery::parse(request, Some(&FIELDS), api, Timestamp::now())?;
    shown.retain(|entry| !entry.deleted);
    let objects: Vec<_> = shown
        .into_iter()
        .map(|entry| Change::of(entry, &changes.http_host).into_object())
        .collect();
    if request.method == Method::HEAD {
        return Ok(listing::counted(query.count(&objects), timestamp));
    }
    Ok(query
        .apply(objects, false, request, api)
        .into_response(timestamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entrys_id_is_the_one_of_kinto_changes() {
        let entry = MonitorEntry {
            bucket: "a".to_owned(),
            collection: "b".to_owned(),
            last_modified: Timestamp(1),
            deleted: false,
        };
        // Python: uuid.UUID(hashlib.md5(b"www.kinto.com/buckets/a/collections/b").hexdigest())
        let change = Change::of(&entry, "www.kinto.com");
        assert_eq!(change.id, "df899f02-ae6e-2b3d-4867-c534990c20da");
    }
}
