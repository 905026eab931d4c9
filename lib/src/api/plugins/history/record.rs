//! An entry for each write of an object in a bucket, in the transaction of the write.

use std::collections::{BTreeSet, HashMap};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use serde_json::{Map, json};

use super::{names, readers, trim};
use crate::api::Api;
use crate::api::web::error::ApiError;
use crate::event::{Action, ResourceChanged};
use crate::permission::Permissions;
use crate::resource::{Kind, ObjectUri};
use crate::settings::HistorySettings;
use crate::store::history::{Entry, EntryContent};
use crate::store::{Generation, Key};
use crate::timestamp::Timestamp;
use crate::unit_of_work::UnitOfWork;

/// How far ahead of now, in milliseconds, an entry has the time that its list gave to the write: beyond that the list goes
/// ahead of the clock, for a client gave it a time to come.
const MAX_AHEAD: u64 = 10_000;

/// One write that an entry is made of.
struct RecordedWrite<'e> {
    uri: ObjectUri,
    event: &'e ResourceChanged,
    /// What it came to, with its id and time.
    data: &'e Map<String, serde_json::Value>,
    last_modified: Timestamp,
}

/// Writes the entries of what was written, and deletes those that are too many.
///
/// # Errors
/// 413 for an object that an entry cannot hold.
pub async fn on_write(
    api: &Api,
    unit: &mut UnitOfWork,
    events: &[ResourceChanged],
) -> Result<(), ApiError> {
    let Some(settings) = &api.settings.api.history else {
        return Ok(());
    };
    let written = recorded_writes(events, settings);
    // What was at each URI before, which is what the request itself has written where it writes twice.
    let mut before: HashMap<&ObjectUri, Timestamp> = HashMap::new();
    let mut made = vec![];
    for (n, written) in (0..).zip(&written) {
        let uri = &written.uri;
        let Some(bucket) = unit.get(uri.bucket_uri()) else {
            continue;
        };
        let generation = bucket.generation().clone();
        let now = unit.now();
        let is_near = (now.0..now.0 + MAX_AHEAD).contains(&written.last_modified.0);
        let time = match is_near {
            true => written.last_modified,
            false => Timestamp(now.0 + n),
        };
        let read = || unit.as_read(uri).map(|object| object.last_modified);
        let replaces = before.get(uri).copied().or_else(read);
        before.insert(uri, written.last_modified);
        let live = unit.get(uri);
        let permissions = live
            .map(|live| live.permissions.clone())
            .unwrap_or_default();
        let lineage = uri.lineage().filter_map(|uri| unit.get(uri));
        let mut may_read: BTreeSet<&String> =
            lineage.flat_map(|o| readers(o.permissions)).collect();
        if !api.settings.api.explicit_permissions {
            // Then who reads the bucket reads its history, and nobody else (Kinto 26.5).
            may_read.clear();
        }
        let content = EntryContent {
            shown: shown(written, &permissions, now),
            readers: may_read.into_iter().cloned().collect(),
            replaces,
        };
        let entry = Entry::new(&generation, uri, time, written.last_modified, &content);
        let entry = entry.ok_or(ApiError::TooLarge)?;
        note_readers(unit, uri, &generation, &content.readers);
        unit.add_entry(uri, entry);
        made.push(trim::NewEntry {
            bucket: uri.bucket_uri().clone(),
            resource_name: written.event.resource_name.clone(),
            user_id: written.event.user_id.clone(),
        });
    }
    trim::trim(settings, unit, &api.store, &made).await
}

/// The writes that are told of, in their order.
fn recorded_writes<'e>(
    events: &'e [ResourceChanged],
    settings: &HistorySettings,
) -> Vec<RecordedWrite<'e>> {
    let is_excluded = |event: &&ResourceChanged| {
        let mut user_id = event.user_id.iter();
        user_id.any(|id| settings.exclude_user_ids.contains(id))
    };
    let events = events.iter().filter(|event| !is_excluded(event));
    let written = events.flat_map(|event| {
        let impacted = event.impacted_records.iter().zip(&event.impacted_uris);
        impacted.filter_map(move |(impacted, uri)| {
            let last_modified = impacted.new.get("last_modified")?.as_u64()?;
            Some(RecordedWrite {
                uri: ObjectUri::parse(uri)?,
                event,
                data: &impacted.new,
                last_modified: Timestamp(last_modified),
            })
        })
    });
    let is_kept = |written: &RecordedWrite<'_>| match written.uri.kind() {
        Kind::Account => false,
        // The history goes with it.
        Kind::Bucket if written.event.action == Action::Delete => false,
        _ => !settings.excludes(&written.uri),
    };
    let mut written: Vec<_> = written.filter(is_kept).collect();
    // Of one list in the order of their times; events are grouped by what was done.
    written.sort_by_key(|written| written.last_modified);
    written
}

/// The fields of an entry that the API shows.
fn shown(
    written: &RecordedWrite<'_>,
    permissions: &Permissions,
    now: Timestamp,
) -> Map<String, serde_json::Value> {
    let event = written.event;
    let mut shown = names(&written.uri);
    let more = json!({
        "uri": written.uri.to_string(),
        "action": event.action,
        "user_id": event.user_id,
        "date": date(now),
        "target": {"data": written.data, "permissions": permissions},
    });
    if let serde_json::Value::Object(more) = more {
        shown.extend(more);
    }
    shown
}

/// Notes who may read an entry and not all of the history, so that nobody else has it read; and who could read all so far, where
/// the bucket's permissions change.
fn note_readers(
    unit: &mut UnitOfWork,
    uri: &ObjectUri,
    generation: &Generation,
    may_read: &[String],
) {
    let bucket = uri.bucket_uri();
    let Some(live) = unit.get(bucket) else {
        return;
    };
    let of_all: BTreeSet<&String> = readers(live.permissions).collect();
    let of_this = may_read.iter();
    let before = unit.as_read(bucket).filter(|_| uri == bucket);
    let before = before.and_then(|before| before.permissions());
    let before = before.into_iter().flat_map(readers);
    let noted = of_this.chain(before).filter(|p| !of_all.contains(p));
    let noted: BTreeSet<&str> = noted.map(String::as_str).collect();
    for key in Key::history_readers(bucket, generation, &noted) {
        unit.add_marker(key);
    }
}

/// A time as Kinto writes the dates of entries: ISO 8601 with microseconds, UTC.
fn date(time: Timestamp) -> String {
    let seconds = i64::try_from(time.0 / 1000).unwrap_or_default();
    let second = DateTime::from_secs(seconds).fmt(Format::DateTime);
    let second = second.unwrap_or_default();
    format!(
        "{}.{:03}000+00:00",
        second.trim_end_matches('Z'),
        time.0 % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_has_microseconds_and_an_offset() {
        let told = date(Timestamp(1_700_000_000_023));
        assert_eq!(told, "2023-11-14T22:13:20.023000+00:00");
    }
}
