//! Settings common to all listeners: their code, their events, and whether they run before or after the commit (Kinto
//! 26.5, `event_listeners`; `events`, `uris`, `synchronous` and `timeout_seconds` are ours).

use std::time::Duration;

use super::event_listeners::{self, EventListener};
use super::{SettingError, Vars};
use crate::event::{Action, EventName, ResourceChanged};
use crate::resource::{CollectionSet, Kind};

/// A listener to `ResourceChanged`: one whose `use` is not kinto-megaphone's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Its name, from `event_listeners`.
    pub name: String,
    /// `…use`: the code that it runs.
    pub code: String,
    /// `…synchronous`: whether it is notified before the commit, and may refuse it; otherwise after the commit.
    pub synchronous: bool,
    /// `…events`: what it is notified of; `ResourceChanged` alone where nothing is said.
    pub events: Vec<EventName>,
    /// `…actions`: the only actions that it is notified of.
    pub actions: Vec<Action>,
    /// `…resources`: the only kinds of objects that it is notified of; all if empty.
    pub resources: Vec<Kind>,
    /// `…uris`: the only buckets and collections, with their contents, that it is notified of; all if empty.
    pub uris: CollectionSet,
    /// `…timeout_seconds`: the time limit for an event: 1 to 10 seconds before the commit (5), else 1 to 20 (10).
    pub timeout: Duration,
    prefix: String,
}

impl ListenerSettings {
    /// Reads the listeners named in `KINTO_EVENT_LISTENERS` except those that notify a Megaphone.
    ///
    /// # Errors
    /// A listener without `use`, an invalid or repeated name, an invalid action, kind or URI.
    pub fn from_vars(vars: &Vars) -> Result<Vec<Self>, SettingError> {
        let mut listeners = vec![];
        for listener in event_listeners::all(vars)? {
            if !listener.is_megaphone() {
                listeners.push(Self::read(vars, listener)?);
            }
        }
        Ok(listeners)
    }

    fn read(vars: &Vars, listener: EventListener<'_>) -> Result<Self, SettingError> {
        let EventListener { name, prefix, code } = listener;
        let variable = |setting: &str| format!("{prefix}_{setting}");
        let mut actions = words(vars, &variable("ACTIONS"), |word| {
            let mut actions = Action::ALL.into_iter();
            actions.find(|action| action.name() == word)
        })?;
        if actions.is_empty() {
            actions = Action::ALL.into();
        }
        let mut events = words(vars, &variable("EVENTS"), |word| {
            let mut events = EventName::ALL.into_iter();
            events.find(|event| event.name() == word)
        })?;
        if events.is_empty() {
            events.push(EventName::ResourceChanged);
        }
        let synchronous = vars.flag(&variable("SYNCHRONOUS"), false)?;
        // The client waits; the gateway allows it 30 seconds, commit and retries included.
        let (usual, most) = if synchronous { (5, 10) } else { (10, 20) };
        let timeout = vars.seconds(&variable("TIMEOUT_SECONDS"), usual)?;
        if timeout.is_zero() || timeout.as_secs() > most {
            let problem = format!("must be 1 to {most} seconds");
            return Err(SettingError::new(variable("TIMEOUT_SECONDS"), problem));
        }
        Ok(Self {
            timeout,
            events,
            actions,
            resources: words(vars, &variable("RESOURCES"), Kind::from_name)?,
            uris: vars.collections(&variable("URIS"))?,
            synchronous,
            code: code.to_owned(),
            name,
            prefix,
        })
    }

    /// The variable of one of its settings, e.g. `KINTO_EVENT_LISTENERS_A_URL`.
    pub fn variable(&self, setting: &str) -> String {
        format!("{}_{setting}", self.prefix)
    }

    /// The part of an event that the listener subscribes to; `None` if there is none. A part has an id of its own: if
    /// several listeners forward to one receiver, parts for different listeners are no duplicates.
    pub fn select(&self, event: &ResourceChanged) -> Option<ResourceChanged> {
        let of_kind = |kind: &Kind| kind.name() == event.resource_name;
        let is_heard = self.events.contains(&event.name())
            && self.actions.contains(&event.action)
            && (self.resources.is_empty() || self.resources.iter().any(of_kind));
        if !is_heard {
            return None;
        }
        let mut heard = event.only(|uri| self.uris.is_empty() || self.uris.holds(uri))?;
        if heard.impacted_uris.len() < event.impacted_uris.len() {
            heard.id = format!("{}.{}", event.id, self.name);
        }
        Some(heard)
    }
}

