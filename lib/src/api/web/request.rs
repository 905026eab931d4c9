//! The request: method, path, query string, headers, body.

use http::Method;
use http::header::{HOST, HeaderMap, HeaderName};
use percent_encoding::{
    AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode,
};

use crate::api::web::error::{ApiError, Location};
use crate::settings::ApiSettings;

/// The version prefix of every path.
pub const PREFIX: &str = "/v1";

/// The characters that must be encoded in the path of a URL.
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

/// The most bytes of a query string, in a batch as well: API Gateway takes 10 KB with the path and the headers.
const MAX_QUERY: usize = 8 * 1024;

/// The characters to escape in a query string: all but RFC 3986's unreserved ones, so that the names of parameters stay
/// as they came.
pub const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

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
    /// The domain name under which API Gateway received it; the client has no say in it.
    pub domain_name: Option<String>,
}

impl Request {
    /// Checks that its query string is no longer than any that a client can send.
    ///
    /// # Errors
    /// 400.
    pub fn check_length(&self) -> Result<(), ApiError> {
        if self.query_string.len() > MAX_QUERY {
            let problem = format!("Must not be longer than {MAX_QUERY} bytes");
            return Err(ApiError::invalid_unnamed(Location::Querystring, problem));
        }
        Ok(())
    }

    /// Returns `true` if its method only reads.
    pub fn is_read(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }

    /// The value of a header; `None` when it is absent or not text.
    pub fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Checks that path and query string are UTF-8. API Gateway has already replaced other bytes in a path.
    ///
    /// # Errors
    /// 400.
    pub fn check_encoding(&self) -> Result<(), ApiError> {
        let wrong = |location| Err(ApiError::invalid_unnamed(location, "Must be UTF-8"));
        if self.path.contains(char::REPLACEMENT_CHARACTER) {
            return wrong(Location::Path);
        }
        match percent_decode_str(&self.query_string).decode_utf8() {
            Ok(_) => Ok(()),
            Err(_) => wrong(Location::Querystring),
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

    /// `scheme://host` for absolute URLs: from the settings, else what the client used.
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
        // The default port, which some clients send.
        let usual_port = if scheme == "https" { ":443" } else { ":80" };
        let host = host.strip_suffix(usual_port).unwrap_or(host);
        format!("{scheme}://{host}")
    }

    /// `scheme://host` for URLs that a client must not be able to choose: from the settings, else the domain name of
    /// API Gateway, which sets `X-Forwarded-Proto` too.
    pub fn trusted_origin(&self, settings: &ApiSettings) -> String {
        let scheme = settings.http_scheme.as_deref();
        let scheme = scheme.or(match self.header("x-forwarded-proto") {
            Some("https") => Some("https"),
            _ => Some("http"),
        });
        let host = settings.http_host.as_deref();
        let host = host.or(self.domain_name.as_deref());
        format!(
            "{}://{}",
            scheme.unwrap_or("http"),
            host.unwrap_or("localhost")
        )
    }

    /// The headers that [`Self::origin`] depends on, without those that the settings replace.
    pub fn origin_headers(settings: &ApiSettings) -> impl Iterator<Item = HeaderName> {
        let host = settings.http_host.is_none().then_some(HOST);
        let scheme = settings.http_scheme.is_none();
        let scheme = scheme.then_some(HeaderName::from_static("x-forwarded-proto"));
        host.into_iter().chain(scheme)
    }

    /// The URL of another path, which is decoded, with the query string of this request. Relative, so that no cache
    /// keeps a redirect to a host that somebody else named.
    pub fn url_of(&self, path: &str) -> String {
        let path = utf8_percent_encode(path, NOT_IN_PATHS);
        format!("{path}{}", self.query_suffix())
    }

    /// The query string with its `?`, empty when there is none.
    pub fn query_suffix(&self) -> String {
        if self.query_string.is_empty() {
            String::new()
        } else {
            format!("?{}", self.query_string)
        }
    }
}
