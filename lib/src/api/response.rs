//! The response, and how it goes back through API Gateway.

use aws_lambda_events::apigw::ApiGatewayV2httpResponse;
use aws_lambda_events::encodings::Body;
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, HeaderName, LAST_MODIFIED, LOCATION, PRAGMA,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;

use crate::timestamp::Timestamp;

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct Response {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Response {
    /// A response without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: String::new(),
        }
    }

    /// A response with `body` as its JSON.
    pub fn json(status: StatusCode, body: &Value) -> Self {
        Self::json_text(status, body.to_string())
    }

    /// A response whose body is JSON already.
    pub fn json_text(status: StatusCode, body: String) -> Self {
        let mut response = Self {
            body,
            ..Self::empty(status)
        };
        response.set(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    /// A 307 to `url`, which clients may keep for `max_age` seconds; `None` says nothing of keeping.
    pub fn redirect(url: &str, now: Timestamp, max_age: Option<u64>) -> Self {
        let mut response = Self::empty(StatusCode::TEMPORARY_REDIRECT);
        response.set_text(LOCATION, url);
        match max_age {
            Some(seconds) => response.kept_for(seconds, now),
            None => response,
        }
    }

    /// To be kept by clients and caches for so many seconds; for 0 by none (as `webob`, which Kinto answers with).
    pub fn kept_for(mut self, seconds: u64, now: Timestamp) -> Self {
        if seconds == 0 {
            self.set(
                CACHE_CONTROL,
                HeaderValue::from_static(
                    "max-age=0, must-revalidate, no-cache, no-store, post-check=0, pre-check=0",
                ),
            );
            self.set(PRAGMA, HeaderValue::from_static("no-cache"));
        } else {
            self.set_text(CACHE_CONTROL, &format!("max-age={seconds}"));
        }
        let expires = now.0.saturating_add(seconds.saturating_mul(1000));
        self.set_text(EXPIRES, &Timestamp(expires).http_date());
        self
    }

    /// With an entity tag that is no time.
    pub fn tagged(mut self, etag: &str) -> Self {
        self.set_text(ETAG, etag);
        self
    }

    /// With `Last-Modified` alone.
    pub fn last_modified(mut self, timestamp: Timestamp) -> Self {
        self.set_text(LAST_MODIFIED, &timestamp.http_date());
        self
    }

    /// With `ETag` and `Last-Modified` of `timestamp`.
    pub fn modified_at(mut self, timestamp: Timestamp) -> Self {
        self.set_text(ETAG, &timestamp.etag());
        self.set_text(LAST_MODIFIED, &timestamp.http_date());
        self
    }

    /// Not to be kept by clients and caches without asking again.
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

    /// Its headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Its body as JSON; an empty text when there is none.
    pub fn body_json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| self.body.clone().into())
    }

    /// Sets a header.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    /// Sets a header to a text; leaves it out when a header cannot hold that text.
    pub fn set_text(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.set(name, value);
        }
    }

    /// As API Gateway wants it. The answer to `HEAD` has the headers alone.
    pub fn into_event(self, head: bool) -> ApiGatewayV2httpResponse {
        let mut event = ApiGatewayV2httpResponse::default();
        event.status_code = self.status.as_u16().into();
        event.headers = self.headers;
        event.body = (!head && !self.body.is_empty()).then_some(Body::Text(self.body));
        event
    }
}
