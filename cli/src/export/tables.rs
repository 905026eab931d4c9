//! The tables of Kinto's PostgreSQL as CSV, in a directory, with a script for `psql` that puts them in the place of what
//! is there.
//!
//! Kinto's tables take no two objects of a list with one time: the second gets the next that is free.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use csv::{QuoteStyle, Writer, WriterBuilder};
use kinto_serverless::resource::{Kind, ListUri, ObjectUri};
use kinto_serverless::store::history::{EntryContent, RawEntry};
use kinto_serverless::store::{Content, Object};
use kinto_serverless::timestamp::Timestamp;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use super::{Format, Result};
use crate::source::postgres_time;
use crate::staging::entries::HISTORY;

/// Objects first: they would get new times beside a list that has reached theirs (Kinto's trigger).
const SCRIPT: &str = r"-- Puts what kinto-serverless exported in the place of what Kinto holds, all of it or nothing.
-- In the directory of the files, with the tables of `kinto migrate`, while no Kinto runs:
--     psql DATABASE --file load.sql
\set ON_ERROR_STOP on
SET timezone = 'UTC';
BEGIN;
DELETE FROM timestamps WHERE resource_name IN ('bucket', 'group', 'collection', 'record', 'account'HISTORY);
DELETE FROM objects WHERE resource_name IN ('bucket', 'group', 'collection', 'record', 'account'HISTORY);
DELETE FROM access_control_entriesPERMISSIONS;
DELETE FROM user_principals;
\copy objects (id, parent_id, resource_name, last_modified, data, deleted) FROM objects.csv CSV HEADER
\copy timestamps (parent_id, resource_name, last_modified) FROM timestamps.csv CSV HEADER
\copy access_control_entries (object_id, permission, principal) FROM access_control_entries.csv CSV HEADER
\copy user_principals (user_id, principal) FROM user_principals.csv CSV HEADER
COMMIT;
";

/// The script's `HISTORY` and `PERMISSIONS` where histories replace Kinto's; without histories Kinto's stay.
const WITH_HISTORY: [&str; 2] = [", 'history'", ""];
const WITHOUT_HISTORY: [&str; 2] = ["", " WHERE object_id NOT LIKE '/buckets/%/history/%'"];

type Csv = Writer<BufWriter<File>>;

/// The tables of Kinto's PostgreSQL.
#[derive(Debug)]
pub struct Tables {
    objects: Csv,
    timestamps: Csv,
    entries: Csv,
    principals: Csv,
    /// The times that are taken, and where the search for the next free one ended.
    times: Connection,
    script: PathBuf,
    has_history: bool,
    shifted: u64,
    /// How many objects, and the first.
    left_out: (u64, String),
}

impl Tables {
    /// Into a directory, which is made where there is none.
    ///
    /// # Errors
    /// It cannot be written to.
    pub fn new(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let begin = |table: &str, columns: &[&str]| -> Result<Csv> {
            let file = File::create(directory.join(format!("{table}.csv")))?;
            // An empty text without quotes is NULL.
            let mut csv = WriterBuilder::new()
                .quote_style(QuoteStyle::Always)
                .from_writer(BufWriter::new(file));
            csv.write_record(columns)?;
            Ok(csv)
        };
        // A temporary file of SQLite's, which goes with the connection.
        let times = Connection::open("")?;
        times.execute_batch(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16000;
             CREATE TABLE times (list TEXT, time INTEGER, next INTEGER, PRIMARY KEY (list, time)) WITHOUT ROWID; BEGIN;",
        )?;
        let columns = [
            "id",
            "parent_id",
            "resource_name",
            "last_modified",
            "data",
            "deleted",
        ];
        Ok(Self {
            objects: begin("objects", &columns)?,
            timestamps: begin("timestamps", &columns[1..4])?,
            entries: begin(
                "access_control_entries",
                &["object_id", "permission", "principal"],
            )?,
            principals: begin("user_principals", &["user_id", "principal"])?,
            times,
            script: directory.join("load.sql"),
            has_history: false,
            shifted: 0,
            left_out: (0, String::new()),
        })
    }

    /// The time of an object that no other of its list has.
    fn free_time(&mut self, parent: &str, kind: &str, wanted: Timestamp) -> Result<Timestamp> {
        let list = format!("{parent} {kind}");
        let sql = "INSERT OR IGNORE INTO times VALUES (?, ?, NULL)";
        let mut insert = self.times.prepare_cached(sql)?;
        let wanted_in_sql = wanted.0.cast_signed();
        if insert.execute(params![list, wanted_in_sql])? > 0 {
            return Ok(wanted);
        }
        self.shifted += 1;
        // Where the search for that time ended before: one that begins anew for each object of many with one time would
        // take longer and longer.
        let sql = "SELECT coalesce(next, time + 1) FROM times WHERE list = ? AND time = ?";
        let mut ends = self.times.prepare_cached(sql)?;
        let mut time: i64 = ends.query_row(params![list, wanted_in_sql], |row| row.get(0))?;
        while insert.execute(params![list, time])? == 0 {
            time += 1;
        }
        let sql = "UPDATE times SET next = ? WHERE list = ? AND time = ?";
        let mut update = self.times.prepare_cached(sql)?;
        update.execute(params![time + 1, list, wanted_in_sql])?;
        Ok(Timestamp(time.cast_unsigned()))
    }

