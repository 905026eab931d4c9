//! The passwords of accounts, as bcrypt hashes.
//!
//! Hashing or checking a password takes a processor a quarter of a second, on purpose (`account_hash_cost`). The process
//! caches the results of checks for a while (`account_cache_ttl_seconds`).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::hmac;
use crate::settings::{ApiSettings, Secret};

/// The longest password, in bytes: bcrypt reads no more, and Kinto 26.5 (bcrypt 5.0) fails on longer ones.
pub const MAX_LENGTH: usize = 72;
/// The salt and digest of [`hash_of_nothing`].
const REST_OF_NOTHING: &str = "$nbAaguWasbdynd98C0VrGueDByS5NSzuDGZ1vpdNP7CW9KL3DeLHe";
/// The most findings to keep.
const MAX_FINDINGS: usize = 1000;

/// Hashes a password that is no longer than [`MAX_LENGTH`], with this cost (`account_hash_cost`).
///
/// # Panics
/// When the system gives no random bytes for the salt; without them nothing else works either.
pub fn hash(password: &str, cost: u32) -> String {
    bcrypt::hash(password, cost).expect("random bytes and a valid cost")
}

/// The hash that a password is compared with where an account has none. The comparison takes as long as with a hash of the
/// same cost from [`hash`], and its result never counts.
fn hash_of_nothing(cost: u32) -> String {
    format!("$2b${cost:02}{REST_OF_NOTHING}")
}

/// The hash that a password must match, or its absence.
#[derive(Clone, Copy, Debug)]
pub enum ExpectedHash<'a> {
    /// The hash that an account has.
    Hash(&'a str),
    /// No hash, which no password matches: the account with this id does not exist, or has no password.
    Nothing(&'a str),
}

impl<'a> ExpectedHash<'a> {
    /// The hash or the id, as a unique name. An id cannot equal a hash, which has characters that no id has.
    pub fn name(self) -> &'a str {
        match self {
            Self::Hash(name) | Self::Nothing(name) => name,
        }
    }
}

/// The results of recent checks of passwords.
pub struct Passwords {
    key: Secret,
    ttl: Duration,
    hash_of_nothing: String,
    findings: Mutex<HashMap<[u8; 32], CachedCheck>>,
}

struct CachedCheck {
    matches: bool,
    until: Instant,
}

impl Passwords {
    /// An empty cache.
    pub fn new(settings: &ApiSettings) -> Self {
        Self {
            key: settings.userid_hmac_secret.clone(),
            ttl: settings.account_cache_ttl,
            hash_of_nothing: hash_of_nothing(settings.account_hash_cost),
            findings: Mutex::default(),
        }
    }

    /// The cached result of a check: `true` if the password has this hash; `None` if it would have to be computed.
    ///
    /// Findings are kept by hash and password. No two hashes are equal, so a changed password never meets an old
    /// finding.
    pub fn finding(&self, password: &str, expected: ExpectedHash<'_>) -> Option<bool> {
        if password.len() > MAX_LENGTH {
            return Some(false);
        }
        self.known(&self.key_of(password, expected), Instant::now())
    }

    /// Returns `true` if the password has this hash. Computes it unless a finding is cached, and takes as long where
    /// there is no hash.
    pub fn matches(&self, password: &str, expected: ExpectedHash<'_>) -> bool {
        self.finding(password, expected).unwrap_or_else(|| {
            let (hash, exists) = match expected {
                ExpectedHash::Hash(hash) => (hash, true),
                ExpectedHash::Nothing(_) => (&*self.hash_of_nothing, false),
            };
            let matches = bcrypt::verify(password, hash).unwrap_or(false) && exists;
            self.keep(self.key_of(password, expected), matches, Instant::now());
            matches
        })
    }

    fn key_of(&self, password: &str, expected: ExpectedHash<'_>) -> [u8; 32] {
        hmac::sign(
            self.key.as_bytes(),
            &format!("{}:{password}", expected.name()),
        )
    }

