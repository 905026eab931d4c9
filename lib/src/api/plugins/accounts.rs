//! `kinto.plugins.accounts`: what is particular to accounts among the objects (Kinto 26.5).
//!
//! An account is an object without a parent. Administrators, whom the settings grant `write` on all accounts, see and
//! change all; everybody else their own alone, and who has none may make one where the settings allow it. The principal
//! of an account is `account:` and its id, which owns it whoever created it.

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

/// The account of a principal, which is read; `None` of another principal, and where there are no accounts.
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

/// Checks that who is no administrator asks for no account but their own. Whether there is another one they do not learn.
///
/// # Errors
/// 400 for one that is to be written, 404 for one that is shared with them, else 403 (Kinto 26.5).
pub fn check_own(object_request: &ObjectRequest<'_>, unit: &UnitOfWork) -> Result<(), ApiError> {
    let id = object_request.uri.id();
    let is_own = match &object_request.user.id {
        Some(user_id) => *user_id == principal(id),
        // Who is nobody yet makes an account for themselves.
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

/// The account of who is no administrator, as the list of all accounts shows it to them.
///
/// # Errors
/// 401 of nobody.
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

/// The data of an object of `kind` as the API shows it: an account's without the hash of its password, which is in no
/// answer, and cannot be filtered or sorted by.
pub fn without_password(kind: Kind, mut data: Map<String, Value>) -> Map<String, Value> {
    if kind == Kind::Account {
        data.shift_remove(PASSWORD);
    }
    data
}

/// Puts the hash of a password that is new in its place. Data without one leave it as it was `before`; so does the hash
/// itself, which earlier versions, and Kinto, answer and clients send back.
///
/// # Errors
/// The request may have no other password hashed.
pub fn store_password(
    data: &mut Map<String, Value>,
    before: Option<&Map<String, Value>>,
    allowance: &Allowance,
) -> Result<(), Exhausted> {
    let before = before.and_then(|data| data.get(PASSWORD)?.as_str());
    match data.get_mut(PASSWORD) {
        Some(Value::String(password)) if before != Some(password) => {
            allowance.hash()?;
            *password = passwords::hash(password);
        }
        None => {
            data.extend(before.map(|hash| (PASSWORD.to_owned(), hash.into())));
        }
        _ => {}
    }
    Ok(())
}

/// Has operations on an account that replace its password add it: they are applied to what the API shows, which has
/// none.
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

/// Checks that a merge patch does not take the password of an account away.
///
/// # Errors
/// 400.
pub fn check_not_removed(kind: Kind, patch: &Map<String, Value>) -> Result<(), ApiError> {
    if kind == Kind::Account && patch.get(PASSWORD) == Some(&Value::Null) {
        return Err(ApiError::invalid(Location::Body, PASSWORD, "Required"));
    }
    Ok(())
}
