//! Changesets: a collection's metadata, timestamp and changes, as of one moment.

use crate::api::dispatch::context::Context;
use crate::api::dispatch::target::Target;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value};

use crate::api::Api;
use crate::api::changes::changeset_cache::Snapshot;
use crate::api::changes::collection::{Collection, MAX_ATTEMPTS, MAX_READ};
use crate::api::changes::published::{self, CollectionReader, ReadRecords};
use crate::api::web::cache_control;
use crate::api::web::error::{ApiError, Detail, Location};
use crate::api::web::media_type;
use crate::api::web::preconditions::has_copy;
use crate::api::web::request::Request;
use crate::api::web::response::Response;
use crate::resource::{Kind, ListUri};
use crate::store::changeset::{Changes, ChangesQuery};
use crate::store::recent::COMMIT_PAUSES;
use crate::store::{Store, StoreError};
use crate::timestamp::Timestamp;
use crate::unit_of_work::{Needs, UnitOfWork};

/// The query string of a changeset. Unknown parameters are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesetQuery {
    /// `_since`: only later changes, tombstones included.
    pub since: Option<Timestamp>,
    /// `_limit`: only this many of the latest changes.
    pub limit: Option<usize>,
    /// `bucket`, in monitor/changes: only entries of this bucket.
    pub bucket: Option<String>,
    /// `collection`, in monitor/changes: only entries of collections with this id.
    pub collection: Option<String>,
}

impl ChangesetQuery {
    /// Reads the query string. `_since` may be quoted or not; a `_limit` of 0 is no limit.
    ///
    /// # Errors
    /// 400 without `_expected`, and for an invalid `_since` or `_limit`.
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
            let mut refuse = |description: &str| {
                wrong.push(Detail::new(Location::Querystring, &*name, description))
            };
            match &*name {
                // Any value will do: it only gives each state a URL of its own.
                "_expected" => is_expected = true,
                "_since" => {
                    query.since = Timestamp::from_query(&value);
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
            wrong.push(Detail::new(Location::Querystring, "_expected", "Required"));
        }
        if wrong.is_empty() {
            Ok(query)
        } else {
            Err(ApiError::Invalid(wrong))
        }
    }

    /// Checks that `_since` is not later than the year 2099 (kinto-changes 4.1), unless the list's own `timestamp` is
    /// as late.
    ///
    /// # Errors
    /// 400.
    pub fn check_since(&self, timestamp: Timestamp) -> Result<(), ApiError> {
        let latest = timestamp.max(Timestamp::MAX);
        if self.since.is_none_or(|since| since <= latest) {
            return Ok(());
        }
        let problem = format!("Must not be later than {latest}");
        Err(ApiError::invalid(Location::Querystring, "_since", problem))
    }
}

