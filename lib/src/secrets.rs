//! Secrets by reference: a setting whose value is the ARN of a Secrets Manager secret stands for that secret.

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::DisplayErrorContext;
use futures::future::try_join_all;

use crate::settings::{SettingError, Vars};

/// Whether the value of a setting refers to a secret.
///
/// # Errors
/// When it refers to something else: nobody shall take an ARN, which is no secret, for the secret itself.
fn is_reference(name: &str, value: &str) -> Result<bool, SettingError> {
    if value.starts_with("arn:") && !value.contains(":secretsmanager:") {
        let problem =
            "must be a secret, or the ARN of one in Secrets Manager; other ARNs cannot be read";
        return Err(SettingError::new(name, problem));
    }
    Ok(value.starts_with("arn:"))
}

/// Replaces the values that are ARNs of secrets by the secrets' strings, all at once, where `needs` says that
/// this function needs the variable: what it does not need it may not read either.
///
/// Makes no request, and no client, when there is nothing to replace.
///
/// # Errors
/// Names the variable whose secret cannot be read or is not a string, or that is an ARN of something else.
pub async fn resolve(
    vars: &mut Vars,
    needs: fn(&str) -> bool,
    config: &aws_config::SdkConfig,
) -> Result<(), SettingError> {
    let mut references = vec![];
    for (name, value) in vars.values_mut().filter(|(name, _)| needs(name)) {
        if is_reference(name, value)? {
            references.push((name, value));
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_arn_of_anything_but_a_secret_is_named_where_a_secret_is_needed() {
        let arn = "arn:aws:ssm:eu-central-1:123456789012:parameter/key";
        let mut vars: Vars = [("KEY", arn), ("OTHER", arn)].into_iter().collect();
        let config = aws_config::SdkConfig::builder().build();
        let error = resolve(&mut vars, |name| name == "KEY", &config).await;
        assert_eq!(error.unwrap_err().variable, "KEY");
        resolve(&mut vars, |_| false, &config).await.unwrap();
        assert_eq!(vars.get("OTHER"), Some(arn));
    }
}
