//! `ResourceChanged`: the event of writes, as listeners receive it (Kinto 26.5, `core/events.py`).
//!
//! One event covers all changes of one transaction to the objects of one list by one action of one user. What a write does to a
//! review has an event of its own behind them, which says so in [`Review`] (Remote Settings).

use std::collections::BTreeMap;
use std::fmt;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::resource::{ListUri, ObjectUri};
use crate::timestamp::Timestamp;

/// The action on an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// There was no object, or a tombstone.
    Create,
    /// The object existed.
    Update,
    /// It became a tombstone.
    Delete,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 3] = [Self::Create, Self::Update, Self::Delete];

    /// Kinto's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One object before and after, as the API shows it, without its permissions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Impacted {
    /// The object after; for a deletion the tombstone.
    pub new: Map<String, Value>,
    /// The object before; absent if it was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<Map<String, Value>>,
}

/// The name of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EventName {
    /// Writes.
    ResourceChanged,
    /// Somebody asks for a source to be reviewed.
    ReviewRequested,
    /// A reviewer rejected the changes.
    ReviewRejected,
    /// A reviewer approved the changes, and they are published.
    ReviewApproved,
    /// The changes that were not published were taken back.
    ReviewCanceled,
}

impl EventName {
    /// Every name.
    pub const ALL: [Self; 5] = [
        Self::ResourceChanged,
        Self::ReviewRequested,
        Self::ReviewRejected,
        Self::ReviewApproved,
        Self::ReviewCanceled,
    ];

    /// As settings and events spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ResourceChanged => "ResourceChanged",
            Self::ReviewRequested => "ReviewRequested",
            Self::ReviewRejected => "ReviewRejected",
            Self::ReviewApproved => "ReviewApproved",
            Self::ReviewCanceled => "ReviewCanceled",
        }
    }
}

/// The effect of a write of a source on its review (Remote Settings, `signer/events.py`; `event` is ours).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    /// Which of the events of reviews it is.
    pub event: EventName,
    /// The comment of the editor who requests, or of the reviewer who rejects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// How many records were copied to the preview, published, or taken back; absent of a rejection, and of a request where
    /// there is no preview.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes_count: Option<usize>,
    /// Bytes of the canonical JSON of what was copied or published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes_size_bytes: Option<usize>,
}

