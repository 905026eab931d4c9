//! The response: status, headers, a body of JSON.

use std::borrow::Cow;

use aws_lambda_events::encodings::Body;
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, HeaderName, LAST_MODIFIED, LOCATION, PRAGMA, VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::timestamp::Timestamp;

/// The header that leads to the next page of a list.
pub const NEXT_PAGE: HeaderName = HeaderName::from_static("next-page");

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct Response {
    status: StatusCode,
    headers: HeaderMap,
    body: Body,
    /// Kinto's number of the error; 0 where there is none.
    errno: u16,
    /// The kind of a server error.
    failure: Option<&'static str>,
}

impl Response {
    /// A response without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Body::Empty,
            errno: 0,
            failure: None,
        }
    }

    /// A response with `body` as its JSON.
    pub fn json(status: StatusCode, body: &Value) -> Self {
        Self::json_text(status, body.to_string())
    }

    /// A response whose body is JSON already.
    pub fn json_text(status: StatusCode, body: String) -> Self {
        Self::with_body(status, "application/json", Body::Text(body))
    }

    /// A response with any body: text, which may be compressed when sent, or bytes, which are sent as they are.
    pub fn with_body(status: StatusCode, content_type: &'static str, body: Body) -> Self {
        let mut response = Self {
            body,
            ..Self::empty(status)
        };
        response.set(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }

    /// A 307 to `url`, which clients may cache for `max_age` seconds; `None` says nothing about caching.
    pub fn redirect(url: &str, now: Timestamp, max_age: Option<u64>) -> Self {
        let mut response = Self::empty(StatusCode::TEMPORARY_REDIRECT);
        response.set_text(LOCATION, url);
        match max_age {
            Some(seconds) => response.cached_for(seconds, now),
            None => response,
        }
    }

    /// Lets clients and caches keep it for this many seconds, or not at all for 0 (as `webob`, which Kinto answers
    /// with).
    pub fn cached_for(mut self, seconds: u64, now: Timestamp) -> Self {
        if seconds == 0 {
            self.set(
                CACHE_CONTROL,
                HeaderValue::from_static("max-age=0, must-revalidate, no-cache, no-store"),
            );
            self.set(PRAGMA, HeaderValue::from_static("no-cache"));
        } else {
            self.set_text(CACHE_CONTROL, &format!("max-age={seconds}"));
        }
        let expires = now.0.saturating_add(seconds.saturating_mul(1000));
        self.set_text(EXPIRES, &Timestamp(expires).http_date());
        self
    }

    /// Sets an entity tag that is no time.
    pub fn with_etag(mut self, etag: &str) -> Self {
        self.set_text(ETAG, etag);
        self
    }

    /// Sets `Last-Modified` only.
    pub fn last_modified(mut self, timestamp: Timestamp) -> Self {
        self.set_text(LAST_MODIFIED, &timestamp.http_date());
        self
    }

    /// Sets `ETag` and `Last-Modified` from `timestamp`.
    pub fn modified_at(mut self, timestamp: Timestamp) -> Self {
        self.set_text(ETAG, &timestamp.etag());
        self.set_text(LAST_MODIFIED, &timestamp.http_date());
        self
    }

    /// Forbids clients and caches to reuse it without asking again.
    pub fn uncached(mut self) -> Self {
        self.set(
            CACHE_CONTROL,
            HeaderValue::from_static("no-cache, no-store"),
        );
        self
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The response to an error, with its number and, for a server error, its kind. They are for the log: clients have them
    /// in the body.
    pub fn for_error(mut self, errno: u16, failure: Option<&'static str>) -> Self {
        (self.errno, self.failure) = (errno, failure);
        self
    }

    /// Kinto's number of its error; 0 where there is none.
    pub fn errno(&self) -> u16 {
        self.errno
    }

    /// The kind of a server error.
    pub fn failure(&self) -> Option<&'static str> {
        self.failure
    }

    /// Its headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Its body as JSON; an empty string when there is none, a string when it is not JSON.
    pub fn body_json(&self) -> Cow<'_, str> {
        let text = String::from_utf8_lossy(&self.body);
        match serde_json::from_str::<IgnoredAny>(&text) {
            Ok(_) => text,
            Err(_) => Cow::Owned(Value::from(&*text).to_string()),
        }
    }

    /// The length of the body in bytes, uncompressed.
    pub fn length(&self) -> usize {
        self.body.len()
    }

    /// Sets a header.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    /// Removes a header.
    pub fn remove(&mut self, name: HeaderName) {
        self.headers.remove(name);
    }

    /// Sets a header to a text; does nothing when a header cannot hold that text.
    pub fn set_text(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.set(name, value);
        }
    }

    /// Says that the response depends on this header of the request.
    pub fn add_vary(&mut self, header: HeaderName) {
        // One value: of several, the event's JSON would keep the first alone.
        let before = self.headers.get(VARY).and_then(|vary| vary.to_str().ok());
        let vary = match before {
            Some(before) if before.split(", ").any(|name| header == *name) => return,
            Some(before) => format!("{before}, {header}"),
            None => header.to_string(),
        };
        self.set_text(VARY, &vary);
    }

    /// Its status, headers and body.
    pub fn into_parts(self) -> (StatusCode, HeaderMap, Body) {
        (self.status, self.headers, self.body)
    }
}
