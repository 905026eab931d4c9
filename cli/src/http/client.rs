//! Requests to another Kinto: bounded in size, repeated while it is overloaded or out of reach.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kinto_serverless::backoff::Backoff;
use kinto_serverless::http_client::{body_up_to, builder, retry_after};
use kinto_serverless::timestamp::Timestamp;
use percent_encoding::percent_decode_str;
use reqwest::header::{AUTHORIZATION, ETAG, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::shallow::shallow;

/// The variable with credentials: `user:password`, or the value of the header `Authorization`.
pub const AUTH_VARIABLE: &str = "KINTO_AUTH";
/// Bytes of an answer at most.
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// How long a request is repeated.
const RETRY_TIME: Duration = Duration::from_secs(300);
/// The first pause before a request is repeated, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one attempt may take.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Why another Kinto does not answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The URL given.
    #[error("{0} is not the URL of a Kinto, such as https://kinto.example.com/v1")]
    Url(String),
    /// It cannot be reached.
    #[error("{path}: {}", with_causes(.source))]
    Request {
        /// What was asked for.
        path: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// It answers otherwise than Kinto does.
    #[error("{path}: {what}")]
    Answer {
        /// What was asked for.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The answer is larger than [`MAX_ANSWER`].
    #[error("{0}: the answer is larger than 16 MB")]
    TooLarge(String),
}

/// With its causes, which say more, and without the URL, which may hold a password.
fn with_causes(error: &reqwest::Error) -> String {
    let mut causes = vec![];
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    match causes.is_empty() {
        true if error.is_timeout() => "no answer in time".to_owned(),
        true => "the request failed".to_owned(),
        false => causes.join(": "),
    }
}

/// An answer with a status below 500.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, null where there is none.
    pub body: Value,
}

impl Answer {
    /// The timestamp in its `ETag`.
    pub fn etag(&self) -> Option<Timestamp> {
        let etag = self.headers.get(ETAG)?.to_str().ok()?;
        etag.trim_matches('"').parse().ok().map(Timestamp)
    }

    /// The number in a header.
    pub fn number(&self, header: &str) -> Option<u64> {
        self.headers.get(header)?.to_str().ok()?.parse().ok()
    }
}

/// One Kinto, and who asks it.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    authorization: Option<HeaderValue>,
}

