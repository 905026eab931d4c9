//! Listeners: code that is notified of every write, either before the commit, when it may refuse the write, or after.
//!
//! | `use` | module | notifies |
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
mod failure;
pub mod lambda;
pub mod sqs;
pub mod webhook;

use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

pub use self::failure::NotifyError;
use crate::event::ResourceChanged;
use crate::secrets::RefusedCredentials;
use crate::settings::{ListenerSettings, SettingError, Vars};

/// The most characters of a refusal's message that the client gets.
const MAX_MESSAGE: usize = 1000;

/// Code that is notified of writes.
///
/// The same write may be notified repeatedly: after the commit, under the same `id`, until one notification succeeds;
/// before the commit, under another one, whenever the request is retried.
pub trait Listener: Debug + Send + Sync {
    /// Notifies the listener of the part of an event that it subscribes to ([`ListenerSettings::select`]). Must finish
    /// within [`ListenerSettings::timeout`], which is enforced unless it blocks its thread; a panic is a failure.
    fn notify<'a>(&'a self, event: &'a ResourceChanged) -> BoxFuture<'a, Result<(), NotifyError>>;
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
    /// Clients of one configuration. None connects before its first use.
    pub fn new(config: &aws_config::SdkConfig) -> Self {
        Self {
            sqs: aws_sdk_sqs::Client::new(config),
            eventbridge: aws_sdk_eventbridge::Client::new(config),
            lambda: lambda::client(config),
        }
    }
}

/// What a factory builds a listener from.
#[derive(Clone, Copy)]
pub struct ListenerContext<'a> {
    /// The settings common to all listeners.
    pub settings: &'a ListenerSettings,
    /// All variables: [`ListenerSettings::variable`] returns the names of this listener's.
    pub vars: &'a Vars,
    /// The AWS clients.
    pub aws: &'a Aws,
}

impl<'a> ListenerContext<'a> {
    /// A setting of the listener, e.g. `URL`.
    pub fn get(&self, setting: &str) -> Option<&'a str> {
        self.vars.get(&self.settings.variable(setting))
    }

    /// A setting of the listener without a default; an empty one counts as not set.
    pub fn text(&self, setting: &str) -> Option<&'a str> {
        self.vars.text(&self.settings.variable(setting))
    }

    /// A required setting of the listener.
    ///
    /// # Errors
    /// Names the missing variable.
    pub fn require(&self, setting: &str) -> Result<&'a str, SettingError> {
        self.vars.require(&self.settings.variable(setting))
    }

    /// An error that the value of a setting is invalid.
    pub fn wrong(&self, setting: &str, problem: impl Into<String>) -> SettingError {
        SettingError::new(self.settings.variable(setting), problem)
    }
}

/// Builds a listener.
///
/// # Errors
/// Names the missing or invalid setting.
pub type ListenerFactory = fn(ListenerContext<'_>) -> Result<Arc<dyn Listener>, SettingError>;

/// The built-in listeners.
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
    /// Builds the listeners, from [`custom`] code or built-in.
    ///
    /// # Errors
    /// Names the missing or invalid setting; `use` if it names no code.
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
        let listeners: Result<Self, SettingError> = listeners.collect();
        listeners.map_err(|error| vars.locate(error))
    }

    /// The same, which note where a listener does not take our credentials.
    #[must_use]
    pub fn noting(self, refused: RefusedCredentials) -> Self {
        Self { refused, ..self }
    }

    /// Returns `true` if there are no listeners.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The settings of each listener.
    pub fn settings(&self) -> impl Iterator<Item = &ListenerSettings> {
        self.all.iter().map(|(settings, _)| settings)
    }

    /// Notifies each listener of its part of the events, one after the other, as Kinto does.
    ///
    /// # Errors
    /// The first failure or refusal, with the listener's name.
    pub async fn notify_all(
        &self,
        events: &[ResourceChanged],
    ) -> Result<(), (String, NotifyError)> {
        for event in events {
            for (settings, listener) in self.all.iter() {
                if let Some(heard) = settings.select(event) {
                    let told = self
                        .notify_within_timeout(settings, &**listener, &heard)
                        .await;
                    told.map_err(|error| (settings.name.clone(), error))?;
                }
            }
        }
        Ok(())
    }

    /// Notifies the listener `name` of its part of the events, in order. `None` if there is no such listener.
    ///
    /// # Errors
    /// The failure of the first event that failed; the later ones are not notified.
    pub async fn notify(
        &self,
        name: &str,
        events: &[ResourceChanged],
    ) -> Option<Result<(), NotifyError>> {
        let mut listeners = self.all.iter();
        let (settings, listener) = listeners.find(|(settings, _)| settings.name == name)?;
        for event in events.iter().filter_map(|event| settings.select(event)) {
            if let Err(error) = self
                .notify_within_timeout(settings, &**listener, &event)
                .await
            {
                return Some(Err(error));
            }
        }
        Some(Ok(()))
    }

    async fn notify_within_timeout(
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

/// Reads the answer of a function or webhook: anything, or a refusal, e.g.
/// `{"refused": {"status": 403, "message": "…"}}`. Any `refused` but `null` and `false` refuses; an answer that is no
/// JSON object does not.
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
