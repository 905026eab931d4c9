//! Failed notifications: which receiver says what, and what comes of it. A *passing* failure is retried; a *permanent* one
//! is tried a few times more, in case somebody mends the receiver or its settings, and given up.
//!
//! | receiver | passing | permanent |
//! | --- | --- | --- |
//! | HTTP ([`NotifyError::of_http`]) | no answer, 408, 429, 5xx | any other status; 401 and 403 refuse our credentials |
//! | AWS ([`NotifyError::of_aws`]) | no answer, 408, 409, 429, 5xx, throttling | any other 4xx |
//! | an entry of `PutEvents` ([`NotifyError::of_entry`]) | throttling, errors of the service | any other code |
//! | SMTP ([`NotifyError::of_smtp`]) | no answer, 4xx | 5xx; 535 refuses our credentials |
//! | anything else ([`NotifyError::failed`]) | all | none |

use std::error::Error;
use std::time::{Duration, SystemTime};

use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use lettre::transport::smtp;

use crate::error_chain::ErrorChain;
use crate::http_client::parse_retry_after;

/// The answer of SMTP servers that refuse a name or password (RFC 4954).
const AUTHENTICATION_FAILED: u16 = 535;

/// A failed or refused notification.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotifyError {
    /// Before the commit: refuses the write, with this response to the client. After it, when it is too late to refuse,
    /// the same as [`NotifyError::Permanent`].
    #[error("refused with {status}: {message}")]
    Refused {
        /// The HTTP status of the response, 400 to 599.
        status: u16,
        /// Its message.
        message: String,
    },
    /// The notification can never succeed. Before the commit, nothing is written; after it, the event is given up if
    /// the failure persists.
    #[error("{0}")]
    Permanent(String),
    /// The receiver refuses our credentials. As [`NotifyError::Permanent`], but secrets are fetched again.
    #[error("{0}")]
    Unauthorized(String),
    /// The notification failed, or got no answer. Before the commit, nothing is written; after it, it is retried.
    #[error("{message}")]
    Failed {
        /// The failure, for the log.
        message: String,
        /// The pause that the receiver asks for.
        retry_after: Option<Duration>,
    },
}

impl NotifyError {
    /// A passing failure because of `error`.
    pub fn failed(error: impl ToString) -> Self {
        Self::Failed {
            message: error.to_string(),
            retry_after: None,
        }
    }

    /// Returns `true` if it is not expected to pass by itself.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Permanent(_) | Self::Unauthorized(_) => true,
            Self::Failed { .. } => false,
        }
    }

    /// A status of an HTTP server other than 2xx, and the pause that it asks for.
    pub(super) fn of_http(status: u16, message: String, retry_after: Option<Duration>) -> Self {
        match status {
            401 | 403 => Self::Unauthorized(message),
            408 | 429 | 500.. => Self::Failed {
                message,
                retry_after,
            },
            _ => Self::Permanent(message),
        }
    }

    /// A failed AWS call. A 4xx is about the request, which will not change, except for too many requests, or a function
    /// that is being updated (409).
    pub(super) fn of_aws<E>(error: SdkError<E>) -> Self
    where
        E: Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let answer = error.raw_response();
        let status = answer.map_or(0, |answer| answer.status().as_u16());
        let header = answer.and_then(|answer| answer.headers().get("retry-after"));
        let passes = matches!(status, 408 | 409 | 429) || is_throttling(error.code());
        let retry_after = header.and_then(|value| parse_retry_after(value, SystemTime::now()));
        let message = ErrorChain(&error).to_string();
        match status {
            400..500 if !passes => Self::Permanent(message),
            _ => Self::Failed {
                message,
                retry_after,
            },
        }
    }

    /// An entry of `PutEvents` that failed although the request succeeded.
    pub(super) fn of_entry(code: &str, message: &str) -> Self {
        let passes = is_throttling(Some(code)) || code.starts_with("Internal");
        let message = format!("PutEvents: {code}: {message}");
        match passes {
            true => Self::failed(message),
            false => Self::Permanent(message),
        }
    }

    /// A mail that was not sent.
    pub(super) fn of_smtp(error: &smtp::Error) -> Self {
        match error.status().map(u16::from) {
            Some(AUTHENTICATION_FAILED) => Self::Unauthorized(error.to_string()),
            _ if error.is_permanent() => Self::Permanent(error.to_string()),
            _ => Self::failed(error),
        }
    }
}

/// Returns `true` if an error's code means too many requests, for which most services use status 400.
fn is_throttling(code: Option<&str>) -> bool {
    let said = ["Throttl", "TooManyRequests", "LimitExceeded"];
    code.is_some_and(|code| said.iter().any(|said| code.contains(said)))
}
