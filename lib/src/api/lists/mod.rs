//! The endpoints of lists: `GET`, `HEAD` and `DELETE` of the objects of one kind under one parent.

pub mod filter;
pub mod page_token;
pub mod parameters;
pub mod projection;
pub mod query;
mod scan;
pub mod selection;
pub mod sort;
pub mod walk;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use self::query::ListQuery;
use self::scan::{Readings, reading, scan, scan_settled, settle};
use self::selection::{Page, Selection, count_response, deleted_response};
use crate::api::auth::authorization::ObjectRequest;
use crate::api::auth::principals::User;
use crate::api::dispatch::context::Context;
use crate::api::objects::metadata;
use crate::api::plugins::accounts;
use crate::api::web::end_of_service;
use crate::api::web::error::ApiError;
use crate::api::web::media_type;
use crate::api::web::preconditions::{Outcome, Preconditions};
use crate::api::web::response::Response;
use crate::permission::Access;
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::store::list::{ListRead, ListedObject};
use crate::store::recent::RecentWrites;
use crate::store::{Content, Key, Object, Store, StoreError};
use crate::timestamp::Timestamp;
use crate::unit_of_work::client_time;
use crate::unit_of_work::{Needs, UnitOfWork};

/// The `Alert` for clients that send `_to` (Kinto 26.5).
const TO_IS_DEPRECATED: &str = r#"{"code":"soft-eol","message":"_to is deprecated, use _before","url":"https://kinto.readthedocs.io/en/2.4.0/api/resource.html#list-of-available-url-parameters"}"#;

/// The most buckets, beside the list's own, whose groups are looked up to find the objects shared with a user.
const MAX_SHARING_BUCKETS: usize = 100;
/// The most bytes to read for one page of a list that is not filtered, where little of each object is shown.
const MAX_READ: usize = 24 * 1024 * 1024;

/// The reads that a request for a list needs before the list is read. An object without a valid id cannot exist.
pub fn needs(list: &ListUri) -> Needs {
    let lineage = list.parent().into_iter().flat_map(ObjectUri::lineage);
    let exists = list.parent().is_none_or(ObjectUri::is_valid);
    Needs {
        objects: lineage.filter(|uri| uri.is_valid()).cloned().collect(),
        lists: exists.then(|| list.clone()).into_iter().collect(),
        ..Needs::default()
    }
}

