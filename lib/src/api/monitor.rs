//! monitor/changes: which collections changed, and when. For everyone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Method;
use http::StatusCode;
use http::header::{AUTHORIZATION, IF_NONE_MATCH};
use md5::{Digest, Md5};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Api;
use super::body::check_media_types;
use super::caching;
use super::changeset::{self, ChangesetQuery};
use super::error::ApiError;
use super::listing::{self, ListQuery};
use super::request::Request;
use super::response::Response;
use crate::resource::ObjectUri;
use crate::settings::{ApiSettings, ChangesSettings, Settings};
use crate::store::monitor::{MonitorEntry, MonitorState};
use crate::store::{Store, StoreError};
use crate::timestamp::Timestamp;

/// The bucket and the collection in whose name the changes are served; neither needs to exist.
const MONITOR_CHANGES: (&str, &str) = ("monitor", "changes");

/// One collection as monitor/changes shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    last_modified: Timestamp,
    bucket: String,
    collection: String,
    /// All of it, with its id and host.
    json: String,
}

/// The fields of an entry, in their order.
#[derive(Serialize)]
struct Fields<'a> {
    /// UUID made of the md5 of host and collection URI (kinto-changes 4.1).
    id: &'a str,
    last_modified: Timestamp,
    bucket: &'a str,
    collection: &'a str,
    host: &'a str,
}

impl Change {
    fn of(entry: MonitorEntry, host: &str) -> Self {
        let MonitorEntry {
            bucket,
            collection,
            last_modified,
            ..
        } = entry;
        let uri = ObjectUri::collection(&bucket, &collection);
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
            last_modified,
            bucket,
            collection,
        }
    }

    fn to_object(&self) -> Map<String, Value> {
        serde_json::from_str(&self.json).unwrap_or_default()
    }
}

/// The JSON of a list of entries.
fn array(changes: &[&Change]) -> String {
    let texts: Vec<_> = changes.iter().map(|change| &*change.json).collect();
    format!("[{}]", texts.join(","))
}

/// What is escaped in a query string: all but RFC 3986's unreserved characters.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The fields of an entry, all there are to filter and sort by.
pub const FIELDS: [&str; 5] = ["id", "last_modified", "bucket", "collection", "host"];

/// What of the monitor the settings show.
#[derive(Debug)]
struct Shown {
    /// The entries, the latest first, without those of deleted collections.
    changes: Vec<Change>,
    /// The highest timestamp of all that is shown, that of a collection deleted since included: it never goes back.
    timestamp: Timestamp,
}

impl Shown {
    /// Reads the entries; if `since` is given, those alone that are later, as far as that spares reading. With all
    /// entries comes the state that they are in.
    ///
    /// One `Query`. Who asks with the timestamp that it has costs what changed, not what there is: the entry of
    /// that very time, or a later one, tells the highest. A time that no entry has takes a second `Query`, of all.
    async fn read(
        store: &Store,
        changes: &ChangesSettings,
        since: Option<Timestamp>,
    ) -> Result<(Option<MonitorState>, Self), StoreError> {
        let is_shown = |entry: &MonitorEntry| changes.shows(&entry.bucket, &entry.collection);
        let (mut state, mut entries) = store.monitor_entries(since.unwrap_or_default()).await?;
        entries.retain(is_shown);
        if entries.is_empty() && since.is_some() {
            (state, entries) = store.monitor_entries(Timestamp(0)).await?;
            entries.retain(is_shown);
        }
        let timestamp = entries
            .first()
            .map_or(Timestamp(0), |latest| latest.last_modified);
        entries.retain(|entry| !entry.deleted);
        let shown = |entry| Change::of(entry, &changes.http_host);
        let changes = entries.into_iter().map(shown).collect();
        Ok((state, Self { changes, timestamp }))
    }

    /// What is shown of them and lies between these times, both exclusive.
    fn between(
        &self,
        since: Option<Timestamp>,
        before: Option<Timestamp>,
    ) -> impl Iterator<Item = &Change> {
        let later = move |time| since.is_none_or(|since| since < time);
        let earlier = move |time| before.is_none_or(|before| time < before);
        let changes = self.changes.iter();
        changes.filter(move |change| later(change.last_modified) && earlier(change.last_modified))
    }
}

