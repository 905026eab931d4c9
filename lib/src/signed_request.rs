//! A signed request to a service of AWS of which the functions need a single operation.
//!
//! It is signed with what the SDK signs with, sent by the client that the functions have anyway, and repeated when the SDK would repeat
//! it. The SDK of S3, or of Systems Manager, would be the largest part of each function, and half a minute of each build
//! (docs/decisions/022-settings.md).

use std::error::Error;
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use http::StatusCode;
use reqwest::Client;
use serde::Deserialize;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::http_client;

/// How long an attempt may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long all attempts together may take: a function has 10 seconds to start.
const MAX_TIME: Duration = Duration::from_secs(6);
/// How many attempts there are at most, as in the SDK.
const MAX_ATTEMPTS: usize = 3;
/// The longest first pause; it doubles.
const PAUSE: Duration = Duration::from_millis(500);

/// A request fails; the message follows the name of what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("no region is set")]
    NoRegion,
    #[error("there are no credentials")]
    NoCredentials,
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
    #[error("{} answers {status}{}", .service.to_uppercase(), in_parentheses(.code))]
    Refused {
        /// As in [`SignedRequest::service`].
        service: &'static str,
        status: StatusCode,
        code: Option<String>,
    },
    #[error("it is larger than {0} bytes")]
    TooLarge(usize),
}

fn in_parentheses(code: &Option<String>) -> String {
    let code = code.as_deref();
    code.map_or_else(String::new, |code| format!(" ({code})"))
}

impl RequestError {
    fn failed(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Failed(Box::new(error))
    }

    /// Returns `true` if a later attempt may succeed.
    fn is_transient(&self) -> bool {
        match self {
            Self::Failed(_) => true,
            Self::Refused { status, code, .. } => {
                let is_throttled = code.as_deref().is_some_and(|code| {
                    code.starts_with("Throttl") || code == "RequestLimitExceeded"
                });
                is_throttled || status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::NoRegion | Self::NoCredentials | Self::TooLarge(_) => false,
        }
    }
}

/// A request to a service in the function's own region.
#[derive(Debug)]
pub(crate) struct SignedRequest<'a> {
    /// The service as in its host's name and in signatures.
    pub service: &'static str,
    /// `aws`, or that of China.
    pub partition: &'a str,
    pub method: http::Method,
    /// Begins with a slash and is encoded.
    pub path: &'a str,
    pub headers: &'a [(&'static str, &'static str)],
    pub body: Vec<u8>,
    /// The most bytes of a response.
    pub max_length: usize,
}

impl SignedRequest<'_> {
    /// Sends the request, up to three times. Returns the body of a response that reports success.
    pub async fn send(&self, config: &SdkConfig) -> Result<Vec<u8>, RequestError> {
        let client = http_client::builder(TIMEOUT).timeout(TIMEOUT).build();
        let client = client.map_err(RequestError::failed)?;
        let deadline = Instant::now() + MAX_TIME;
        let mut backoff = Backoff::new(PAUSE, MAX_TIME);
        let mut attempts = 1;
        loop {
            let failed = match self.attempt(&client, config).await {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            let is_last = attempts == MAX_ATTEMPTS || !failed.is_transient();
            if is_last || !backoff.wait_until(deadline).await {
                return Err(failed);
            }
            attempts += 1;
        }
    }

    async fn attempt(&self, client: &Client, config: &SdkConfig) -> Result<Vec<u8>, RequestError> {
        let url = self.url(config)?;
        let mut request = client.request(self.method.clone(), &url);
        for (name, value) in self.headers {
            request = request.header(*name, *value);
        }
        for (name, value) in self.signature(&url, config).await? {
            request = request.header(name, value);
        }
        let request = request.body(self.body.clone());
        let mut response = request.send().await.map_err(RequestError::failed)?;
        let status = response.status();
        let body = http_client::body_up_to(&mut response, self.max_length).await;
        let body = body.map_err(RequestError::failed)?;
        if status.is_success() {
            return body.ok_or(RequestError::TooLarge(self.max_length));
        }
        Err(RequestError::Refused {
            service: self.service,
            status,
            code: body.and_then(|body| code_of(&body)),
        })
    }

    fn url(&self, config: &SdkConfig) -> Result<String, RequestError> {
        let endpoint = match config.endpoint_url() {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => {
                let region = config.region().ok_or(RequestError::NoRegion)?;
                let service = self.service;
                let suffix = if self.partition == "aws-cn" {
                    ".cn"
                } else {
                    ""
                };
                format!("https://{service}.{region}.amazonaws.com{suffix}")
            }
        };
        Ok(format!("{endpoint}{}", self.path))
    }

    /// The headers that sign the request.
    async fn signature(
        &self,
        url: &str,
        config: &SdkConfig,
    ) -> Result<Vec<(String, String)>, RequestError> {
        let region = config.region().ok_or(RequestError::NoRegion)?;
        let credentials = config
            .credentials_provider()
            .ok_or(RequestError::NoCredentials)?;
        let credentials = credentials.provide_credentials().await;
        let identity = credentials.map_err(RequestError::failed)?.into();
        // As S3 has it; other services, with a path that needs no encoding, take it too.
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(region.as_ref())
            .name(self.service)
            .time(SystemTime::now())
            .settings(settings)
            .build()
            .map_err(RequestError::failed)?;
        let body = SignableBody::Bytes(&self.body);
        let headers = self.headers.iter().copied();
        let signable = SignableRequest::new(self.method.as_str(), url, headers, body);
        let signable = signable.map_err(RequestError::failed)?;
        let signed = sign(signable, &parameters.into()).map_err(RequestError::failed)?;
        let headers = signed.output().headers();
        Ok(headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    }
}

/// The code of a refusal: that of AWS's JSON protocols (`com.amazonaws.ssm#ParameterNotFound`), or `None` for another.
fn code_of(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Refusal {
        #[serde(rename = "__type")]
        code: String,
    }
    let refusal: Refusal = serde_json::from_slice(body).ok()?;
    let code = refusal.code.rsplit('#').next()?;
    Some(code.chars().filter(char::is_ascii_alphanumeric).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_a_refusal_is_its_type_without_the_namespace() {
        let code = |body: &str| code_of(body.as_bytes());
        let named = r#"{"__type": "com.amazonaws.ssm#ParameterNotFound", "message": "hush"}"#;
        assert_eq!(code(named).as_deref(), Some("ParameterNotFound"));
        let plain = r#"{"__type": "ThrottlingException"}"#;
        assert_eq!(code(plain).as_deref(), Some("ThrottlingException"));
        assert_eq!(code("<Error/>"), None);
    }
}
