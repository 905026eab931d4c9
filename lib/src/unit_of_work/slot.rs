//! What a unit of work holds of one object: as it was read, and as it is to be.

use crate::resource::ObjectUri;
use crate::store::{Object, Write};

/// What was read of one object and what is to be written.
#[derive(Clone, Debug)]
pub(super) struct ObjectSlot {
    pub(super) read: Option<Object>,
    pub(super) written: Option<Object>,
    /// What a large group is on its way to what is to be written, one transaction each ([`super::members`]).
    pub(super) steps: Vec<Object>,
}

impl ObjectSlot {
    pub(super) fn new(read: Option<Object>) -> Self {
        Self {
            read,
            written: None,
            steps: vec![],
        }
    }

    /// Each of its steps as a slot of its own, the last one to what is to be written.
    pub(super) fn into_steps(self) -> impl Iterator<Item = Self> {
        let mut read = self.read;
        self.steps
            .into_iter()
            .chain(self.written)
            .map(move |object| Self {
                read: read.replace(object.clone()),
                written: Some(object),
                steps: vec![],
            })
    }

    pub(super) fn into_write(self, uri: ObjectUri) -> Option<Write> {
        let replaces = self.read.as_ref().map(Object::version);
        self.written.map(|object| Write::Object {
            uri,
            object,
            replaces,
        })
    }
}
