//! The target of a request, from the ids in its path.

use crate::resource::{Kind, ListUri, ObjectUri};

/// The target of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The server, or everything in it.
    Server,
    /// Something else, with this name.
    Named(String),
    /// One object: its own path, or a `POST` to its list.
    Object {
        /// Its URI, as the client sent it.
        uri: ObjectUri,
        /// Whether its id was generated just now, so that it cannot exist yet.
        is_new: bool,
    },
    /// The objects of one kind under one parent.
    List(ListUri),
    /// The changeset of this collection.
    Changeset(ObjectUri),
    /// Something else of this object that is none itself, as the history of a bucket.
    Within(ObjectUri),
}

impl Target {
    /// The target with the same ids in another bucket.
    pub fn in_bucket(&self, bucket: &str) -> Self {
        match self {
            Self::Object { uri, is_new } => Self::Object {
                uri: uri.in_bucket(bucket),
                is_new: *is_new,
            },
            Self::List(list) => Self::List(list.in_bucket(bucket)),
            Self::Changeset(uri) => Self::Changeset(uri.in_bucket(bucket)),
            Self::Within(uri) => Self::Within(uri.in_bucket(bucket)),
            other => other.clone(),
        }
    }

    /// The id of the bucket that the object is or is in, or that the list is in.
    pub fn bucket_id(&self) -> Option<&str> {
        match self {
            Self::Object { uri, .. } if uri.kind() != Kind::Account => Some(uri.bucket_id()),
            Self::List(list) => list.parent().map(ObjectUri::bucket_id),
            Self::Changeset(uri) | Self::Within(uri) => Some(uri.bucket_id()),
            _ => None,
        }
    }

    /// The object itself, or what the list or something else is under.
    pub fn object(&self) -> Option<&ObjectUri> {
        match self {
            Self::Object { uri, .. } | Self::Within(uri) => Some(uri),
            Self::List(list) => list.parent(),
            _ => None,
        }
    }
}
