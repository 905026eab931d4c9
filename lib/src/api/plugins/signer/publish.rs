//! What was planned, written to layers and signed, to be shown when the request is committed.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::content::{self, Content};
use crate::api::Api;
use crate::api::web::error::ApiError;
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::settings::{Role, SignerSettings};
use crate::signer::keys::{Error, Signed};
use crate::signer::payload;
use crate::store::publication::Show;
use crate::store::{Content as Stored, Generation, Object};
use crate::timestamp::Timestamp;
use crate::unit_of_work::UnitOfWork;
use crate::unit_of_work::publications::Publication;

/// Publishes what was planned.
///
/// Of each collection it reads the records once, and writes those that change to a layer that nobody reads before the commit.
///
/// # Errors
/// [`ApiError::Overtaken`] where something was written meanwhile; failures of ours.
pub async fn publish(api: &Api, unit: &mut UnitOfWork) -> Result<(), ApiError> {
    let Some(signer) = &api.settings.api.signer else {
        return Ok(());
    };
    for (target, publication) in unit.take_plans() {
        if unit.get(&target).is_some() {
            publish_one(api, signer, unit, &target, publication).await?;
        }
    }
    Ok(())
}

async fn publish_one(
    api: &Api,
    signer: &SignerSettings,
    unit: &mut UnitOfWork,
    target: &ObjectUri,
    publication: Publication,
) -> Result<(), ApiError> {
    let list = target.children(Kind::Record);
    settle(api, unit, &list).await?;
    let parent = unit.generation_of(&list).unwrap_or(Generation::ROOT);
    let before = Content::read(&api.store, unit, &list).await?;
    let changes = match &publication.records {
        Some(records) => content::changes(records, &before.shared())?,
        None => BTreeMap::new(),
    };
    let mut timestamp = unit.timestamp_of(&list);
    let mut times = before.times().clone();
    let mut records = before.shared();
    let generation = Generation::unique();
    let mut objects = vec![];
    for (id, data) in changes {
        timestamp = unit.now().max(timestamp.next());
        times.insert(id.clone(), timestamp);
        let content = match data {
            Some(data) => Stored::Live {
                data,
                permissions: Default::default(),
            },
            None => Stored::Deleted,
        };
        let object = Object {
            last_modified: timestamp,
            generation: generation.clone(),
            parent: parent.clone(),
            content,
        };
        objects.push((id, object));
    }
    // A time of its own, which clients ask for and caches know, where nothing else gives one.
    if objects.is_empty() && publication.is_renewed {
        timestamp = unit.now().max(timestamp.next());
    }
    let at = (!objects.is_empty() || publication.is_renewed).then_some(timestamp);
    if !objects.is_empty() {
        let changed = std::sync::Arc::make_mut(&mut records);
        for (id, object) in &objects {
            match &object.content {
                Stored::Live { data, .. } => {
                    changed.insert(id.clone(), Value::Object(data.clone()).to_string());
                }
                Stored::Deleted => _ = changed.remove(id),
            }
        }
    }
    let text = text(&records, &times, timestamp)?;
    let signed = sign(api, signer, unit, target, &text).await?;
    let signatures = json!(signed.signatures);
    let layer = match objects.is_empty() {
        true => None,
        false => Some(api.store.write_layer(&list, objects).await?),
    };
    let show = Show {
        signatures: signatures.to_string(),
        until: signed.until,
        layer,
    };
    unit.publish(&list, at, show);
    let mut metadata = publication.metadata;
    metadata.insert("signature".to_owned(), signatures[0].clone());
    metadata.insert("signatures".to_owned(), signatures);
    update(unit, target, metadata);
    Ok(())
}

/// The text that is signed.
fn text(
    records: &BTreeMap<String, String>,
    times: &BTreeMap<String, Timestamp>,
    timestamp: Timestamp,
) -> Result<String, ApiError> {
    // In the order of ids, as it is to be.
    let mut text = payload::Text::new();
    for (id, data) in records {
        let mut record = content::parse(data)?;
        record.insert("id".to_owned(), id.clone().into());
        let at = times.get(id).copied().unwrap_or_default();
        record.insert("last_modified".to_owned(), at.0.into());
        text.add(&Value::Object(record));
    }
    Ok(text.end(timestamp))
}

/// The signatures by all keys of the target's source.
async fn sign(
    api: &Api,
    signer: &SignerSettings,
    unit: &UnitOfWork,
    target: &ObjectUri,
    text: &str,
) -> Result<Signed, ApiError> {
    let keys = match signer.role(target) {
        Some(Role::Target(of)) => signer.keys(&of.source),
        _ => None,
    };
    let keys = keys.ok_or(ApiError::Signing(Error::NoKeys))?;
    let signed = api.signer.sign(keys, text, unit.now()).await;
    signed.map_err(ApiError::Signing)
}

fn update(unit: &mut UnitOfWork, target: &ObjectUri, fields: Map<String, Value>) {
    if let Some(live) = unit.get(target) {
        let (mut data, permissions) = (live.data.clone(), live.permissions.clone());
        data.extend(fields);
        unit.update(target, data, permissions, None);
    }
}

/// Settles the layer of a list, where it has one.
///
/// # Errors
/// [`ApiError::Overtaken`] where it had: the list is to be read anew.
pub async fn settle(api: &Api, unit: &UnitOfWork, list: &ListUri) -> Result<(), ApiError> {
    match unit.layer_of(list) {
        None => Ok(()),
        Some(layer) => {
            api.store.settle_layer(list, &layer).await?;
            Err(ApiError::Overtaken)
        }
    }
}
