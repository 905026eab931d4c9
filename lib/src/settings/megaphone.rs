//! Settings of the listeners that notify a Megaphone: kinto-megaphone's and a few more.

use std::time::Duration;

use super::includes::MEGAPHONE;
use super::{Secret, SettingError, Vars, event_listeners, is_token};
use crate::resource::CollectionSet;

/// The most characters in a broadcaster's id (Megaphone).
const MAX_BROADCASTER_ID: usize = 64;
/// The longest timeout for one request: the lease of a broadcast (`broadcaster::LEASE`) and the function's timeout in
/// the template depend on it.
const MAX_TIMEOUT: Duration = Duration::from_secs(20);

/// One Megaphone to notify: a listener whose `use` is `kinto_megaphone.listeners`.
#[derive(Clone, Debug)]
pub struct MegaphoneSettings {
    /// The listener's name, from `event_listeners`.
    pub name: String,
    /// `…api_key`: the broadcaster's Bearer token.
    pub api_key: Secret,
    /// `…url`: the root of the Megaphone server, without `/v1`.
    pub url: String,
    /// `…broadcaster_id`: 1 to 64 of `[A-Za-z0-9_-]`.
    pub broadcaster_id: String,
    /// `…match_kinto_changes`: the collections whose changes are broadcast.
    pub match_kinto_changes: CollectionSet,
    /// `…except_kinto_changes`: collections whose changes are not broadcast although `…match_kinto_changes` contains
    /// them.
    pub except_kinto_changes: CollectionSet,
    /// `…debounce_seconds`: the shortest time between two broadcasts. 0: none.
    pub debounce: Duration,
    /// `…connect_timeout_seconds`: the time limit for connecting to Megaphone.
    pub connect_timeout: Duration,
    /// `…timeout_seconds`: the time limit for a whole request, at most 20.
    pub timeout: Duration,
}

impl MegaphoneSettings {
    /// Reads the listeners named in `KINTO_EVENT_LISTENERS` that notify a Megaphone.
    ///
    /// # Errors
    /// A missing required setting of a listener, an id or URL that Megaphone would refuse, an invalid name; no listener, in a
    /// `kinto.ini` that includes `kinto_megaphone`, which then does not start either.
    pub fn from_vars(vars: &Vars) -> Result<Vec<Self>, SettingError> {
        let mut listeners = vec![];
        for listener in event_listeners::all(vars)? {
            if listener.is_megaphone() {
                listeners.push(Self::listener(vars, listener.name, &listener.prefix)?);
            }
        }
        let includes = vars.words("KINTO_INCLUDES").unwrap_or_default();
        if vars.has_file() && listeners.is_empty() && includes.iter().any(|it| it == MEGAPHONE) {
            let problem =
                format!("`{MEGAPHONE}` needs a listener whose `use` is {MEGAPHONE}.listeners");
            return Err(SettingError::new("KINTO_INCLUDES", problem));
        }
        Ok(listeners)
    }

    fn listener(vars: &Vars, name: String, prefix: &str) -> Result<Self, SettingError> {
        let variable = |setting: &str| format!("{prefix}_{setting}");
        let (url, broadcaster_id) = (variable("URL"), variable("BROADCASTER_ID"));
        let (api_key, matched) = (variable("API_KEY"), variable("MATCH_KINTO_CHANGES"));
        vars.require(&matched)?;
        let token = vars.token(&api_key)?;
        let listener = Self {
            api_key: token.ok_or_else(|| SettingError::new(api_key, "is required"))?,
            url: vars.require(&url)?.trim_end_matches('/').to_owned(),
            broadcaster_id: broadcaster(vars.require(&broadcaster_id)?, &broadcaster_id)?,
            match_kinto_changes: vars.collections(&matched)?,
            except_kinto_changes: vars.collections(&variable("EXCEPT_KINTO_CHANGES"))?,
            debounce: vars.seconds(&variable("DEBOUNCE_SECONDS"), 0)?,
            connect_timeout: timeout(vars, &variable("CONNECT_TIMEOUT_SECONDS"), 3)?,
            timeout: timeout(vars, &variable("TIMEOUT_SECONDS"), 10)?,
            name,
        };
        if reqwest::Url::parse(&listener.url)
            .map_or(true, |url| !matches!(url.scheme(), "http" | "https"))
        {
            return Err(SettingError::new(url, "must be an http or https URL"));
        }
        Ok(listener)
    }

    /// Returns `true` if changes of the collection are broadcast.
    pub fn matches(&self, bucket: &str, collection: &str) -> bool {
        self.match_kinto_changes.contains(bucket, collection)
            && !self.except_kinto_changes.contains(bucket, collection)
    }
}

fn timeout(vars: &Vars, variable: &str, default: u64) -> Result<Duration, SettingError> {
    let timeout = vars.seconds(variable, default)?;
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        let problem = format!("must be 1 to {} seconds", MAX_TIMEOUT.as_secs());
        return Err(SettingError::new(variable, problem));
    }
    Ok(timeout)
}

