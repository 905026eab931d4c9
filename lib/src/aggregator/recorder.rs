//! Records changes in the monitor: new ones get positions of its clock, all in one conditional update of its state
//! ([decision 13](../../../docs/decisions/013-monitor-clock.md)).
//!
//! A process remembers the state that it wrote last, so usually it reads nothing. If another process has written in
//! between, the update fails and returns the present state, to which the changes are applied again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Audience;
use crate::backoff::Backoff;
use crate::resource::ObjectUri;
use crate::store::monitor::{
    CollectionChange, MonitorState, StateUpdate, StoredEntry, StoredMonitorEntry, split_update,
};
use crate::store::{Store, StoreError};
use crate::timestamp::Timestamp;

/// The most attempts at an update, which take about ten seconds.
const MAX_ATTEMPTS: u32 = 30;
/// The longest pause before the second attempt. It doubles with each …
const INITIAL_BACKOFF: Duration = Duration::from_millis(8);
/// … up to this.
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// The entries of collections that are in items of their own.
type StoredEntries = HashMap<ObjectUri, StoredMonitorEntry>;

/// Records changes in the monitor's state.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    store: Store,
    pub(super) audience: Audience,
    remembered: Arc<Mutex<Option<LastWritten>>>,
}

/// The state that this process wrote last.
#[derive(Clone, Debug)]
struct LastWritten {
    state: MonitorState,
    /// Whether nobody else wrote between the last two updates. Otherwise reading the state first is cheaper than a
    /// failed update.
    was_undisturbed: bool,
}

/// A state, and whether it was read or returned since the present changes arrived.
pub(super) struct KnownState {
    pub(super) state: MonitorState,
    is_fresh: bool,
}

impl Recorder {
    pub(super) fn new(store: Store, audience: Audience) -> Self {
        Self {
            store,
            audience,
            remembered: Arc::default(),
        }
    }

    /// The state to record changes in: the remembered one if it is likely to be current, else that of the table, by one
    /// `GetItem`.
    pub(super) async fn held(&self) -> Result<KnownState, StoreError> {
        let is_trusted = |remembered: &LastWritten| {
            remembered.was_undisturbed && !remembered.state.needs_adoption()
        };
        let remembered = self.lock().clone();
        match remembered.filter(is_trusted) {
            Some(LastWritten { state, .. }) => Ok(KnownState {
                state,
                is_fresh: false,
            }),
            None => Ok(KnownState::fresh(self.store.monitor_state().await?)),
        }
    }

    /// Records changes, no more than fit into one update. Returns a state in which all of them are known.
    ///
    /// One `UpdateItem` if any is new, and one `BatchGetItem` if a change is not after the clock and its collection has
    /// not changed lately. The update is retried each time that another process writes at the same moment. Before it
    /// comes one `PutItem` for each entry that no longer fits into the state.
    ///
    /// # Errors
    /// The table failed, or others wrote before every attempt.
    pub(super) async fn record(
        &self,
        held: KnownState,
        changes: &[&CollectionChange],
    ) -> Result<MonitorState, StoreError> {
        let record = |state: &mut MonitorState, stored: &StoredEntries| {
            for change in changes {
                let entry = state.record(change, stored.get(&change.uri()));
                self.raise_due_versions(state, &entry);
            }
        };
        self.update(held, changes, record).await
    }

    /// Makes an entry's position due for everybody who is notified of it.
    fn raise_due_versions(&self, state: &mut MonitorState, entry: &StoredMonitorEntry) {
        let StoredMonitorEntry { position, change } = entry;
        for listener in &self.audience.megaphones {
            if self.audience.includes(listener, change) {
                state.raise_due(&listener.name, *position);
            }
        }
        if self.audience.includes_readers(change) {
            let debounce = self.audience.broadcasts.debounce;
            state.raise_polled_broadcast(*position, Timestamp::now(), debounce);
        }
    }

