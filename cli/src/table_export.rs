//! An export that DynamoDB made of a table itself (`ExportTableToPointInTime`, `DYNAMODB_JSON`), in S3 or in a directory.
//!
//! Its files are those of AWS's "DynamoDB table export output format"
//! (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/S3DataExport.Output.html>). `manifest-summary.json`, written last, says what it is and
//! how many items it has; each line of `manifest-files.json` names a data file, with its items and its MD5; a data file is compressed
//! and has a line of JSON for each item. Nothing is taken of an export that is not what its manifests say.
//!
//! Its items come in no order, so all of them go into a table in a temporary file first, as they are; what that holds is
//! then read as any table's.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::MultiGzDecoder;
use kinto_local::{LocalAws, TABLE};
use kinto_serverless::resource::{ListUri, ObjectUri};
use kinto_serverless::store::history::{EntryContent, RawEntry};
use kinto_serverless::store::{Content, Object, Store};
use kinto_serverless::timestamp::Timestamp;
use md5::{Digest, Md5};
use serde::Deserialize;
use serde_json::Value;

use crate::export::{self, ExportError, Format, export};
use crate::s3::{S3Error, S3Object};
use crate::staging::entries::{HISTORY, ReplacedTime};
use crate::staging::{Staging, StagingError};

/// Items that are put at once, and the most bytes of them, but for one.
const BATCH: (usize, usize) = (500, 1 << 20);
/// Bytes of a line at most: an item of 400 KB, with escapes.
const MAX_LINE: u64 = 4 * 1024 * 1024;
/// The type and the format of exports that can be imported.
const FULL: &str = "FULL_EXPORT";
const FORMAT: &str = "DYNAMODB_JSON";

/// Why an export cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TableExportError {
    /// S3.
    #[error(transparent)]
    S3(#[from] S3Error),
    /// A file.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    /// A file has other contents than an export.
    #[error("{0}: {1}")]
    Malformed(PathBuf, String),
    /// The temporary table.
    #[error("the temporary table: {0}")]
    Table(String),
    /// The temporary table, as it is read.
    #[error(transparent)]
    Export(#[from] ExportError),
}

type Result<T> = std::result::Result<T, TableExportError>;

/// Where an export lies.
#[derive(Debug)]
pub enum ExportLocation {
    /// In S3.
    S3(S3Object),
    /// In a directory that `aws s3 cp --recursive` made.
    Directory(PathBuf),
}

/// The parts of `manifest-summary.json` that count.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    output_format: String,
    /// None in exports from before there were incremental ones.
    export_type: Option<String>,
    item_count: u64,
}

/// A line of `manifest-files.json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DataFile {
    item_count: u64,
    /// Of the file as it lies there, in base64.
    md5_checksum: String,
    data_file_s3_key: String,
}

impl ExportLocation {
    /// The export in `s3://BUCKET/PREFIX/AWSDynamoDB/ID`, or in a directory.
    ///
    /// # Errors
    /// The URL is of another form.
    pub async fn open(named: &str) -> Result<Self> {
        Ok(match named.starts_with("s3://") {
            true => Self::S3(S3Object::open(named.trim_end_matches('/')).await?),
            false => Self::Directory(named.into()),
        })
    }

    /// Where a file of the export is now, which may be `temporary`.
    async fn file(&self, name: &str, temporary: &Path) -> Result<PathBuf> {
        match self {
            Self::S3(object) => {
                object.under(name).download(temporary).await?;
                Ok(temporary.to_owned())
            }
            Self::Directory(directory) => Ok(directory.join(name)),
        }
    }

    async fn text(&self, name: &str, temporary: &Path) -> Result<String> {
        let path = self.file(name, temporary).await?;
        std::fs::read_to_string(&path).map_err(|error| TableExportError::File(path, error))
    }
}

/// Takes in all that an export holds.
///
/// # Errors
/// It is not there as a whole, is none of a whole table, or holds what our tables do not.
pub async fn read(staging: &Staging, place: &ExportLocation) -> Result<()> {
    let temporary = staging.directory().join("part");
    let summary_name = Path::new("manifest-summary.json");
    let summary = place.text("manifest-summary.json", &temporary).await?;
    let summary: Summary =
        serde_json::from_str(&summary).map_err(|error| malformed(summary_name, error))?;
    let kind = summary.export_type.as_deref().unwrap_or(FULL);
    for (is, wanted) in [(kind, FULL), (&*summary.output_format, FORMAT)] {
        if is != wanted {
            let what = format!("the export is {is}; export the table as {wanted}");
            return Err(malformed(summary_name, what));
        }
    }
    let files = place.text("manifest-files.json", &temporary).await?;
    let files = files.lines().map(serde_json::from_str);
    let files = files.collect::<std::result::Result<Vec<DataFile>, _>>();
    let files = files.map_err(|error| malformed(Path::new("manifest-files.json"), error))?;
    let table = staging.directory().join("table.db");
    let aws = LocalAws::open_for_import(&table.to_string_lossy()).map_err(of_table)?;
    aws.create_table(TABLE).map_err(of_table)?;
    let mut count = 0;
    for file in files {
        let name = file.data_file_s3_key.rsplit('/').next().unwrap_or_default();
        let name = format!("data/{name}");
        let path = place.file(&name, &temporary).await?;
        if md5_of(&path)? != file.md5_checksum {
            return Err(malformed(
                Path::new(&name),
                "its MD5 differs from that in the manifest; copy the export again",
            ));
        }
        let items = put_all(&aws, &path)?;
        check_count(Path::new(&name), items, file.item_count)?;
        count += items;
    }
    check_count(summary_name, count, summary.item_count)?;
    let store = Store::new(aws.dynamodb(), TABLE);
    export(&store, &mut ToStaging(staging)).await?;
    Ok(())
}

