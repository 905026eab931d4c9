//! A source that a call has written to, and what follows from it: its groups, its targets, its status.

use serde_json::{Map, Value, json};

use super::records::Records;
use super::transitions::{
    self, Actor, REVIEWER_COMMENT, Refusal, SIGNED, STATUS, Transition, WORK_IN_PROGRESS,
};
use super::{groups, publish, refuse};
use crate::api::auth::authorization::ObjectRequest;
use crate::api::dispatch::context::Context;
use crate::api::web::error::ApiError;
use crate::event::{EventName, Impacted, iso_8601};
use crate::permission::{EVERYONE, Permissions};
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::settings::SignedResource;
use crate::store::{Content, Object};
use crate::timestamp::Timestamp;
use crate::unit_of_work::publications::{JournalEntry, Publication, ReviewEvent};
use crate::unit_of_work::{Needs, UnitOfWork};

/// Fields of a source that go to what is published from it, whenever that is signed.
const PUBLISHED_FIELDS: [&str; 5] = ["flags", "attachment", "schema", "sort", "displayFields"];
/// The reads that a change of a source needs: the source, its targets, and their parents.
pub(super) fn needs_of(of: &SignedResource) -> Needs {
    let mut needs = Needs::default();
    for collection in of.targets().chain([&of.source]) {
        needs.objects.extend(collection.lineage().cloned());
        for uri in collection.lineage() {
            needs.lists.insert(uri.list().clone());
            needs.lists.extend(uri.child_lists());
        }
    }
    needs
}

/// A source that a call has written to.
pub(super) struct Source<'c, 'a> {
    pub(super) cx: &'c mut Context<'a>,
    pub(super) of: SignedResource,
}

impl Source<'_, '_> {
    pub(super) fn records(&self) -> ListUri {
        self.of.source.children(Kind::Record)
    }

    pub(super) fn unit(&mut self) -> &mut UnitOfWork {
        self.cx.unit
    }

    pub(super) async fn read(&mut self, needs: Needs) -> Result<(), ApiError> {
        Ok(self.cx.unit.read_more(&self.cx.api.store, needs).await?)
    }

    /// Reads what is written to where a source changes, and where it is published to `targets`.
    pub(super) async fn read_targets(&mut self) -> Result<(), ApiError> {
        let needs = needs_of(&self.of);
        self.read(needs).await
    }

    pub(super) fn user(&self) -> Value {
        json!(self.cx.user.id)
    }

    pub(super) fn date(&self) -> Value {
        date(self.cx.unit.now()).into()
    }

    /// The fields of the source.
    fn data(&self) -> Map<String, Value> {
        let live = self.cx.unit.get(&self.of.source);
        live.map(|live| live.data.clone()).unwrap_or_default()
    }

    /// Writes fields of the source as the stack, and lets its groups write it.
    pub(super) fn update(&mut self, fields: Value) {
        let source = self.of.source.clone();
        let Some(live) = self.cx.unit.get(&source) else {
            return;
        };
        let (mut data, mut permissions) = (live.data.clone(), live.permissions.clone());
        if let Value::Object(fields) = fields {
            data.extend(fields);
        }
        for group in groups(&source) {
            permissions.grant("write", &group.to_string());
        }
        self.unit().update(&source, data, permissions, None);
    }

    /// What is published of the source itself.
    fn metadata(&self) -> Map<String, Value> {
        let data = self.data().into_iter();
        data.filter(|(field, _)| PUBLISHED_FIELDS.contains(&&**field))
            .collect()
    }

    /// Has what is published become `records`, or be signed as it is.
    pub(super) fn plan(&mut self, targets: Vec<ObjectUri>, records: Option<&Records>) {
        let metadata = self.metadata();
        for target in targets {
            let publication = Publication {
                records: records.map(Records::shared),
                metadata: metadata.clone(),
                review: None,
                is_renewed: false,
            };
            self.unit().plan_publication(&target, publication);
        }
    }

    /// Has the publication of a target be told of as what it is to the review.
    pub(super) fn plan_review_event(&mut self, target: &ObjectUri, review: ReviewEvent) {
        let publication = Publication {
            review: Some(review),
            ..Publication::default()
        };
        self.unit().plan_publication(target, publication);
    }