    fn leave_out(&mut self, uri: String) {
        self.left_out.0 += 1;
        if self.left_out.0 == 1 {
            self.left_out.1 = uri;
        }
    }
}

impl Format for Tables {
    fn list(&mut self, list: &ListUri, timestamp: Timestamp) -> Result<()> {
        // Of all accounts: each has a list of its own.
        let parent = match list.kind() {
            Kind::Account => "*".to_owned(),
            _ => list.parent().map(ToString::to_string).unwrap_or_default(),
        };
        let time = postgres_time(timestamp);
        let row = [&*parent, list.kind().name(), &time];
        Ok(self.timestamps.write_record(row)?)
    }

    fn object(&mut self, uri: &ObjectUri, object: &Object) -> Result<()> {
        let (id, kind) = (uri.id(), uri.kind());
        let parent = match kind {
            Kind::Account => id.to_owned(),
            _ => uri.parent().map(ToString::to_string).unwrap_or_default(),
        };
        let (data, is_deleted) = match &object.content {
            Content::Live { data, .. } => (Value::Object(data.clone()).to_string(), "f"),
            Content::Deleted => (r#"{"deleted":true}"#.to_owned(), "t"),
        };
        if holds_null(object) {
            self.leave_out(uri.to_string());
            return Ok(());
        }
        let time = postgres_time(self.free_time(&parent, kind.name(), object.last_modified)?);
        let row = [id, &parent, kind.name(), &time, &data, is_deleted];
        self.objects.write_record(row)?;
        let uri = uri.to_string();
        for (permission, principals) in object.permissions().into_iter().flat_map(|p| p.iter()) {
            for principal in principals {
                self.entries.write_record([&uri, permission, principal])?;
            }
        }
        if let (Kind::Group, Content::Live { data, .. }) = (kind, &object.content) {
            let members = data.get("members").and_then(Value::as_array);
            let members = members.into_iter().flatten().filter_map(Value::as_str);
            for member in members.collect::<std::collections::BTreeSet<_>>() {
                self.principals.write_record([member, &uri])?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        bucket: &ObjectUri,
        entry: &RawEntry,
        content: &EntryContent,
    ) -> Result<()> {
        self.has_history = true;
        let uri = format!("{bucket}/{HISTORY}/{}", entry.id);
        let mut texts = content.readers.iter().chain(content.shown.keys());
        if texts.any(|text| text.contains('\0')) || content.shown.values().any(has_null) {
            self.leave_out(uri);
            return Ok(());
        }
        let bucket = bucket.to_string();
        let time = postgres_time(self.free_time(&bucket, HISTORY, entry.time)?);
        let data = json!(content.shown).to_string();
        let is_deleted = if entry.is_deleted { "t" } else { "f" };
        let row = [&entry.id, &*bucket, HISTORY, &time, &data, is_deleted];
        self.objects.write_record(row)?;
        for reader in &content.readers {
            self.entries.write_record([&uri, "read", reader])?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let [history, permissions] = match self.has_history {
            true => WITH_HISTORY,
            false => WITHOUT_HISTORY,
        };
        let script = SCRIPT.replace("HISTORY", history);
        let script = script.replace("PERMISSIONS", permissions);
        std::fs::write(&self.script, script)?;
        for csv in [
            &mut self.objects,
            &mut self.timestamps,
            &mut self.entries,
            &mut self.principals,
        ] {
            csv.flush()?;
        }
        Ok(())
    }

    fn remarks(&self) -> Vec<String> {
        let mut remarks = vec![];
        if self.shifted > 0 {
            remarks.push(format!(
                "{} objects had the time of another of their list, and got the next that was free",
                self.shifted
            ));
        }
        if let (count @ 1.., first) = &self.left_out {
            remarks.push(format!(
                "left out, because PostgreSQL does not accept \\u0000: {count}, the first {first}"
            ));
        }
        remarks
    }
}

/// Whether an object holds U+0000, which PostgreSQL's texts cannot.
fn holds_null(object: &Object) -> bool {
    let Content::Live { data, .. } = &object.content else {
        return false;
    };
    data.iter()
        .any(|(name, value)| name.contains('\0') || has_null(value))
        || object.principals().iter().any(|name| name.contains('\0'))
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(members) => members
            .iter()
            .any(|(name, value)| name.contains('\0') || has_null(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_whose_time_is_taken_gets_the_next_that_is_free() {
        let directory = tempfile::tempdir().unwrap();
        let mut tables = Tables::new(directory.path()).unwrap();
        let mut given = |list: &str, wanted| {
            let time = tables.free_time(list, "record", Timestamp(wanted));
            time.unwrap().0
        };
        let times = [5, 5, 6, 5, 9, 5, 6, 5].map(|wanted| given("/a", wanted));
        assert_eq!(times, [5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(given("/b", 5), 5);
        assert_eq!(tables.shifted, 6);
    }
}
