//! The client of Megaphone, which broadcasts to all clients.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Response, StatusCode};

use crate::http_client;
use crate::secrets::RefusedCredentials;
use crate::settings::MegaphoneSettings;
use crate::timestamp::Timestamp;

/// The channel of the changes feed: bucket and collection of monitor/changes (kinto-megaphone 0.5).
pub const CHANNEL: &str = "monitor_changes";

/// The time limit for a whole heartbeat (Kinto gives all of them 10 seconds together).
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);

/// A broadcast that failed, as far as we know.
#[derive(Debug, thiserror::Error)]
pub enum MegaphoneError {
    /// There was no connection: the broadcast was not sent.
    #[error("Megaphone cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    /// No response, or none in time. The broadcast may have been taken, or may yet be.
    #[error("no answer from Megaphone")]
    NoAnswer(#[source] reqwest::Error),
    /// A gateway in front of Megaphone got no response from it (502, 504), which is no better than none.
    #[error("no answer from behind the gateway, which answered {0}")]
    NoAnswerBehind(StatusCode),
    /// Megaphone cannot take it now (429, 408, 5xx).
    #[error("Megaphone is busy or broken, it answered {status}")]
    Unavailable {
        /// The status of the response.
        status: StatusCode,
        /// `Retry-After`: the shortest pause before a retry.
        retry_after: Option<Duration>,
    },
    /// Megaphone will never take it: a wrong key, id or URL.
    #[error("Megaphone refused with {0}")]
    Refused(StatusCode),
}

impl MegaphoneError {
    /// Returns `true` if the broadcast may have been taken nevertheless, or may yet be.
    pub fn may_arrive(&self) -> bool {
        matches!(self, Self::NoAnswer(_) | Self::NoAnswerBehind(_))
    }

    /// Whether it is our key that Megaphone does not take.
    pub fn is_of_credentials(&self) -> bool {
        matches!(
            self,
            Self::Refused(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        )
    }

    fn answered(answer: &Response) -> Self {
        match answer.status() {
            status @ (StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) => {
                Self::NoAnswerBehind(status)
            }
            status
                if status.is_server_error()
                    || matches!(
                        status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                    ) =>
            {
                Self::Unavailable {
                    status,
                    retry_after: http_client::retry_after(answer.headers()),
                }
            }
            status => Self::Refused(status),
        }
    }
}

/// The client of one Megaphone, with its listener's settings.
#[derive(Clone, Debug)]
pub struct Megaphone {
    client: reqwest::Client,
    settings: MegaphoneSettings,
    refused: RefusedCredentials,
}

impl Megaphone {
    /// A client for one listener.
    ///
    /// # Errors
    /// The TLS backend cannot be set up.
    pub fn new(settings: MegaphoneSettings) -> Result<Self, reqwest::Error> {
        // The queue retries a broadcast, each time under a claim of its own.
        let client = http_client::builder_without_retries(settings.connect_timeout)
            .timeout(settings.timeout)
            .build()?;
        Ok(Self {
            client,
            settings,
            refused: RefusedCredentials::default(),
        })
    }

    /// The same, which notes that Megaphone does not take our key.
    #[must_use]
    pub fn noting(self, refused: RefusedCredentials) -> Self {
        Self { refused, ..self }
    }

    /// The listener's settings.
    pub fn settings(&self) -> &MegaphoneSettings {
        &self.settings
    }

    /// Sends `version` to Megaphone. It keeps whatever it gets last: never send an older one after a newer one.
    pub async fn broadcast(&self, version: Timestamp) -> Result<(), MegaphoneError> {
        let MegaphoneSettings {
            url,
            broadcaster_id,
            api_key,
            ..
        } = &self.settings;
        let answer = self
            .client
            .put(format!("{url}/v1/broadcasts/{broadcaster_id}/{CHANNEL}"))
            .bearer_auth(api_key.reveal())
            .header(CONTENT_TYPE, HeaderValue::from_static("text/plain"))
            .body(version.etag())
            .send()
            .await
            .map_err(|error| {
                if error.is_connect() {
                    MegaphoneError::Unreachable(error.without_url())
                } else {
                    MegaphoneError::NoAnswer(error.without_url())
                }
            })?;
        if answer.status().is_success() {
            return Ok(());
        }
        let error = MegaphoneError::answered(&answer);
        if error.is_of_credentials() {
            self.refused.note();
        }
        Err(error)
    }

    /// Returns `true` if Megaphone's own heartbeat succeeds. Needs no key.
    pub async fn is_healthy(&self) -> bool {
        let url = format!("{}/__heartbeat__", self.settings.url);
        match self.client.get(url).timeout(HEARTBEAT_TIMEOUT).send().await {
            Ok(answer) => answer.status() == StatusCode::OK,
            Err(error) => {
                let error = error.without_url();
                tracing::error!(listener = self.settings.name, %error, "Megaphone does not answer");
                false
            }
        }
    }
}
