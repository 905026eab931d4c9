//! The Kinto HTTP API v1, from API Gateway's event to its response.
//!
//! A request goes: [`request`] (out of the event) → [`call`] ([`router`]: which endpoint; [`auth`]: who) → the
//! endpoint ([`objects`], [`lists`], [`monitor`], [`server`], [`flush`], [`openid`]; [`asked`]: may they) →
//! [`response`] (into the event). A [`batch`] is several calls in one unit of work. Every refusal is an
//! [`error::ApiError`], turned into Kinto's JSON at one place.
//!
//! What Kinto has as plugins is in [`default_bucket`], [`flush`], [`accounts`] with [`passwords`], and [`openid`].

mod accounts;
mod asked;
mod auth;
mod batch;
mod body;
mod call;
mod default_bucket;
mod error;
mod flush;
mod listing;
mod lists;
mod monitor;
mod objects;
mod openid;
mod passwords;
mod request;
mod response;
mod router;
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lambda_events::apigw::{ApiGatewayV2httpRequest, ApiGatewayV2httpResponse};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio::sync::RwLock;

use self::auth::Credentials;
use self::call::Call;
use self::error::{ApiError, Detail};
use self::openid::provider::Provider;
use self::passwords::Passwords;
use self::request::Request;
use self::response::Response;
use self::router::Routed;
use crate::megaphone::Megaphone;
use crate::settings::Settings;
use crate::store::{CommitError, Store};
use crate::timestamp::Timestamp;
use crate::unit_of_work::{Needs, UnitOfWork};

/// Times that a request is done again because other writes came between, unless time is up before.
const MAX_ATTEMPTS: u32 = 24;
/// When a request is not done again any more: the function must answer before it is stopped (29 seconds).
const LAST_ATTEMPT: Duration = Duration::from_secs(10);
/// The longest pause before the first repetition, in milliseconds; it doubles each time, up to [`MAX_PAUSE`].
const FIRST_PAUSE: u64 = 2;
/// See [`FIRST_PAUSE`]. Some ten times what a transaction takes: who has waited long must not wait longest.
const MAX_PAUSE: u64 = 100;

/// The HTTP API over one table.
#[derive(Clone, Debug)]
pub struct Api {
    store: Store,
    settings: Settings,
    megaphones: Vec<Megaphone>,
    passwords: Arc<Passwords>,
    providers: Arc<[Provider]>,
    /// Shared by requests that are tried the first time, held alone by one that is done again: requests of one
    /// process that collide once would go on colliding with one another; alone, each meets but those of other
    /// processes. A function of Lambda has one request at a time and never waits for this.
    turn: Arc<RwLock<()>>,
}

/// What becomes of a request at first sight.
enum Found {
    /// It has an endpoint.
    Call(Call),
    /// It is answered already: refused, sent elsewhere, or needs nothing.
    Answer(Response),
}

impl Api {
    /// The API with its dependencies.
    pub fn new(store: Store, settings: Settings, megaphones: Vec<Megaphone>) -> Self {
        Self {
            passwords: Arc::new(Passwords::new(&settings.api)),
            providers: Provider::all(&settings.api).into(),
            store,
            settings,
            megaphones,
            turn: Arc::default(),
        }
    }

    /// Answers one request. Whatever goes wrong becomes a response.
    pub async fn handle(&self, event: ApiGatewayV2httpRequest) -> ApiGatewayV2httpResponse {
        let head = event.request_context.http.method == Method::HEAD;
        let response = match Request::from_event(event) {
            Ok(request) => self.answer(request).await,
            Err(error) => self.refusal(error),
        };
        response.into_event(head)
    }

    async fn answer(&self, request: Request) -> Response {
        let answer = match self.find(request).await {
            Ok(Found::Call(call)) if call.is_batch() => self.batch(&call.request).await,
            Ok(Found::Call(call)) => {
                let responses = self.work(&[call]).await;
                responses.map(|mut responses| responses.swap_remove(0))
            }
            Ok(Found::Answer(response)) => Ok(response),
            Err(error) => Err(error),
        };
        answer.unwrap_or_else(|error| self.refusal(error))
    }

    /// Where a request goes and who sends it.
    ///
    /// # Errors
    /// What takes back all of a batch: a failure of ours. What is refused is an answer.
    async fn find(&self, request: Request) -> Result<Found, ApiError> {
        let settings = &self.settings.api;
        let call = match router::route(&request, settings) {
            Ok(Routed::To(route)) if request.method == Method::OPTIONS => {
                let answer = preflight(&request, route.methods(settings.readonly));
                let answer = answer.map_or_else(|e| self.refusal(e), |r| self.finished(r));
                return Ok(Found::Answer(answer));
            }
            Ok(Routed::To(route)) => {
                let credentials = if route.knows_users() {
                    Credentials::of(&request, settings, &self.providers).await?
                } else {
                    Credentials::default()
                };
                Call::to(route, request, credentials, settings)
            }
            Ok(Routed::Redirect { path, max_age }) => {
                let (origin, query) = (request.origin(settings), request.query_suffix());
                let url = format!("{origin}{path}{query}");
                let redirect = Response::redirect(&url, Timestamp::now(), max_age);
                return Ok(Found::Answer(self.finished(redirect)));
            }
            Err(error) => Err(error),
        };
        Ok(call.map_or_else(|error| Found::Answer(self.refusal(error)), Found::Call))
    }