impl Client {
    /// A Kinto by its URL, which may hold `user:password@`; a path of none is `/v1`. Credentials that the URL lacks are
    /// `auth`.
    ///
    /// # Errors
    /// The URL is none of a Kinto, or TLS cannot be set up.
    pub fn new(url: &str, auth: Option<&str>) -> Result<Self, HttpError> {
        let wrong = || HttpError::Url(without_credentials(url));
        let mut parsed = Url::parse(url).map_err(|_| wrong())?;
        if parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(wrong());
        }
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let of_url = (!parsed.username().is_empty()).then(|| {
            let password = parsed.password().unwrap_or_default();
            format!("{}:{}", decoded(parsed.username()), decoded(password))
        });
        let authorization = of_url.as_deref().or(auth).map(header).transpose();
        let authorization = authorization.map_err(|_| wrong())?;
        parsed.set_username("").map_err(|()| wrong())?;
        parsed.set_password(None).map_err(|()| wrong())?;
        if parsed.path() == "/" {
            parsed.set_path("/v1");
        }
        let base = parsed.as_str().trim_end_matches('/').to_owned();
        let http = builder(CONNECT_TIMEOUT).timeout(TIMEOUT).build();
        let http = http.map_err(|source| HttpError::Request {
            path: base.clone(),
            source,
        })?;
        Ok(Self {
            http,
            base,
            authorization,
        })
    }

    /// Its URL, without credentials.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Whether requests are those of a user.
    pub fn has_credentials(&self) -> bool {
        self.authorization.is_some()
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// It cannot be reached, or is no Kinto.
    pub async fn hello(&self) -> Result<Value, HttpError> {
        let answer = self.get("/").await?;
        match answer.body.get("settings").is_some() {
            true => Ok(answer.body),
            false => Err(HttpError::Answer {
                path: self.base.clone(),
                what: format!(
                    "no Kinto answers here ({}); the URL must end in /v1",
                    answer.status
                ),
            }),
        }
    }

    /// Asks for a path below the URL.
    ///
    /// # Errors
    /// There is no answer, or it is no JSON, or too large. Statuses below 500 are none.
    pub async fn get(&self, path: &str) -> Result<Answer, HttpError> {
        self.send(Method::GET, path, None).await
    }

    /// Asks for the headers of a path.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn head(&self, path: &str) -> Result<Answer, HttpError> {
        self.send(Method::HEAD, path, None).await
    }

    /// Asks for many paths at once; their statuses and bodies in the same order.
    ///
    /// # Errors
    /// As [`Self::get`], and where the answer is none to a batch.
    pub async fn get_all(&self, paths: &[String]) -> Result<Vec<(u64, Value)>, HttpError> {
        let requests: Vec<_> = paths.iter().map(|path| json!({"path": path})).collect();
        let body = json!({"defaults": {"method": "GET"}, "requests": requests});
        let mut answer = self.send(Method::POST, "/batch", Some(&body)).await?;
        let answers = answer.body.get_mut("responses").map(Value::take);
        let answers = match answers {
            Some(Value::Array(answers)) if answers.len() == paths.len() => answers,
            _ => {
                return Err(HttpError::Answer {
                    path: "/batch".to_owned(),
                    what: format!("{} {}", answer.status, message(&answer.body)),
                });
            }
        };
        let parts = answers.into_iter().map(|mut answer| {
            let status = answer["status"].as_u64().unwrap_or_default();
            (status, answer["body"].take())
        });
        Ok(parts.collect())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, HttpError> {
        let deadline = Instant::now() + RETRY_TIME;
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        loop {
            let (failure, asked) = match self.try_once(method.clone(), path, body).await {
                Ok(answer) if is_passing(answer.status) => {
                    let what = format!("{} {}", answer.status, message(&answer.body));
                    let path = path.to_owned();
                    let pause = retry_after(&answer.headers);
                    (HttpError::Answer { path, what }, pause)
                }
                Err(error @ HttpError::Request { .. }) => (error, None),
                other => return other,
            };
            // What a server asks for is waited at least, and no longer than the deadline.
            let pause = asked.unwrap_or_default();
            if Instant::now() + pause >= deadline {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
            if !backoff.wait_until(deadline).await {
                return Err(failure);
            }
        }
    }

    async fn try_once(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, HttpError> {
        let failed = |source: reqwest::Error| HttpError::Request {
            path: path.to_owned(),
            source: source.without_url(),
        };
        let is_head = method == Method::HEAD;
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(body) = body {
            request = request.header("Content-Type", "application/json");
            request = request.body(body.to_string());
        }
        let mut response = request.send().await.map_err(failed)?;
        let (status, headers) = (response.status(), response.headers().clone());
        if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            let to = headers.get("Location").and_then(|to| to.to_str().ok());
            return Err(HttpError::Answer {
                path: path.to_owned(),
                what: format!("redirected to {}; name that URL", to.unwrap_or("nowhere")),
            });
        }
        let body = body_up_to(&mut response, MAX_ANSWER).await;
        let bytes = body.map_err(failed)?;
        let bytes = bytes.ok_or_else(|| HttpError::TooLarge(path.to_owned()))?;
        let read = serde_json::from_slice(&bytes);
        let body = match read.or_else(|_| serde_json::from_slice(&shallow(&bytes))) {
            Ok(body) => body,
            Err(_) if is_head || bytes.is_empty() || !status.is_success() => Value::Null,
            Err(error) => {
                return Err(HttpError::Answer {
                    path: path.to_owned(),
                    what: format!("no JSON: {error}"),
                });
            }
        };
        Ok(Answer {
            status,
            headers,
            body,
        })
    }
}

/// Whether the same request may get another answer later.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// What an answer of Kinto's says of an error.
pub fn message(body: &Value) -> &str {
    body["message"].as_str().unwrap_or_default()
}

fn header(credentials: &str) -> Result<HeaderValue, reqwest::header::InvalidHeaderValue> {
    let is_header = credentials.split_once(' ');
    let text = match is_header.is_some_and(|(scheme, _)| !scheme.contains(':')) {
        true => credentials.to_owned(),
        false => format!("Basic {}", BASE64.encode(credentials)),
    };
    let mut value = HeaderValue::from_str(&text)?;
    value.set_sensitive(true);
    Ok(value)
}

/// A URL as it may be shown.
pub fn without_credentials(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut url) => {
            // Neither fails for a URL with a host, and others have no credentials.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.to_string()
        }
        Err(_) => "it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_of_the_url_or_given_apart() {
        let client = Client::new("https://alice:s%3Acret@kinto.example.com", None).unwrap();
        assert_eq!(client.url(), "https://kinto.example.com/v1");
        assert_eq!(client.authorization.unwrap(), "Basic YWxpY2U6czpjcmV0");
        let client = Client::new("https://kinto.example.com/prod/v1/", Some("Bearer abc")).unwrap();
        assert_eq!(client.url(), "https://kinto.example.com/prod/v1");
        assert_eq!(client.authorization.unwrap(), "Bearer abc");
        let client = Client::new("http://127.0.0.1:8888/v1", Some("alice:two words")).unwrap();
        assert_eq!(client.authorization.unwrap(), "Basic YWxpY2U6dHdvIHdvcmRz");
        assert!(Client::new("kinto.example.com", None).is_err());
        assert!(Client::new("https://kinto.example.com/v1?a=b", None).is_err());
    }

    #[test]
    fn an_error_shows_no_password() {
        let error = Client::new("https://alice:secret@h/v1#x", None).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
