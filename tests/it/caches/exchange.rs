//! One request and its response, as caches see them.

use std::fmt;
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_ENCODING, HeaderName};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::Value;

/// A request on its way through a cache.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    /// Path and query string.
    pub target: String,
    pub headers: HeaderMap,
    pub body: String,
}

/// The response.
#[derive(Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// A cache through which clients poll.
pub trait Cache {
    /// The response to a request.
    async fn send(&self, request: Request) -> Answer;

    /// Lets this time pass.
    async fn pass(&self, time: Duration);
}

/// A `GET` of a path below `/v1`.
pub fn get(path: &str) -> Request {
    request(Method::GET, path)
}

/// Any request for a path below `/v1`.
pub fn request(method: Method, path: &str) -> Request {
    Request {
        method,
        target: format!("/v1{path}"),
        headers: HeaderMap::new(),
        body: String::new(),
    }
}

impl Request {
    /// Adds a header, unless the value is empty.
    pub fn with(mut self, name: HeaderName, value: &str) -> Self {
        if !value.is_empty() {
            self.headers
                .insert(name, HeaderValue::from_str(value).unwrap());
        }
        self
    }

    /// Adds a JSON body.
    pub fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string();
        self.with(http::header::CONTENT_TYPE, "application/json")
    }

    /// A header; empty if there is none.
    pub fn header(&self, name: HeaderName) -> &str {
        text(&self.headers, &name)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut body = String::from_utf8_lossy(&self.decoded()).into_owned();
        body.truncate(body.floor_char_boundary(1_000));
        write!(f, "{} {:#?} {body}", self.status, self.headers)
    }
}

impl Answer {
    /// A header; empty if there is none.
    pub fn header(&self, name: HeaderName) -> &str {
        text(&self.headers, &name)
    }

    /// A directive of `Cache-Control`: `Some("60")` of `max-age=60`, `Some("")` of `no-store`.
    pub fn directive(&self, name: &str) -> Option<&str> {
        self.header(CACHE_CONTROL).split(',').find_map(|directive| {
            let (key, value) = directive.split_once('=').unwrap_or((directive, ""));
            (key.trim() == name).then_some(value)
        })
    }

    /// The body before compression.
    pub fn decoded(&self) -> Vec<u8> {
        use std::io::Read as _;
        // A response without a body may still name its encoding.
        if self.body.is_empty() || self.header(CONTENT_ENCODING) != "gzip" {
            return self.body.clone();
        }
        let mut body = vec![];
        flate2::read::GzDecoder::new(&*self.body)
            .read_to_end(&mut body)
            .unwrap();
        body
    }

    /// The body's JSON; `null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.decoded()).unwrap_or_default()
    }
}

/// An entity tag without the mark of a weak one.
pub fn strong(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}
