//! From a request to the endpoint that answers it, within one unit of work.

pub mod batch;
pub mod call;
pub mod context;
pub mod endpoint;
pub mod retry;
pub mod router;
pub mod target;

use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::apigw::{ApiGatewayV2httpRequest, ApiGatewayV2httpResponse};
use http::header::ACCEPT_ENCODING;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use self::call::Call;
use self::endpoint::{Audience, Endpoint};
use self::router::{Redirect, Routed};
use crate::api::Api;
use crate::api::auth::credentials::Credentials;
use crate::api::plugins::admin;
use crate::api::plugins::signer::refresh;
use crate::api::summary::{Outcome, notes};
use crate::api::web::cors::{self, Exposes};
use crate::api::web::error::ApiError;
use crate::api::web::request::Request;
use crate::api::web::response::Response;
use crate::api::web::{cache_control, compression, end_of_service, gateway, origin};
use crate::listeners::NotifyError;
use crate::timestamp::Timestamp;
use crate::unit_of_work::UnitOfWork;

/// The longest time that the listeners that must agree before the commit may take together.
const LISTENERS_TIMEOUT: Duration = Duration::from_secs(12);

/// The result of the first look at a request.
enum Dispatched {
    /// It has an endpoint.
    Call(Call),
    /// It is answered already: refused, redirected, or without any work.
    Answer(Response),
}

impl Api {
    /// Answers one request that came at `received`; every error becomes a response. The outcome is `None` for an event that
    /// is no request.
    pub(super) async fn answer_event(
        &self,
        event: ApiGatewayV2httpRequest,
        received: Instant,
    ) -> (ApiGatewayV2httpResponse, Option<Outcome>) {
        let is_of_schedule = event.route_key.as_deref() == Some(refresh::ROUTE);
        match gateway::request(event) {
            Ok(request) if is_of_schedule => {
                let response = Box::pin(refresh::answer(self, &request)).await;
                (gateway::event(response, false, ""), None)
            }
            Ok(request) => {
                let request = Arc::new(request);
                let accept_encoding = request.header(ACCEPT_ENCODING).unwrap_or_default();
                // Boxed, since callers' futures would be nested deeper than the compiler allows.
                let mut response = Box::pin(self.answer(&request, received)).await;
                cache_control::complete(&request, &self.settings.api, &mut response);
                let outcome = Outcome::new(&request, &response);
                let is_head = request.method == Method::HEAD;
                let event = gateway::event(response, is_head, accept_encoding);
                let is_sent = i64::from(outcome.status) == event.status_code;
                let outcome = if is_sent {
                    outcome
                } else {
                    outcome.too_large()
                };
                (event, Some(outcome))
            }
            Err(error) => {
                let response = error.into_response(&self.settings.api);
                (gateway::event(response.uncached(), false, ""), None)
            }
        }
    }

