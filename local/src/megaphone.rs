//! A Megaphone for one machine: keeps the latest version of each channel and prints every broadcast.
//!
//! Like the real one it does not look at the order of versions: an older one overwrites a newer one.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::server::{self, Answered};

const MAX_BROADCASTER: usize = 64;
const MAX_CHANNEL: usize = 128;
const MAX_VERSION: usize = 200;

/// The state of a Megaphone server; clones share it.
#[derive(Clone)]
pub struct Megaphone {
    api_key: Arc<str>,
    broadcasts: Arc<Mutex<BTreeMap<String, String>>>,
}

/// Megaphone's answers other than 200 and 201, with its errno.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
enum Refusal {
    #[error("invalid broadcaster_id")]
    Broadcaster,
    #[error("invalid channel_id")]
    Channel,
    #[error("the version is empty")]
    NoVersion,
    #[error("the version is not ASCII or too long")]
    Version,
    #[error("missing Authorization")]
    Unauthenticated,
    #[error("invalid token")]
    Token,
    #[error("not found")]
    Path,
}

impl Refusal {
    fn status_and_errno(self) -> (StatusCode, u16) {
        match self {
            Self::Version => (StatusCode::BAD_REQUEST, 100),
            Self::Broadcaster => (StatusCode::BAD_REQUEST, 101),
            Self::Channel => (StatusCode::BAD_REQUEST, 102),
            Self::NoVersion => (StatusCode::BAD_REQUEST, 103),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, 120),
            Self::Token => (StatusCode::UNAUTHORIZED, 121),
            Self::Path => (StatusCode::NOT_FOUND, 123),
        }
    }
}

impl Megaphone {
    /// A Megaphone without broadcasts, for whoever has `api_key`.
    pub fn new(api_key: &str) -> Self {
        Self {
            api_key: api_key.into(),
            broadcasts: Arc::default(),
        }
    }