    /// Starts the clock, after all entries of an earlier version.
    pub(super) async fn start(&self, read: MonitorState) -> Result<MonitorState, StoreError> {
        let stored = self.store.stored_monitor_entries().await?;
        let pull = self.store.polled_broadcast_of_earlier_version().await?;
        let positions = stored.iter().map(|stored| stored.entry.position);
        let mut state = read.clone();
        state.start(positions.max().unwrap_or_default(), pull, Timestamp::now());
        let (StateUpdate::Done(state) | StateUpdate::Refused(state)) =
            self.store.replace_monitor_state(&read, state).await?;
        Ok(state)
    }

    /// Gives the next positions to all entries that functions of an earlier version wrote
    /// ([decision 14](../../../docs/decisions/014-update-in-place.md)).
    ///
    /// It cannot be known which of them were written before the clock was started, so that a change may be broadcast
    /// twice.
    pub(super) async fn adopt(&self, read: MonitorState) -> Result<MonitorState, StoreError> {
        let stored = self.store.stored_monitor_entries().await?.into_iter();
        let stored = stored.filter(|stored| stored.is_of_earlier_version);
        let mut changes: Vec<_> = stored
            .map(|StoredEntry { entry, .. }| entry.change)
            .collect();
        changes.sort_by_key(|change| change.last_modified);
        let highest = changes
            .last()
            .map_or(Timestamp(0), |last| last.last_modified);
        let mut state = read;
        let mut left = &*changes;
        while !left.is_empty() {
            let (part, rest) = split_update(left, |change| change);
            let record = |state: &mut MonitorState, _: &StoredEntries| {
                for change in part {
                    if !state.knows(change) {
                        // Megaphone may have got each one's timestamp as its version.
                        state.advance(highest);
                        let entry = state.record(change, None);
                        self.raise_due_versions(state, &entry);
                    }
                }
            };
            state = self.update(KnownState::fresh(state), &[], record).await?;
            left = rest;
        }
        Ok(state)
    }

    /// Records that the entries of an earlier version are adopted, up to this `version`.
    pub(super) async fn end_adoption(
        &self,
        state: MonitorState,
        version: u64,
    ) -> Result<MonitorState, StoreError> {
        let adopt = |state: &mut MonitorState, _: &StoredEntries| {
            state.adopt(version, Timestamp::now());
        };
        self.update(KnownState::fresh(state), &[], adopt).await
    }

    /// Changes the state by `apply`, which gets the items of those of these collections that the state does not know
    /// enough about. Entries that leave the state are put into items of their own first.
    async fn update(
        &self,
        mut held: KnownState,
        collections: &[&CollectionChange],
        apply: impl Fn(&mut MonitorState, &StoredEntries),
    ) -> Result<MonitorState, StoreError> {
        let mut backoff = Backoff::new(INITIAL_BACKOFF, MAX_BACKOFF);
        for _ in 0..MAX_ATTEMPTS {
            let mut next = held.state.clone();
            let unknown = collections.iter().copied();
            let unknown = unknown.filter(|change| next.needs_item(change));
            let stored = self.store.monitor_entries_of(unknown.collect()).await?;
            apply(&mut next, &stored);
            if next == held.state {
                if held.is_fresh {
                    return Ok(next);
                }
                // With nothing to write, no failed update would show that the state has changed.
                held = KnownState::fresh(self.store.monitor_state().await?);
                continue;
            }
            let folded = next.fold(held.state.clock());
            self.store.put_monitor_entries(folded).await?;
            match self.store.replace_monitor_state(&held.state, next).await? {
                StateUpdate::Done(state) => {
                    self.remember(&held.state, &state);
                    return Ok(state);
                }
                StateUpdate::Refused(present) => held = KnownState::fresh(present),
            }
            tokio::time::sleep(backoff.next_pause()).await;
        }
        Err(StoreError::MonitorContended(MAX_ATTEMPTS))
    }

    fn remember(&self, replaced: &MonitorState, state: &MonitorState) {
        let mut remembered = self.lock();
        let before = remembered.as_ref();
        let was_undisturbed = before.is_none_or(|before| before.state.clock() == replaced.clock());
        *remembered = Some(LastWritten {
            state: state.clone(),
            was_undisturbed,
        });
    }

    fn lock(&self) -> MutexGuard<'_, Option<LastWritten>> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownState {
    pub(super) fn fresh(state: MonitorState) -> Self {
        Self {
            state,
            is_fresh: true,
        }
    }
}
