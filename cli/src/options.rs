//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use kinto_serverless::resource::Kind;

use crate::http::reading;
use crate::sync;

/// The answer to `--help`.
pub const HELP: &str = "\
Moves a Kinto into a table of kinto-serverless and out of it, and maintains the table.

Usage: kinto-serverless import SOURCE TABLE [--dry-run] [--leave-out] [--overwrite]
                               [--raise-timestamps] [--write-capacity UNITS]
       kinto-serverless verify SOURCE TABLE
       kinto-serverless verify https://SOURCE https://TARGET
       kinto-serverless export FILE.ndjson|s3://BUCKET/KEY TABLE
       kinto-serverless export FILE.yaml|--to-dump DIR TABLE
       kinto-serverless purge-deleted KIND... MAX_RETAINED TABLE [--dry-run]
       kinto-serverless raise-timestamps TABLE
       kinto-serverless sweep TABLE [--tombstone-days DAYS]
       kinto-serverless chain|csr --help

SOURCE
  postgres://…       Kinto's database, read at one moment
  --from-dynamodb-export s3://BUCKET/PREFIX/AWSDynamoDB/ID|DIR
                     a full export of a table of kinto-serverless, made by
                     DynamoDB in the format DYNAMODB_JSON
  --from-dump DIR    Kinto's tables as CSV: objects.csv, timestamps.csv,
                     access_control_entries.csv, user_principals.csv
  https://…          another Kinto, by its API: https://user:password@host/v1,
                     or KINTO_AUTH=user:password (or a complete Authorization)
  FILE.yaml          the output of kinto-wizard's `dump --full`
  FILE.ndjson        the output of `export`; s3://BUCKET/KEY is an object of S3

TABLE
  --table NAME       a table of DynamoDB, as the SDK finds it (AWS_REGION,
                     AWS_PROFILE, AWS_ENDPOINT_URL)
  --data FILE        the file of the local stack, which must not run meanwhile

import makes the table equal to the source. Started again, it continues where
it was, and later it writes only what changed. verify reports the differences,
and fails if there are any. With two servers it compares all that their APIs
show one user. export writes everything to a file that import reads, to one
that kinto-wizard loads, or as CSV of Kinto's tables with a script for psql.

purge-deleted keeps the latest MAX_RETAINED tombstones of each list of that
KIND (record, collection, group, bucket, account) and removes the others.
raise-timestamps gives every object in a restored table a new time; started
again after an interruption, it continues. sweep lets items expire that nobody
can see any more. These three take --write-capacity.

  --dry-run          only report what would be written and what does not fit
  --leave-out        leave out what does not fit, and write the rest
  --overwrite        discard writes that the table got through the API
  --raise-timestamps give every object a new time, so that clients hear of it
  --write-capacity   the most write capacity units a second
  --tombstone-days   also let tombstones expire that are older
  --work FILE        keep what was read over HTTP in FILE, and continue from it
  --skip-record-permissions
                     do not ask over HTTP for the permissions of each record
  --help             print this";

/// A day.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Words besides options: a command, each kind of object, and a number.
const MAX_VALUES: usize = 7;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// What to do.
    pub command: Command,
    /// How.
    pub sync: sync::Options,
    /// How another Kinto is read by its API.
    pub reading: reading::Options,
    /// Whether to go on without what does not fit.
    pub leave_out: bool,
    /// Whether to tell only what would be done.
    pub dry_run: bool,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Make the table equal to the source.
    Import(Source, Table),
    /// Tell what differs.
    Verify(Source, Table),
    /// Tell what two servers show otherwise, by their URLs.
    Compare(String, String),
    /// Write everything that the table holds.
    Export(Target, Table),
    /// Remove tombstones of these kinds, but for so many of each list.
    PurgeDeleted(Vec<Kind>, u64, Table),
    /// Give everything new times.
    RaiseTimestamps(Table),
    /// Have expire what is over, and tombstones that are older.
    Sweep(Option<Duration>, Table),
}

/// Where objects come from.
#[derive(Debug, PartialEq, Eq)]
pub enum Source {
    /// A database, by its URL.
    Postgres(String),
    /// A directory of CSV files.
    Dump(PathBuf),
    /// An export of DynamoDB's, by its URL or directory.
    TableExport(String),
    /// Another Kinto, by the URL of its API.
    Http(String),
    /// A file of kinto-wizard's.
    Yaml(PathBuf),
    /// An export in S3, by its URL.
    S3(String),
    /// A file of an export.
    Ndjson(PathBuf),
}

/// Where objects go, and in which form.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// A directory of CSV files.
    Dump(PathBuf),
    /// A file that kinto-wizard loads.
    Yaml(PathBuf),
    /// An object of S3 that `import` reads, by its URL.
    S3(String),
    /// A file that `import` reads.
    Ndjson(PathBuf),
}

