//! `kinto.plugins.history`: each bucket keeps what was written in it, by whom, and what came of it (Kinto 26.5).
//!
//! Each write of an object puts an entry into the history of its bucket, in its own transaction ([`record`]). The
//! items are in [`crate::store::history`]; why it is so is in [decision 24](../../../../../docs/decisions/024-history.md).

pub mod list;
pub mod record;
pub mod snapshot;
pub mod trim;

use std::time::Duration;

use http::Method;
use serde_json::{Map, Value, json};

use crate::api::Api;
use crate::api::dispatch::endpoint::{About, Audience, Endpoint, Handler};
use crate::api::plugins::Plugin;
use crate::api::service::operation::{
    Operation, REFUSALS, described, list_parameters, required, responses,
};
use crate::api::web::cors::Exposes;
use crate::permission::{Access, Permissions};
use crate::resource::{Kind, ObjectUri};
use crate::settings::{HistorySettings, PluginName};

/// The plugin.
pub static PLUGIN: Plugin = Plugin {
    capability: "history",
    is_on: |settings| settings.includes.has(PluginName::History),
    describe: |api| Box::pin(async { describe(api) }),
    endpoints: &[HISTORY, SNAPSHOT],
    on_write: Some(|api, unit, events| Box::pin(record::on_write(api, unit, events))),
};

const HISTORY: Endpoint = Endpoint {
    path: "/buckets/{bucket_id}/history",
    about: About::Within(Kind::Bucket),
    methods: &[Method::GET, Method::HEAD, Method::DELETE, Method::OPTIONS],
    audience: Audience::Users,
    exposes: Exposes::Page,
    operation: |method, now| {
        let reads = *method != Method::DELETE;
        let mut answers = responses(&REFUSALS);
        let entries = described("The entries, or their tombstones.");
        answers.insert("200".to_owned(), entries);
        Operation {
            id: format!("{}_history", if reads { "get" } else { "delete" }),
            tag: "History".to_owned(),
            is_secured: true,
            parameters: list_parameters(reads, Some(&list::FIELDS), None, now),
            consumes: &[],
            responses: answers,
        }
    },
    handler: Handler::Call(|cx| Box::pin(list::handle(cx))),
    ..Endpoint::READ_ONLY
};

const SNAPSHOT: Endpoint = Endpoint {
    path: "/buckets/{bucket_id}/snapshot/collections/{collection_id}@{timestamp}",
    about: About::Within(Kind::Collection),
    audience: Audience::Users,
    operation: |_, _| {
        let refusals = [400, 401, 403, 404, 406, 413].map(|status| (status, ""));
        let mut answers = responses(&refusals);
        let records = described("The records as they were at that time.");
        answers.insert("200".to_owned(), records);
        Operation {
            id: "get_history_snapshot".to_owned(),
            tag: "History".to_owned(),
            is_secured: true,
            parameters: vec![required(json!({
                "name": "timestamp",
                "in": "path",
                "type": "integer",
                "minimum": 0,
            }))],
            consumes: &[],
            responses: answers,
        }
    },
    handler: Handler::Call(|cx| Box::pin(snapshot::handle(cx))),
    ..Endpoint::READ_ONLY
};

/// For so long after its time an entry may still appear: the longest that a request goes on until its commit is known,
/// that DynamoDB takes to finish one that was not answered, and that clocks differ by.
const SETTLED_AFTER: Duration = Duration::from_secs(40);

fn describe(api: &Api) -> Option<Value> {
    let settings = api.settings.api.history.as_ref()?;
    let mut capability = json!({
        "description": "Each bucket keeps what was written in it.",
        "url": "https://kinto.readthedocs.io/en/latest/api/1.x/history.html",
    });
    if let Some(trim) = &settings.trim {
        capability["auto_trim_max_count"] = trim.max_count.into();
    }
    if !settings.trim_user_ids.is_empty() {
        capability["auto_trim_user_ids"] = json!(settings.trim_user_ids);
    }
    let excluded = settings.exclude_resources.iter().map(|uri| {
        let lineage = uri.lineage().collect::<Vec<_>>().into_iter().rev();
        let names = lineage.map(|uri| (uri.kind().name().to_owned(), uri.id().into()));
        Value::Object(names.collect())
    });
    let excluded: Vec<_> = excluded.collect();
    if !excluded.is_empty() {
        capability["excluded_resources"] = excluded.into();
    }
    Some(capability)
}

/// The principals that the permissions of an object let read it.
fn readers(permissions: &Permissions) -> impl Iterator<Item = &String> {
    let granted = ["read", "write"].map(|permission| permissions.granted(permission));
    granted.into_iter().flatten()
}

/// Whether the settings let one of these principals do that to the history of any bucket.
fn is_granted(settings: &HistorySettings, access: Access, principals: &[String]) -> bool {
    let is_one = |granted: &&String| principals.contains(granted);
    settings
        .write_principals
        .iter()
        .any(|granted| is_one(&granted))
        || access == Access::Read && settings.read_principals.iter().any(|g| is_one(&g))
}

/// The ids that name an object, and the kind that it is of.
fn names(uri: &ObjectUri) -> Map<String, Value> {
    let lineage = uri
        .lineage()
        .filter(|named| named.kind() != Kind::Bucket || named == &uri);
    let mut names: Map<_, _> = lineage
        .map(|uri| (format!("{}_id", uri.kind().name()), uri.id().into()))
        .collect();
    names.insert("resource_name".to_owned(), uri.kind().name().into());
    names
}
