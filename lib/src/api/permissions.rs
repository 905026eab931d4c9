//! `GET /permissions`: everything that the user has a permission on.
//!
//! With accounts that of the user is listed too, and on the root who may create what. Permissions are kept with the objects alone, so that granting costs nothing: this walks through the lists of all
//! buckets, those that the filters leave, three round trips in all and as many requests as there are lists.
//! `exclude_resource_name=record` spares the lists of records.

use std::collections::BTreeSet;

use futures::stream::{self, StreamExt, TryStreamExt};
use http::Method;
use serde_json::{Map, Value, json};

use super::accounts;
use super::auth::User;
use super::body;
use super::error::ApiError;
use super::listing::{self, ListQuery};
use super::lists;
use super::request::Request;
use super::response::Response;
use crate::permission::{self, Permissions};
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::settings::{ApiSettings, Plugin};
use crate::store::{Content, Object, Store, StoreError};
use crate::timestamp::Timestamp;
use crate::unit_of_work::{Needs, UnitOfWork};

/// Lists that are read at once.
const CONCURRENCY: usize = 16;

/// What an entry may be filtered and sorted by (Kinto 26.5; not by `permissions`).
pub const FIELDS: [&str; 9] = [
    "id",
    "last_modified",
    "deleted",
    "uri",
    "resource_name",
    "bucket_id",
    "collection_id",
    "group_id",
    "record_id",
];

/// A live object with its URI.
type Found = (ObjectUri, Object);

/// Answers `GET` and `HEAD` of `/permissions`.
///
/// # Errors
/// Whatever the request is to be refused for.
pub async fn answer(
    unit: &mut UnitOfWork,
    store: &Store,
    request: &Request,
    user: &User,
    settings: &ApiSettings,
) -> Result<Response, ApiError> {
    body::check_media_types(request)?;
    let is_allowed = |principal: &String| user.principals.contains(principal);
    if !settings.permissions_read_principals.iter().any(is_allowed) {
        return Err(ApiError::Forbidden {
            authenticated: user.id.is_some(),
        });
    }
    let now = Timestamp::now();
    let query = ListQuery::parse_keyed(request, Some(&FIELDS), "uri", settings, now)?;
    let mut entries: Vec<_> = walk(unit, store, &query)
        .await?
        .into_iter()
        .filter_map(|(uri, object)| {
            let Content::Live { permissions, .. } = &object.content else {
                return None;
            };
            entry(&uri, permissions, user, settings)
        })
        .collect();
    let has_accounts = settings.includes.has(Plugin::Accounts);
    if let Some(uri) = user.id.as_deref().and_then(accounts::of_principal)
        && has_accounts
    {
        // Nobody gets at the account of another by its permissions.
        let objects = [uri.clone()].into_iter().collect();
        let needs = Needs {
            objects,
            ..Needs::default()
        };
        unit.read_more(store, needs).await?;
        let account = unit.get(&uri);
        entries
            .extend(account.and_then(|account| entry(&uri, account.permissions, user, settings)));
    }
    let roots = [Kind::Bucket, Kind::Account].into_iter();
    let may_create = |kind: &Kind| {
        let is_served = *kind != Kind::Account || has_accounts;
        is_served && settings.grants(*kind, "create", &user.principals)
    };
    let roots = roots
        .filter(may_create)
        .map(|kind| format!("{}:create", kind.name()));
    let roots: Vec<_> = roots.collect();
    if !roots.is_empty() {
        let root = json!({"uri": "/", "resource_name": "root", "permissions": roots});
        entries.extend(root.as_object().cloned());
    }
    if request.method == Method::HEAD {
        return Ok(listing::counted(query.count(&entries), now));
    }
    Ok(query
        .apply(entries, false, request, settings)
        .into_response(now))
}