/// The table.
#[derive(Debug, PartialEq, Eq)]
pub enum Table {
    /// Of DynamoDB, by its name.
    DynamoDb(String),
    /// Of the local stack, by its file.
    File(String),
}

/// A command line that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// An argument.
    #[error("{0}; see --help")]
    Argument(#[from] lexopt::Error),
    /// What is missing.
    #[error("{0} is missing; see --help")]
    Missing(&'static str),
}

impl Options {
    /// Reads the arguments (without the program's name); `None` is `--help`.
    ///
    /// # Errors
    /// Names what is wrong or missing.
    pub fn parse(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Option<Self>, OptionsError> {
        use lexopt::prelude::*;

        let (mut values, mut from, mut to_dump, mut table) = (vec![], None, None, None);
        let (mut dry_run, mut leave_out, mut tombstones_kept) = (false, false, None);
        let (mut sync, mut reading) = (sync::Options::default(), reading::Options::default());
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("help") | Short('h') => return Ok(None),
                Long("from-dump") => from = Some(Source::Dump(parser.value()?.into())),
                Long("from-dynamodb-export") => {
                    from = Some(Source::TableExport(parser.value()?.string()?));
                }
                Long("to-dump") => to_dump = Some(PathBuf::from(parser.value()?)),
                Long("table") => table = Some(Table::DynamoDb(parser.value()?.string()?)),
                Long("data") => table = Some(Table::File(parser.value()?.string()?)),
                Long("dry-run") => dry_run = true,
                Long("leave-out") => leave_out = true,
                Long("overwrite") => sync.overwrites = true,
                Long("raise-timestamps") => sync.raises = true,
                Long("work") => reading.work = Some(PathBuf::from(parser.value()?)),
                Long("skip-record-permissions") => reading.skips_record_permissions = true,
                Long("write-capacity") => {
                    let units = parser.value()?.parse::<std::num::NonZeroU64>()?;
                    sync.capacity = Some(units.get());
                }
                Long("tombstone-days") => {
                    let days = parser.value()?.parse::<std::num::NonZeroU32>()?;
                    tombstones_kept = Some(DAY * days.get());
                }
                Value(value) if values.len() < MAX_VALUES => values.push(value.string()?),
                _ => return Err(argument.unexpected().into()),
            }
        }
        if let Some("purge-deleted") = values.first().map(String::as_str) {
            let (kinds, max_retained) = to_purge(&values[1..])?;
            let table = table.ok_or(OptionsError::Missing("a table"))?;
            return Ok(Some(Self {
                command: Command::PurgeDeleted(kinds, max_retained, table),
                sync,
                reading,
                leave_out,
                dry_run,
            }));
        }
        let mut values = values.into_iter();
        let name = values.next().ok_or(OptionsError::Missing("a command"))?;
        let given = values.next();
        let other = values.next();
        if let Some(value) = values.next() {
            return Err(lexopt::Error::UnexpectedArgument(value.into()).into());
        }
        let is_url = |url: &str| url.starts_with("https://") || url.starts_with("http://");
        let source = |given: Option<String>| match (given, from) {
            (None, Some(from)) => Ok(from),
            (Some(url), None)
                if url.starts_with("postgres://") || url.starts_with("postgresql://") =>
            {
                Ok(Source::Postgres(url))
            }
            (Some(url), None) if is_url(&url) => Ok(Source::Http(url)),
            (Some(url), None) if url.starts_with("s3://") => Ok(Source::S3(url)),
            (Some(file), None) if is_yaml(&file) => Ok(Source::Yaml(file.into())),
            (Some(file), None) => Ok(Source::Ndjson(file.into())),
            _ => Err(OptionsError::Missing("one source")),
        };
        let unexpected = |value: &str| lexopt::Error::UnexpectedArgument(value.into());
        let table = table.ok_or(OptionsError::Missing("a table"));
        let command = match (&*name, other) {
            ("verify", Some(other)) => match source(given)? {
                Source::Http(url) if is_url(&other) && table.is_err() => {
                    Command::Compare(url, other)
                }
                _ => return Err(unexpected(&other).into()),
            },
            (_, Some(other)) => return Err(unexpected(&other).into()),
            ("import", None) => Command::Import(source(given)?, table?),
            ("verify", None) => Command::Verify(source(given)?, table?),
            ("export", None) => {
                let target = match (given, to_dump) {
                    (None, Some(directory)) => Target::Dump(directory),
                    (Some(url), None) if url.starts_with("s3://") => Target::S3(url),
                    (Some(file), None) if is_yaml(&file) => Target::Yaml(file.into()),
                    (Some(file), None) => Target::Ndjson(file.into()),
                    _ => return Err(OptionsError::Missing("one file")),
                };
                Command::Export(target, table?)
            }
            ("raise-timestamps", None) if given.is_none() => Command::RaiseTimestamps(table?),
            ("sweep", None) if given.is_none() => Command::Sweep(tombstones_kept, table?),
            _ => return Err(unexpected(&name).into()),
        };
        sync.writes = matches!(command, Command::Import(..)) && !dry_run;
        Ok(Some(Self {
            command,
            sync,
            reading,
            leave_out,
            dry_run,
        }))
    }
}

