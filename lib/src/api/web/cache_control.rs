//! The time for which clients and caches may keep a response.

use http::HeaderValue;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, EXPIRES, PRAGMA};
use serde_json::{Map, Value};

use crate::api::auth::principals::User;
use crate::api::web::request::Request;
use crate::api::web::response::{NEXT_PAGE, Response};
use crate::resource::{Kind, ListUri};
use crate::settings::{ApiSettings, CacheSettings, Expiry};
use crate::timestamp::Timestamp;

/// Says how long the response to a `GET` of `list`, or of an object in it, may be cached (Kinto 26.5): not at all,
/// unless the user is anonymous and the settings or the collection's own `cache_expires` allow it.
///
/// `collection` is the data of the records' collection.
pub fn apply_to_read(
    response: Response,
    list: &ListUri,
    collection: Option<&Map<String, Value>>,
    user: &User,
    settings: &CacheSettings,
) -> Response {
    let seconds = match list.parent() {
        _ if user.id.is_some() => None,
        Some(parent) if list.kind() == Kind::Record => {
            let set = settings.of_records(parent.bucket_id(), parent.id());
            let own = collection.and_then(|data| data.get("cache_expires")?.as_u64());
            let set = set.or_else(|| settings.of_all(Expiry::Default));
            set.max(own)
        }
        _ => settings
            .of_kind(list.kind())
            .or_else(|| settings.of_all(Expiry::Default))
            .filter(|seconds| *seconds > 0),
    };
    match seconds {
        Some(seconds) => response.cached_for(seconds, Timestamp::now()),
        None => response.uncached(),
    }
}

/// Says how long a changeset, or the list of monitor/changes, in the state of `timestamp` may be cached: not at all
/// unless it `is_shared`, which it is not for users, nor where anonymous users write.
///
/// As in kinto-changes 4.1: `record_cache_expires_seconds` of the collection, or with `_expected`, which gives every
/// state a URL of its own, `…maximum_expires_seconds`. As in its successor: `…minimum_expires_seconds` when `_expected`
/// is `0` or begins with `999`, which clients send that want no old response; and, when nothing is set for the
/// collection, the setting of its bucket or of all.
///
/// The maximum needs an `_expected` that is exactly this state (unlike the originals, which take any): the response to
/// one that is still to come, or is past, will soon be another.
///
/// `until` is when certificates of its signatures end: nobody may keep it longer.
pub fn apply_to_changes(
    response: Response,
    (bucket, collection): (&str, &str),
    request: &Request,
    timestamp: Timestamp,
    until: Option<Timestamp>,
    is_shared: bool,
    settings: &CacheSettings,
) -> Response {
    if !is_shared {
        return response.uncached();
    }
    let expected = request.parameter("_expected");
    let expiry = match expected.as_deref().map(Timestamp::from_query) {
        None => Expiry::Default,
        // 0 is also the time of what was never written.
        Some(Some(expected)) if expected == timestamp && expected.0 > 0 => Expiry::Maximum,
        Some(_) => Expiry::Minimum,
    };
    let seconds = settings.of_changes(bucket, collection, expiry);
    let now = Timestamp::now();
    let left = until.map_or(u64::MAX, |until| until.0.saturating_sub(now.0) / 1000);
    match seconds.map(|seconds| seconds.min(left)) {
        Some(seconds) => response.cached_for(seconds, now),
        None => response.uncached(),
    }
}

/// Returns `true` if a request has no credentials. They need not be valid: a cache cannot tell.
pub fn is_anonymous(request: &Request) -> bool {
    request.headers.get(AUTHORIZATION).is_none()
}

/// Completes what the response to a request tells caches, so that none has to guess:
///
/// - an error is not cached (a CDN may cache some for a while);
/// - a response to a request with credentials is never cached by a shared cache;
/// - a response that anonymous requests share is not for those with credentials, who may see more;
/// - a response that may be cached names every header that it depends on, however long its body is: a 304 shows none;
/// - a response that says nothing about it is not cached.
pub fn complete(request: &Request, settings: &ApiSettings, response: &mut Response) {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let lifetime = response.headers().get(CACHE_CONTROL);
    let lifetime = lifetime.and_then(|value| value.to_str().ok());
    let lifetime = match lifetime.map(str::to_owned) {
        Some(lifetime) if !is_error => lifetime,
        _ => {
            response.set(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response.remove(EXPIRES);
            response.remove(PRAGMA);
            return;
        }
    };
    if lifetime.contains("no-store") {
        return;
    }
    if !is_anonymous(request) {
        response.set_text(CACHE_CONTROL, &format!("private, {lifetime}"));
    }
    response.add_vary(AUTHORIZATION);
    response.add_vary(ACCEPT_ENCODING);
    if response.headers().contains_key(NEXT_PAGE) {
        vary_by_origin(response, settings);
    }
}

/// Makes a response with URLs of this server vary by the headers of the request that these depend on.
pub fn vary_by_origin(response: &mut Response, settings: &ApiSettings) {
    for header in Request::origin_headers(settings) {
        response.add_vary(header);
    }
}
