//! The stored resources: buckets, groups, collections, records and accounts, and their URIs.
//!
//! The kinds differ by data only ([`Kind`]); an [`ObjectUri`] names one object and knows its
//! ancestors, a [`ListUri`] names the objects of one kind under one parent.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// The greatest length of an id in bytes. Kinto sets none; DynamoDB's keys (1,024 and 2,048 bytes) must hold a path of
/// three.
pub const MAX_ID_LENGTH: usize = 255;

/// Returns `true` if `id` may name an object: letters, digits, `-` and `_`, the first neither `-` nor `_`.
pub fn is_valid_id(id: &str) -> bool {
    let bytes = id.as_bytes();
    bytes.len() <= MAX_ID_LENGTH
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// The kinds of object, Kinto's *resources*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The top level.
    Bucket,
    /// A set of principals, in a bucket.
    Group,
    /// A list of records, in a bucket.
    Collection,
    /// A JSON object, in a collection.
    Record,
    /// A user with a password. Not in a bucket.
    Account,
}

impl Kind {
    /// Every kind, parents before children.
    pub const ALL: [Self; 5] = [
        Self::Bucket,
        Self::Group,
        Self::Collection,
        Self::Record,
        Self::Account,
    ];

    /// Kinto's `resource_name`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bucket => "bucket",
            Self::Group => "group",
            Self::Collection => "collection",
            Self::Record => "record",
            Self::Account => "account",
        }
    }

    /// The path segment of the list.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Bucket => "buckets",
            Self::Group => "groups",
            Self::Collection => "collections",
            Self::Record => "records",
            Self::Account => "accounts",
        }
    }

    /// The kind called `name`; `None` if there is none.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The permissions that an object of this kind can carry.
    pub const fn permissions(self) -> &'static [&'static str] {
        match self {
            Self::Bucket => &["read", "write", "collection:create", "group:create"],
            Self::Collection => &["read", "write", "record:create"],
            Self::Group | Self::Record | Self::Account => &["read", "write"],
        }
    }

    /// Returns `true` if `id` may name an object of this kind: [`is_valid_id`], and for accounts also `+`, `.` and `@`.
    pub fn is_valid_id(self, id: &str) -> bool {
        match self {
            Self::Account => is_valid_id(&id.replace(['+', '.', '@'], "-")),
            _ => is_valid_id(id),
        }
    }

    /// A new, unguessable id: a UUID for a record, a short name for the others (Kinto 26.5).
    pub fn new_id(self) -> String {
        const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
        let uuid = Uuid::new_v4();
        if self == Self::Record {
            return uuid.to_string();
        }
        // All but six bits of these bytes are random; the first letter is neither `-` nor `_`.
        let [rest @ .., first] = &uuid.into_bytes()[8..] else {
            return uuid.to_string();
        };
        let letter = |byte: &u8, among: usize| char::from(LETTERS[usize::from(*byte) % among]);
        let first = letter(first, LETTERS.len() - 2);
        std::iter::once(first)
            .chain(rest.iter().map(|byte| letter(byte, LETTERS.len())))
            .collect()
    }

    /// The kinds of an object's children.
    pub const fn children(self) -> &'static [Kind] {
        match self {
            Self::Bucket => &[Self::Group, Self::Collection],
            Self::Collection => &[Self::Record],
            Self::Group | Self::Record | Self::Account => &[],
        }
    }
}

/// Identifies one object by its kind, its id and its parent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectUri {
    list: ListUri,
    id: String,
}

impl ObjectUri {
    /// `/buckets/{id}`.
    pub fn bucket(id: impl Into<String>) -> Self {
        ListUri::buckets().object(id)
    }

    /// `/accounts/{id}`.
    pub fn account(id: impl Into<String>) -> Self {
        ListUri::accounts().object(id)
    }

    /// `/buckets/{bucket}/collections/{id}`.
    pub fn collection(bucket: impl Into<String>, id: impl Into<String>) -> Self {
        Self::bucket(bucket).children(Kind::Collection).object(id)
    }

    /// `/buckets/{bucket}/groups/{id}`.
    pub fn group(bucket: impl Into<String>, id: impl Into<String>) -> Self {
        Self::bucket(bucket).children(Kind::Group).object(id)
    }

