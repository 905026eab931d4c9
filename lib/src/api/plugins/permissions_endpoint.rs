//! `GET /permissions`: everything that the user has a permission on.
//!
//! Where accounts are on, it also lists the user's own account, and for the root what the user may create there.
//! Permissions are stored with their objects only, so that granting costs nothing: this walks the lists of all buckets
//! that the filters leave, in three round trips and with one request for each list. Each list is read once for all
//! requests of a batch. `exclude_resource_name=record` avoids reading the lists of records.

use crate::api::dispatch::context::Context;
use crate::api::dispatch::endpoint::{Audience, Endpoint, Handler};
use crate::api::plugins::accounts;
use crate::api::service::operation::{Operation, REFUSALS, list_parameters, responses};
use crate::api::web::cors::Exposes;
use std::collections::BTreeSet;

use http::Method;
use serde_json::{Map, Value, json};

use crate::api::auth::principals::User;
use crate::api::lists::query::ListQuery;
use crate::api::lists::selection::{count_response, page_of};
use crate::api::lists::sort::Keys;
use crate::api::lists::walk::{names, walk};
use crate::api::web::error::ApiError;
use crate::api::web::media_type;
use crate::api::web::response::Response;
use crate::permission::{self, Permissions};
use crate::resource::{Kind, ObjectUri};
use crate::settings::{ApiSettings, PluginName};
use crate::timestamp::Timestamp;

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
            // Anonymous users get what everyone may do.
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

/// The fields by which entries may be filtered and sorted (Kinto 26.5; not by `permissions`).
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

/// The keys of the list: entries differ in their URIs, and their times are those of different lists.
const KEYS: Keys = Keys {
    time: None,
    unique: "uri",
};

/// Answers `GET` and `HEAD` of `/permissions`.
///
/// # Errors
/// Any refusal of the request.
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
    // All buckets have been read, so this is bounded by their number.
    user.add_groups(unit, store, &groups, buckets.len()).await?;
    // The permissions of an account give nobody else access to it.
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

/// The entry of the root: the kinds of objects that the user may create there; `None` if there are none.
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

/// The entry of an object: the user's permissions by the object's own or by settings; `None` if there are none.
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