/// All changes to the objects of one list, by one action of one user, in one transaction.
///
/// Its JSON is Kinto's payload with `impacted_records`, and with fields that Kinto lacks: `id`, `date`,
/// `impacted_uris`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResourceChanged {
    /// Identifies the event: a repeated notification has the same id, unless the request was decided again.
    pub id: String,
    /// The list's timestamp after the write. In a batch, after the first request's writes.
    pub timestamp: Timestamp,
    /// The action.
    pub action: Action,
    /// The URI of the request: the object, or the list. In a batch, that of the user's first request that did so.
    pub uri: String,
    /// The user who did all of it; `null` if anonymous. What the stack does itself is not the user's (in Kinto, too), and a batch
    /// whose requests have credentials of their own has events for each user (in Kinto they are the first one's).
    pub user_id: Option<String>,
    /// The kind of the objects: `bucket`, `group`, `collection`, `record` or `account`.
    pub resource_name: String,
    /// The review that the event is about; `None` for an event of writes.
    #[serde(flatten)]
    pub review: Option<Review>,
    /// The ids in `uri`: `bucket_id`, `collection_id`, `record_id` and so on.
    #[serde(flatten)]
    pub ids: Map<String, Value>,
    /// The time of the writes by the writer's clock: ISO 8601, UTC.
    pub date: String,
    /// The objects, in the order of their writes.
    pub impacted_records: Vec<Impacted>,
    /// Their URIs, in the same order.
    pub impacted_uris: Vec<String>,
    /// Whether objects were reduced to `id`, `last_modified` and `deleted`, because the event was too large for its
    /// transport.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl ResourceChanged {
    /// Its name.
    pub fn name(&self) -> EventName {
        let review = self.review.as_ref();
        review.map_or(EventName::ResourceChanged, |review| review.event)
    }

    /// The same event with only those of the objects that `keeps` accepts; `None` if there are none.
    pub fn only(&self, keeps: impl Fn(&ObjectUri) -> bool) -> Option<Self> {
        let kept = |uri: &String| ObjectUri::parse(uri).is_some_and(|uri| keeps(&uri));
        let kept: Vec<bool> = self.impacted_uris.iter().map(kept).collect();
        if kept.iter().all(|kept| *kept) {
            return Some(self.clone());
        }
        let pairs = self.impacted_records.iter().zip(&self.impacted_uris);
        let pairs = pairs.zip(kept).filter(|(_, kept)| *kept);
        let (impacted_records, impacted_uris): (Vec<_>, Vec<_>) = pairs
            .map(|((impacted, uri), _)| (impacted.clone(), uri.clone()))
            .unzip();
        (!impacted_uris.is_empty()).then(|| Self {
            impacted_records,
            impacted_uris,
            ..self.clone()
        })
    }

    /// The URI of the list that the objects are in.
    pub fn list_uri(&self) -> String {
        let uri = self.impacted_uris.first().map_or("", String::as_str);
        uri.rsplit_once('/').map_or("", |(list, _)| list).to_owned()
    }

    /// Its JSON, with the two characters escaped that JSON allows and SQS rejects in any message.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string(self).unwrap_or_default();
        if !json.contains(['\u{fffe}', '\u{ffff}']) {
            return json;
        }
        json.replace('\u{fffe}', r"\ufffe")
            .replace('\u{ffff}', r"\uffff")
    }

    /// Its id and JSON, for a transport that takes at most `most` bytes at once: a longer one is split into several
    /// events, each with some of the objects and an id of its own; an object that is too large by itself is reduced to
    /// the fields that identify it.
    pub fn to_json_within(&self, most: usize) -> Vec<(String, String)> {
        let whole = self.to_json();
        if whole.len() <= most {
            return vec![(self.id.clone(), whole)];
        }
        let count = self.impacted_records.len();
        if count <= 1 {
            return vec![(self.id.clone(), self.truncated().to_json())];
        }
        let part = |n: u8, range: std::ops::Range<usize>| Self {
            id: format!("{}.{n}", self.id),
            impacted_records: self.impacted_records[range.clone()].to_vec(),
            impacted_uris: self.impacted_uris[range].to_vec(),
            ..self.clone()
        };
        let halves = [part(1, 0..count / 2), part(2, count / 2..count)];
        halves
            .iter()
            .flat_map(|half| half.to_json_within(most))
            .collect()
    }

    /// The same event with only the fields that identify its objects.
    pub fn truncated(&self) -> Self {
        let cut = |object: &Map<String, Value>| {
            let mut object = object.clone();
            object.retain(|field, _| matches!(&**field, "id" | "last_modified" | "deleted"));
            object
        };
        let impacted_records = self.impacted_records.iter().map(|impacted| Impacted {
            new: cut(&impacted.new),
            old: impacted.old.as_ref().map(cut),
        });
        Self {
            impacted_records: impacted_records.collect(),
            truncated: true,
            ..self.clone()
        }
    }
}

/// The request that writes, as its events describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The user who sends it.
    pub user_id: Option<String>,
    /// The target of the request.
    pub target: OriginTarget,
}

/// The target of a request that writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginTarget {
    /// A single object.
    Object(ObjectUri),
    /// A list, to create an object or to delete some.
    List(ListUri),
    /// A user, some of whose objects in a list are deleted.
    UserData {
        /// The user.
        principal: String,
        /// The list.
        list: ListUri,
    },
}

impl Origin {
    fn uri(&self) -> String {
        match &self.target {
            OriginTarget::Object(uri) => uri.to_string(),
            OriginTarget::List(uri) => uri.to_string(),
            OriginTarget::UserData { principal, .. } => format!("/__user_data__/{principal}"),
        }
    }

    fn ids(&self) -> Map<String, Value> {
        let innermost = match &self.target {
            OriginTarget::Object(uri) => Some(uri),
            OriginTarget::List(uri) | OriginTarget::UserData { list: uri, .. } => uri.parent(),
        };
        let lineage = innermost.into_iter().flat_map(ObjectUri::lineage);
        let mut ids: Vec<_> = lineage
            .map(|uri| (format!("{}_id", uri.kind().name()), uri.id().into()))
            .collect();
        ids.reverse();
        ids.into_iter().collect()
    }
}

/// An event under construction.
#[derive(Clone, Debug)]
struct PendingEvent {
    id: String,
    list: ListUri,
    action: Action,
    origin: Origin,
    /// The number of the request of the unit of work that it begins with.
    request: usize,
    timestamp: Timestamp,
    impacted: Vec<(ObjectUri, Impacted)>,
    /// The review that it is about.
    review: Option<Review>,
    /// Whether its objects are reduced to what identifies them.
    is_truncated: bool,
}

