//! Changesets of collections that the stack publishes: records, timestamp and signatures that belong together, whatever is
//! published meanwhile ([decision 25](../../../../docs/decisions/025-signer.md)).

use std::sync::Arc;
use std::time::Duration;

use crate::api::Api;
use crate::api::auth::credentials::Credentials;
use crate::api::changes::changeset_cache::Snapshot;
use crate::api::changes::collection::{Collection, MAX_ATTEMPTS, MAX_READ};
use crate::api::web::error::ApiError;
use crate::api::web::request::Request;
use crate::resource::{ListUri, ObjectUri};
use crate::store::changeset::{Changes, ChangesQuery};
use crate::store::recent::COMMIT_PAUSES;

/// Who asks for what.
pub struct CollectionReader<'a> {
    /// The API.
    pub api: &'a Api,
    /// The request.
    pub request: &'a Request,
    /// What it says of its user.
    pub credentials: &'a Credentials,
    /// The collection.
    pub uri: &'a ObjectUri,
    /// Its records.
    pub records: &'a ListUri,
}

/// Records of a collection at one moment.
pub enum ReadRecords {
    /// All.
    Whole(Arc<Snapshot>),
    /// Those that were asked for.
    Part(Arc<Snapshot>),
}

impl CollectionReader<'_> {
    /// The collection as it is now.
    async fn collection(&self) -> Result<Collection, ApiError> {
        let Self {
            api,
            request,
            credentials,
            uri,
            records,
        } = self;
        let read = Collection::read(api, request, credentials, uri, records);
        Ok(read.await?.0)
    }
}

/// Reads records that are those of the collection: `collection` as it was read, or as it is read since.
///
/// The records of a published list are of one moment if nothing is later than the timestamp of its item, since nothing is
/// written to it but what an item has shown: a list that was read while the next publication was being settled has
/// something later, for it is read in the order of time, and what is written again moves to its end. Then it is read
/// anew from the item on, which names the signatures too. A layer does not change, and is there long after it is settled.
///
/// Where there is no layer it costs what other lists cost; with one, a `Query` of it besides.
///
/// # Errors
/// 503 when it is published anew each time that it is read, and that it is too large to be sent.
pub async fn read(
    asked: &CollectionReader<'_>,
    mut collection: Collection,
    remembered: Option<Arc<Snapshot>>,
    wanted: ChangesQuery,
) -> Result<(Collection, ReadRecords), ApiError> {
    let (store, records) = (&asked.api.store, asked.records);
    let mut pauses = COMMIT_PAUSES.into_iter();
    for _ in 0..MAX_ATTEMPTS {
        let at = collection.timestamp;
        let generation = &collection.generation;
        let remembered = remembered
            .as_ref()
            .filter(|state| collection.continues(&state.generation, state.backdated_writes))
            .filter(|state| wanted.since <= state.timestamp && state.timestamp <= at);
        // The timestamp tells a state of a published list: what it shows does not change when it is settled.
        if let Some(state) = remembered.filter(|state| state.timestamp == at) {
            let read = ReadRecords::Whole(Arc::clone(state));
            return Ok((collection, read));
        }
        let layer = collection.published.layer.clone();
        // What the layer deletes would be missing among so many.
        let limit = wanted.limit.filter(|_| layer.is_none());
        let wanted = ChangesQuery {
            limit,
            tombstones: wanted.tombstones || limit != wanted.limit,
            ..wanted
        };
        let mut changes = match remembered {
            Some(state) => {
                let none = Changes::none(generation, state.timestamp, MAX_READ);
                store.update_changes(records, at, none).await?
            }
            None => store.changes(records, generation, at, wanted).await?,
        };
        let is_whole = match &layer {
            Some(layer) => store.apply_layer(records, layer, &mut changes).await?,
            None => true,
        };
        if changes.are_too_large() {
            return Err(ApiError::ResponseTooLarge);
        }
        let is_moment = is_whole && changes.timestamp() == at && changes.show(&collection.recent);
        if is_moment {
            let of_list = || {
                Snapshot::of(
                    &changes,
                    collection.generation.clone(),
                    collection.backdated_writes,
                )
            };
            let read = match remembered {
                Some(state) => ReadRecords::Whole(Arc::new(state.advanced(&changes))),
                None if wanted.is_all() => ReadRecords::Whole(Arc::new(of_list())),
                None => ReadRecords::Part(Arc::new(of_list())),
            };
            return Ok((collection, read));
        }
        let before = at;
        collection = asked.collection().await?;
        if collection.timestamp == before {
            // What was shown is not all there yet, or the item is older than what was read.
            let pause = pauses.next().ok_or(ApiError::Busy)?;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            collection = asked.collection().await?;
        }
    }
    Err(ApiError::Busy)
}
