//! `GET`, `HEAD` and `DELETE` of `/buckets/{bucket_id}/history`.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{SETTLED_AFTER, is_granted, readers};
use crate::api::auth::principals::User;
use crate::api::dispatch::context::Context;
use crate::api::dispatch::target::Target;
use crate::api::lists::query::{self, Bounds, ListQuery};
use crate::api::lists::selection::{Page, Selection, deleted_response};
use crate::api::objects::metadata;
use crate::api::web::error::ApiError;
use crate::api::web::media_type;
use crate::api::web::preconditions::{Outcome, Preconditions};
use crate::api::web::response::Response;
use crate::permission::Access;
use crate::resource::{Kind, ObjectUri};
use crate::store::history::{HistoryRead, RawEntry, Removal};
use crate::store::{Generation, Key, Store};
use crate::timestamp::Timestamp;
use crate::unit_of_work::{UnitOfWork, client_time};

/// What entries may be filtered and sorted by, and what of them may be asked for.
pub const FIELDS: [&str; 13] = [
    "id",
    "last_modified",
    "deleted",
    "user_id",
    "uri",
    "action",
    "date",
    "resource_name",
    "bucket_id",
    "collection_id",
    "group_id",
    "record_id",
    "target",
];
/// Those of them that hold texts, whatever they are compared with.
const IDS: [&str; 3] = ["record_id", "collection_id", "bucket_id"];

/// Buckets beside the history's own whose groups are looked at for who may read an entry.
const MAX_OTHER_BUCKETS: usize = 100;

/// Answers a request for the history of a bucket.
///
/// Who may read the bucket reads all of it; others the entries of what they could read when it was written.
///
/// # Errors
/// Whatever the request is to be refused for.
pub async fn handle(cx: &mut Context<'_>) -> Result<Response, ApiError> {
    let settings = cx.settings();
    let (Some(history), Target::Within(bucket)) = (&settings.history, cx.target) else {
        return Err(ApiError::UnknownPath);
    };
    let (unit, store) = (&mut *cx.unit, &cx.api.store);
    let (request, user) = (cx.request, cx.user);
    media_type::check(request)?;
    // Looked up as the id of a bucket at once (Kinto 26.5), which it cannot be.
    if bucket.id().contains('*') {
        return Err(ApiError::unknown_parent(bucket));
    }
    let deletes = request.method == Method::DELETE;
    let access = if deletes { Access::Write } else { Access::Read };
    let sees_all = is_granted(history, access, &user.principals)
        || may(unit, bucket, access, &user.principals);
    if !sees_all && (deletes || !may_see_some(unit, store, bucket, user).await?) {
        return Err(user.forbidden());
    }
    let Some(generation) = unit.get(bucket).map(|live| live.generation().clone()) else {
        return Err(ApiError::unknown_parent(bucket));
    };
    // Asked for before anything is read: what comes later is later than the entity tag.
    let latest = store.latest_in_history(&generation).await?;
    let latest = latest.unwrap_or(Timestamp(0));
    let timestamp = settled(latest, unit.now());
    let now = client_time::reference_time(Timestamp::now(), latest);
    let query = ListQuery::parse(request, Some(&FIELDS), settings, now);
    let query = match query {
        Err(error) if query::is_malformed(&error) => return Err(error),
        query => query.map(|query| query.with_texts(&IDS)),
    };
    let preconditions = Preconditions::of(request)?;
    let current = match preconditions.if_match {
        Some(_) => latest,
        None => timestamp,
    };
    match preconditions.check(request, Some(current)) {
        Outcome::Met => {}
        Outcome::NotModified => {
            let response = Response::empty(StatusCode::NOT_MODIFIED);
            return Ok(response.modified_at(timestamp).uncached());
        }
        Outcome::Failed => return Err(ApiError::precondition_failed(current)),
    }
    let query = query?;
    let mut view = HistoryView {
        bucket: &generation,
        query: &query,
        user: user.clone(),
        sees_all,
        deletes,
    };
    let mut selection = Selection::of(&query);
    let read = view.read(unit, store, &mut selection).await?;
    if !sees_all && !read.saw_any && query.bounds() == Bounds::default() {
        return Err(user.forbidden());
    }
    let (kept, next) = selection.finish(read.is_cut, request, settings);
    if deletes {
        return Ok(delete(unit, kept, next, timestamp));
    }
    let texts = kept.into_iter().map(|kept| match kept {
        PageItem::Text(text) => text,
        PageItem::Entry(entry) => entry.id,
    });
    let objects = texts.collect();
    let response = Page { objects, next }.into_response(timestamp);
    let seconds = settings.caching.of_history();
    Ok(match seconds.filter(|_| user.id.is_none()) {
        Some(seconds) => response.cached_for(seconds, Timestamp::now()),
        None => response,
    })
}

/// Whether the permissions of the bucket let one of these principals do that to all of its history.
fn may(unit: &UnitOfWork, bucket: &ObjectUri, access: Access, principals: &[String]) -> bool {
    let Some(live) = unit.get(bucket) else {
        return false;
    };
    match access {
        Access::Read => readers(live.permissions).any(|reader| principals.contains(reader)),
        _ => live.permissions.grants("write", principals),
    }
}

