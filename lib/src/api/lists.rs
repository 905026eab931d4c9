//! The endpoints of lists: `GET`, `HEAD` and `DELETE` of the objects of one kind under one parent.

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::accounts;
use super::asked::Asked;
use super::auth::User;
use super::body;
use super::end_of_service;
use super::error::ApiError;
use super::listing::{self, ListQuery};
use super::request::Request;
use super::response::Response;
use crate::permission::Access;
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::settings::ApiSettings;
use crate::store::{Content, Object, Store, StoreError};
use crate::timestamp::Timestamp;
use crate::unit_of_work::{Needs, UnitOfWork};

/// What is told to who sends `_to` (Kinto 26.5).
const TO_IS_DEPRECATED: &str = r#"{"code":"soft-eol","message":"_to is deprecated, use _before","url":"https://kinto.readthedocs.io/en/2.4.0/api/resource.html#list-of-available-url-parameters"}"#;

/// What a request for a list must know before the list is read; what has no valid id cannot exist.
pub fn needs(list: &ListUri) -> Needs {
    let lineage = list.parent().into_iter().flat_map(ObjectUri::lineage);
    let exists = list.parent().is_none_or(ObjectUri::is_valid);
    Needs {
        objects: lineage.filter(|uri| uri.is_valid()).cloned().collect(),
        lists: exists.then(|| list.clone()).into_iter().collect(),
        ..Needs::default()
    }
}

/// Answers `GET`, `HEAD` and `DELETE` of a list.
///
/// Two round trips: the parents with the list's timestamp, which `unit` has read, then the objects. In this order
/// a write that comes between shows as an object later than the `ETag`, which the client asks for again, never as
/// one that it misses. To delete buckets or collections takes a third one, for the lists under them.
///
/// # Errors
/// Whatever the request is to be refused for.
pub async fn answer(
    unit: &mut UnitOfWork,
    store: &Store,
    request: &Request,
    user: &User,
    list: &ListUri,
    settings: &ApiSettings,
) -> Result<Response, ApiError> {
    body::check_media_types(request)?;
    let deletes = request.method == Method::DELETE;
    let access = if deletes { Access::Write } else { Access::Read };
    // Any object of the list stands for all: what they live under is the same.
    let any = list.clone().object("x");
    let asked = Asked {
        request,
        user,
        settings,
        uri: &any,
    };

    // Who may not do it to all of the list does it to what of it is shared; this takes all of it to be read.
    let shared = if asked.may_all(unit, access) {
        None
    } else if list.kind() == Kind::Account {
        Some(accounts::own(&asked, unit)?)
    } else {
        let (all, _) = read(unit, store, list, &ListQuery::all(), None, usize::MAX).await?;
        let shared = all
            .into_iter()
            .filter(|(id, object)| asked.is_shared(access, list, id, object));
        Some(shared.collect::<Vec<_>>())
    };
    if shared.as_ref().is_some_and(Vec::is_empty) && !asked.may_create(unit) {
        return Err(asked.forbidden());
    }
    asked.check_parents(unit)?;

    let timestamp = unit.timestamp_of(list);
    let query = ListQuery::parse(request, None, settings, Timestamp::now());
    let query = match query {
        Err(error) if listing::is_malformed(&error) => return Err(error),
        query => query,
    };
    if let Some(not_modified) = listing::check_preconditions(request, timestamp)? {
        return Ok(asked.kept(unit, not_modified));
    }
    let query = query?;
    let counts = request.method == Method::HEAD;
    let (objects, more) = match shared {
        Some(shared) => (shared, false),
        None => {
            let enough = query.enough().filter(|_| !counts);
            // What the page cannot hold need not be read; tombstones are small.
            let bytes = match enough {
                Some(_) if !deletes => listing::MAX_PAGE,
                _ => usize::MAX,
            };
            read(unit, store, list, &query, enough, bytes).await?
        }
    };
    let mut response = if deletes {
        if request.preconditions()?.if_match.is_some() {
            unit.rely_on_timestamp(list);
        }
        delete(unit, store, request, list, query, objects, settings).await?
    } else {
        let objects: Vec<_> = objects
            .into_iter()
            .map(|(id, object)| shown(&id, object))
            .collect();
        let page = if counts {
            listing::counted(query.count(&objects), timestamp)
        } else {
            let page = query.apply(objects, more, request, settings);
            page.into_response(timestamp)
        };
        asked.kept(unit, page)
    };
    if request.parameter("_to").is_some() {
        response.set_text(end_of_service::ALERT, TO_IS_DEPRECATED);
    }
    Ok(response)
}

