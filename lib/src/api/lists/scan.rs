//! Reading a list as a whole or in part, object by object, in a state that its last transactions have reached.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::api::lists::query::ListQuery;
use crate::api::web::error::ApiError;
use crate::resource::ListUri;
use crate::store::list::{ListRead, ListedObject};
use crate::store::recent::{COMMIT_PAUSES, ReadRange, RecentWrites};
use crate::store::{Content, Generation, Key, List, Store, StoreError};
use crate::timestamp::Timestamp;
use crate::unit_of_work::UnitOfWork;

/// Readings of a list, repeated until one shows all that the list's last transactions wrote: they may be committed item
/// by item ([decision 17](../../../../docs/decisions/017-reading-what-is-being-committed.md)).
pub(super) struct Readings<'l> {
    list: &'l ListUri,
    /// The writes of those transactions.
    pub(super) recent: RecentWrites,
    pauses: std::array::IntoIter<u64, { COMMIT_PAUSES.len() }>,
}

impl<'l> Readings<'l> {
    pub(super) fn of(unit: &UnitOfWork, list: &'l ListUri) -> Self {
        Self {
            list,
            recent: unit.recent_writes(list),
            pauses: COMMIT_PAUSES.into_iter(),
        }
    }

    /// Returns `true` to read again since a reading did not show all, after a pause and one more `BatchGetItem`.
    pub(super) async fn go_on<T>(
        &mut self,
        unit: &UnitOfWork,
        store: &Store,
        read: &Result<T, ApiError>,
    ) -> Result<bool, ApiError> {
        let is_unsettled = matches!(read, Err(ApiError::Store(StoreError::Unsettled(_))));
        let Some(pause) = is_unsettled.then(|| self.pauses.next()).flatten() else {
            return Ok(false);
        };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let key = Key::list(self.list);
        let item = store.read(std::slice::from_ref(&key)).await?.remove(&key);
        let list = item.as_ref().map(List::from_item).transpose()?;
        let generation = unit.generation_of(self.list);
        // The writes of another generation never show here.
        self.recent = list
            .filter(|list| generation.is_some_and(|generation| generation.owns(&list.generation)))
            .map_or_else(RecentWrites::default, |list| list.recent);
        Ok(true)
    }
}

/// The objects of a list within the bounds of a query.
pub(super) fn reading<'l>(
    list: &'l ListUri,
    generation: &'l Generation,
    query: &ListQuery,
) -> ListRead<'l> {
    let bounds = query.bounds();
    ListRead {
        list,
        generation,
        since: bounds.since,
        before: bounds.before,
        tombstones: query.includes_tombstones(),
        limit_hint: None,
    }
}

/// Calls `see` for each object of a list within the bounds of a query, the latest first, then for the objects that the
/// unit has written; for none when the parent does not exist.
///
/// Reads a page at a time until `see` stops it, or everything where the unit has written to the list. Returns `true` if
/// `see` stopped it.
///
/// # Errors
/// The request may not read that much.
pub(super) async fn scan(
    unit: &UnitOfWork,
    store: &Store,
    list: &ListUri,
    query: &ListQuery,
    limit_hint: Option<usize>,
    see: impl FnMut(&ListedObject) -> Result<ControlFlow<()>, StoreError>,
) -> Result<bool, ApiError> {
    scan_settled(
        unit,
        store,
        list,
        query,
        limit_hint,
        &RecentWrites::default(),
        see,
    )
    .await
}

/// Like [`scan`], for a list whose last transactions are known.
///
/// # Errors
/// [`StoreError::Unsettled`] too, if some of what these wrote was missing; `see` has been called with the rest.
pub(super) async fn scan_settled(
    unit: &UnitOfWork,
    store: &Store,
    list: &ListUri,
    query: &ListQuery,
    limit_hint: Option<usize>,
    recent: &RecentWrites,
    mut see: impl FnMut(&ListedObject) -> Result<ControlFlow<()>, StoreError>,
) -> Result<bool, ApiError> {
    let Some(generation) = &unit.generation_of(list) else {
        return Ok(false);
    };
    // The request's own writes may replace any of them.
    let written: HashMap<_, _> = unit.written_in(list).collect();
    let reading = ListRead {
        limit_hint: limit_hint.filter(|_| written.is_empty()),
        ..reading(list, generation, query)
    };
    let mut pages = store.list(&reading);
    let (mut stopped_at, mut seen) = (None, vec![]);
    'pages: while let Some(page) = pages.next().await? {
        unit.allowance.read(page.bytes)?;
        for object in &page.objects {
            if recent.names(&object.id) {
                seen.push((object.id.clone(), object.last_modified));
            }
            if !written.contains_key(&*object.id) && see(object)?.is_break() && written.is_empty() {
                stopped_at = Some(object.last_modified);
                break 'pages;
            }
        }
    }
    let (first, last) = reading.times();
    let covered = ReadRange {
        // Other objects may have the time of the one where it stopped.
        times: stopped_at.map_or(first, Timestamp::next)..=last,
        tombstones: reading.tombstones,
    };
    let seen = seen.iter().map(|(id, time)| (id.as_str(), *time));
    if !recent.is_seen(&covered, Timestamp::now(), seen) {
        return Err(StoreError::Unsettled(list.clone()).into());
    }
    if stopped_at.is_some() {
        return Ok(true);
    }
    for (id, object) in written {
        let is_wanted = reading.tombstones || object.content != Content::Deleted;
        if generation.owns(&object.parent) && is_wanted {
            let key = Key::object(&list.clone().object(id));
            _ = see(&ListedObject::of(key, object))?;
        }
    }
    Ok(false)
}

/// Waits until all that the list's last transactions wrote is there.
///
/// One `Query` of what was written since the first of them, if they may be unfinished.
///
/// # Errors
/// [`StoreError::Unsettled`] if that takes too long.
pub(super) async fn settle(
    unit: &UnitOfWork,
    store: &Store,
    list: &ListUri,
    generation: &Generation,
) -> Result<(), ApiError> {
    let mut readings = Readings::of(unit, list);
    while let Some(earliest) = readings.recent.earliest(Timestamp::now()) {
        let mut pages = store.list(&ListRead {
            list,
            generation,
            since: earliest.0.checked_sub(1).map(Timestamp),
            before: None,
            tombstones: true,
            limit_hint: None,
        });
        let mut seen = vec![];
        while let Some(page) = pages.next().await? {
            unit.allowance.read(page.bytes)?;
            let objects = page.objects.into_iter();
            let named = objects.filter(|object| readings.recent.names(&object.id));
            seen.extend(named.map(|object| (object.id, object.last_modified)));
        }
        let covered = ReadRange {
            times: earliest..=Timestamp(u64::MAX),
            tombstones: true,
        };
        let seen = seen.iter().map(|(id, time)| (id.as_str(), *time));
        if readings.recent.is_seen(&covered, Timestamp::now(), seen) {
            return Ok(());
        }
        let unsettled = Err::<(), _>(StoreError::Unsettled(list.clone()).into());
        if !readings.go_on(unit, store, &unsettled).await? {
            return unsettled;
        }
    }
    Ok(())
}
