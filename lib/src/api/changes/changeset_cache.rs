//! The cache of collections' records in this process, which spares reading again what did not change.
//!
//! Why a cached state is still true is the subject of
//! [decision 11](../../../../docs/decisions/011-changeset-memory.md).

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::resource::ListUri;
use crate::store::Generation;
use crate::store::changeset::{ChangedObject, Changes};
use crate::timestamp::Timestamp;

/// The most bytes of all cached states: an eighth of the function's memory.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// The bytes that a state, or a record, takes besides its texts, approximately.
const OVERHEAD: usize = 128;

/// The states of lists that were used last. Shared by all requests of the process.
#[derive(Debug)]
pub struct ChangesetCache {
    max_bytes: usize,
    kept: Mutex<CacheState>,
}

#[derive(Debug, Default)]
struct CacheState {
    /// The states, each with the value of `now` at its last use.
    states: HashMap<ListUri, (u64, Arc<Snapshot>)>,
    bytes: usize,
    /// The number of uses so far, as a clock.
    now: u64,
}

/// The records of a list at one moment: all, or only those that were asked for.
#[derive(Debug)]
pub struct Snapshot {
    /// The generation of the collection.
    pub generation: Generation,
    /// The timestamp of the list.
    pub timestamp: Timestamp,
    /// The number of transactions that had written backdated records of the list before it was read.
    pub backdated_writes: u64,
    /// The records, the latest first, tombstones included.
    records: Vec<Arc<Record>>,
    /// The approximate size in bytes.
    bytes: usize,
}

/// A record, or its tombstone, as a changeset shows it.
#[derive(Debug)]
pub struct Record {
    id: String,
    last_modified: Timestamp,
    is_deleted: bool,
    /// The JSON.
    pub json: String,
}

impl Default for ChangesetCache {
    fn default() -> Self {
        Self::new(MAX_BYTES)
    }
}

impl ChangesetCache {
    fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            kept: Mutex::default(),
        }
    }

    /// The cached state of a list.
    pub fn get(&self, list: &ListUri) -> Option<Arc<Snapshot>> {
        let mut kept = self.lock();
        kept.now += 1;
        let now = kept.now;
        let (asked_for, state) = kept.states.get_mut(list)?;
        *asked_for = now;
        Some(Arc::clone(state))
    }

    /// Caches a complete state of a list, unless it is too large, and evicts the least recently used states.
    pub fn keep(&self, list: &ListUri, state: Arc<Snapshot>) {
        let mut kept = self.lock();
        kept.forget(list);
        if state.bytes > self.max_bytes {
            return;
        }
        while kept.bytes + state.bytes > self.max_bytes {
            let asked_for = |(_, (asked_for, _)): &(_, &(u64, _))| *asked_for;
            let Some((oldest, _)) = kept.states.iter().min_by_key(asked_for) else {
                break;
            };
            let oldest = oldest.clone();
            kept.forget(&oldest);
        }
        kept.bytes += state.bytes;
        kept.now += 1;
        let now = kept.now;
        kept.states.insert(list.clone(), (now, state));
    }

    fn lock(&self) -> MutexGuard<'_, CacheState> {
        // Nothing that is done under this lock fails halfway.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CacheState {
    fn forget(&mut self, list: &ListUri) {
        if let Some((_, state)) = self.states.remove(list) {
            self.bytes -= state.bytes;
        }
    }
}

impl Snapshot {
    /// The state that was read of a list in `generation`, after `backdated_writes` transactions had written backdated records.
    pub fn of(changes: &Changes, generation: Generation, backdated_writes: u64) -> Self {
        let shown = changes.shown();
        let records = shown.into_iter().map(Record::of).map(Arc::new);
        Self::new(
            generation,
            changes.timestamp(),
            backdated_writes,
            records.collect(),
        )
    }