    /// A finding that has not expired. The use of one that matched starts its lifetime anew.
    fn known(&self, key: &[u8; 32], now: Instant) -> Option<bool> {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        let finding = findings
            .get_mut(key)
            .filter(|finding| finding.until > now)?;
        if finding.matches {
            finding.until = now + self.ttl;
        }
        Some(finding.matches)
    }

    fn keep(&self, key: [u8; 32], matches: bool, now: Instant) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        findings.retain(|_, finding| finding.until > now);
        if findings.len() < MAX_FINDINGS {
            let until = now + self.ttl;
            findings.insert(key, CachedCheck { matches, until });
        }
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passwords")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: u32 = 10;
    /// Made by Kinto 26.5 of `pw`.
    const HASH: &str = "$2b$12$nbAaguWasbdynd98C0VrGueDByS5NSzuDGZ1vpdNP7CW9KL3DeLHe";

    fn passwords(ttl: Duration) -> Passwords {
        Passwords {
            key: Secret::new("s3cret"),
            ttl,
            hash_of_nothing: hash_of_nothing(COST),
            findings: Mutex::default(),
        }
    }

    #[test]
    fn a_hash_of_kintos_is_of_its_password_alone() {
        let passwords = passwords(Duration::ZERO);
        assert!(passwords.matches("pw", ExpectedHash::Hash(HASH)));
        for wrong in ["pw2", "p", "", &"pw".repeat(99)] {
            assert!(
                !passwords.matches(wrong, ExpectedHash::Hash(HASH)),
                "{wrong}"
            );
        }
        assert!(!passwords.matches("pw", ExpectedHash::Hash("no hash")));
    }

    #[test]
    fn nothing_matches_where_there_is_no_account_and_that_takes_as_long() {
        let passwords = passwords(Duration::from_secs(30));
        assert!(!passwords.matches("pw", ExpectedHash::Nothing("alice")));
        // The finding for one id does not count for another: each is checked.
        assert_eq!(passwords.findings.lock().unwrap().len(), 1);
        assert!(!passwords.matches("pw", ExpectedHash::Nothing("bob")));
        assert_eq!(passwords.findings.lock().unwrap().len(), 2);
        let cost = |hash: &str| hash[..7].to_owned();
        assert_eq!(cost(&passwords.hash_of_nothing), cost(&hash("pw", COST)));
    }

    #[test]
    fn ours_are_as_kintos() {
        let longest = "x".repeat(MAX_LENGTH);
        let hash = hash(&longest, 12);
        assert!(hash.starts_with("$2b$12$"), "{hash}");
        let passwords = passwords(Duration::ZERO);
        assert!(passwords.matches(&longest, ExpectedHash::Hash(&hash)));
        assert!(!passwords.matches(&longest[1..], ExpectedHash::Hash(&hash)));
        assert!(!passwords.matches(&format!("{longest}y"), ExpectedHash::Hash(&hash)));
    }

    #[test]
    fn a_finding_is_kept_for_its_time_which_begins_anew_with_each_match() {
        let (passwords, now) = (passwords(Duration::from_secs(30)), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        passwords.keep([1; 32], true, now);
        passwords.keep([2; 32], false, now);
        assert_eq!(passwords.known(&[1; 32], at(20)), Some(true));
        assert_eq!(passwords.known(&[2; 32], at(20)), Some(false));
        assert_eq!(passwords.known(&[1; 32], at(40)), Some(true));
        assert_eq!(passwords.known(&[2; 32], at(40)), None);
        assert_eq!(passwords.known(&[1; 32], at(80)), None);
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let passwords = passwords(Duration::from_secs(30));
        let now = Instant::now();
        for n in 0..=MAX_FINDINGS {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            passwords.keep(key, false, now);
        }
        let kept = || passwords.findings.lock().unwrap().len();
        assert_eq!(kept(), MAX_FINDINGS);
        passwords.keep([1; 32], true, now + Duration::from_secs(31));
        assert_eq!(kept(), 1);
    }
}
