//! `purge-deleted`: keeps the latest tombstones of each list and removes the others (Kinto 26.5, `kinto purge-deleted`).
//!
//! A tombstone is removed a while after it was found. A request that could not write because of it, or looks for it since a list names it, has
//! ended by then ([decision 28](../../../docs/decisions/028-sweeping.md)).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use kinto_serverless::resource::{Kind, ListUri};
use kinto_serverless::store::raise::ObjectTime;
use kinto_serverless::store::{Store, StoreError};
use kinto_serverless::timestamp::Timestamp;
use tokio::time::Instant;

use super::Lists;
use super::pace::Pace;

/// How long a tombstone is left where others use the table: a request takes 29 seconds at most, a transaction that nobody waits for
/// some seconds, and a list's names count for 60.
pub const WAIT: Duration = Duration::from_secs(90);
/// Removals under way at once.
const CONCURRENCY: usize = 16;
/// The most tombstones that wait.
const MAX_WAITING: usize = 100_000;
/// The write capacity units of a removal: of the item, and in the index.
const UNITS: u64 = 2;

/// The options of a purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The kinds of which.
    pub kinds: Vec<Kind>,
    /// How many tombstones each list keeps, the latest.
    pub max_retained: u64,
    /// Whether they are only counted.
    pub dry_run: bool,
    /// How long a tombstone is left after it was found; [`WAIT`] at least in a list that was just written to.
    pub wait: Duration,
    /// Write capacity units a second at most.
    pub capacity: Option<u64>,
}

/// Purges. Gives how many tombstones of each kind were removed, or would be.
///
/// # Errors
/// Failures of the table. To be called again: what was removed is gone, the rest is found again.
pub async fn purge(
    store: &Store,
    options: &Options,
) -> Result<BTreeMap<&'static str, u64>, StoreError> {
    let mut purged: BTreeMap<_, _> = options.kinds.iter().map(|kind| (kind.name(), 0)).collect();
    let mut waiting = Waiting {
        store,
        found: VecDeque::new(),
        pace: Pace::new(options.capacity),
    };
    let mut lists = Lists::of(store);
    while let Some((list, generation)) = lists.next().await? {
        let Some(count) = purged.get_mut(list.kind().name()) else {
            continue;
        };
        // The tombstones of a publication come to their places.
        let stored = store.stored_lists(std::slice::from_ref(&list)).await?;
        let stored = stored.get(&list).map(|stored| &stored.list);
        let layer = stored.and_then(|list| list.published.layer.as_ref());
        if let (Some(layer), false) = (layer, options.dry_run) {
            store.settle_layer(&list, layer).await?;
        }
        let is_just_written =
            stored.is_some_and(|list| list.recent.earliest(Timestamp::now()).is_some());
        let wait = if is_just_written { WAIT } else { options.wait };
        let mut left = options.max_retained;
        let mut times = store.times(&list, &generation, Timestamp(0), true);
        while let Some(page) = times.next().await? {
            for tombstone in page.into_iter().filter(|object| object.is_deleted) {
                if left > 0 {
                    left -= 1;
                    continue;
                }
                *count += 1;
                if !options.dry_run {
                    waiting.add(&list, tombstone, wait).await?;
                }
            }
            waiting.remove_due().await?;
        }
    }
    waiting.end().await?;
    Ok(purged)
}

/// Tombstones that were found and are still there, each with when it may go.
struct Waiting<'s> {
    store: &'s Store,
    found: VecDeque<(Instant, ListUri, ObjectTime)>,
    pace: Pace,
}

impl Waiting<'_> {
    async fn add(
        &mut self,
        list: &ListUri,
        tombstone: ObjectTime,
        wait: Duration,
    ) -> Result<(), StoreError> {
        if self.found.len() >= MAX_WAITING {
            self.wait_for_the_first().await?;
        }
        let due = Instant::now() + wait;
        self.found.push_back((due, list.clone(), tombstone));
        Ok(())
    }

    async fn wait_for_the_first(&mut self) -> Result<(), StoreError> {
        if let Some((due, ..)) = self.found.front() {
            tokio::time::sleep_until(*due).await;
        }
        self.remove_due().await
    }

    /// Removes those that may go, as far as none before them may not yet.
    async fn remove_due(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        let due = self
            .found
            .iter()
            .take_while(|(due, ..)| *due <= now)
            .count();
        let mut due: Vec<_> = self.found.drain(..due).collect();
        while !due.is_empty() {
            let part = due.split_off(due.len().saturating_sub(CONCURRENCY));
            self.pace.spend(UNITS * part.len() as u64).await;
            let removals = part.into_iter();
            let removals = removals.map(|(_, list, it)| {
                let store = self.store.clone();
                async move { store.remove_tombstone(&list, it).await }
            });
            let removals = stream::iter(removals).buffer_unordered(CONCURRENCY);
            removals.try_collect::<()>().await?;
        }
        Ok(())
    }

    /// Waits for all of them.
    async fn end(mut self) -> Result<(), StoreError> {
        while !self.found.is_empty() {
            self.wait_for_the_first().await?;
        }
        Ok(())
    }
}
