//! The client of Megaphone, which tells every client at once.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderValue};

use crate::settings::MegaphoneSettings;
use crate::timestamp::Timestamp;

/// The channel of the changes feed: bucket and collection of monitor/changes (kinto-megaphone 0.5).
pub const CHANNEL: &str = "monitor_changes";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For a whole request. Far below the queue's visibility timeout, so that no two requests for one channel overlap.
const TIMEOUT: Duration = Duration::from_secs(10);
/// For a whole heartbeat (Kinto gives all of them 10 seconds together).
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);

/// A broadcast that did not arrive, as far as we know.
#[derive(Debug, thiserror::Error)]
pub enum MegaphoneError {
    /// No answer, or none in time. The broadcast may have arrived all the same.
    #[error("no answer from Megaphone")]
    NoAnswer(#[source] reqwest::Error),
    /// Megaphone refused.
    #[error("Megaphone answered {0}")]
    Refused(StatusCode),
}

/// One Megaphone and what it is to be told.
#[derive(Clone, Debug)]
pub struct Megaphone {
    client: reqwest::Client,
    settings: MegaphoneSettings,
}

impl Megaphone {
    /// The client for one listener.
    ///
    /// # Errors
    /// When the TLS backend cannot be set up.
    pub fn new(settings: MegaphoneSettings) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("kinto-serverless/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, settings })
    }

    /// The listener's settings.
    pub fn settings(&self) -> &MegaphoneSettings {
        &self.settings
    }

    /// Tells Megaphone `version`. It keeps whatever it is told last: never send an older one after a newer one.
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
            .map_err(|error| MegaphoneError::NoAnswer(error.without_url()))?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(MegaphoneError::Refused(answer.status()))
        }
    }

    /// Whether Megaphone's own heartbeat says that it is well. Needs no key.
    pub async fn is_healthy(&self) -> bool {
        let url = format!("{}/__heartbeat__", self.settings.url);
        match self.client.get(url).timeout(HEARTBEAT_TIMEOUT).send().await {
            Ok(answer) => answer.status() == StatusCode::OK,
            Err(error) => {
                tracing::error!(listener = self.settings.name, %error, "Megaphone does not answer");
                false
            }
        }
    }
}