    /// The review event of the command that changed the source from `old`, with the text of a field as its comment.
    pub(super) fn reviewing(
        &self,
        event: EventName,
        old: Option<&Object>,
        comment: Option<&str>,
    ) -> Option<ReviewEvent> {
        let source = &self.of.source;
        let comment = comment.map(|field| {
            let data = self.data();
            let comment = data.get(field).and_then(Value::as_str);
            comment.unwrap_or_default().to_owned()
        });
        Some(ReviewEvent {
            source: source.clone(),
            user_id: self.cx.user.id.clone(),
            event,
            comment,
            changes: 0,
            impacted: Impacted {
                new: self.cx.unit.stored(source)?.event_data(source),
                old: old.map(|old| old.event_data(source)),
            },
        })
    }

    /// The source's records that clients keep, as they are at this place in the batch.
    pub(super) async fn content(&mut self) -> Result<Records, ApiError> {
        let records = self.records();
        publish::settle(self.cx.api, self.cx.unit, &records).await?;
        let records = Records::read(&self.cx.api.store, self.cx.unit, &records).await?;
        records.that_clients_keep()
    }

    /// Creates what is published to where it is not there.
    pub(super) fn create_targets(&mut self) {
        let owner = self.cx.user.principal().to_owned();
        for target in self.of.targets().cloned().collect::<Vec<_>>() {
            let unit = self.unit();
            let bucket = target.bucket_uri();
            if unit.get(bucket).is_none() {
                let mut permissions = Permissions::default();
                permissions.grant("write", &owner);
                unit.create(bucket, Map::new(), permissions, None);
            }
            if unit.get(&target).is_none() {
                let mut permissions = Permissions::default();
                permissions.grant("read", EVERYONE);
                unit.create(&target, Map::new(), permissions, None);
            }
        }
    }

    /// Checks that there is something to publish to.
    pub(super) fn check_targets(&self) -> Result<(), ApiError> {
        let is_there = |target: &ObjectUri| self.cx.unit.get(target).is_some();
        match self.of.targets().all(is_there) {
            true => Ok(()),
            false => Err(refuse(Refusal::Invalid(
                "The collection that this is published to is gone; to-sign makes it again",
            ))),
        }
    }

    /// It was created: its groups and targets are, where they are not there, and it is signed.
    pub(super) async fn created(mut self) -> Result<(), ApiError> {
        transitions::of_creation(&self.data(), self.of.is_reviewed).map_err(refuse)?;
        let groups = groups(&self.of.source);
        if !groups.iter().all(ObjectUri::is_valid) {
            let problem = "The id must leave room for the names of its groups";
            return Err(refuse(Refusal::Invalid(problem)));
        }
        let needs = Needs {
            objects: groups.iter().cloned().collect(),
            lists: groups.iter().map(|group| group.list().clone()).collect(),
            ..Needs::default()
        };
        self.read_targets().await?;
        self.read(needs).await?;
        let creator = self.cx.user.principal().to_owned();
        for (group, members) in groups.iter().zip([vec![creator.clone()], vec![]]) {
            let object_request = ObjectRequest {
                request: self.cx.request,
                user: self.cx.user,
                settings: self.cx.settings(),
                uri: group,
            };
            if !object_request.may_create(self.cx.unit) {
                let bucket = group.bucket_id();
                let message = format!(
                    "To create it takes the permission group:create on the bucket {bucket}"
                );
                return Err(ApiError::Review {
                    is_forbidden: true,
                    message,
                });
            }
            if self.unit().get(group).is_none() {
                let data = Map::from_iter([("members".to_owned(), json!(members))]);
                let mut permissions = Permissions::default();
                permissions.grant("write", &creator);
                self.unit().create(group, data, permissions, None);
            }
        }
        self.create_targets();
        self.plan(self.of.targets().cloned().collect(), None);
        let (user, date) = (self.user(), self.date());
        self.update(json!({
            "status": SIGNED,
            "last_signature_by": user,
            "last_signature_date": date,
        }));
        Ok(())
    }

