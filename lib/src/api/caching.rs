//! How long clients and caches may keep an answer.

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

/// Says how long a changeset, or the list of monitor/changes, may be kept.
///
/// As kinto-changes 4.1: `record_cache_expires_seconds` of the collection, or with `_expected`, which makes a URL
/// of its own for every state, `…maximum_expires_seconds`. As its successor: `…minimum_expires_seconds` when
/// `_expected` is `0` or begins with `999`, which clients send who want no old answer; and, when nothing is set for
/// the collection, what is set for its bucket or for all. These two are, as elsewhere, for anonymous users alone.
pub fn keep_changes(
    response: Response,
    (bucket, collection): (&str, &str),
    request: &Request,
    is_anonymous: bool,
    settings: &CacheSettings,
) -> Response {
    let expected = request.parameter("_expected");
    let expiry = match expected.as_deref().map(|value| value.trim_matches('"')) {
        None => Expiry::Default,
        Some(value) if value == "0" || value.starts_with("999") => Expiry::Minimum,
        Some(_) => Expiry::Maximum,
    };
    let seconds = settings
        .of_collection(bucket, collection, expiry)
        .or_else(|| {
            let shared = settings.of_bucket(bucket);
            shared.filter(|seconds| *seconds > 0 && is_anonymous)
        });
    match seconds {
        Some(seconds) => response.kept_for(seconds, Timestamp::now()),
        None => response,
    }
}
