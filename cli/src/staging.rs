//! What a source holds, in a temporary `SQLite` file: in the order of ids whatever order it came in, with what does not
//! fit found before anything is written, and in little memory however much it is.

use std::path::Path;

use kinto_serverless::api::{MAX_DEPTH, depth};
use kinto_serverless::permission::Permissions;
use kinto_serverless::resource::{Kind, ListUri, ObjectUri};
use kinto_serverless::store::import::MAX_ITEM;
use kinto_serverless::store::membership::{MAX_IDS, MAX_PRINCIPAL_LENGTH, Member};
use kinto_serverless::store::{Content, Generation, Object};
use kinto_serverless::timestamp::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Map, Value};
use tempfile::TempDir;

use entries::ReplacedTime;

pub mod entries;

/// Objects that are read at once,
const PAGE: usize = 500;
/// and bytes of them, about.
const PAGE_BYTES: usize = 1 << 20;
/// Bytes that an item takes beside data and permissions, at most.
const OVERHEAD: usize = 2048;
/// Bytes that the items of a list may take: DynamoDB's limit of a partition with a local index, which has each item once more.
const MAX_LIST: u64 = 10 << 29;

const SCHEMA: &str = "
    PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16000; PRAGMA temp_store = FILE;
    CREATE TABLE objects (parent TEXT, kind TEXT, id TEXT, last_modified INTEGER, data TEXT);
    CREATE TABLE aces (object TEXT, permission TEXT, principal TEXT);
    CREATE TABLE timestamps (parent TEXT, kind TEXT, last_modified INTEGER);
    CREATE TABLE user_principals (user TEXT, principal TEXT);
    CREATE TABLE members (bucket TEXT, principal TEXT, id TEXT);
    CREATE TABLE affected (principal TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE shared (n INTEGER PRIMARY KEY, principal TEXT);
    CREATE TABLE problems (kind TEXT, uri TEXT, detail TEXT);
    BEGIN;";

/// Why a source cannot be taken in.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// The temporary file.
    #[error("the temporary file: {0}")]
    File(#[from] std::io::Error),
    /// The temporary database.
    #[error("the temporary database: {0}")]
    Database(#[from] rusqlite::Error),
}

type Result<T> = std::result::Result<T, StagingError>;

/// What a source holds.
#[derive(Debug)]
pub struct Staging {
    db: Connection,
    directory: TempDir,
}

/// An object of the source.
#[derive(Clone, Debug, PartialEq)]
pub struct StagedObject {
    /// Its id.
    pub id: String,
    /// When it was last written.
    pub last_modified: Timestamp,
    /// What it holds.
    pub content: Content,
}

impl StagedObject {
    /// As the table holds it.
    pub fn to_object(&self, generation: Generation, parent: Generation) -> Object {
        Object {
            last_modified: self.last_modified,
            generation,
            parent,
            content: self.content.clone(),
        }
    }
}

/// Things of one sort that are worth telling of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What they are.
    pub kind: String,
    /// How many.
    pub count: u64,
    /// The first of them.
    pub examples: Vec<String>,
}

/// What becomes of things of a sort of [`Finding`] that cannot be taken over.
pub const UNFIT: &str = "does not fit: ";

impl Staging {
    /// An empty one.
    ///
    /// # Errors
    /// The temporary directory cannot be written.
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("kinto-serverless-")
            .tempdir()?;
        let db = Connection::open(directory.path().join("staging.db"))?;
        db.execute_batch(SCHEMA)?;
        db.execute_batch(entries::SCHEMA)?;
        Ok(Self { db, directory })
    }

    /// Where temporary files may lie, until this is dropped.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Takes in an object; its data are the JSON of its fields but for `id` and `last_modified`, none of a tombstone.
    ///
    /// # Errors
    /// The temporary database fails, as in all that follows.
    pub fn add_object(
        &self,
        parent: &str,
        kind: &str,
        id: &str,
        last_modified: Timestamp,
        data: Option<&str>,
    ) -> Result<()> {
        if kind == entries::HISTORY {
            return self.add_entry(parent, id, last_modified, data, ReplacedTime::NotSaid);
        }
        // Accounts are each their own parent in Kinto.
        let parent = if kind == Kind::Account.name() {
            ""
        } else {
            parent
        };
        let mut insert = self
            .db
            .prepare_cached("INSERT INTO objects VALUES (?, ?, ?, ?, ?)")?;
        insert.execute(params![parent, kind, id, millis(last_modified), data])?;
        Ok(())
    }

    /// Takes in that a principal has a permission on an object.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn add_ace(&self, object: &str, permission: &str, principal: &str) -> Result<()> {
        let mut insert = self
            .db
            .prepare_cached("INSERT INTO aces VALUES (?, ?, ?)")?;
        insert.execute([object, permission, principal])?;
        Ok(())
    }

    /// Takes in that a list has reached a time.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn add_timestamp(&self, parent: &str, kind: &str, reached: Timestamp) -> Result<()> {
        let parent = if kind == Kind::Account.name() {
            ""
        } else {
            parent
        };
        let mut insert = self
            .db
            .prepare_cached("INSERT INTO timestamps VALUES (?, ?, ?)")?;
        insert.execute(params![parent, kind, millis(reached)])?;
        Ok(())
    }

    /// Takes in that the source takes a user for a member of a group.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn add_user_principal(&self, user: &str, principal: &str) -> Result<()> {
        let mut insert = self
            .db
            .prepare_cached("INSERT INTO user_principals VALUES (?, ?)")?;
        insert.execute([user, principal])?;
        Ok(())
    }

    /// Takes in something that is worth telling of.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn note(&self, kind: &str, what: &str, detail: &str) -> Result<()> {
        let sql = "INSERT INTO problems VALUES (?, ?, ?)";
        self.db.prepare_cached(sql)?.execute([kind, what, detail])?;
        Ok(())
    }

    /// Notes an object that does not fit into the table, at `uri`; `what` says why.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn note_unfit(&self, what: &str, uri: &str) -> Result<()> {
        self.note(&format!("{UNFIT}{what}"), uri, "")
    }

    /// To be called once all is taken in: finds what does not fit and what has no home, and leaves it out.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn finish(&self) -> Result<()> {
        self.db.execute_batch(
            "CREATE INDEX by_id ON objects (parent, kind, id); CREATE INDEX by_object ON aces (object);
             CREATE INDEX by_list ON timestamps (parent, kind);
             INSERT INTO problems SELECT 'no home: ' || kind, parent, id FROM objects
                 WHERE kind NOT IN ('bucket', 'group', 'collection', 'record', 'account');
             DELETE FROM objects WHERE kind NOT IN ('bucket', 'group', 'collection', 'record', 'account');",
        )?;
        self.check_each()?;
        self.check_lists(MAX_LIST)?;
        self.db.execute_batch(
            "CREATE TEMP TABLE unfit AS SELECT CAST(detail AS INTEGER) AS row FROM problems
                 WHERE kind LIKE 'does not fit: %' AND detail <> '';
             INSERT INTO timestamps SELECT parent, kind, max(last_modified) FROM objects WHERE rowid IN unfit GROUP BY parent, kind;
             DELETE FROM objects WHERE rowid IN unfit;
             CREATE TEMP TABLE orphans AS SELECT rowid AS row FROM objects AS o WHERE kind IN ('group', 'collection')
                 AND NOT EXISTS (SELECT 1 FROM objects AS p WHERE p.parent = '' AND p.kind = 'bucket'
                     AND p.id = substr(o.parent, 10) AND p.data IS NOT NULL);
             INSERT INTO problems SELECT 'no parent: ' || kind, parent, id FROM objects WHERE rowid IN orphans;
             DELETE FROM objects WHERE rowid IN orphans;
             CREATE TEMP TABLE collections AS SELECT parent || '/collections/' || id AS uri FROM objects
                 WHERE kind = 'collection' AND data IS NOT NULL;
             CREATE INDEX temp.by_uri ON collections (uri);
             CREATE TEMP TABLE lost AS SELECT rowid AS row FROM objects AS o WHERE kind = 'record'
                 AND NOT EXISTS (SELECT 1 FROM collections WHERE uri = o.parent);
             INSERT INTO problems SELECT 'no parent: record', parent, id FROM objects WHERE rowid IN lost;
             DELETE FROM objects WHERE rowid IN lost;
             DELETE FROM members WHERE NOT EXISTS (SELECT 1 FROM objects AS o WHERE o.parent = '/buckets/' || bucket
                 AND o.kind = 'group' AND o.id = members.id);
             CREATE INDEX by_member ON members (bucket, principal);
             INSERT INTO problems SELECT 'does not fit: in too many groups of a bucket', '/buckets/' || bucket, principal
                 FROM members GROUP BY bucket, principal HAVING sum(length(id)) > 16384;
             INSERT INTO problems SELECT 'loses a group that does not list them', principal, user FROM user_principals
                 WHERE NOT EXISTS (SELECT 1 FROM members AS m WHERE m.principal = user
                     AND '/buckets/' || m.bucket || '/groups/' || m.id = user_principals.principal);
             INSERT INTO problems SELECT 'gains a group that lists them', '/buckets/' || bucket || '/groups/' || id, m.principal
                 FROM members AS m WHERE (SELECT count(*) FROM user_principals) > 0
                 AND NOT EXISTS (SELECT 1 FROM user_principals AS u WHERE u.user = m.principal
                     AND u.principal = '/buckets/' || m.bucket || '/groups/' || m.id);
             COMMIT;",
        )?;
        debug_assert_eq!(MAX_IDS, 16384);
        self.finish_entries()
    }

    /// Leaves out lists of more bytes than one may have.
    fn check_lists(&self, most: u64) -> Result<()> {
        let pragma = |name: &str| {
            self.db
                .pragma_query_value(None, name, |row| row.get::<_, u64>(0))
        };
        if pragma("page_count")? * pragma("page_size")? <= most {
            return Ok(());
        }
        // Times, generations and the names of attributes are about so many bytes.
        let sql = "CREATE TEMP TABLE large AS SELECT parent, kind FROM objects GROUP BY parent, kind
            HAVING sum(ifnull(octet_length(data), 0) + octet_length(parent) + octet_length(id) + 150) > ";
        self.db.execute_batch(&format!("{sql}{most}"))?;
        self.db.execute_batch(
            "INSERT INTO problems SELECT 'does not fit: a list of more than 10 GB with its index', parent || '/' || kind || 's', ''
                 FROM large;
             DELETE FROM objects WHERE (parent, kind) IN (SELECT parent, kind FROM large);",
        )?;
        Ok(())
    }

    fn check_each(&self) -> Result<()> {
        let mut rows = self.db.prepare(
            "SELECT rowid, parent, kind, id, data, (SELECT total(octet_length(permission) + octet_length(principal)) FROM aces
                 WHERE object = parent || '/' || kind || 's/' || id) FROM objects",
        )?;
        let mut problem = self
            .db
            .prepare("INSERT INTO problems VALUES ('does not fit: ' || ?, ?, ?)")?;
        let mut member = self
            .db
            .prepare("INSERT INTO members VALUES (?, ?, ?) ON CONFLICT DO NOTHING")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let (parent, kind): (String, String) = (row.get(1)?, row.get(2)?);
            let (id, data): (String, Option<String>) = (row.get(3)?, row.get(4)?);
            let granted: f64 = row.get(5)?;
            let uri = format!("{parent}/{kind}s/{id}");
            let mut found = |what: &str| problem.execute(params![what, uri, row.get::<_, i64>(0)?]);
            let Some(parsed) = ObjectUri::parse(&uri) else {
                found("an invalid id")?;
                continue;
            };
            let Some(text) = data else { continue };
            let Ok(fields) = serde_json::from_str::<Map<String, Value>>(&text) else {
                found("data that are not a JSON object, or too deep")?;
                continue;
            };
            if fields.values().any(|value| depth(value) >= MAX_DEPTH) {
                found("data that are too deep")?;
            } else if !fits(&text, &fields, granted as usize) {
                found("more than 400 KB")?;
            } else if parsed.kind() == Kind::Group {
                let members = fields.get("members").and_then(Value::as_array);
                let members = members.into_iter().flatten().filter_map(Value::as_str);
                let members: std::collections::BTreeSet<_> = members.collect();
                if members.iter().any(|m| m.len() > MAX_PRINCIPAL_LENGTH) {
                    found("a member of more than 1,024 bytes")?;
                    continue;
                }
                for principal in members {
                    member.execute([parsed.bucket_id(), principal, &id])?;
                }
            }
        }
        Ok(())
    }

    /// All that is worth telling of.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn findings(&self) -> Result<Vec<Finding>> {
        let kinds = "SELECT kind, count(*) FROM problems GROUP BY kind ORDER BY kind";
        let mut kinds = self.db.prepare(kinds)?;
        let kinds = kinds.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut findings = vec![];
        for kind in kinds {
            let (kind, count): (String, u64) = kind?;
            let examples = "SELECT uri, detail FROM problems WHERE kind = ? LIMIT 3";
            let mut examples = self.db.prepare_cached(examples)?;
            let named = |row: &rusqlite::Row<'_>| {
                let (uri, detail): (String, String) = (row.get(0)?, row.get(1)?);
                let named = match kind.starts_with(UNFIT) && detail.parse::<u64>().is_ok() {
                    true => uri,
                    false => format!("{uri} {detail}").trim_end().to_owned(),
                };
                Ok(named.replace(char::is_control, "\u{fffd}"))
            };
            let examples = examples
                .query_map([&kind], named)?
                .collect::<std::result::Result<_, _>>()?;
            findings.push(Finding {
                kind,
                count,
                examples,
            });
        }
        Ok(findings)
    }

    /// How many live objects and tombstones there are of each kind.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn counts(&self) -> Result<Vec<(Kind, u64, u64)>> {
        let sql = "SELECT count(data), count(*) - count(data) FROM objects WHERE kind = ?";
        let counts = Kind::ALL.iter().map(|kind| {
            let count = self.db.query_row(sql, [kind.name()], |row| {
                Ok((*kind, row.get(0)?, row.get(1)?))
            });
            Ok(count?)
        });
        counts.collect()
    }

    /// The next objects of a list, by their ids.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn page(&self, list: &ListUri, after: &str) -> Result<Vec<StagedObject>> {
        let sql = "SELECT id, last_modified, data, (SELECT json_group_array(json_array(permission, principal)) FROM aces \
            WHERE object = ?1 || id) FROM objects WHERE parent = ?2 AND kind = ?3 AND id > ?4 ORDER BY id LIMIT ?5";
        let mut select = self.db.prepare_cached(sql)?;
        let (parent, kind) = columns(list);
        let values = params![format!("{list}/"), parent, kind, after, PAGE];
        let mut rows = select.query(values)?;
        let (mut page, mut bytes) = (vec![], 0);
        while bytes < PAGE_BYTES
            && let Some(row) = rows.next()?
        {
            let (data, aces): (Option<String>, String) = (row.get(2)?, row.get(3)?);
            bytes += data.as_ref().map_or(0, String::len) + aces.len();
            let content = match data {
                None => Content::Deleted,
                Some(data) => Content::Live {
                    // It was parsed before.
                    data: serde_json::from_str(&data).unwrap_or_default(),
                    permissions: permissions(list.kind(), &aces),
                },
            };
            page.push(StagedObject {
                id: row.get(0)?,
                last_modified: Timestamp(row.get::<_, i64>(1)?.cast_unsigned()),
                content,
            });
        }
        Ok(page)
    }

    /// The ids of the live objects of a list after one, by their ids.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn live_ids(&self, list: &ListUri, after: &str) -> Result<Vec<String>> {
        let sql = "SELECT id FROM objects WHERE parent = ? AND kind = ? AND id > ? AND data IS NOT NULL ORDER BY id LIMIT ?";
        let (parent, kind) = columns(list);
        let mut select = self.db.prepare_cached(sql)?;
        let ids = select.query_map(params![parent, kind, after, PAGE], |row| row.get(0))?;
        Ok(ids.collect::<std::result::Result<_, _>>()?)
    }

    /// What a list has reached: the greatest of its objects' times, tombstones among them, and of its own; `None` where
    /// it has none of these.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn timestamp(&self, list: &ListUri) -> Result<Option<Timestamp>> {
        let sql = "SELECT max(t) FROM (SELECT max(last_modified) AS t FROM objects WHERE parent = ?1 AND kind = ?2
            UNION ALL SELECT max(last_modified) FROM timestamps WHERE parent = ?1 AND kind = ?2)";
        let (parent, kind) = columns(list);
        let mut select = self.db.prepare_cached(sql)?;
        let reached: Option<i64> = select.query_row([parent, kind.to_owned()], |row| row.get(0))?;
        Ok(reached.map(|reached| Timestamp(reached.cast_unsigned())))
    }

    /// Finds with whom live objects of a list are shared; how many they are.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn find_shares(&self, list: &ListUri) -> Result<u64> {
        let (parent, kind) = columns(list);
        self.db.execute("DELETE FROM shared", [])?;
        // Those of the system come first: a list names them itself.
        let sql = "INSERT INTO shared (principal) SELECT principal FROM (SELECT DISTINCT principal FROM objects AS o \
            JOIN aces ON object = ?1 || o.id WHERE o.parent = ?2 AND o.kind = ?3 AND data IS NOT NULL AND principal <> '') \
            ORDER BY principal NOT IN ('system.Everyone', 'system.Authenticated'), principal";
        let count = self
            .db
            .execute(sql, params![format!("{list}/"), parent, kind])?;
        Ok(count as u64)
    }

    /// The principals that were found last, a page after the first `count`.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn shares(&self, count: u64) -> Result<Vec<String>> {
        let mut select = self
            .db
            .prepare_cached("SELECT principal FROM shared WHERE n > ? ORDER BY n LIMIT 100")?;
        let shares = select.query_map([count], |row| row.get(0))?;
        Ok(shares.collect::<std::result::Result<_, _>>()?)
    }

    /// Begins to gather whose groups in a bucket are to be looked at: those who are in one of them.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn begin_members(&self, bucket: &ObjectUri) -> Result<()> {
        self.db.execute("DELETE FROM affected", [])?;
        let sql = "INSERT OR IGNORE INTO affected SELECT principal FROM members WHERE bucket = ?";
        self.db.execute(sql, [bucket.id()])?;
        Ok(())
    }

    /// Gathers one more.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn add_member(&self, principal: &str) -> Result<()> {
        let sql = "INSERT OR IGNORE INTO affected VALUES (?)";
        self.db.prepare_cached(sql)?.execute([principal])?;
        Ok(())
    }

    /// A page of those who were gathered, each with their groups.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn members(&self, bucket: &ObjectUri, after: &str) -> Result<Vec<(Member, Vec<String>)>> {
        let sql = "SELECT principal, (SELECT json_group_array(id) FROM members AS m WHERE m.bucket = ? \
            AND m.principal = affected.principal) FROM affected WHERE principal > ? ORDER BY principal LIMIT 100";
        let mut select = self.db.prepare_cached(sql)?;
        let rows = select.query_map([bucket.id(), after], |row| {
            let member = Member {
                principal: row.get(0)?,
                bucket: bucket.clone(),
            };
            let groups: String = row.get(1)?;
            Ok((member, serde_json::from_str(&groups).unwrap_or_default()))
        })?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    }

    /// Gives every object and list a time anew: its place among those of its list.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn rank(&self) -> Result<()> {
        self.db.execute_batch(
            "CREATE TEMP TABLE ranks AS SELECT rowid AS row, row_number() OVER (PARTITION BY parent, kind
                 ORDER BY last_modified, id) AS rank FROM objects;
             CREATE INDEX temp.by_row ON ranks (row);
             UPDATE objects SET last_modified = (SELECT rank FROM ranks WHERE row = objects.rowid);
             DELETE FROM timestamps;",
        )?;
        Ok(())
    }

    /// Whether the source has an object of that kind, live or deleted.
    ///
    /// # Errors
    /// See [`Self::add_object`].
    pub fn contains(&self, uri: &ObjectUri) -> Result<bool> {
        let (parent, kind) = columns(uri.list());
        let sql = "SELECT 1 FROM objects WHERE parent = ? AND kind = ? AND id = ?";
        let mut select = self.db.prepare_cached(sql)?;
        let found: Option<i64> = select
            .query_row(params![parent, kind, uri.id()], |row| row.get(0))
            .optional()?;
        Ok(found.is_some())
    }
}

