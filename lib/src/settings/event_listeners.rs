//! `event_listeners`: the names of all listeners, those that notify a Megaphone included, and the prefix of each one's
//! variables.

use std::collections::BTreeSet;

use super::{SettingError, Vars, is_token};

/// The variable that names the listeners.
const EVENT_LISTENERS: &str = "KINTO_EVENT_LISTENERS";
/// The `use` of the listeners that notify a Megaphone (kinto-megaphone 0.5).
const MEGAPHONE: &str = "kinto_megaphone.listeners";

/// A listener named in `event_listeners`.
pub(super) struct EventListener<'v> {
    /// Its name.
    pub name: String,
    /// The prefix of its variables; in it, Kinto writes `-` as `_`.
    pub prefix: String,
    /// `…use`: the code that it runs.
    pub code: &'v str,
}

impl EventListener<'_> {
    /// Returns `true` if it notifies a Megaphone: then its settings are kinto-megaphone's.
    pub fn is_megaphone(&self) -> bool {
        self.code == MEGAPHONE
    }
}

/// The listeners that `event_listeners` names, in order.
///
/// # Errors
/// A name with characters that a variable cannot have, two names for the same variables, and a listener without `use`.
pub(super) fn all(vars: &Vars) -> Result<Vec<EventListener<'_>>, SettingError> {
    let names = vars.words(EVENT_LISTENERS).unwrap_or_default();
    let mut prefixes = BTreeSet::new();
    let mut with_prefix = vec![];
    for name in names {
        let refuse = |problem: &str| {
            let problem = format!("`{name}` {problem}");
            Err(SettingError::new(EVENT_LISTENERS, problem))
        };
        if !is_token(&name, 64) {
            return refuse("has other characters than A-Z a-z 0-9 _ -");
        }
        let upper = name.to_ascii_uppercase().replace('-', "_");
        let prefix = format!("{EVENT_LISTENERS}_{upper}");
        if !prefixes.insert(prefix.clone()) {
            return refuse("is there twice");
        }
        with_prefix.push((name, prefix));
    }
    let listeners = with_prefix.into_iter().map(|(name, prefix)| {
        let code = vars.require(&format!("{prefix}_USE"))?;
        Ok(EventListener { name, prefix, code })
    });
    listeners.collect()
}