/// Answers `GET` and `HEAD` of a collection's changeset, for users who may read the collection and all of its records.
///
/// One round trip when nothing was written to the records since this process read all of them
/// ([decision 11](../../../../docs/decisions/011-changeset-memory.md)). Else two: the collection with its records' timestamp, then
/// the records. Where some are cached, only those that changed since are read, and then the list's item once more. Only
/// when something was written meanwhile is the collection read again, and so on while it keeps changing
/// ([decision 7](../../../../docs/decisions/007-changesets.md)).
///
/// # Errors
/// Any refusal of the request; 503 when the collection changes each time that it is read.
pub async fn of_collection(cx: &mut Context<'_>) -> Result<Response, ApiError> {
    let Target::Changeset(uri) = cx.target else {
        return Err(ApiError::UnknownPath);
    };
    let (api, request, credentials) = (cx.api, cx.request, cx.credentials);
    media_type::check(request)?;
    let records = uri.children(Kind::Record);
    let Api {
        store, settings, ..
    } = api;
    // Taken before the collection is read, so that the collection is not older than the cached state.
    let remembered = api.changesets.get(&records);
    let read_collection = || Collection::read(api, request, credentials, uri, &records);
    let (mut collection, user) = read_collection().await?;
    let query = ChangesetQuery::parse(request)?;
    query.check_since(collection.timestamp)?;

    let of = (uri.bucket_id(), uri.id());
    let is_shared = user.id.is_none() && !collection.is_writable;
    let caching = &settings.api.caching;
    // All responses about this state have the same headers, whether they have a body or not.
    let described = |response: Response, collection: &Collection, timestamp: Timestamp| {
        let response = response
            .last_modified(timestamp.max(collection.last_modified))
            .with_etag(&collection.etag(timestamp));
        let until = collection.published.until;
        cache_control::apply_to_changes(response, of, request, timestamp, until, is_shared, caching)
    };
    if has_copy(request, &collection.etag(collection.timestamp)) {
        let response = Response::empty(StatusCode::NOT_MODIFIED);
        return Ok(described(response, &collection, collection.timestamp));
    }
    let wanted = ChangesQuery {
        since: query.since.unwrap_or_default(),
        limit: query.limit,
        max_bytes: MAX_READ,
        // A reading of everything is cached, with its tombstones.
        tombstones: query.since.is_some() || query.limit.is_none(),
    };
    // A list that has a layer is not written to before that is settled.
    if collection.published.signatures.is_some() || collection.published.layer.is_some() {
        let asked = CollectionReader {
            api,
            request,
            credentials,
            uri,
            records: &records,
        };
        let (collection, read) = published::read(&asked, collection, remembered, wanted).await?;
        let state = match read {
            ReadRecords::Whole(state) => {
                api.changesets.keep(&records, Arc::clone(&state));
                state
            }
            ReadRecords::Part(state) => state,
        };
        let response = Response::json_text(StatusCode::OK, body_of(&collection, &state, &query)?);
        return Ok(described(response, &collection, state.timestamp));
    }
    // A client that is ahead of the cached state does not wait for this process to catch up.
    let mut remembered = remembered
        .filter(|state| collection.continues(&state.generation, state.backdated_writes))
        .filter(|state| wanted.since <= state.timestamp);
    let begin = |remembered: Option<&Arc<Snapshot>>| {
        remembered.map(|state| Changes::none(&state.generation, state.timestamp, MAX_READ))
    };
    let mut changes = begin(remembered.as_ref());
    let (mut attempts, mut pauses) = (1..MAX_ATTEMPTS, COMMIT_PAUSES.into_iter());
    let read = loop {
        let at = collection.timestamp;
        let mut is_update = false;
        let read = match changes.take() {
            Some(read) if read.timestamp() == at => read,
            Some(read) => {
                is_update = true;
                store.update_changes(&records, at, read).await?
            }
            None => {
                let generation = &collection.generation;
                store.changes(&records, generation, at, wanted).await?
            }
        };
        if read.are_too_large() {
            return Err(ApiError::ResponseTooLarge);
        }
        // If nothing was written since the collection was read, both belong together. An update misses records that
        // were backdated to before it, which the timestamp does not tell.
        let is_one_moment = read.timestamp() == at
            && (!is_update
                || backdated_writes(store, &records).await? == collection.backdated_writes);
        let again = if is_one_moment {
            None
        } else {
            Some(read_collection().await?.0)
        };
        if !read.show(&again.as_ref().unwrap_or(&collection).recent) {
            // Something is still being committed: read everything again after a pause.
            let pause = pauses.next().ok_or(ApiError::Busy)?;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            collection = read_collection().await?.0;
            remembered = remembered
                .filter(|state| collection.continues(&state.generation, state.backdated_writes));
            changes = begin(remembered.as_ref());
            continue;
        }
        match again {
            None => break read,
            // The collection was the same before and after.
            Some(again) if again.is_same_as(&collection) => break read,
            Some(again) => {
                attempts.next().ok_or(ApiError::Busy)?;
                if again.continues(&collection.generation, collection.backdated_writes) {
                    changes = Some(read);
                } else {
                    remembered = None;
                }
                collection = again;
            }
        }
    };
    let is_whole = remembered.is_some() || wanted.is_all();
    let Collection {
        generation,
        backdated_writes,
        ..
    } = &collection;
    let state = match remembered {
        Some(state) if state.timestamp == read.timestamp() => state,
        Some(state) => Arc::new(state.advanced(&read)),
        None => Arc::new(Snapshot::of(&read, generation.clone(), *backdated_writes)),
    };
    if is_whole {
        api.changesets.keep(&records, Arc::clone(&state));
    }
    let timestamp = state.timestamp;
    let response = Response::json_text(StatusCode::OK, body_of(&collection, &state, &query)?);
    Ok(described(response, &collection, timestamp))
}

/// The number of transactions that wrote backdated records, by now. One `BatchGetItem` of one item.
async fn backdated_writes(store: &Store, records: &ListUri) -> Result<u64, StoreError> {
    let mut needs = Needs::default();
    needs.lists.insert(records.clone());
    let unit = UnitOfWork::read(store, Timestamp::now(), needs).await?;
    Ok(unit.backdated_writes(records))
}

/// The JSON of a changeset with the records that the query asks for.
///
/// # Errors
/// The changeset is too large to be sent.
fn body_of(
    collection: &Collection,
    state: &Snapshot,
    query: &ChangesetQuery,
) -> Result<String, ApiError> {
    let records = state.shown(query.since, query.limit);
    let length: usize = records.iter().map(|record| record.json.len() + 1).sum();
    if length > MAX_READ {
        return Err(ApiError::ResponseTooLarge);
    }
    let mut text = beginning(&collection.metadata, state.timestamp, length + 2);
    text.push('[');
    for (n, record) in records.into_iter().enumerate() {
        if n > 0 {
            text.push(',');
        }
        text.push_str(&record.json);
    }
    text.push_str("]}");
    Ok(text)
}

/// The JSON of a changeset. `changes` is JSON already.
pub fn body(metadata: &Map<String, Value>, timestamp: Timestamp, changes: &str) -> String {
    let mut text = beginning(metadata, timestamp, changes.len() + 1);
    text.push_str(changes);
    text.push('}');
    text
}

/// The JSON of a changeset up to its changes, with room for what follows.
fn beginning(metadata: &Map<String, Value>, timestamp: Timestamp, rest: usize) -> String {
    // A value of JSON can always be serialized.
    let metadata = serde_json::to_string(metadata).unwrap_or_default();
    let mut text = format!("{{\"metadata\":{metadata},\"timestamp\":{timestamp},\"changes\":");
    text.reserve_exact(rest);
    text
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
            domain_name: None,
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
    fn no_since_is_later_than_the_century_but_where_the_list_is() {
        let query = parse("_expected=1&_since=4102444800001").unwrap();
        assert!(query.check_since(Timestamp(1)).is_err());
        assert!(query.check_since(Timestamp(4_102_444_800_001)).is_ok());
        let query = parse("_expected=1&_since=4102444800000").unwrap();
        assert!(query.check_since(Timestamp(1)).is_ok());
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (query, name) in [
            ("", "_expected"),
            ("_expected=", "_expected"),
            ("_expected=1&_since=abc", "_since"),
            ("_expected=1&_since=-1", "_since"),
            ("_expected=1&_since=%221", "_since"),
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
