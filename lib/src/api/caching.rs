//! How long clients and caches may keep an answer.

use http::header::{AUTHORIZATION, CACHE_CONTROL, EXPIRES, PRAGMA};
use http::{HeaderValue, Method};
use serde_json::{Map, Value};

use super::auth::User;
use super::request::Request;
use super::response::Response;
use crate::resource::{Kind, ListUri};
use crate::settings::{CacheSettings, Expiry};
use crate::timestamp::Timestamp;

/// Says how long the answer to a `GET` of `list`, or of an object in it, may be kept (Kinto 26.5): by nobody, unless
/// the user is anonymous and the settings or the collection's own `cache_expires` say so.
///
/// `collection` is the data of the records' collection.
pub fn keep_read(
    response: Response,
    list: &ListUri,
    collection: Option<&Map<String, Value>>,
    user: &User,
    settings: &CacheSettings,
) -> Response {
    let seconds = match list.parent() {
        _ if user.id.is_some() => None,
        Some(parent) if list.kind() == Kind::Record => {
            let set = settings
                .of_collection(parent.bucket_id(), parent.id(), Expiry::Default)
                .or_else(|| settings.of_bucket(parent.bucket_id()));
            let own = collection.and_then(|data| data.get("cache_expires")?.as_u64());
            set.max(own)
        }
        _ => settings.of_kind(list.kind()).filter(|seconds| *seconds > 0),
    };
    match seconds {
        Some(seconds) => response.kept_for(seconds, Timestamp::now()),
        None => response.uncached(),
    }
}

/// Says how long a changeset, or the list of monitor/changes, may be kept that shows the state of `timestamp`: not at
/// all by users.
///
/// As kinto-changes 4.1: `record_cache_expires_seconds` of the collection, or with `_expected`, which makes a URL
/// of its own for every state, `…maximum_expires_seconds`. As its successor: `…minimum_expires_seconds` when
/// `_expected` is `0` or begins with `999`, which clients send that want no old answer; and, when nothing is set for
/// the collection, what is set for its bucket or for all.
///
/// The long time needs an `_expected` that is the very state (unlike the originals, which take any): the answer to one
/// that is still to come, or to one that is past, will be another soon.
pub fn keep_changes(
    response: Response,
    (bucket, collection): (&str, &str),
    request: &Request,
    timestamp: Timestamp,
    is_anonymous: bool,
    settings: &CacheSettings,
) -> Response {
    if !is_anonymous {
        return response.uncached();
    }
    let expected = request.parameter("_expected");
    let expiry = match expected.as_deref().map(Timestamp::from_query) {
        None => Expiry::Default,
        Some(Some(expected)) if expected == timestamp => Expiry::Maximum,
        Some(_) => Expiry::Minimum,
    };
    let seconds = settings
        .of_collection(bucket, collection, expiry)
        .or_else(|| settings.of_bucket(bucket).filter(|seconds| *seconds > 0));
    match seconds {
        Some(seconds) => response.kept_for(seconds, Timestamp::now()),
        None => response.uncached(),
    }
}

/// Whether a request shows no credentials. They need not be valid: a cache cannot tell.
pub fn is_anonymous(request: &Request) -> bool {
    request.headers.get(AUTHORIZATION).is_none()
}

/// Completes what the answer to a request tells caches, so that none has to guess:
///
/// - an error is not kept (CloudFront would keep some for 10 seconds, Varnish for 120);
/// - what a request with credentials may keep, a shared cache may not;
/// - what anonymous requests may share is not for those with credentials, who may see more;
/// - other reads that say nothing are not kept.
pub fn complete(request: &Request, response: &mut Response) {
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        response.set(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.remove(EXPIRES);
        response.remove(PRAGMA);
        return;
    }
    let lifetime = response.headers().get(CACHE_CONTROL);
    let lifetime = lifetime.and_then(|value| value.to_str().ok());
    match lifetime.map(str::to_owned) {
        Some(lifetime) if lifetime.starts_with("max-age=") && !lifetime.contains("no-store") => {
            if is_anonymous(request) {
                response.add_vary(AUTHORIZATION);
            } else {
                response.set_text(CACHE_CONTROL, &format!("private, {lifetime}"));
            }
        }
        Some(_) => {}
        None if request.is_read() || request.method == Method::OPTIONS => {
            response.set(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        None => {}
    }
}
