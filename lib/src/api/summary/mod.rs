//! The summary of an answered request: a line of the log ([`request_log`]), and metrics ([`counts`]; for
//! Prometheus, [`prometheus`]).
//!
//! Where none of these is wanted, nothing is noted, measured or asked for.

mod counts;
pub mod notes;
mod request_log;

use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::apigw::{ApiGatewayV2httpRequest, ApiGatewayV2httpResponse};
use tokio::time::Instant;

use self::notes::Notes;
use self::request_log::{RequestLog, TARGET};
use crate::api::Api;
use crate::api::plugins::prometheus;
use crate::api::plugins::prometheus::registry::{CountedRequest, Registry};
use crate::api::web::error::ApiError;
use crate::api::web::request::Request;
use crate::api::web::response::Response;
use crate::metrics::Metrics;
use crate::settings::ApiSettings;
use crate::store::capacity::{self, Capacity};

/// The receivers of summaries of requests.
#[derive(Clone, Debug)]
pub struct Observers {
    request_log: Option<Arc<RequestLog>>,
    metrics: Metrics,
    prometheus: Option<Arc<Registry>>,
}

/// The outcome of a request, or of one in a batch.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The request.
    pub request: Arc<Request>,
    /// Its HTTP status.
    pub status: u16,
    /// Kinto's number of its error; 0 where there is none.
    pub errno: u16,
    /// The kind of a server error.
    pub failure: Option<&'static str>,
    /// The length of its response in bytes, uncompressed.
    pub length: usize,
}

/// The summary of one request.
#[derive(Debug)]
struct Summary<'a> {
    outcome: &'a Outcome,
    /// The path of its row in the table of endpoints, which has no ids.
    route: &'static str,
    /// API Gateway's id of the request, which its access log has too.
    request_id: Option<&'a str>,
    milliseconds: u64,
    notes: &'a Notes,
    capacity: Capacity,
}

impl Observers {
    /// Those that the settings name; metrics are published by [`Self::publishing`].
    pub fn new(settings: &ApiSettings) -> Self {
        let request_log = settings.request_log.then(|| RequestLog::new(settings));
        Self {
            request_log: request_log.map(Arc::new),
            metrics: Metrics::default(),
            prometheus: settings
                .prometheus
                .clone()
                .map(|it| Arc::new(Registry::new(it))),
        }
    }

    /// The same, with metrics.
    pub fn publishing(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Whether the capacity that requests consume is told.
    pub fn want_capacity(&self) -> bool {
        self.request_log.is_some()
    }

    /// Whether there is anybody to tell.
    fn exist(&self) -> bool {
        self.log_requests() || self.metrics.counts() || self.prometheus.is_some()
    }

    /// Whether lines of requests are asked for, and the level of the log lets them pass.
    fn log_requests(&self) -> bool {
        self.request_log.is_some() && tracing::enabled!(target: TARGET, tracing::Level::INFO)
    }

    /// The counters for Prometheus; `None` where the plugin is off.
    pub fn prometheus(&self) -> Option<&Registry> {
        self.prometheus.as_deref()
    }
}

impl Outcome {
    /// That of `request`, which this response answers.
    pub fn new(request: &Arc<Request>, response: &Response) -> Self {
        Self {
            request: Arc::clone(request),
            status: response.status().as_u16(),
            errno: response.errno(),
            failure: response.failure(),
            length: response.length(),
        }
    }

    /// That of the request when its response is too large to be sent.
    pub fn too_large(self) -> Self {
        let refusal = ApiError::ResponseTooLarge;
        Self {
            status: refusal.status().as_u16(),
            errno: refusal.errno(),
            ..self
        }
    }

    /// Its method, one of those of HTTP: a client may make up others.
    fn method(&self) -> &'static str {
        const KNOWN: [&str; 8] = [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE",
        ];
        let method = self.request.method.as_str();
        let known = KNOWN.into_iter().find(|known| *known == method);
        known.unwrap_or("OTHER")
    }

    /// Whether it may have written something, and was not refused.
    fn is_write(&self) -> bool {
        !self.request.method.is_safe() && (200..300).contains(&self.status)
    }
}

impl Summary<'_> {
    /// How the user was known: what their id begins with.
    fn policy(&self) -> Option<&str> {
        let (policy, _) = self.notes.user_id.as_deref()?.split_once(':')?;
        Some(policy)
    }

    /// The outcomes of the requests in a batch, or of the only one. A batch that failed as a whole is one.
    fn outcomes(&self) -> &[Outcome] {
        match self.notes.batch_size {
            Some(_) if self.outcome.status < 400 => &self.notes.outcomes,
            _ => std::slice::from_ref(self.outcome),
        }
    }
}

impl Api {
    /// Answers one request; every error becomes a response.
    pub async fn handle(&self, event: ApiGatewayV2httpRequest) -> ApiGatewayV2httpResponse {
        let received = Instant::now();
        let observed = self.observers.exist();
        let request_id = event.request_context.request_id.as_ref();
        let request_id = request_id.filter(|_| observed).cloned();
        // Boxed, since each caller's future would hold it, and more than once.
        let answered = Box::pin(self.answer_event(event, received));
        if !observed {
            return answered.await.0;
        }
        let answered = notes::noted_by(answered);
        let ((answer, notes), capacity) = if self.observers.log_requests() {
            capacity::consumed_by(answered).await
        } else {
            (answered.await, Capacity::default())
        };
        let (response, outcome) = answer;
        if let Some(outcome) = outcome {
            let summary = Summary {
                route: self.route_of(&outcome),
                outcome: &outcome,
                request_id: request_id.as_deref(),
                milliseconds: u64::try_from(received.elapsed().as_millis()).unwrap_or(u64::MAX),
                notes: &notes,
                capacity,
            };
            if let Some(log) = &self.observers.request_log {
                log.write(&summary);
            }
            counts::count(&self.observers.metrics, &summary);
            if let Some(registry) = self.observers.prometheus() {
                self.count_for(registry, &summary, received.elapsed());
            }
        }
        response
    }

    /// Counts a request, and each of a batch, as Kinto does.
    fn count_for(&self, registry: &Registry, summary: &Summary<'_>, took: Duration) {
        let count = |outcome: &Outcome, took| {
            let endpoint = self.endpoint_of(outcome);
            let name = endpoint.map(prometheus::name_of);
            registry.count(CountedRequest {
                method: outcome.method(),
                endpoint: name.as_deref().unwrap_or_else(|| self.route_of(outcome)),
                ids: match endpoint {
                    Some(endpoint) if outcome.status < 400 => {
                        prometheus::ids_of(endpoint, &outcome.request.path)
                    }
                    _ => vec![],
                },
                status: outcome.status,
                took,
                length: outcome.length,
            });
        };
        count(summary.outcome, Some(took));
        for outcome in &summary.notes.outcomes {
            count(outcome, None);
        }
        let policy = summary.policy();
        policy.inspect(|policy| registry.authenticated(policy));
        let Notes {
            attempts, turns, ..
        } = summary.notes;
        registry.contended(attempts.saturating_sub(1), *turns);
    }
}