    /// Parses a URI of the form for an object's kind, e.g. `/buckets/a/collections/b`.
    ///
    /// `None` if it has another form or an id is not valid.
    pub fn parse(uri: &str) -> Option<Self> {
        let segments: Vec<&str> = uri.strip_prefix('/')?.split('/').collect();
        let parsed = match segments.as_slice() {
            ["accounts", account] => Self::account(*account),
            ["buckets", bucket] => Self::bucket(*bucket),
            ["buckets", bucket, "collections", collection] => {
                Self::collection(*bucket, *collection)
            }
            ["buckets", bucket, "groups", group] => Self::group(*bucket, *group),
            [
                "buckets",
                bucket,
                "collections",
                collection,
                "records",
                record,
            ] => {
                let records = Self::collection(*bucket, *collection).children(Kind::Record);
                records.object(*record)
            }
            _ => return None,
        };
        parsed.is_valid().then_some(parsed)
    }

    /// Returns `true` if its id and those of its ancestors are valid, so that it may exist.
    pub fn is_valid(&self) -> bool {
        self.lineage().all(Self::has_valid_id)
    }

    /// Returns `true` if its own id is valid.
    pub fn has_valid_id(&self) -> bool {
        self.kind().is_valid_id(&self.id)
    }

    /// The kind of the object.
    pub fn kind(&self) -> Kind {
        self.list.kind
    }

    /// The object's own id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The list that the object is in.
    pub fn list(&self) -> &ListUri {
        &self.list
    }

    /// The object's parent; `None` for a bucket or an account.
    pub fn parent(&self) -> Option<&ObjectUri> {
        self.list.parent()
    }

    /// This object, its parent, and so on up to the root.
    pub fn lineage(&self) -> impl Iterator<Item = &ObjectUri> {
        std::iter::successors(Some(self), |uri| uri.parent())
    }

    /// The list of children of `kind`.
    pub fn children(&self, kind: Kind) -> ListUri {
        ListUri {
            parent: Some(Arc::new(self.clone())),
            kind,
        }
    }

    /// The child lists: none for a group or a record.
    pub fn child_lists(&self) -> impl Iterator<Item = ListUri> + '_ {
        self.kind()
            .children()
            .iter()
            .map(|kind| self.children(*kind))
    }

    /// The object with the same ids in another bucket; for a bucket, that bucket.
    pub fn in_bucket(&self, bucket: &str) -> Self {
        match self.parent() {
            Some(_) => self.list.in_bucket(bucket).object(&*self.id),
            None => Self::bucket(bucket),
        }
    }

    /// The bucket that contains this object, or the object itself if it is a bucket or an account.
    pub fn bucket_uri(&self) -> &ObjectUri {
        self.lineage().last().unwrap_or(self)
    }

    /// The id of the bucket that contains this object, or of the object itself if it is a bucket or an account.
    pub fn bucket_id(&self) -> &str {
        &self.bucket_uri().id
    }
}

impl fmt::Display for ObjectUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.list, self.id)
    }
}

/// Identifies the list of objects of one kind under one parent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListUri {
    /// Shared by the objects of the list.
    parent: Option<Arc<ObjectUri>>,
    kind: Kind,
}

impl ListUri {
    /// `/buckets`.
    pub fn buckets() -> Self {
        Self {
            parent: None,
            kind: Kind::Bucket,
        }
    }

    /// `/accounts`.
    pub fn accounts() -> Self {
        Self {
            parent: None,
            kind: Kind::Account,
        }
    }

    /// The kind of the listed objects.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The list's parent; `None` for the lists of buckets and of accounts.
    pub fn parent(&self) -> Option<&ObjectUri> {
        self.parent.as_deref()
    }

    /// The list with the same ids in another bucket; the list of buckets itself is in none.
    pub fn in_bucket(&self, bucket: &str) -> Self {
        match self.parent() {
            Some(parent) => parent.in_bucket(bucket).children(self.kind),
            None => self.clone(),
        }
    }

    /// The object with that id in this list.
    pub fn object(self, id: impl Into<String>) -> ObjectUri {
        ObjectUri {
            list: self,
            id: id.into(),
        }
    }
}