/// Deletes those of the objects that are in the page that is asked for.
async fn delete(
    unit: &mut UnitOfWork,
    store: &Store,
    request: &Request,
    list: &ListUri,
    query: ListQuery,
    objects: Vec<(String, Object)>,
    settings: &ApiSettings,
) -> Result<Response, ApiError> {
    let live = objects
        .into_iter()
        .filter(|(_, object)| object.content != Content::Deleted);
    let mut fields = vec![];
    for (id, object) in live {
        unit.learn(&list.clone().object(&*id), &object);
        fields.push(shown(&id, object));
    }
    let page = query.of_ids().apply(fields, false, request, settings);
    let ids = page
        .objects
        .iter()
        .filter_map(|object| object["id"].as_str());
    let uris = ids.map(|id| list.clone().object(id)).collect();
    let mut tombstones: Vec<Value> = vec![];
    let mut timestamp = unit.timestamp_of(list);
    for (uri, deleted_at) in delete_all(unit, store, uris).await? {
        timestamp = timestamp.max(deleted_at);
        tombstones.push(json!({"id": uri.id(), "last_modified": deleted_at, "deleted": true}));
    }
    let mut response =
        Response::json(StatusCode::OK, &json!({"data": tombstones})).modified_at(timestamp);
    if let Some(next) = page.next {
        response.set_text(listing::NEXT_PAGE, &next);
    }
    Ok(response)
}

/// Deletes every object of a list, whoever asks.
pub async fn clear(unit: &mut UnitOfWork, store: &Store, list: &ListUri) -> Result<(), StoreError> {
    let (objects, _) = read(unit, store, list, &ListQuery::all(), None, usize::MAX).await?;
    let mut uris = vec![];
    for (id, object) in objects {
        let uri = list.clone().object(id);
        unit.learn(&uri, &object);
        uris.push(uri);
    }
    delete_all(unit, store, uris).await?;
    Ok(())
}

/// Deletes objects that the unit knows; in a round trip of its own it reads the lists under them.
async fn delete_all(
    unit: &mut UnitOfWork,
    store: &Store,
    uris: Vec<ObjectUri>,
) -> Result<Vec<(ObjectUri, Timestamp)>, StoreError> {
    let needs = Needs {
        lists: uris.iter().flat_map(ObjectUri::child_lists).collect(),
        ..Needs::default()
    };
    unit.read_more(store, needs).await?;
    let deleted = uris.into_iter().map(|uri| {
        let deleted_at = unit.delete(&uri, None);
        (uri, deleted_at)
    });
    Ok(deleted.collect())
}

/// The objects of the list that `query` may ask for; none when what they live under does not exist. `true` when there
/// may be more, which were not read for having more than `bytes` bytes.
pub async fn read(
    unit: &UnitOfWork,
    store: &Store,
    list: &ListUri,
    query: &ListQuery,
    enough: Option<usize>,
    bytes: usize,
) -> Result<(Vec<(String, Object)>, bool), StoreError> {
    let Some(generation) = unit.generation_of(list) else {
        return Ok((vec![], false));
    };
    let bounds = query.bounds();
    let written: Vec<_> = unit.written_in(list).collect();
    let bytes = if written.is_empty() {
        bytes
    } else {
        usize::MAX
    };
    let (mut objects, more) = store
        .list(
            bytes,
            list,
            &generation,
            (bounds.since, bounds.before),
            query.includes_tombstones(),
            // What the request itself has written may take the place of any of them.
            enough.filter(|_| written.is_empty()),
        )
        .await?;
    if !written.is_empty() {
        objects.retain(|(id, _)| written.iter().all(|(other, _)| other != id));
        let written = written
            .into_iter()
            .filter(|(_, object)| object.is_of(&generation));
        objects.extend(written.map(|(id, object)| (id.to_owned(), object.clone())));
        if !query.includes_tombstones() {
            objects.retain(|(_, object)| object.content != Content::Deleted);
        }
    }
    Ok((objects, more))
}

/// An object of a list, a tombstone or not, as the API shows it.
fn shown(id: &str, object: Object) -> Map<String, Value> {
    let data = match object.content {
        Content::Live { data, .. } => data,
        Content::Deleted => Map::from_iter([("deleted".to_owned(), true.into())]),
    };
    listing::named(data, id, object.last_modified)
}