    /// The endpoint that a request led to.
    pub(super) fn endpoint_of(&self, outcome: &Outcome) -> Option<&'static Endpoint> {
        let served = router::endpoint(&outcome.request.path, &self.endpoints)?;
        Some(served.endpoint)
    }

    /// The path of the row in the table of endpoints that answered, without ids. As Kinto names them: `unknown` for a path
    /// that leads nowhere, `unnamed` for a redirect.
    pub(super) fn route_of(&self, outcome: &Outcome) -> &'static str {
        match self.endpoint_of(outcome) {
            Some(endpoint) => endpoint.path,
            None if admin::serves(&outcome.request, &self.settings.api) => admin::ROUTE,
            None if outcome.status == 404 => "unknown",
            None => "unnamed",
        }
    }

    async fn answer(&self, request: &Arc<Request>, received: Instant) -> Response {
        if let Err(error) = origin::check(request, &self.settings.api) {
            return self.error_response(request, error);
        }
        let answer = match self.find(request).await {
            Ok(Dispatched::Answer(response)) => return response,
            Ok(Dispatched::Call(call)) if call.is_batch() => {
                let response = self.batch(request, received).await;
                response.map(|response| {
                    self.add_common_headers(request, Some(call.exposes()), response)
                })
            }
            Ok(Dispatched::Call(call)) => {
                let responses = self.run_with_retries(&[call], received).await;
                responses.map(|mut responses| responses.swap_remove(0))
            }
            Err(error) => Err(error),
        };
        answer.unwrap_or_else(|error| self.error_response(request, error))
    }

    /// Finds the endpoint of a request, and its credentials.
    ///
    /// # Errors
    /// A server error, which undoes all of a batch. A refusal is a response.
    async fn find(&self, request: &Arc<Request>) -> Result<Dispatched, ApiError> {
        match self.find_call(request).await {
            Ok(Dispatched::Answer(response)) => {
                let response = self.answer_without_call(request, response);
                Ok(Dispatched::Answer(response))
            }
            Err(error) if !error.is_server_error() => {
                Ok(Dispatched::Answer(self.error_response(request, error)))
            }
            found => found,
        }
    }

    async fn find_call(&self, request: &Arc<Request>) -> Result<Dispatched, ApiError> {
        let settings = &self.settings.api;
        let now = Timestamp::now();
        if end_of_service::is_over(settings.web.end_of_service.as_ref(), now) {
            return Err(ApiError::Gone);
        }
        request.check_length()?;
        request.check_encoding()?;
        if let Some(answer) = admin::answer(request, settings) {
            return answer.map(Dispatched::Answer);
        }
        let (endpoint, target) = match router::route(request, settings, &self.endpoints)? {
            Routed::To(endpoint, target) => (endpoint, target),
            // Browsers do not follow the redirect of a preflight.
            Routed::Elsewhere(_)
                if request.method == Method::OPTIONS && !router::has_version(&request.path) =>
            {
                return Ok(Dispatched::Answer(Response::empty(StatusCode::OK)));
            }
            Routed::Elsewhere(Redirect { path, max_age }) => {
                let url = request.url_of(&path);
                return Ok(Dispatched::Answer(Response::redirect(&url, now, max_age)));
            }
        };
        cors::check_origin(request, &settings.web)?;
        if request.method == Method::OPTIONS {
            let methods = endpoint.methods(settings);
            let response = cors::preflight(request, endpoint.exposes, &methods, settings);
            return response.map(Dispatched::Answer);
        }
        let credentials = match endpoint.audience {
            Audience::Everyone => Credentials::default(),
            Audience::Users | Audience::UsersAtOnce => {
                Credentials::of(request, settings, &self.providers).await?
            }
        };
        let call = Call::new(Arc::clone(request), endpoint, target, credentials, settings);
        Ok(Dispatched::Call(call))
    }

    async fn batch(&self, batch: &Request, received: Instant) -> Result<Response, ApiError> {
        let mut calls = vec![];
        // `None` in the place of each call, else the response to a request that needs no call.
        let mut answers = vec![];
        let requests = batch::requests(batch, &self.settings.api)?;
        notes::batch(requests.len());
        for mut request in requests {
            if let Some(Redirect { path, .. }) = router::redirect(&request, &self.settings.api) {
                request.path = path;
            }
            let request = Arc::new(request);
            let answer = match self.find(&request).await? {
                Dispatched::Call(call) => {
                    calls.push(call);
                    None
                }
                Dispatched::Answer(response) => Some(response),
            };
            answers.push((request, answer));
        }
        let mut responses = self.run_with_retries(&calls, received).await?.into_iter();
        let answers = answers.into_iter().filter_map(|(request, answer)| {
            let response = answer.or_else(|| responses.next())?;
            Some((request, response))
        });
        let answers: Vec<_> = answers.collect();
        let outcomes = answers.iter();
        notes::outcomes(outcomes.map(|(request, response)| Outcome::new(request, response)));
        Ok(batch::response(answers))
    }

    /// Asks the listeners that must agree before the commit.
    ///
    /// # Errors
    /// A listener refuses or does not answer: nothing may be written.
    async fn ask_listeners(&self, unit: &UnitOfWork) -> Result<(), ApiError> {
        if self.listeners.is_empty() {
            return Ok(());
        }
        let events = unit.events();
        let asked = self.listeners.notify_all(&events);
        let asked = tokio::time::timeout(LISTENERS_TIMEOUT, asked).await;
        let asked = asked.unwrap_or_else(|_| {
            let late = NotifyError::failed(format!("all of them took {LISTENERS_TIMEOUT:?}"));
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

    /// Answers calls in order.
    ///
    /// # Errors
    /// As [`Self::run_with_retries`]; and when the responses together are too large to be sent, so that nothing may be
    /// committed.
    async fn answer_calls(
        &self,
        calls: &[Call],
        unit: &mut UnitOfWork,
    ) -> Result<Vec<Response>, ApiError> {
        let mut responses = Vec::with_capacity(calls.len());
        let mut length = 0;
        for call in calls {
            let response = match call.answer(self, unit).await {
                Ok(response) => response,
                Err(error) if error.fails_batch() => return Err(error),
                Err(error) => error.into_response(&self.settings.api),
            };
            let response = self.add_common_headers(&call.request, Some(call.exposes()), response);
            length += response.length();
            if length > compression::MAX_BODY && (unit.has_writes() || calls.len() > 1) {
                return Err(ApiError::ResponseTooLarge);
            }
            responses.push(response);
        }
        Ok(responses)
    }

    fn error_response(&self, request: &Request, error: ApiError) -> Response {
        self.answer_without_call(request, error.into_response(&self.settings.api))
    }

    /// Adds the common headers to a response that no call gave.
    fn answer_without_call(&self, request: &Request, response: Response) -> Response {
        let served = router::endpoint(&request.path, &self.endpoints);
        let exposes = match served.filter(|_| response.status() != StatusCode::GONE) {
            Some(served) => served
                .takes(&request.method)
                .then_some(served.endpoint.exposes),
            None => Some(Exposes::Basic),
        };
        self.add_common_headers(request, exposes, response)
    }

    /// Adds the headers that every response has.
    fn add_common_headers(
        &self,
        request: &Request,
        exposes: Option<Exposes>,
        mut response: Response,
    ) -> Response {
        let settings = &self.settings.api;
        let fixed = [
            ("x-content-type-options", "nosniff"),
            (
                "content-security-policy",
                "default-src 'none'; frame-ancestors 'none'; base-uri 'none';",
            ),
        ];
        for (name, value) in fixed {
            let name = HeaderName::from_static(name);
            if !response.headers().contains_key(&name) {
                response.set(name, HeaderValue::from_static(value));
            }
        }
        cors::apply(request, exposes, settings, &mut response);
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
