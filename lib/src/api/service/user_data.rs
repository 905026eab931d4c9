//! `DELETE /v1/__user_data__/{principal}`: deletes a user and the objects that only that user could write (Kinto 26.5).

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::api::auth::principals::User;
use crate::api::dispatch::context::Context;
use crate::api::dispatch::endpoint::{About, Audience, Endpoint, Handler};
use crate::api::dispatch::target::Target;
use crate::api::lists::query::ListQuery;
use crate::api::lists::walk;
use crate::api::plugins::{accounts, signer};
use crate::api::service::operation::{Operation, described, required, responses};
use crate::api::web::error::ApiError;
use crate::api::web::response::Response;
use crate::event::{Origin, OriginTarget};
use crate::permission::Permissions;
use crate::resource::{Kind, ObjectUri};
use crate::unit_of_work::{Needs, UnitOfWork};

/// Its row in the table of endpoints.
pub const ENDPOINT: Endpoint = Endpoint {
    path: "/__user_data__/{principal}",
    about: About::Named,
    methods: &[Method::DELETE, Method::OPTIONS],
    audience: Audience::Users,
    operation: |_, _| {
        let refusals = [(401, ""), (403, ""), (406, ""), (413, "")];
        let mut responses = responses(&refusals);
        let answer = described("The principal, who is nobody any more.");
        responses.insert("200".to_owned(), answer);
        Operation {
            id: "delete_user-data".to_owned(),
            tag: "User-data".to_owned(),
            is_secured: true,
            parameters: vec![required(json!({
                "name": "principal",
                "in": "path",
                "type": "string",
            }))],
            consumes: &[],
            responses,
        }
    },
    handler: Handler::Call(|cx| Box::pin(handle(cx))),
    ..Endpoint::READ_ONLY
};

/// The path above, which takes no method (Kinto 26.5: 405).
pub const LIST: Endpoint = Endpoint {
    path: "/__user_data__",
    methods: &[Method::OPTIONS],
    ..Endpoint::READ_ONLY
};

/// The most objects that one request may delete or change, as many as a page of a list that is deleted.
const MAX_CHANGES: usize = 10_000;
/// The most buckets from which the groups of the user are read.
const MAX_BUCKETS: usize = 1_000;

/// An object on which the principal is granted something.
type GrantedObject = (ObjectUri, Permissions);

/// Deletes the objects that the principal alone may write by their own permissions, with everything under them; removes
/// the principal from the permissions of all others, and from all groups.
///
/// Previews, destinations and the groups of sources belong to no user: they stay, without the principal in their permissions.
///
/// Reads everything, as `/permissions` does, and writes in parts of 100 items: if it is cut short, it may be sent
/// again. Listeners and histories are told of the deletions but, as in Kinto, not of the permissions.
///
/// # Errors
/// 401 or 403 for a user who is not among `user-data_delete_principals`; 413 when there is more than one request may
/// read or change.
async fn handle(cx: &mut Context<'_>) -> Result<Response, ApiError> {
    let Target::Named(principal) = cx.target else {
        return Err(ApiError::UnknownPath);
    };
    let settings = cx.settings();
    cx.user
        .require_one_of(&settings.user_data_delete_principals)?;
    let (unit, store) = (&mut *cx.unit, &cx.api.store);
    let (_, found) = walk::walk(unit, store, &ListQuery::all()).await?;
    let account = accounts::of_principal(unit, store, principal, settings).await?;
    let found = found
        .iter()
        .filter_map(|(uri, object)| Some((uri, object.permissions()?)));
    let account = account.iter();
    let account = account.filter_map(|uri| Some((uri, unit.get(uri)?.permissions)));
    let granted = found
        .chain(account)
        .filter(|(_, permissions)| names(permissions, principal))
        .map(|(uri, permissions)| (uri.clone(), permissions.clone()))
        .collect();
    let signer = settings.signer.as_ref();
    let is_kept = |uri: &ObjectUri| signer::belongs_to_publishing(signer, uri);
    let (owned, others) = split(granted, principal, is_kept);
    unit.read_groups(store, &[principal], MAX_BUCKETS).await?;
    let groups = unit.groups_of(principal);
    let groups = groups.iter().filter_map(|group| ObjectUri::parse(group));
    let groups = groups.filter(|group| !is_below(group, &owned));
    let changed: BTreeSet<_> = others.into_iter().chain(groups).collect();
    check_count(owned.len() + changed.len())?;
    unit.read_more(store, needs_of(&owned, &changed)).await?;
    for uri in &owned {
        if unit.get(uri).is_some() {
            unit.set_origin(|| Some(origin(cx.user, principal, uri)));
            unit.delete(uri, None);
        }
    }
    // Nobody is notified of what follows.
    unit.set_origin(|| None);
    for uri in &changed {
        forget(unit, uri, principal);
    }
    let data = json!({"data": {"principal": principal}});
    Ok(Response::json(StatusCode::OK, &data))
}

