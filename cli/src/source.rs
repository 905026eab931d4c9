//! Where what is moved comes from: the tables of Kinto's PostgreSQL, the same as CSV, another Kinto's API, the YAML of
//! kinto-wizard, or our own NDJSON.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use futures::StreamExt;
use kinto_serverless::resource::{ListUri, ObjectUri};
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Map, Value};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::http::client::Client;
use crate::http::history::history_of;
use crate::http::mirror::Mirror;
use crate::http::readers::Readers;
use crate::http::reading::{self, ReadingError};
use crate::progress::Progress;
use crate::staging::entries::{HISTORY, ReplacedTime};
use crate::staging::{Staging, StagingError};
use crate::tls::{self, TlsError};
use crate::yaml::{self, YamlError};

/// What nobody is told over HTTP.
pub const NOT_OVER_HTTP: &str = "\
Kinto's API does not show everything. These are missing: permissions of objects whose own `write` does not contain the
user; objects that the user may not read; tombstones of lists of which the user sees only some objects; permissions
granted by settings; files of attachments. The readers of an entry of a history were derived from other entries.";

/// What a file of kinto-wizard's lacks.
pub const NOT_IN_YAML: &str = "\
kinto-wizard's file does not have everything. These are missing: permissions of records, tombstones, timestamps of
lists, accounts, history. Clients that synchronized with the old server do not hear of earlier deletions.";

/// The reason why an object is left out whose time is below zero, which the table has no place for.
const BEFORE_1970: &str = "a time before 1970";

