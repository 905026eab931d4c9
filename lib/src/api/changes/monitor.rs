//! monitor/changes: the collections that changed, and when. Everyone may read it.
//!
//! A change has two times. Its `last_modified` is its collection's timestamp. Its *position* is the monitor's clock
//! when the change was recorded: strictly increasing, at least the timestamp and usually equal to it. Pollers go on
//! from positions: `ETag`, `Last-Modified`, `timestamp`, `_since`, `_before`, Next-Page and the order use them. Filters
//! and sorts by `last_modified` use the timestamp.

use crate::api::dispatch::context::Context;
use http::{Method, StatusCode};
use percent_encoding::utf8_percent_encode;
use serde_json::Map;

use crate::api::Api;
use crate::api::changes::changeset::{self, ChangesetQuery};
use crate::api::changes::monitor_entry::{FIELDS, KEYS, MonitorEntry, array};
use crate::api::lists::query::ListQuery;
use crate::api::lists::selection::{count_response, page_of};
use crate::api::web::cache_control;
use crate::api::web::error::ApiError;
use crate::api::web::media_type;
use crate::api::web::preconditions::{Outcome, Preconditions, has_copy};
use crate::api::web::request::{IN_QUERY, Request};
use crate::api::web::response::Response;
use crate::settings::{ApiSettings, Settings};
use crate::timestamp::Timestamp;
use crate::unit_of_work::client_time;

/// The bucket and the collection under whose names the changes are served; neither needs to exist.
const MONITOR_CHANGES: (&str, &str) = ("monitor", "changes");

/// Answers `GET` and `HEAD` of `/v1/buckets/monitor/collections/changes/records`: a list like any other, the
/// latest change first, with the highest position as its `ETag`.
///
/// One `GetItem`, and the requests of [`super::monitor_cache::MonitorCache::read`].
///
/// # Errors
/// Any refusal of the request.
pub async fn records(cx: &mut Context<'_>) -> Result<Response, ApiError> {
    let Api {
        store,
        settings,
        monitor,
        ..
    } = cx.api;
    let request = cx.request;
    let Settings { api, changes, .. } = settings;
    if let Some(answer) = answer_to_age(request, settings, Timestamp::now()) {
        return Ok(answer);
    }
    media_type::check(request)?;
    let parse = |now| ListQuery::parse_keyed(request, Some(&FIELDS), KEYS, api, now);
    // Any time is allowed here: the latest valid one is known only when the state is read.
    let bounds = parse(Timestamp(u64::MAX / 2)).map(|query| query.bounds());
    let bounds = bounds.unwrap_or_default();
    let state = store.monitor_state().await?;
    let shown = monitor.read(store, changes, state, bounds.since).await?;
    // The monitor's clock may be ahead of ours, and clients must be able to send the times that it gave them.
    let query = parse(client_time::reference_time(
        Timestamp::now(),
        shown.timestamp,
    ));
    let kept = |response| with_cache_headers(response, request, shown.timestamp, api);
    // As in Kinto, preconditions go before an invalid query string.
    match Preconditions::of(request)?.check(request, Some(shown.timestamp)) {
        Outcome::Met => {}
        Outcome::NotModified => {
            // An empty list, where the URL asks for nothing more. A cache that revalidates its copy of any other URL
            // would take the empty list for the whole.
            let is_empty = bounds.since.is_some_and(|since| since >= shown.timestamp);
            if changes.dialect.answers_not_modified() || !is_empty {
                let response = Response::empty(StatusCode::NOT_MODIFIED);
                return Ok(kept(response.modified_at(shown.timestamp)));
            }
            return Ok(kept(listed("[]", shown.timestamp)));
        }
        Outcome::Failed => return Err(ApiError::precondition_failed(shown.timestamp)),
    }
    let query = query?;
    let asked: Vec<_> = shown.between(bounds.since, bounds.before).collect();
    if request.method == Method::GET
        && let Some(size) = query.plain_page_size()
        && asked.len() <= size
    {
        return Ok(kept(listed(&array(&asked), shown.timestamp)));
    }
    let objects = asked.into_iter().map(MonitorEntry::to_object);
    let response = if request.method == Method::HEAD {
        let count = objects.filter(|object| query.counts(object)).count();
        count_response(count, shown.timestamp)
    } else {
        page_of(&query, objects, request, api).into_response(shown.timestamp)
    };
    Ok(kept(response))
}