/// Checks that one request may delete or change so many objects.
fn check_count(objects: usize) -> Result<(), ApiError> {
    match objects > MAX_CHANGES {
        true => Err(ApiError::TooManyObjects),
        false => Ok(()),
    }
}

/// Returns `true` if the permissions grant something to the principal itself.
fn names(permissions: &Permissions, principal: &str) -> bool {
    let mut granted = permissions.iter().flat_map(|(_, granted)| granted);
    granted.any(|granted| granted == principal)
}

/// The request that the event of a deletion names.
fn origin(user: &User, principal: &str, uri: &ObjectUri) -> Origin {
    Origin {
        user_id: user.id.clone(),
        target: OriginTarget::UserData {
            principal: principal.to_owned(),
            list: uri.list().clone(),
        },
    }
}

/// Splits off the objects that the principal alone may write, without those below another of them; the rest stays, and what
/// `is_kept`.
fn split(
    granted: Vec<GrantedObject>,
    principal: &str,
    is_kept: impl Fn(&ObjectUri) -> bool,
) -> (BTreeSet<ObjectUri>, Vec<ObjectUri>) {
    let (owned, others): (Vec<_>, Vec<_>) = granted.into_iter().partition(|(uri, permissions)| {
        permissions.granted("write") == [principal] && !is_kept(uri)
    });
    let all: BTreeSet<_> = owned.into_iter().map(|(uri, _)| uri).collect();
    let owned: BTreeSet<_> = all
        .iter()
        .filter(|uri| !is_below(uri, &all))
        .cloned()
        .collect();
    let others = others.into_iter().map(|(uri, _)| uri);
    let others = others.filter(|uri| !is_below(uri, &owned)).collect();
    (owned, others)
}

/// Returns `true` if the object lives under one of `others`.
fn is_below(uri: &ObjectUri, others: &BTreeSet<ObjectUri>) -> bool {
    let mut parents = uri.lineage().skip(1);
    parents.any(|parent| others.contains(parent))
}

/// The reads that are needed to delete some objects and change others.
fn needs_of(owned: &BTreeSet<ObjectUri>, changed: &BTreeSet<ObjectUri>) -> Needs {
    let mut needs = Needs::default();
    for uri in owned.iter().chain(changed) {
        needs.objects.extend(uri.lineage().cloned());
        needs.lists.insert(uri.list().clone());
    }
    let closed = owned.iter().flat_map(ObjectUri::child_lists);
    needs.lists.extend(closed);
    needs
}

/// Removes the principal from the permissions of an object, and from the members of a group.
fn forget(unit: &mut UnitOfWork, uri: &ObjectUri, principal: &str) {
    let Some(live) = unit.get(uri) else {
        return;
    };
    let mut permissions = live.permissions.clone();
    for (permission, granted) in live.permissions.iter() {
        let others = granted.iter().filter(|granted| *granted != principal);
        permissions.set(permission, others.cloned().collect());
    }
    let mut data = live.data.clone();
    if uri.kind() == Kind::Group {
        leave(&mut data, principal);
    }
    unit.update(uri, data, permissions, None);
}

fn leave(group: &mut Map<String, Value>, principal: &str) {
    if let Some(Value::Array(members)) = group.get_mut("members") {
        members.retain(|member| member != principal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_objects_than_a_request_changes_are_refused_and_the_message_says_how_many_and_what_to_do()
     {
        assert!(check_count(MAX_CHANGES).is_ok());
        let error = check_count(MAX_CHANGES + 1).unwrap_err();
        let body = error.body();
        assert_eq!((&body["code"], &body["errno"]), (&json!(413), &json!(113)));
        let message = body["message"].as_str().unwrap();
        assert!(message.contains("more than 10,000 objects"), "{message}");
        assert!(
            message.contains("Delete collections, buckets or groups"),
            "{message}"
        );
    }
}
