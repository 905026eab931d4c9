//! `raise-timestamps`: gives everything in a restored table a new time, so that clients with later ones hear of it.

use futures::stream::{self, StreamExt, TryStreamExt};
use kinto_serverless::resource::ListUri;
use kinto_serverless::store::raise::ObjectTime;
use kinto_serverless::store::{Store, StoreError};
use kinto_serverless::timestamp::Timestamp;

use super::Lists;
use super::pace::Pace;
use crate::progress::Progress;

/// Updates under way at once.
const CONCURRENCY: usize = 16;
/// How often a list is begun anew to which others write.
const MAX_ATTEMPTS: usize = 5;

/// The time above which all objects of a list are raised, by a raising that began then.
///
/// The list never had a later one, and no client was told a later one unless clients themselves set times in the future.
pub fn base(begun: Timestamp, reached: Option<Timestamp>) -> Timestamp {
    begun.max(reached.unwrap_or_default())
}

/// The timestamp of a list whose objects were raised above that base, the last of them to `latest`.
pub fn of_list(base: Timestamp, latest: Timestamp) -> Timestamp {
    base.max(latest).next()
}

/// Why not all is raised.
#[derive(Debug, thiserror::Error)]
pub enum RaiseError {
    /// The table.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Others write.
    #[error(
        "another client wrote to {0} meanwhile: make the API refuse writes (readonly) and start again"
    )]
    InUse(ListUri),
}

/// The result of a raising.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raised {
    /// Lists.
    pub lists: u64,
    /// Objects, tombstones among them.
    pub objects: u64,
    /// Lists that were raised before this one was interrupted and begun again.
    pub done_before: u64,
    /// Lists whose signatures do not hold any more.
    pub signed: Vec<ListUri>,
}

/// Raises all that exists. One that was interrupted is gone on with.
///
/// # Errors
/// Failures of the table, and others that write to it. To be called again.
pub async fn raise(
    store: &Store,
    capacity: Option<u64>,
    now: Timestamp,
    progress: &Progress,
) -> Result<Raised, RaiseError> {
    let begun = store.begin_raising(now).await?;
    let (mut raised, mut pace) = (Raised::default(), Pace::new(capacity));
    let mut lists = Lists::of(store);
    while let Some((list, generation)) = lists.next().await? {
        let mut attempts = 0;
        while let Some(found) = store.raisable(&list, begun).await? {
            if found.is_done {
                raised.done_before += u64::from(attempts == 0);
                break;
            }
            attempts += 1;
            if attempts > MAX_ATTEMPTS {
                return Err(RaiseError::InUse(list));
            }
            // Its objects come to their places under the times of their publication.
            if let Some(layer) = &found.list.published.layer {
                store.settle_layer(&list, layer).await?;
            }
            let base = base(begun, Some(found.list.timestamp));
            let latest = store.times(&list, &generation, base, true).next().await?;
            let latest = latest.and_then(|page| Some(page.first()?.version.last_modified));
            let mut latest = latest.unwrap_or(base);
            let mut times = store.times(&list, &generation, base, false);
            while let Some(page) = times.next().await? {
                for part in page.chunks(CONCURRENCY) {
                    let units = part.iter().map(units).sum();
                    pace.spend(units).await;
                    // Together: what was interrupted leaves no gap wider than this.
                    let updates = part.iter().map(|object| {
                        latest = latest.next();
                        store.raise_object(&list, object.clone(), latest)
                    });
                    let updates: Vec<_> = updates.collect();
                    let updates = stream::iter(updates).buffer_unordered(CONCURRENCY);
                    updates.try_collect::<()>().await?;
                    raised.objects += part.len() as u64;
                    progress.advance(part.len() as u64);
                }
            }
            let to = of_list(base, latest);
            if store.raise_list(&list, &found.list, to, begun).await? {
                raised.lists += 1;
                // They do not hold over other times.
                if found.list.published.signatures.is_some() {
                    raised.signed.push(list.clone());
                }
                break;
            }
        }
    }
    store.end_raising().await?;
    Ok(raised)
}

/// The write capacity units of an update: of the item, and twice of the index, from which it is taken and put.
fn units(object: &ObjectTime) -> u64 {
    3 * object.size.div_ceil(1024).max(1) as u64
}