/// The tables that count, with their columns.
const TABLES: [(&str, &str); 4] = [
    (
        "objects",
        "id, parent_id, resource_name, last_modified, data, deleted",
    ),
    ("timestamps", "parent_id, resource_name, last_modified"),
    ("access_control_entries", "object_id, permission, principal"),
    ("user_principals", "user_id, principal"),
];

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// PostgreSQL.
    #[error("PostgreSQL: {}", with_cause(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// TLS to it cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A file.
    #[error("{0}: {1}")]
    File(String, std::io::Error),
    /// What is in it.
    #[error("{file}, record {record}: {what}")]
    Malformed {
        /// The file or table.
        file: String,
        /// The number of the record, the first is 1.
        record: u64,
        /// What is wrong.
        what: String,
    },
    /// Another Kinto.
    #[error(transparent)]
    Reading(#[from] ReadingError),
    /// A file of kinto-wizard's.
    #[error("{0}, {1}")]
    Yaml(String, YamlError),
    /// The temporary database.
    #[error(transparent)]
    Staging(#[from] StagingError),
}

fn with_cause(error: &tokio_postgres::Error) -> String {
    let Some(cause) = std::error::Error::source(error).map(ToString::to_string) else {
        return error.to_string();
    };
    let hint = match cause.contains("certificate") {
        true => {
            "; name its authority by sslrootcert=FILE in the URL, or accept any certificate by sslmode=require"
        }
        false => "",
    };
    format!("{error}: {cause}{hint}")
}

type Result<T> = std::result::Result<T, SourceError>;

/// Takes in the tables of a database, as they are at one moment.
///
/// # Errors
/// It cannot be reached or read, or holds what Kinto's does not.
pub async fn from_postgres(staging: &Staging, url: &str) -> Result<()> {
    let (url, tls) = tls::of_url(url)?;
    let connected = tokio_postgres::connect(&url, MakeRustlsConnect::new(tls)).await;
    let (client, connection) = connected?;
    let connection = tokio::spawn(connection);
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL DateStyle = 'ISO'";
    client.batch_execute(begin).await?;
    let progress = Progress::reading();
    for (table, columns) in TABLES {
        let path = staging.directory().join(table);
        let failed = |error| SourceError::File(path.display().to_string(), error);
        let mut file = File::create(&path).map_err(failed)?;
        let copy = format!("COPY (SELECT {columns} FROM {table}) TO STDOUT (FORMAT csv, HEADER)");
        let mut rows = std::pin::pin!(client.copy_out(&copy).await?);
        while let Some(bytes) = rows.next().await {
            file.write_all(&bytes?).map_err(failed)?;
            progress.advance(1);
        }
        from_csv(staging, table, File::open(&path).map_err(failed)?)?;
        std::fs::remove_file(&path).map_err(failed)?;
    }
    progress.finish();
    client.batch_execute("COMMIT").await?;
    drop(client);
    connection.abort();
    Ok(())
}

/// Takes in the tables as CSV with headers: `objects.csv` and so on, in a directory.
///
/// # Errors
/// One is missing, or holds what Kinto's tables do not.
pub fn from_dump(staging: &Staging, directory: &Path) -> Result<()> {
    for (table, _) in TABLES {
        let path = directory.join(format!("{table}.csv"));
        let file = File::open(&path);
        let file = file.map_err(|error| SourceError::File(path.display().to_string(), error))?;
        from_csv(staging, table, file)?;
    }
    Ok(())
}

fn from_csv(staging: &Staging, table: &str, file: impl Read) -> Result<()> {
    let mut reader = csv::Reader::from_reader(BufReader::with_capacity(1 << 20, file));
    let malformed = |record: u64, what: String| SourceError::Malformed {
        file: table.to_owned(),
        record,
        what,
    };
    let headers = reader.headers().map_err(|e| malformed(0, e.to_string()))?;
    let headers = headers.clone();
    let mut record = csv::StringRecord::new();
    let mut number = 0;
    loop {
        number += 1;
        let read = reader.read_record(&mut record);
        if !read.map_err(|error| malformed(number, error.to_string()))? {
            return Ok(());
        }
        let column = |name: &str| {
            let at = headers.iter().position(|header| header == name);
            let value = at.and_then(|at| record.get(at));
            value.ok_or_else(|| malformed(number, format!("there is no {name}")))
        };
        let time = || {
            let text = column("last_modified")?;
            let read = milliseconds(text);
            let read = read.ok_or_else(|| {
                malformed(
                    number,
                    format!("{text} is not a time as PostgreSQL writes it"),
                )
            })?;
            Ok::<_, SourceError>(u64::try_from(read).ok().map(Timestamp))
        };
        match table {
            "objects" => {
                let is_deleted = matches!(column("deleted")?, "t" | "true" | "True" | "1");
                let data = if is_deleted {
                    None
                } else {
                    Some(column("data")?)
                };
                let (parent, kind) = (column("parent_id")?, column("resource_name")?);
                let id = column("id")?;
                match time()? {
                    Some(time) => staging.add_object(parent, kind, id, time, data)?,
                    // Kinto takes such a `last_modified` from whoever writes.
                    None => {
                        let uri = format!("{parent}/{kind}s/{id}");
                        staging.note_unfit(BEFORE_1970, &uri)?;
                    }
                }
            }
            "timestamps" => {
                let (parent, kind) = (column("parent_id")?, column("resource_name")?);
                if let Some(time) = time()? {
                    staging.add_timestamp(parent, kind, time)?;
                }
            }
            "access_control_entries" => {
                staging.add_ace(
                    column("object_id")?,
                    column("permission")?,
                    column("principal")?,
                )?;
            }
            _ => staging.add_user_principal(column("user_id")?, column("principal")?)?,
        }
    }
}

/// Takes in what [`crate::export`] wrote.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn from_ndjson(staging: &Staging, path: &Path) -> Result<()> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|error| SourceError::File(name.clone(), error))?;
    for (number, line) in (1..).zip(BufReader::with_capacity(1 << 20, file).lines()) {
        let line = line.map_err(|error| SourceError::File(name.clone(), error))?;
        let malformed = || SourceError::Malformed {
            file: name.clone(),
            record: number,
            what: "not a line of an export".to_owned(),
        };
        let line: Value = serde_json::from_str(&line).map_err(|_| malformed())?;
        if line.get("kinto-serverless").is_some() {
            continue;
        }
        let last_modified = line["last_modified"]
            .as_u64()
            .map(Timestamp)
            .ok_or_else(malformed)?;
        if let (Some(parent), Some(kind)) = (line["parent"].as_str(), line["list"].as_str()) {
            staging.add_timestamp(parent, kind, last_modified)?;
            continue;
        }
        if let Some(bucket) = line["history"].as_str() {
            let id = line["id"].as_str().ok_or_else(malformed)?;
            let data = line.get("data").map(Value::to_string);
            let replaced = ReplacedTime::Said(line["replaces"].as_u64().map(Timestamp));
            staging.add_entry(bucket, id, last_modified, data.as_deref(), replaced)?;
            let uri = format!("{bucket}/{HISTORY}/{id}");
            for reader in line["readers"].as_array().into_iter().flatten() {
                let reader = reader.as_str().ok_or_else(malformed)?;
                staging.add_ace(&uri, "read", reader)?;
            }
            continue;
        }
        let uri = line["uri"]
            .as_str()
            .and_then(ObjectUri::parse)
            .ok_or_else(malformed)?;
        let parent = uri.parent().map(ToString::to_string).unwrap_or_default();
        let data = line.get("data").map(Value::to_string);
        staging.add_object(
            &parent,
            uri.kind().name(),
            uri.id(),
            last_modified,
            data.as_deref(),
        )?;
        let granted = line.get("permissions").and_then(Value::as_object);
        for (permission, principals) in granted.into_iter().flatten() {
            for principal in principals.as_array().into_iter().flatten() {
                let principal = principal.as_str().ok_or_else(malformed)?;
                staging.add_ace(&uri.to_string(), permission, principal)?;
            }
        }
    }
    Ok(())
}