    async fn batch(&self, batch: &Request) -> Result<Response, ApiError> {
        let mut calls = vec![];
        // `None` in the place of each of the calls, else what the request is answered without one.
        let mut answers = vec![];
        for mut request in batch::requests(batch, &self.settings.api)? {
            if let Ok(Routed::Redirect { path, .. }) = router::route(&request, &self.settings.api) {
                request.path = path;
            }
            let answer = match self.find(request.clone()).await? {
                Found::Call(call) => {
                    calls.push(call);
                    None
                }
                Found::Answer(response) => Some(response),
            };
            answers.push((request, answer));
        }
        let mut responses = self.work(&calls).await?.into_iter();
        let answers = answers.into_iter().filter_map(|(request, answer)| {
            let response = answer.or_else(|| responses.next())?;
            Some((request, response))
        });
        Ok(batch::response(answers.collect()))
    }

    /// The provider that a path names.
    ///
    /// # Errors
    /// 400 when there is none (Kinto 26.5).
    fn provider(&self, name: &str) -> Result<&Provider, ApiError> {
        let mut providers = self.providers.iter();
        let provider = providers.find(|provider| provider.settings().name == name);
        provider.ok_or_else(|| {
            ApiError::invalid("path", "provider", format!("Unknown provider '{name}'"))
        })
    }

    /// Reads, answers, commits; again from the start while other writes come between.
    ///
    /// # Errors
    /// What takes back all of it: a failure of ours. What is refused is a response.
    async fn work(&self, calls: &[Call]) -> Result<Vec<Response>, ApiError> {
        let begin = Instant::now();
        let (mut shared, mut alone) = (None, None);
        if calls.iter().any(Call::writes) {
            shared = Some(self.turn.read().await);
        }
        for attempt in (0..MAX_ATTEMPTS).take_while(|_| begin.elapsed() < LAST_ATTEMPT) {
            let needs = calls
                .iter()
                .map(|call| call.needs(&self.settings.api))
                .fold(Needs::default(), Needs::and);
            let mut unit = UnitOfWork::read(&self.store, Timestamp::now(), needs).await?;
            let mut responses = Vec::with_capacity(calls.len());
            for call in calls {
                responses.push(match call.answer(self, &mut unit).await {
                    Ok(response) => self.finished(response),
                    Err(error) if error.is_ours() => return Err(error),
                    Err(error) => self.refusal(error),
                });
            }
            if !unit.has_writes() {
                return Ok(responses);
            }
            match unit.commit(&self.store).await {
                Ok(()) => return Ok(responses),
                Err(CommitError::Store(error)) => return Err(error.into()),
                Err(CommitError::Partial) => return Err(ApiError::Busy),
                Err(CommitError::Conflict) => {
                    if shared.take().is_some() {
                        alone = Some(self.turn.write().await);
                        continue;
                    }
                    // Full jitter: writers that collided once must not collide again in step.
                    let longest = (FIRST_PAUSE << attempt).min(MAX_PAUSE);
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=longest))).await;
                }
            }
        }
        drop(alone);
        Err(ApiError::Busy)
    }

    fn refusal(&self, error: ApiError) -> Response {
        self.finished(error.into_response(&self.settings.api))
    }

    fn finished(&self, mut response: Response) -> Response {
        self.add_common_headers(&mut response);
        response
    }

    fn add_common_headers(&self, response: &mut Response) {
        let fixed = [
            ("x-content-type-options", "nosniff"),
            (
                "content-security-policy",
                "default-src 'none'; frame-ancestors 'none'; base-uri 'none';",
            ),
            ("access-control-allow-origin", "*"),
            (
                "access-control-expose-headers",
                "Alert, Backoff, Cache-Control, Content-Length, Content-Type, ETag, Expires, Last-Modified, Next-Page, Pragma, Retry-After, Total-Objects, Total-Records",
            ),
        ];
        for (name, value) in fixed {
            response.set(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        if let Some(seconds) = self.settings.api.backoff {
            response.set(HeaderName::from_static("backoff"), seconds.into());
        }
    }
}

/// The answer to a browser that asks whether it may send a request from another origin: it may.
///
/// # Errors
/// 400 without the headers that such a question has (Kinto 26.5).
fn preflight(request: &Request, methods: &[Method]) -> Result<Response, ApiError> {
    let missing = [
        (
            "Access-Control-Request-Method",
            ACCESS_CONTROL_REQUEST_METHOD,
        ),
        ("Origin", ORIGIN),
    ]
    .into_iter()
    .filter(|(_, header)| request.header(header).is_none())
    .map(|(name, _)| Detail::new("header", name, "Required"));
    let missing: Vec<_> = missing.collect();
    if !missing.is_empty() {
        return Err(ApiError::Invalid(missing));
    }
    let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
    let mut response = Response::empty(StatusCode::OK);
    response.set_text(ACCESS_CONTROL_ALLOW_METHODS, &methods.join(","));
    let headers = request
        .header(ACCESS_CONTROL_REQUEST_HEADERS)
        .unwrap_or("*");
    response.set_text(ACCESS_CONTROL_ALLOW_HEADERS, headers);
    response.set_text(ACCESS_CONTROL_MAX_AGE, "3600");
    Ok(response)
}
