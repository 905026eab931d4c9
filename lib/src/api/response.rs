//! The response, and how it goes back through API Gateway.

use aws_lambda_events::apigw::ApiGatewayV2httpResponse;
use aws_lambda_events::encodings::Body;
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, HeaderName, LAST_MODIFIED, LOCATION,
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
        let mut response = Self {
            body: body.to_string(),
            ..Self::empty(status)
        };
        response.set(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    /// A 307 to `url`, which clients may keep for `max_age` seconds; `None` says nothing of keeping.
    pub fn redirect(url: &str, now: Timestamp, max_age: Option<u64>) -> Self {
        let mut response = Self::empty(StatusCode::TEMPORARY_REDIRECT);
        response.set_text(LOCATION, url);
        if let Some(seconds) = max_age {
            response.set_text(CACHE_CONTROL, &format!("max-age={seconds}"));
            response.set_text(EXPIRES, &Timestamp(now.0 + seconds * 1000).http_date());
        }
        response
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
