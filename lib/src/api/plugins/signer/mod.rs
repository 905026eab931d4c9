//! `kinto_remote_settings.signer`: sources that people write, whose contents are reviewed, signed, and published to
//! collections that the stack alone writes ([decision 25](../../../../../docs/decisions/025-signer.md)).
//!
//! A request goes: its handler → [`after_call`], which decides on what was written ([`transitions`]), carries out its
//! command at its place in the batch, and plans what is to be published → when all of a batch is answered, [`publish`] writes what
//! changes to layers, signs, and has the unit of work show it in the transaction that commits the request.

pub mod certificates;
mod publish;
pub mod reading;
mod records;
pub mod refresh;
pub mod transitions;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use self::records::{Changes, Records};
use self::transitions::{Actor, Refusal, SIGNED, STATUS, Transition, WORK_IN_PROGRESS};
use crate::api::auth::authorization::ObjectRequest;
use crate::api::dispatch::context::Context;
use crate::api::plugins::Plugin;
use crate::api::web::error::ApiError;
use crate::event::{Action, EventName, Impacted, Origin, OriginTarget, iso_8601};
use crate::permission::{EVERYONE, Permissions};
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::settings::{PluginName, Role, SignedResource, SignerSettings};
use crate::signer::resources::Resource;
use crate::store::{Content, Key, Object};
use crate::timestamp::Timestamp;
use crate::unit_of_work::publications::{JournalEntry, Publication, ReviewEvent};
use crate::unit_of_work::{Needs, UnitOfWork};

/// The user that the stack is when it publishes.
pub const PLUGIN_USER: &str = "plugin:remote-settings";
/// Fields of a source that go to what is published from it, whenever that is signed.
const PUBLISHED_FIELDS: [&str; 5] = ["flags", "attachment", "schema", "sort", "displayFields"];
/// The field that an editor says something in to reviewers.
const EDITOR_COMMENT: &str = "last_editor_comment";
/// The field in which a reviewer answers.
const REVIEWER_COMMENT: &str = "last_reviewer_comment";
/// Records that a rollback writes to their places at most: they fit into one transaction beside all else. More are written in a layer;
/// of more, as of more that are published at once, listeners hear what identifies each.
const MAX_IN_PLACE: usize = 75;
/// Items of one `BatchGetItem` at most.
const READ_AT_ONCE: usize = 100;

/// The plugin.
pub static PLUGIN: Plugin = Plugin {
    capability: "signer",
    is_on: |settings| settings.includes.has(PluginName::Signer),
    describe: |api| {
        let signer = api.settings.api.signer.as_ref();
        let description = signer.map(describe);
        Box::pin(async { description })
    },
    endpoints: &[],
    on_write: Some(|api, unit, _| Box::pin(publish::publish(api, unit))),
};

fn describe(signer: &SignerSettings) -> Value {
    let place = |uri: &ObjectUri| match uri.kind() {
        Kind::Bucket => json!({"bucket": uri.id(), "collection": null}),
        _ => json!({"bucket": uri.bucket_id(), "collection": uri.id()}),
    };
    let describe = |line: &Resource| {
        let mut described = json!({"source": place(&line.source)});
        if let Some(preview) = &line.preview {
            described["preview"] = place(preview);
        }
        described["destination"] = place(&line.destination);
        let collection = (line.source.kind() == Kind::Collection).then(|| line.source.id());
        let is_reviewed = signer.is_reviewed(line.source.bucket_id(), collection);
        if is_reviewed != signer.to_review_enabled {
            described["to_review_enabled"] = is_reviewed.into();
        }
        described
    };
    json!({
        "description": "What is reviewed and published here is signed.",
        "url": "https://github.com/mozilla/remote-settings/tree/main/kinto-remote-settings",
        "version": env!("CARGO_PKG_VERSION"),
        "resources": signer.resources.0.iter().map(describe).collect::<Vec<_>>(),
        "to_review_enabled": signer.to_review_enabled,
        "plugin_userid": PLUGIN_USER,
        "group_check_enabled": true,
        "editors_group": "{collection_id}-editors",
        "reviewers_group": "{collection_id}-reviewers",
    })
}

/// The groups of those who may request reviews of a source, and of those who may approve.
fn groups(source: &ObjectUri) -> [ObjectUri; 2] {
    ["editors", "reviewers"]
        .map(|name| ObjectUri::group(source.bucket_id(), format!("{}-{name}", source.id())))
}

