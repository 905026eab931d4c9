//! A collection as changesets show it, with what its records' list tells.

use serde_json::{Map, Value};

use crate::api::Api;
use crate::api::auth::authorization::ObjectRequest;
use crate::api::auth::credentials::Credentials;
use crate::api::auth::principals::{MAX_OTHER_BUCKETS, User};
use crate::api::lists;
use crate::api::objects::metadata;
use crate::api::summary::notes;
use crate::api::web::error::ApiError;
use crate::api::web::request::Request;
use crate::permission::Access;
use crate::resource::{ListUri, ObjectUri};
use crate::store::Generation;
use crate::store::publication::Published;
use crate::store::recent::RecentWrites;
use crate::timestamp::Timestamp;
use crate::unit_of_work::{Needs, UnitOfWork};

/// The most times that the collection is read again because it changed while its records were read.
pub const MAX_ATTEMPTS: u32 = 5;
/// The most bytes of changes to read: JSON of records of this size, compressed, could still be sent.
pub const MAX_READ: usize = 24 * 1024 * 1024;

/// A collection as of the moment that it was read.
pub struct Collection {
    /// The generation that its records are written under.
    pub generation: Generation,
    /// The time of its own item.
    pub last_modified: Timestamp,
    /// The timestamp of its records.
    pub timestamp: Timestamp,
    /// The number of transactions that wrote backdated records.
    pub backdated_writes: u64,
    /// The writes of the last transactions to its records.
    pub recent: RecentWrites,
    /// What the list of its records tells of publications.
    pub published: Published,
    /// Whether the user may write or create its records.
    pub is_writable: bool,
    /// Its fields, as a changeset shows them.
    pub metadata: Map<String, Value>,
}

impl Collection {
    /// Reads a collection with the timestamp of its records, and the user.
    ///
    /// One `TransactGetItems`: a transaction that wrote both shows in both.
    ///
    /// # Errors
    /// The user may not read the collection and all of its records, or it does not exist.
    pub async fn read(
        api: &Api,
        request: &Request,
        credentials: &Credentials,
        uri: &ObjectUri,
        records: &ListUri,
    ) -> Result<(Self, User), ApiError> {
        let mut needs = Needs::default();
        if uri.is_valid() {
            needs = lists::needs(records);
        }
        let needs = credentials.add_to(needs, &api.settings.api);
        let mut unit =
            UnitOfWork::read(&api.store.with_snapshot_reads(), Timestamp::now(), needs).await?;
        let mut user = credentials.user(&unit, &api.passwords)?;
        notes::user(user.id.as_deref());
        let groups = unit.groups_named_on(uri);
        user.add_groups(&mut unit, &api.store, &groups, MAX_OTHER_BUCKETS)
            .await?;
        let object_request = ObjectRequest {
            request,
            user: &user,
            settings: &api.settings.api,
            uri,
        };
        // A user who may only create records may read the collection, but none of its records.
        let record = records.clone().object("x");
        let of_records = ObjectRequest {
            uri: &record,
            ..object_request
        };
        if !object_request.may_read(&unit) || !of_records.may_all(&unit, Access::Read) {
            return Err(object_request.forbidden());
        }
        let is_writable = of_records.may_change(&unit);
        let unknown = || ApiError::unknown_parent(uri);
        let generation = unit.generation_of(records).ok_or_else(unknown)?;
        let live = unit.get(uri).ok_or_else(unknown)?;
        let mut metadata = metadata::with_metadata(live.data.clone(), uri.id(), live.last_modified);
        // As kinto-changes' successor does; its clients need it.
        metadata.insert("bucket".to_owned(), uri.bucket_id().into());
        let published = unit.published_in(records);
        if let Some(signatures) = &published.signatures {
            add_signatures(&mut metadata, signatures);
        }
        let collection = Self {
            generation,
            last_modified: live.last_modified,
            timestamp: unit.timestamp_of(records),
            backdated_writes: unit.backdated_writes(records),
            recent: unit.recent_writes(records),
            published,
            is_writable,
            metadata,
        };
        Ok((collection, user))
    }

    /// Returns `true` if the records are of this generation and none was backdated since the count was `backdated_writes`.
    pub fn continues(&self, generation: &Generation, backdated_writes: u64) -> bool {
        self.generation.owns(generation) && self.backdated_writes == backdated_writes
    }

    /// Whether nothing of it changed, and no record was backdated.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.continues(&other.generation, other.backdated_writes)
            && self.last_modified == other.last_modified
    }

    /// The entity tag of the collection with its records as of `timestamp`. Neither time alone identifies that state;
    /// where records were backdated, not even both do.
    pub fn etag(&self, timestamp: Timestamp) -> String {
        match self.backdated_writes {
            0 => format!("\"{timestamp}-{}\"", self.last_modified),
            past => format!("\"{timestamp}-{}-{past}\"", self.last_modified),
        }
    }
}

/// Shows signatures as clients look for them: all, and the first alone for old clients. They come from the item that shows
/// what they are over, and replace what the collection's own item says.
fn add_signatures(metadata: &mut Map<String, Value>, signatures: &str) {
    // What the stack wrote is JSON.
    let signatures: Value = serde_json::from_str(signatures).unwrap_or_default();
    metadata.insert("signature".to_owned(), signatures[0].clone());
    metadata.insert("signatures".to_owned(), signatures);
}