    /// The latest versions by `broadcaster_id/channel_id`.
    pub fn broadcasts(&self) -> BTreeMap<String, String> {
        let broadcasts = self.broadcasts.lock();
        broadcasts.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves it until `stop` turns true.
    pub async fn serve(self, listener: TcpListener, stop: watch::Receiver<bool>) {
        server::serve(listener, stop, move |request, _peer| {
            self.clone().answer(request)
        })
        .await;
    }

    async fn answer(self, request: Request<Incoming>) -> Answered {
        let (parts, body) = request.into_parts();
        let token = parts
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let body = match Limited::new(body, MAX_VERSION + 1).collect().await {
            Ok(body) => Some(body.to_bytes()),
            Err(_) => None,
        };
        let (status, answer) = self
            .route(&parts.method, parts.uri.path(), token, body.as_deref())
            .unwrap_or_else(|refusal| {
                let (status, errno) = refusal.status_and_errno();
                let error = status.canonical_reason();
                let message = refusal.to_string();
                (
                    status,
                    json!({"code": status.as_u16(), "errno": errno, "error": error, "message": message}),
                )
            });
        let mut response = Response::new(Full::from(answer.to_string()));
        *response.status_mut() = status;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        Ok(response)
    }

    /// A body that is `None` is longer than any version.
    fn route(
        &self,
        method: &Method,
        path: &str,
        token: Option<&str>,
        body: Option<&[u8]>,
    ) -> Result<(StatusCode, Value), Refusal> {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match (method, segments.as_slice()) {
            (&Method::GET, ["__heartbeat__" | "__lbheartbeat__"]) => {
                Ok((StatusCode::OK, json!({"code": 200})))
            }
            (&Method::GET, ["v1", "broadcasts"]) => {
                self.authorize(token)?;
                Ok((
                    StatusCode::OK,
                    json!({"code": 200, "broadcasts": self.broadcasts()}),
                ))
            }
            (&Method::PUT, ["v1", "broadcasts", broadcaster, channel]) => {
                self.authorize(token)?;
                let status = self.put(broadcaster, channel, body)?;
                Ok((status, json!({"code": status.as_u16()})))
            }
            _ => Err(Refusal::Path),
        }
    }

    fn authorize(&self, token: Option<&str>) -> Result<(), Refusal> {
        let token = token.ok_or(Refusal::Unauthenticated)?;
        if token.strip_prefix("Bearer ") == Some(&*self.api_key) {
            Ok(())
        } else {
            Err(Refusal::Token)
        }
    }

    fn put(
        &self,
        broadcaster: &str,
        channel: &str,
        body: Option<&[u8]>,
    ) -> Result<StatusCode, Refusal> {
        if !is_id(broadcaster, MAX_BROADCASTER) {
            return Err(Refusal::Broadcaster);
        }
        if !is_id(channel, MAX_CHANNEL) {
            return Err(Refusal::Channel);
        }
        let body = body.ok_or(Refusal::Version)?;
        if body.is_empty() {
            return Err(Refusal::NoVersion);
        }
        let version = std::str::from_utf8(body)
            .ok()
            .filter(|version| version.is_ascii() && version.len() <= MAX_VERSION)
            .ok_or(Refusal::Version)?;
        let name = format!("{broadcaster}/{channel}");
        // Not println: a reader that closed the pipe must not fail the broadcast.
        drop(writeln!(std::io::stdout(), "broadcast {name} {version}"));
        let broadcasts = self.broadcasts.lock();
        let mut broadcasts = broadcasts.unwrap_or_else(PoisonError::into_inner);
        match broadcasts.insert(name, version.to_owned()) {
            None => Ok(StatusCode::CREATED),
            Some(_) => Ok(StatusCode::OK),
        }
    }
}

fn is_id(id: &str, max: usize) -> bool {
    (1..=max).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/v1/broadcasts/remote-settings/monitor_changes";

    fn put(
        megaphone: &Megaphone,
        path: &str,
        token: Option<&str>,
        body: &[u8],
    ) -> Result<StatusCode, Refusal> {
        let answer = megaphone.route(&Method::PUT, path, token, Some(body));
        answer.map(|(status, _)| status)
    }

    #[test]
    fn the_first_version_is_created_and_the_next_updated() {
        let megaphone = Megaphone::new("key");
        let token = Some("Bearer key");
        assert_eq!(
            put(&megaphone, PATH, token, b"\"2\""),
            Ok(StatusCode::CREATED)
        );
        assert_eq!(put(&megaphone, PATH, token, b"\"1\""), Ok(StatusCode::OK));
        let (_, list) = megaphone
            .route(&Method::GET, "/v1/broadcasts", token, Some(b""))
            .unwrap();
        assert_eq!(
            list,
            json!({"code": 200, "broadcasts": {"remote-settings/monitor_changes": "\"1\""}})
        );
    }

    #[test]
    fn what_megaphone_refuses_is_refused() {
        let megaphone = Megaphone::new("key");
        let token = Some("Bearer key");
        assert_eq!(
            put(&megaphone, PATH, None, b"1"),
            Err(Refusal::Unauthenticated)
        );
        assert_eq!(
            put(&megaphone, PATH, Some("Bearer x"), b"1"),
            Err(Refusal::Token)
        );
        assert_eq!(put(&megaphone, PATH, token, b""), Err(Refusal::NoVersion));
        assert_eq!(
            put(&megaphone, PATH, token, &[b'1'; 201]),
            Err(Refusal::Version)
        );
        let bad = "/v1/broadcasts/a/b%20c";
        assert_eq!(put(&megaphone, bad, token, b"1"), Err(Refusal::Channel));
        assert_eq!(
            put(&megaphone, "/v1/broadcasts/a", token, b"1"),
            Err(Refusal::Path)
        );
        assert!(megaphone.broadcasts().is_empty());
    }
}
