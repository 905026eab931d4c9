//! Listeners: code that is told of every write, before the commit, when it may refuse it, or after.
//!
//! | `use` | module | tells |
//! | --- | --- | --- |
//! | `sqs` | [`sqs`] | a queue |
//! | `eventbridge` | [`eventbridge`] | an event bus |
//! | `lambda` | [`lambda`] | a Lambda function |
//! | `webhook` | [`webhook`] | a URL, with a signature |
//! | `email` | [`email`] | people, by SMTP |
//! | any other | [`custom`] | whatever you write |

pub mod custom;
pub mod email;
pub mod eventbridge;
pub mod lambda;
pub mod sqs;
pub mod webhook;

use std::error::Error;
use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_sqs::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::event::ResourceChanged;
use crate::http_client::parse_retry_after;
use crate::secrets::RefusedCredentials;
use crate::settings::{ListenerSettings, SettingError, Vars};

/// Characters of a refusal's message that the client is told at most.
const MAX_MESSAGE: usize = 1000;

/// Code that is told of writes.
///
/// It may be told of the same again: after the commit, under the same `id`, until it has said once that it was told;
/// before the commit, under another one, whenever the request has to be done again.
pub trait Listener: Debug + Send + Sync {
    /// Is told of what it hears of an event ([`ListenerSettings::hears`]). Has [`ListenerSettings::timeout`] for it, as
    /// long as it does not block its thread; to panic is to fail.
    fn notify<'a>(&'a self, event: &'a ResourceChanged) -> BoxFuture<'a, Result<(), NotifyError>>;
}

/// What a listener says that was not told, or does not agree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotifyError {
    /// Before the commit: this is not to be written, and the client is answered so. After it, when it is too late for
    /// that, as [`NotifyError::Permanent`].
    #[error("refused with {status}: {message}")]
    Refused {
        /// The HTTP status of the answer, 400 to 599.
        status: u16,
        /// Its message.
        message: String,
    },
    /// It cannot be told, now or later. Before the commit, nothing is written; after it, the event is given up when it
    /// stays so.
    #[error("{0}")]
    Permanent(String),
    /// It does not take our credentials. As [`NotifyError::Permanent`], but secrets are fetched again.
    #[error("{0}")]
    Unauthorized(String),
    /// It could not be told, or did not answer. Before the commit, nothing is written; after it, it is told again.
    #[error("{message}")]
    Failed {
        /// What happened, for the log.
        message: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
}

impl NotifyError {
    /// It could not be told because of `error`.
    pub fn failed(error: impl ToString) -> Self {
        Self::Failed {
            message: error.to_string(),
            retry_after: None,
        }
    }
}

/// The AWS clients of listeners.
#[derive(Clone, Debug)]
pub struct Aws {
    /// Queues.
    pub sqs: aws_sdk_sqs::Client,
    /// Event buses.
    pub eventbridge: aws_sdk_eventbridge::Client,
    /// Functions.
    pub lambda: aws_sdk_lambda::Client,
}

impl Aws {
    /// Clients of one configuration. None is connected before it is used.
    pub fn new(config: &aws_config::SdkConfig) -> Self {
        Self {
            sqs: aws_sdk_sqs::Client::new(config),
            eventbridge: aws_sdk_eventbridge::Client::new(config),
            lambda: lambda::client(config),
        }
    }
}

/// What a listener is made of.
#[derive(Clone, Copy)]
pub struct ListenerContext<'a> {
    /// The settings that all listeners have.
    pub settings: &'a ListenerSettings,
    /// All variables: [`ListenerSettings::variable`] names those of this listener.
    pub vars: &'a Vars,
    /// The AWS clients.
    pub aws: &'a Aws,
}

