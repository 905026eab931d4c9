//! Errors: every refusal and failure, with its status.

mod response;

use http::{Method, StatusCode};
use serde_json::Value;

use crate::api::plugins::openid::provider::ProviderError;
use crate::listeners::NotifyError;
use crate::resource::{Kind, ObjectUri};
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
}
