//! `webhook`: sends each event as the body of a `POST`, signed as the Standard Webhooks specification says.
//!
//! There are libraries for verification in any language (<https://www.standardwebhooks.com>).
//!
//! | setting | |
//! | --- | --- |
//! | `…url` | the target, http or https; required |
//! | `…secret` | the signature's key: `whsec_` and base64, or the key itself; 24 bytes or more; required |
//!
//! A 2xx response acknowledges the event. With the body `{"refused": {"status": 403, "message": "…"}}` it refuses the
//! write (`…synchronous`). After 5xx, 429 or 408 the event is retried, after `Retry-After` if given. Any other response
//! is a permanent failure; redirects are not followed.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::future::BoxFuture;
use reqwest::Response;
use reqwest::header::CONTENT_TYPE;

use super::{Listener, ListenerContext, NotifyError, read_answer};
use crate::event::ResourceChanged;
use crate::hmac;
use crate::http_client;
use crate::settings::{Secret, SettingError};
use crate::timestamp::Timestamp;

/// The most bytes in a body: nginx's default limit.
const MAX_BODY: usize = 1024 * 1024;
/// The time limit for connecting to the webhook.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The most bytes in an answer.
const MAX_ANSWER: usize = 64 * 1024;

/// A listener that posts events to a URL.
#[derive(Debug)]
struct Webhook {
    client: reqwest::Client,
    url: reqwest::Url,
    secret: Secret,
}

/// Builds the listener.
///
/// # Errors
/// An invalid URL, a secret of less than 24 bytes (the specification's), either of them missing.
pub fn build(context: ListenerContext<'_>) -> Result<Arc<dyn Listener>, SettingError> {
    let url = context.require("URL")?.parse::<reqwest::Url>();
    let is_http = |url: &reqwest::Url| matches!(url.scheme(), "http" | "https");
    let url = url.ok().filter(is_http);
    let secret = Secret::new(context.require("SECRET")?);
    if key(&secret).is_none_or(|key| key.len() < 24) {
        return Err(context.wrong(
            "SECRET",
            "must be at least 24 bytes, or `whsec_` and their base64",
        ));
    }
    let client = http_client::builder_without_retries(CONNECT_TIMEOUT)
        .build()
        .map_err(|error| context.wrong("URL", format!("no HTTP client can be made: {error}")))?;
    Ok(Arc::new(Webhook {
        client,
        url: url.ok_or_else(|| context.wrong("URL", "must be an http or https URL"))?,
        secret,
    }))
}

impl Listener for Webhook {
    fn notify<'a>(&'a self, event: &'a ResourceChanged) -> BoxFuture<'a, Result<(), NotifyError>> {
        Box::pin(async {
            for (id, body) in event.to_json_within(MAX_BODY) {
                self.post(&id, body).await?;
            }
            Ok(())
        })
    }
}

impl Webhook {
    async fn post(&self, id: &str, body: String) -> Result<(), NotifyError> {
        let seconds = Timestamp::now().0 / 1000;
        let signature = signature(&self.secret, id, seconds, &body);
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signature)
            .body(body);
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        if status.is_success() {
            return read_answer(&body_of(answer).await?);
        }
        let message = format!("the webhook answered {status}");
        let retry_after = http_client::retry_after(answer.headers());
        Err(NotifyError::of_http(status.as_u16(), message, retry_after))
    }
}

async fn body_of(mut answer: Response) -> Result<Vec<u8>, NotifyError> {
    let body = http_client::body_up_to(&mut answer, MAX_ANSWER).await;
    let body = body.map_err(failed)?;
    body.ok_or_else(|| NotifyError::failed("the webhook's answer has no end"))
}

fn failed(error: reqwest::Error) -> NotifyError {
    // A URL may hold a secret.
    let error: &(dyn std::error::Error + 'static) = &error.without_url();
    NotifyError::failed(format!("{error} ({:?})", error.source()))
}

/// The key that a secret encodes; `None` for invalid base64.
fn key(secret: &Secret) -> Option<Vec<u8>> {
    match secret.reveal().strip_prefix("whsec_") {
        Some(encoded) => BASE64_STANDARD.decode(encoded).ok(),
        None => Some(secret.reveal().as_bytes().to_vec()),
    }
}

/// `v1,` and the base64 of the HMAC-SHA256 of id, time and body.
fn signature(secret: &Secret, id: &str, seconds: u64, body: &str) -> String {
    let key = key(secret).unwrap_or_default();
    let digest = hmac::sign(&key, &format!("{id}.{seconds}.{body}"));
    format!("v1,{}", BASE64_STANDARD.encode(digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_specification() {
        // The example of the Standard Webhooks libraries.
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let (id, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", r#"{"test": 2432232314}"#);
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signature(&secret, id, 1_614_265_330, body), expected);
    }
}
