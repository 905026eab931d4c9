//! `GET` and `HEAD` of `/buckets/{bucket_id}/snapshot/collections/{collection_id}@{timestamp}`: the records of a collection
//! as they were at a moment (Kinto 26.5).
//!
//! Records that were not written since are as they are. Of each of the others an entry tells what its first write since
//! then replaced, whose own entry is found by its key: so it costs what the list costs, what was written since, and an item
//! for each record that changed. Only where such an entry is missing is the history before that moment read.

use std::collections::{BTreeMap, HashMap, HashSet};

use http::StatusCode;
use serde_json::Value;

use super::{is_granted, readers};
use crate::api::dispatch::context::Context;
use crate::api::dispatch::target::Target;
use crate::api::lists::selection::MAX_PAGE;
use crate::api::objects::metadata;
use crate::api::web::error::{ApiError, Location};
use crate::api::web::media_type;
use crate::api::web::response::Response;
use crate::permission::Access;
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::store::history::{Entries, EntryContent, HistoryRead, RawEntry};
use crate::store::{Generation, Key, Store, list};
use crate::timestamp::Timestamp;
use crate::unit_of_work::UnitOfWork;

/// Records that were written since the moment, at most.
const MAX_CHANGED: usize = 50_000;

/// Answers a request for a snapshot.
///
/// # Errors
/// Whatever the request is to be refused for; 413 where there is more than is read or answered at once.
pub async fn handle(cx: &mut Context<'_>) -> Result<Response, ApiError> {
    let settings = cx.settings();
    let (Some(history), Target::Within(collection)) = (&settings.history, cx.target) else {
        return Err(ApiError::UnknownPath);
    };
    media_type::check(cx.request)?;
    let text = cx
        .request
        .path
        .rsplit_once('@')
        .map_or("", |(_, text)| text);
    let moment = moment(text).ok_or_else(|| {
        ApiError::invalid(
            Location::Path,
            "timestamp",
            "Must be a time in milliseconds",
        )
    })?;
    let bucket = collection.bucket_uri();
    let invalid = [bucket, collection]
        .into_iter()
        .find(|uri| !uri.has_valid_id());
    if let Some(invalid) = invalid {
        return Err(ApiError::unknown_parent(invalid));
    }
    let (unit, store, principals) = (&mut *cx.unit, &cx.api.store, &cx.user.principals);
    // Who may read single records of it alone may not read it as it was.
    let live = [bucket, collection].map(|uri| unit.get(uri));
    let mut may_read = live
        .iter()
        .flatten()
        .flat_map(|live| readers(live.permissions));
    if !may_read.any(|reader| principals.contains(reader))
        && !is_granted(history, Access::Read, principals)
    {
        return Err(cx.user.forbidden());
    }
    let generation = |uri| unit.get(uri).map(|live| live.generation().clone());
    let (Some(of_bucket), Some(of_collection)) = (generation(bucket), generation(collection))
    else {
        return Ok(Response::json_text(
            StatusCode::OK,
            r#"{"data":[]}"#.to_owned(),
        ));
    };
    let mut snapshot = Snapshot {
        unit,
        store,
        bucket: &of_bucket,
        records: &collection.children(Kind::Record),
        moment,
        found: ShownRecords::default(),
    };
    let changed = snapshot.read_records(&of_collection).await?;
    let missing = snapshot.read_replaced(changed).await?;
    snapshot.read_before(missing).await?;
    let data = snapshot.found.into_json();
    Ok(Response::json_text(
        StatusCode::OK,
        format!("{{\"data\":[{data}]}}"),
    ))
}

/// The time that a path names: digits, as Kinto's `int` reads them.
fn moment(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let digits = text.strip_prefix('+').unwrap_or(text);
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let time = is_whole.then(|| digits.parse().map_or(Timestamp::MAX, Timestamp));
    time.map(|time| time.min(Timestamp::MAX))
}

/// The records that are shown, as JSON.
#[derive(Default)]
struct ShownRecords {
    records: Vec<(Timestamp, String)>,
    bytes: usize,
}

impl ShownRecords {
    /// Takes one in.
    ///
    /// # Errors
    /// There are more than one answer holds.
    fn add(&mut self, last_modified: Timestamp, text: String) -> Result<(), ApiError> {
        self.bytes += text.len() + ",".len();
        if self.bytes > MAX_PAGE {
            return Err(ApiError::ResponseTooLarge);
        }
        self.records.push((last_modified, text));
        Ok(())
    }

    /// The state that an entry tells of.
    ///
    /// # Errors
    /// As [`Self::add`].
    fn add_content(&mut self, content: &EntryContent) -> Result<(), ApiError> {
        let Some(data) = data_of(content) else {
            return Ok(());
        };
        self.add(time_of(content), data.to_string())
    }

    /// All of them, the latest first.
    fn into_json(mut self) -> String {
        self.records.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        let texts = self.records.into_iter().map(|(_, text)| text);
        texts.collect::<Vec<_>>().join(",")
    }
}

/// When what an entry tells of was written, in its list's time.
fn time_of(content: &EntryContent) -> Timestamp {
    let time = data_of(content).and_then(|data| data.get("last_modified")?.as_u64());
    Timestamp(time.unwrap_or_default())
}

