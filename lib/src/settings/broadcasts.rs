//! Settings of the broadcasts that clients poll: `__broadcasts__`, and `broadcasts` in Megaphone's place.

use std::time::Duration;

use super::{Secret, SettingError, Vars, megaphone};

/// The time for which changes are held back, so that few broadcasts follow each other closely (Remote Settings).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debounce {
    /// A version is shown once nothing has changed for this long …
    pub min: Duration,
    /// … or once this has passed since the last version was shown. Not below `min`.
    pub max: Duration,
}

/// Settings of the broadcasts that clients poll.
#[derive(Clone, Debug)]
pub struct BroadcastsSettings {
    /// `push_broadcast_min_debounce_interval_seconds` (300) and `push_broadcast_max_debounce_interval_seconds`
    /// (1200), as in Remote Settings.
    pub debounce: Debounce,
    /// `broadcasts.broadcaster_id`: the id under which the channel is listed; `remote-settings` as in Remote Settings.
    pub broadcaster_id: String,
    /// `broadcasts.reader_token`: the token for reading `broadcasts`, as of Megaphone. Nobody may read it if not set.
    pub reader_token: Option<Secret>,
}

impl BroadcastsSettings {
    /// Reads the settings of the broadcasts that clients poll.
    ///
    /// # Errors
    /// An invalid number, a maximum below the minimum, an id or a token that Megaphone would refuse.
    pub fn from_vars(vars: &Vars) -> Result<Self, SettingError> {
        const MAX: &str = "KINTO_PUSH_BROADCAST_MAX_DEBOUNCE_INTERVAL_SECONDS";
        const BROADCASTER_ID: &str = "KINTO_BROADCASTS_BROADCASTER_ID";
        let min = vars.seconds("KINTO_PUSH_BROADCAST_MIN_DEBOUNCE_INTERVAL_SECONDS", 300)?;
        let max = vars.seconds(MAX, min.as_secs().max(1200))?;
        if max < min {
            let problem = format!("must not be below the minimum, {}", min.as_secs());
            return Err(SettingError::new(MAX, problem));
        }
        let broadcaster_id = vars.get(BROADCASTER_ID).unwrap_or("remote-settings");
        Ok(Self {
            debounce: Debounce { min, max },
            broadcaster_id: megaphone::broadcaster(broadcaster_id, BROADCASTER_ID)?,
            reader_token: vars.token("KINTO_BROADCASTS_READER_TOKEN")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_intervals_are_those_of_remote_settings_unless_set() {
        let seconds = |vars: &[(&str, &str)]| {
            let vars = vars.iter().copied().collect();
            let debounce = BroadcastsSettings::from_vars(&vars).unwrap().debounce;
            (debounce.min.as_secs(), debounce.max.as_secs())
        };
        const MIN: &str = "KINTO_PUSH_BROADCAST_MIN_DEBOUNCE_INTERVAL_SECONDS";
        const MAX: &str = "KINTO_PUSH_BROADCAST_MAX_DEBOUNCE_INTERVAL_SECONDS";
        assert_eq!(seconds(&[]), (300, 1200));
        assert_eq!(seconds(&[(MIN, "0"), (MAX, "60")]), (0, 60));
        // A long minimum on its own is no contradiction.
        assert_eq!(seconds(&[(MIN, "3600")]), (3600, 3600));
        let vars = [(MIN, "61"), (MAX, "60")].into_iter().collect();
        let error = BroadcastsSettings::from_vars(&vars).unwrap_err();
        assert_eq!(error.variable, MAX);
    }

    #[test]
    fn a_token_or_id_that_could_never_be_used_is_named() {
        for (name, value) in [
            ("KINTO_BROADCASTS_READER_TOKEN", "two words"),
            ("KINTO_BROADCASTS_BROADCASTER_ID", "remote/settings"),
        ] {
            let vars = [(name, value)].into_iter().collect();
            let error = BroadcastsSettings::from_vars(&vars).unwrap_err();
            assert_eq!(error.variable, name);
        }
    }
}