/// Whether the user does not come to own what a write of theirs leaves at `uri`: what is published, a source, or a record of
/// one by who may write the whole source. Whoever leaves its editors shall write no more.
pub fn is_owned_by_nobody(
    signer: Option<&SignerSettings>,
    uri: &ObjectUri,
    created: bool,
    may_write_parent: impl FnOnce() -> bool,
) -> bool {
    let Some(signer) = signer else {
        return false;
    };
    let is_source = |uri: &ObjectUri| matches!(signer.role(uri), Some(Role::Source(_)));
    match uri.kind() {
        Kind::Collection => match signer.role(uri) {
            Some(Role::Source(_)) => !created,
            role => role.is_some(),
        },
        Kind::Record => uri.parent().is_some_and(is_source) && may_write_parent(),
        _ => false,
    }
}

/// Looks at what a call has just written, and does what follows from it.
///
/// # Errors
/// What it is refused for, and with it all of its batch: it is written already in the unit.
pub async fn after_call(cx: &mut Context<'_>) -> Result<(), ApiError> {
    let Some(signer) = cx.api.settings.api.signer.as_ref() else {
        return Ok(());
    };
    let journal = cx.unit.take_journal();
    if journal.is_empty() {
        return Ok(());
    }
    let mut edited = BTreeMap::new();
    for entry in journal {
        let uri = &entry.uri;
        match uri.kind() {
            Kind::Record => {
                let Some(role) = uri.parent().and_then(|parent| signer.role(parent)) else {
                    continue;
                };
                let Role::Source(of) = role else {
                    return Err(published());
                };
                let live = cx.unit.get(uri);
                if let Some(live) = live.filter(|_| !signer.allow_floats)
                    && records::has_floats(live.data)
                {
                    let problem = "Numbers that are no integers cannot be signed";
                    return Err(refuse(Refusal::Invalid(problem)));
                }
                edited.insert(of.source.clone(), of);
            }
            Kind::Collection => match signer.role(uri) {
                Some(Role::Target(of)) => check_target(cx, &entry, &of).await?,
                Some(Role::Source(of)) => {
                    cx.unit.set_origin(|| Some(origin(&of.source)));
                    match entry.action {
                        Action::Create => Source { cx, of }.created().await?,
                        Action::Update => Source { cx, of }.updated(&entry).await?,
                        Action::Delete => Source { cx, of }.deleted().await?,
                    }
                }
                None => {}
            },
            _ => {}
        }
    }
    for (uri, of) in edited {
        if cx.unit.get(&uri).is_some() {
            cx.unit.set_origin(|| Some(origin(&uri)));
            Source { cx, of }.edited().await?;
        }
    }
    // What the stack itself wrote.
    cx.unit.take_journal();
    Ok(())
}

fn origin(source: &ObjectUri) -> Origin {
    Origin {
        user_id: Some(PLUGIN_USER.to_owned()),
        target: OriginTarget::Object(source.clone()),
    }
}

fn refuse(refusal: Refusal) -> ApiError {
    let (is_forbidden, message) = match refusal {
        Refusal::Invalid(message) => (false, message),
        Refusal::Forbidden(message) => (true, message),
    };
    ApiError::Review {
        is_forbidden,
        message: message.to_owned(),
    }
}

fn published() -> ApiError {
    refuse(Refusal::Forbidden(
        "What is published here is written by the server alone",
    ))
}

/// Checks a write of a collection that is published to: it may be deleted when its source is gone, and otherwise be made
/// readable.
async fn check_target(
    cx: &mut Context<'_>,
    entry: &JournalEntry,
    of: &SignedResource,
) -> Result<(), ApiError> {
    let unit = &mut *cx.unit;
    if entry.action == Action::Delete {
        let objects = of.source.lineage().cloned().collect();
        let needs = Needs {
            objects,
            ..Needs::default()
        };
        unit.read_more(&cx.api.store, needs).await?;
        return match unit.get(&of.source) {
            None => Ok(()),
            Some(_) => Err(refuse(Refusal::Forbidden(
                "The collection is in use: its source is published to it",
            ))),
        };
    }
    let old = entry.old.as_ref().map(|old| &old.content);
    let (Some(Content::Live { data, permissions }), Some(new)) = (old, unit.get(&entry.uri)) else {
        return Err(published());
    };
    let other = |name: &str| new.permissions.granted(name) != permissions.granted(name);
    // What gives to write there gives nothing: it may as well go.
    let adds = ["write", "record:create"]
        .into_iter()
        .any(|name| other(name) && !new.permissions.granted(name).is_empty());
    match new.data == data && !adds {
        true => Ok(()),
        false => Err(published()),
    }
}

