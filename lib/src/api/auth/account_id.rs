//! Accounts as users: the principal of an account, and the field that holds its password.

use crate::resource::ObjectUri;
use crate::settings::ACCOUNT_POLICY;

/// The field that holds the hash of the password.
pub const PASSWORD: &str = "password";

/// The principal of an account.
pub fn principal(id: &str) -> String {
    format!("{ACCOUNT_POLICY}:{id}")
}

/// The account that a principal stands for; `None` for any other principal.
pub fn of_principal(principal: &str) -> Option<ObjectUri> {
    let id = principal.strip_prefix(ACCOUNT_POLICY)?.strip_prefix(':')?;
    Some(ObjectUri::account(id)).filter(ObjectUri::has_valid_id)
}