/// Takes in all that a user may read of another Kinto, which is kept in a work file where the options name one.
///
/// # Errors
/// It cannot be read, or the work file is of another.
pub async fn from_http(
    staging: &Staging,
    client: &Client,
    options: &reading::Options,
) -> Result<()> {
    let hello = client.hello().await.map_err(ReadingError::from)?;
    let otherwise = staging.directory().join("work");
    let mut mirror = reading::open(client, &hello, options, otherwise)?;
    let progress = Progress::reading();
    let found = reading::read(client, &hello, &mut mirror, options, &progress).await;
    progress.finish();
    let found = found?;
    for list in &found.lists {
        from_mirror(staging, &mirror, list)?;
    }
    // Where it is false nobody sees an entry but by the bucket.
    let explicit = hello["settings"]["explicit_permissions"] != false;
    for bucket in &found.histories {
        history_from_mirror(staging, &mirror, bucket, explicit)?;
    }
    for (list, refusal) in found.unreadable {
        staging.note("not readable", &list, &refusal)?;
    }
    for plugin in found.plugins {
        staging.note("not read", "plugin", &plugin)?;
    }
    Ok(())
}

fn from_mirror(staging: &Staging, mirror: &Mirror, list: &ListUri) -> Result<()> {
    let (parent, kind) = (list.parent().map(ToString::to_string), list.kind().name());
    let parent = parent.unwrap_or_default();
    if let Some(reached) = mirror.timestamp(list).map_err(ReadingError::from)? {
        staging.add_timestamp(&parent, kind, reached)?;
    }
    for object in mirror.objects(list) {
        let object = object.map_err(ReadingError::from)?;
        if object.is_before_1970() {
            let uri = list.clone().object(object.id).to_string();
            staging.note_unfit(BEFORE_1970, &uri)?;
            continue;
        }
        let (id, data) = (&*object.id, object.data.as_deref());
        staging.add_object(&parent, kind, id, object.last_modified, data)?;
        if data.is_none() {
            continue;
        }
        let uri = list.clone().object(id).to_string();
        let permissions = object.permissions.as_deref().map(serde_json::from_str);
        match permissions {
            Some(Ok(Value::Object(permissions))) if !permissions.is_empty() => {
                add_permissions(staging, &uri, &permissions)?;
            }
            Some(_) => staging.note(&format!("permissions not shown: {kind}"), &uri, "")?,
            None => staging.note(&format!("permissions not asked for: {kind}"), &uri, "")?,
        }
    }
    Ok(())
}

/// Takes in the history of a bucket, after the objects.
fn history_from_mirror(
    staging: &Staging,
    mirror: &Mirror,
    bucket: &ObjectUri,
    explicit: bool,
) -> Result<()> {
    let history = history_of(bucket);
    let bucket_name = bucket.to_string();
    let mut readers = Readers::new(mirror, bucket)?;
    mirror.by_time(&history, |entry| {
        let (id, data) = (&*entry.id, entry.data.as_deref());
        let (at, replaced) = (entry.last_modified, ReplacedTime::NotSaid);
        staging.add_entry(&bucket_name, id, at, data, replaced)?;
        let Some(data) = data.filter(|_| explicit) else {
            return Ok(());
        };
        let uri = format!("{history}/{id}");
        let (principals, are_all) = readers.of(data, at);
        for principal in principals {
            staging.add_ace(&uri, "read", &principal)?;
        }
        if !are_all {
            staging.note("not told who may see it: entry of a history", &uri, "")?;
        }
        Ok(())
    })
}

fn add_permissions(
    staging: &Staging,
    uri: &str,
    permissions: &Map<String, Value>,
) -> std::result::Result<(), StagingError> {
    for (permission, principals) in permissions {
        let principals = principals.as_array().into_iter().flatten();
        for principal in principals.filter_map(Value::as_str) {
            staging.add_ace(uri, permission, principal)?;
        }
    }
    Ok(())
}

