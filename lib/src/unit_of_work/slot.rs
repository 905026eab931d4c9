//! The unit of work's state of one object: as it was read, and as it is to be written.

use crate::resource::ObjectUri;
use crate::store::{Object, Write};

/// One object as it was read, and as it is to be written.
#[derive(Clone, Debug)]
pub(super) struct ObjectSlot {
    pub(super) read: Option<Object>,
    pub(super) written: Option<Object>,
    /// The intermediate states of a large group, one transaction each ([`super::members`]).
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

    /// Each step as a slot of its own; the last one leads to the object to be written.
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
