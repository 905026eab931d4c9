//! What a request may cost beyond the items that it reads and writes by key. All requests of a batch share one
//! allowance.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The bytes of lists that one request may read.
const MAX_READ: usize = 256 * 1024 * 1024;
/// The same for a batch, whose requests together may take no longer than a single one.
const MAX_READ_IN_BATCH: usize = 32 * 1024 * 1024;
/// The steps that one request may spend on evaluating schemas: a fraction of a second.
const MAX_STEPS: usize = 2_000_000;
/// The password hashes that one request may compute; each takes a quarter of a second.
const MAX_HASHES: usize = 4;

/// The request has used up its allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// It has read as many bytes of lists as it may.
    #[error("too much to read")]
    Reading,
    /// It has had as many passwords checked and hashed as it may.
    #[error("too many passwords")]
    Passwords,
}

/// What remains of a request's allowance.
#[derive(Debug)]
pub struct Allowance(Mutex<Remaining>);

#[derive(Clone, Debug)]
struct Remaining {
    bytes: usize,
    steps: usize,
    hashes: usize,
    /// The outcome of each account's password check.
    passwords: HashMap<String, PasswordCheck>,
}

#[derive(Clone, Debug)]
struct PasswordCheck {
    password: String,
    matches: bool,
}

impl Default for Allowance {
    /// The allowance of a single request.
    fn default() -> Self {
        Self(Mutex::new(Remaining {
            bytes: MAX_READ,
            steps: MAX_STEPS,
            hashes: MAX_HASHES,
            passwords: HashMap::new(),
        }))
    }
}

impl Clone for Allowance {
    /// Copies what is left: a retried request starts from the allowance that it had.
    fn clone(&self) -> Self {
        Self(Mutex::new(self.left().clone()))
    }
}

impl Allowance {
    /// The allowance of a batch.
    pub fn of_batch() -> Self {
        let allowance = Self::default();
        allowance.left().bytes = MAX_READ_IN_BATCH;
        allowance
    }

    fn left(&self) -> MutexGuard<'_, Remaining> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `bytes` of lists from the allowance.
    ///
    /// # Errors
    /// Fewer bytes are left.
    pub fn read(&self, bytes: usize) -> Result<(), Exhausted> {
        let mut left = self.left();
        left.bytes = left.bytes.checked_sub(bytes).ok_or(Exhausted::Reading)?;
        Ok(())
    }

    /// Evaluates a schema within the steps that are left: `evaluate` receives their number, and returns how many it
    /// took.
    pub fn evaluate<T>(&self, evaluate: impl FnOnce(usize) -> (T, usize)) -> T {
        let left = self.left().steps;
        let (outcome, taken) = evaluate(left);
        self.left().steps = left.saturating_sub(taken);
        outcome
    }

    /// Takes one password hash from the allowance.
    ///
    /// # Errors
    /// None is left.
    pub fn hash(&self) -> Result<(), Exhausted> {
        let mut left = self.left();
        left.hashes = left.hashes.checked_sub(1).ok_or(Exhausted::Passwords)?;
        Ok(())
    }

    /// Checks the password of an account once per request; a different password for the same account is not checked.
    ///
    /// # Errors
    /// The password differs from the one checked before, or no hash is left.
    pub fn check_password(
        &self,
        account: &str,
        password: &str,
        check: impl FnOnce() -> bool,
    ) -> Result<bool, Exhausted> {
        if let Some(checked) = self.left().passwords.get(account) {
            return match checked.password == password {
                true => Ok(checked.matches),
                false => Err(Exhausted::Passwords),
            };
        }
        self.hash()?;
        let checked = PasswordCheck {
            password: password.to_owned(),
            matches: check(),
        };
        let matches = checked.matches;
        self.left().passwords.insert(account.to_owned(), checked);
        Ok(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_is_refused() {
        let allowance = Allowance::of_batch();
        assert_eq!(allowance.read(MAX_READ_IN_BATCH), Ok(()));
        assert_eq!(allowance.read(1), Err(Exhausted::Reading));
    }

    #[test]
    fn a_password_is_checked_once_and_no_other_one_for_its_account() {
        let allowance = Allowance::default();
        let check = |account: &str, password: &str, matches| {
            allowance.check_password(account, password, || matches)
        };
        assert_eq!(check("a", "wrong", false), Ok(false));
        assert_eq!(check("a", "wrong", true), Ok(false));
        assert_eq!(check("a", "other", true), Err(Exhausted::Passwords));
        for account in ["b", "c", "d"] {
            assert_eq!(check(account, "right", true), Ok(true));
        }
        assert_eq!(check("e", "right", true), Err(Exhausted::Passwords));
        assert_eq!(check("b", "right", false), Ok(true));
    }
}
