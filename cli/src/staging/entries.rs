//! The entries of histories (`kinto.plugins.history`), which lie in Kinto's table of objects as a kind of their own.

use std::collections::BTreeSet;

use kinto_serverless::api::{MAX_DEPTH, depth};
use kinto_serverless::resource::{ListUri, ObjectUri};
use kinto_serverless::store::Generation;
use kinto_serverless::store::history::{Entry, EntryContent, MAX_ENTRY, MAX_NOTED};
use kinto_serverless::timestamp::Timestamp;
use rusqlite::{Row, params};
use serde_json::Value;

use super::{PAGE, PAGE_BYTES, Result, Staging, millis};

/// Its kind in Kinto.
pub const HISTORY: &str = "history";
/// In the place of a time: nothing was there before.
const NOTHING: i64 = -1;

pub(super) const SCHEMA: &str = "
    CREATE TABLE entries (bucket TEXT, time INTEGER, id TEXT, data TEXT, uri TEXT, written INTEGER, replaces INTEGER);";

/// The columns of an entry, with the time of the entry before it of the same object.
const COLUMNS: &str = "time, id, data, uri, CASE WHEN replaces IS NOT NULL THEN replaces ELSE (SELECT written FROM entries AS p \
    WHERE p.bucket = e.bucket AND p.uri = e.uri AND p.time < e.time ORDER BY p.time DESC LIMIT 1) END, \
    (SELECT json_group_array(principal) FROM aces WHERE object = '/buckets/' || e.bucket || '/history/' || e.id \
    AND permission IN ('read', 'write'))";

/// An entry of the source, or the tombstone of one.
#[derive(Clone, Debug, PartialEq)]
pub struct StagedEntry {
    /// Its id.
    pub id: String,
    /// When it was written.
    pub time: Timestamp,
    /// The list of what it tells of.
    pub list: ListUri,
    /// Its content; `None` for a tombstone.
    pub content: Option<EntryContent>,
}

/// The time of the object that an entry replaced, if the source names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplacedTime {
    /// It follows from the other entries.
    NotSaid,
    /// Nothing was there, or what was written at that time.
    Said(Option<Timestamp>),
}

/// How deep an entry's data may be: so deep are those that tell of the deepest object.
const MAX_ENTRY_DEPTH: usize = MAX_DEPTH + 2;

