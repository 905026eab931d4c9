//! `sqs`: sends each event to a queue, from which a program in any language takes it. It replaces Kinto's Redis list,
//! but neither announces writes that were not committed nor loses any that were.
//!
//! | setting | |
//! | --- | --- |
//! | `…queue_url` | the queue, in the stack's region; required |
//!
//! Your own queue must accept messages of 1 MiB (its `MaximumMessageSize`, by default). In a FIFO queue the messages
//! about one list are one group, and duplicates within five minutes are dropped.

use std::sync::Arc;

use aws_sdk_sqs::Client;
use futures::future::BoxFuture;

use super::{Listener, ListenerContext, NotifyError};
use crate::event::ResourceChanged;
use crate::queue::group_id;
use crate::settings::SettingError;

/// The most bytes in a message (SQS).
const MAX_MESSAGE: usize = 1024 * 1024;

/// A listener that sends events to a queue.
#[derive(Debug)]
struct Queue {
    client: Client,
    url: String,
}

/// Builds the listener.
///
/// # Errors
/// `…queue_url` is missing.
pub fn build(context: ListenerContext<'_>) -> Result<Arc<dyn Listener>, SettingError> {
    Ok(Arc::new(Queue {
        client: context.aws.sqs.clone(),
        url: context.require("QUEUE_URL")?.to_owned(),
    }))
}

impl Listener for Queue {
    fn notify<'a>(&'a self, event: &'a ResourceChanged) -> BoxFuture<'a, Result<(), NotifyError>> {
        Box::pin(async {
            for (id, body) in event.to_json_within(MAX_MESSAGE) {
                let mut message = self
                    .client
                    .send_message()
                    .queue_url(&self.url)
                    .message_body(body);
                if self.url.ends_with(".fifo") {
                    message = message
                        .message_group_id(group_id("", &event.list_uri()))
                        .message_deduplication_id(id);
                }
                message.send().await.map_err(NotifyError::of_aws)?;
            }
            Ok(())
        })
    }
}