/// Takes in what kinto-wizard's `dump` wrote. Objects without `last_modified` get that of the file, each a millisecond
/// later than the one before, so that a second import finds the same.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn from_yaml(staging: &Staging, path: &Path) -> Result<()> {
    let name = path.display().to_string();
    let failed = |error| SourceError::File(name.clone(), error);
    let file = File::open(path).map_err(failed)?;
    let changed = file
        .metadata()
        .and_then(|of| of.modified())
        .map_err(failed)?;
    let since_1970 = changed.duration_since(std::time::UNIX_EPOCH);
    let changed = since_1970.map_or(0, |since| since.as_millis() as u64);
    let mut without_time = 0;
    let read = yaml::read(file, |mut object: yaml::YamlObject| {
        let list = &object.list;
        let kind = list.kind().name();
        let uri = list.clone().object(&*object.id).to_string();
        object.data.shift_remove("id");
        let time = object.data.shift_remove("last_modified");
        let last_modified = time.and_then(|time| time.as_u64()).unwrap_or_else(|| {
            without_time += 1;
            changed + without_time
        });
        let parent = list.parent().map(ToString::to_string).unwrap_or_default();
        let data = Value::Object(object.data).to_string();
        let last_modified = Timestamp(last_modified);
        staging.add_object(&parent, kind, &object.id, last_modified, Some(&data))?;
        match object.permissions {
            Some(permissions) if !permissions.is_empty() => {
                add_permissions(staging, &uri, &permissions)?;
            }
            _ => staging.note(&format!("no permissions in the file: {kind}"), &uri, "")?,
        }
        Ok(())
    });
    read.map_err(|error| match error {
        YamlFailure::Yaml(error) => SourceError::Yaml(name.clone(), error),
        YamlFailure::Staging(error) => error.into(),
    })?;
    if without_time > 0 {
        let detail = format!("{without_time} objects");
        staging.note("no last_modified in the file", &detail, "")?;
    }
    Ok(())
}

/// Why a file of kinto-wizard's is not taken in.
enum YamlFailure {
    Yaml(YamlError),
    Staging(StagingError),
}

impl From<rusqlite::Error> for SourceError {
    fn from(error: rusqlite::Error) -> Self {
        ReadingError::from(error).into()
    }
}

impl From<YamlError> for YamlFailure {
    fn from(error: YamlError) -> Self {
        Self::Yaml(error)
    }
}

impl From<StagingError> for YamlFailure {
    fn from(error: StagingError) -> Self {
        Self::Staging(error)
    }
}

/// Reads `2026-11-26 09:48:12.123456`, in UTC, to the nearest millisecond since 1970.
fn milliseconds(text: &str) -> Option<i64> {
    // PostgreSQL's form of years before 1.
    let (text, is_before_christ) = match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (date, time) = text.split_once([' ', 'T'])?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let mut time = time.splitn(3, ':');
    let (hours, minutes) = (
        time.next()?.parse::<i64>().ok()?,
        time.next()?.parse::<i64>().ok()?,
    );
    // PostgreSQL writes whole seconds without a fraction.
    let seconds = time.next()?;
    let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let seconds = seconds.parse::<i64>().ok()?;
    let micros = format!("{fraction:0<6}").get(..6)?.parse::<i64>().ok()?;
    let in_day = (hours * 60 + minutes) * 60 + seconds;
    let year = if is_before_christ { 1 - year } else { year };
    Some(days(year, month, day) * 86_400_000 + in_day * 1000 + (micros + 500) / 1000)
}

/// As PostgreSQL reads a time without zone.
pub fn postgres_time(time: Timestamp) -> String {
    let (seconds, milliseconds) = (time.0 / 1000, time.0 % 1000);
    let (days, second) = ((seconds / 86_400).cast_signed(), seconds % 86_400);
    // The year, counted from March, that the day is in: the guess is at most one too late.
    let shifted = days + 719_468;
    let mut year = shifted * 400 / 146_097 + 1;
    while first_of_march(year) > days {
        year -= 1;
    }
    let in_year = days - first_of_march(year);
    let month = (in_year * 5 + 2) / 153;
    let day = in_year - (month * 153 + 2) / 5 + 1;
    let (year, month) = match month {
        10.. => (year + 1, month - 9),
        _ => (year, month + 3),
    };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{milliseconds:03}")
}

fn first_of_march(year: i64) -> i64 {
    days(year, 3, 1)
}

/// Days since 1970-01-01 in the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the day that is added is their last.
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let of_years = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    of_years + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn times_are_read_as_they_were_written(time in 0..253_402_300_800_000_u64) {
            let written = postgres_time(Timestamp(time));
            proptest::prop_assert_eq!(milliseconds(&written), Some(time.cast_signed()), "{}", written);
        }
    }

    #[test]
    fn times_are_read_to_the_nearest_millisecond() {
        for (text, milliseconds) in [
            ("1970-01-01 00:00:00", 0),
            ("2026-11-21 19:39:32.999", 1_795_289_972_999),
            ("2026-11-21 19:39:32.9985", 1_795_289_972_999),
            ("2026-11-21T19:39:32.998499", 1_795_289_972_998),
            ("2000-02-29 12:00:00.001", 951_825_600_001),
            ("1969-12-31 23:59:59.995", -5),
            ("0001-12-31 00:00:00 BC", -62_135_683_200_000),
        ] {
            assert_eq!(super::milliseconds(text), Some(milliseconds), "{text}");
        }
        assert_eq!(super::milliseconds("yesterday"), None);
    }
}