impl Staging {
    /// Takes in an entry of the history of the bucket at `parent`; its data are the JSON of its fields but for `id` and
    /// `last_modified`, none of a tombstone.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn add_entry(
        &self,
        parent: &str,
        id: &str,
        time: Timestamp,
        data: Option<&str>,
        replaced: ReplacedTime,
    ) -> Result<()> {
        let bucket = ObjectUri::parse(parent).filter(|uri| uri.bucket_uri() == uri);
        let shown = data.map(serde_json::from_str::<Value>).transpose();
        let shown = shown.map(Option::unwrap_or_default);
        let (Some(bucket), Ok(shown @ (Value::Object(_) | Value::Null)), false) =
            (bucket, shown, id.contains('#'))
        else {
            let what = "not an entry of a history, or one that is too deep";
            return self.note_unfit(what, &format!("{parent}/history/{id}"));
        };
        if depth(&shown) > MAX_ENTRY_DEPTH {
            let what = "an entry of a history that is too deep";
            return self.note_unfit(what, &format!("{parent}/history/{id}"));
        }
        let uri = shown["uri"].as_str();
        let written = shown["target"]["data"]["last_modified"].as_u64();
        let replaces = match replaced {
            ReplacedTime::NotSaid => None,
            ReplacedTime::Said(at) => Some(at.map_or(NOTHING, millis)),
        };
        let sql = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)";
        let written = millis(Timestamp(written.unwrap_or_default()));
        self.db.prepare_cached(sql)?.execute(params![
            bucket.id(),
            millis(time),
            id,
            data,
            uri,
            written,
            replaces
        ])?;
        Ok(())
    }

    /// Leaves out what has no bucket or is too large; once the objects are checked.
    pub(super) fn finish_entries(&self) -> Result<()> {
        self.db.execute_batch(
            "CREATE INDEX by_time ON entries (bucket, time, id); CREATE INDEX by_uri ON entries (bucket, uri, time);
             CREATE TEMP TABLE alone AS SELECT rowid AS row FROM entries AS e WHERE NOT EXISTS (SELECT 1 FROM objects AS p
                 WHERE p.parent = '' AND p.kind = 'bucket' AND p.id = e.bucket AND p.data IS NOT NULL);
             INSERT INTO problems SELECT 'no parent: entry of a history', '/buckets/' || bucket || '/history', id FROM entries
                 WHERE rowid IN alone;
             DELETE FROM entries WHERE rowid IN alone;",
        )?;
        let sql = format!(
            "SELECT {COLUMNS}, bucket, rowid FROM entries AS e WHERE octet_length(data) + (SELECT total(octet_length(principal))
                 FROM aces WHERE object = '/buckets/' || e.bucket || '/history/' || e.id) > ?"
        );
        let mut large = self.db.prepare(&sql)?;
        let mut large = large.query([MAX_ENTRY / 2])?;
        let mut unfit = vec![];
        while let Some(row) = large.next()? {
            let (staged, _) = read(row)?;
            let fits = staged.content.as_ref().is_none_or(|content| {
                let any = Generation::unique();
                Entry::imported(&any, &staged.list, staged.time, &staged.id, content).is_some()
            });
            if !fits {
                let uri = format!(
                    "/buckets/{}/history/{}",
                    row.get::<_, String>(6)?,
                    staged.id
                );
                unfit.push((uri, row.get::<_, i64>(7)?));
            }
        }
        for (uri, row) in unfit {
            self.note_unfit("an entry of more than 400 KB", &uri)?;
            self.db
                .execute("DELETE FROM entries WHERE rowid = ?", [row])?;
        }
        Ok(())
    }

    /// How many entries there are, and how many tombstones of entries.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn entry_counts(&self) -> Result<(u64, u64)> {
        let sql = "SELECT count(data), count(*) - count(data) FROM entries";
        let counts = self
            .db
            .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)));
        Ok(counts?)
    }

    /// The next entries of a bucket's history, the latest first: those that are earlier than a time, or have that time and an
    /// earlier id.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn entries(
        &self,
        bucket: &ObjectUri,
        before: (Timestamp, &str),
    ) -> Result<Vec<StagedEntry>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM entries AS e WHERE bucket = ? AND (time, id) < (?, ?) ORDER BY time DESC, id DESC LIMIT ?"
        );
        let mut select = self.db.prepare_cached(&sql)?;
        let mut rows = select.query(params![bucket.id(), millis(before.0), before.1, PAGE])?;
        let (mut entries, mut bytes) = (vec![], 0);
        while bytes < PAGE_BYTES
            && let Some(row) = rows.next()?
        {
            let (entry, length) = read(row)?;
            bytes += length;
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Principals that may read some entry of a bucket's history, and not by the bucket itself: no more than one too many to be
    /// noted each.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn entry_readers(&self, bucket: &ObjectUri) -> Result<BTreeSet<String>> {
        let sql = "SELECT DISTINCT principal FROM entries JOIN aces ON object = ?1 || '/history/' || id
            WHERE bucket = ?2 AND data IS NOT NULL AND permission IN ('read', 'write') AND principal NOT IN
            (SELECT principal FROM aces WHERE object = ?1 AND permission IN ('read', 'write')) LIMIT ?3";
        let mut select = self.db.prepare_cached(sql)?;
        let values = params![bucket.to_string(), bucket.id(), MAX_NOTED + 1];
        let readers = select.query_map(values, |row| row.get(0))?;
        Ok(readers.collect::<std::result::Result<_, _>>()?)
    }
}

