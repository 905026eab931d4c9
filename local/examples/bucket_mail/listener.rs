//! A custom listener: administrators get a mail when a bucket is created, as in Kinto's tutorial "How to run custom
//! code on notifications?".
//!
//! The settings select new buckets: `KINTO_EVENT_LISTENERS_<NAME>_ACTIONS=create` and `…_RESOURCES=bucket`. The other
//! settings are those of `email`, except the templates.

use std::sync::Arc;

use futures::future::BoxFuture;
use kinto_serverless::event::ResourceChanged;
use kinto_serverless::listeners::email::Mailer;
use kinto_serverless::listeners::{Listener, ListenerContext, NotifyError};
use kinto_serverless::settings::SettingError;

#[derive(Debug)]
struct BucketMail {
    mailer: Mailer,
}

/// Builds the listener.
///
/// # Errors
/// Names the missing or invalid setting.
pub fn build(context: ListenerContext<'_>) -> Result<Arc<dyn Listener>, SettingError> {
    Ok(Arc::new(BucketMail {
        mailer: Mailer::new(context)?,
    }))
}

impl Listener for BucketMail {
    fn notify<'a>(&'a self, event: &'a ResourceChanged) -> BoxFuture<'a, Result<(), NotifyError>> {
        Box::pin(async move {
            // A batch may create several.
            let buckets = event.impacted_records.iter().map(|bucket| &bucket.new);
            let ids: Vec<_> = buckets.filter_map(|new| new["id"].as_str()).collect();
            let who = event.user_id.as_deref().unwrap_or("Somebody");
            let subject = format!("New in Kinto: {}", ids.join(", "));
            let body = format!("{who} created\n\n{}\n", event.impacted_uris.join("\n"));
            self.mailer.send(event, &subject, &body).await
        })
    }
}
