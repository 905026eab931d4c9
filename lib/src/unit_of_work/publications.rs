//! What a unit of work has to do with publications ([`crate::store::publication`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::UnitOfWork;
use super::list_clock::{Editor, ListChange};
use crate::event::{Action, EventName, Impacted, Review};
use crate::permission::Permissions;
use crate::resource::{ListUri, ObjectUri};
use crate::store::publication::{self, Layer, PublicationWrite, Published};
use crate::store::{Content, Generation, Object};
use crate::timestamp::Timestamp;

/// An object that was written, with what it was before.
#[derive(Clone, Debug)]
pub struct JournalEntry {
    /// Which.
    pub uri: ObjectUri,
    /// What was done to it.
    pub action: Action,
    /// What it was; `None` where there was nothing, not even a tombstone.
    pub old: Option<Object>,
}

/// What is to become of a published collection when the request, or batch, ends.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// Its records: the JSON of their fields but for `id` and `last_modified`, by id. `None` leaves them as they are.
    pub records: Option<Arc<BTreeMap<String, String>>>,
    /// Fields of the collection itself.
    pub metadata: Map<String, Value>,
    /// The review event to be sent with it; the publication adds the number and the size of the changes.
    pub review: Option<ReviewEvent>,
    /// Whether it gets another timestamp though its records stay as they are.
    pub is_renewed: bool,
}

/// The effect of a command on the review of a source.
#[derive(Clone, Debug)]
pub struct ReviewEvent {
    /// The source.
    pub source: ObjectUri,
    /// The user who gave the command.
    pub user_id: Option<String>,
    /// The event.
    pub event: EventName,
    /// The user's comment.
    pub comment: Option<String>,
    /// How many records it changes beside those of what is published.
    pub changes: usize,
    /// The source before the command and after it.
    pub impacted: Impacted,
}

impl UnitOfWork {
    /// The same, which keeps a journal of what it writes.
    pub fn with_journal(self, is_kept: bool) -> Self {
        Self {
            journal: is_kept.then(Vec::new),
            ..self
        }
    }