impl<'a> ListenerContext<'a> {
    /// A setting of the listener, e.g. `URL`.
    pub fn get(&self, setting: &str) -> Option<&'a str> {
        self.vars.get(&self.settings.variable(setting))
    }

    /// A setting of the listener whose default is none: an empty one says the same.
    pub fn text(&self, setting: &str) -> Option<&'a str> {
        self.vars.text(&self.settings.variable(setting))
    }

    /// A setting that the listener needs.
    ///
    /// # Errors
    /// Names the variable that is missing.
    pub fn require(&self, setting: &str) -> Result<&'a str, SettingError> {
        self.vars.require(&self.settings.variable(setting))
    }

    /// That the value of a setting cannot be.
    pub fn wrong(&self, setting: &str, problem: impl Into<String>) -> SettingError {
        SettingError::new(self.settings.variable(setting), problem)
    }
}

/// Makes a listener.
///
/// # Errors
/// Names the setting that is missing or wrong.
pub type ListenerFactory = fn(ListenerContext<'_>) -> Result<Arc<dyn Listener>, SettingError>;

/// The listeners that are there without a line of code.
const BUILT_IN: [(&str, ListenerFactory); 5] = [
    ("sqs", sqs::build),
    ("eventbridge", eventbridge::build),
    ("lambda", lambda::build),
    ("webhook", webhook::build),
    ("email", email::build),
];

/// Listeners with their settings.
#[derive(Clone, Debug, Default)]
pub struct Listeners {
    all: Arc<[(ListenerSettings, Arc<dyn Listener>)]>,
    refused: RefusedCredentials,
}

impl Listeners {
    /// Makes the listeners, by [`custom`] code or by what is built in.
    ///
    /// # Errors
    /// Names the setting that is missing or wrong; `use` when it names no code.
    pub fn new(
        settings: impl IntoIterator<Item = ListenerSettings>,
        vars: &Vars,
        aws: &Aws,
        custom: &[(&str, ListenerFactory)],
    ) -> Result<Self, SettingError> {
        let listeners = settings.into_iter().map(|settings| {
            let context = ListenerContext {
                settings: &settings,
                vars,
                aws,
            };
            let mut known = custom.iter().chain(&BUILT_IN);
            let (_, build) = known
                .find(|(code, _)| *code == settings.code)
                .ok_or_else(|| {
                    context.wrong("USE", format!("there is no listener `{}`", settings.code))
                })?;
            let listener = build(context)?;
            Ok((settings, listener))
        });
        listeners.collect()
    }

    /// The same, which note where a listener does not take our credentials.
    #[must_use]
    pub fn noting(self, refused: RefusedCredentials) -> Self {
        Self { refused, ..self }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The settings of each.
    pub fn settings(&self) -> impl Iterator<Item = &ListenerSettings> {
        self.all.iter().map(|(settings, _)| settings)
    }

    /// Tells each of them of what it hears of the events, one after the other, as Kinto does.
    ///
    /// # Errors
    /// The first that refuses, or cannot be told, with its name.
    pub async fn notify_all(
        &self,
        events: &[ResourceChanged],
    ) -> Result<(), (String, NotifyError)> {
        for event in events {
            for (settings, listener) in self.all.iter() {
                if let Some(heard) = settings.hears(event) {
                    let told = self.told_in_time(settings, &**listener, &heard).await;
                    told.map_err(|error| (settings.name.clone(), error))?;
                }
            }
        }
        Ok(())
    }

    /// Tells the one called `name` of what it hears of the events, in their order. `None` when there is no such one.
    ///
    /// # Errors
    /// The first event that it could not be told of; of those behind it it was not told.
    pub async fn notify(
        &self,
        name: &str,
        events: &[ResourceChanged],
    ) -> Option<Result<(), NotifyError>> {
        let mut listeners = self.all.iter();
        let (settings, listener) = listeners.find(|(settings, _)| settings.name == name)?;
        for event in events.iter().filter_map(|event| settings.hears(event)) {
            if let Err(error) = self.told_in_time(settings, &**listener, &event).await {
                return Some(Err(error));
            }
        }
        Some(Ok(()))
    }

    async fn told_in_time(
        &self,
        settings: &ListenerSettings,
        listener: &dyn Listener,
        event: &ResourceChanged,
    ) -> Result<(), NotifyError> {
        // A function that panics starts anew, with it whatever else it was doing.
        let told = AssertUnwindSafe(async { listener.notify(event).await }).catch_unwind();
        match tokio::time::timeout(settings.timeout, told).await {
            Ok(Ok(told)) => {
                if let Err(NotifyError::Unauthorized(_)) = told {
                    self.refused.note();
                }
                told
            }
            Ok(Err(_)) => Err(NotifyError::failed("its code panicked")),
            Err(_) => {
                let late = format!("no answer within {:?}", settings.timeout);
                Err(NotifyError::failed(late))
            }
        }
    }
}

impl FromIterator<(ListenerSettings, Arc<dyn Listener>)> for Listeners {
    fn from_iter<I: IntoIterator<Item = (ListenerSettings, Arc<dyn Listener>)>>(all: I) -> Self {
        Self {
            all: all.into_iter().collect(),
            refused: RefusedCredentials::default(),
        }
    }
}

/// What the failure of a call of AWS means. A 4xx is about the request, which stays as it is; but for those that are
/// about how many there are, or about a function that is just being changed (409).
fn aws_failed<E>(error: SdkError<E>) -> NotifyError
where
    E: Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let answer = error.raw_response();
    let status = answer.map_or(0, |answer| answer.status().as_u16());
    let header = answer.and_then(|answer| answer.headers().get("retry-after"));
    let passes = matches!(status, 408 | 409 | 429) || is_throttling(error.code());
    let retry_after = header.and_then(|value| parse_retry_after(value, SystemTime::now()));
    let message = DisplayErrorContext(error).to_string();
    if (400..500).contains(&status) && !passes {
        return NotifyError::Permanent(message);
    }
    NotifyError::Failed {
        message,
        retry_after,
    }
}

/// Whether an error's code says that there are too many requests, as most services do with a 400.
fn is_throttling(code: Option<&str>) -> bool {
    let said = ["Throttl", "TooManyRequests", "LimitExceeded"];
    code.is_some_and(|code| said.iter().any(|said| code.contains(said)))
}

/// What a function or webhook answers: nothing in particular, or a refusal, e.g.
/// `{"refused": {"status": 403, "message": "…"}}`. Anything there but `null` and `false` refuses; what is no JSON
/// object says nothing.
fn read_answer(body: &[u8]) -> Result<(), NotifyError> {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let refused = match answer.get("refused") {
        None | Some(Value::Null | Value::Bool(false)) => return Ok(()),
        Some(refused) => refused,
    };
    let status = refused["status"].as_u64();
    let status = status.and_then(|status| u16::try_from(status).ok());
    let message = refused["message"].as_str();
    let message = message.unwrap_or("Refused by a listener");
    Err(NotifyError::Refused {
        status: status
            .filter(|status| (400..600).contains(status))
            .unwrap_or(403),
        message: message.chars().take(MAX_MESSAGE).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(answer: &str) -> Option<(u16, String)> {
        match read_answer(answer.as_bytes()) {
            Ok(()) => None,
            Err(NotifyError::Refused { status, message }) => Some((status, message)),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn an_answer_refuses_when_it_says_so() {
        let full = r#"{"refused": {"status": 409, "message": "No!"}}"#;
        assert_eq!(refused(full), Some((409, "No!".to_owned())));
        for agreement in [
            "",
            "null",
            "ok",
            "[]",
            "{}",
            r#"{"refused": null}"#,
            r#"{"refused": false}"#,
        ] {
            assert_eq!(refused(agreement), None, "{agreement}");
        }
    }

    #[test]
    fn a_refusal_with_something_wrong_in_it_is_one() {
        let usual = Some((403, "Refused by a listener".to_owned()));
        for wrong in [
            "true",
            "{}",
            r#"{"status": 200}"#,
            r#"{"status": "x", "message": 1}"#,
            "[]",
        ] {
            assert_eq!(
                refused(&format!(r#"{{"refused": {wrong}}}"#)),
                usual,
                "{wrong}"
            );
        }
        let long = format!(r#"{{"refused": {{"message": "{}"}}}}"#, "x".repeat(10_000));
        assert_eq!(refused(&long).unwrap().1.len(), MAX_MESSAGE);
    }
}
