//! `lambda`: invokes a Lambda function with each event and waits for it, so that its failure is known, and the next
//! event of the list comes after it.
//!
//! | setting | |
//! | --- | --- |
//! | `…function` | its name or ARN, in the stack's region; it may name an alias or version; required |
//!
//! To refuse a write (`…synchronous`), it returns `{"refused": {"status": 403, "message": "…"}}`.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_lambda::Client;
use aws_sdk_lambda::config::timeout::TimeoutConfig;
use aws_sdk_lambda::primitives::Blob;
use futures::future::BoxFuture;

use super::{Listener, ListenerContext, NotifyError, read_answer};
use crate::event::ResourceChanged;
use crate::settings::SettingError;

/// The most bytes in an input (Lambda: 6 MB).
const MAX_INPUT: usize = 6_000_000;

/// A listener that invokes a function.
#[derive(Debug)]
struct Function {
    client: Client,
    name: String,
}

/// A client that allows a function all the time that the listener has. It retries a call that was throttled, or whose
/// connection had died while we slept; never one that is slow.
pub fn client(config: &aws_config::SdkConfig) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(1))
        .disable_operation_attempt_timeout()
        .disable_operation_timeout()
        .build();
    let config = aws_sdk_lambda::config::Builder::from(config)
        .timeout_config(timeouts)
        .build();
    Client::from_conf(config)
}

/// Builds the listener.
///
/// # Errors
/// `…function` is missing.
pub fn build(context: ListenerContext<'_>) -> Result<Arc<dyn Listener>, SettingError> {
    Ok(Arc::new(Function {
        client: context.aws.lambda.clone(),
        name: context.require("FUNCTION")?.to_owned(),
    }))
}

impl Listener for Function {
    fn notify<'a>(&'a self, event: &'a ResourceChanged) -> BoxFuture<'a, Result<(), NotifyError>> {
        Box::pin(async {
            for (_, input) in event.to_json_within(MAX_INPUT) {
                let request = self.client.invoke().function_name(&self.name);
                let answer = request.payload(Blob::new(input)).send().await;
                let answer = answer.map_err(NotifyError::of_aws)?;
                if let Some(error) = answer.function_error() {
                    return Err(NotifyError::failed(format!("the function failed: {error}")));
                }
                read_answer(answer.payload().map_or(&[], AsRef::as_ref))?;
            }
            Ok(())
        })
    }
}
