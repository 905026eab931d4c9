//! Secrets by reference: a setting whose value is the ARN of a Secrets Manager secret stands for that secret.

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::DisplayErrorContext;
use futures::future::try_join_all;

use crate::settings::{SettingError, Vars};

/// Whether the value of a setting refers to a secret.
fn is_reference(value: &str) -> bool {
    value.starts_with("arn:") && value.contains(":secretsmanager:")
}

/// Replaces the values that are ARNs of secrets by the secrets' strings, all at once, where `needs` says that
/// this function needs the variable: what it does not need it may not read either.
///
/// Makes no request, and no client, when there is nothing to replace.
///
/// # Errors
/// Names the variable whose secret cannot be read or is not a string.
pub async fn resolve(
    vars: &mut Vars,
    needs: fn(&str) -> bool,
    config: &aws_config::SdkConfig,
) -> Result<(), SettingError> {
    let references: Vec<_> = vars
        .values_mut()
        .filter(|(name, value)| needs(name) && is_reference(value))
        .collect();
    if references.is_empty() {
        return Ok(());
    }
    let client = &Client::new(config);
    try_join_all(references.into_iter().map(|(name, value)| async move {
        let answer = client
            .get_secret_value()
            .secret_id(value.as_str())
            .send()
            .await
            .map_err(|e| {
                SettingError::new(
                    name,
                    format!("the secret cannot be read: {}", DisplayErrorContext(&e)),
                )
            })?;
        *value = answer
            .secret_string
            .ok_or_else(|| SettingError::new(name, "the secret holds no string"))?;
        Ok(())
    }))
    .await?;
    Ok(())
}
