//! The response, and how it goes back through API Gateway.

use std::borrow::Cow;

use aws_lambda_events::apigw::ApiGatewayV2httpResponse;
use aws_lambda_events::encodings::Body;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, EXPIRES, HeaderName,
    LAST_MODIFIED, LOCATION, PRAGMA, VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::de::IgnoredAny;
use serde_json::Value;

use super::compression;
use super::error::ApiError;
use crate::timestamp::Timestamp;

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct Response {
    status: StatusCode,
    headers: HeaderMap,
    body: Body,
}

impl Response {
    /// A response without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Body::Empty,
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

    /// A response with any body: a text, which may be compressed on its way, or bytes that are sent as they are.
    pub fn with_body(status: StatusCode, content_type: &'static str, body: Body) -> Self {
        let mut response = Self {
            body,
            ..Self::empty(status)
        };
        response.set(CONTENT_TYPE, HeaderValue::from_static(content_type));
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

    /// Its body as JSON; an empty text when there is none, a text when it is no JSON.
    pub fn body_json(&self) -> Cow<'_, str> {
        let text = String::from_utf8_lossy(&self.body);
        match serde_json::from_str::<IgnoredAny>(&text) {
            Ok(_) => text,
            Err(_) => Cow::Owned(Value::from(&*text).to_string()),
        }
    }

    /// How long the body is, in bytes, as it is.
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

    /// Sets a header to a text; leaves it out when a header cannot hold that text.
    pub fn set_text(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.set(name, value);
        }
    }

    /// Says that the response would be another one with another value of this header of the request.
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

    /// As API Gateway wants it, compressed where that is worth it and the client accepts it. The answer to `HEAD`
    /// has the headers alone.
    ///
    /// A body that Lambda could not send becomes a 413 that says so, rather than a failure of the function. Endpoints that
    /// have pages never let it come to that: [`compression::MAX_BODY`] is what each may answer.
    pub fn into_event(mut self, head: bool, accept_encoding: &str) -> ApiGatewayV2httpResponse {
        let mut body = match std::mem::take(&mut self.body) {
            _ if head => None,
            Body::Text(text) if !text.is_empty() => Some(self.encode(text, accept_encoding)),
            Body::Binary(bytes) if !bytes.is_empty() => Some(Body::Binary(bytes)),
            _ => None,
        };
        if !body.as_ref().is_none_or(compression::fits) {
            tracing::warn!(status = %self.status, "a response larger than Lambda can send");
            body = Some(self.refuse());
        }
        let mut event = ApiGatewayV2httpResponse::default();
        event.status_code = self.status.as_u16().into();
        event.is_base64_encoded = matches!(body, Some(Body::Binary(_)));
        event.body = body;
        event.headers = self.headers;
        event
    }

    /// The body in the form in which it travels, with the headers that say so.
    fn encode(&mut self, text: String, accept_encoding: &str) -> Body {
        if !compression::is_negotiated(text.len()) {
            return Body::Text(text);
        }
        self.add_vary(ACCEPT_ENCODING);
        let accepts_gzip = compression::accepts_gzip(accept_encoding);
        match accepts_gzip.then(|| compression::gzip(&text)).flatten() {
            Some(bytes) => {
                self.set(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                Body::Binary(bytes)
            }
            None => compression::plain(text),
        }
    }

    /// Turns the response into the refusal of one that is too large; its body is returned.
    fn refuse(&mut self) -> Body {
        let refusal = ApiError::ResponseTooLarge;
        self.status = refusal.status();
        for header in [CONTENT_ENCODING, ETAG, EXPIRES, LAST_MODIFIED] {
            self.headers.remove(header);
        }
        self.set(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Body::Text(refusal.body().to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_response_that_lambda_could_not_send_becomes_a_refusal_that_says_so() {
        let body = json!({"data": "x".repeat(compression::MAX_BODY * 2)});
        let large = Response::json(StatusCode::OK, &body).modified_at(Timestamp(1));
        let compressed = large.clone().into_event(false, "gzip");
        assert_eq!(
            (compressed.status_code, compressed.is_base64_encoded),
            (200, true)
        );
        let failed = large.clone().into_event(false, "");
        assert_eq!((failed.status_code, failed.headers.get(ETAG)), (413, None));
        assert!(matches!(failed.body, Some(Body::Text(text)) if text.contains("\"errno\":113")));
        assert_eq!(large.into_event(true, "").status_code, 200);
    }
}
