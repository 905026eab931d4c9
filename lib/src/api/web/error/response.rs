//! The response to an error, in Kinto's form: `{code, errno, error, message, details}`.

use http::header::{ALLOW, ETAG, LAST_MODIFIED, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{ApiError, CONTENTION, Detail, Location};
use crate::api::web::response::Response;
use crate::settings::{ApiSettings, Policy};
use crate::unit_of_work::Exhausted;

impl ApiError {
    /// The extent to which a request that is answered with 503 was written; `None` for other errors, and for those of
    /// listeners.
    fn written(&self) -> Option<&'static str> {
        match self {
            Self::Unknown(_) => Some("unknown"),
            Self::PartlyWritten => Some("partly"),
            Self::Vetoed { .. } => None,
            error => (error.status() == StatusCode::SERVICE_UNAVAILABLE).then_some("nothing"),
        }
    }

    /// Kinto's stable error number (Kinto 26.5: API documentation, error responses).
    pub fn errno(&self) -> u16 {
        match self {
            Self::NotAcceptable | Self::UnsupportedMediaType { .. } => 107,
            Self::Review {
                is_forbidden: false,
                ..
            } => 109,
            Self::UnknownObject { .. } => 110,
            Self::PreconditionFailed { .. } => 114,
            Self::MethodNotAllowed { .. } => 115,
            Self::UnknownVersion => 116,
            error => errno_of(error.status()),
        }
    }

    /// The kind of a server error, for logs and metrics; `None` for a refusal.
    fn failure(&self) -> Option<&'static str> {
        let failure = match self {
            Self::Busy | Self::Overtaken => CONTENTION,
            Self::Signing(_) => "signing",
            Self::PartlyWritten => "partly written",
            Self::Unknown(_) => "unknown outcome",
            Self::Full { .. } => "partition full",
            Self::Listener { .. } | Self::Vetoed { .. } => "listener",
            Self::Provider(_) => "identity provider",
            Self::Store(_) => "storage",
            _ => "other",
        };
        self.is_server_error().then_some(failure)
    }

    fn details(&self) -> Vec<Detail> {
        let not_one_of = |header: &str, types: &[&str]| {
            vec![Detail::new(
                Location::Header,
                header,
                format!("{header} header must be one of {}", types.join(", ")),
            )]
        };
        match self {
            Self::Invalid(details) => {
                let mut details = details.clone();
                details.sort_by(|a, b| a.name.cmp(&b.name));
                details
            }
            Self::NotAcceptable => not_one_of("Accept", &["application/json"]),
            Self::UnsupportedMediaType { accepted } => not_one_of("Content-Type", accepted),
            _ => vec![],
        }
    }

    /// The body, in Kinto's JSON.
    pub fn body(&self) -> Value {
        let details = self.details();
        let invalid = details.first().map(Detail::message);
        let status = self.status();
        let error = if invalid.is_some() {
            "Invalid parameters"
        } else {
            status.canonical_reason().unwrap_or_default()
        };
        let message = invalid.or_else(|| {
            let message = match self {
                Self::Forbidden {
                    authenticated: false,
                } => "Authentication is required here.",
                Self::Forbidden {
                    authenticated: true,
                } => "You are not allowed to do this here.",
                Self::Reserved(reason) => reason,
                Self::Review { message, .. } => message,
                Self::UnknownPath => "There is nothing at this path.",
                Self::UnknownVersion => "This server does not have that version of the API.",
                Self::MethodNotAllowed { .. } => "This endpoint does not take that method.",
                Self::PreconditionFailed { .. } => "Resource was modified meanwhile",
                Self::TooLarge => "The object is larger than 400 KB, the most that can be stored.",
                Self::TooManyValues => {
                    "The body has more than 400,000 values, of which an object counts for seven."
                }
                Self::Exhausted(Exhausted::Reading) => {
                    "This request reads too much of lists. Ask for less at once: use _since and _before, or put fewer requests into a batch."
                }
                Self::Exhausted(Exhausted::Passwords) => {
                    "A request may check one password for each account, and check or set 4 passwords in all."
                }
                Self::RequestTooLarge => {
                    "This request writes too much at once: the limits are 4 MB, and changes of 5,000 members of groups. Put fewer requests into a batch, or ask for less at once with _limit."
                }
                Self::TooLargeToPublish => {
                    "The records of this collection are larger than 24 MB, the most that is published together. Delete records, or move some of them to another collection."
                }
                Self::TooManyObjects => {
                    "This user has permissions on, or is in, more than 10,000 objects, the most that one request deletes or changes. Delete collections, buckets or groups of theirs first, then send this again."
                }
                Self::ResponseTooLarge => {
                    "The response is larger than can be sent. Ask for less at once: use _limit, _since or pages of a list, or put fewer requests into a batch."
                }
                Self::Gone => "This service has ended, see the Alert header.",
                Self::Signing(_) => "The signature failed, and nothing was written, please retry.",
                Self::Busy | Self::Overtaken => "Too many writes came at once, and nothing was written. Please retry.",
                Self::PartlyWritten => {
                    "A part of this was written, and the rest was not, or may not have been. Check what was written before you retry."
                }
                Self::Unknown(_) => {
                    "The storage did not say in time whether this was written. Check whether it was before you retry."
                }
                Self::Full { .. } => {
                    "The storage can hold no more here, and nothing was written. A retry does not help."
                }
                Self::Listener { .. } => {
                    "A required listener is unavailable, and nothing was written. Please retry."
                }
                Self::Vetoed { message, .. } => message,
                Self::Provider(_) => "The identity provider is not available. Please retry.",
                Self::Store(_) if status == StatusCode::INTERNAL_SERVER_ERROR => {
                    "This server has a fault, and nothing was written. A retry does not help."
                }
                Self::Store(_) => {
                    "The storage is not available, and nothing was written. Please retry."
                }
                _ => return None,
            };
            Some(message.to_owned())
        });
        let mut body = json!({"code": status.as_u16(), "errno": self.errno(), "error": error});
        if let Some(message) = message {
            body["message"] = message.into();
        }
        if !details.is_empty() {
            let as_json = |d: Detail| json!({"location": d.location.name(), "name": d.name, "description": d.description});
            body["details"] = details.into_iter().map(as_json).collect();
        }
        match self {
            Self::UnknownObject { kind, id } | Self::UnknownParent { kind, id } => {
                body["details"] = json!({"id": id, "resource_name": kind.name()});
            }
            Self::PreconditionFailed {
                existing: Some(existing),
                ..
            } => body["details"] = json!({"existing": existing}),
            error => {
                if let Some(written) = error.written() {
                    body["details"] = json!({"written": written});
                }
            }
        }
        body
    }

    /// The response for the client, without internal details, which are logged.
    pub fn into_response(self, settings: &ApiSettings) -> Response {
        match &self {
            Self::Store(error) => tracing::error!(%error, "storage failed"),
            Self::Unknown(error) => tracing::error!(%error, "the outcome of a write is not known"),
            // No error: the table and this server do what they should, and a retry helps. An alarm counts errors.
            Self::Busy | Self::Overtaken => {
                tracing::warn!(failure = CONTENTION, "too many writes came at once");
            }
            // An alarm looks for these words (template.yaml).
            Self::Full { partition } => {
                tracing::error!(partition, "a partition of the table is full");
            }
            _ => {}
        }
        if let Self::Provider(error) = &self {
            let source = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(%error, source, "identity provider failed");
        }
        if let Self::Signing(error) = &self {
            let source = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(%error, source, "signing failed");
        }
        if let Self::Listener { .. } = &self {
            tracing::error!(error = %self, "a listener failed");
        }
        let response = Response::json(self.status(), &self.body());
        let mut response = response.for_error(self.errno(), self.failure());
        match self {
            Self::Forbidden {
                authenticated: false,
            } => {
                let mut schemes: Vec<_> = settings.policies.iter().map(Policy::scheme).collect();
                schemes.dedup();
                let challenges: Vec<_> = schemes
                    .iter()
                    .map(|scheme| format!("{scheme} realm=\"Realm\""))
                    .collect();
                response.set_text(WWW_AUTHENTICATE, &challenges.join(", "));
            }
            Self::MethodNotAllowed { allow } => {
                let methods: Vec<&str> = allow.iter().map(Method::as_str).collect();
                response.set_text(ALLOW, &methods.join(", "));
            }
            Self::PreconditionFailed {
                current: Some(current),
                ..
            } => {
                response.set_text(ETAG, &current.etag());
                response.set_text(LAST_MODIFIED, &current.http_date());
            }
            Self::Vetoed { .. } => {}
            _ if response.status() == StatusCode::SERVICE_UNAVAILABLE => {
                response.set_text(RETRY_AFTER, &settings.retry_after_seconds.to_string());
            }
            _ => {}
        }
        response
    }
}

/// The error number for the status of a listener (Kinto 26.5: what each number stands for).
fn errno_of(status: StatusCode) -> u16 {
    match status {
        StatusCode::BAD_REQUEST => 107,
        StatusCode::UNAUTHORIZED => 104,
        StatusCode::FORBIDDEN => 121,
        StatusCode::NOT_FOUND => 111,
        StatusCode::CONFLICT => 122,
        StatusCode::GONE => 202,
        StatusCode::PAYLOAD_TOO_LARGE => 113,
        StatusCode::TOO_MANY_REQUESTS => 117,
        StatusCode::SERVICE_UNAVAILABLE => 201,
        _ => 999,
    }
}
