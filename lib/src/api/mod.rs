//! The Kinto HTTP API v1, from API Gateway's event to its response.
//!
//! A request goes: [`request`] (out of the event) → [`call`] ([`router`]: which endpoint; [`auth`]: who) → the
//! endpoint ([`objects`], [`lists`], [`permissions`], [`changeset`], [`monitor`], [`broadcasts`], [`server`];
//! [`asked`]: may they; [`body`], [`schema`]: what they send) → [`response`] (into the event). A [`batch`] is
//! several calls in one unit of work. Every refusal is an [`error::ApiError`], turned into Kinto's JSON at one place.
//!
//! What Kinto has as plugins is in [`default_bucket`], [`flush`], [`accounts`] with [`passwords`], and [`openid`].

mod accounts;
mod asked;
mod auth;
mod batch;
mod body;
mod broadcasts;
mod caching;
mod call;
mod changeset;
mod compression;
mod cors;
mod default_bucket;
mod end_of_service;
mod error;
mod flush;
mod listing;
mod lists;
mod monitor;
mod objects;
mod openapi;
mod openid;
mod operations;
mod origin;
mod passwords;
mod permissions;
mod request;
mod response;
mod router;
mod schema;
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lambda_events::apigw::{ApiGatewayV2httpRequest, ApiGatewayV2httpResponse};
use http::header::ACCEPT_ENCODING;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio::sync::RwLock;

use self::auth::Credentials;
use self::call::Call;
use self::error::ApiError;
use self::openid::provider::Provider;
use self::passwords::Passwords;
use self::request::Request;
use self::response::Response;
use self::router::Routed;
use crate::listeners::{Listeners, NotifyError};
use crate::megaphone::Megaphone;
use crate::notifier;
use crate::settings::Settings;
use crate::store::{CommitError, Store};
use crate::timestamp::Timestamp;
use crate::unit_of_work::{Needs, UnitOfWork};

/// When a request is not done again any more: the function must answer before it is stopped (29 seconds).
const LAST_ATTEMPT: Duration = Duration::from_secs(10);
/// How long the listeners may take together that are told before the commit.
const LISTENERS_TIME: Duration = Duration::from_secs(12);
/// The longest pause before the first repetition, in milliseconds; it doubles each time, up to [`MAX_PAUSE`].
///
/// Measured with 32 writers of one collection (docs/performance.md): shorter pauses collide more, and are slower.
const FIRST_PAUSE: u64 = 16;
/// See [`FIRST_PAUSE`].
const MAX_PAUSE: u64 = 400;
/// How long a request is repeated on the strength of what it read, where nothing tells that this has changed. The
/// commit checks all of it but the permissions.
const MAX_STALENESS: Duration = Duration::from_secs(1);

/// The HTTP API over one table.
#[derive(Clone, Debug)]
pub struct Api {
    store: Store,
    settings: Settings,
    megaphones: Vec<Megaphone>,
    /// Those that are told before the commit.
    listeners: Listeners,
    passwords: Arc<Passwords>,
    /// What is remembered of what was answered; shared by clones.
    monitor: Arc<monitor::Memory>,
    changesets: Arc<changeset::memory::Memory>,
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
    /// The API with its dependencies; `listeners` are those that are told before the commit.
    pub fn new(
        store: Store,
        settings: Settings,
        megaphones: Vec<Megaphone>,
        listeners: Listeners,
    ) -> Self {
        Self {
            passwords: Arc::new(Passwords::new(&settings.api)),
            monitor: Arc::default(),
            providers: Provider::all(&settings.api).into(),
            store,
            settings,
            megaphones,
            listeners,
            changesets: Arc::default(),
            turn: Arc::default(),
        }
    }

