//! `kinto.plugins.prometheus`: `/__metrics__` in Prometheus's text format (Kinto 26.5).
//!
//! For the local stack. Each process counts for itself, so that on Lambda every scrape would ask another one: there it
//! stops the start ([`crate::startup`]), and metrics are `CloudWatch`'s ([`crate::metrics`]).

pub mod registry;

use aws_lambda_events::encodings::Body;
use http::StatusCode;
use serde_json::json;

use crate::api::dispatch::context::Context;
use crate::api::dispatch::endpoint::{About, Endpoint, Handler};
use crate::api::plugins::Plugin;
use crate::api::service::operation::Operation;
use crate::api::web::request::PREFIX;
use crate::api::web::response::Response;

/// The plugin.
pub static PLUGIN: Plugin = Plugin {
    capability: "prometheus",
    is_on: |settings| settings.prometheus.is_some(),
    describe: |api| {
        let description = api.settings.api.prometheus.as_ref().map(|settings| {
            json!({
                "description": "Metrics for Prometheus, at /__metrics__.",
                "url": "https://github.com/Kinto/kinto/",
                "prefix": settings.prefix,
                "disabled_metrics": settings.disabled,
            })
        });
        Box::pin(async { description })
    },
    endpoints: &[Endpoint {
        path: "/__metrics__",
        operation: |_, _| Operation::utility("prometheus_metrics", "Metrics for Prometheus."),
        handler: Handler::Call(|cx| Box::pin(async { Ok(metrics(cx)) })),
        ..Endpoint::READ_ONLY
    }],
    on_write: None,
};

/// The name that Kinto has for an endpoint.
pub fn name_of(endpoint: &Endpoint) -> String {
    match (endpoint.about, endpoint.path) {
        (About::Object(kind), _) => format!("{}-object", kind.name()),
        (About::List(kind), _) => format!("{}-plural", kind.name()),
        (_, "/") => "hello".to_owned(),
        (_, "/__api__") => "openapi".to_owned(),
        (_, "/__metrics__") => "prometheus_metrics".to_owned(),
        (_, "/__broadcasts__") => "broadcast".to_owned(),
        (_, "/__user_data__/{principal}") => "user-data-object".to_owned(),
        (_, "/__user_data__") => "user-data-plural".to_owned(),
        (_, "/permissions") => "permissions-plural".to_owned(),
        (_, "/buckets/{bucket_id}/history") => "history-plural".to_owned(),
        (_, "/buckets/monitor/collections/changes/records") => "changes-plural".to_owned(),
        (_, path) if path.ends_with("/changeset") => "collection-changeset".to_owned(),
        (_, path) if path.ends_with("@{timestamp}") => "history_snapshot".to_owned(),
        (_, path) if path.starts_with("/openid/") => {
            format!("openid_{}", path.rsplit('/').next().unwrap_or_default())
        }
        (_, path) => path.trim_matches(['/', '_']).to_owned(),
    }
}

/// The ids in the path of a request to an endpoint, by their names; that of an object has the name of its kind.
pub fn ids_of(endpoint: &Endpoint, path: &str) -> Vec<(String, String)> {
    let names = endpoint.path.split('/').filter(|it| it.starts_with('{'));
    let names = names.map(|name| match (name, endpoint.about) {
        ("{id}", About::Object(kind)) => format!("{}_id", kind.name()),
        (name, _) => name.trim_matches(['{', '}']).to_owned(),
    });
    let path = path.strip_prefix(PREFIX).unwrap_or(path);
    let ids = endpoint.ids_in(path).unwrap_or_default();
    names.zip(ids.into_iter().map(str::to_owned)).collect()
}

fn metrics(cx: &Context<'_>) -> Response {
    let registry = cx.api.observers.prometheus();
    let text = registry.map(|registry| registry.text()).unwrap_or_default();
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    Response::with_body(StatusCode::OK, content_type, Body::Text(text)).uncached()
}