    /// The state after `changes`, none of which may be backdated.
    pub fn advanced(&self, changes: &Changes) -> Self {
        let shown = changes.shown();
        let moved: HashSet<_> = shown.iter().map(|change| &*change.id).collect();
        let others = self
            .records
            .iter()
            .filter(|record| !moved.contains(&*record.id));
        let records = shown.iter().map(|change| Arc::new(Record::of(change)));
        let records = records.chain(others.cloned()).collect();
        Self::new(
            self.generation.clone(),
            changes.timestamp(),
            self.backdated_writes,
            records,
        )
    }

    fn new(
        generation: Generation,
        timestamp: Timestamp,
        backdated_writes: u64,
        records: Vec<Arc<Record>>,
    ) -> Self {
        let size = |record: &Arc<Record>| OVERHEAD + record.id.len() + record.json.len();
        Self {
            generation,
            timestamp,
            backdated_writes,
            bytes: OVERHEAD + records.iter().map(size).sum::<usize>(),
            records,
        }
    }

    /// The records later than `since`, tombstones included, or all live ones when it is `None`; at most `limit`, the
    /// latest first.
    pub fn shown(&self, since: Option<Timestamp>, limit: Option<usize>) -> Vec<&Record> {
        let records = self.records.iter().map(|record| &**record);
        let later = records.take_while(|record| since.is_none_or(|at| record.last_modified > at));
        later
            .filter(|record| since.is_some() || !record.is_deleted)
            .take(limit.unwrap_or(usize::MAX))
            .collect()
    }
}

impl Record {
    /// A record as its list shows it: its stored text is copied as it is.
    fn of(change: &ChangedObject) -> Self {
        let data = change.data.as_deref();
        let length = change.id.len() + data.map_or(0, str::len);
        let mut json = String::with_capacity(length + 64);
        // An id has no character that JSON would escape. Writing to a string cannot fail.
        let _ = write!(
            json,
            "{{\"id\":\"{}\",\"last_modified\":{}",
            change.id, change.last_modified
        );
        match data.map(|data| data.strip_prefix('{')) {
            None => json.push_str(",\"deleted\":true}"),
            Some(None | Some("}")) => json.push('}'),
            Some(Some(fields)) => {
                json.push(',');
                json.push_str(fields);
            }
        }
        Self {
            id: change.id.clone(),
            last_modified: change.last_modified,
            is_deleted: data.is_none(),
            json,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Kind, ObjectUri};

    fn list(id: &str) -> ListUri {
        ObjectUri::collection("main", id).children(Kind::Record)
    }

    /// A state that takes slightly more than `bytes` bytes.
    fn state(bytes: usize) -> Arc<Snapshot> {
        let record = Record {
            id: "r".to_owned(),
            last_modified: Timestamp(1),
            is_deleted: false,
            json: " ".repeat(bytes),
        };
        let records = vec![Arc::new(record)];
        Arc::new(Snapshot::new(Generation::ROOT, Timestamp(1), 0, records))
    }

    fn kept(memory: &ChangesetCache) -> String {
        let ids = ["a", "b", "c", "d"];
        let known = ids
            .into_iter()
            .filter(|id| memory.lock().states.contains_key(&list(id)));
        known.collect()
    }

    #[test]
    fn what_was_not_asked_for_the_longest_is_forgotten_first() {
        let memory = ChangesetCache::new(10_000);
        for id in ["a", "b", "c"] {
            memory.keep(&list(id), state(3_000));
            assert!(memory.get(&list(id)).is_some());
        }
        assert_eq!(kept(&memory), "abc");
        memory.get(&list("a"));
        memory.keep(&list("d"), state(3_000));
        assert_eq!(kept(&memory), "acd");
        memory.keep(&list("c"), state(6_000));
        assert_eq!(kept(&memory), "cd");
        assert!(memory.lock().bytes <= 10_000);
    }

    #[test]
    fn what_alone_is_too_large_is_not_kept_and_takes_nothings_place_but_its_own() {
        let memory = ChangesetCache::new(10_000);
        memory.keep(&list("a"), state(3_000));
        memory.keep(&list("b"), state(3_000));
        memory.keep(&list("b"), state(10_000));
        assert_eq!(kept(&memory), "a");
        memory.keep(&list("a"), state(10_000));
        assert_eq!((kept(&memory), memory.lock().bytes), (String::new(), 0));
    }
}
