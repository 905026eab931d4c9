//! The environment of a function: its variables, and the SDK's configuration.

use std::time::Duration;

use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};

use crate::secrets::RefusedCredentials;
use crate::settings::{SettingError, Vars};
use crate::store::RETRY_TIME;

/// Why a function cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is missing or wrong.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be made")]
    Http(#[from] reqwest::Error),
}

/// What every function has: its settings, and the SDK's configuration.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The variables of the process, in which a `kinto.ini` and secrets are references; those of a function that is warm have
    /// what they refer to.
    pub(crate) vars: Vars,
    pub(crate) sdk: SdkConfig,
    /// Where a far side's refusal of credentials is noted.
    pub(crate) refused: RefusedCredentials,
}

impl Environment {
    /// These variables, with clients of this configuration.
    pub fn new(vars: Vars, sdk: SdkConfig) -> Self {
        Self {
            vars,
            sdk,
            refused: RefusedCredentials::default(),
        }
    }

    /// That of this process.
    pub async fn of_process() -> Self {
        // The SDK sets no limit to a call by itself. A commit is one attempt, which is repeated until its outcome is known.
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(1))
            .operation_attempt_timeout(Duration::from_secs(2))
            .operation_timeout(RETRY_TIME)
            .build();
        // An attempt ends long before a stream counts as stalled (5 seconds), so nothing needs to watch for that.
        let sdk = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .timeout_config(timeouts)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .load()
            .await;
        Self::new(Vars::from_env(), sdk)
    }

    /// The same with other variables.
    pub(crate) fn with(&self, vars: Vars) -> Self {
        Self {
            vars,
            ..self.clone()
        }
    }
}
