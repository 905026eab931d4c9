//! The request, as it came through API Gateway.

use aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use http::header::{HOST, HeaderMap, HeaderName};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::error::ApiError;
use crate::settings::ApiSettings;
use crate::timestamp::Timestamp;

/// What a path is not to have in a URL but encoded.
const NOT_IN_PATHS: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'`')
    .add(b'{')
    .add(b'}');

/// An HTTP request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Its path, decoded, beginning with `/`.
    pub path: String,
    /// Its query string as it came, without `?`.
    pub query_string: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, empty when there was none.
    pub body: Vec<u8>,
}

impl Request {
    /// Takes a request out of API Gateway's event (payload format 2.0).
    ///
    /// # Errors
    /// 400 when the body says that it is base64 and is not.
    pub fn from_event(event: ApiGatewayV2httpRequest) -> Result<Self, ApiError> {
        let body = event.body.unwrap_or_default();
        let body = if event.is_base64_encoded {
            BASE64_STANDARD
                .decode(body)
                .map_err(|_| ApiError::invalid("body", "", "The body is not valid base64"))?
        } else {
            body.into_bytes()
        };
        Ok(Self {
            method: event.request_context.http.method,
            path: event
                .raw_path
                .filter(|path| path.starts_with('/'))
                .unwrap_or_else(|| "/".to_owned()),
            query_string: event.raw_query_string.unwrap_or_default(),
            headers: event.headers,
            body,
        })
    }

    /// Whether its method only reads.
    pub fn is_read(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }

    /// The value of a header; `None` when it is absent or not text.
    pub fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Checks that path and query string are UTF-8. What is not in a path API Gateway has replaced already.
    ///
    /// # Errors
    /// 400.
    pub fn check_encoding(&self) -> Result<(), ApiError> {
        let wrong = |location| Err(ApiError::invalid_unnamed(location, "Must be UTF-8"));
        if self.path.contains(char::REPLACEMENT_CHARACTER) {
            return wrong("path");
        }
        match percent_decode_str(&self.query_string).decode_utf8() {
            Ok(_) => Ok(()),
            Err(_) => wrong("querystring"),
        }
    }

    /// The parameters of the query string, decoded, in their order.
    pub fn query(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.query_string
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                let decode = |text: &str| {
                    percent_decode_str(&text.replace('+', " "))
                        .decode_utf8_lossy()
                        .into_owned()
                };
                (decode(name), decode(value))
            })
    }

    /// The last value of a parameter of the query string.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.query()
            .filter(|(key, _)| key == name)
            .last()
            .map(|(_, value)| value)
    }

    /// `scheme://host` for absolute URLs: what the settings say, else what the client used.
    pub fn origin(&self, settings: &ApiSettings) -> String {
        let scheme = settings
            .http_scheme
            .as_deref()
            .or(self.header("x-forwarded-proto"))
            .unwrap_or("http");
        let host = settings
            .http_host
            .as_deref()
            .or(self.header(HOST))
            .unwrap_or("localhost");
        format!("{scheme}://{host}")
    }

    /// The absolute URL of another path, decoded, with the query string of this request.
    pub fn url_of(&self, path: &str, settings: &ApiSettings) -> String {
        let path = utf8_percent_encode(path, NOT_IN_PATHS);
        format!("{}{path}{}", self.origin(settings), self.query_suffix())
    }

    /// The query string with its `?`, empty when there is none.
    pub fn query_suffix(&self) -> String {
        if self.query_string.is_empty() {
            String::new()
        } else {
            format!("?{}", self.query_string)
        }
    }

    /// `If-Match` and `If-None-Match`.
    ///
    /// # Errors
    /// 400 when one is neither `*` nor a whole number between double quotes.
    pub fn preconditions(&self) -> Result<Preconditions, ApiError> {
        let read = |name: &'static str, header: HeaderName| match self.headers.get(&header) {
            None => Ok(None),
            Some(value) => match value.to_str().map(str::trim) {
                Ok("*") => Ok(Some(Tag::Any)),
                Ok(text) if is_etag(text) => {
                    // What is larger than any time is none's.
                    let time = Timestamp::from_etag(text).unwrap_or(Timestamp(u64::MAX));
                    Ok(Some(Tag::Exactly(time)))
                }
                _ => Err(ApiError::invalid(
                    "header",
                    name,
                    "Must be `*`, or digits between double quotes",
                )),
            },
        };
        Ok(Preconditions {
            if_match: read("If-Match", http::header::IF_MATCH)?,
            if_none_match: read("If-None-Match", http::header::IF_NONE_MATCH)?,
        })
    }
}

/// Whether a text is a number between double quotes, however large.
fn is_etag(text: &str) -> bool {
    let digits = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// What a precondition header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// `*`: whatever exists.
    Any,
    /// One entity tag.
    Exactly(Timestamp),
}

/// `If-Match` and `If-None-Match` of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// `If-Match`.
    pub if_match: Option<Tag>,
    /// `If-None-Match`.
    pub if_none_match: Option<Tag>,
}

impl Preconditions {
    /// Whether `If-None-Match` says that the client has `current` already: 304 on reads.
    pub fn not_modified(self, current: Timestamp) -> bool {
        self.if_none_match == Some(Tag::Exactly(current))
    }

    /// Whether the preconditions let a request go on (Kinto 26.5: equality only, `If-Match` above the current
    /// value fails too; a missing object fails every `If-Match`; `If-None-Match` stops writes only as `*`).
    ///
    /// `existing` is the object's timestamp, `None` when there is no such object.
    pub fn hold(self, existing: Option<Timestamp>) -> bool {
        match (self.if_match, self.if_none_match, existing) {
            (_, Some(Tag::Any), Some(_)) => false,
            (Some(_), _, None) => false,
            (Some(Tag::Exactly(tag)), _, Some(current)) => tag == current,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preconditions_compare_by_equality() {
        let if_match = |tag| Preconditions {
            if_match: Some(tag),
            if_none_match: None,
        };
        let now = Some(Timestamp(5));
        assert!(if_match(Tag::Exactly(Timestamp(5))).hold(now));
        assert!(!if_match(Tag::Exactly(Timestamp(4))).hold(now));
        assert!(!if_match(Tag::Exactly(Timestamp(6))).hold(now));
        assert!(if_match(Tag::Any).hold(now));
        assert!(!if_match(Tag::Any).hold(None));
        let if_none_match = |tag| Preconditions {
            if_match: None,
            if_none_match: Some(tag),
        };
        assert!(!if_none_match(Tag::Any).hold(now));
        assert!(if_none_match(Tag::Any).hold(None));
        assert!(if_none_match(Tag::Exactly(Timestamp(5))).hold(now));
        assert!(if_none_match(Tag::Exactly(Timestamp(5))).not_modified(Timestamp(5)));
        assert!(!if_none_match(Tag::Any).not_modified(Timestamp(5)));
    }
}
