//! `kinto.plugins.flush`: `POST /__flush__` deletes everything, without a check of permissions (Kinto 26.5).
//!
//! It deletes what is not under anything else, and what is under that goes with it. So its duration depends on the
//! number of buckets and accounts, not on their contents. Clients and monitor/changes learn of it as of any deletion:
//! tombstones and timestamps stay.

use http::StatusCode;
use serde_json::json;

use crate::api::dispatch::context::Context;
use crate::api::dispatch::endpoint::{ACTION, Endpoint, Handler};
use crate::api::lists;
use crate::api::plugins::Plugin;
use crate::api::service::operation::Operation;
use crate::api::web::error::ApiError;
use crate::api::web::response::Response;
use crate::resource::ListUri;
use crate::settings;
use crate::unit_of_work::Needs;

/// The plugin.
pub static PLUGIN: Plugin = Plugin {
    capability: "flush_endpoint",
    is_on: |settings| settings.includes.has(settings::PluginName::Flush),
    describe: |_| {
        Box::pin(async {
            Some(json!({
                "description": "Removes everything: POST /__flush__.",
                "url": "https://kinto.readthedocs.io/en/latest/api/1.x/flush.html",
            }))
        })
    },
    endpoints: &[Endpoint {
        path: "/__flush__",
        methods: ACTION,
        operation: |_, _| Operation::answering("flush_post", 202, "Everything is gone."),
        needs,
        handler: Handler::Call(|cx| Box::pin(handle(cx))),
        ..Endpoint::READ_ONLY
    }],
    on_write: None,
};

/// The reads that a flush needs before it reads what to delete.
fn needs() -> Needs {
    Needs {
        lists: [ListUri::buckets(), ListUri::accounts()].into(),
        ..Needs::default()
    }
}

/// Deletes every bucket and account.
///
/// # Errors
/// Server errors.
async fn handle(cx: &mut Context<'_>) -> Result<Response, ApiError> {
    for list in [ListUri::buckets(), ListUri::accounts()] {
        lists::clear(cx.unit, &cx.api.store, &list).await?;
    }
    Ok(Response::json(StatusCode::ACCEPTED, &json!({})))
}