/// Returns `true` if an object with that many bytes of permissions fits into an item of the table.
fn fits(text: &str, fields: &Map<String, Value>, granted: usize) -> bool {
    let most = MAX_ITEM.saturating_sub(granted + OVERHEAD);
    // PostgreSQL's text has spaces, which ours has not.
    text.len() <= most || serde_json::to_string(fields).is_ok_and(|ours| ours.len() <= most)
}

fn millis(timestamp: Timestamp) -> i64 {
    timestamp.0.cast_signed()
}

fn columns(list: &ListUri) -> (String, &'static str) {
    let parent = list.parent().map(ToString::to_string);
    (parent.unwrap_or_default(), list.kind().name())
}

/// What is granted, from pairs of a permission and a principal. What objects of the kind cannot carry has no meaning.
fn permissions(kind: Kind, aces: &str) -> Permissions {
    let aces: Vec<(String, String)> = serde_json::from_str(aces).unwrap_or_default();
    let mut permissions = Permissions::default();
    for permission in kind.permissions() {
        let granted = aces.iter().filter(|(name, _)| name == permission);
        permissions.set(permission, granted.map(|(_, who)| who.clone()).collect());
    }
    permissions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_more_than_a_partition_holds_is_named_and_left_out() {
        let staging = Staging::new().unwrap();
        let add = |parent: &str, kind: &str, id: &str, length: usize| {
            let data = format!("{{\"text\":\"{}\"}}", "x".repeat(length));
            let added = staging.add_object(parent, kind, id, Timestamp(1), Some(&data));
            added.unwrap();
        };
        add("", "bucket", "b", 0);
        for list in ["small", "large"] {
            add("/buckets/b", "collection", list, 0);
            let of = format!("/buckets/b/collections/{list}");
            for record in 0..10 {
                let length = if list == "large" { 1000 } else { 100 };
                add(&of, "record", &format!("r{record}"), length);
            }
        }
        staging.check_lists(10_000).unwrap();
        staging.finish().unwrap();
        let findings = staging.findings().unwrap();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(
            findings[0].examples,
            ["/buckets/b/collections/large/records"]
        );
        assert_eq!(staging.counts().unwrap()[3], (Kind::Record, 10, 0));
    }
}
