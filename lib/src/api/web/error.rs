//! Errors, in Kinto's form: `{code, errno, error, message, details}`.

use http::header::{ALLOW, ETAG, LAST_MODIFIED, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api::plugins::openid::provider::ProviderError;
use crate::api::web::response::Response;
use crate::listeners::NotifyError;
use crate::resource::{Kind, ObjectUri};
use crate::settings::{ApiSettings, Policy};
use crate::signer::keys;
use crate::store::{CommitError, StoreError};
use crate::timestamp::Timestamp;
use crate::unit_of_work::Exhausted;

/// The part of a request that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// The body.
    Body,
    /// A header.
    Header,
    /// The path.
    Path,
    /// The query string.
    Querystring,
}

impl Location {
    /// Kinto's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Header => "header",
            Self::Path => "path",
            Self::Querystring => "querystring",
        }
    }
}

/// One of Kinto's `details`: the place of an error in a request, and its description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail {
    /// The part of the request.
    pub location: Location,
    /// The field; `None` where the location says it all.
    pub name: Option<String>,
    /// The description of what is wrong.
    pub description: String,
}

impl Detail {
    /// `name` in `location` is wrong, as `description` says.
    pub fn new(
        location: Location,
        name: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        Self {
            location,
            name: Some(name.into()),
            description: description.into(),
        }
    }

    /// The sentence for this detail alone.
    fn message(&self) -> String {
        match self.name.as_deref() {
            Some(name) if self.description.contains(name) => self.description.clone(),
            Some(name) => format!("{name} in {}: {}", self.location.name(), self.description),
            None => format!("{}: {}", self.location.name(), self.description),
        }
    }
}

/// The kind of a 503 after which a retry helps: others wrote the same.
pub const CONTENTION: &str = "contention";

/// Every way in which the API refuses or fails a request.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The user may not do this: 401 without valid credentials, else 403.
    #[error("forbidden")]
    Forbidden {
        /// Whether the request carried valid credentials.
        authenticated: bool,
    },
    /// Nobody may do this, for the reason given: 403.
    #[error("{0}")]
    Reserved(&'static str),
    /// A source may not be written so, or what is published may not: 403, or 400 with errno 109. All of a batch is taken
    /// back.
    #[error("{message}")]
    Review {
        /// Whether it is 403.
        is_forbidden: bool,
        /// What is told.
        message: String,
    },
    /// What was read changed while it was worked with, and nothing was written: it is done again, 503 when that took too
    /// long.
    #[error("something was written meanwhile")]
    Overtaken,
    /// The signature failed, and nothing was written: 503.
    #[error("signing failed")]
    Signing(#[source] keys::Error),
    /// The object does not exist: 404, errno 110.
    #[error("unknown {} {id}", kind.name())]
    UnknownObject {
        /// Its kind.
        kind: Kind,
        /// Its id.
        id: String,
    },
    /// A parent of the object does not exist: 404, errno 111.
    #[error("unknown parent {} {id}", kind.name())]
    UnknownParent {
        /// The kind of the missing parent.
        kind: Kind,
        /// Its id.
        id: String,
    },
    /// There is no such endpoint: 404, errno 111.
    #[error("unknown path")]
    UnknownPath,
    /// There is no such version of the API: 404, errno 116.
    #[error("unknown version")]
    UnknownVersion,
    /// The endpoint does not take this method: 405.
    #[error("method not allowed")]
    MethodNotAllowed {
        /// The methods that it takes.
        allow: Vec<Method>,
    },
    /// The `Accept` header rules JSON out: 406.
    #[error("not acceptable")]
    NotAcceptable,
    /// The body is not of a type that the endpoint takes: 415.
    #[error("unsupported media type")]
    UnsupportedMediaType {
        /// The types that it takes.
        accepted: &'static [&'static str],
    },
    /// A parameter is wrong: 400, errno 107. Never empty.
    #[error("invalid parameters")]
    Invalid(Vec<Detail>),
    /// `If-Match` or `If-None-Match` is not met: 412.
    #[error("modified meanwhile")]
    PreconditionFailed {
        /// The timestamp of the object, or of the list when there is no such object; `None` for a user who may not read
        /// it.
        current: Option<Timestamp>,
        /// The object, without permissions; `None` for a user who may not read it.
        existing: Option<Value>,
    },
    /// The object would be larger than the storage takes: 413.
    #[error("object too large")]
    TooLarge,
    /// The body has more values than may be held at once: 413.
    #[error("too many values")]
    TooManyValues,
    /// The request has used up what one may cost: 413.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// The writes are larger than one transaction can be: 413.
    #[error("request too large")]
    RequestTooLarge,
    /// The records of a collection are more than are published together: 413.
    #[error("too many records to publish")]
    TooLargeToPublish,
    /// A user is to be deleted who has a permission on, or is in the group of, more objects than one request changes: 413.
    #[error("too many objects of a user")]
    TooManyObjects,
    /// The response is larger than Lambda can send, and nothing was done: 413.
    #[error("response too large")]
    ResponseTooLarge,
    /// The service has ended: 410.
    #[error("the service has ended")]
    Gone,
    /// Writes by others came between again and again, or DynamoDB throttled, and nothing was written: 503, worth a
    /// retry.
    #[error("too many concurrent writes")]
    Busy,
    /// A large write was committed in part: 503.
    #[error("a large write was committed in part")]
    PartlyWritten,
    /// The write may have been committed, or may yet be; DynamoDB did not say by the end of the request's time: 503.
    #[error("the outcome of a write is not known: {0}")]
    Unknown(#[source] StoreError),
    /// The partition to write to is full: 507.
    #[error("a partition of the table is full")]
    Full {
        /// Its key, where it is known. Not for clients.
        partition: Option<String>,
    },
    /// A listener refuses the write: its own status, with its message.
    #[error("refused by a listener: {message}")]
    Vetoed {
        /// 400 to 599.
        status: StatusCode,
        /// Its message.
        message: String,
    },
    /// A listener that must agree did not answer: 503, worth a retry.
    #[error("listener {listener}: {error}")]
    Listener {
        /// Its name.
        listener: String,
        /// The failure.
        error: NotifyError,
    },
    /// An identity provider failed: 503, worth a retry.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The storage failed, and nothing was written: 503, worth a retry; 500 where a retry would not help.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::TooMuch => Self::ResponseTooLarge,
            error => Self::Store(error),
        }
    }
}

