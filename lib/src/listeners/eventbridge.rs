//! `eventbridge`: puts events on an event bus, from which rules route them to anything on AWS.
//!
//! | setting | |
//! | --- | --- |
//! | `…bus` | the event bus: its name, or its ARN; required |
//!
//! Rules match `source` (`kinto`), `detail-type` (`ResourceChanged`), `resources` (the URI of the request) and anything
//! in the event itself, which is `detail`.

use std::sync::Arc;

use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::primitives::{DateTime, DateTimeFormat};
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use futures::future::BoxFuture;

use super::{Listener, ListenerContext, NotifyError};
use crate::event::ResourceChanged;
use crate::settings::SettingError;

/// The `source` of the events, for rules; `detail-type` follows.
const SOURCE: &str = "kinto";
const DETAIL_TYPE: &str = "ResourceChanged";
/// The most bytes in a detail. Since 2026 an entry may have 1 MiB, its other fields included.
const MAX_DETAIL: usize = 1_000_000;

/// A listener that puts events on an event bus.
#[derive(Debug)]
struct Bus {
    client: Client,
    name: String,
}

/// Builds the listener.
///
/// # Errors
/// `…bus` is missing.
pub fn build(context: ListenerContext<'_>) -> Result<Arc<dyn Listener>, SettingError> {
    Ok(Arc::new(Bus {
        client: context.aws.eventbridge.clone(),
        name: context.require("BUS")?.to_owned(),
    }))
}

impl Listener for Bus {
    fn notify<'a>(&'a self, event: &'a ResourceChanged) -> BoxFuture<'a, Result<(), NotifyError>> {
        Box::pin(async {
            // The time of the write: the notification may be much later.
            let time = DateTime::from_str(&event.date, DateTimeFormat::DateTime).ok();
            for (_, detail) in event.to_json_within(MAX_DETAIL) {
                let entry = PutEventsRequestEntry::builder()
                    .event_bus_name(&self.name)
                    .source(SOURCE)
                    .detail_type(DETAIL_TYPE)
                    .resources(&event.uri)
                    .set_time(time)
                    .detail(detail)
                    .build();
                let answer = self.client.put_events().entries(entry).send().await;
                let answer = answer.map_err(NotifyError::of_aws)?;
                // An entry can fail although the request succeeds.
                for entry in answer.entries() {
                    let Some(code) = entry.error_code() else {
                        continue;
                    };
                    let message = entry.error_message().unwrap_or_default();
                    return Err(NotifyError::of_entry(code, message));
                }
            }
            Ok(())
        })
    }
}
