//! What was read of another Kinto, in an `SQLite` file, with how far each list was read. A list is named by its path, and so is
//! the history of a bucket, whose entries are objects here.

use std::fmt::Display;
use std::path::Path;

use kinto_serverless::resource::ObjectUri;
use kinto_serverless::timestamp::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Objects that are read at once.
const PAGE: usize = 500;

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA cache_size = -16000;
    CREATE TABLE IF NOT EXISTS source (name TEXT);
    CREATE TABLE IF NOT EXISTS lists (list TEXT PRIMARY KEY, reached INTEGER, timestamp INTEGER) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS objects (list TEXT, id TEXT, last_modified INTEGER, data TEXT, permissions TEXT,
        UNIQUE (list, id));";

type Result<T> = rusqlite::Result<T>;

/// The copy of a Kinto.
#[derive(Debug)]
pub struct Mirror(Connection);

/// An object of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// Its id.
    pub id: String,
    /// When it was last written. A time before 1970 is kept as its two's complement.
    pub last_modified: Timestamp,
    /// Its fields but for `id` and `last_modified` as JSON, none of a tombstone.
    pub data: Option<String>,
    /// Its permissions as JSON; `None` where nobody asked for them.
    pub permissions: Option<String>,
}

impl Mirrored {
    /// Returns `true` if its time is before 1970.
    pub fn is_before_1970(&self) -> bool {
        self.last_modified.0.cast_signed() < 0
    }
}

impl Mirror {
    /// The copy in a file, a new one where there is none; `false` where that file is of another source.
    ///
    /// # Errors
    /// The file cannot be opened, or is something else.
    pub fn open(path: &Path, source: &str) -> Result<(Self, bool)> {
        let db = Connection::open(path)?;
        db.execute_batch(SCHEMA)?;
        let name = db.query_row("SELECT name FROM source", [], |row| row.get::<_, String>(0));
        let is_same = match name.optional()? {
            Some(name) => name == source,
            None => {
                db.execute("INSERT INTO source VALUES (?)", [source])?;
                true
            }
        };
        Ok((Self(db), is_same))
    }

    /// Up to where a list was read, zero at first.
    ///
    /// # Errors
    /// The file fails, as in all that follows.
    pub fn reached(&self, list: &impl Display) -> Result<Timestamp> {
        let sql = "SELECT reached FROM lists WHERE list = ?";
        let mut select = self.0.prepare_cached(sql)?;
        let reached: Option<i64> = select
            .query_row([list.to_string()], |row| row.get(0))
            .optional()?;
        Ok(Timestamp(reached.unwrap_or_default().cast_unsigned()))
    }

    /// Keeps objects, and that the list was read up to a time.
    ///
    /// # Errors
    /// See [`Self::reached`].
    pub fn keep(
        &mut self,
        list: &impl Display,
        objects: &[Mirrored],
        reached: Timestamp,
    ) -> Result<()> {
        let list = list.to_string();
        let all = self.0.transaction()?;
        for object in objects {
            let sql = "INSERT INTO objects VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET \
                last_modified = excluded.last_modified, data = excluded.data, permissions = excluded.permissions";
            all.prepare_cached(sql)?.execute(params![
                list,
                object.id,
                object.last_modified.0.cast_signed(),
                object.data,
                object.permissions
            ])?;
        }
        let sql = "INSERT INTO lists VALUES (?, ?, NULL) ON CONFLICT DO UPDATE SET \
            reached = max(reached, excluded.reached)";
        all.execute(sql, params![list, reached.0.cast_signed()])?;
        all.commit()
    }

    /// Keeps the timestamp of a list.
    ///
    /// # Errors
    /// See [`Self::reached`].
    pub fn keep_timestamp(&self, list: &impl Display, timestamp: Timestamp) -> Result<()> {
        let sql = "INSERT INTO lists VALUES (?, 0, ?) ON CONFLICT DO UPDATE SET timestamp = excluded.timestamp";
        self.0
            .execute(sql, params![list.to_string(), timestamp.0.cast_signed()])?;
        Ok(())
    }

    /// The timestamp of a list; `None` of one that was not read.
    ///
    /// # Errors
    /// See [`Self::reached`].
    pub fn timestamp(&self, list: &impl Display) -> Result<Option<Timestamp>> {
        let sql = "SELECT timestamp FROM lists WHERE list = ?";
        let row = |row: &Row<'_>| row.get::<_, Option<i64>>(0);
        let found = self.0.query_row(sql, [list.to_string()], row).optional()?;
        Ok(found.flatten().map(|ms| Timestamp(ms.cast_unsigned())))
    }

    /// Forgets what was read of a list.
    ///
    /// # Errors
    /// See [`Self::reached`].
    pub fn forget(&self, list: &impl Display) -> Result<()> {
        for sql in [
            "DELETE FROM objects WHERE list = ?",
            "DELETE FROM lists WHERE list = ?",
        ] {
            self.0.execute(sql, [list.to_string()])?;
        }
        Ok(())
    }

    /// How many live objects of a list there are.
    ///
    /// # Errors
    /// See [`Self::reached`].
    pub fn live(&self, list: &impl Display) -> Result<u64> {
        let sql = "SELECT count(data) FROM objects WHERE list = ?";
        self.0
            .query_row(sql, [list.to_string()], |row| row.get::<_, u64>(0))
    }

