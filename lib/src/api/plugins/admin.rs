//! `kinto.plugins.admin`: Kinto Admin, a web page with its scripts, below `/v1/admin/` (Kinto 25.0).
//!
//! The build is made for exactly this path, with its slash, which therefore is not redirected as others are. Everyone
//! may load it: its users log in through the API.

use std::path::Path;
use std::time::UNIX_EPOCH;

use aws_lambda_events::encodings::Body;
use http::header::{CONTENT_SECURITY_POLICY, IF_MODIFIED_SINCE};
use http::{HeaderValue, Method, StatusCode};
use reqwest::Url;
use serde_json::json;

use crate::api::plugins::Plugin;
use crate::api::web::error::ApiError;
use crate::api::web::request::{PREFIX, Request};
use crate::api::web::response::Response;
use crate::settings::{AdminAssets, ApiSettings, UrlPattern};
use crate::timestamp::Timestamp;

/// The plugin. Its files are no endpoints: [`answer`] is called before the router.
pub static PLUGIN: Plugin = Plugin {
    capability: "admin",
    is_on: |settings| settings.admin.is_some(),
    describe: |api| {
        let admin = api.settings.api.admin.as_ref();
        let description = admin.map(|admin| {
            json!({
                "description": "Serves Kinto Admin, under admin/.",
                "url": "https://github.com/Kinto/kinto-admin/",
                "version": admin.version(),
            })
        });
        Box::pin(async { description })
    },
    endpoints: &[],
    on_write: None,
};

/// The `Content-Security-Policy` of the page.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; img-src data: *; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'",
);
/// The seconds for which what the page loads may be cached. The names of scripts and styles change with their content.
const MAX_AGE: u64 = 3600;

/// The route of all its files.
pub const ROUTE: &str = "/admin/";

/// Returns `true` if the request is for a file of Kinto Admin.
pub fn serves(request: &Request, settings: &ApiSettings) -> bool {
    let path = request.path.strip_prefix(PREFIX);
    settings.admin.is_some() && path.is_some_and(|path| path.starts_with(ROUTE))
}

/// The response to a request for a file of Kinto Admin; `None` for any other request, and when the plugin is off.
///
/// # Errors
/// 404 for a file that is not in the build, 405 for methods that do not read.
pub fn answer(request: &Request, settings: &ApiSettings) -> Option<Result<Response, ApiError>> {
    let assets = settings.admin.as_ref()?;
    let path = request.path.strip_prefix(PREFIX)?.strip_prefix("/admin")?;
    // `/v1/adminother` is something else.
    let file = match path {
        "" => None,
        path => Some(path.strip_prefix('/')?),
    };
    // Any other trailing slash is one too many: the router redirects it.
    if file.is_some_and(|file| file.ends_with('/')) {
        return None;
    }
    if !request.is_read() {
        let allow = vec![Method::GET, Method::HEAD];
        return Some(Err(ApiError::MethodNotAllowed { allow }));
    }
    let now = Timestamp::now();
    Some(match file {
        None => {
            let url = request.url_of(&format!("{PREFIX}/admin/"));
            Ok(Response::redirect(&url, now, None))
        }
        Some("") => home(assets),
        Some(file) => asset(assets, file, request, now),
    })
}

/// Returns `true` if `callback` is a page of the Kinto Admin that this server serves: tokens may be sent there, unless
/// the settings name other places.
pub fn is_callback(callback: &Url, request: &Request, settings: &ApiSettings) -> bool {
    settings.admin.is_some()
        && UrlPattern::parse(&format!(
            "{}{PREFIX}/admin/*",
            request.trusted_origin(settings)
        ))
        .is_some_and(|pages| pages.matches(callback))
}

fn home(assets: &AdminAssets) -> Result<Response, ApiError> {
    let path = assets.file("index.html").ok_or(ApiError::UnknownPath)?;
    let (content_type, body) = content(path)?;
    let mut response = Response::with_body(StatusCode::OK, content_type, body);
    response.set(CONTENT_SECURITY_POLICY, POLICY);
    Ok(response)
}

fn asset(
    assets: &AdminAssets,
    file: &str,
    request: &Request,
    now: Timestamp,
) -> Result<Response, ApiError> {
    let path = assets.file(file).ok_or(ApiError::UnknownPath)?;
    let modified = modified(path);
    let since = request
        .header(IF_MODIFIED_SINCE)
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .and_then(|date| date.duration_since(UNIX_EPOCH).ok());
    let is_known = matches!((modified, since), (Some(modified), Some(since)) if modified.0 / 1000 <= since.as_secs());
    let response = if is_known {
        Response::empty(StatusCode::NOT_MODIFIED)
    } else {
        let (content_type, body) = content(path)?;
        Response::with_body(StatusCode::OK, content_type, body)
    };
    let response = response.cached_for(MAX_AGE, now);
    Ok(match modified {
        Some(modified) => response.last_modified(modified),
        None => response,
    })
}

fn modified(path: &Path) -> Option<Timestamp> {
    let modified = std::fs::metadata(path).ok()?.modified().ok()?;
    let modified = modified.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp(modified.as_secs() * 1000))
}

/// The media type and content of a file, as a string if it is text: that is sent compressed.
fn content(path: &Path) -> Result<(&'static str, Body), ApiError> {
    let bytes = std::fs::read(path).map_err(|error| {
        tracing::error!(%error, path = %path.display(), "a file of Kinto Admin cannot be read");
        ApiError::UnknownPath
    })?;
    let content_type = content_type(path);
    let is_text = content_type.starts_with("text/")
        || matches!(content_type, "application/json" | "image/svg+xml");
    let body = match is_text {
        true => String::from_utf8(bytes)
            .map_or_else(|error| Body::Binary(error.into_bytes()), Body::Text),
        false => Body::Binary(bytes),
    };
    Ok((content_type, body))
}

/// The media type by the file's name, of what builds of web pages contain.
fn content_type(path: &Path) -> &'static str {
    let extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default();
    match extension {
        "html" => "text/html; charset=UTF-8",
        "js" | "mjs" => "text/javascript; charset=UTF-8",
        "css" => "text/css; charset=UTF-8",
        "txt" => "text/plain; charset=UTF-8",
        "json" | "map" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "ico" => "image/vnd.microsoft.icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        _ => "application/octet-stream",
    }
}
