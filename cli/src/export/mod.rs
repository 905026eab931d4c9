//! Everything that the table holds, written out: [`ndjson`] for a restore, [`tables`] and [`yaml`] for a Kinto.

pub mod ndjson;
pub mod tables;
pub mod yaml;

use kinto_serverless::resource::{Kind, ListUri, ObjectUri};
use kinto_serverless::store::history::{EntryContent, HistoryRead, RawEntry};
use kinto_serverless::store::{Content, Generation, Object, Store, StoreError};
use kinto_serverless::timestamp::Timestamp;

/// Why an export ended early.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The table.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file.
    #[error("the file: {0}")]
    File(#[from] std::io::Error),
    /// A file of CSV.
    #[error("the file: {0}")]
    Csv(#[from] csv::Error),
    /// The temporary database.
    #[error("the temporary database: {0}")]
    Database(#[from] rusqlite::Error),
}

/// The result of writing an export.
pub type Result<T> = std::result::Result<T, ExportError>;

/// A form in which everything is written.
pub trait Format {
    /// Writes the timestamp of a list; before its objects.
    ///
    /// # Errors
    /// The file fails.
    fn list(&mut self, list: &ListUri, timestamp: Timestamp) -> Result<()>;

    /// Writes an object or a tombstone; before what is under it, which comes before the next of its list.
    ///
    /// # Errors
    /// The file fails.
    fn object(&mut self, uri: &ObjectUri, object: &Object) -> Result<()>;

    /// Writes an entry of the history of a bucket, or the tombstone of one; after the bucket, the latest first.
    ///
    /// # Errors
    /// The file fails.
    fn entry(&mut self, bucket: &ObjectUri, entry: &RawEntry, content: &EntryContent)
    -> Result<()>;

    /// Nothing follows.
    ///
    /// # Errors
    /// The file fails.
    fn finish(&mut self) -> Result<()>;

    /// What this form could not take, one line each.
    fn remarks(&self) -> Vec<String> {
        vec![]
    }
}

/// Writes everything; how many objects and entries of histories, tombstones among them, that is.
///
/// # Errors
/// The table or the file fails.
pub async fn export(store: &Store, format: &mut dyn Format) -> Result<u64> {
    let mut count = 0;
    for list in [ListUri::accounts(), ListUri::buckets()] {
        count += write_list(store, &list, &Generation::ROOT, format).await?;
    }
    format.finish()?;
    Ok(count)
}

async fn write_list(
    store: &Store,
    list: &ListUri,
    parent: &Generation,
    format: &mut dyn Format,
) -> Result<u64> {
    let stored = store.stored_lists(std::slice::from_ref(list)).await?;
    if let Some(stored) = stored.get(list) {
        // What is published and not in its place yet. Whoever reads the stream does the same.
        if let Some(layer) = &stored.list.published.layer {
            store.settle_layer(list, layer).await?;
        }
        format.list(list, stored.list.timestamp)?;
    }
    let mut count = 0;
    let mut by_id = store.objects_by_id(list);
    while let Some(page) = by_id.next().await? {
        let present = page
            .into_iter()
            .filter(|(_, object)| parent.owns(&object.parent));
        for (id, object) in present {
            let uri = list.clone().object(id);
            format.object(&uri, &object)?;
            count += 1;
            if object.content != Content::Deleted && uri.kind() == Kind::Bucket {
                count += write_history(store, &uri, &object.generation, format).await?;
            }
            if object.content != Content::Deleted {
                for list in uri.child_lists() {
                    count += Box::pin(write_list(store, &list, &object.generation, format)).await?;
                }
            }
        }
    }
    Ok(count)
}

async fn write_history(
    store: &Store,
    bucket: &ObjectUri,
    generation: &Generation,
    format: &mut dyn Format,
) -> Result<u64> {
    let mut entries = store.history(HistoryRead::all(generation));
    let mut count = 0;
    while let Some(entry) = entries.next().await? {
        format.entry(bucket, &entry, &entry.content()?)?;
        count += 1;
    }
    Ok(count)
}
