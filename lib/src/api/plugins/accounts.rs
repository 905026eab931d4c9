//! `kinto.plugins.accounts`: what is particular to accounts among the objects (Kinto 26.5).
//!
//! An account is an object without a parent. Administrators, whom the settings grant `write` on all accounts, see and
//! change all; everybody else their own alone, and who has none may make one where the settings allow it. The principal
//! of an account is `account:` and its id, which owns it whoever created it.

use http::Method;
use serde_json::{Map, Value};

use crate::api::auth::authorization::Asked;
use crate::api::auth::passwords;
use crate::api::web::error::ApiError;
use crate::permission::Access;
use crate::resource::{Kind, ObjectUri};
use crate::settings::ACCOUNT_POLICY;
use crate::store::Object;
use crate::unit_of_work::{Allowance, Exhausted, UnitOfWork};

/// The field that holds the hash of the password.
pub const PASSWORD: &str = "password";

/// The principal of an account.
pub fn principal(id: &str) -> String {
    format!("{ACCOUNT_POLICY}:{id}")
}

/// The account whose principal it is; `None` of another principal.
pub fn of_principal(principal: &str) -> Option<ObjectUri> {
    let id = principal.strip_prefix(ACCOUNT_POLICY)?.strip_prefix(':')?;
    Some(ObjectUri::account(id)).filter(ObjectUri::has_valid_id)
}

/// Checks that who is no administrator asks for no account but their own. Whether there is another one they do not learn.
///
/// # Errors
/// 400 for one that is to be written, 404 for one that is shared with them, else 403 (Kinto 26.5).
pub fn check_own(asked: &Asked<'_>, unit: &UnitOfWork) -> Result<(), ApiError> {
    let id = asked.uri.id();
    let is_own = match &asked.user.id {
        Some(user_id) => *user_id == principal(id),
        // Who is nobody yet makes an account for themselves.
        None => true,
    };
    if is_own || asked.may_all(unit, Access::Write) {
        return Ok(());
    }
    match asked.request.method {
        Method::PUT | Method::POST if asked.may_create(unit) => Err(ApiError::invalid(
            "body",
            "data.id",
            "Username and account ID do not match.",
        )),
        Method::PUT | Method::POST => Err(asked.forbidden()),
        _ => asked
            .check_permission(unit)
            .and(Err(ApiError::UnknownObject {
                kind: asked.uri.kind(),
                id: id.to_owned(),
            })),
    }
}

/// The account of who is no administrator, as the list of all accounts shows it to them.
///
/// # Errors
/// 401 of nobody.
pub fn own(asked: &Asked<'_>, unit: &UnitOfWork) -> Result<Vec<(String, Object)>, ApiError> {
    let user_id = asked.user.id.as_ref().ok_or_else(|| asked.forbidden())?;
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
        return Err(ApiError::invalid("body", PASSWORD, "Required"));
    }
    Ok(())
}
