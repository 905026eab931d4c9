//! Lines of JSON, which `import` reads back.
//!
//! `{"uri", "last_modified", "data", "permissions"}` is an object, without `data` a tombstone;
//! `{"list": its kind, "parent", "last_modified"}` is the timestamp of a list; `{"history": the bucket's URI, "id", "last_modified",
//! "data", "readers", "replaces"}` is an entry of a history, without `data` the tombstone of one.

use std::io::Write;

use kinto_serverless::resource::{ListUri, ObjectUri};
use kinto_serverless::store::history::{EntryContent, RawEntry};
use kinto_serverless::store::{Content, Object};
use kinto_serverless::timestamp::Timestamp;
use serde_json::json;

use super::{Format, Result};

/// Lines of JSON.
#[derive(Debug)]
pub struct Ndjson<W>(W);

impl<W: Write> Ndjson<W> {
    /// Into a file.
    ///
    /// # Errors
    /// The file fails.
    pub fn new(mut out: W) -> Result<Self> {
        let first = json!({"kinto-serverless": "export", "version": 1});
        writeln!(out, "{first}")?;
        Ok(Self(out))
    }
}

impl<W: Write> Format for Ndjson<W> {
    fn list(&mut self, list: &ListUri, timestamp: Timestamp) -> Result<()> {
        let of = list.parent().map(ToString::to_string).unwrap_or_default();
        let line = json!({"list": list.kind().name(), "parent": of, "last_modified": timestamp});
        Ok(writeln!(self.0, "{line}")?)
    }

    fn object(&mut self, uri: &ObjectUri, object: &Object) -> Result<()> {
        let (uri, last_modified) = (uri.to_string(), object.last_modified);
        let line = match &object.content {
            Content::Deleted => json!({"uri": uri, "last_modified": last_modified}),
            Content::Live { data, permissions } => json!({
                "uri": uri, "last_modified": last_modified,
                "data": data, "permissions": permissions,
            }),
        };
        Ok(writeln!(self.0, "{line}")?)
    }

    fn entry(
        &mut self,
        bucket: &ObjectUri,
        entry: &RawEntry,
        content: &EntryContent,
    ) -> Result<()> {
        let (bucket, id, time) = (bucket.to_string(), &entry.id, entry.time);
        let line = match entry.is_deleted {
            true => json!({"history": bucket, "id": id, "last_modified": time}),
            false => json!({
                "history": bucket, "id": id, "last_modified": time,
                "data": content.shown, "readers": content.readers, "replaces": content.replaces,
            }),
        };
        Ok(writeln!(self.0, "{line}")?)
    }

    fn finish(&mut self) -> Result<()> {
        Ok(self.0.flush()?)
    }
}
