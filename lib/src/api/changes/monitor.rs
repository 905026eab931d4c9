//! monitor/changes: which collections changed, and when. For everyone.
//!
//! A change has two times. Its `last_modified` is its collection's timestamp. Its *position* is the monitor's clock when the
//! change was recorded, strictly increasing, at least the timestamp and usually the same. Positions are what pollers go on
//! from: `ETag`, `Last-Modified`, `timestamp`, `_since`, `_before`, Next-Page and the order are theirs. Filters and sorts by
//! `last_modified` go by the timestamp.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Method;
use http::StatusCode;
use http::header::IF_NONE_MATCH;
use md5::{Digest, Md5};
use percent_encoding::utf8_percent_encode;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::api::Api;
use crate::api::changes::changeset::{self, ChangesetQuery};
use crate::api::lists::query::{self, Keys, ListQuery};
use crate::api::lists::selection::page_of;
use crate::api::objects::body::check_media_types;
use crate::api::web::cache_control;
use crate::api::web::error::ApiError;
use crate::api::web::request::{IN_QUERY, Request, is_weakly};
use crate::api::web::response::Response;
use crate::settings::{ApiSettings, ChangesSettings, Settings};
use crate::store::monitor::{CollectionChange, MonitorEntry, MonitorState};
use crate::store::{Store, StoreError};
use crate::timestamp::Timestamp;

/// The bucket and the collection in whose name the changes are served; neither needs to exist.
const MONITOR_CHANGES: (&str, &str) = ("monitor", "changes");

/// One collection as monitor/changes shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    position: Timestamp,
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
    fn of(position: Timestamp, change: CollectionChange, host: &str) -> Self {
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

    /// As [`ListQuery`] takes it: with its position.
    fn to_object(&self) -> Map<String, Value> {
        let mut object: Map<_, _> = serde_json::from_str(&self.json).unwrap_or_default();
        object.insert(POSITION.to_owned(), self.position.0.into());
        object
    }
}

/// The JSON of a list of entries.
fn array(changes: &[&Change]) -> String {
    let texts: Vec<_> = changes.iter().map(|change| &*change.json).collect();
    format!("[{}]", texts.join(","))
}

/// The fields of an entry, all there are to filter and sort by.
pub const FIELDS: [&str; 5] = ["id", "last_modified", "bucket", "collection", "host"];

/// The field of the positions, which nobody is shown.
const POSITION: &str = "position";

/// Entries written by an earlier version may share a position.
const KEYS: Keys = Keys {
    time: Some(POSITION),
    unique: "id",
};

/// The part of the monitor that the settings show.
#[derive(Clone, Debug, Default)]
struct Shown {
    /// The entries, the highest position first, without those of deleted collections.
    changes: Vec<Arc<Change>>,
    /// The highest position of all that is shown, that of a collection deleted since included: it never goes back.
    timestamp: Timestamp,
    /// The monitor's clock when all this was so.
    clock: Timestamp,
}

impl Shown {
    /// With later entries, in the order of their positions, as it is in `state`.
    ///
    /// What lies behind the clock was written by a function of an earlier version and gets a position yet: it shows, and
    /// nobody goes on from there.
    fn with(
        &self,
        entries: Vec<MonitorEntry>,
        state: &MonitorState,
        settings: &ChangesSettings,
    ) -> Self {
        let is_shown =
            |change: &CollectionChange| settings.shows(&change.bucket, &change.collection);
        let later = entries.into_iter();
        let later = later.filter(|entry| entry.position > self.clock && is_shown(&entry.change));
        let later: Vec<_> = later.collect();
        let changed: HashSet<_> = later
            .iter()
            .map(|entry| (entry.change.bucket.clone(), entry.change.collection.clone()))
            .collect();
        let recorded = state
            .latest()
            .iter()
            .filter(|entry| is_shown(&entry.change));
        let positions = later.iter().chain(recorded).map(|entry| entry.position);
        let last = positions.filter(|position| !state.has_clock() || *position <= state.clock());
        let timestamp = self.timestamp.max(last.max().unwrap_or_default());
        let live = later
            .into_iter()
            .rev()
            .filter(|entry| !entry.change.deleted);
        let live = live.map(|MonitorEntry { position, change }| {
            Arc::new(Change::of(position, change, &settings.http_host))
        });
        let unchanged = self.changes.iter().filter(|change| {
            changed.is_empty()
                || !changed.contains(&(change.bucket.clone(), change.collection.clone()))
        });
        Self {
            changes: live.chain(unchanged.cloned()).collect(),
            timestamp,
            clock: state.clock(),
        }
    }

    /// What is shown and lies between these positions, both exclusive.
    fn between(
        &self,
        since: Option<Timestamp>,
        before: Option<Timestamp>,
    ) -> impl Iterator<Item = &Change> {
        let later = move |position| since.is_none_or(|since| since < position);
        let earlier = move |position| before.is_none_or(|before| position < before);
        let changes = self.changes.iter().map(|change| &**change);
        changes.filter(move |change| later(change.position) && earlier(change.position))
    }
}

/// All that is shown, as it was read last ([decision 9](../../../../docs/decisions/009-monitor-memory.md)). About 250 bytes an
/// entry.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Option<Arc<Shown>>>);