/// The kinds of which tombstones are purged, and how many are retained: Kinto's own arguments.
fn to_purge(values: &[String]) -> Result<(Vec<Kind>, u64), OptionsError> {
    let (max_retained, kinds) = match values.split_last() {
        Some((last, kinds)) if !kinds.is_empty() => (last, kinds),
        _ => return Err(OptionsError::Missing("a kind, or how many to retain,")),
    };
    let unexpected = |value: &String| lexopt::Error::UnexpectedArgument(value.into());
    let kinds = kinds
        .iter()
        .map(|kind| Kind::from_name(kind).ok_or_else(|| unexpected(kind)));
    let kinds = kinds.collect::<Result<_, _>>()?;
    let max_retained = max_retained.parse().map_err(|_| unexpected(max_retained))?;
    Ok((kinds, max_retained))
}

fn is_yaml(file: &str) -> bool {
    file.ends_with(".yaml") || file.ends_with(".yml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>, OptionsError> {
        Options::parse(line.split(' ').map(OsString::from))
    }

    fn command(line: &str) -> Command {
        parse(line).unwrap().unwrap().command
    }

    #[test]
    fn a_command_has_a_source_and_a_table() {
        let file = || Table::File("t.db".to_owned());
        let line = "import postgres://h/d --data t.db --write-capacity 500";
        let import = parse(line).unwrap().unwrap();
        let source = Source::Postgres("postgres://h/d".to_owned());
        assert_eq!(import.command, Command::Import(source, file()));
        assert!(import.sync.writes && import.sync.capacity == Some(500));
        let dry = parse("import --from-dump d --data t.db --dry-run");
        let dry = dry.unwrap().unwrap();
        assert!(!dry.sync.writes);
        assert_eq!(
            dry.command,
            Command::Import(Source::Dump("d".into()), file())
        );
        let of_dynamodb = command("import --from-dynamodb-export s3://b/AWSDynamoDB/1 --data t.db");
        let source = Source::TableExport("s3://b/AWSDynamoDB/1".to_owned());
        assert_eq!(of_dynamodb, Command::Import(source, file()));
        let verify = parse("verify x.ndjson --table t").unwrap().unwrap();
        assert!(!verify.sync.writes);
        let http = parse("import https://h/v1 --data t.db --work w");
        let http = http.unwrap().unwrap();
        let source = Source::Http("https://h/v1".to_owned());
        assert_eq!(http.command, Command::Import(source, file()));
        assert_eq!(http.reading.work, Some("w".into()));
        let s3 = Target::S3("s3://b/k".to_owned());
        let export = command("export s3://b/k --data t.db");
        assert_eq!(export, Command::Export(s3, file()));
        let yaml = Source::Yaml("dump.yaml".into());
        let import = command("import dump.yaml --data t.db");
        assert_eq!(import, Command::Import(yaml, file()));
        assert_eq!(parse("--help").unwrap(), None);
    }

    #[test]
    fn two_servers_are_compared_without_a_table() {
        let urls = ["https://a/v1", "https://b/v1"].map(str::to_owned);
        let [one, other] = urls;
        let compare = command("verify https://a/v1 https://b/v1");
        assert_eq!(compare, Command::Compare(one, other));
    }

    #[test]
    fn a_table_is_kept() {
        let table = || Table::DynamoDb("t".to_owned());
        let purge = parse("purge-deleted record bucket 10 --table t --dry-run");
        let purge = purge.unwrap().unwrap();
        let kinds = vec![Kind::Record, Kind::Bucket];
        assert_eq!(purge.command, Command::PurgeDeleted(kinds, 10, table()));
        assert!(purge.dry_run);
        let raise = command("raise-timestamps --table t");
        assert_eq!(raise, Command::RaiseTimestamps(table()));
        let sweep = command("sweep --table t --tombstone-days 2");
        assert_eq!(sweep, Command::Sweep(Some(2 * DAY), table()));
    }

    #[test]
    fn what_is_missing_or_too_much_is_refused() {
        for wrong in [
            "import",
            "import x",
            "move x --data t",
            "export --data t",
            "export x --to-dump d --data t",
            "verify a b --data t",
            "verify https://a https://b --data t",
            "verify postgres://a https://b",
            "verify https://a b",
            "import https://a https://b",
            "import a b c d --data t",
            "import x --data t --write-capacity 0",
            "purge-deleted --table t",
            "purge-deleted 3 --table t",
            "purge-deleted record --table t",
            "purge-deleted record -1 --table t",
            "purge-deleted records 3 --table t",
            "purge-deleted record 3",
            "raise-timestamps x --table t",
            "sweep x --table t",
            "sweep --table t --tombstone-days 0",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
