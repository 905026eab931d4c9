//! What was planned, written to layers and signed, to be shown when the request is committed.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::origin;
use super::records::{self, Records};
use crate::api::Api;
use crate::api::web::error::ApiError;
use crate::event::EventName;
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::settings::{Role, SignerSettings};
use crate::signer::keys::{Error, Signed};
use crate::signer::payload;
use crate::store::publication::PublicationWrite;
use crate::store::{Content, Generation, Object};
use crate::timestamp::Timestamp;
use crate::unit_of_work::UnitOfWork;
use crate::unit_of_work::publications::{Publication, ReviewEvent};

/// The most records that a rollback writes to their places: they fit into one transaction beside all else. More are written
/// in a layer; of more, and of more that are published at once, listeners are sent only what identifies each.
pub(super) const MAX_IN_PLACE: usize = 75;

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
    for (list, objects) in unit.take_layer_writes() {
        let layer = api.store.write_layer(&list, objects).await?;
        let show = PublicationWrite {
            signatures: None,
            until: None,
            layer: Some(layer),
        };
        unit.publish(&list, None, show);
    }
    for (target, publication) in unit.take_publications() {
        if unit.get(&target).is_some() {
            let role = signer.role(&target);
            unit.set_origin(|| match role {
                Some(Role::Target(of)) => Some(origin(&of.source)),
                _ => None,
            });
            publish_one(api, signer, unit, &target, publication).await?;
        }
    }
    unit.set_origin(|| None);
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
    let before = Records::read(&api.store, unit, &list).await?;
    let changes = match &publication.records {
        Some(records) => records::changes(records, &before.shared())?,
        None => BTreeMap::new(),
    };
    let (now, mut timestamp) = (unit.now(), unit.timestamp_of(&list));
    let mut times = before.times().clone();
    let mut records = before.shared();
    let generation = Generation::unique();
    let mut objects = vec![];
    for (id, data) in changes {
        timestamp = now.later_than(timestamp);
        times.insert(id.clone(), timestamp);
        let content = match data {
            Some(data) => Content::Live {
                data,
                permissions: Default::default(),
            },
            None => Content::Deleted,
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
        timestamp = now.later_than(timestamp);
    }
    let at = (!objects.is_empty() || publication.is_renewed).then_some(timestamp);
    if !objects.is_empty() {
        let changed = std::sync::Arc::make_mut(&mut records);
        for (id, object) in &objects {
            match &object.content {
                Content::Live { data, .. } => {
                    changed.insert(id.clone(), Value::Object(data.clone()).to_string());
                }
                Content::Deleted => _ = changed.remove(id),
            }
        }
    }
    add_record_events(unit, &list, &objects, &before)?;
    if let Some(review) = publication.review {
        add_review_event(unit, review, &objects);
    }
    let text = text(&records, &times, timestamp)?;
    let signed = sign(api, signer, unit, target, &text).await?;
    let signatures = json!(signed.signatures);
    let layer = match objects.is_empty() {
        true => None,
        false => Some(api.store.write_layer(&list, objects).await?),
    };
    let show = PublicationWrite {
        signatures: Some(signatures.to_string()),
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

/// Tells listeners of the records that a publication writes.
fn add_record_events(
    unit: &mut UnitOfWork,
    list: &ListUri,
    objects: &[(String, Object)],
    before: &Records,
) -> Result<(), ApiError> {
    if !unit.publishes_events() {
        return Ok(());
    }
    let many = objects.len() > MAX_IN_PLACE;
    let records = before.shared();
    for (id, object) in objects {
        let old = match records.get(id) {
            None => None,
            Some(data) => Some(Object {
                last_modified: before.times().get(id).copied().unwrap_or_default(),
                content: Content::Live {
                    data: if many {
                        Map::new()
                    } else {
                        records::parse(data)?
                    },
                    permissions: Default::default(),
                },
                ..object.clone()
            }),
        };
        unit.add_layer_event(&list.clone().object(&**id), object, old.as_ref(), many);
    }
    Ok(())
}

/// Tells of what a publication is to the review of its source.
pub fn add_review_event(unit: &mut UnitOfWork, review: ReviewEvent, objects: &[(String, Object)]) {
    let count = review.changes + objects.len();
    match review.event {
        EventName::ReviewCanceled if count == 0 => {}
        EventName::ReviewCanceled => unit.add_review_event(review, Some(count), None),
        _ => {
            let bytes = size_of(objects);
            unit.add_review_event(review, Some(count), Some(bytes));
        }
    }
}

/// Bytes that clients read of what changed: canonical JSON, as what is signed.
fn size_of(objects: &[(String, Object)]) -> usize {
    if objects.is_empty() {
        return 0;
    }
    let mut text = payload::Text::new();
    for (id, object) in objects {
        if let Content::Live { data, .. } = &object.content {
            let mut record = data.clone();
            record.insert("id".to_owned(), id.clone().into());
            record.insert("last_modified".to_owned(), object.last_modified.0.into());
            text.add(&Value::Object(record));
        }
    }
    text.end(Timestamp(0)).len()
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
        let mut record = records::parse(data)?;
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
