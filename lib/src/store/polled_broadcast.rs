//! The versions for readers of `__broadcasts__`: the latest, and the one shown while that is held back.
//!
//! The aggregator raises the version and records the times; these determine the version to show at any later time. So a
//! read writes nothing, all functions show the same version, and frequent readers change nothing. The versions are
//! positions of the monitor's clock, and part of the monitor's state ([`super::monitor::MonitorState`]).

use super::broadcast_claim::PARTITION;
use super::{Item, Key, Store, StoreError, number, time};
use crate::settings::Debounce;
use crate::timestamp::Timestamp;

/// The item in which an earlier version keeps them. No listener has this name.
const SORT_KEY: &str = "#pull";

/// The latest version, and the version shown before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolledBroadcast {
    /// The latest version.
    due: Timestamp,
    /// The time when it became the latest.
    due_at: Timestamp,
    /// The version shown before, and the time from which it was shown; `None` if there was none.
    shown: Option<(Timestamp, Timestamp)>,
}

impl PolledBroadcast {
    /// Raises the latest version to `due` from `now` on, unless a later one is known.
    pub fn raised(read: Option<Self>, due: Timestamp, now: Timestamp, debounce: Debounce) -> Self {
        match read {
            None => Self::first(due, now),
            Some(state) if due <= state.due => state,
            Some(state) => state.with(due, now, debounce),
        }
    }

    /// The state with a first version.
    fn first(due: Timestamp, now: Timestamp) -> Self {
        Self {
            due,
            due_at: now,
            shown: None,
        }
    }

    /// The state with `due`, a later version, as the latest from `now` on.
    fn with(self, due: Timestamp, now: Timestamp, debounce: Debounce) -> Self {
        let now = now.max(self.due_at);
        let since = self.due_shown_from(debounce);
        Self {
            due,
            due_at: now,
            shown: if since <= now {
                Some((self.due, since))
            } else {
                self.shown
            },
        }
    }

    /// The time from which the latest version is shown, unless a later one comes.
    fn due_shown_from(self, debounce: Debounce) -> Timestamp {
        let Some((_, shown_at)) = self.shown else {
            return self.due_at;
        };
        let quiet = self.due_at.after(debounce.min);
        let longest = shown_at.after(debounce.max);
        quiet.min(longest).max(self.due_at)
    }

    /// The version to show.
    pub fn version(self, now: Timestamp, debounce: Debounce) -> Timestamp {
        match self.shown {
            Some((shown, _)) if now < self.due_shown_from(debounce) => shown,
            _ => self.due,
        }
    }

    pub(super) fn from_item(item: &Item) -> Result<Self, StoreError> {
        let shown = item
            .contains_key("shown")
            .then(|| Ok((time(item, "shown")?, time(item, "shown_at")?)));
        Ok(Self {
            due: time(item, "due")?,
            due_at: time(item, "due_at")?,
            shown: shown.transpose()?,
        })
    }

    pub(super) fn into_item(self) -> Item {
        let times = [("due", self.due), ("due_at", self.due_at)];
        let shown = self
            .shown
            .map(|(shown, at)| [("shown", shown), ("shown_at", at)]);
        let times = times.into_iter().chain(shown.into_iter().flatten());
        times
            .map(|(name, value)| (name.to_owned(), number(value)))
            .collect()
    }
}

impl Store {
    /// Reads the versions from the item in which an earlier version of the functions keeps them; `None` if there is
    /// none.
    ///
    /// One `GetItem`, strongly consistent, 1 RCU.
    pub async fn polled_broadcast_of_earlier_version(
        &self,
    ) -> Result<Option<PolledBroadcast>, StoreError> {
        let key = Key {
            pk: PARTITION.to_owned(),
            sk: SORT_KEY.to_owned(),
        };
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key.into_item()))
            .consistent_read(true)
            .send()
            .await
            .map_err(StoreError::request("GetItem"))?;
        answer
            .item
            .as_ref()
            .map(PolledBroadcast::from_item)
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    const DEBOUNCE: Debounce = Debounce {
        min: Duration::from_secs(300),
        max: Duration::from_secs(1200),
    };

    /// In seconds.
    fn shown_at(state: PolledBroadcast, seconds: u64) -> u64 {
        state.version(Timestamp(seconds * 1000), DEBOUNCE).0
    }

    fn raised(state: PolledBroadcast, due: u64, seconds: u64) -> PolledBroadcast {
        PolledBroadcast::raised(
            Some(state),
            Timestamp(due),
            Timestamp(seconds * 1000),
            DEBOUNCE,
        )
    }

    #[test]
    fn a_change_after_a_long_rest_shows_at_once_and_the_next_after_five_quiet_minutes() {
        let state = PolledBroadcast::first(Timestamp(1), Timestamp(0));
        assert_eq!(shown_at(state, 0), 1);
        let state = raised(state, 2, 5000);
        assert_eq!(shown_at(state, 5000), 2);
        let state = raised(state, 3, 5010);
        assert_eq!((shown_at(state, 5309), shown_at(state, 5310)), (2, 3));
    }

    #[test]
    fn changes_without_a_rest_show_every_twenty_minutes() {
        let mut state = PolledBroadcast::first(Timestamp(1), Timestamp(0));
        for seconds in (60..=2400).step_by(60) {
            state = raised(state, seconds, seconds);
            let expected = match seconds {
                ..1200 => 1,
                // The version before it: this one came when that was shown.
                1200..2400 => 1140,
                _ => 2340,
            };
            assert_eq!(shown_at(state, seconds), expected, "after {seconds} s");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_never_goes_back_changes_no_sooner_than_the_minimum_and_ends_at_the_latest(
            pauses in prop::collection::vec(0..900_u64, 1..40),
        ) {
            let mut state = PolledBroadcast::first(Timestamp(1), Timestamp(0));
            let (mut now, mut version, mut last, mut last_at) = (0, 1, 1, 0);
            for pause in pauses {
                for second in now..now + pause {
                    let shown = shown_at(state, second);
                    prop_assert!(shown >= last);
                    if shown > last {
                        prop_assert!(second - last_at >= 300, "{second} {last_at}");
                        (last, last_at) = (shown, second);
                    }
                }
                now += pause;
                version += 1;
                state = raised(state, version, now);
            }
            prop_assert_eq!(shown_at(state, now + 300), version);
        }
    }
}