    /// Answers one request. Whatever goes wrong becomes a response.
    pub async fn handle(&self, event: ApiGatewayV2httpRequest) -> ApiGatewayV2httpResponse {
        match Request::from_event(event) {
            Ok(request) => {
                let accept_encoding = request.header(ACCEPT_ENCODING).unwrap_or_default();
                let mut response = self.answer(&request).await;
                caching::complete(&request, &self.settings.api, &mut response);
                response.into_event(request.method == Method::HEAD, accept_encoding)
            }
            Err(error) => {
                let response = error.into_response(&self.settings.api);
                response.uncached().into_event(false, "")
            }
        }
    }

    async fn answer(&self, request: &Request) -> Response {
        if let Err(error) = origin::check(request, &self.settings.api) {
            return self.refusal(request, error);
        }
        let answer = match self.find(request).await {
            Ok(Found::Answer(response)) => return response,
            Ok(Found::Call(call)) if call.is_batch() => {
                let response = self.batch(request).await;
                response.map(|response| self.finished(request, response))
            }
            Ok(Found::Call(call)) => {
                let responses = self.work(&[call]).await;
                responses.map(|mut responses| responses.swap_remove(0))
            }
            Err(error) => Err(error),
        };
        answer.unwrap_or_else(|error| self.refusal(request, error))
    }

    /// Where a request goes and who sends it.
    ///
    /// # Errors
    /// What takes back all of a batch: a failure of ours. What is refused is an answer.
    async fn find(&self, request: &Request) -> Result<Found, ApiError> {
        match self.find_call(request).await {
            Ok(Found::Answer(response)) => Ok(Found::Answer(self.finished(request, response))),
            Err(error) if !error.is_ours() => Ok(Found::Answer(self.refusal(request, error))),
            found => found,
        }
    }

    async fn find_call(&self, request: &Request) -> Result<Found, ApiError> {
        let settings = &self.settings.api;
        let now = Timestamp::now();
        if end_of_service::is_over(settings.web.end_of_service.as_ref(), now) {
            return Err(ApiError::Gone);
        }
        let route = match router::route(request, settings)? {
            Routed::To(route) => route,
            // A browser follows no redirect of a preflight.
            Routed::Redirect { .. }
                if request.method == Method::OPTIONS && !router::has_version(&request.path) =>
            {
                return Ok(Found::Answer(Response::empty(StatusCode::OK)));
            }
            Routed::Redirect { path, max_age } => {
                let url = request.url_of(&path);
                return Ok(Found::Answer(Response::redirect(&url, now, max_age)));
            }
        };
        cors::check_origin(request, &settings.web)?;
        if request.method == Method::OPTIONS {
            return cors::preflight(request, &route, settings).map(Found::Answer);
        }
        let credentials = if route.knows_users() {
            Credentials::of(request, settings, &self.providers).await?
        } else {
            Credentials::default()
        };
        let call = Call::to(route, request.clone(), credentials, settings);
        Ok(Found::Call(call))
    }