fn data_of(content: &EntryContent) -> Option<&Value> {
    content.shown.get("target")?.get("data")
}

/// What is read for a snapshot, and what was found.
struct Snapshot<'s> {
    unit: &'s UnitOfWork,
    store: &'s Store,
    bucket: &'s Generation,
    records: &'s ListUri,
    moment: Timestamp,
    found: ShownRecords,
}

impl Snapshot<'_> {
    /// Finds the records that were not written since. Gives the ids of those that were.
    async fn read_records(&mut self, collection: &Generation) -> Result<HashSet<String>, ApiError> {
        let mut changed = HashSet::new();
        let mut pages = self.store.list(&list::ListRead {
            list: self.records,
            generation: collection,
            since: None,
            before: None,
            tombstones: true,
            limit_hint: None,
        });
        while let Some(page) = pages.next().await? {
            self.unit.allowance.read(page.bytes)?;
            for object in page.objects {
                if object.last_modified > self.moment {
                    changed.insert(object.id);
                    if changed.len() > MAX_CHANGED {
                        return Err(ApiError::ResponseTooLarge);
                    }
                } else if let Some(data) = object.data() {
                    let at = object.last_modified;
                    let text = metadata::with_metadata_text(data, &object.id, at);
                    self.found.add(at, text)?;
                }
            }
        }
        Ok(changed)
    }

    /// Finds what the first write since replaced, for each of these records. Gives the ids of those of which that is not
    /// known.
    async fn read_replaced(
        &mut self,
        changed: HashSet<String>,
    ) -> Result<HashSet<String>, ApiError> {
        if changed.is_empty() {
            return Ok(changed);
        }
        let (mut missing, mut replaced) = (changed, HashMap::new());
        let mut entries = self.entries(Some(self.moment), None);
        while let Some(entry) = entries.next().await? {
            self.unit.allowance.read(entries.take_bytes())?;
            if let Some((id, content)) = self.content_of(&entry)?
                && (missing.contains(&id) || replaced.contains_key(&id))
            {
                missing.remove(&id);
                // A Kinto's entries, which an import brings, are a little later than what they tell of; and others may be of
                // a write under a past time.
                if time_of(&content) <= self.moment {
                    replaced.remove(&id);
                    self.found.add_content(&content)?;
                    continue;
                }
                // An earlier one takes the place of a later one.
                replaced.insert(id, content.replaces);
            }
        }
        let mut keys = BTreeMap::new();
        for (id, replaces) in replaced {
            match replaces {
                // It was created since.
                None => {}
                Some(at) if at <= self.moment => {
                    let uri = self.records.clone().object(&*id);
                    keys.insert(Key::history(self.bucket, &uri, at, at), id);
                }
                Some(_) => _ = missing.insert(id),
            }
        }
        let wanted: Vec<_> = keys.keys().cloned().collect();
        // A part at a time, so that no more is held than is answered.
        for part in wanted.chunks(100) {
            for entry in self.store.history_entries(part).await? {
                keys.remove(&entry.key);
                self.found.add_content(&entry.content()?)?;
            }
        }
        missing.extend(keys.into_values());
        Ok(missing)
    }

    /// Finds the latest entry up to the moment of each of these records. In a list whose time is ahead of the clock, what was written by
    /// the moment may have a later time.
    async fn read_before(&mut self, mut missing: HashSet<String>) -> Result<(), ApiError> {
        let mut entries = self.entries(None, Some(self.moment.next()));
        while !missing.is_empty() {
            let Some(entry) = entries.next().await? else {
                break;
            };
            self.unit.allowance.read(entries.take_bytes())?;
            if let Some((id, content)) = self.content_of(&entry)?
                && time_of(&content) <= self.moment
                && missing.remove(&id)
            {
                self.found.add_content(&content)?;
            }
        }
        Ok(())
    }

    fn entries(&self, since: Option<Timestamp>, before: Option<Timestamp>) -> Entries {
        self.store.history(HistoryRead {
            bucket: self.bucket,
            list: Some(self.records),
            since,
            before,
            limit_hint: None,
        })
    }

    /// The id of the record that an entry is of, and what it tells; `None` of entries of other lists, and of tombstones.
    fn content_of(&self, entry: &RawEntry) -> Result<Option<(String, EntryContent)>, ApiError> {
        let content = entry.content()?;
        let uri = content.shown.get("uri").and_then(Value::as_str);
        let uri = uri.and_then(ObjectUri::parse);
        let uri = uri.filter(|uri| uri.list() == self.records);
        Ok(uri.map(|uri| (uri.id().to_owned(), content)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_whole_number() {
        assert_eq!(moment("12"), Some(Timestamp(12)));
        assert_eq!(moment(" +015"), Some(Timestamp(15)));
        assert_eq!(moment("99999999999999999999999"), Some(Timestamp::MAX));
        for wrong in ["", "a", "-1", "1.5", "\"12\"", "++1"] {
            assert_eq!(moment(wrong), None, "{wrong}");
        }
    }
}
