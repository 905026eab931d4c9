//! What a request may cost beyond what it reads and writes by key. All requests of a batch share it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of lists that one request may have read.
const MAX_READ: usize = 256 * 1024 * 1024;
/// The same of a batch, whose requests together take no longer than one.
const MAX_READ_IN_BATCH: usize = 32 * 1024 * 1024;
/// Steps of the evaluation of schemas for one request: a fraction of a second.
const MAX_STEPS: usize = 2_000_000;
/// Hashes of passwords that are computed for one request, each of which takes a quarter of a second.
const MAX_HASHES: usize = 4;

/// That a request has used up what it may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// It has read as much of lists as it may.
    #[error("too much to read")]
    Reading,
    /// It has had as many passwords checked and hashed as it may.
    #[error("too many passwords")]
    Passwords,
}

/// What is left of what a request may cost.
#[derive(Debug)]
pub struct Allowance(Mutex<Left>);

#[derive(Clone, Debug)]
struct Left {
    bytes: usize,
    steps: usize,
    hashes: usize,
    /// What was found of the password of each account that was checked.
    passwords: HashMap<String, Checked>,
}

#[derive(Clone, Debug)]
struct Checked {
    password: String,
    matches: bool,
}

impl Default for Allowance {
    /// That of a single request.
    fn default() -> Self {
        Self(Mutex::new(Left {
            bytes: MAX_READ,
            steps: MAX_STEPS,
            hashes: MAX_HASHES,
            passwords: HashMap::new(),
        }))
    }
}

impl Clone for Allowance {
    /// With as much left: what is done again begins with what it had.
    fn clone(&self) -> Self {
        Self(Mutex::new(self.left().clone()))
    }
}

impl Allowance {
    /// That of a batch.
    pub fn of_batch() -> Self {
        let allowance = Self::default();
        allowance.left().bytes = MAX_READ_IN_BATCH;
        allowance
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes so many bytes of a list.
    ///
    /// # Errors
    /// There are not so many left.
    pub fn read(&self, bytes: usize) -> Result<(), Exhausted> {
        let mut left = self.left();
        left.bytes = left.bytes.checked_sub(bytes).ok_or(Exhausted::Reading)?;
        Ok(())
    }

    /// Has a schema evaluated in the steps that are left; `evaluate` is given these, and gives back those that it took.
    pub fn evaluate<T>(&self, evaluate: impl FnOnce(usize) -> (T, usize)) -> T {
        let left = self.left().steps;
        let (outcome, taken) = evaluate(left);
        self.left().steps = left.saturating_sub(taken);
        outcome
    }

    /// Takes the hash of one password.
    ///
    /// # Errors
    /// There is none left.
    pub fn hash(&self) -> Result<(), Exhausted> {
        let mut left = self.left();
        left.hashes = left.hashes.checked_sub(1).ok_or(Exhausted::Passwords)?;
        Ok(())
    }

    /// Checks the password of an account, once in a request: another one for the same account is not looked at.
    ///
    /// # Errors
    /// It is another one, or no hash is left.
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
        let checked = Checked {
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
