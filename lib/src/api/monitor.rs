//! monitor/changes: which collections changed, and when.

use std::cmp::Reverse;

use http::StatusCode;
use md5::{Digest, Md5};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::body::check_media_types;
use super::error::ApiError;
use super::request::Request;
use super::response::Response;
use crate::resource::ObjectUri;
use crate::settings::ChangesSettings;
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

    fn matches(&self, filter: &Filter) -> bool {
        match filter {
            Filter::Since(since) => self.last_modified > *since,
            Filter::Before(before) => self.last_modified < *before,
            Filter::At(at) => self.last_modified == *at,
            Filter::Id(id) => self.id == *id,
            Filter::Bucket(bucket) => self.bucket == bucket,
            Filter::Collection(collection) => self.collection == collection,
            Filter::Host(host) => self.host == host,
        }
    }
}

/// A condition that the query string sets.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Filter {
    Since(Timestamp),
    Before(Timestamp),
    At(Timestamp),
    Id(String),
    Bucket(String),
    Collection(String),
    Host(String),
}

/// Reads the filters of a request. Other parameters that begin with `_` are ignored, as in Kinto.
///
/// # Errors
/// 400 for a field that the entries do not have and for a time that is none.
fn filters(request: &Request) -> Result<Vec<Filter>, ApiError> {
    request
        .query()
        .filter_map(|(name, value)| filter(&name, value).transpose())
        .collect()
}

fn filter(name: &str, value: String) -> Result<Option<Filter>, ApiError> {
    let time = || {
        Timestamp::from_etag(&value)
            .or_else(|| Timestamp::from_digits(&value))
            .filter(|time| *time <= Timestamp::MAX)
            .ok_or_else(|| ApiError::invalid("querystring", name, "Must be a time in milliseconds"))
    };
    Ok(Some(match name {
        "_since" => Filter::Since(time()?),
        "_before" | "_to" => Filter::Before(time()?),
        "last_modified" => Filter::At(time()?),
        "id" => Filter::Id(value),
        "bucket" => Filter::Bucket(value),
        "collection" => Filter::Collection(value),
        "host" => Filter::Host(value),
        _ if name.starts_with('_') => return Ok(None),
        _ => {
            return Err(ApiError::invalid(
                "querystring",
                name,
                "Unknown filter field",
            ));
        }
    }))
}

/// `GET /v1/buckets/monitor/collections/changes/records`, for everyone.
///
/// `entries` are all there are. The latest change comes first. `ETag` is the highest timestamp of what the
/// settings show, filtered or not, that of a collection deleted since included: it never goes back.
pub fn records(
    request: &Request,
    settings: &ChangesSettings,
    entries: &[MonitorEntry],
) -> Result<Response, ApiError> {
    check_media_types(request)?;
    let preconditions = request.preconditions()?;
    let filters = filters(request)?;
    let mut shown: Vec<_> = entries
        .iter()
        .filter(|entry| settings.shows(&entry.bucket, &entry.collection))
        .collect();
    let timestamp = shown
        .iter()
        .map(|entry| entry.last_modified)
        .max()
        .unwrap_or_default();
    if preconditions.not_modified(timestamp) {
        return Ok(Response::empty(StatusCode::NOT_MODIFIED).modified_at(timestamp));
    }
    if !preconditions.hold(Some(timestamp)) {
        return Err(ApiError::Modified {
            current: timestamp,
            existing: None,
        });
    }
    shown.retain(|entry| !entry.deleted);
    shown.sort_by_key(|entry| Reverse(entry.last_modified));
    let changes: Vec<_> = shown
        .into_iter()
        .map(|entry| Change::of(entry, &settings.http_host))
        .filter(|change| filters.iter().all(|filter| change.matches(filter)))
        .collect();
    Ok(Response::json(StatusCode::OK, &json!({"data": changes}))
        .modified_at(timestamp)
        .uncached())
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

    #[test]
    fn a_filter_on_a_field_that_entries_do_not_have_is_refused() {
        assert!(filter("colour", "red".to_owned()).is_err());
        assert!(filter("_since", "yesterday".to_owned()).is_err());
        assert_eq!(filter("_unknown", "1".to_owned()).unwrap(), None);
        assert_eq!(
            filter("_since", "\"12\"".to_owned()).unwrap(),
            Some(Filter::Since(Timestamp(12)))
        );
        assert_eq!(
            filter("_since", "12".to_owned()).unwrap(),
            Some(Filter::Since(Timestamp(12)))
        );
    }
}