/// Answers `GET`, `HEAD` and `DELETE` of a list, in no more memory than a page takes.
///
/// Two round trips and one more for each MB: the parents with the list's timestamp, which `unit` has read, then the
/// objects. In this order a write that comes between shows as an object later than the `ETag`, which the client asks
/// for again, never as one that it misses. Deleting buckets or collections takes a third round trip, for the lists
/// under them.
///
/// # Errors
/// Any refusal of the request.
pub async fn handle(cx: &mut Context<'_>, list: &ListUri) -> Result<Response, ApiError> {
    let settings = cx.settings();
    let (unit, store) = (&mut *cx.unit, &cx.api.store);
    let (request, user) = (cx.request, cx.user);
    media_type::check(request)?;
    // Kinto 26.5 looks this up as the id of a bucket at once, which it cannot be.
    if let Some(parent) = list
        .parent()
        .filter(|parent| parent.bucket_id().contains('*'))
    {
        return Err(ApiError::unknown_parent(parent.bucket_uri()));
    }
    let deletes = request.method == Method::DELETE;
    let access = if deletes { Access::Write } else { Access::Read };
    // Any object of the list stands for all of them, since they have the same parents.
    let any = list.clone().object("x");
    let object_request = ObjectRequest {
        request,
        user,
        settings,
        uri: &any,
    };

    // Without the permission on the whole list, the request is about the objects shared with the user or their groups.
    let in_groups;
    let is_of_accounts = list.kind() == Kind::Account;
    // Who may read all accounts, and is no administrator, sees their own (Kinto 26.5).
    let may_all = object_request.may_list_all(unit, access)
        && (!is_of_accounts || object_request.may_all(unit, Access::Write));
    let object_request = if may_all || is_of_accounts {
        object_request
    } else {
        in_groups = in_sharing_groups(unit, store, user, list).await?;
        ObjectRequest {
            user: &in_groups,
            ..object_request
        }
    };
    let scope = if may_all {
        Scope::All
    } else if is_of_accounts {
        Scope::Only(accounts::own(&object_request, unit)?)
    } else if shares_some(unit, store, &object_request, access, list).await? {
        Scope::Shared
    } else {
        Scope::Only(vec![])
    };
    if matches!(&scope, Scope::Only(objects) if objects.is_empty())
        && !object_request.may_create(unit)
    {
        return Err(object_request.forbidden());
    }
    object_request.check_parents(unit)?;

    let timestamp = unit.timestamp_of(list);
    let now = client_time::reference_time(Timestamp::now(), timestamp);
    let query = ListQuery::parse(request, None, settings, now);
    let query = match query {
        Err(error) if query::is_malformed(&error) => return Err(error),
        query => query,
    };
    let preconditions = Preconditions::of(request)?;
    match preconditions.check(request, Some(timestamp)) {
        Outcome::Met => {}
        Outcome::NotModified => {
            let response = Response::empty(StatusCode::NOT_MODIFIED).modified_at(timestamp);
            return Ok(object_request.with_cache_headers(unit, response));
        }
        Outcome::Failed => return Err(ApiError::precondition_failed(timestamp)),
    }
    let query = query?;
    let chosen = ListRequest {
        object_request: &object_request,
        access,
        list,
        query: &query,
        scope,
    };
    let mut response = if deletes {
        if preconditions.if_match.is_some() {
            unit.rely_on_timestamp(list);
        }
        chosen.delete(unit, store).await?
    } else {
        let answer = match request.method {
            Method::HEAD => count_response(chosen.count(unit, store).await?, timestamp),
            _ => chosen.page(unit, store).await?.into_response(timestamp),
        };
        object_request.with_cache_headers(unit, answer)
    };
    if request.parameter("_to").is_some() {
        response.set_text(end_of_service::ALERT, TO_IS_DEPRECATED);
    }
    Ok(response)
}

/// The objects of a list on which the user has the permission that the request needs.
enum Scope {
    All,
    /// Those that grant it by their own permissions.
    Shared,
    /// These alone.
    Only(Vec<(String, Object)>),
}

/// The user with those of their groups that something in the list is granted to. The list is read for these groups
/// where its item does not name them.
async fn in_sharing_groups(
    unit: &mut UnitOfWork,
    store: &Store,
    user: &User,
    list: &ListUri,
) -> Result<User, ApiError> {
    let mut user = user.clone();
    if user.id.is_none() {
        return Ok(user);
    }
    let groups = match unit.sharing_groups(list) {
        Some(groups) => groups,
        None => {
            let mut groups = BTreeSet::new();
            scan(unit, store, list, &ListQuery::all(), None, |object| {
                groups.extend(object.permissions()?.groups());
                Ok(ControlFlow::Continue(()))
            })
            .await?;
            groups
        }
    };
    user.add_groups(unit, store, &groups, MAX_SHARING_BUCKETS)
        .await?;
    Ok(user)
}

