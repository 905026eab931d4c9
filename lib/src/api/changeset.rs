//! Changesets: a collection's metadata, timestamp and what changed in it, as one moment had them.

use std::fmt::Write as _;

use http::StatusCode;
use http::header::IF_NONE_MATCH;
use serde_json::{Map, Value, json};

use super::asked::Asked;
use super::auth::{Credentials, User};
use super::body::check_media_types;
use super::caching;
use super::error::{ApiError, Detail};
use super::request::Request;
use super::response::Response;
use super::{Api, listing, lists};
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::settings::Settings;
use crate::store::Generation;
use crate::store::changeset::{Change, Changes, Wanted};
use crate::timestamp::Timestamp;
use crate::unit_of_work::UnitOfWork;

/// Times that the collection itself is read again because it was changed while its records were read.
const MAX_ATTEMPTS: u32 = 5;
/// Bytes of changes that are read at most: what compressed, as JSON of records is, could still be sent.
const MAX_READ: usize = 24 * 1024 * 1024;

/// What a changeset's query string asks for. What else stands in it is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesetQuery {
    /// `_since`: only what is later, tombstones among it.
    pub since: Option<Timestamp>,
    /// `_limit`: only so many of the latest.
    pub limit: Option<usize>,
    /// `bucket`, in monitor/changes: only entries of this bucket.
    pub bucket: Option<String>,
    /// `collection`, in monitor/changes: only entries of collections with this id.
    pub collection: Option<String>,
}

impl ChangesetQuery {
    /// Reads the query string. `_since` may stand between double quotes or not, `_limit` of 0 is none.
    ///
    /// # Errors
    /// 400 without `_expected`, and for a `_since` or `_limit` that cannot be one.
    pub fn parse(request: &Request) -> Result<Self, ApiError> {
        let mut query = Self {
            since: None,
            limit: None,
            bucket: None,
            collection: None,
        };
        let mut wrong = vec![];
        let mut is_expected = false;
        for (name, value) in request.query().filter(|(_, value)| !value.is_empty()) {
            let mut refuse =
                |description: &str| wrong.push(Detail::new("querystring", &*name, description));
            match &*name {
                // Any value will do: it only tells one state's URL from another's.
                "_expected" => is_expected = true,
                "_since" => {
                    let since = Timestamp::from_query(&value);
                    query.since = since.filter(|since| *since <= Timestamp::MAX);
                    if query.since.is_none() {
                        refuse("Must be a time in milliseconds, between double quotes or not");
                    }
                }
                "_limit" => match value.parse::<u64>() {
                    Ok(limit) => query.limit = usize::try_from(limit).ok().filter(|n| *n > 0),
                    Err(_) => refuse("Must be a whole number, not negative"),
                },
                "bucket" => query.bucket = Some(value),
                "collection" => query.collection = Some(value),
                _ => {}
            }
        }
        if !is_expected {
            wrong.push(Detail::new("querystring", "_expected", "Required"));
        }
        if wrong.is_empty() {
            Ok(query)
        } else {
            Err(ApiError::Invalid(wrong))
        }
    }
}

/// A collection at the moment that it was read.
struct Collection {
    generation: Generation,
    last_modified: Timestamp,
    /// The timestamp of its records.
    timestamp: Timestamp,
    metadata: Map<String, Value>,
}

impl Collection {
    /// Reads a collection with the timestamp of its records.
    ///
    /// One `TransactGetItems`: a transaction that wrote both shows in both. Tells who asks, too.
    ///
    /// # Errors
    /// Who may not read the collection, and that it is not there.
    async fn read(
        api: &Api,
        request: &Request,
        credentials: &Credentials,
        uri: &ObjectUri,
        records: &ListUri,
    ) -> Result<(Self, User), ApiError> {
        let mut needs = credentials.needs();
        if uri.is_valid() {
            needs = needs.and(lists::needs(records));
        }
        let unit = UnitOfWork::read(&api.store.at_once(), Timestamp::now(), needs).await?;
        let user = User::of(credentials, &unit, &api.passwords);
        let asked = Asked {
            request,
            user: &user,
            settings: &api.settings.api,
            uri,
        };
        if !asked.may_read(&unit) {
            return Err(asked.forbidden());
        }
        let unknown = || ApiError::unknown_parent(uri);
        let generation = unit.generation_of(records).ok_or_else(unknown)?;
        let live = unit.get(uri).ok_or_else(unknown)?;
        let mut metadata = listing::named(live.data.clone(), uri.id(), live.last_modified);
        // As kinto-changes' successor, whose clients need it.
        metadata.insert("bucket".to_owned(), uri.bucket_id().into());
        let collection = Self {
            generation,
            last_modified: live.last_modified,
            timestamp: unit.timestamp_of(records),
            metadata,
        };
        Ok((collection, user))
    }

    fn is_same_as(&self, other: &Self) -> bool {
        self.generation == other.generation && self.last_modified == other.last_modified
    }

    /// Names the state of the collection with the records of that time. Neither time tells it alone.
    fn etag(&self, timestamp: Timestamp) -> String {
        format!("\"{timestamp}-{}\"", self.last_modified)
    }
}