impl fmt::Display for ListUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = &self.parent {
            parent.fmt(f)?;
        }
        write!(f, "/{}", self.kind.plural())
    }
}

/// A word that is no URI of a bucket or collection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no URI of a bucket or collection")]
pub struct NotACollection(String);

/// A set of collections, given by their URIs or by those of whole buckets.
///
/// Ids are compared whole: `/buckets/main` does not contain `/buckets/main-preview`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectionSet(Vec<ObjectUri>);

impl CollectionSet {
    /// Reads URIs separated by white space.
    ///
    /// # Errors
    /// Names the first word that is not valid.
    pub fn parse(words: &str) -> Result<Self, NotACollection> {
        words
            .split_whitespace()
            .map(|word| {
                // Remote Settings' own files have trailing slashes.
                ObjectUri::parse(word.strip_suffix('/').unwrap_or(word))
                    .filter(|uri| matches!(uri.kind(), Kind::Bucket | Kind::Collection))
                    .ok_or_else(|| NotACollection(word.to_owned()))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Returns `true` if the set contains the collection `collection` of the bucket `bucket`.
    pub fn contains(&self, bucket: &str, collection: &str) -> bool {
        self.0.iter().any(|uri| {
            uri.bucket_id() == bucket && (uri.kind() == Kind::Bucket || uri.id() == collection)
        })
    }

    /// Returns `true` if the object at `uri` is one of the set, or a descendant of one.
    pub fn holds(&self, uri: &ObjectUri) -> bool {
        uri.lineage().any(|uri| self.0.contains(uri))
    }

    /// Returns `true` if the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The given URIs.
    pub fn uris(&self) -> &[ObjectUri] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_built_from_the_lineage() {
        let record = ObjectUri::collection("a", "b")
            .children(Kind::Record)
            .object("c");
        assert_eq!(record.to_string(), "/buckets/a/collections/b/records/c");
        assert_eq!(
            record.list().to_string(),
            "/buckets/a/collections/b/records"
        );
        assert_eq!(record.bucket_id(), "a");
        let lineage: Vec<_> = record.lineage().map(ObjectUri::kind).collect();
        assert_eq!(lineage, [Kind::Record, Kind::Collection, Kind::Bucket]);
    }

    #[test]
    fn ids_are_kintos_and_bounded() {
        for good in ["a", "9", "a-b_C", &"x".repeat(MAX_ID_LENGTH)] {
            assert!(is_valid_id(good), "{good}");
        }
        for id in ["me@example.org", "a+b", "a.b"] {
            assert!(Kind::Account.is_valid_id(id) && !is_valid_id(id), "{id}");
        }
        assert!(!Kind::Account.is_valid_id("@a") && !Kind::Account.is_valid_id("a,b"));
        for bad in [
            "",
            "-a",
            "_a",
            "a b",
            "a/b",
            "é",
            "a#",
            "*",
            &"x".repeat(MAX_ID_LENGTH + 1),
        ] {
            assert!(!is_valid_id(bad), "{bad}");
        }
    }

    #[test]
    fn a_bucket_takes_in_its_collections_but_not_those_of_a_longer_name() {
        let set = CollectionSet::parse("/buckets/main\n /buckets/x/collections/y").unwrap();
        assert!(set.contains("main", "anything"));
        assert!(!set.contains("main-preview", "anything"));
        assert!(set.contains("x", "y"));
        assert!(!set.contains("x", "z"));
    }

    #[test]
    fn a_set_names_the_word_that_it_cannot_read() {
        assert_eq!(
            CollectionSet::parse("/buckets/a main"),
            Err(NotACollection("main".to_owned()))
        );
        assert_eq!(
            CollectionSet::parse("/buckets/a/collections"),
            Err(NotACollection("/buckets/a/collections".to_owned()))
        );
        assert_eq!(
            CollectionSet::parse("/buckets/a/groups/b"),
            Err(NotACollection("/buckets/a/groups/b".to_owned()))
        );
        assert_eq!(
            CollectionSet::parse("/buckets/-a"),
            Err(NotACollection("/buckets/-a".to_owned()))
        );
    }
}
