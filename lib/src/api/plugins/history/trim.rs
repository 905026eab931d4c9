//! How much of a history is kept: `history.auto_trim_max_count`.

use std::collections::BTreeSet;

use crate::api::web::error::ApiError;
use crate::resource::ObjectUri;
use crate::settings::HistorySettings;
use crate::store::Store;
use crate::store::history::{HistoryRead, RawEntry, Removal};
use crate::timestamp::Timestamp;
use crate::unit_of_work::UnitOfWork;

/// Bytes of a history that are read to trim it: of one that is to keep more, nothing goes.
const MAX_READ: usize = 64 * 1024 * 1024;
/// Entries that are deleted at once; the next time it goes on.
const MAX_REMOVED: usize = 1_000;

/// An entry that is being written.
#[derive(Debug)]
pub struct NewEntry {
    /// In the history of this bucket.
    pub bucket: ObjectUri,
    /// The kind of its object.
    pub resource_name: String,
    /// Whose write it tells of.
    pub user_id: Option<String>,
}

/// The entries that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TrimGroup<'m> {
    bucket: &'m ObjectUri,
    resource_name: &'m str,
    /// Of this user alone.
    user_id: Option<&'m str>,
}

/// Deletes the oldest entries, behind all else that the unit writes, where these make too many: more than `max_count` and
/// `threshold`.
///
/// No item counts them, which every writer of the bucket would have to write. One write in so many as the threshold allows reads the
/// history and counts; with a threshold of 0 each does.
///
/// # Errors
/// Failures of the table.
pub async fn trim(
    settings: &HistorySettings,
    unit: &mut UnitOfWork,
    store: &Store,
    made: &[NewEntry],
) -> Result<(), ApiError> {
    let Some(trim) = &settings.trim else {
        return Ok(());
    };
    let users = &settings.trim_user_ids;
    let counted = made.iter().filter_map(|made| {
        let user_id = made.user_id.as_deref();
        let is_theirs = user_id.is_some_and(|id| users.iter().any(|user| user == id));
        (users.is_empty() || is_theirs).then_some(TrimGroup {
            bucket: &made.bucket,
            resource_name: &made.resource_name,
            user_id: user_id.filter(|_| !users.is_empty()),
        })
    });
    let is_looked_at = |_: &TrimGroup<'_>| fastrand::usize(0..=trim.threshold) == 0;
    let counted: BTreeSet<_> = counted.filter(is_looked_at).collect();
    for counted in counted {
        let is_counted = |made: &&NewEntry| {
            made.bucket == *counted.bucket
                && made.resource_name == counted.resource_name
                && counted
                    .user_id
                    .is_none_or(|id| made.user_id.as_deref() == Some(id))
        };
        let new = made.iter().filter(is_counted).count();
        let Some(there) = entries(unit, store, &counted).await? else {
            tracing::warn!(bucket = %counted.bucket, "the history is too long to be trimmed");
            continue;
        };
        if there.len() + new <= trim.max_count.saturating_add(trim.threshold) {
            continue;
        }
        let kept = trim.max_count.saturating_sub(new);
        // The oldest first.
        let gone = there.iter().skip(kept).rev().take(MAX_REMOVED);
        let now = unit.now();
        let gone = (0..).zip(gone);
        let removals: Vec<_> = gone
            .map(|(n, entry)| Removal::of(entry, Timestamp(now.0 + n)))
            .collect();
        unit.trim_entries(removals);
    }
    Ok(())
}

/// The entries that are there, the latest first; `None` where they are too many to be read.
async fn entries(
    unit: &UnitOfWork,
    store: &Store,
    counted: &TrimGroup<'_>,
) -> Result<Option<Vec<RawEntry>>, ApiError> {
    let Some(bucket) = unit.get(counted.bucket) else {
        return Ok(None);
    };
    let mut entries = store.history(HistoryRead::all(bucket.generation()));
    let (mut found, mut bytes) = (vec![], 0);
    while let Some(entry) = entries.next().await? {
        bytes += entries.take_bytes();
        if bytes > MAX_READ {
            return Ok(None);
        }
        if entry.is_deleted {
            continue;
        }
        let shown = entry.content()?.shown;
        let is_of_user = counted
            .user_id
            .is_none_or(|id| shown.get("user_id") == Some(&id.into()));
        if is_of_user && shown.get("resource_name") == Some(&counted.resource_name.into()) {
            found.push(entry.without_content());
        }
    }
    Ok(Some(found))
}
