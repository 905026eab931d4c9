//! Reading what is published while its layer is being settled: lists of its records, and single ones.

use std::collections::HashMap;

use crate::api::Api;
use crate::api::dispatch::target::Target;
use crate::api::web::error::ApiError;
use crate::api::web::request::Request;
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::settings::{Role, SignerSettings};
use crate::store::publication::Layer;
use crate::store::{Key, List, Store};
use crate::unit_of_work::UnitOfWork;

/// The list of records that a request reads, all or one object of it, where that may have a layer: what is published, and what was taken
/// back.
pub fn published_list(
    signer: Option<&SignerSettings>,
    request: &Request,
    target: &Target,
) -> Option<ListUri> {
    let signer = signer.filter(|_| request.is_read())?;
    let (list, collection) = records_of(target)?;
    signer.role(collection).map(|_| list.clone())
}

/// The list of records that a request is about, with its collection.
fn records_of(target: &Target) -> Option<(&ListUri, &ObjectUri)> {
    let list = match target {
        Target::Object { uri, .. } if uri.is_valid() => uri.list(),
        Target::List(list) => list,
        _ => return None,
    };
    let collection = list.parent().filter(|uri| uri.is_valid())?;
    (list.kind() == Kind::Record).then_some((list, collection))
}

/// Settles the layer of a source before a write to it: what is in the places of its records then is what they are.
///
/// # Errors
/// [`ApiError::Overtaken`] where it had one.
pub async fn settle_before_write(
    api: &Api,
    unit: &UnitOfWork,
    request: &Request,
    target: &Target,
) -> Result<(), ApiError> {
    let signer = api.settings.api.signer.as_ref();
    let Some((signer, (list, collection))) = signer.zip(records_of(target)) else {
        return Ok(());
    };
    match signer.role(collection) {
        Some(Role::Source(_)) if !request.is_read() => {
            super::publish::settle(api, unit, list).await
        }
        _ => Ok(()),
    }
}

/// Has the unit see a list with its layer; gives the layer, where there is one.
///
/// One `BatchGetItem` of one item for an object, a `Query` for each MB of the layer for a list.
///
/// # Errors
/// [`ApiError::Overtaken`] where the list shows another state by now.
pub async fn read_layer(
    store: &Store,
    unit: &mut UnitOfWork,
    target: &Target,
    list: &ListUri,
) -> Result<Option<Layer>, ApiError> {
    let Some(layer) = unit.layer_of(list) else {
        return Ok(None);
    };
    let objects = match target {
        Target::Object { uri, .. } => {
            let object = store.layer_object(list, &layer, uri.id()).await?;
            let object = object.map(|object| (uri.id().to_owned(), object));
            HashMap::from_iter(object)
        }
        _ => {
            let objects = store.layer_objects(list, &layer).await?;
            objects.ok_or(ApiError::Overtaken)?
        }
    };
    unit.insert_layer_objects(list, objects);
    Ok(Some(layer))
}

/// Checks that a list that was read with a layer still shows it. One `BatchGetItem` of one item.
///
/// # Errors
/// [`ApiError::Overtaken`]
pub async fn check(store: &Store, list: &ListUri, layer: &Layer) -> Result<(), ApiError> {
    let key = Key::list(list);
    let item = store.read(std::slice::from_ref(&key)).await?.remove(&key);
    let now = item.as_ref().map(List::from_item).transpose()?;
    match now.and_then(|list| list.published.layer).as_ref() == Some(layer) {
        true => Ok(()),
        false => Err(ApiError::Overtaken),
    }
}