/// All that is live and may be asked for.
async fn walk(
    unit: &mut UnitOfWork,
    store: &Store,
    query: &ListQuery,
) -> Result<Vec<Found>, StoreError> {
    let buckets = live(unit, store, ListUri::buckets()).await?;
    let in_buckets = children(unit, store, query, &buckets).await?;
    let records = children(unit, store, query, &in_buckets).await?;
    let mut all = buckets;
    all.extend(in_buckets);
    all.extend(records);
    all.retain(|(uri, _)| query.may_match(&names(uri)));
    Ok(all)
}

/// The live objects under those given, which the unit learns.
async fn children(
    unit: &mut UnitOfWork,
    store: &Store,
    query: &ListQuery,
    parents: &[Found],
) -> Result<Vec<Found>, StoreError> {
    for (uri, object) in parents {
        unit.learn(uri, object);
    }
    let unit = &*unit;
    let lists = parents.iter().flat_map(|(uri, _)| {
        let lists = uri.child_lists();
        let asked_for = lists.filter(|list| holds_matches(list, query));
        asked_for.map(|list| live(unit, store, list))
    });
    // Collected first: a closure that borrows in a stream is not general enough for the compiler.
    let lists: Vec<_> = lists.collect();
    let read: Vec<Vec<Found>> = stream::iter(lists)
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await?;
    Ok(read.into_iter().flatten().collect())
}

async fn live(unit: &UnitOfWork, store: &Store, list: ListUri) -> Result<Vec<Found>, StoreError> {
    let all = ListQuery::all();
    let (objects, _) = lists::read(unit, store, &list, &all, None, usize::MAX).await?;
    let found = objects.into_iter();
    Ok(found
        .map(|(id, object)| (list.clone().object(id), object))
        .collect())
}

/// What the user may do with an object by its own permissions, or those that settings grant.
fn entry(
    uri: &ObjectUri,
    permissions: &Permissions,
    user: &User,
    settings: &ApiSettings,
) -> Option<Map<String, Value>> {
    let kind = uri.kind();
    let granted = |permission: &&str| permissions.grants(permission, &user.principals);
    let mut may: BTreeSet<&str> = kind
        .permissions()
        .iter()
        .filter(|permission| granted(permission))
        .flat_map(|permission| permission::implied(kind, permission))
        .copied()
        .collect();
    if !matches!(kind, Kind::Record | Kind::Account) {
        let by_settings = |permission: &&str| settings.grants(kind, permission, &user.principals);
        let named = ["read", "write"].into_iter().filter(by_settings);
        may.extend(named.flat_map(|permission| permission::implied(kind, permission)));
        for child in kind.children() {
            if settings.grants(*child, "create", &user.principals) {
                let create = format!("{}:create", child.name());
                may.extend(permission::implied(kind, &create));
            }
        }
    }
    if may.is_empty() {
        return None;
    }
    let mut entry = names(uri);
    entry.insert("permissions".to_owned(), json!(may));
    Some(entry)
}

/// Whether the list, or one under its objects, may hold what is asked for.
fn holds_matches(list: &ListUri, query: &ListQuery) -> bool {
    let below = list.kind().children().iter();
    std::iter::once(&list.kind()).chain(below).any(|kind| {
        let mut names = names_in(list);
        names.insert("resource_name".to_owned(), kind.name().into());
        query.may_match(&names)
    })
}

/// The fields of an entry that name its object.
fn names(uri: &ObjectUri) -> Map<String, Value> {
    let mut names = names_in(uri.list());
    names.insert("uri".to_owned(), uri.to_string().into());
    names.insert("id".to_owned(), uri.id().into());
    names.insert(format!("{}_id", uri.kind().name()), uri.id().into());
    names
}

/// Those of them that all the objects of a list share.
fn names_in(list: &ListUri) -> Map<String, Value> {
    let parents = list.parent().into_iter().flat_map(ObjectUri::lineage);
    let ids = parents.map(|uri| (format!("{}_id", uri.kind().name()), uri.id().into()));
    let kind = ("resource_name".to_owned(), list.kind().name().into());
    std::iter::once(kind).chain(ids).collect()
}