/// Checks the id of a broadcaster by Megaphone's rules.
pub(super) fn broadcaster(id: &str, variable: &str) -> Result<String, SettingError> {
    if is_token(id, MAX_BROADCASTER_ID) {
        return Ok(id.to_owned());
    }
    let problem = format!("must be 1 to {MAX_BROADCASTER_ID} of A-Z a-z 0-9 _ -");
    Err(SettingError::new(variable, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENER: [(&str, &str); 6] = [
        ("KINTO_EVENT_LISTENERS", "mp"),
        ("KINTO_EVENT_LISTENERS_MP_USE", "kinto_megaphone.listeners"),
        ("KINTO_EVENT_LISTENERS_MP_API_KEY", "hush"),
        ("KINTO_EVENT_LISTENERS_MP_URL", "https://megaphone.example/"),
        ("KINTO_EVENT_LISTENERS_MP_BROADCASTER_ID", "remote-settings"),
        (
            "KINTO_EVENT_LISTENERS_MP_MATCH_KINTO_CHANGES",
            "/buckets/main",
        ),
    ];

    fn listeners_with(name: &str, value: &str) -> Result<Vec<MegaphoneSettings>, SettingError> {
        let vars: Vars = LISTENER.into_iter().chain([(name, value)]).collect();
        MegaphoneSettings::from_vars(&vars)
    }

    #[test]
    fn a_listener_is_read_from_kinto_megaphones_settings() {
        let listeners = listeners_with(
            "KINTO_EVENT_LISTENERS_MP_EXCEPT_KINTO_CHANGES",
            "/buckets/main/collections/x",
        )
        .unwrap();
        assert_eq!(listeners.len(), 1);
        assert_eq!(listeners[0].url, "https://megaphone.example");
        assert!(listeners[0].matches("main", "y"));
        assert!(!listeners[0].matches("main", "x"));
        assert!(!listeners[0].matches("other", "y"));
        assert_eq!(listeners[0].debounce, Duration::ZERO);
    }

    #[test]
    fn several_listeners_stand_side_by_side() {
        let more = LISTENER
            .into_iter()
            .skip(1)
            .map(|(name, value)| (name.replace("_MP_", "_TO_PUSH_"), value.to_owned()));
        let all = LISTENER
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let listed = ("KINTO_EVENT_LISTENERS".to_owned(), "mp to-push".to_owned());
        let debounced = (
            "KINTO_EVENT_LISTENERS_TO_PUSH_DEBOUNCE_SECONDS".to_owned(),
            "300".to_owned(),
        );
        let vars: Vars = all.chain(more).chain([listed, debounced]).collect();
        let listeners = MegaphoneSettings::from_vars(&vars).unwrap();
        let read: Vec<_> = listeners
            .iter()
            .map(|listener| (listener.name.as_str(), listener.debounce.as_secs()))
            .collect();
        assert_eq!(read, [("mp", 0), ("to-push", 300)]);
    }

    #[test]
    fn each_missing_or_malformed_setting_of_a_listener_is_named() {
        for (name, _) in LISTENER.iter().skip(1) {
            assert_eq!(listeners_with(name, "").unwrap_err().variable, *name);
        }
        for (name, value) in [
            ("KINTO_EVENT_LISTENERS", "m/p"),
            ("KINTO_EVENT_LISTENERS", "mp MP"),
            ("KINTO_EVENT_LISTENERS_MP_URL", "megaphone.example"),
            ("KINTO_EVENT_LISTENERS_MP_URL", "ftp://megaphone.example"),
            ("KINTO_EVENT_LISTENERS_MP_BROADCASTER_ID", "remote settings"),
            ("KINTO_EVENT_LISTENERS_MP_API_KEY", "line\nbreak"),
            ("KINTO_EVENT_LISTENERS_MP_MATCH_KINTO_CHANGES", "main"),
            ("KINTO_EVENT_LISTENERS_MP_EXCEPT_KINTO_CHANGES", "main"),
            ("KINTO_EVENT_LISTENERS_MP_DEBOUNCE_SECONDS", "5m"),
            ("KINTO_EVENT_LISTENERS_MP_TIMEOUT_SECONDS", "21"),
            ("KINTO_EVENT_LISTENERS_MP_CONNECT_TIMEOUT_SECONDS", "0"),
        ] {
            assert_eq!(
                listeners_with(name, value).unwrap_err().variable,
                name,
                "{value}"
            );
        }
    }

    #[test]
    fn neither_an_error_nor_a_debug_print_shows_a_secret() {
        let listener = listeners_with("KINTO_EVENT_LISTENERS_MP_API_KEY", "hush").unwrap();
        assert!(!format!("{listener:?}").contains("hush"));
        let error = listeners_with("KINTO_EVENT_LISTENERS_MP_API_KEY", "hu sh").unwrap_err();
        assert!(!error.to_string().contains("hu sh"));
    }
}
