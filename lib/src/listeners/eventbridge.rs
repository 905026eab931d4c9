//! `eventbridge`: an event goes to an event bus of EventBridge, and from there, by rules, to anything on AWS.

use std::sync::Arc;

use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::error::DisplayErrorContext;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use futures::future::BoxFuture;

use super::{Listener, NotifyError, Parts};
use crate::event::ResourceChanged;
use crate::settings::SettingError;

/// What rules match the events by, `source` and `detail-type`.
const SOURCE: &str = "kinto";
const DETAIL_TYPE: &str = "ResourceChanged";
/// Bytes of an entry at most (EventBridge: 256 KB, less what is not the detail).
const MAX_DETAIL: usize = 250 * 1024;

/// An event bus to tell: `…bus`, its name or ARN.
#[derive(Debug)]
struct Bus {
    client: Client,
    name: String,
}

/// Makes the listener.
///
/// # Errors
/// `…bus` is missing.
pub fn make(parts: Parts<'_>) -> Result<Arc<dyn Listener>, SettingError> {
    Ok(Arc::new(Bus {
        client: parts.aws.eventbridge.clone(),
        name: parts.require("BUS")?.to_owned(),
    }))
}

impl Listener for Bus {
    fn notify<'a>(&'a self, event: &'a ResourceChanged) -> BoxFuture<'a, Result<(), NotifyError>> {
        Box::pin(async {
            for detail in event.to_json_within(MAX_DETAIL) {
                let entry = PutEventsRequestEntry::builder()
                    .event_bus_name(&self.name)
                    .source(SOURCE)
                    .detail_type(DETAIL_TYPE)
                    .resources(&event.uri)
                    .detail(detail)
                    .build();
                let answer = self.client.put_events().entries(entry).send().await;
                let answer = answer.map_err(|e| NotifyError::failed(DisplayErrorContext(e)))?;
                // An entry can fail in an answer that succeeds.
                if let Some(failed) = answer
                    .entries()
                    .iter()
                    .find(|entry| entry.error_code.is_some())
                {
                    let code = failed.error_code().unwrap_or_default();
                    let message = failed.error_message().unwrap_or_default();
                    return Err(NotifyError::failed(format!("PutEvents: {code}: {message}")));
                }
            }
            Ok(())
        })
    }
}
