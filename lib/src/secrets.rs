//! Secrets by reference: a setting whose value is the ARN of a secret of Secrets Manager, or of a parameter of Systems
//! Manager (SSM), stands for what is kept there.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::try_join_all;
use serde::Deserialize;
use serde_json::json;

use crate::error_chain::ErrorChain;
use crate::settings::{SettingError, Vars};
use crate::signed_request::SignedRequest;

/// The most bytes of an answer with a parameter: its value has 8 KB at most.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Where a secret is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SecretService {
    SecretsManager,
    ParameterStore,
}

impl SecretService {
    /// Who keeps the secret that the value of a setting refers to; `None` for a value that is the secret itself.
    ///
    /// # Errors
    /// When it refers to something else: nobody shall take an ARN, which is no secret, for the secret itself.
    fn of(name: &str, value: &str) -> Result<Option<Self>, SettingError> {
        // arn:partition:service:region:account:resource
        let mut parts = value.split(':');
        if parts.next() != Some("arn") {
            return Ok(None);
        }
        match parts.nth(1) {
            Some("secretsmanager") => Ok(Some(Self::SecretsManager)),
            Some("ssm") if value.contains(":parameter/") => Ok(Some(Self::ParameterStore)),
            _ => Err(SettingError::new(
                name,
                "must be a secret, or the ARN of one in Secrets Manager or of a parameter of Systems Manager",
            )),
        }
    }
}

/// A secret or a parameter cannot be used; the message follows its name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    #[error("cannot be read: {}", ErrorChain(&**source))]
    Unreadable {
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("holds no string")]
    NoString,
    #[error("cannot be read: what the service answers is no parameter")]
    NoAnswer,
    #[error("holds nothing")]
    Nothing,
}

impl SecretError {
    fn unreadable(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Unreadable {
            source: Box::new(error),
        }
    }
}

/// A note that a far side refused our credentials, so that they are fetched again
/// ([`Warm`](crate::warm::Warm)); clones share it.
#[derive(Clone, Debug, Default)]
pub struct RefusedCredentials(Arc<AtomicBool>);

impl RefusedCredentials {
    /// Notes a refusal.
    pub fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether there was one since the last fetch.
    pub(crate) fn is_noted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// They were fetched.
    pub(crate) fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Replaces the values that are ARNs of secrets and parameters by what these hold, all at once, where `needs` says
/// that this function needs the variable: what it does not need it may not read either.
///
/// Returns how many those were. Makes no request, and no client, when there are none.
///
/// # Errors
/// Names the variable whose secret cannot be read or is not a string, or that is an ARN of something else.
pub async fn resolve(
    vars: &mut Vars,
    needs: impl Fn(&str) -> bool,
    config: &aws_config::SdkConfig,
) -> Result<usize, SettingError> {
    let mut references = vec![];
    for (name, value) in vars.values_mut().filter(|(name, _)| needs(name)) {
        if let Some(keeper) = SecretService::of(name, value)? {
            references.push((name, value, keeper));
        }
    }
    let reads = references.into_iter().map(async |(name, value, keeper)| {
        let read = match keeper {
            SecretService::SecretsManager => secret(value, config).await,
            SecretService::ParameterStore => parameter(value, config).await,
        };
        let problem =
            |problem: SecretError| SettingError::new(name, format!("the secret {problem}"));
        // A line that ends in the editor is none of the secret.
        read.map_err(problem)?.trim().clone_into(value);
        Ok(())
    });
    Ok(try_join_all(reads).await?.len())
}

/// The string of a secret.
async fn secret(arn: &str, config: &aws_config::SdkConfig) -> Result<String, SecretError> {
    let client = aws_sdk_secretsmanager::Client::new(config);
    let answer = client.get_secret_value().secret_id(arn).send().await;
    let answer = answer.map_err(SecretError::unreadable)?;
    answer.secret_string.ok_or(SecretError::NoString)
}

/// The value of a parameter, decrypted.
pub(crate) async fn parameter(
    arn: &str,
    config: &aws_config::SdkConfig,
) -> Result<String, SecretError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        parameter: Parameter,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Parameter {
        value: Option<String>,
    }
    let body = json!({"Name": arn, "WithDecryption": true});
    let request = SignedRequest {
        service: "ssm",
        partition: arn.split(':').nth(1).unwrap_or_default(),
        method: http::Method::POST,
        path: "/",
        headers: &[
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-target", "AmazonSSM.GetParameter"),
        ],
        body: body.to_string().into_bytes(),
        max_length: MAX_ANSWER_BYTES,
    };
    let answer = request.send(config).await;
    let answer = answer.map_err(SecretError::unreadable)?;
    // What serde says of an answer may have a part of it, which is secret.
    let answer: Answer = serde_json::from_slice(&answer).map_err(|_| SecretError::NoAnswer)?;
    answer.parameter.value.ok_or(SecretError::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_arn_of_anything_but_a_secret_is_named_where_a_secret_is_needed() {
        let arn = "arn:aws:sqs:eu-central-1:123456789012:key";
        let mut vars: Vars = [("KEY", arn), ("OTHER", arn)].into_iter().collect();
        let config = aws_config::SdkConfig::builder().build();
        let error = resolve(&mut vars, |name| name == "KEY", &config).await;
        assert_eq!(error.unwrap_err().variable, "KEY");
        resolve(&mut vars, |_| false, &config).await.unwrap();
        assert_eq!(vars.get("OTHER"), Some(arn));
    }

    #[test]
    fn secrets_and_parameters_are_told_apart_and_from_secrets_themselves() {
        let keeper = |value| SecretService::of("KEY", value).ok().flatten();
        let secret = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:key-AbCdEf";
        assert_eq!(keeper(secret), Some(SecretService::SecretsManager));
        let parameter = "arn:aws-cn:ssm:cn-north-1:123456789012:parameter/kinto/key";
        assert_eq!(keeper(parameter), Some(SecretService::ParameterStore));
        assert_eq!(keeper("hush"), None);
        assert!(SecretService::of("KEY", "arn:aws:ssm:eu-central-1:1:document/key").is_err());
    }
}