/// What was read last of all entries, for as long as their state says that none was written since
/// ([decision 9](../../../docs/decisions/009-monitor-memory.md)). About 200 bytes an entry.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Option<(MonitorState, Arc<Shown>)>>);

impl Memory {
    /// What is shown now; if `since` is given, maybe no more of it than is later.
    ///
    /// One `GetItem`, 1 RCU, if nothing changed; after it a `Query` if something did ([`Shown::read`]), which is the
    /// only request where nothing is kept.
    async fn read(
        &self,
        store: &Store,
        changes: &ChangesSettings,
        since: Option<Timestamp>,
    ) -> Result<Arc<Shown>, StoreError> {
        let kept = self.lock().clone();
        if let Some((state, shown)) = kept
            && store.monitor_state().await? == Some(state)
        {
            return Ok(shown);
        }
        let (state, shown) = Shown::read(store, changes, since).await?;
        let shown = Arc::new(shown);
        let settled = state.filter(|state| state.is_settled(Timestamp::now()));
        *self.lock() = settled.map(|state| (state, Arc::clone(&shown)));
        Ok(shown)
    }

    fn lock(&self) -> MutexGuard<'_, Option<(MonitorState, Arc<Shown>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers `GET` and `HEAD` of `/v1/buckets/monitor/collections/changes/records`: a list like any other, the
/// latest change first, with the highest timestamp as its `ETag`.
///
/// # Errors
/// Whatever the request is to be refused for.
pub async fn records(
    Api {
        store,
        settings,
        monitor,
        ..
    }: &Api,
    request: &Request,
) -> Result<Response, ApiError> {
    let Settings { api, changes, .. } = settings;
    if let Some(answer) = answer_to_age(request, settings, Timestamp::now()) {
        return Ok(answer);
    }
    check_media_types(request)?;
    let query = ListQuery::parse(request, Some(&FIELDS), api, Timestamp::now());
    let bounds = query.as_ref().map(ListQuery::bounds).unwrap_or_default();
    let shown = monitor.read(store, changes, bounds.since).await?;
    let kept = |response| keep(response, request, api);
    // As in Kinto, these go before a query string that cannot be read.
    if let Some(not_modified) = listing::check_preconditions(request, shown.timestamp)? {
        if changes.flavour.answers_not_modified() {
            return Ok(not_modified);
        }
        return Ok(kept(listed("[]", shown.timestamp)));
    }
    let query = query?;
    let asked: Vec<_> = shown.between(bounds.since, bounds.before).collect();
    if request.method == Method::GET
        && let Some(size) = query.plain_page_size()
        && asked.len() <= size
    {
        return Ok(kept(listed(&array(&asked), shown.timestamp)));
    }
    let objects: Vec<_> = asked.into_iter().map(Change::to_object).collect();
    let response = if request.method == Method::HEAD {
        listing::counted(query.count(&objects), shown.timestamp)
    } else {
        let page = query.apply(objects, false, request, api);
        page.into_response(shown.timestamp)
    };
    Ok(kept(response))
}

/// With how long the answer may be kept. Who shows credentials is not anonymous; they need not be true.
fn keep(response: Response, request: &Request, settings: &ApiSettings) -> Response {
    let is_anonymous = request.header(AUTHORIZATION).is_none();
    let caching = &settings.caching;
    caching::keep_changes(response, MONITOR_CHANGES, request, is_anonymous, caching)
}

/// The whole of a list. `changes` is JSON already.
fn listed(changes: &str, timestamp: Timestamp) -> Response {
    Response::json_text(StatusCode::OK, format!("{{\"data\":{changes}}}"))
        .modified_at(timestamp)
        .uncached()
}

/// Answers `GET` and `HEAD` of `/v1/buckets/monitor/collections/changes/changeset`.
///
/// `timestamp` and `ETag` are the highest timestamp, whatever is filtered.
///
/// # Errors
/// Whatever the request is to be refused for.
pub async fn changeset(
    Api {
        store,
        settings,
        monitor,
        ..
    }: &Api,
    request: &Request,
) -> Result<Response, ApiError> {
    let Settings { api, changes, .. } = settings;
    check_media_types(request)?;
    let query = ChangesetQuery::parse(request)?;
    if changes.flavour.redirects_quoted_expected()
        && let Some(url) = url_with_plain_expected(request, settings)
    {
        return Ok(Response::redirect(&url, Timestamp::now(), None));
    }
    if let Some(answer) = answer_to_age(request, settings, Timestamp::now()) {
        return Ok(answer);
    }
    let shown = monitor.read(store, changes, query.since).await?;
    let etag = shown.timestamp.etag();
    if changes.flavour.answers_not_modified() && request.header(IF_NONE_MATCH) == Some(&*etag) {
        return Ok(Response::empty(StatusCode::NOT_MODIFIED).modified_at(shown.timestamp));
    }
    let is_asked_for = |asked: &Option<String>, id: &str| asked.as_deref().is_none_or(|a| a == id);
    let asked: Vec<_> = shown
        .between(query.since, None)
        .filter(|change| {
            is_asked_for(&query.bucket, &change.bucket)
                && is_asked_for(&query.collection, &change.collection)
        })
        .take(query.limit.unwrap_or(usize::MAX))
        .collect();
    let mut metadata = Map::new();
    if changes.flavour.names_monitors_bucket() {
        metadata.insert("bucket".to_owned(), MONITOR_CHANGES.0.into());
    }
    let body = changeset::body(&metadata, shown.timestamp, &array(&asked));
    let response = Response::json_text(StatusCode::OK, body).modified_at(shown.timestamp);
    Ok(keep(response, request, api))
}

/// What is answered, without reading anything, to who asks with times that are too old.
///
/// Who asks for what changed since long ago is redirected to the whole list (kinto-changes 4.1), so that caches
/// keep one answer for all of them; who expects less than it has got is told that there is nothing (its successor).
fn answer_to_age(request: &Request, settings: &Settings, now: Timestamp) -> Option<Response> {
    let changes = &settings.changes;
    let time = |name: &str| {
        request
            .parameter(name)?
            .trim_matches('"')
            .parse::<i64>()
            .ok()
    };
    // What cannot be read is refused later, with the other parameters.
    let since = time("_since")?;
    let max_age = changes.since_max_age_redirect_ttl_seconds;
    if changes.flavour.refuses_stale_expected()
        && time("_expected").is_some_and(|expected| 0 < expected && expected < since)
    {
        let response = Response::empty(StatusCode::NO_CONTENT);
        return Some(match max_age {
            Some(seconds) => response.kept_for(seconds, now),
            None => response,
        });
    }
    let days = changes.since_max_age_days?;
    let oldest = now
        .0
        .saturating_sub(days.saturating_mul(24 * 60 * 60 * 1000));
    if u64::try_from(since).is_ok_and(|since| oldest <= since) {
        return None;
    }
    let url = url_with(request, settings, |name, value| {
        (name != "_since").then_some(value)
    });
    Some(Response::redirect(&url, now, max_age))
}

/// The URL of the request with `_expected` without its quotes; `None` when it has none.
fn url_with_plain_expected(request: &Request, settings: &Settings) -> Option<String> {
    let expected = request.parameter("_expected")?;
    expected.contains('"').then(|| {
        url_with(request, settings, |name, value| match name {
            "_expected" => Some(value.replace('"', "")),
            _ => Some(value),
        })
    })
}

/// The URL of the request on the host that the settings name, with the parameters that `keep` gives a value.
fn url_with(
    request: &Request,
    settings: &Settings,
    keep: impl Fn(&str, String) -> Option<String>,
) -> String {
    let host = &settings.changes.http_host;
    let origin = if host.is_empty() {
        request.origin(&settings.api)
    } else {
        let scheme = settings.api.http_scheme.as_deref().unwrap_or("https");
        format!("{scheme}://{host}")
    };
    let encoded = |text: &str| utf8_percent_encode(text, IN_QUERY).to_string();
    let pairs = request.query().filter_map(|(name, value)| {
        let value = keep(&name, value)?;
        Some(format!("{}={}", encoded(&name), encoded(&value)))
    });
    let pairs: Vec<_> = pairs.collect();
    let query = if pairs.is_empty() { "" } else { "?" };
    format!("{origin}{}{query}{}", request.path, pairs.join("&"))
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
        let change = Change::of(entry, "www.kinto.com").to_object();
        assert_eq!(change["id"], "df899f02-ae6e-2b3d-4867-c534990c20da");
    }
}