fn check_count(path: &Path, found: u64, told: u64) -> Result<()> {
    match found == told {
        true => Ok(()),
        false => Err(malformed(
            path,
            format!("it has {found} items, but the manifest says {told}"),
        )),
    }
}

fn md5_of(path: &Path) -> Result<String> {
    let failed = |error| TableExportError::File(path.to_owned(), error);
    let mut file = File::open(path).map_err(failed)?;
    let (mut md5, mut part) = (Md5::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut part).map_err(failed)? {
            0 => return Ok(BASE64.encode(md5.finalize())),
            count => md5.update(&part[..count]),
        }
    }
}

/// Puts the items of a file into the table; how many these are.
fn put_all(aws: &LocalAws, path: &Path) -> Result<u64> {
    let failed = |error| TableExportError::File(path.to_owned(), error);
    let file = File::open(path).map_err(failed)?;
    // Of a partition without items there may be a file without a byte.
    if file.metadata().map_err(failed)?.len() == 0 {
        return Ok(0);
    }
    let mut lines = BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file));
    let (mut line, mut puts, mut waiting, mut count) = (String::new(), String::new(), 0, 0);
    loop {
        line.clear();
        let read = (&mut lines).take(MAX_LINE).read_line(&mut line);
        let is_end = read.map_err(failed)? == 0;
        if !is_end {
            // A line is `{"Item": …}`, which is what a request puts.
            let comma = if puts.is_empty() { "" } else { "," };
            puts += comma;
            puts += "{\"PutRequest\":";
            puts += line.trim_end();
            puts.push('}');
            waiting += 1;
            count += 1;
        }
        if waiting > 0 && (is_end || waiting == BATCH.0 || puts.len() >= BATCH.1) {
            let body = format!("{{\"RequestItems\":{{\"{TABLE}\":[{puts}]}}}}");
            let put = aws.database().execute("BatchWriteItem", body.as_bytes());
            put.map_err(|error| malformed(path, error))?;
            puts.clear();
            waiting = 0;
        }
        if is_end {
            return Ok(count);
        }
    }
}

fn malformed(path: &Path, what: impl ToString) -> TableExportError {
    TableExportError::Malformed(path.to_owned(), what.to_string())
}

fn of_table(error: impl ToString) -> TableExportError {
    TableExportError::Table(error.to_string())
}

/// Writes the contents of a table to the staging database, as those of a source.
struct ToStaging<'s>(&'s Staging);

impl From<StagingError> for ExportError {
    fn from(error: StagingError) -> Self {
        match error {
            StagingError::File(error) => Self::File(error),
            StagingError::Database(error) => Self::Database(error),
        }
    }
}

impl Format for ToStaging<'_> {
    fn list(&mut self, list: &ListUri, timestamp: Timestamp) -> export::Result<()> {
        let parent = list.parent().map(ToString::to_string).unwrap_or_default();
        Ok(self
            .0
            .add_timestamp(&parent, list.kind().name(), timestamp)?)
    }

    fn object(&mut self, uri: &ObjectUri, object: &Object) -> export::Result<()> {
        let parent = uri.parent().map(ToString::to_string).unwrap_or_default();
        let (kind, id, at) = (uri.kind().name(), uri.id(), object.last_modified);
        let Content::Live { data, permissions } = &object.content else {
            return Ok(self.0.add_object(&parent, kind, id, at, None)?);
        };
        let data = Value::Object(data.clone()).to_string();
        self.0.add_object(&parent, kind, id, at, Some(&data))?;
        let uri = uri.to_string();
        for (permission, principals) in permissions.iter() {
            for principal in principals {
                self.0.add_ace(&uri, permission, principal)?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        bucket: &ObjectUri,
        entry: &RawEntry,
        content: &EntryContent,
    ) -> export::Result<()> {
        let (bucket, id, at) = (bucket.to_string(), &*entry.id, entry.time);
        let data = (!entry.is_deleted).then(|| Value::Object(content.shown.clone()).to_string());
        let replaced = ReplacedTime::Said(content.replaces);
        self.0
            .add_entry(&bucket, id, at, data.as_deref(), replaced)?;
        let uri = format!("{bucket}/{HISTORY}/{id}");
        for reader in &content.readers {
            self.0.add_ace(&uri, "read", reader)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> export::Result<()> {
        Ok(())
    }
}