    async fn batch(&self, batch: &Request) -> Result<Response, ApiError> {
        let mut calls = vec![];
        // `None` in the place of each of the calls, else what the request is answered without one.
        let mut answers = vec![];
        for mut request in batch::requests(batch, &self.settings.api)? {
            if let Ok(Routed::Redirect { path, .. }) = router::route(&request, &self.settings.api) {
                request.path = path;
            }
            let answer = match self.find(&request).await? {
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
        let mut known: Option<(Instant, UnitOfWork)> = None;
        let mut longest_pause = FIRST_PAUSE;
        while begin.elapsed() < LAST_ATTEMPT {
            let mut unit = match &known {
                Some((at, unit)) if at.elapsed() < MAX_STALENESS => {
                    unit.clone().at(Timestamp::now())
                }
                _ => {
                    let needs = calls.iter().map(|call| call.needs(&self.settings.api));
                    let needs = needs.fold(Needs::default(), Needs::and);
                    let unit = UnitOfWork::read(&self.store, Timestamp::now(), needs).await?;
                    let unit = unit.telling(!self.settings.listeners.is_empty());
                    // The first time it seldom takes another; who only reads never does.
                    known = alone.is_some().then(|| (Instant::now(), unit.clone()));
                    unit
                }
            };
            let responses = self.answer_calls(calls, &mut unit).await?;
            if !unit.has_writes() {
                return Ok(responses);
            }
            self.ask_listeners(&unit).await?;
            let waits_for = |event: &_| notifier::waits_for(&self.settings.listeners, event);
            match unit.commit(&self.store, waits_for).await {
                Ok(()) => return Ok(responses),
                Err(CommitError::Store(error)) => return Err(error.into()),
                Err(CommitError::Partial) => return Err(ApiError::Busy),
                Err(CommitError::TooLarge) => return Err(ApiError::RequestTooLarge),
                // Somebody was quicker: what is there now is known the sooner the better.
                Err(CommitError::Conflict) => known = None,
                Err(CommitError::Contended) => {}
            }
            let is_first = shared.take().is_some();
            // Full jitter: writers that collided once must not collide again in step.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=longest_pause))).await;
            longest_pause = (longest_pause * 2).min(MAX_PAUSE);
            if is_first {
                alone = Some(self.turn.write().await);
            }
        }
        drop(alone);
        Err(ApiError::Busy)
    }

    /// Has the listeners agree that are told before the commit.
    ///
    /// # Errors
    /// One refuses, or does not answer: nothing of it may be written.
    async fn ask_listeners(&self, unit: &UnitOfWork) -> Result<(), ApiError> {
        if self.listeners.is_empty() {
            return Ok(());
        }
        let events = unit.events();
        let asked = self.listeners.notify_all(&events);
        let asked = tokio::time::timeout(LISTENERS_TIME, asked).await;
        let asked = asked.unwrap_or_else(|_| {
            let late = NotifyError::failed(format!("all of them took {LISTENERS_TIME:?}"));
            Err((String::new(), late))
        });
        asked.map_err(|(listener, error)| match error {
            NotifyError::Refused { status, message } => ApiError::Vetoed {
                status: StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN),
                message,
            },
            error => ApiError::Listener { listener, error },
        })
    }

    /// Answers calls in their order.
    ///
    /// # Errors
    /// As [`Self::work`]; and that the answers cannot be sent together, so that what they tell of must not be done.
    async fn answer_calls(
        &self,
        calls: &[Call],
        unit: &mut UnitOfWork,
    ) -> Result<Vec<Response>, ApiError> {
        let mut responses = Vec::with_capacity(calls.len());
        for call in calls {
            responses.push(match call.answer(self, unit).await {
                Ok(response) => self.finished(&call.request, response),
                Err(error) if error.is_ours() => return Err(error),
                Err(error) => self.refusal(&call.request, error),
            });
        }
        let length: usize = responses.iter().map(Response::length).sum();
        if length > compression::MAX_BODY && (unit.has_writes() || calls.len() > 1) {
            return Err(ApiError::ResponseTooLarge);
        }
        Ok(responses)
    }

    fn refusal(&self, request: &Request, error: ApiError) -> Response {
        self.finished(request, error.into_response(&self.settings.api))
    }

    /// Adds what every response has.
    fn finished(&self, request: &Request, mut response: Response) -> Response {
        let settings = &self.settings.api;
        let fixed = [
            ("x-content-type-options", "nosniff"),
            (
                "content-security-policy",
                "default-src 'none'; frame-ancestors 'none'; base-uri 'none';",
            ),
        ];
        for (name, value) in fixed {
            response.set(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        let route = router::endpoint(&request.path, settings)
            .filter(|_| response.status() != StatusCode::GONE);
        cors::apply(request, route.as_ref(), settings, &mut response);
        if let Some(end) = &settings.web.end_of_service {
            let alert = end_of_service::alert(end, Timestamp::now(), &settings.project_docs);
            response.set_text(end_of_service::ALERT, &alert);
        }
        let share = settings.web.backoff_percentage.unwrap_or(100);
        if let Some(seconds) = settings.backoff
            && fastrand::u64(0..100) < share
        {
            response.set(HeaderName::from_static("backoff"), seconds.into());
        }
        response
    }
}