    /// It was updated: a command is carried out, if this is one.
    pub(super) async fn updated(mut self, entry: &JournalEntry) -> Result<(), ApiError> {
        let old = match &entry.old {
            Some(Object {
                content: Content::Live { data, .. },
                ..
            }) => data.clone(),
            _ => Map::new(),
        };
        let is_in = |group: &ObjectUri| self.cx.user.principals.contains(&group.to_string());
        let [is_editor, is_reviewer] = groups(&self.of.source).each_ref().map(is_in);
        let who = Actor {
            id: self.cx.user.id.as_deref(),
            is_editor,
            is_reviewer,
        };
        let step = transitions::of_update(&old, &self.data(), who, self.of.is_reviewed);
        match step.map_err(refuse)? {
            Transition::Nothing => self.keep_groups(),
            Transition::Reject => {
                self.keep_groups();
                let old = entry.old.as_ref();
                let rejected = EventName::ReviewRejected;
                if let Some(review) = self.reviewing(rejected, old, Some(REVIEWER_COMMENT)) {
                    self.unit().add_review_event(review, None, None);
                }
            }
            Transition::RequestReview => self.request_review(entry.old.as_ref()).await?,
            Transition::Approve => self.approve(entry.old.as_ref()).await?,
            Transition::Resign => {
                self.resign(old.get(STATUS).cloned().unwrap_or_default())
                    .await?
            }
            Transition::Rollback => self.roll_back(entry.old.as_ref()).await?,
        }
        Ok(())
    }

    /// Its groups may write it whatever a request says of that.
    fn keep_groups(&mut self) {
        let source = self.of.source.clone();
        let groups = groups(&source).map(|group| group.to_string());
        self.unit().grant(&source, "write", &groups);
    }

    /// It was deleted: its groups are, and what was published of it.
    pub(super) async fn deleted(mut self) -> Result<(), ApiError> {
        let groups = groups(&self.of.source);
        self.read_targets().await?;
        let needs = Needs {
            objects: groups.iter().cloned().collect(),
            lists: groups.iter().map(|group| group.list().clone()).collect(),
            ..Needs::default()
        };
        self.read(needs).await?;
        for group in groups {
            if self.unit().get(&group).is_some() {
                self.unit().delete(&group, None);
            }
        }
        let targets = self.of.targets().cloned();
        let targets: Vec<_> = targets
            .filter(|target| self.cx.unit.get(target).is_some())
            .collect();
        let deletes = self.deletes_targets();
        for target in targets {
            if deletes {
                self.unit().delete(&target, None);
                continue;
            }
            let publication = Publication {
                records: Some(Records::default().shared()),
                ..Publication::default()
            };
            self.unit().plan_publication(&target, publication);
        }
        Ok(())
    }

    fn deletes_targets(&self) -> bool {
        let signer = self.cx.api.settings.api.signer.as_ref();
        signer.is_some_and(|signer| signer.deletes_targets)
    }

    /// Records of it were written: it is in progress.
    ///
    /// The source itself is written only when that is new, or somebody else edits. Two items that are read together may be of
    /// two moments, so the list's alone tells who edits it, and the commit relies on that: a command takes it away.
    pub(super) async fn edited(mut self) -> Result<(), ApiError> {
        let records = self.records();
        let editor = self.cx.user.principal();
        let (data, user) = (self.data(), self.user());
        let is = |field: &str, value: &Value| data.get(field).unwrap_or(&Value::Null) == value;
        let is_edited = is(STATUS, &WORK_IN_PROGRESS.into()) && is("last_edit_by", &user);
        if is_edited && self.cx.unit.rely_on_editor(&records, editor) {
            return Ok(());
        }
        self.cx.unit.begin_editing(&records, editor);
        let needs = Needs {
            lists: [self.of.source.list().clone()].into(),
            ..Needs::default()
        };
        self.read(needs).await?;
        let date = self.date();
        self.update(json!({
            "status": WORK_IN_PROGRESS,
            "last_edit_by": user,
            "last_edit_date": date,
        }));
        Ok(())
    }
}

/// A time as Python writes it: ISO 8601 with microseconds.
pub(super) fn date(time: Timestamp) -> String {
    let date = iso_8601(time);
    format!("{}000+00:00", date.trim_end_matches('Z'))
}