/// Whether some entry may be there that the user could read when it was written. `false` is certain: there is none.
///
/// One `BatchGetItem`, 1 RCU for each principal.
async fn may_see_some(
    unit: &UnitOfWork,
    store: &Store,
    bucket: &ObjectUri,
    user: &User,
) -> Result<bool, ApiError> {
    let Some(live) = unit.get(bucket) else {
        return Ok(false);
    };
    let principals = user.principals.iter().map(|principal| Some(&**principal));
    let keys = principals
        .chain([None])
        .filter_map(|principal| Key::history_reader(bucket, live.generation(), principal));
    Ok(!store.read(&keys.collect::<Vec<_>>()).await?.is_empty())
}

/// The time of a history whose latest entry has the time `latest`: what may still appear is later.
///
/// Entries appear up to [`SETTLED_AFTER`] after the time that they have, in no order.
fn settled(latest: Timestamp, now: Timestamp) -> Timestamp {
    let margin = u64::try_from(SETTLED_AFTER.as_millis()).unwrap_or(u64::MAX);
    latest.min(Timestamp(now.0.saturating_sub(margin)))
}

/// What a page keeps of an entry.
enum PageItem {
    /// It as it is shown.
    Text(String),
    /// It as it is stored, to be deleted.
    Entry(RawEntry),
}

/// What was read for a page.
struct PageRead {
    /// Whether there is more.
    is_cut: bool,
    /// Whether the user may see any entry of those that were read.
    saw_any: bool,
}

/// What a request sees of a history.
struct HistoryView<'v> {
    bucket: &'v Generation,
    query: &'v ListQuery,
    user: User,
    sees_all: bool,
    deletes: bool,
}

impl HistoryView<'_> {
    /// Offers the entries that may be asked for to the page, the latest first, until it is full.
    ///
    /// # Errors
    /// The request may not read so much.
    async fn read(
        &mut self,
        unit: &mut UnitOfWork,
        store: &Store,
        selection: &mut Selection<'_, PageItem>,
    ) -> Result<PageRead, ApiError> {
        let query = self.query;
        let bounds = query.bounds();
        let mut entries = store.history(HistoryRead {
            bucket: self.bucket,
            list: None,
            since: bounds.since,
            before: bounds.before,
            // With the one that shows that the page is full.
            limit_hint: query
                .objects_for_page()
                .filter(|_| self.sees_all)
                .map(|n| n.saturating_add(1)),
        });
        let (mut saw_any, mut before) = (false, None);
        let shows_tombstones = query.includes_tombstones();
        while let Some(entry) = entries.next().await? {
            unit.allowance.read(entries.take_bytes())?;
            // Several may have one time, in no order.
            let is_earlier = before
                .replace(entry.time)
                .is_some_and(|time| entry.time < time);
            if is_earlier && query.is_by_time() && selection.is_full() {
                return Ok(PageRead {
                    is_cut: true,
                    saw_any,
                });
            }
            if entry.is_deleted && !shows_tombstones {
                continue;
            }
            let content = entry.content()?;
            if !self.sees_all && !self.could_read(unit, store, &content.readers).await? {
                continue;
            }
            saw_any = true;
            let fields = metadata::with_metadata(content.shown, &entry.id, entry.time);
            selection.offer(&fields, || match self.deletes {
                true => (PageItem::Entry(entry.without_content()), 0),
                false => {
                    let text = query.shown(&fields);
                    let length = text.len();
                    (PageItem::Text(text), length)
                }
            });
        }
        unit.allowance.read(entries.take_bytes())?;
        Ok(PageRead {
            is_cut: false,
            saw_any,
        })
    }

    /// Whether the user is, or is in, one of these.
    async fn could_read(
        &mut self,
        unit: &mut UnitOfWork,
        store: &Store,
        readers: &[String],
    ) -> Result<bool, ApiError> {
        let groups = readers.iter().filter_map(|reader| ObjectUri::parse(reader));
        let groups = groups.filter(|uri| uri.kind() == Kind::Group).collect();
        self.user
            .add_groups(unit, store, &groups, MAX_OTHER_BUCKETS)
            .await?;
        let principals = &self.user.principals;
        Ok(readers.iter().any(|reader| principals.contains(reader)))
    }
}

/// Deletes entries. Gives their tombstones.
fn delete(
    unit: &mut UnitOfWork,
    kept: Vec<PageItem>,
    next: Option<String>,
    timestamp: Timestamp,
) -> Response {
    let now = unit.now();
    let mut tombstones: Vec<Value> = vec![];
    for (n, kept) in (0..).zip(kept) {
        if let PageItem::Entry(entry) = kept {
            let at = Timestamp(now.0 + n);
            tombstones.push(json!({"id": entry.id, "last_modified": at, "deleted": true}));
            unit.remove_entries([Removal::of(&entry, at)]);
        }
    }
    deleted_response(tombstones, next, timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entity_tag_is_not_later_than_what_may_still_appear() {
        let now = Timestamp(1_000_000);
        assert_eq!(settled(Timestamp(999_999), now), Timestamp(960_000));
        assert_eq!(settled(Timestamp(5), now), Timestamp(5));
        assert_eq!(settled(Timestamp(9_000_000), now), Timestamp(960_000));
    }
}
