//! `sqs`: an event is a message of a queue, from which a program in any language takes it. What Kinto's Redis list was,
//! but for that it neither announces what was not committed nor loses what was.
//!
//! | setting | |
//! | --- | --- |
//! | `…queue_url` | the queue, in the stack's region; required |
//!
//! A queue of your own must take messages of 1 MiB (its `MaximumMessageSize`, unless it was changed). In a FIFO queue
//! the messages about one list are one group, and what is told twice within five minutes comes once.

use std::sync::Arc;

use aws_sdk_sqs::Client;
use futures::future::BoxFuture;

use super::{Listener, ListenerContext, NotifyError, aws_failed};
use crate::event::ResourceChanged;
use crate::queue::group_id;
use crate::settings::SettingError;

/// Bytes of a message at most (SQS).
const MAX_MESSAGE: usize = 1024 * 1024;

/// A queue to tell.
#[derive(Debug)]
struct Queue {
    client: Client,
    url: String,
}

/// Makes the listener.
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
                message.send().await.map_err(aws_failed)?;
            }
            Ok(())
        })
    }
}
