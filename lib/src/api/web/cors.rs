//! CORS: headers for requests from other origins (Kinto 26.5, observed for every endpoint and method).

use std::collections::BTreeSet;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderValue, Method, StatusCode};
use serde_json::Value;

use crate::api::web::error::{ApiError, Detail, Location};
use crate::api::web::request::Request;
use crate::api::web::response::Response;
use crate::settings::{ApiSettings, WebSettings};
use crate::wildcard;

/// Headers that scripts may read in every response.
const EXPOSED: [&str; 5] = [
    "Alert",
    "Backoff",
    "Content-Length",
    "Content-Type",
    "Retry-After",
];
/// Those that they may also read where an object or a list is read.
const EXPOSED_ON_READ: [&str; 5] = [
    "Cache-Control",
    "ETag",
    "Expires",
    "Last-Modified",
    "Pragma",
];
/// The one that they may also read where a list is read.
const EXPOSED_ON_LIST: &str = "Next-Page";
/// Those that they may also read where a list is counted.
const EXPOSED_ON_COUNT: [&str; 2] = ["Total-Objects", "Total-Records"];

/// The headers of an endpoint's responses that scripts of other origins may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposes {
    /// Those that every response has.
    Basic,
    /// Those of an object too.
    Object,
    /// Those of pages of a list too, for `HEAD` as for `GET`: monitor/changes and the permissions.
    Page,
    /// Those of pages too, and of a `HEAD` that counts.
    List,
}

/// Checks that the settings allow the request's origin.
///
/// # Errors
/// 400 when they do not. Clients other than browsers send no `Origin` and pass. Where the settings name no origin,
/// browsers get no CORS headers, and so keep their scripts out.
pub fn check_origin(request: &Request, settings: &WebSettings) -> Result<(), ApiError> {
    match origin(request) {
        Some(origin) if !settings.cors_origins.is_empty() && !is_let_in(&origin, settings) => Err(
            ApiError::invalid(Location::Header, "Origin", format!("{origin} not allowed")),
        ),
        _ => Ok(()),
    }
}

/// The response to a preflight: a browser asks whether it may send a request from another origin.
///
/// # Errors
/// 400 without the headers of a preflight, and for a method that the endpoint does not take; 405 where the settings
/// name no origin.
pub fn preflight(
    request: &Request,
    exposes: Exposes,
    methods: &[Method],
    settings: &ApiSettings,
) -> Result<Response, ApiError> {
    const METHOD: &str = "Access-Control-Request-Method";
    if settings.web.cors_origins.is_empty() {
        let asked_for = |method: &&Method| **method != Method::OPTIONS;
        let allow = methods.iter().filter(asked_for).cloned().collect();
        return Err(ApiError::MethodNotAllowed { allow });
    }
    let mut wrong = vec![];
    if origin(request).is_none() {
        wrong.push(Detail::new(Location::Header, "Origin", "Required"));
    }
    match request.header(ACCESS_CONTROL_REQUEST_METHOD) {
        None | Some("") => wrong.push(Detail::new(Location::Header, METHOD, "Required")),
        Some(wanted) if !methods.iter().any(|method| method == wanted) => {
            wrong.push(Detail::new(Location::Header, METHOD, "Method not allowed"));
        }
        Some(_) => {}
    }
    if !wrong.is_empty() {
        return Err(ApiError::Invalid(wrong));
    }
    let exposed: BTreeSet<&str> = methods
        .iter()
        .flat_map(|method| exposed(exposes, method))
        .collect();
    let wanted = request
        .header(ACCESS_CONTROL_REQUEST_HEADERS)
        .unwrap_or_default();
    let wanted = wanted.split(',').map(str::trim).filter(|h| !h.is_empty());
    let allowed: BTreeSet<&str> = exposed.into_iter().chain(wanted).collect();
    let join = |words: Vec<&str>| words.join(",");
    let mut response = Response::json(StatusCode::OK, &Value::Null);
    response.set_text(
        ACCESS_CONTROL_ALLOW_HEADERS,
        &join(allowed.into_iter().collect()),
    );
    response.set_text(
        ACCESS_CONTROL_ALLOW_METHODS,
        &join(methods.iter().map(Method::as_str).collect()),
    );
    if let Some(seconds) = settings.web.cors_max_age_seconds {
        response.set(ACCESS_CONTROL_MAX_AGE, seconds.into());
    }
    Ok(response)
}

/// Adds what a browser must find in the response itself. `exposes` says which headers; `None`: none, as in a preflight and
/// a 405 (Kinto 26.5).
///
/// Where every origin is allowed, `Access-Control-Allow-Origin` is sent without an `Origin` too (unlike in Kinto): a
/// cache that was first asked by another client would lock browsers out.
pub fn apply(
    request: &Request,
    exposes: Option<Exposes>,
    settings: &ApiSettings,
    response: &mut Response,
) {
    let web = &settings.web;
    let everyone = web.cors_origins.iter().any(|allowed| allowed == "*");
    if !everyone {
        // Else a cache would give one origin a response that names another.
        response.add_vary(ORIGIN);
    }
    if everyone {
        response.set(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    } else if let Some(origin) = origin(request).filter(|origin| is_let_in(origin, web)) {
        response.set_text(ACCESS_CONTROL_ALLOW_ORIGIN, &origin);
    }
    if let Some(exposes) = exposes {
        let headers = exposed(exposes, &request.method).join(", ");
        response.set_text(ACCESS_CONTROL_EXPOSE_HEADERS, &headers);
    }
}

fn exposed(exposes: Exposes, method: &Method) -> Vec<&'static str> {
    let mut exposed = EXPOSED.to_vec();
    let reads = method == Method::GET || method == Method::HEAD;
    if reads && exposes != Exposes::Basic {
        exposed.extend(EXPOSED_ON_READ);
    }
    if reads && matches!(exposes, Exposes::Page | Exposes::List) {
        exposed.push(EXPOSED_ON_LIST);
    }
    if method == Method::HEAD && exposes == Exposes::List {
        exposed.extend(EXPOSED_ON_COUNT);
    }
    exposed
}

/// The request's origin; one that is not text cannot be an allowed one.
fn origin(request: &Request) -> Option<String> {
    let value = request.headers.get(ORIGIN)?;
    (!value.is_empty()).then(|| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn is_let_in(origin: &str, settings: &WebSettings) -> bool {
    let patterns = &settings.cors_origins;
    patterns
        .iter()
        .any(|pattern| wildcard::matches(origin, pattern))
}
