//! `Content-Type` and `Accept`: 415 and 406.

use http::header::{ACCEPT, CONTENT_TYPE};

use super::accept;
use super::error::ApiError;
use super::request::Request;

/// JSON.
pub const JSON: &str = "application/json";
/// A JSON merge patch (RFC 7396).
pub const MERGE_PATCH: &str = "application/merge-patch+json";
/// A JSON patch (RFC 6902).
pub const JSON_PATCH: &str = "application/json-patch+json";

/// Checks the headers that name the type of the body sent and the types wanted.
///
/// # Errors
/// 415 when the body is of another type, 406 when the client does not accept JSON.
pub fn check(request: &Request) -> Result<(), ApiError> {
    let accepted: &[&str] = match request.method {
        http::Method::PATCH => &[JSON, MERGE_PATCH, JSON_PATCH],
        http::Method::PUT | http::Method::POST => &[JSON],
        _ => &[],
    };
    if request
        .header(ACCEPT)
        .is_some_and(|wanted| !accepts_json(wanted))
    {
        return Err(ApiError::NotAcceptable);
    }
    match content_type(request).filter(|_| !accepted.is_empty()) {
        Some(sent) if !accepted.contains(&sent.as_str()) => {
            Err(ApiError::UnsupportedMediaType { accepted })
        }
        _ => Ok(()),
    }
}

/// The media type of a request's body, in lower case, without parameters; `None` when it gives none.
pub fn content_type(request: &Request) -> Option<String> {
    let header = request.header(CONTENT_TYPE)?;
    let sent = header
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    (!sent.is_empty()).then_some(sent)
}

/// Returns `true` if JSON is among the media types of an `Accept` header; of several that match, the most specific
/// counts. An unreadable header rules nothing out (Kinto 26.5).
fn accepts_json(wanted: &str) -> bool {
    let mut best = None;
    let mut is_empty = true;
    for range in accept::elements(wanted) {
        is_empty = false;
        let media_range = range.name.to_ascii_lowercase();
        let is_readable = media_range
            .split_once('/')
            .is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype));
        if !is_readable || range.weight == Some("") {
            return true;
        }
        let specificity = match &*media_range {
            JSON => 3,
            "application/*" => 2,
            "*/*" => 1,
            _ => continue,
        };
        best = best.max(Some((specificity, !range.is_refused())));
    }
    is_empty || best.is_some_and(|(_, accepted)| accepted)
}

/// Returns `true` if a text is a token of HTTP (RFC 9110, 5.6.2).
fn is_token(text: &str) -> bool {
    let is_special = |b: u8| b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || is_special(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_accepted_unless_ruled_out() {
        for accept in [
            "*/*",
            "APPLICATION/Json",
            "Application/*",
            "application/json;q=0.5, */*;q=0",
            "*",
            "json",
            "application/json/x",
            "text/html;q=",
            "",
            ", ,",
            "application/json",
            "text/html, application/*;q=0.8",
            "application/json; charset=utf-8",
        ] {
            assert!(accepts_json(accept), "{accept}");
        }
        for accept in [
            "text/html",
            "application/json;q=0",
            "application/json;Q=0.0",
            "*/*;q=0.5, application/json;q=0",
            "application/*;q=0, */*",
            "*/json",
            "application/vnd.api+json",
        ] {
            assert!(!accepts_json(accept), "{accept}");
        }
    }
}