impl Memory {
    /// All that is shown in `state`, which was read for this request, or later; if `since` is given, maybe no more of it
    /// than is later.
    ///
    /// No request if this process remembers the entries up to the state's floor, or `since` is not before it; else one
    /// `Query` for those that are missing. If nothing is remembered and no entry from `since` on is shown, a second one, for
    /// the highest position.
    async fn read(
        &self,
        store: &Store,
        settings: &ChangesSettings,
        state: MonitorState,
        since: Option<Timestamp>,
    ) -> Result<Arc<Shown>, StoreError> {
        let nothing = || Arc::new(Shown::default());
        let kept = self.lock().clone();
        let is_settled = |state: &MonitorState| state.is_settled(Timestamp::now());
        let kept = kept.filter(|_| is_settled(&state));
        if let Some(kept) = kept.clone().filter(|kept| state.clock() <= kept.clock) {
            return Ok(kept);
        }
        // Before anything is folded, the state has all there is.
        let is_complete = is_settled(&state) && state.floor() == Timestamp(0);
        if kept.is_none()
            && !is_complete
            && let Some(since) = since
        {
            let (state, entries) = read(store, state.clone(), since).await?;
            let shown = Shown::default().with(entries, &state, settings);
            if shown.timestamp > Timestamp(0) {
                return Ok(Arc::new(shown));
            }
        }
        let known = kept.unwrap_or_else(nothing);
        let (state, entries) = read(store, state, known.clock).await?;
        let shown = Arc::new(known.with(entries, &state, settings));
        if is_settled(&state) {
            *self.lock() = Some(Arc::clone(&shown));
        }
        Ok(shown)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Shown>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entries from the position `from` on, in order, and the state in which they are these.
async fn read(
    store: &Store,
    state: MonitorState,
    from: Timestamp,
) -> Result<(MonitorState, Vec<MonitorEntry>), StoreError> {
    if state.is_settled(Timestamp::now()) && state.floor() <= from {
        let latest = state.latest().to_vec();
        return Ok((state, latest));
    }
    store.monitor_entries(state, from).await
}

/// Answers `GET` and `HEAD` of `/v1/buckets/monitor/collections/changes/records`: a list like any other, the
/// latest change first, with the highest position as its `ETag`.
///
/// One `GetItem`, and what [`Memory::read`] needs.
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
    let parse = |now| ListQuery::parse_keyed(request, Some(&FIELDS), KEYS, api, now);
    // Whatever time it asks for: which ones there can be is known when the latest is.
    let bounds = parse(Timestamp(u64::MAX / 2)).map(|query| query.bounds());
    let bounds = bounds.unwrap_or_default();
    let state = store.monitor_state().await?;
    let shown = monitor.read(store, changes, state, bounds.since).await?;
    // The monitor's clock may be ahead of ours, and what it said must be taken back.
    let query = parse(query::reference_time(Timestamp::now(), shown.timestamp));
    let kept = |response| keep(response, request, shown.timestamp, api);
    // As in Kinto, these go before a query string that cannot be read.
    if let Some(not_modified) = query::check_preconditions(request, shown.timestamp)? {
        // An empty list where the URL asks for nothing else. Of any other URL a cache that asks whether its copy still
        // holds would take it for all there is.
        let is_empty = bounds.since.is_some_and(|since| since >= shown.timestamp);
        if changes.flavour.answers_not_modified() || !is_empty {
            return Ok(kept(not_modified));
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
    let objects = asked.into_iter().map(Change::to_object);
    let response = if request.method == Method::HEAD {
        let count = objects.filter(|object| query.counts(object)).count();
        query::counted(count, shown.timestamp)
    } else {
        page_of(&query, objects, request, api).into_response(shown.timestamp)
    };
    Ok(kept(response))
}

/// With how long the answer may be kept that shows the state of `timestamp`.
fn keep(
    response: Response,
    request: &Request,
    timestamp: Timestamp,
    settings: &ApiSettings,
) -> Response {
    let (is_anonymous, caching) = (cache_control::is_anonymous(request), &settings.caching);
    cache_control::keep_changes(
        response,
        MONITOR_CHANGES,
        request,
        timestamp,
        is_anonymous,
        caching,
    )
}

/// The whole of a list. `changes` is JSON already.
fn listed(changes: &str, timestamp: Timestamp) -> Response {
    Response::json_text(StatusCode::OK, format!("{{\"data\":{changes}}}")).modified_at(timestamp)
}

/// Answers `GET` and `HEAD` of `/v1/buckets/monitor/collections/changes/changeset`.
///
/// `timestamp` and `ETag` are the highest position, whatever is filtered. It costs what the list does.
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
    let state = store.monitor_state().await?;
    let shown = monitor.read(store, changes, state, query.since).await?;
    query.check_since(shown.timestamp)?;
    let etag = shown.timestamp.etag();
    let known = request.header(IF_NONE_MATCH);
    // As above.
    let is_empty = query.since.is_some_and(|since| since >= shown.timestamp);
    let answers_not_modified = changes.flavour.answers_not_modified() || !is_empty;
    if answers_not_modified && known.is_some_and(|known| is_weakly(known, &etag)) {
        let response = Response::empty(StatusCode::NOT_MODIFIED).modified_at(shown.timestamp);
        return Ok(keep(response, request, shown.timestamp, api));
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
    Ok(keep(response, request, shown.timestamp, api))
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
        // Relative, as all redirects.
        String::new()
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
        let change = CollectionChange {
            bucket: "a".to_owned(),
            collection: "b".to_owned(),
            last_modified: Timestamp(1),
            deleted: false,
        };
        // Python: uuid.UUID(hashlib.md5(b"www.kinto.com/buckets/a/collections/b").hexdigest())
        let change = Change::of(Timestamp(2), change, "www.kinto.com").to_object();
        assert_eq!(change["id"], "df899f02-ae6e-2b3d-4867-c534990c20da");
    }
}
