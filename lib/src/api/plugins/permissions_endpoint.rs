//! `GET /permissions`: everything that the user has a permission on.
//!
//! With accounts that of the user is listed too, and on the root who may create what. Permissions are kept with the
//! objects alone, so that granting costs nothing: this walks through the lists of all buckets, those that the filters
//! leave, three round trips in all and as many requests as there are lists. Each list is read once for all requests of a
//! batch. `exclude_resource_name=record` spares the lists of records.

use crate::api::dispatch::context::Context;
use crate::api::dispatch::endpoint::{Audience, Endpoint, Handler};
use crate::api::plugins::accounts;
use crate::api::service::operation::{Operation, REFUSALS, list_parameters, responses};
use crate::api::web::cors::Exposes;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use http::Method;
use serde_json::{Map, Value, json};

use crate::api::auth::principals::User;
use crate::api::lists::query::ListQuery;
use crate::api::lists::selection::{count_response, page_of};
use crate::api::lists::sort::Keys;
use crate::api::web::error::ApiError;
use crate::api::web::media_type;
use crate::api::web::response::Response;
use crate::permission::{self, Permissions};
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::settings::{ApiSettings, PluginName};
use crate::store::list::Reading;
use crate::store::{Content, Generation, Object, Store};
use crate::timestamp::Timestamp;
use crate::unit_of_work::UnitOfWork;

/// The plugin; a setting turns it on.
pub static PLUGIN: super::Plugin = super::Plugin {
    capability: "permissions_endpoint",
    is_on: |settings| settings.permissions_endpoint,
    describe: |_| {
        Box::pin(async {
            Some(json!({
                "description": "Lists all that the user may do.",
                "url": "https://kinto.readthedocs.io/en/latest/configuration/settings.html#activating-the-permissions-endpoint",
            }))
        })
    },
    endpoints: &[Endpoint {
        path: "/permissions",
        audience: Audience::Users,
        exposes: Exposes::Page,
        operation: |_, now| Operation {
            id: "get_permissionss".to_owned(),
            tag: "Permissions".to_owned(),
            // It tells everyone what everyone may do.
            is_secured: false,
            parameters: list_parameters(true, Some(&FIELDS), Some("uri"), now),
            consumes: &[],
            responses: responses(&[&REFUSALS[..], &[(200, "Permissions"), (304, "")]].concat()),
        },
        handler: Handler::Call(|cx| Box::pin(handle(cx))),
        ..Endpoint::READ_ONLY
    }],
    on_write: None,
};

/// Lists that are read at once.
const CONCURRENCY: usize = 16;