/// The words of a setting, each converted.
fn words<T>(
    vars: &Vars,
    variable: &str,
    named: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, SettingError> {
    let words = vars.words(variable).unwrap_or_default().into_iter();
    let unknown = |word| SettingError::new(variable, format!("`{word}` is unknown"));
    words
        .map(|word| named(&word).ok_or_else(|| unknown(word)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn listener(settings: &[(&str, &str)]) -> Result<ListenerSettings, SettingError> {
        let fixed = [
            ("KINTO_EVENT_LISTENERS", "a"),
            ("KINTO_EVENT_LISTENERS_A_USE", "webhook"),
        ];
        let vars: Vars = fixed.iter().chain(settings).copied().collect();
        Ok(ListenerSettings::from_vars(&vars)?.swap_remove(0))
    }

    fn event(action: &str, resource: &str, uris: &[&str]) -> ResourceChanged {
        let impacted: Vec<_> = uris.iter().map(|uri| json!({"new": {"id": uri}})).collect();
        serde_json::from_value(json!({
            "id": "", "timestamp": 1, "action": action, "uri": "", "user_id": null, "date": "",
            "resource_name": resource, "impacted_uris": uris, "impacted_records": impacted,
        }))
        .unwrap()
    }

    #[test]
    fn a_listener_hears_of_every_write_unless_it_says_otherwise() {
        let all = listener(&[]).unwrap();
        assert!(!all.synchronous);
        for action in Action::ALL {
            for kind in Kind::ALL {
                let event = event(action.name(), kind.name(), &["/buckets/a"]);
                assert_eq!(all.select(&event), Some(event));
            }
        }
    }

    #[test]
    fn it_hears_of_the_actions_the_kinds_and_the_uris_that_it_names() {
        let some = listener(&[
            ("KINTO_EVENT_LISTENERS_A_ACTIONS", "create delete"),
            ("KINTO_EVENT_LISTENERS_A_RESOURCES", "record collection"),
            (
                "KINTO_EVENT_LISTENERS_A_URIS",
                "/buckets/a /buckets/b/collections/c",
            ),
            ("KINTO_EVENT_LISTENERS_A_SYNCHRONOUS", "true"),
        ])
        .unwrap();
        assert!(some.synchronous);
        let hears = |action, resource, uri| some.select(&event(action, resource, &[uri])).is_some();
        let record = "/buckets/b/collections/c/records/r";
        assert!(hears("create", "record", record));
        assert!(hears("create", "collection", "/buckets/a/collections/any"));
        assert!(!hears("update", "record", record));
        assert!(!hears("create", "group", "/buckets/a/groups/g"));
        assert!(!hears(
            "create",
            "record",
            "/buckets/b/collections/c2/records/r"
        ));
    }

    #[test]
    fn it_hears_of_reviews_where_it_asks_for_them() {
        let mut requested = event("update", "collection", &["/buckets/a/collections/c"]);
        requested.review = Some(crate::event::Review {
            event: EventName::ReviewRequested,
            comment: Some(String::new()),
            changes_count: None,
            changes_size_bytes: None,
        });
        let written = event("update", "collection", &["/buckets/a/collections/c"]);
        let hears = |events, event: &ResourceChanged| {
            let settings = listener(&[("KINTO_EVENT_LISTENERS_A_EVENTS", events)]);
            settings.unwrap().select(event).is_some()
        };
        assert!(hears("", &written) && !hears("", &requested));
        assert!(hears("ReviewRequested", &requested) && !hears("ReviewApproved", &requested));
        assert!(!hears("ReviewRequested", &written));
        assert!(hears("ResourceChanged ReviewRequested", &written));
        // As a transport reads it back.
        let read = serde_json::from_str(&requested.to_json()).unwrap();
        assert_eq!(requested, read);
        let read = serde_json::from_str(&written.to_json()).unwrap();
        assert_eq!(written, read);
    }

    #[test]
    fn of_an_event_about_more_it_hears_its_own_part() {
        let some =
            listener(&[("KINTO_EVENT_LISTENERS_A_URIS", "/buckets/a/collections/c")]).unwrap();
        let (own, other) = ("/buckets/a/collections/c", "/buckets/a/collections/d");
        let heard = some
            .select(&event("delete", "collection", &[other, own]))
            .unwrap();
        assert_eq!(heard.impacted_uris, [own]);
        assert_eq!(heard.id, ".a");
        assert_eq!(heard.impacted_records[0].new["id"], own);
    }

    #[test]
    fn a_setting_that_cannot_be_is_named() {
        for (name, value) in [
            ("KINTO_EVENT_LISTENERS_A_USE", ""),
            ("KINTO_EVENT_LISTENERS_A_ACTIONS", "create read"),
            ("KINTO_EVENT_LISTENERS_A_RESOURCES", "attachment"),
            ("KINTO_EVENT_LISTENERS_A_EVENTS", "ReviewForgotten"),
            ("KINTO_EVENT_LISTENERS_A_URIS", "/buckets"),
            ("KINTO_EVENT_LISTENERS_A_SYNCHRONOUS", "maybe"),
            ("KINTO_EVENT_LISTENERS_A_TIMEOUT_SECONDS", "21"),
            ("KINTO_EVENT_LISTENERS", "a A"),
        ] {
            assert_eq!(
                listener(&[(name, value)]).unwrap_err().variable,
                name,
                "{value}"
            );
        }
    }
}