impl From<CommitError> for ApiError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict | CommitError::Contended { .. } => Self::Busy,
            CommitError::Partial => Self::PartlyWritten,
            CommitError::TooManyGroups { principal } => {
                let problem = format!("{principal} is in too many groups of this bucket");
                Self::invalid(Location::Body, "data.members", problem)
            }
            CommitError::TooLarge => Self::RequestTooLarge,
            CommitError::Full { partition } => Self::Full { partition },
            CommitError::Unknown(error) => Self::Unknown(error),
            CommitError::Store(error) => error.into(),
        }
    }
}

impl ApiError {
    /// One parameter is wrong.
    pub fn invalid(
        location: Location,
        name: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        Self::Invalid(vec![Detail::new(location, name, description)])
    }

    /// Something in `location` that has no name of its own is wrong.
    pub fn invalid_unnamed(location: Location, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Detail {
            location,
            name: None,
            description: description.into(),
        }])
    }

    /// The parent of the requested object does not exist, or its id is invalid.
    pub fn unknown_parent(uri: &ObjectUri) -> Self {
        Self::UnknownParent {
            kind: uri.kind(),
            id: uri.id().to_owned(),
        }
    }

    /// The id in the path, or in a posted body, is invalid.
    pub fn invalid_id() -> Self {
        Self::invalid_unnamed(Location::Path, "Invalid object id")
    }

    /// The 412 of a list with this timestamp.
    pub fn precondition_failed(timestamp: Timestamp) -> Self {
        Self::PreconditionFailed {
            current: Some(timestamp),
            existing: None,
        }
    }

    /// Returns `true` for a server error (5xx), which fails a whole batch; `false` for a refusal.
    pub fn is_server_error(&self) -> bool {
        self.status().is_server_error()
    }

    /// Whether it takes back all of a batch, not its own request alone.
    pub fn fails_batch(&self) -> bool {
        self.is_server_error() || matches!(self, Self::Review { .. })
    }

    /// Its HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Forbidden {
                authenticated: false,
            } => StatusCode::UNAUTHORIZED,
            Self::Forbidden {
                authenticated: true,
            }
            | Self::Reserved(_)
            | Self::Review {
                is_forbidden: true, ..
            } => StatusCode::FORBIDDEN,
            Self::UnknownObject { .. }
            | Self::UnknownParent { .. }
            | Self::UnknownPath
            | Self::UnknownVersion => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::UnsupportedMediaType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid(_)
            | Self::Review {
                is_forbidden: false,
                ..
            } => StatusCode::BAD_REQUEST,
            Self::PreconditionFailed { .. } => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge
            | Self::TooManyValues
            | Self::Exhausted(_)
            | Self::RequestTooLarge
            | Self::TooLargeToPublish
            | Self::TooManyObjects
            | Self::ResponseTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Gone => StatusCode::GONE,
            Self::Vetoed { status, .. } => *status,
            Self::Full { .. } => StatusCode::INSUFFICIENT_STORAGE,
            Self::Store(StoreError::Invalid { .. } | StoreError::Malformed { .. }) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Busy
            | Self::Overtaken
            | Self::Signing(_)
            | Self::PartlyWritten
            | Self::Unknown(_)
            | Self::Listener { .. }
            | Self::Provider(_)
            | Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

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
            Self::Forbidden {
                authenticated: false,
            } => 104,
            Self::NotAcceptable | Self::UnsupportedMediaType { .. } | Self::Invalid(_) => 107,
            Self::UnknownObject { .. } => 110,
            Self::UnknownParent { .. } | Self::UnknownPath => 111,
            Self::TooLarge
            | Self::TooManyValues
            | Self::Exhausted(_)
            | Self::RequestTooLarge
            | Self::TooLargeToPublish
            | Self::TooManyObjects
            | Self::ResponseTooLarge => 113,
            Self::PreconditionFailed { .. } => 114,
            Self::MethodNotAllowed { .. } => 115,
            Self::UnknownVersion => 116,
            Self::Forbidden {
                authenticated: true,
            }
            | Self::Reserved(_)
            | Self::Review {
                is_forbidden: true, ..
            } => 121,
            Self::Review {
                is_forbidden: false,
                ..
            } => 109,
            Self::Gone => 202,
            Self::Vetoed { status, .. } => errno_of(*status),
            Self::Busy
            | Self::Overtaken
            | Self::Signing(_)
            | Self::PartlyWritten
            | Self::Unknown(_)
            | Self::Full { .. }
            | Self::Listener { .. }
            | Self::Provider(_)
            | Self::Store(_) => errno_of(self.status()),
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