/// Returns `true` if an object of the list is shared with the user, who lacks the permission on the whole list. Rarely
/// reads the list, and only up to the first such object.
async fn shares_some(
    unit: &UnitOfWork,
    store: &Store,
    object_request: &ObjectRequest<'_>,
    access: Access,
    list: &ListUri,
) -> Result<bool, ApiError> {
    if !unit
        .may_share(store, list, &object_request.user.principals)
        .await?
    {
        return Ok(false);
    }
    let mut is_shared = false;
    let every = ListQuery::all();
    scan(unit, store, list, &every, None, |object| {
        is_shared |= object_request.is_shared(access, list, &object.id, &object.permissions()?);
        Ok(match is_shared {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    })
    .await?;
    Ok(is_shared)
}

/// The objects of a list that a request is about.
struct ListRequest<'a> {
    object_request: &'a ObjectRequest<'a>,
    access: Access,
    list: &'a ListUri,
    query: &'a ListQuery,
    scope: Scope,
}

impl ListRequest<'_> {
    /// Counts the objects. The table itself counts those that are bounded by times alone.
    async fn count(&self, unit: &UnitOfWork, store: &Store) -> Result<usize, ApiError> {
        let Self { list, query, .. } = *self;
        if matches!(self.scope, Scope::All)
            && query.is_of_bounds()
            && unit.written_in(list).next().is_none()
        {
            let Some(generation) = unit.generation_of(list) else {
                return Ok(0);
            };
            let reading = ListRead {
                tombstones: false,
                ..reading(list, &generation, query)
            };
            settle(unit, store, list, &generation).await?;
            let (count, bytes) = store.count(&reading).await?;
            unit.allowance.read(bytes)?;
            return Ok(count);
        }
        let mut readings = Readings::of(unit, list);
        loop {
            let mut count = 0;
            let see = |_: &ListedObject, fields: &Map<String, Value>| {
                count += usize::from(query.counts(fields));
                Ok(ControlFlow::Continue(()))
            };
            let read = self.each(unit, store, &readings.recent, None, see).await;
            if !readings.go_on(unit, store, &read).await? {
                return read.map(|_| count);
            }
        }
    }

    /// The page of these objects that the request asks for.
    async fn page(&self, unit: &UnitOfWork, store: &Store) -> Result<Page, ApiError> {
        let query = self.query;
        let mut readings = Readings::of(unit, self.list);
        loop {
            let mut selection = Selection::of(query);
            let mut bytes = 0;
            let mut times = Times::default();
            let see = |object: &ListedObject, fields: &Map<String, Value>| {
                let is_earlier = query.is_by_time() && times.next(object.last_modified);
                if is_earlier && query.is_of_bounds() && bytes > MAX_READ {
                    return Ok(ControlFlow::Break(()));
                }
                bytes += object.data().map_or(0, str::len);
                selection.offer(fields, || {
                    let text = match query.shows_all() {
                        true if self.list.kind() != Kind::Account => text_of(object),
                        _ => query.shown(fields),
                    };
                    let length = text.len();
                    (text, length)
                });
                Ok(stop_if(is_earlier && selection.is_full()))
            };
            let read = self
                .each(unit, store, &readings.recent, query.objects_for_page(), see)
                .await;
            if readings.go_on(unit, store, &read).await? {
                continue;
            }
            let ObjectRequest {
                request, settings, ..
            } = self.object_request;
            let (objects, next) = selection.finish(read?, request, settings);
            return Ok(Page { objects, next });
        }
    }

    /// Deletes the objects in the page that the request asks for.
    async fn delete(&self, unit: &mut UnitOfWork, store: &Store) -> Result<Response, ApiError> {
        let query = self.query;
        // Listeners are notified of the deleted data, and the data of a group has the members who leave it.
        let needs_data = unit.publishes_events() || self.list.kind() == Kind::Group;
        // Tombstones are not deleted, so a limit on what is read could leave too few objects.
        let limit_hint = query
            .objects_for_page()
            .filter(|_| !query.includes_tombstones());
        let mut readings = Readings::of(unit, self.list);
        let (objects, next) = loop {
            let mut selection = Selection::of(query);
            let mut failed = None;
            let mut times = Times::default();
            let see = |object: &ListedObject, fields: &Map<String, Value>| {
                let is_earlier = query.is_by_time() && times.next(object.last_modified);
                if object.is_deleted() {
                    return Ok(ControlFlow::Continue(()));
                }
                selection.offer(fields, || {
                    let (read, length) = match needs_data {
                        true => (object.to_object(), object.data().map_or(0, str::len)),
                        false => (object.to_object_without_data(), 0),
                    };
                    let read = read.map_err(|error| failed = Some(error)).ok();
                    ((object.id.clone(), read), length)
                });
                Ok(stop_if(is_earlier && selection.is_full()))
            };
            let read = self
                .each(unit, store, &readings.recent, limit_hint, see)
                .await;
            if readings.go_on(unit, store, &read).await? {
                continue;
            }
            let more = read?;
            if let Some(error) = failed {
                return Err(error.into());
            }
            let ObjectRequest {
                request, settings, ..
            } = self.object_request;
            break selection.finish(more, request, settings);
        };
        let mut uris = vec![];
        for (id, object) in objects {
            let uri = self.list.clone().object(id);
            if let Some(object) = object {
                unit.insert_read(&uri, &object);
            }
            uris.push(uri);
        }
        let mut tombstones: Vec<Value> = vec![];
        let mut timestamp = unit.timestamp_of(self.list);
        for (uri, deleted_at) in delete_all(unit, store, uris).await? {
            timestamp = timestamp.max(deleted_at);
            tombstones.push(json!({"id": uri.id(), "last_modified": deleted_at, "deleted": true}));
        }
        Ok(deleted_response(tombstones, next, timestamp))
    }

    /// Calls `see` for each object that the query may ask for, with the fields that the query is about, until `see`
    /// stops it: the latest first, then what the request itself has written. Returns `true` if it was stopped.
    async fn each(
        &self,
        unit: &UnitOfWork,
        store: &Store,
        recent: &RecentWrites,
        limit_hint: Option<usize>,
        mut see: impl FnMut(&ListedObject, &Map<String, Value>) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<bool, ApiError> {
        let Self {
            object_request,
            access,
            list,
            query,
            ref scope,
        } = *self;
        let mut see = |object: &ListedObject| {
            if matches!(scope, Scope::Shared)
                && !object_request.is_shared(access, list, &object.id, &object.permissions()?)
            {
                return Ok(ControlFlow::Continue(()));
            }
            let data = match query.is_of_keys() {
                true if object.is_deleted() => tombstone(),
                true => Map::new(),
                false => match object.to_object()?.content {
                    Content::Live { data, .. } => accounts::without_password(list.kind(), data),
                    Content::Deleted => tombstone(),
                },
            };
            see(
                object,
                &metadata::with_metadata(data, &object.id, object.last_modified),
            )
        };
        if let Scope::Only(objects) = scope {
            for (id, object) in objects {
                let key = Key::object(&list.clone().object(&**id));
                _ = see(&ListedObject::of(key, object))?;
            }
            return Ok(false);
        }
        let limit_hint = limit_hint.filter(|_| matches!(scope, Scope::All));
        scan_settled(unit, store, list, query, limit_hint, recent, see).await
    }
}

/// The times of objects as they are read, the latest first. The index does not order objects of the same time, so a
/// page may end only before an earlier one.
#[derive(Default)]
struct Times(Option<Timestamp>);

impl Times {
    /// Returns `true` if the next object is earlier than the one before.
    fn next(&mut self, time: Timestamp) -> bool {
        let before = self.0.replace(time);
        before.is_some_and(|before| time < before)
    }
}

fn stop_if(is_enough: bool) -> ControlFlow<()> {
    match is_enough {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

/// Deletes every object of a list, without a check of permissions.
pub async fn clear(unit: &mut UnitOfWork, store: &Store, list: &ListUri) -> Result<(), ApiError> {
    let tells = unit.publishes_events();
    let mut objects = vec![];
    scan(unit, store, list, &ListQuery::all(), None, |object| {
        let read = match tells {
            true => object.to_object()?,
            false => object.to_object_without_data()?,
        };
        objects.push((object.id.clone(), read));
        Ok(ControlFlow::Continue(()))
    })
    .await?;
    let mut uris = vec![];
    for (id, object) in objects {
        let uri = list.clone().object(id);
        unit.insert_read(&uri, &object);
        uris.push(uri);
    }
    delete_all(unit, store, uris).await?;
    Ok(())
}

/// Deletes objects that the unit has read; it takes one round trip to read the lists under them.
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

/// The data with which a tombstone is shown.
fn tombstone() -> Map<String, Value> {
    Map::from_iter([("deleted".to_owned(), true.into())])
}

/// An object of a list, or its tombstone, as the API shows it.
fn text_of(object: &ListedObject) -> String {
    let data = object.data().unwrap_or("{\"deleted\":true}");
    metadata::with_metadata_text(data, &object.id, object.last_modified)
}