/// Answers `GET` and `HEAD` of a collection's changeset, for who may read the collection.
///
/// Two round trips: the collection with its records' timestamp, then the records. Only when something was written
/// meanwhile the collection is read once more, and so on while it itself changes
/// ([decision 7](../../../docs/decisions/007-changesets.md)).
///
/// # Errors
/// Whatever the request is to be refused for; 503 when the collection changes each time that it is read.
pub async fn of_collection(
    api: &Api,
    request: &Request,
    credentials: &Credentials,
    uri: &ObjectUri,
) -> Result<Response, ApiError> {
    check_media_types(request)?;
    let records = uri.children(Kind::Record);
    let Api {
        store, settings, ..
    } = api;
    let read_collection = || Collection::read(api, request, credentials, uri, &records);
    let (mut collection, user) = read_collection().await?;
    let query = ChangesetQuery::parse(request)?;

    let known = request.header(IF_NONE_MATCH);
    let etag = collection.etag(collection.timestamp);
    if known == Some(&*etag) {
        return Ok(Response::empty(StatusCode::NOT_MODIFIED).tagged(&etag));
    }
    let wanted = Wanted {
        since: query.since.unwrap_or_default(),
        limit: query.limit,
        most_bytes: MAX_READ,
        tombstones: query.since.is_some(),
    };
    let mut changes = None;
    for _ in 0..MAX_ATTEMPTS {
        let Collection {
            ref generation,
            timestamp: at,
            ..
        } = collection;
        let read = match changes.take() {
            None => store.changes(&records, generation, at, wanted).await?,
            Some(known) => store.update_changes(&records, at, known).await?,
        };
        if read.are_too_large() {
            return Err(ApiError::ResponseTooLarge);
        }
        // Nothing was written since the collection was read: they belong together.
        if read.timestamp() == at {
            return Ok(answer(&collection, &read, request, &user, uri, settings));
        }
        let (again, _) = read_collection().await?;
        // The collection was the same before and after.
        if again.is_same_as(&collection) {
            return Ok(answer(&collection, &read, request, &user, uri, settings));
        }
        changes = (again.generation == collection.generation).then_some(read);
        collection = again;
    }
    Err(ApiError::Busy)
}

fn answer(
    collection: &Collection,
    changes: &Changes,
    request: &Request,
    user: &User,
    uri: &ObjectUri,
    settings: &Settings,
) -> Response {
    let timestamp = changes.timestamp();
    let mut text = String::from("[");
    for (n, change) in changes.shown().iter().enumerate() {
        if n > 0 {
            text.push(',');
        }
        write_change(&mut text, change);
    }
    text.push(']');
    let body = body(&collection.metadata, timestamp, &text);
    let response = Response::json_text(StatusCode::OK, body)
        .last_modified(timestamp.max(collection.last_modified))
        .tagged(&collection.etag(timestamp));
    let of = (uri.bucket_id(), uri.id());
    let caching = &settings.api.caching;
    caching::keep_changes(response, of, request, user.id.is_none(), caching)
}

/// The JSON of a changeset. `changes` is JSON already.
pub fn body(metadata: &Map<String, Value>, timestamp: Timestamp, changes: &str) -> String {
    let metadata = json!(metadata);
    format!("{{\"metadata\":{metadata},\"timestamp\":{timestamp},\"changes\":{changes}}}")
}

/// Writes a record as its list shows it: its stored text goes in as it is.
fn write_change(text: &mut String, change: &Change) {
    // An id has no character that JSON would escape. Writing to a string does not fail.
    let _ = write!(
        text,
        "{{\"id\":\"{}\",\"last_modified\":{}",
        change.id, change.last_modified
    );
    match change.data.as_deref().map(|data| data.strip_prefix('{')) {
        None => text.push_str(",\"deleted\":true}"),
        Some(None | Some("}")) => text.push('}'),
        Some(Some(fields)) => {
            text.push(',');
            text.push_str(fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, Method};

    fn parse(query_string: &str) -> Result<ChangesetQuery, ApiError> {
        ChangesetQuery::parse(&Request {
            method: Method::GET,
            path: "/".to_owned(),
            query_string: query_string.to_owned(),
            headers: HeaderMap::new(),
            body: vec![],
        })
    }

    #[test]
    fn since_may_be_quoted_or_not_and_expected_may_be_anything() {
        let quoted = parse("_expected=x&_since=%2212%22&_limit=3&nope=1").unwrap();
        assert_eq!((quoted.since, quoted.limit), (Some(Timestamp(12)), Some(3)));
        assert_eq!(
            parse("_expected=%22%22&_since=12&_limit=0").unwrap().since,
            Some(Timestamp(12))
        );
        assert_eq!(parse("_expected=1&_since=").unwrap().since, None);
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (query, name) in [
            ("", "_expected"),
            ("_expected=", "_expected"),
            ("_expected=1&_since=abc", "_since"),
            ("_expected=1&_since=-1", "_since"),
            ("_expected=1&_since=%221", "_since"),
            ("_expected=1&_since=4102444800001", "_since"),
            ("_expected=1&_limit=-1", "_limit"),
            ("_expected=1&_limit=x", "_limit"),
        ] {
            let Err(ApiError::Invalid(details)) = parse(query) else {
                panic!("{query} is taken");
            };
            assert_eq!(details[0].name.as_deref(), Some(name), "{query}");
        }
    }
}