    /// Whether an object is there and not deleted.
    ///
    /// # Errors
    /// See [`Self::reached`].
    pub fn is_live(&self, uri: &ObjectUri) -> Result<bool> {
        let sql = "SELECT 1 FROM objects WHERE list = ? AND id = ? AND data IS NOT NULL";
        let mut select = self.0.prepare_cached(sql)?;
        select.exists(params![uri.list().to_string(), uri.id()])
    }

    /// An object.
    ///
    /// # Errors
    /// See [`Self::reached`].
    pub fn object(&self, uri: &ObjectUri) -> Result<Option<Mirrored>> {
        let sql =
            "SELECT id, last_modified, data, permissions FROM objects WHERE list = ? AND id = ?";
        let mut select = self.0.prepare_cached(sql)?;
        select
            .query_row(params![uri.list().to_string(), uri.id()], mirrored)
            .optional()
    }

    /// The objects of a list by their ids, one after the other.
    pub fn objects(&self, list: &impl Display) -> Objects<'_> {
        Objects {
            mirror: self,
            list: list.to_string(),
            after: String::new(),
            page: vec![].into_iter(),
        }
    }

    /// Visits the objects of a list in the order of their times.
    ///
    /// # Errors
    /// See [`Self::reached`]; those of the visitor.
    pub fn by_time<E: From<rusqlite::Error>>(
        &self,
        list: &impl Display,
        mut visit: impl FnMut(Mirrored) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let sql = "SELECT id, last_modified, data, permissions FROM objects WHERE list = ? ORDER BY last_modified, id";
        let mut select = self.0.prepare_cached(sql)?;
        let mut rows = select.query([list.to_string()])?;
        while let Some(row) = rows.next()? {
            visit(mirrored(row)?)?;
        }
        Ok(())
    }

    /// The time of the earliest live object of a list.
    ///
    /// # Errors
    /// See [`Self::reached`].
    pub fn earliest(&self, list: &impl Display) -> Result<Option<Timestamp>> {
        let sql = "SELECT min(last_modified) FROM objects WHERE list = ? AND data IS NOT NULL";
        let row = |row: &Row<'_>| row.get::<_, Option<i64>>(0);
        let found = self.0.query_row(sql, [list.to_string()], row)?;
        Ok(found.map(|ms| Timestamp(ms.cast_unsigned())))
    }

    /// The next objects of a list.
    fn page(&self, list: &str, after: &str) -> Result<Vec<Mirrored>> {
        let sql = "SELECT id, last_modified, data, permissions FROM objects WHERE list = ? AND id > ? ORDER BY id LIMIT ?";
        let mut select = self.0.prepare_cached(sql)?;
        let rows = select.query_map(params![list, after, PAGE], mirrored)?;
        rows.collect()
    }
}

fn mirrored(row: &Row<'_>) -> Result<Mirrored> {
    Ok(Mirrored {
        id: row.get(0)?,
        last_modified: Timestamp(row.get::<_, i64>(1)?.cast_unsigned()),
        data: row.get(2)?,
        permissions: row.get(3)?,
    })
}

/// The objects of a list.
#[derive(Debug)]
pub struct Objects<'a> {
    mirror: &'a Mirror,
    list: String,
    after: String,
    page: std::vec::IntoIter<Mirrored>,
}

impl Iterator for Objects<'_> {
    type Item = Result<Mirrored>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.as_slice().is_empty() {
            match self.mirror.page(&self.list, &self.after) {
                Ok(page) => self.page = page.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
        let object = self.page.next()?;
        self.after.clone_from(&object.id);
        Some(Ok(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(id: &str, at: u64, data: Option<&str>) -> Mirrored {
        Mirrored {
            id: id.to_owned(),
            last_modified: Timestamp(at),
            data: data.map(str::to_owned),
            permissions: None,
        }
    }

    #[test]
    fn a_file_opened_again_knows_how_far_each_list_was_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("work");
        let list = ObjectUri::bucket("b").child_lists().next().unwrap();
        let (mut mirror, _) = Mirror::open(&path, "https://a/v1").unwrap();
        assert_eq!(mirror.reached(&list).unwrap(), Timestamp(0));
        let read = [object("x", 5, Some("{}")), object("y", 9, Some("{}"))];
        mirror.keep(&list, &read, Timestamp(9)).unwrap();
        drop(mirror);

        let (mut mirror, is_same) = Mirror::open(&path, "https://a/v1").unwrap();
        assert!(is_same);
        assert_eq!(mirror.reached(&list).unwrap(), Timestamp(9));
        let deleted = [object("x", 12, None)];
        mirror.keep(&list, &deleted, Timestamp(12)).unwrap();
        assert_eq!(mirror.live(&list).unwrap(), 1);
        let objects: Vec<_> = mirror.objects(&list).map(Result::unwrap).collect();
        assert_eq!(objects, [object("x", 12, None), object("y", 9, Some("{}"))]);
        mirror.forget(&list).unwrap();
        assert_eq!(mirror.reached(&list).unwrap(), Timestamp(0));
        assert!(!Mirror::open(&path, "https://b/v1").unwrap().1);
    }
}
