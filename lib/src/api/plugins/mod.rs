//! Kinto's plugins: each states what it adds in one value ([`Plugin`]), in its own file.
//!
//! `KINTO_INCLUDES` turns one on by its name ([`crate::settings::PluginName`]); its settings are read with all others
//! when a function starts, so that a mistake prevents the start ([`crate::settings`]).

pub mod accounts;
pub mod admin;
pub mod default_bucket;
pub mod flush;
pub mod history;
pub mod openid;
pub mod permissions_endpoint;
pub mod prometheus;
pub mod signer;

use futures::future::BoxFuture;
use serde_json::{Map, Value};

use crate::api::Api;
use crate::api::dispatch::endpoint::Endpoint;
use crate::api::web::error::ApiError;
use crate::event::ResourceChanged;
use crate::settings::ApiSettings;
use crate::unit_of_work::UnitOfWork;

/// All plugins, in the order in which `GET /v1/` shows them and writes pass through them.
static ALL: [&Plugin; 9] = [
    &permissions_endpoint::PLUGIN,
    &default_bucket::PLUGIN,
    &flush::PLUGIN,
    &accounts::PLUGIN,
    &admin::PLUGIN,
    &openid::PLUGIN,
    &signer::PLUGIN,
    &history::PLUGIN,
    &prometheus::PLUGIN,
];

/// A plugin: all that it adds to the API.
#[derive(Debug)]
pub struct Plugin {
    /// Its name among the capabilities of `GET /v1/`.
    pub capability: &'static str,
    /// Whether these settings turn it on.
    pub is_on: fn(&ApiSettings) -> bool,
    /// Its description in `GET /v1/`; `None` shows nothing.
    pub describe: for<'c> fn(&'c Api) -> BoxFuture<'c, Option<Value>>,
    /// Its endpoints.
    pub endpoints: &'static [Endpoint],
    /// The code that it runs after writes; `None` for a plugin that only answers requests.
    pub on_write: Option<OnWrite>,
}

/// Code that a plugin runs when a request, or batch, has been answered and has written something, before listeners are
/// asked and it is committed, like Kinto's subscribers to `ResourceChanged`.
///
/// Its writes to the unit of work are committed in the same transaction, or not at all when it fails; it first reads
/// the lists that it writes to ([`UnitOfWork::read_more`]). It runs again whenever the request is retried.
pub type OnWrite = for<'c> fn(
    &'c Api,
    &'c mut UnitOfWork,
    &'c [ResourceChanged],
) -> BoxFuture<'c, Result<(), ApiError>>;

/// The plugins that these settings turn on.
pub fn enabled(settings: &ApiSettings) -> impl Iterator<Item = &'static Plugin> {
    let all = ALL.into_iter();
    all.filter(|plugin| (plugin.is_on)(settings))
}

/// Adds the capabilities of the plugins that are on.
pub async fn describe(api: &Api, capabilities: &mut Map<String, Value>) {
    for plugin in enabled(&api.settings.api) {
        if let Some(description) = (plugin.describe)(api).await {
            capabilities.insert(plugin.capability.to_owned(), description);
        }
    }
}

/// Lets plugins add the writes that follow from those of the request. Nobody is notified of the added ones, unless the plugin
/// has that done. Plugins hear of writes alone, not of reviews nor of what is written in a layer.
///
/// # Errors
/// Any refusal by a plugin.
pub async fn after_writes(
    plugins: &[OnWrite],
    api: &Api,
    unit: &mut UnitOfWork,
) -> Result<(), ApiError> {
    if plugins.is_empty() || !unit.has_writes() {
        return Ok(());
    }
    let mut events = unit.events();
    events.retain(|event| event.review.is_none() && !event.truncated);
    unit.set_origin(|| None);
    for on_write in plugins {
        on_write(api, unit, &events).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::config::{BehaviorVersion, Config};
    use serde_json::json;

    use super::*;
    use crate::event::{Origin, OriginTarget};
    use crate::listeners::Listeners;
    use crate::permission::Permissions;
    use crate::resource::{ListUri, ObjectUri};
    use crate::settings::{Settings, Vars};
    use crate::store::Store;
    use crate::timestamp::Timestamp;
    use crate::unit_of_work::Needs;

    fn api() -> Api {
        let vars: Vars = [("KINTO_USERID_HMAC_SECRET", "s")].into_iter().collect();
        let config = Config::builder().behavior_version(BehaviorVersion::latest());
        let client = aws_sdk_dynamodb::Client::from_conf(config.build());
        let settings = Settings::from_vars(&vars).unwrap();
        Api::new(
            Store::new(client, "t"),
            settings,
            vec![],
            Listeners::default(),
        )
    }

    /// A unit that has created the bucket `a` on behalf of `user`, with events.
    async fn wrote(api: &Api) -> UnitOfWork {
        // Without needs, nothing is read.
        let unit = UnitOfWork::read(&api.store, Timestamp(5), Needs::default()).await;
        let mut unit = unit.unwrap().with_events(true);
        unit.set_origin(|| {
            Some(Origin {
                user_id: Some("user".to_owned()),
                target: OriginTarget::List(ListUri::buckets()),
            })
        });
        let data = Map::from_iter([("n".to_owned(), json!(1))]);
        unit.create(&ObjectUri::bucket("a"), data, Permissions::default(), None);
        unit
    }

    #[tokio::test]
    async fn a_plugin_writes_in_the_unit_of_work_of_the_write_and_nobody_is_notified_of_that() {
        let note: OnWrite = |_, unit, events| {
            Box::pin(async move {
                for event in events {
                    let id = format!("{}-{}", event.resource_name, event.action);
                    let (data, granted) = (Map::new(), Permissions::default());
                    unit.create(&ObjectUri::bucket(id), data, granted, None);
                }
                Ok(())
            })
        };
        let api = api();
        let mut unit = wrote(&api).await;
        after_writes(&[note], &api, &mut unit).await.unwrap();
        let buckets = ListUri::buckets();
        let mut ids: Vec<_> = unit.written_in(&buckets).map(|(id, _)| id).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["a", "bucket-create"]);
        let events = unit.events();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].impacted_uris, ["/buckets/a"]);
    }

    #[tokio::test]
    async fn a_plugin_that_refuses_a_write_has_the_request_refused() {
        let refuse: OnWrite = |_, _, _| Box::pin(async { Err(ApiError::TooLarge) });
        let api = api();
        let mut unit = wrote(&api).await;
        let refused = after_writes(&[refuse], &api, &mut unit).await;
        assert!(matches!(refused, Err(ApiError::TooLarge)));
    }
}