impl PendingEvent {
    fn to_event(
        &self,
        date: Timestamp,
        id: String,
        impacted: &[(ObjectUri, Impacted)],
    ) -> ResourceChanged {
        ResourceChanged {
            id,
            timestamp: self.timestamp,
            action: self.action,
            uri: self.origin.uri(),
            user_id: self.origin.user_id.clone(),
            resource_name: self.list.kind().name().to_owned(),
            review: self.review.clone(),
            ids: self.origin.ids(),
            date: iso_8601(date),
            impacted_records: impacted
                .iter()
                .map(|(_, impacted)| impacted.clone())
                .collect(),
            impacted_uris: impacted.iter().map(|(uri, _)| uri.to_string()).collect(),
            truncated: self.is_truncated,
        }
    }
}

/// The events of one unit of work, in the order in which they began.
#[derive(Clone, Debug, Default)]
pub struct Events {
    /// Whether there are listeners.
    wanted: bool,
    /// The request in progress; without one, no events are gathered.
    origin: Option<Origin>,
    requests: usize,
    gathered: Vec<PendingEvent>,
}

impl Events {
    /// No events yet; they are gathered if `wanted`.
    pub fn new(wanted: bool) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }

    /// Sets the request of the writes to come; without an origin, their events are not gathered.
    pub fn begin(&mut self, origin: impl FnOnce() -> Option<Origin>) {
        self.origin = self.wanted.then(origin).flatten();
        self.requests += 1;
    }

    /// Returns `true` if events of the writes are gathered.
    pub fn are_gathered(&self) -> bool {
        self.origin.is_some()
    }

    /// Returns `true` if there are no events.
    pub fn is_empty(&self) -> bool {
        self.gathered.is_empty()
    }

    /// Records a write of the object at `uri`. `timestamp` is its list's after the write.
    pub fn add(
        &mut self,
        uri: &ObjectUri,
        action: Action,
        impacted: Impacted,
        timestamp: Timestamp,
    ) {
        self.gather(uri, action, impacted, timestamp, false);
    }

    /// Records one of very many writes, by what identifies its object alone.
    pub fn add_truncated(
        &mut self,
        uri: &ObjectUri,
        action: Action,
        impacted: Impacted,
        timestamp: Timestamp,
    ) {
        self.gather(uri, action, impacted, timestamp, true);
    }

    fn gather(
        &mut self,
        uri: &ObjectUri,
        action: Action,
        impacted: Impacted,
        timestamp: Timestamp,
        is_truncated: bool,
    ) {
        let Some(origin) = &self.origin else { return };
        let same = |event: &&mut PendingEvent| {
            event.list == *uri.list()
                && event.action == action
                && event.origin.user_id == origin.user_id
                && event.review.is_none()
                && event.is_truncated == is_truncated
        };
        match self.gathered.iter_mut().find(same) {
            Some(event) => {
                if event.request == self.requests {
                    event.timestamp = timestamp;
                }
                event.impacted.push((uri.clone(), impacted));
            }
            None => self.gathered.push(PendingEvent {
                id: Uuid::new_v4().to_string(),
                list: uri.list().clone(),
                action,
                origin: origin.clone(),
                request: self.requests,
                timestamp,
                impacted: vec![(uri.clone(), impacted)],
                review: None,
                is_truncated,
            }),
        }
    }

    /// Records what an update of the object at `uri` did to its review, which is told behind all writes.
    pub fn add_review(
        &mut self,
        uri: &ObjectUri,
        user_id: Option<String>,
        review: Review,
        impacted: Impacted,
        timestamp: Timestamp,
    ) {
        if !self.wanted {
            return;
        }
        self.gathered.push(PendingEvent {
            id: Uuid::new_v4().to_string(),
            list: uri.list().clone(),
            action: Action::Update,
            origin: Origin {
                user_id,
                target: OriginTarget::Object(uri.clone()),
            },
            request: self.requests,
            timestamp,
            impacted: vec![(uri.clone(), impacted)],
            review: Some(review),
            is_truncated: false,
        });
    }

    /// Those of writes, then those of reviews.
    fn in_order(&self) -> impl Iterator<Item = &PendingEvent> {
        let (writes, reviews): (Vec<_>, Vec<_>) = self
            .gathered
            .iter()
            .partition(|event| event.review.is_none());
        writes.into_iter().chain(reviews)
    }

    /// All events.
    pub fn all(&self, date: Timestamp) -> Vec<ResourceChanged> {
        self.in_order()
            .map(|event| event.to_event(date, event.id.clone(), &event.impacted))
            .collect()
    }

    /// Splits the events into `shares` shares: each share's events contain the objects for which `share_of` returns its
    /// number, and come with the parent of their list.
    pub fn split(
        &self,
        date: Timestamp,
        shares: usize,
        share_of: impl Fn(&ObjectUri) -> Option<usize>,
    ) -> Vec<Vec<(Option<&ObjectUri>, ResourceChanged)>> {
        let mut split = vec![vec![]; shares];
        for event in self.in_order() {
            let mut by_share = BTreeMap::<_, Vec<_>>::new();
            for (uri, impacted) in &event.impacted {
                if let Some(n) = share_of(uri) {
                    let share = by_share.entry(n).or_default();
                    share.push((uri.clone(), impacted.clone()));
                }
            }
            for (n, impacted) in by_share {
                let id = match impacted.len() == event.impacted.len() {
                    true => event.id.clone(),
                    false => format!("{}.{n}", event.id),
                };
                let told = event.to_event(date, id, &impacted);
                split[n].push((event.list.parent(), told));
            }
        }
        split
    }
}

