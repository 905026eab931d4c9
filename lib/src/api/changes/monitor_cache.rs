//! The cache of the monitor's entries that the settings show.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::changes::monitor_entry::MonitorEntry;
use crate::settings::ChangesSettings;
use crate::store::monitor::{CollectionChange, MonitorState, StoredMonitorEntry};
use crate::store::{Store, StoreError};
use crate::timestamp::Timestamp;

/// The monitor's entries that the settings show.
#[derive(Clone, Debug, Default)]
pub struct VisibleChanges {
    /// The entries, the highest position first, without those of deleted collections.
    changes: Vec<Arc<MonitorEntry>>,
    /// The highest position of what is shown, including collections deleted since: it never goes back.
    pub timestamp: Timestamp,
    /// The monitor's clock as of this state.
    clock: Timestamp,
}

impl VisibleChanges {
    /// These changes with later entries, in the order of their positions, as they are in `state`.
    ///
    /// An entry beyond the clock was written by a function of an earlier version and has yet to get a position: it is
    /// shown, but nobody goes on from there.
    fn with(
        &self,
        entries: Vec<StoredMonitorEntry>,
        state: &MonitorState,
        settings: &ChangesSettings,
    ) -> Self {
        let is_shown =
            |change: &CollectionChange| settings.shows(&change.bucket, &change.collection);
        let later = entries.into_iter();
        let later = later.filter(|entry| entry.position > self.clock && is_shown(&entry.change));
        let later: Vec<_> = later.collect();
        let changed: HashSet<_> = later
            .iter()
            .map(|entry| (entry.change.bucket.clone(), entry.change.collection.clone()))
            .collect();
        let recorded = state
            .latest()
            .iter()
            .filter(|entry| is_shown(&entry.change));
        let positions = later.iter().chain(recorded).map(|entry| entry.position);
        let last = positions.filter(|position| !state.has_clock() || *position <= state.clock());
        let timestamp = self.timestamp.max(last.max().unwrap_or_default());
        let live = later
            .into_iter()
            .rev()
            .filter(|entry| !entry.change.deleted);
        let live = live.map(|StoredMonitorEntry { position, change }| {
            Arc::new(MonitorEntry::of(position, change, &settings.http_host))
        });
        let unchanged = self.changes.iter().filter(|change| {
            changed.is_empty()
                || !changed.contains(&(change.bucket.clone(), change.collection.clone()))
        });
        Self {
            changes: live.chain(unchanged.cloned()).collect(),
            timestamp,
            clock: state.clock(),
        }
    }

    /// The changes between these positions, both exclusive.
    pub fn between(
        &self,
        since: Option<Timestamp>,
        before: Option<Timestamp>,
    ) -> impl Iterator<Item = &MonitorEntry> {
        let later = move |position| since.is_none_or(|since| since < position);
        let earlier = move |position| before.is_none_or(|before| position < before);
        let changes = self.changes.iter().map(|change| &**change);
        changes.filter(move |change| later(change.position) && earlier(change.position))
    }
}

/// The visible changes as they were last read ([decision 9](../../../../docs/decisions/009-monitor-memory.md)). About
/// 250 bytes an entry.
#[derive(Debug, Default)]
pub struct MonitorCache(Mutex<Option<Arc<VisibleChanges>>>);

impl MonitorCache {
    /// The visible changes as of `state`, which was read for this request, or later; with `since`, possibly only those
    /// after it.
    ///
    /// No request if the entries up to the state's floor are cached, or `since` is not before the floor; else one
    /// `Query` for the missing entries. If nothing is cached and no entry from `since` on is shown, a second one for
    /// the highest position.
    pub async fn read(
        &self,
        store: &Store,
        settings: &ChangesSettings,
        state: MonitorState,
        since: Option<Timestamp>,
    ) -> Result<Arc<VisibleChanges>, StoreError> {
        let nothing = || Arc::new(VisibleChanges::default());
        let kept = self.lock().clone();
        let is_settled = |state: &MonitorState| state.is_settled(Timestamp::now());
        let kept = kept.filter(|_| is_settled(&state));
        if let Some(kept) = kept.clone().filter(|kept| state.clock() <= kept.clock) {
            return Ok(kept);
        }
        // Until anything is folded, the state has all entries.
        let is_complete = is_settled(&state) && state.floor() == Timestamp(0);
        if kept.is_none()
            && !is_complete
            && let Some(since) = since
        {
            let (state, entries) = read(store, state.clone(), since).await?;
            let shown = VisibleChanges::default().with(entries, &state, settings);
            if shown.timestamp > Timestamp(0) {
                return Ok(Arc::new(shown));
            }
        }
        let known = kept.unwrap_or_else(nothing);
        let (state, entries) = read(store, state, known.clock).await?;
        let shown = Arc::new(known.with(entries, &state, settings));
        if is_settled(&state) {
            *self.lock() = Some(Arc::clone(&shown));
        }
        Ok(shown)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<VisibleChanges>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entries from the position `from` on, in order, and the state that they belong to.
async fn read(
    store: &Store,
    state: MonitorState,
    from: Timestamp,
) -> Result<(MonitorState, Vec<StoredMonitorEntry>), StoreError> {
    if state.is_settled(Timestamp::now()) && state.floor() <= from {
        let latest = state.latest().to_vec();
        return Ok((state, latest));
    }
    store.monitor_entries(state, from).await
}