/// What an entry may be filtered and sorted by (Kinto 26.5; not by `permissions`).
const FIELDS: [&str; 9] = [
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

/// What it takes to look at an object once more that was read before, as bytes that are read.
const LOOK: usize = 256;

/// Entries are told apart by their URIs, and have no times of one list.
const KEYS: Keys = Keys {
    time: None,
    unique: "uri",
};

/// A live object with its URI; it has no data.
pub type Found = (ObjectUri, Object);
/// Objects of a list with their ids, without their data.
type Walked = Arc<Vec<(String, Object)>>;

/// Answers `GET` and `HEAD` of `/permissions`.
///
/// # Errors
/// Whatever the request is to be refused for.
async fn handle(cx: &mut Context<'_>) -> Result<Response, ApiError> {
    let settings = cx.settings();
    let (unit, store) = (&mut *cx.unit, &cx.api.store);
    let (request, user) = (cx.request, cx.user);
    media_type::check(request)?;
    user.require_one_of(&settings.permissions_read_principals)?;
    let now = Timestamp::now();
    let query = ListQuery::parse_keyed(request, Some(&FIELDS), KEYS, settings, now)?;
    let (buckets, found) = walk(unit, store, &query).await?;
    let permissions = found.iter().filter_map(|(_, object)| object.permissions());
    let groups = permissions.flat_map(Permissions::groups);
    let groups = groups.filter(|group| buckets.contains(group.bucket_uri()));
    let groups = groups.collect();
    let mut user = user.clone();
    // All buckets that there are have been read, so this is bounded by their number.
    user.learn_groups(unit, store, &groups, buckets.len())
        .await?;
    // Nobody gets at the account of another by its permissions.
    let principal = user.id.as_deref().unwrap_or_default();
    let account = accounts::of_principal(unit, store, principal, settings).await?;
    let account = account.and_then(|uri| {
        let live = unit.get(&uri)?;
        entry(&uri, live.permissions, &user, settings)
    });
    let entries = found
        .iter()
        .filter_map(|(uri, object)| entry(uri, object.permissions()?, &user, settings));
    let entries = entries.chain(account).chain(root(&user, settings));
    if request.method == Method::HEAD {
        let count = entries.filter(|entry| query.counts(entry)).count();
        return Ok(count_response(count, now));
    }
    Ok(page_of(&query, entries, request, settings).into_response(now))
}

/// The entry of the root: what the user may create there, if anything.
fn root(user: &User, settings: &ApiSettings) -> Option<Map<String, Value>> {
    let may_create = |kind: &Kind| {
        let is_served = *kind != Kind::Account || settings.includes.has(PluginName::Accounts);
        is_served && settings.grants(*kind, "create", &user.principals)
    };
    let kinds = [Kind::Bucket, Kind::Account].into_iter().filter(may_create);
    let permissions: Vec<_> = kinds
        .map(|kind| format!("{}:create", kind.name()))
        .collect();
    if permissions.is_empty() {
        return None;
    }
    let root = json!({"uri": "/", "resource_name": "root", "permissions": permissions});
    root.as_object().cloned()
}

/// All buckets, and all that is live and may be asked for, but for accounts.
///
/// # Errors
/// There is more than a request may read.
pub async fn walk(
    unit: &mut UnitOfWork,
    store: &Store,
    query: &ListQuery,
) -> Result<(BTreeSet<ObjectUri>, Vec<Found>), ApiError> {
    let root = (ListUri::buckets(), Generation::ROOT);
    let buckets = live(unit, store, vec![root]).await?;
    let in_buckets = live(unit, store, lists_under(&buckets, query)).await?;
    let records = live(unit, store, lists_under(&in_buckets, query)).await?;
    let uris = buckets.iter().map(|(uri, _)| uri.clone()).collect();
    let mut all = buckets;
    all.extend(in_buckets);
    all.extend(records);
    all.retain(|(uri, _)| query.may_match(&names(uri)));
    Ok((uris, all))
}

/// The lists under objects that may hold what is asked for, each with the generation of its parent.
fn lists_under(parents: &[Found], query: &ListQuery) -> Vec<(ListUri, Generation)> {
    let lists = parents.iter().flat_map(|(uri, parent)| {
        let lists = uri
            .child_lists()
            .map(|list| (list, parent.generation.clone()));
        lists.collect::<Vec<_>>()
    });
    lists
        .filter(|(list, _)| holds_matches(list, query))
        .collect()
}

/// The live objects of these lists.
async fn live(
    unit: &mut UnitOfWork,
    store: &Store,
    lists: Vec<(ListUri, Generation)>,
) -> Result<Vec<Found>, ApiError> {
    // Collected first: a closure that borrows in a stream is not general enough for the compiler.
    let reads = lists
        .iter()
        .map(|(list, parent)| stored(unit, store, list, parent));
    let reads: Vec<_> = reads.collect();
    // In their order, so that two requests of one batch find them in the same one.
    let read: Vec<Walked> = stream::iter(reads)
        .buffered(CONCURRENCY)
        .try_collect()
        .await?;
    let mut found = vec![];
    for ((list, parent), objects) in lists.into_iter().zip(read) {
        let written: HashMap<_, _> = unit.written_in(&list).collect();
        let unchanged = objects.iter().map(|(id, object)| (&**id, object));
        let unchanged = unchanged.filter(|(id, _)| !written.contains_key(id));
        let now = written.iter().map(|(id, object)| (*id, *object));
        let live = unchanged.chain(now).filter(|(_, object)| {
            parent.owns(&object.parent) && object.content != Content::Deleted
        });
        found.extend(live.map(|(id, object)| (list.clone().object(id), object.without_its_data())));
        unit.remember_walk(list, objects);
    }
    Ok(found)
}

/// The live objects of a list as the table has them, read once for all that ask.
async fn stored(
    unit: &UnitOfWork,
    store: &Store,
    list: &ListUri,
    parent: &Generation,
) -> Result<Walked, ApiError> {
    if let Some(walked) = unit.walked(list) {
        unit.allowance.read(walked.len() * LOOK)?;
        return Ok(walked);
    }
    let mut pages = store.list(&Reading {
        list,
        generation: parent,
        since: None,
        before: None,
        tombstones: false,
        enough: None,
    });
    let mut objects = vec![];
    while let Some(page) = pages.next().await? {
        unit.allowance.read(page.bytes)?;
        for object in &page.objects {
            objects.push((object.id.clone(), object.to_object_without_data()?));
        }
    }
    Ok(Arc::new(objects))
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
        let by_settings =
            |permission: &&'static str| settings.grants(kind, permission, &user.principals);
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