/// Says how long the response that shows the state of `timestamp` may be cached.
fn with_cache_headers(
    response: Response,
    request: &Request,
    timestamp: Timestamp,
    settings: &ApiSettings,
) -> Response {
    let (is_anonymous, caching) = (cache_control::is_anonymous(request), &settings.caching);
    cache_control::apply_to_changes(
        response,
        MONITOR_CHANGES,
        request,
        timestamp,
        None,
        is_anonymous,
        caching,
    )
}

/// The response with a whole list. `changes` is JSON already.
fn listed(changes: &str, timestamp: Timestamp) -> Response {
    Response::json_text(StatusCode::OK, format!("{{\"data\":{changes}}}")).modified_at(timestamp)
}

/// Answers `GET` and `HEAD` of `/v1/buckets/monitor/collections/changes/changeset`.
///
/// `timestamp` and `ETag` are the highest position, whatever the filters. It costs the same as the list.
///
/// # Errors
/// Any refusal of the request.
pub async fn changeset(cx: &mut Context<'_>) -> Result<Response, ApiError> {
    let Api {
        store,
        settings,
        monitor,
        ..
    } = cx.api;
    let request = cx.request;
    let Settings { api, changes, .. } = settings;
    media_type::check(request)?;
    let query = ChangesetQuery::parse(request)?;
    if changes.dialect.redirects_quoted_expected()
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
    // As in the list above.
    let is_empty = query.since.is_some_and(|since| since >= shown.timestamp);
    let answers_not_modified = changes.dialect.answers_not_modified() || !is_empty;
    if answers_not_modified && has_copy(request, &shown.timestamp.etag()) {
        let response = Response::empty(StatusCode::NOT_MODIFIED).modified_at(shown.timestamp);
        return Ok(with_cache_headers(response, request, shown.timestamp, api));
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
    if changes.dialect.names_monitors_bucket() {
        metadata.insert("bucket".to_owned(), MONITOR_CHANGES.0.into());
    }
    let body = changeset::body(&metadata, shown.timestamp, &array(&asked));
    let response = Response::json_text(StatusCode::OK, body).modified_at(shown.timestamp);
    Ok(with_cache_headers(response, request, shown.timestamp, api))
}

/// The response to a request whose times are too old; nothing is read for it.
///
/// A `_since` of long ago is redirected to the whole list (kinto-changes 4.1), so that caches keep one response for all
/// such requests; an `_expected` that is before `_since` gets a 204 (kinto-changes' successor).
fn answer_to_age(request: &Request, settings: &Settings, now: Timestamp) -> Option<Response> {
    let changes = &settings.changes;
    let time = |name: &str| {
        request
            .parameter(name)?
            .trim_matches('"')
            .parse::<i64>()
            .ok()
    };
    // An invalid value is refused later, with the other parameters.
    let since = time("_since")?;
    let max_age = changes.since_max_age_redirect_ttl_seconds;
    if changes.dialect.refuses_stale_expected()
        && time("_expected").is_some_and(|expected| 0 < expected && expected < since)
    {
        let response = Response::empty(StatusCode::NO_CONTENT);
        return Some(match max_age {
            Some(seconds) => response.cached_for(seconds, now),
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

/// The URL of the request with `_expected` unquoted; `None` when it is not quoted.
fn url_with_plain_expected(request: &Request, settings: &Settings) -> Option<String> {
    let expected = request.parameter("_expected")?;
    expected.contains('"').then(|| {
        url_with(request, settings, |name, value| match name {
            "_expected" => Some(value.replace('"', "")),
            _ => Some(value),
        })
    })
}

/// The URL of the request on the host of the settings, with the parameters for which `keep` returns a value.
fn url_with(
    request: &Request,
    settings: &Settings,
    keep: impl Fn(&str, String) -> Option<String>,
) -> String {
    let host = &settings.changes.redirect_host;
    let origin = if host.is_empty() {
        // Relative, as all redirects are.
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
