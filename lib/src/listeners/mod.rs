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

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Deserialize;

use crate::event::ResourceChanged;
use crate::settings::{ListenerSettings, SettingError, Vars};

/// Code that is told of writes.
///
/// It may be told of the same again: after the commit, under the same `id`, until it has said once that it was told;
/// before the commit, under another one, whenever the request has to be done again.
pub trait Listener: Debug + Send + Sync {
    /// Is told of what it hears of an event ([`ListenerSettings::hears`]). Has [`ListenerSettings::timeout`] for it.
    fn notify<'a>(&'a self, event: &'a ResourceChanged) -> BoxFuture<'a, Result<(), NotifyError>>;
}

/// What a listener says that was not told, or does not agree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotifyError {
    /// Before the commit: this is not to be written, and the client is answered so. After it, when it is too late for
    /// that, as [`NotifyError::Gone`].
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
    Gone(String),
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
pub struct Parts<'a> {
    /// The settings that all listeners have.
    pub settings: &'a ListenerSettings,
    /// All variables: [`ListenerSettings::variable`] names those of this listener.
    pub vars: &'a Vars,
    /// The AWS clients.
    pub aws: &'a Aws,
}

impl<'a> Parts<'a> {
    /// A setting of the listener, e.g. `URL`.
    pub fn get(&self, setting: &str) -> Option<&'a str> {
        self.vars.get(&self.settings.variable(setting))
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
pub type Make = fn(Parts<'_>) -> Result<Arc<dyn Listener>, SettingError>;

/// The listeners that are there without a line of code.
const BUILT_IN: [(&str, Make); 5] = [
    ("sqs", sqs::make),
    ("eventbridge", eventbridge::make),
    ("lambda", lambda::make),
    ("webhook", webhook::make),
    ("email", email::make),
];

/// Listeners with their settings.
#[derive(Clone, Debug, Default)]
pub struct Listeners(Arc<[(ListenerSettings, Arc<dyn Listener>)]>);

impl Listeners {
    /// Makes the listeners, by [`custom`] code or by what is built in.
    ///
    /// # Errors
    /// Names the setting that is missing or wrong; `use` when it names no code.
    pub fn new(
        settings: impl IntoIterator<Item = ListenerSettings>,
        vars: &Vars,
        aws: &Aws,
        custom: &[(&str, Make)],
    ) -> Result<Self, SettingError> {
        let listeners = settings.into_iter().map(|settings| {
            let parts = Parts {
                settings: &settings,
                vars,
                aws,
            };
            let mut known = custom.iter().chain(&BUILT_IN);
            let (_, make) = known
                .find(|(code, _)| *code == settings.code)
                .ok_or_else(|| {
                    parts.wrong("USE", format!("there is no listener `{}`", settings.code))
                })?;
            let listener = make(parts)?;
            Ok((settings, listener))
        });
        listeners
            .collect::<Result<Vec<_>, _>>()
            .map(|all| Self(all.into()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The settings of each.
    pub fn settings(&self) -> impl Iterator<Item = &ListenerSettings> {
        self.0.iter().map(|(settings, _)| settings)
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
            for (settings, listener) in self.0.iter() {
                if let Some(heard) = settings.hears(event) {
                    let told = told_in_time(settings, &**listener, &heard).await;
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
        let mut listeners = self.0.iter();
        let (settings, listener) = listeners.find(|(settings, _)| settings.name == name)?;
        for event in events.iter().filter_map(|event| settings.hears(event)) {
            if let Err(error) = told_in_time(settings, &**listener, &event).await {
                return Some(Err(error));
            }
        }
        Some(Ok(()))
    }
}

impl FromIterator<(ListenerSettings, Arc<dyn Listener>)> for Listeners {
    fn from_iter<I: IntoIterator<Item = (ListenerSettings, Arc<dyn Listener>)>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

async fn told_in_time(
    settings: &ListenerSettings,
    listener: &dyn Listener,
    event: &ResourceChanged,
) -> Result<(), NotifyError> {
    let late = || NotifyError::failed(format!("no answer within {:?}", settings.timeout));
    let told = tokio::time::timeout(settings.timeout, listener.notify(event)).await;
    told.unwrap_or_else(|_| Err(late()))
}

/// What a function or webhook may answer: nothing in particular, or a refusal, as
/// `{"refused": {"status": 403, "message": "…"}}`.
#[derive(Debug, Default, Deserialize)]
struct Answer {
    refused: Option<RefusedAnswer>,
}

#[derive(Debug, Deserialize)]
struct RefusedAnswer {
    status: Option<u16>,
    message: Option<String>,
}

/// What an answer's body says. What is no JSON object says nothing.
fn read_answer(body: &[u8]) -> Result<(), NotifyError> {
    let answer: Answer = serde_json::from_slice(body).unwrap_or_default();
    let Some(RefusedAnswer { status, message }) = answer.refused else {
        return Ok(());
    };
    Err(NotifyError::Refused {
        status: status
            .filter(|status| (400..600).contains(status))
            .unwrap_or(403),
        message: message.unwrap_or_else(|| "Refused by a listener".to_owned()),
    })
}