    /// What was written since this was last asked, in order; nothing where no journal is kept.
    pub fn take_journal(&mut self) -> Vec<JournalEntry> {
        self.journal
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    pub(super) fn note_in_journal(&mut self, uri: &ObjectUri, action: Action) {
        if self.journal.is_none() {
            return;
        }
        let slot = self.objects.get(uri);
        let old = slot.and_then(|slot| slot.written.as_ref().or(slot.read.as_ref()));
        let entry = JournalEntry {
            uri: uri.clone(),
            action,
            old: old.cloned(),
        };
        self.journal.get_or_insert_default().push(entry);
    }

    /// Has a published collection become something when the request ends. Of several the last one counts.
    pub fn plan_publication(&mut self, target: &ObjectUri, publication: Publication) {
        let planned = self.publications.entry(target.clone()).or_default();
        planned.records = publication.records.or(planned.records.take());
        planned.metadata.extend(publication.metadata);
        planned.is_renewed |= publication.is_renewed;
        planned.review = publication.review.or(planned.review.take());
    }

    /// Tells of a review, behind all that is told of writes; of `changes` that it made, and of their bytes, if anything.
    pub fn add_review_event(
        &mut self,
        reviewing: ReviewEvent,
        changes: Option<usize>,
        bytes: Option<usize>,
    ) {
        let timestamp = self.timestamp_of(reviewing.source.list());
        let review = Review {
            event: reviewing.event,
            comment: reviewing.comment,
            changes_count: changes,
            changes_size_bytes: bytes,
        };
        let ReviewEvent {
            source,
            user_id,
            impacted,
            ..
        } = reviewing;
        self.events
            .add_review(&source, user_id, review, impacted, timestamp);
    }

    /// What published collections are to become.
    pub fn take_publications(&mut self) -> BTreeMap<ObjectUri, Publication> {
        std::mem::take(&mut self.publications)
    }

    /// What was read of a list's publications, under the parent that the unit sees.
    pub fn published_in(&self, list: &ListUri) -> Published {
        self.list_as_read(list)
            .map(|list| list.published.clone())
            .unwrap_or_default()
    }

    /// The timestamp of a list as it was read, before what the unit writes; where the unit opens the list, the new one.
    pub fn timestamp_read(&self, list: &ListUri) -> Timestamp {
        let slot = self.lists.get(list);
        slot.map_or(Timestamp(0), |slot| match slot.change {
            ListChange::Replaced => slot.now.timestamp,
            _ => slot
                .read
                .as_ref()
                .map_or(Timestamp(0), |read| read.timestamp),
        })
    }

    /// The layer that a list is to be read with.
    pub fn layer_of(&self, list: &ListUri) -> Option<Layer> {
        self.published_in(list).layer
    }

    /// The layers that the commit is to show, with their lists.
    pub fn layers_to_settle(&self) -> Vec<(ListUri, Layer)> {
        let lists = self.lists.iter();
        let shown = lists.filter_map(|(uri, slot)| {
            let layer = slot.show.as_ref()?.layer.clone()?;
            Some((uri.clone(), layer))
        });
        shown.collect()
    }

    /// Has the list's item show a publication when it is as it was read; `at` is the latest time of what changes.
    pub fn publish(&mut self, list: &ListUri, at: Option<Timestamp>, show: PublicationWrite) {
        self.list(list).publish(at, show);
    }

    /// Makes this a command with the list as its source: nothing else may have been written to the list since it was read.
    /// After it, what the list holds is under review, or not.
    pub fn end_editing(&mut self, list: &ListUri, is_reviewed: bool) {
        self.list(list).end_editing(is_reviewed);
    }

    /// Whether what a list held when it was read is what is under review, as far as that was noted.
    pub fn is_as_reviewed(&self, list: &ListUri) -> bool {
        let slot = self.lists.get(list);
        let read = slot.and_then(|slot| slot.read.as_ref());
        read.is_none_or(|read| {
            let state = publication::state(read.timestamp, read.backdated_writes);
            let reviewed = read.published.reviewed.as_ref();
            reviewed.is_none_or(|reviewed| *reviewed == state)
        })
    }

    /// Whether the user is the editor of a list; then the commit relies on it.
    pub fn rely_on_editor(&mut self, list: &ListUri, user: &str) -> bool {
        let slot = self.list(list);
        match &slot.source.editor {
            Some(Editor::New(editor) | Editor::Same(editor)) => editor == user,
            None if slot.source.is_exact => false,
            None => {
                let read = slot.read.as_ref();
                let editor = read.and_then(|read| read.published.editor.as_deref());
                let is_editor = editor == Some(user);
                if is_editor {
                    slot.source.editor = Some(Editor::Same(user.to_owned()));
                }
                is_editor
            }
        }
    }

    /// Makes the user the editor of a list.
    pub fn begin_editing(&mut self, list: &ListUri, user: &str) {
        self.list(list).source.editor = Some(Editor::New(user.to_owned()));
    }

    /// Writes objects of a list, more than fits into a transaction: each with what it is to be, under a time of its own, by a layer
    /// that is written before the commit, which shows it. What the unit writes to their places behind that counts.
    pub fn write_in_layer(&mut self, list: &ListUri, contents: Vec<(String, Content)>) {
        let parent = self.generation_of(list).unwrap_or(Generation::ROOT);
        let now = self.now;
        let generation = Generation::unique();
        let mut objects = HashMap::with_capacity(contents.len());
        for (id, content) in contents {
            // What was written to its place before goes: this is later.
            if let Some(slot) = self.objects.get_mut(&list.clone().object(&*id)) {
                slot.written = None;
            }
            let object = Object {
                last_modified: self.list(list).next_timestamp(now, None),
                generation: generation.clone(),
                parent: parent.clone(),
                content,
            };
            objects.insert(id, object);
        }
        let layer = self.layer_writes.entry(list.clone()).or_default();
        layer.extend(objects.iter().map(|(id, it)| (id.clone(), it.clone())));
        self.insert_layer_objects(list, objects);
    }

    /// The objects to be written in layers, without those that the unit has written to their places since.
    pub fn take_layer_writes(&mut self) -> Vec<(ListUri, Vec<(String, Object)>)> {
        let layers = std::mem::take(&mut self.layer_writes).into_iter();
        let rest = layers.map(|(list, objects)| {
            let objects = objects.into_iter();
            let kept = objects.filter(|(id, _)| !self.is_written(&list.clone().object(&**id)));
            let kept: Vec<_> = kept.collect();
            (list, kept)
        });
        rest.collect()
    }

    /// Records what was written to an object in a layer, for listeners; of `many` what identifies it alone.
    pub fn add_layer_event(
        &mut self,
        uri: &ObjectUri,
        object: &Object,
        old: Option<&Object>,
        many: bool,
    ) {
        if !self.publishes_events() {
            return;
        }
        let action = match (&object.content, old) {
            (Content::Deleted, _) => Action::Delete,
            (_, Some(_)) => Action::Update,
            (_, None) => Action::Create,
        };
        let told = |object: &Object| match many {
            false => object.event_data(uri),
            true => object.event_identity(uri),
        };
        let impacted = Impacted {
            new: told(object),
            old: old.map(told),
        };
        let timestamp = self.timestamp_of(uri.list());
        match many {
            true => self.events.add_truncated(uri, action, impacted, timestamp),
            false => self.events.add(uri, action, impacted, timestamp),
        }
    }

    /// Records what this unit writes to an object in a layer, for listeners; `before` is the time of what was there.
    pub fn add_layer_write_event(&mut self, uri: &ObjectUri, before: Option<Timestamp>) {
        let Some(object) = self.layer_object(uri).cloned() else {
            return;
        };
        let old = before.map(|last_modified| Object {
            last_modified,
            content: Content::Live {
                data: Map::new(),
                permissions: Permissions::default(),
            },
            ..object.clone()
        });
        self.add_layer_event(uri, &object, old.as_ref(), true);
    }

    /// Takes in what the layer of a list holds: of the list, objects or all of it.
    pub fn insert_layer_objects(&mut self, list: &ListUri, objects: HashMap<String, Object>) {
        self.layer_objects
            .entry(list.clone())
            .or_default()
            .extend(objects);
    }

    /// An object that the layer of its list holds.
    pub(super) fn layer_object(&self, uri: &ObjectUri) -> Option<&Object> {
        self.layer_objects.get(uri.list())?.get(uri.id())
    }
}
