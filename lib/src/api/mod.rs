//! The Kinto HTTP API v1, from API Gateway's event to its response.
//!
//! A request goes: [`request`] (out of the event) → [`router`] (which endpoint) → [`auth`] (who) → the
//! endpoint ([`objects`], [`monitor`], [`server`]) → [`response`] (into the event). Every refusal is an
//! [`error::ApiError`], turned into Kinto's JSON at one place.

mod auth;
mod body;
mod compression;
mod cors;
mod end_of_service;
mod error;
mod listing;
mod monitor;
mod objects;
mod openapi;
mod request;
mod response;
mod router;
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lambda_events::apigw::{ApiGatewayV2httpRequest, ApiGatewayV2httpResponse};
use http::header::ACCEPT_ENCODING;
use http::{HeaderName, HeaderValue, Method};
use tokio::sync::RwLock;

use self::auth::User;
use self::error::ApiError;
use self::objects::Target;
use self::request::Request;
use self::response::Response;
use self::router::{Route, Routed};
use crate::megaphone::Megaphone;
use crate::settings::Settings;
use crate::store::{CommitError, Store};
use crate::timestamp::Timestamp;
use crate::unit_of_work::UnitOfWork;

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
    /// Shared by requests that are tried the first time, held alone by one that is done again: requests of one
    /// process that collide once would go on colliding with one another; alone, each meets but those of other
    /// processes. A function of Lambda has one request at a time and never waits for this.
    turn: Arc<RwLock<()>>,
}

impl Api {
    /// The API with its dependencies.
    pub fn new(store: Store, settings: Settings, megaphones: Vec<Megaphone>) -> Self {
        Self {
            store,
            settings,
            megaphones,
            turn: Arc::default(),
        }
    }

    /// Answers one request. Whatever goes wrong becomes a response.
    pub async fn handle(&self, event: ApiGatewayV2httpRequest) -> ApiGatewayV2httpResponse {
        match Request::from_event(event) {
            Ok(request) => {
                let accept_encoding = request.header(ACCEPT_ENCODING).unwrap_or_default();
                let response = self.respond(&request).await;
                response.into_event(request.method == Method::HEAD, accept_encoding)
            }
            Err(error) => error
                .into_response(&self.settings.api)
                .into_event(false, ""),
        }
    }

    /// The response to one request, complete but for the form in which it travels.
    async fn respond(&self, request: &Request) -> Response {
        let settings = &self.settings.api;
        let end = settings.web.end_of_service.as_ref();
        let now = Timestamp::now();
        let (route, answer) = if end_of_service::is_over(end, now) {
            (None, Err(ApiError::Gone))
        } else {
            (router::endpoint(&request.path), self.answer(request).await)
        };
        let mut response = answer.unwrap_or_else(|error| error.into_response(settings));
        cors::apply(request, route.as_ref(), settings, &mut response);
        if let Some(end) = end {
            let alert = end_of_service::alert(end, now, &settings.project_docs);
            response.set_text(end_of_service::ALERT, &alert);
        }
        self.add_common_headers(&mut response);
        response
    }

    async fn answer(&self, request: &Request) -> Result<Response, ApiError> {
        let settings = &self.settings.api;
        let route = match router::route(request, settings, Timestamp::now())? {
            Routed::To(route) => route,
            Routed::Redirect(response) => return Ok(response),
        };
        cors::check_origin(request, &settings.web)?;
        if request.method == Method::OPTIONS {
            return cors::preflight(request, &route, settings);
        }
        let user = User::of(request, &settings.userid_hmac_secret);
        match route {
            Route::Hello => Ok(server::hello(self, request, &user)),
            Route::Heartbeat => Ok(server::heartbeat(self).await),
            Route::LbHeartbeat => Ok(server::lbheartbeat()),
            Route::Version => Ok(server::version()),
            Route::Contribute => Ok(server::contribute()),
            Route::OpenApi => Ok(openapi::response(request, settings)),
            Route::MonitorRecords => {
                let entries = self.store.monitor_entries().await?;
                monitor::records(request, &self.settings, &entries)
            }
            Route::Object(uri) => self.objects(request, &user, Target::at(uri)).await,
            Route::List(list) if request.method == Method::POST => {
                self.objects(request, &user, Target::posted(list, request)?)
                    .await
            }
            Route::List(list) => objects::list(&self.store, request, &user, &list, settings).await,
        }
    }

    /// Reads, decides, commits; again from the start while other writes come between.
    async fn objects(
        &self,
        request: &Request,
        user: &User,
        target: Target,
    ) -> Result<Response, ApiError> {
        let begin = Instant::now();
        let (mut shared, mut alone) = (Some(self.turn.read().await), None);
        for attempt in (0..MAX_ATTEMPTS).take_while(|_| begin.elapsed() < LAST_ATTEMPT) {
            let (objects, lists) = objects::needs(request, &target);
            let mut unit = UnitOfWork::read(&self.store, Timestamp::now(), objects, lists).await?;
            let response =
                objects::answer(&mut unit, request, user, &target.uri, &self.settings.api)?;
            if !unit.has_writes() {
                return Ok(response);
            }
            match unit.commit(&self.store).await {
                Ok(()) => return Ok(response),
                Err(CommitError::Store(error)) => return Err(error.into()),
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

    fn add_common_headers(&self, response: &mut Response) {
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
        let share = self.settings.api.web.backoff_percentage.unwrap_or(100);
        if let Some(seconds) = self.settings.api.backoff
            && fastrand::u64(0..100) < share
        {
            response.set(HeaderName::from_static("backoff"), seconds.into());
        }
    }
}
