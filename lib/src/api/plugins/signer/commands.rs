//! What the commands of editors and reviewers do, each at its place in the batch.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::publish::{self, MAX_IN_PLACE};
use super::records::{Changes, Records};
use super::refuse;
use super::source::Source;
use super::transitions::{EDITOR_COMMENT, Refusal, SIGNED};
use crate::api::objects::patch;
use crate::api::web::error::ApiError;
use crate::event::EventName;
use crate::permission::Permissions;
use crate::resource::Kind;
use crate::store::{Content, Key, Object};
use crate::unit_of_work::Needs;
use crate::unit_of_work::publications::{Publication, ReviewEvent};

/// Items of one `BatchGetItem` at most.
const READ_AT_ONCE: usize = 100;

impl Source<'_, '_> {
    pub(super) async fn request_review(mut self, old: Option<&Object>) -> Result<(), ApiError> {
        self.read_targets().await?;
        self.check_targets()?;
        let forgets_comment =
            self.of.preview.is_some() && !patch::gives(self.cx.request, EDITOR_COMMENT);
        let mut review = self.reviewing(EventName::ReviewRequested, old, Some(EDITOR_COMMENT));
        if let Some(review) = review.as_mut().filter(|_| forgets_comment) {
            review.comment = Some(String::new());
        }
        if let Some(preview) = self.of.preview.clone() {
            let content = self.content().await?;
            self.plan(vec![preview.clone()], Some(&content));
            if let Some(review) = review {
                self.plan_review_event(&preview, review);
            }
        } else if let Some(review) = review {
            self.unit().add_review_event(review, None, None);
        }
        let records = self.records();
        self.unit().end_editing(&records, true);
        let mut fields = json!({
            "last_review_request_by": self.user(),
            "last_review_request_date": self.date(),
        });
        if forgets_comment {
            fields[EDITOR_COMMENT] = "".into();
        }
        self.update(fields);
        Ok(())
    }

    pub(super) async fn approve(mut self, old: Option<&Object>) -> Result<(), ApiError> {
        self.read_targets().await?;
        if self.of.is_reviewed && !self.cx.unit.is_as_reviewed(&self.records()) {
            let problem = "Something was written since the review was requested";
            return Err(refuse(Refusal::Invalid(problem)));
        }
        let content = self.content().await?;
        self.create_targets();
        self.plan(self.of.targets().cloned().collect(), Some(&content));
        if let Some(review) = self.reviewing(EventName::ReviewApproved, old, None) {
            let destination = self.of.destination.clone();
            self.plan_review_event(&destination, review);
        }
        let records = self.records();
        self.unit().end_editing(&records, false);
        let (user, date) = (self.user(), self.date());
        self.update(json!({
            "status": SIGNED,
            "last_review_by": user.clone(),
            "last_review_date": date.clone(),
            "last_signature_by": user,
            "last_signature_date": date,
        }));
        Ok(())
    }

    pub(super) async fn resign(mut self, status: Value) -> Result<(), ApiError> {
        self.read_targets().await?;
        self.check_targets()?;
        self.plan(self.of.targets().cloned().collect(), None);
        let (user, date) = (self.user(), self.date());
        self.update(json!({
            "status": status,
            "last_signature_by": user,
            "last_signature_date": date,
        }));
        Ok(())
    }

    pub(super) async fn roll_back(mut self, old: Option<&Object>) -> Result<(), ApiError> {
        self.read_targets().await?;
        self.check_targets()?;
        let records = self.records();
        let destination = self.of.destination.children(Kind::Record);
        publish::settle(self.cx.api, self.cx.unit, &destination).await?;
        let source = self.content().await?;
        let published = Records::read(&self.cx.api.store, self.cx.unit, &destination).await?;
        let changes = published.changes_of(&source)?;
        let review = self.reviewing(EventName::ReviewCanceled, old, None);
        let review = review.map(|review| ReviewEvent {
            changes: changes.len(),
            ..review
        });
        match changes.len() > MAX_IN_PLACE {
            true => self.take_back_many(changes, &source).await?,
            false => self.take_back(changes).await?,
        }
        if let Some(preview) = self.of.preview.clone() {
            // What was changed of the source itself is not taken back, nor shown as if it were published.
            let publication = Publication {
                records: Some(published.shared()),
                review,
                ..Publication::default()
            };
            self.unit().plan_publication(&preview, publication);
        } else if let Some(review) = review {
            publish::add_review_event(self.unit(), review, &[]);
        }
        self.unit().end_editing(&records, false);
        let (user, date) = (self.user(), self.date());
        self.update(json!({
            "status": SIGNED,
            "last_edit_by": user,
            "last_edit_date": date,
            "last_editor_comment": "",
            "last_reviewer_comment": "",
        }));
        Ok(())
    }

    /// Has records of the source be these again.
    async fn take_back(&mut self, changes: Changes) -> Result<(), ApiError> {
        let records = self.records();
        let uris = changes.keys().map(|id| records.clone().object(&**id));
        let needs = Needs {
            objects: uris.collect(),
            lists: [records.clone()].into(),
            ..Needs::default()
        };
        self.read(needs).await?;
        for (id, data) in changes {
            let uri = records.clone().object(id);
            let unit = self.unit();
            let kept = unit.get(&uri).map(|live| live.permissions.clone());
            match (kept, data) {
                (Some(permissions), Some(data)) => _ = unit.update(&uri, data, permissions, None),
                (None, Some(data)) => {
                    _ = unit.create(&uri, data, Permissions::default(), None);
                }
                (Some(_), None) => _ = unit.delete(&uri, None),
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// The same of more than fits into a transaction. The permissions of what stays are read 100 at once and kept alone.
    async fn take_back_many(&mut self, changes: Changes, source: &Records) -> Result<(), ApiError> {
        let records = self.records();
        let store = &self.cx.api.store;
        let stays = |id: &&String| source.times().contains_key(*id);
        let ids: Vec<_> = changes.keys().filter(stays).cloned().collect();
        let mut kept = BTreeMap::new();
        for ids in ids.chunks(READ_AT_ONCE) {
            let keys = ids
                .iter()
                .map(|id| Key::object(&records.clone().object(&**id)));
            let found = store.read(&keys.collect::<Vec<_>>()).await?;
            for (key, item) in found {
                let object = Object::from_item(&item)?;
                kept.extend(object.permissions().map(|it| (key.sk, it.clone())));
            }
        }
        let contents = changes.into_iter().map(|(id, data)| {
            let written = self.cx.unit.get(&records.clone().object(&*id));
            let written = written.map(|live| live.permissions.clone());
            let content = match data {
                Some(data) => Content::Live {
                    data,
                    permissions: written.or_else(|| kept.remove(&id)).unwrap_or_default(),
                },
                None => Content::Deleted,
            };
            (id, content)
        });
        let contents: Vec<_> = contents.collect();
        let ids: Vec<_> = contents.iter().map(|(id, _)| id.clone()).collect();
        self.unit().write_in_layer(&records, contents);
        for id in ids {
            let uri = records.clone().object(&*id);
            let before = source.times().get(&id).copied();
            self.unit().add_layer_write_event(&uri, before);
        }
        Ok(())
    }
}
