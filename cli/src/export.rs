//! Everything that the table holds, as lines of JSON: parents before what is under them.
//!
//! `{"uri", "last_modified", "data", "permissions"}` is an object, without `data` a tombstone;
//! `{"list": its kind, "parent", "last_modified"}` is the timestamp of a list.

use std::io::Write;

use kinto_serverless::resource::{Kind, ListUri, ObjectUri};
use kinto_serverless::store::{Content, Generation, Store, StoreError};
use serde_json::json;

/// Why an export ended early.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The table.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file.
    #[error("the file: {0}")]
    File(#[from] std::io::Error),
}

/// Writes everything to a file; how many objects, tombstones among them, that is.
///
/// # Errors
/// The table or the file fails.
pub async fn export(store: &Store, out: &mut impl Write) -> Result<u64, ExportError> {
    writeln!(
        out,
        "{}",
        json!({"kinto-serverless": "export", "version": 1})
    )?;
    let mut count = 0;
    let mut lists = vec![
        (ListUri::accounts(), Generation::ROOT),
        (ListUri::buckets(), Generation::ROOT),
    ];
    while let Some((list, parent)) = lists.pop() {
        let stored = store.stored_lists(std::slice::from_ref(&list)).await?;
        if let Some(stored) = stored.get(&list) {
            let of = list.parent().map(ToString::to_string).unwrap_or_default();
            let reached = stored.list.timestamp;
            let line = json!({"list": list.kind().name(), "parent": of, "last_modified": reached});
            writeln!(out, "{line}")?;
        }
        let mut by_id = store.objects_by_id(&list);
        while let Some(page) = by_id.next().await? {
            for (id, object) in page.into_iter().filter(|(_, object)| object.is_of(&parent)) {
                let uri: ObjectUri = list.clone().object(id);
                let last_modified = object.last_modified;
                let line = match object.content {
                    Content::Deleted => {
                        json!({"uri": uri.to_string(), "last_modified": last_modified})
                    }
                    Content::Live { data, permissions } => {
                        let children = uri.child_lists();
                        lists.extend(children.map(|list| (list, object.generation.clone())));
                        json!({
                            "uri": uri.to_string(), "last_modified": last_modified,
                            "data": data, "permissions": permissions,
                        })
                    }
                };
                writeln!(out, "{line}")?;
                count += 1;
            }
        }
        debug_assert!(list.kind() != Kind::Record || list.parent().is_some());
    }
    out.flush()?;
    Ok(count)
}
