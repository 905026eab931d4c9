//! A Megaphone for one machine: keeps the latest version of each channel and, in the stack, prints every broadcast.
//!
//! Like the real one it ignores the order of versions: an older one overwrites a newer one. A test can make it fail in
//! every way in which a remote server does.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::watch::Watch;
use local_aws::server;

const MAX_BROADCASTER: usize = 64;
const MAX_CHANNEL: usize = 128;
const MAX_VERSION: usize = 200;

/// The state of a Megaphone server; clones share it.
#[derive(Clone)]
pub struct Megaphone {
    api_key: Arc<str>,
    prints: bool,
    watch: Watch,
    broadcasts: Arc<Mutex<BTreeMap<String, String>>>,
    arrivals: Arc<Mutex<Vec<ReceivedBroadcast>>>,
    mood: Arc<Mutex<Option<FaultPolicy>>>,
}

type FaultPolicy = Arc<dyn Fn() -> Behaviour + Send + Sync>;

/// A broadcast that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedBroadcast {
    /// `broadcaster_id/channel_id`
    pub channel: String,
    /// The version, with its quotes.
    pub version: String,
    /// The time when it took effect.
    pub at: Instant,
}

/// The treatment of a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Taken and answered.
    Taken,
    /// Taken, and answered after this time.
    Slow(Duration),
    /// Taken, and the connection ends without an answer.
    Unanswered,
    /// The connection ends without an answer, and the broadcast is taken this much later.
    Late(Duration),
    /// The connection ends without an answer, and the broadcast is not taken.
    Lost,
    /// Not taken, and answered with this status and this `Retry-After` in seconds.
    Refused(u16, Option<u64>),
}

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("hung up")]
struct HungUp;

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
    /// A Megaphone without broadcasts, for clients with `api_key`.
    pub fn new(api_key: &str) -> Self {
        Self {
            api_key: api_key.into(),
            prints: false,
            watch: Watch::Off,
            broadcasts: Arc::default(),
            arrivals: Arc::default(),
            mood: Arc::default(),
        }
    }

    /// The same Megaphone, which also prints every broadcast.
    pub fn printing(self) -> Self {
        Self {
            prints: true,
            ..self
        }
    }

    /// The same Megaphone, whose broadcasts `watch` shows.
    pub fn watched_by(self, watch: Watch) -> Self {
        Self { watch, ..self }
    }

    /// Calls `mood` for the treatment of each broadcast from now on.
    pub fn behave(&self, mood: impl Fn() -> Behaviour + Send + Sync + 'static) {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(mood));
    }

    /// Every broadcast that took effect, in order.
    pub fn arrivals(&self) -> Vec<ReceivedBroadcast> {
        let arrivals = self.arrivals.lock();
        arrivals.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The latest versions by `broadcaster_id/channel_id`.
    pub fn broadcasts(&self) -> BTreeMap<String, String> {
        let broadcasts = self.broadcasts.lock();
        broadcasts.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves requests until `stop` turns true.
    pub async fn serve(self, listener: TcpListener, stop: watch::Receiver<bool>) {
        server::serve(listener, stop, move |request, _peer| {
            self.clone().answer(request)
        })
        .await;
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, HungUp> {
        let (parts, body) = request.into_parts();
        let body = match Limited::new(body, MAX_VERSION + 1).collect().await {
            Ok(body) => Some(body.to_bytes()),
            Err(_) => None,
        };
        let behaviour = match parts.method {
            Method::PUT => self.behaviour(),
            _ => Behaviour::Taken,
        };
        match behaviour {
            Behaviour::Taken | Behaviour::Unanswered => {}
            Behaviour::Slow(pause) => sleep(pause).await,
            Behaviour::Lost => return Err(HungUp),
            Behaviour::Late(pause) => {
                tokio::spawn(async move {
                    sleep(pause).await;
                    self.route(
                        &parts.method,
                        parts.uri.path(),
                        token(&parts),
                        body.as_deref(),
                    )
                });
                return Err(HungUp);
            }
            Behaviour::Refused(status, retry_after) => return Ok(refusal(status, retry_after)),
        }
        let (status, answer) = self
            .route(&parts.method, parts.uri.path(), token(&parts), body.as_deref())
            .unwrap_or_else(|refusal| {
                let (status, errno) = refusal.status_and_errno();
                let error = status.canonical_reason();
                let message = refusal.to_string();
                (
                    status,
                    json!({"code": status.as_u16(), "errno": errno, "error": error, "message": message}),
                )
            });
        if behaviour == Behaviour::Unanswered {
            return Err(HungUp);
        }
        Ok(response(status, &answer))
    }

    fn behaviour(&self) -> Behaviour {
        let mood = self.mood.lock().unwrap_or_else(PoisonError::into_inner);
        mood.as_ref().map_or(Behaviour::Taken, |mood| mood())
    }

    /// Routes a request; `body` is `None` if it is longer than any version.
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
        if self.prints {
            // Not println: a reader that closed the pipe must not fail the broadcast.
            drop(writeln!(std::io::stdout(), "broadcast {name} {version}"));
        }
        self.watch.note_broadcast(&name, version, Timestamp::now());
        let arrivals = self.arrivals.lock();
        arrivals
            .unwrap_or_else(PoisonError::into_inner)
            .push(ReceivedBroadcast {
                channel: name.clone(),
                version: version.to_owned(),
                at: Instant::now(),
            });
        let broadcasts = self.broadcasts.lock();
        let mut broadcasts = broadcasts.unwrap_or_else(PoisonError::into_inner);
        match broadcasts.insert(name, version.to_owned()) {
            None => Ok(StatusCode::CREATED),
            Some(_) => Ok(StatusCode::OK),
        }
    }
}

fn token(request: &Parts) -> Option<&str> {
    request.headers.get(AUTHORIZATION)?.to_str().ok()
}

fn response(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn refusal(status: u16, retry_after: Option<u64>) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = response(status, &json!({"code": status.as_u16()}));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
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