/// A time as ISO 8601, UTC, with milliseconds.
pub(crate) fn iso_8601(time: Timestamp) -> String {
    let (seconds, milliseconds) = (time.0 / 1000, time.0 % 1000);
    let second = DateTime::from_secs(i64::try_from(seconds).unwrap_or_default());
    let second = second.fmt(Format::DateTime).unwrap_or_default();
    format!("{}.{milliseconds:03}Z", second.trim_end_matches('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(objects: usize) -> ResourceChanged {
        let record =
            |n: usize| json!({"id": format!("r{n}"), "last_modified": n, "text": "x".repeat(100)});
        let impacted = (0..objects).map(|n| json!({"new": record(n)}));
        let uris = (0..objects).map(|n| format!("/buckets/a/collections/b/records/r{n}"));
        serde_json::from_value(json!({
            "id": "e", "timestamp": 9, "action": "create", "uri": "/buckets/a/collections/b/records",
            "user_id": null, "resource_name": "record", "bucket_id": "a", "collection_id": "b",
            "date": iso_8601(Timestamp(1_700_000_000_123)),
            "impacted_records": impacted.collect::<Vec<_>>(), "impacted_uris": uris.collect::<Vec<_>>(),
        }))
        .unwrap()
    }

    #[test]
    fn its_date_is_iso_8601() {
        assert_eq!(event(1).date, "2023-11-14T22:13:20.123Z");
        let whole = iso_8601(Timestamp(1_700_000_000_000));
        assert_eq!(whole, "2023-11-14T22:13:20.000Z");
        let tenth = iso_8601(Timestamp(1_700_000_000_120));
        assert_eq!(tenth, "2023-11-14T22:13:20.120Z");
    }

    #[test]
    fn what_is_too_long_comes_in_several_events_with_ids_of_their_own() {
        let event = event(5);
        let whole = ("e".to_owned(), event.to_json());
        assert_eq!(event.to_json_within(100_000), [whole]);
        let parts: Vec<ResourceChanged> = event
            .to_json_within(900)
            .iter()
            .inspect(|(_, json)| assert!(json.len() <= 900))
            .map(|(id, json)| {
                let part: ResourceChanged = serde_json::from_str(json).unwrap();
                assert_eq!(part.id, *id);
                part
            })
            .collect();
        let uris = parts.iter().flat_map(|part| &part.impacted_uris);
        assert!(uris.eq(&event.impacted_uris));
        let mut ids: Vec<_> = parts.iter().map(|part| &part.id).collect();
        ids.dedup();
        assert_eq!(ids.len(), parts.len());
        assert!(parts.iter().all(|part| !part.truncated));
    }

    #[test]
    fn characters_that_sqs_does_not_take_are_escaped() {
        let mut event = event(1);
        let text = json!("a\u{fffe}\u{ffff}\u{0}\u{1fffe}b");
        event.impacted_records[0]
            .new
            .insert("text".to_owned(), text);
        let json = event.to_json();
        // From the API reference of SendMessage.
        let takes = |c| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
        assert!(json.chars().all(takes), "{json}");
        assert_eq!(
            serde_json::from_str::<ResourceChanged>(&json).unwrap(),
            event
        );
    }

    #[test]
    fn an_object_that_is_too_large_alone_is_named() {
        let parts = event(1).to_json_within(10);
        let part: ResourceChanged = serde_json::from_str(&parts[0].1).unwrap();
        assert!(part.truncated);
        assert_eq!(
            json!(part.impacted_records),
            json!([{"new": {"id": "r0", "last_modified": 0}}])
        );
    }
}