/// An entry, and about how many bytes it has.
fn read(row: &Row<'_>) -> rusqlite::Result<(StagedEntry, usize)> {
    let (data, uri): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
    let (replaces, readers): (Option<i64>, String) = (row.get(4)?, row.get(5)?);
    let length = data.as_ref().map_or(0, String::len) + readers.len();
    let content = data.map(|data| {
        let readers: BTreeSet<String> = serde_json::from_str(&readers).unwrap_or_default();
        EntryContent {
            // It was parsed before.
            shown: serde_json::from_str(&data).unwrap_or_default(),
            readers: readers.into_iter().collect(),
            replaces: replaces
                .filter(|at| *at != NOTHING)
                .map(|at| Timestamp(at.cast_unsigned())),
        }
    });
    let uri = uri.as_deref().and_then(ObjectUri::parse);
    let entry = StagedEntry {
        time: Timestamp(row.get::<_, i64>(0)?.cast_unsigned()),
        id: row.get(1)?,
        // Nothing that is read by its list.
        list: uri.map_or_else(ListUri::buckets, |uri| uri.list().clone()),
        content,
    };
    Ok((entry, length))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn add(staging: &Staging, id: &str, time: u64, record: &str, replaced: ReplacedTime) {
        let uri = format!("/buckets/b/collections/c/records/{record}");
        let data = json!({"uri": uri, "target": {"data": {"last_modified": time - 1}}}).to_string();
        let added = staging.add_entry("/buckets/b", id, Timestamp(time), Some(&data), replaced);
        added.unwrap();
    }

    fn staged() -> Staging {
        let staging = Staging::new().unwrap();
        let at = Timestamp(1);
        staging
            .add_object("", "bucket", "b", at, Some("{}"))
            .unwrap();
        staging
    }

    #[test]
    fn an_entry_replaces_what_the_one_before_it_tells_of_unless_the_source_says_otherwise() {
        let staging = staged();
        add(&staging, "x", 10, "r", ReplacedTime::NotSaid);
        add(&staging, "y", 20, "other", ReplacedTime::NotSaid);
        add(&staging, "z", 30, "r", ReplacedTime::NotSaid);
        add(&staging, "said", 40, "r", ReplacedTime::Said(None));
        add(
            &staging,
            "earlier",
            50,
            "r",
            ReplacedTime::Said(Some(Timestamp(3))),
        );
        for reader in ["carol", "alice"] {
            staging
                .add_ace("/buckets/b/history/z", "read", reader)
                .unwrap();
        }
        staging.finish().unwrap();
        let bucket = ObjectUri::bucket("b");
        let entries = staging.entries(&bucket, (Timestamp::MAX, "")).unwrap();
        let found = entries.iter().map(|entry| {
            let content = entry.content.as_ref().unwrap();
            (&*entry.id, content.replaces.map(|at| at.0))
        });
        let expected = [
            ("earlier", Some(3)),
            ("said", None),
            ("z", Some(9)),
            ("y", None),
            ("x", None),
        ];
        assert_eq!(found.collect::<Vec<_>>(), expected);
        let content = entries[2].content.as_ref().unwrap();
        assert_eq!(content.readers, ["alice", "carol"]);
        let rest = staging.entries(&bucket, (Timestamp(30), "z")).unwrap();
        assert_eq!(rest.len(), 2);
    }

    #[test]
    fn entries_without_a_bucket_and_what_is_none_are_left_out_and_named() {
        let staging = staged();
        let at = Timestamp(1);
        let put = |parent: &str, data: &str| {
            staging
                .add_entry(parent, "e", at, Some(data), ReplacedTime::NotSaid)
                .unwrap();
        };
        put("/buckets/none", "{}");
        put("/buckets/b", "[");
        put("/buckets/b/collections/c", "{}");
        staging.finish().unwrap();
        assert_eq!(staging.entry_counts().unwrap(), (0, 0));
        let findings = staging.findings().unwrap();
        let found = findings
            .iter()
            .map(|finding| (&*finding.kind, finding.count));
        let expected = [
            (
                "does not fit: not an entry of a history, or one that is too deep",
                2,
            ),
            ("no parent: entry of a history", 1),
        ];
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }
}
