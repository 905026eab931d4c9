//! The SDK's HTTP client without a socket: passes a request to [`LocalAws::call`] as bytes and returns the response's
//! bytes.

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::http::{Response, StatusCode};
use aws_smithy_types::body::SdkBody;

use crate::aws::LocalAws;

/// An HTTP client that every SDK client of this process shares.
#[derive(Clone, Debug)]
pub struct InProcess {
    aws: LocalAws,
}

impl InProcess {
    /// A client of the given AWS.
    pub fn new(aws: LocalAws) -> Self {
        Self { aws }
    }
}

impl HttpClient for InProcess {
    fn http_connector(
        &self,
        _settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for InProcess {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let aws = self.aws.clone();
        HttpConnectorFuture::new(async move {
            // A network call lets other tasks run; without this, concurrent requests would never interleave and
            // no race could be seen here.
            tokio::task::yield_now().await;
            let target = request.headers().get("x-amz-target").unwrap_or_default();
            let body = request.body().bytes().unwrap_or_default();
            let answer = aws
                .call(target, body)
                .map_err(|error| ConnectorError::io(error.into()))?;
            let status = StatusCode::try_from(answer.status)
                .map_err(|error| ConnectorError::other(error.into(), None))?;
            Ok(Response::new(status, SdkBody::from(answer.body)))
        })
    }
}