/// The reads that a change of a source needs: the source, its targets, and their parents.
fn needs_of(of: &SignedResource) -> Needs {
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
struct Source<'c, 'a> {
    cx: &'c mut Context<'a>,
    of: SignedResource,
}

impl Source<'_, '_> {
    fn records(&self) -> ListUri {
        self.of.source.children(Kind::Record)
    }

    fn unit(&mut self) -> &mut UnitOfWork {
        self.cx.unit
    }

    async fn read(&mut self, needs: Needs) -> Result<(), ApiError> {
        Ok(self.cx.unit.read_more(&self.cx.api.store, needs).await?)
    }

    /// Reads what is written to where a source changes, and where it is published to `targets`.
    async fn read_targets(&mut self) -> Result<(), ApiError> {
        let needs = needs_of(&self.of);
        self.read(needs).await
    }

    fn user(&self) -> Value {
        json!(self.cx.user.id)
    }

    fn date(&self) -> Value {
        date(self.cx.unit.now()).into()
    }

    /// The fields of the source.
    fn data(&self) -> Map<String, Value> {
        let live = self.cx.unit.get(&self.of.source);
        live.map(|live| live.data.clone()).unwrap_or_default()
    }

    /// Writes fields of the source as the stack, and lets its groups write it.
    fn update(&mut self, fields: Value) {
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
    fn plan(&mut self, targets: Vec<ObjectUri>, records: Option<&Records>) {
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
    fn plan_review_event(&mut self, target: &ObjectUri, review: ReviewEvent) {
        let publication = Publication {
            review: Some(review),
            ..Publication::default()
        };
        self.unit().plan_publication(target, publication);
    }

    /// The review event of the command that changed the source from `old`, with the text of a field as its comment.
    fn reviewing(
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

    /// The source's records as they are at this place in the batch.
    async fn content(&mut self) -> Result<Records, ApiError> {
        let records = self.records();
        publish::settle(self.cx.api, self.cx.unit, &records).await?;
        Records::read(&self.cx.api.store, self.cx.unit, &records).await
    }

    /// Creates what is published to where it is not there.
    fn create_targets(&mut self) {
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
    fn check_targets(&self) -> Result<(), ApiError> {
        let is_there = |target: &ObjectUri| self.cx.unit.get(target).is_some();
        match self.of.targets().all(is_there) {
            true => Ok(()),
            false => Err(refuse(Refusal::Invalid(
                "The collection that this is published to is gone; to-sign makes it again",
            ))),
        }
    }

    /// It was created: its groups and targets are, where they are not there, and it is signed.
    async fn created(mut self) -> Result<(), ApiError> {
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
    async fn updated(mut self, entry: &JournalEntry) -> Result<(), ApiError> {
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

    async fn request_review(mut self, old: Option<&Object>) -> Result<(), ApiError> {
        self.read_targets().await?;
        self.check_targets()?;
        let forgets_comment = self.of.preview.is_some() && !says(self.cx.request, EDITOR_COMMENT);
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

    async fn approve(mut self, old: Option<&Object>) -> Result<(), ApiError> {
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

    async fn resign(mut self, status: Value) -> Result<(), ApiError> {
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

    async fn roll_back(mut self, old: Option<&Object>) -> Result<(), ApiError> {
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

    /// It was deleted: its groups are, and what was published of it.
    async fn deleted(mut self) -> Result<(), ApiError> {
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
    async fn edited(mut self) -> Result<(), ApiError> {
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

/// Whether the body of a `PATCH` or `PUT` gives a field of the data.
fn says(request: &crate::api::web::request::Request, field: &str) -> bool {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    match body.as_array() {
        // JSON Patch.
        Some(operations) => {
            let path = format!("/data/{field}");
            operations
                .iter()
                .any(|operation| operation["path"] == *path)
        }
        None => body["data"].get(field).is_some(),
    }
}

/// A time as Python writes it: ISO 8601 with microseconds.
fn date(time: Timestamp) -> String {
    let date = iso_8601(time);
    format!("{}000+00:00", date.trim_end_matches('Z'))
}
