//! `kinto.plugins.accounts`: the rules for accounts, beside those for all objects (Kinto 26.5).
//!
//! An account is an object without a parent. Administrators, to whom the settings grant `write` on all accounts, see
//! and change all of them; other users only their own, and a user without one may create it where the settings allow
//! that. The principal of an account is `account:` and its id; it owns the account, whoever created that.

use crate::api::dispatch::endpoint::Endpoint;
use crate::api::plugins::Plugin;
use crate::api::service::operation::Operation;
use crate::settings;
use http::Method;
use serde_json::{Map, Value, json};

use crate::api::auth::account_id::{self, PASSWORD, principal};
use crate::api::auth::authorization::ObjectRequest;
use crate::api::auth::passwords;
use crate::api::web::error::{ApiError, Location};
use crate::permission::Access;
use crate::resource::{Kind, ObjectUri};
use crate::store::{Object, Store, StoreError};
use crate::unit_of_work::{Allowance, Exhausted, Needs, UnitOfWork};

/// The plugin.
pub static PLUGIN: Plugin = Plugin {
    capability: "accounts",
    is_on: |settings| settings.includes.has(settings::PluginName::Accounts),
    describe: |_| {
        Box::pin(async {
            Some(json!({
                "description": "Users can have accounts.",
                "url": "https://kinto.readthedocs.io/en/latest/api/1.x/accounts.html",
                "validation_enabled": false,
            }))
        })
    },
    endpoints: &[
        Endpoint::list(Kind::Account, "/accounts", |method, now| {
            Operation::of_list(Kind::Account, method, now)
        }),
        Endpoint::object(Kind::Account, "/accounts/{id}", |method, now| {
            Operation::of_object(Kind::Account, method, now)
        }),
    ],
    on_write: None,
};

/// Reads the account of a principal; `None` for any other principal, and where accounts are off.
///
/// # Errors
/// Failures of the table.
pub async fn of_principal(
    unit: &mut UnitOfWork,
    store: &Store,
    principal: &str,
    settings: &settings::ApiSettings,
) -> Result<Option<ObjectUri>, StoreError> {
    let has_accounts = settings.includes.has(settings::PluginName::Accounts);
    let account = account_id::of_principal(principal).filter(|_| has_accounts);
    if let Some(uri) = &account {
        let needs = Needs {
            objects: [uri.clone()].into(),
            ..Needs::default()
        };
        unit.read_more(store, needs).await?;
    }
    Ok(account)
}

/// Checks that a user who is no administrator asks for their own account only. They do not learn whether another
/// exists.
///
/// # Errors
/// 400 for a write by a user who may create accounts, 404 for an account shared with the user, else 403 (Kinto 26.5).
pub fn check_own(object_request: &ObjectRequest<'_>, unit: &UnitOfWork) -> Result<(), ApiError> {
    let id = object_request.uri.id();
    let is_own = match &object_request.user.id {
        Some(user_id) => *user_id == principal(id),
        // An anonymous user creates an account for themselves.
        None => true,
    };
    if is_own || object_request.may_all(unit, Access::Write) {
        return Ok(());
    }
    match object_request.request.method {
        Method::PUT | Method::POST if object_request.may_create(unit) => Err(ApiError::invalid(
            Location::Body,
            "data.id",
            "Username and account ID do not match.",
        )),
        Method::PUT | Method::POST => Err(object_request.forbidden()),
        _ => object_request
            .check_permission(unit)
            .and(Err(ApiError::UnknownObject {
                kind: object_request.uri.kind(),
                id: id.to_owned(),
            })),
    }
}

/// The user's own account: all that the list of accounts shows to a user who is no administrator.
///
/// # Errors
/// 401 for an anonymous user.
pub fn own(
    object_request: &ObjectRequest<'_>,
    unit: &UnitOfWork,
) -> Result<Vec<(String, Object)>, ApiError> {
    let user_id = object_request
        .user
        .id
        .as_ref()
        .ok_or_else(|| object_request.forbidden())?;
    let own = user_id.strip_prefix(&principal("")).and_then(|id| {
        let account = unit.stored(&ObjectUri::account(id))?;
        Some((id.to_owned(), account.clone()))
    });
    Ok(own.into_iter().collect())
}

/// The data of an object of `kind` as the API shows it: for an account without the hash of its password, which is in no
/// response, and cannot be filtered or sorted by.
pub fn without_password(kind: Kind, mut data: Map<String, Value>) -> Map<String, Value> {
    if kind == Kind::Account {
        data.shift_remove(PASSWORD);
    }
    data
}

/// Replaces a new password by its hash, of this cost. Data without a password keep that of `before`; so do data with the
/// hash itself, which earlier versions and Kinto return and clients send back.
///
/// # Errors
/// The request may not hash another password.
pub fn store_password(
    data: &mut Map<String, Value>,
    before: Option<&Map<String, Value>>,
    cost: u32,
    allowance: &Allowance,
) -> Result<(), Exhausted> {
    let before = before.and_then(|data| data.get(PASSWORD)?.as_str());
    match data.get_mut(PASSWORD) {
        Some(Value::String(password)) if before != Some(password) => {
            allowance.hash()?;
            *password = passwords::hash(password, cost);
        }
        None => {
            data.extend(before.map(|hash| (PASSWORD.to_owned(), hash.into())));
        }
        _ => {}
    }
    Ok(())
}

/// Turns operations that replace an account's password into ones that add it: they are applied to what the API shows,
/// which has no password.
pub fn add_replaced_password(kind: Kind, operations: &mut [Value]) {
    let replaces = |operation: &&mut Value| {
        operation["op"] == "replace" && operation["path"] == "/data/password"
    };
    if kind == Kind::Account {
        for operation in operations.iter_mut().filter(replaces) {
            operation["op"] = "add".into();
        }
    }
}

/// Checks that a merge patch does not remove the password of an account.
///
/// # Errors
/// 400.
pub fn check_not_removed(kind: Kind, patch: &Map<String, Value>) -> Result<(), ApiError> {
    if kind == Kind::Account && patch.get(PASSWORD) == Some(&Value::Null) {
        return Err(ApiError::invalid(Location::Body, PASSWORD, "Required"));
    }
    Ok(())
}
