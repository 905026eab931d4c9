//! What a unit of work has to do with publications ([`crate::store::publication`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::UnitOfWork;
use super::list_clock::{Editor, ListChange};
use crate::event::Action;
use crate::resource::{ListUri, ObjectUri};
use crate::store::Object;
use crate::store::publication::{self, Layer, Published, Show};
use crate::timestamp::Timestamp;

/// An object that was written, with what it was before.
#[derive(Clone, Debug)]
pub struct Journaled {
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
    /// Whether it gets another timestamp though its records stay as they are.
    pub is_renewed: bool,
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
    pub fn take_journal(&mut self) -> Vec<Journaled> {
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
        let entry = Journaled {
            uri: uri.clone(),
            action,
            old: old.cloned(),
        };
        self.journal.get_or_insert_default().push(entry);
    }

    /// Has a published collection become something when the request ends. Of several the last one counts.
    pub fn plan(&mut self, target: &ObjectUri, publication: Publication) {
        let planned = self.publications.entry(target.clone()).or_default();
        planned.records = publication.records.or(planned.records.take());
        planned.metadata.extend(publication.metadata);
        planned.is_renewed |= publication.is_renewed;
    }

    /// What published collections are to become.
    pub fn take_plans(&mut self) -> BTreeMap<ObjectUri, Publication> {
        std::mem::take(&mut self.publications)
    }

    /// What was read of a list's publications, under the parent that the unit sees.
    pub fn published_in(&self, list: &ListUri) -> Published {
        let read = self.lists.get(list).and_then(|slot| slot.read.as_ref());
        let generation = self.generation_of(list);
        read.filter(|list| Some(&list.generation) == generation.as_ref())
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
    pub fn layers_to_show(&self) -> Vec<(ListUri, Layer)> {
        let lists = self.lists.iter();
        let shown = lists.filter_map(|(uri, slot)| {
            let layer = slot.show.as_ref()?.layer.clone()?;
            Some((uri.clone(), layer))
        });
        shown.collect()
    }

    /// Has the list's item show a publication when it is as it was read; `at` is the latest time of what changes.
    pub fn publish(&mut self, list: &ListUri, at: Option<Timestamp>, show: Show) {
        self.list(list).publish(at, show);
    }

    /// Makes this a command with the list as its source: nothing else may have been written to the list since it was read.
    /// After it, what the list holds is under review, or not.
    pub fn command(&mut self, list: &ListUri, is_reviewed: bool) {
        self.list(list).command(is_reviewed);
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
    pub fn begin_to_edit(&mut self, list: &ListUri, user: &str) {
        self.list(list).source.editor = Some(Editor::New(user.to_owned()));
    }

    /// Takes in what the layer of a list holds: of the list, objects or all of it.
    pub fn lay(&mut self, list: &ListUri, objects: HashMap<String, Object>) {
        self.laid.entry(list.clone()).or_default().extend(objects);
    }

    /// An object that the layer of its list holds.
    pub(super) fn laid(&self, uri: &ObjectUri) -> Option<&Object> {
        self.laid.get(uri.list())?.get(uri.id())
    }
}
