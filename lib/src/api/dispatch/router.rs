//! Routing: method and path in, a row of the table of endpoints out.

use crate::api::auth::authorization::{MONITOR, RESERVED};
use crate::api::dispatch::endpoint::{Endpoint, READ, ServedEndpoint};
use crate::api::dispatch::target::Target;
use crate::api::web::error::ApiError;
use crate::api::web::request::{PREFIX, Request};
use crate::settings::{ApiSettings, Redirects};

/// The destination of a request.
#[derive(Debug)]
pub enum Routed {
    /// An endpoint that takes its method.
    To(&'static Endpoint, Target),
    /// Another path.
    Elsewhere(Redirect),
}

/// A path to ask for instead.
#[derive(Debug)]
pub struct Redirect {
    /// The path, with the version of this API.
    pub path: String,
    /// The seconds for which clients may cache the redirect; `None` says nothing about caching.
    pub max_age: Option<u64>,
}

/// The endpoint of a path with its version, whatever the method.
pub fn endpoint<'e>(path: &str, endpoints: &'e [ServedEndpoint]) -> Option<&'e ServedEndpoint> {
    Some(ServedEndpoint::find(path.strip_prefix(PREFIX)?, endpoints)?.0)
}

/// Finds the endpoint of a request among those that are served.
///
/// # Errors
/// 404 for an unknown path or version, 405 for a method that the endpoint does not take, 403 for a write to
/// the bucket `monitor` ([`RESERVED`]).
pub fn route(
    request: &Request,
    settings: &ApiSettings,
    endpoints: &[ServedEndpoint],
) -> Result<Routed, ApiError> {
    if settings.readonly && !READ.contains(&request.method) {
        let allow = READ.to_vec();
        return Err(ApiError::MethodNotAllowed { allow });
    }
    if let Some(redirect) = redirect(request, settings) {
        return Ok(Routed::Elsewhere(redirect));
    }
    let path = match request.path.strip_prefix(PREFIX) {
        Some("") => return Err(ApiError::UnknownPath),
        Some(path) if path.starts_with('/') => path,
        _ => return Err(ApiError::UnknownVersion),
    };
    let (served, ids) = ServedEndpoint::find(path, endpoints).ok_or(ApiError::UnknownPath)?;
    if !served.methods.contains(&request.method) {
        let allow = served.methods.clone();
        return Err(ApiError::MethodNotAllowed { allow });
    }
    let target = served.endpoint.target(&ids);
    if target.bucket_id() == Some(MONITOR) && !READ.contains(&request.method) {
        return Err(RESERVED);
    }
    Ok(Routed::To(served.endpoint, target))
}

/// The path that a request's path without a version, or with a slash at its end, stands for, as far as the settings
/// redirect those.
pub fn redirect(request: &Request, settings: &ApiSettings) -> Option<Redirect> {
    let to = |path: &str, redirects: Redirects| {
        redirects.enabled.then(|| Redirect {
            path: format!("{PREFIX}{path}"),
            max_age: redirects.ttl_seconds,
        })
    };
    let slashes = settings.web.trailing_slash_redirect;
    match request.path.strip_prefix(PREFIX) {
        Some("") => to("/", slashes),
        Some(path) if path.starts_with('/') => match path.trim_end_matches('/') {
            without if path.len() > 1 && without.len() < path.len() => to(without, slashes),
            _ => None,
        },
        _ if names_a_version(&request.path) => None,
        _ => to(&request.path, settings.web.version_prefix_redirect),
    }
}

/// Returns `true` if the path begins with the version of this API.
pub fn has_version(path: &str) -> bool {
    let rest = path.strip_prefix(PREFIX);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns `true` if the path begins with a version prefix: `/v` and digits.
fn names_a_version(path: &str) -> bool {
    let first = path.split('/').nth(1).unwrap_or_default();
    first
        .strip_prefix('v')
        .is_some_and(|version| !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_from_paths_without_one() {
        assert!(names_a_version("/v0/buckets"));
        assert!(names_a_version("/v12"));
        assert!(!names_a_version("/buckets/v1"));
        assert!(!names_a_version("/version"));
        assert!(!names_a_version("/v"));
    }
}
