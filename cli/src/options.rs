//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::http::reading;
use crate::sync;

/// The answer to `--help`.
pub const HELP: &str = "\
Moves a Kinto into a table of kinto-serverless, and out of it.

Usage: kinto-serverless import SOURCE TABLE [--dry-run] [--leave-out] [--overwrite]
                               [--raise-timestamps] [--write-capacity UNITS]
       kinto-serverless verify SOURCE TABLE
       kinto-serverless export FILE.ndjson|FILE.yaml|--to-dump DIR TABLE

SOURCE
  postgres://…       Kinto's database, read at one moment
  --from-dump DIR    its tables as CSV: objects.csv, timestamps.csv,
                     access_control_entries.csv, user_principals.csv
  https://…          another Kinto, by its API: https://user:password@host/v1,
                     or KINTO_AUTH=user:password (or a whole Authorization)
  FILE.yaml          what kinto-wizard's `dump --full` wrote
  FILE.ndjson        what `export` wrote

TABLE
  --table NAME       of DynamoDB, as the SDK finds it (AWS_REGION, AWS_PROFILE,
                     AWS_ENDPOINT_URL)
  --data FILE        of the local stack, which must not run meanwhile

import makes the table equal to the source. Begun again it goes on where it
was; later it brings what changed. verify tells what differs, and fails if
anything does. export writes everything to a file that import reads back, to one
that kinto-wizard loads, or as CSV of Kinto's tables, with a script for psql.

  --dry-run          only tell what would be written and what would not fit
  --leave-out        go on without what does not fit
  --overwrite        lose what was written to the table through the API
  --raise-timestamps give everything a new time, so that clients hear of it
  --write-capacity   write capacity units a second at most
  --work FILE        keep what was read over HTTP, and go on from there later
  --skip-record-permissions
                     do not ask over HTTP for the permissions of each record
  --help             print this";

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// What to do.
    pub command: Command,
    /// With which table.
    pub table: Table,
    /// How.
    pub sync: sync::Options,
    /// How another Kinto is read by its API.
    pub reading: reading::Options,
    /// Whether to go on without what does not fit.
    pub leave_out: bool,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Make the table equal to the source.
    Import(Source),
    /// Tell what differs.
    Verify(Source),
    /// Write everything that the table holds.
    Export(Target),
}

/// Where objects come from.
#[derive(Debug, PartialEq, Eq)]
pub enum Source {
    /// A database, by its URL.
    Postgres(String),
    /// A directory of CSV files.
    Dump(PathBuf),
    /// Another Kinto, by the URL of its API.
    Http(String),
    /// A file of kinto-wizard's.
    Yaml(PathBuf),
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

        let (mut values, mut dump, mut to_dump, mut table) = (vec![], None, None, None);
        let (mut dry_run, mut leave_out) = (false, false);
        let (mut sync, mut reading) = (sync::Options::default(), reading::Options::default());
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("help") | Short('h') => return Ok(None),
                Long("from-dump") => dump = Some(PathBuf::from(parser.value()?)),
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
                Value(value) if values.len() < 2 => values.push(value.string()?),
                _ => return Err(argument.unexpected().into()),
            }
        }
        let mut values = values.into_iter();
        let name = values.next().ok_or(OptionsError::Missing("a command"))?;
        let given = values.next();
        let source = |given: Option<String>| match (given, dump) {
            (None, Some(directory)) => Ok(Source::Dump(directory)),
            (Some(url), None)
                if url.starts_with("postgres://") || url.starts_with("postgresql://") =>
            {
                Ok(Source::Postgres(url))
            }
            (Some(url), None) if url.starts_with("https://") || url.starts_with("http://") => {
                Ok(Source::Http(url))
            }
            (Some(file), None) if is_yaml(&file) => Ok(Source::Yaml(file.into())),
            (Some(file), None) => Ok(Source::Ndjson(file.into())),
            _ => Err(OptionsError::Missing("one source")),
        };
        let command = match &*name {
            "import" => Command::Import(source(given)?),
            "verify" => Command::Verify(source(given)?),
            "export" => Command::Export(match (given, to_dump) {
                (None, Some(directory)) => Target::Dump(directory),
                (Some(file), None) if is_yaml(&file) => Target::Yaml(file.into()),
                (Some(file), None) => Target::Ndjson(file.into()),
                _ => return Err(OptionsError::Missing("one file")),
            }),
            _ => return Err(lexopt::Error::UnexpectedArgument(name.into()).into()),
        };
        sync.writes = matches!(command, Command::Import(_)) && !dry_run;
        let table = table.ok_or(OptionsError::Missing("a table"))?;
        Ok(Some(Self {
            command,
            table,
            sync,
            reading,
            leave_out,
        }))
    }
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

    #[test]
    fn a_command_has_a_source_and_a_table() {
        let import = parse("import postgres://h/d --data t.db --write-capacity 500")
            .unwrap()
            .unwrap();
        let source = Source::Postgres("postgres://h/d".to_owned());
        assert_eq!(import.command, Command::Import(source));
        assert_eq!(import.table, Table::File("t.db".to_owned()));
        assert!(import.sync.writes && import.sync.capacity == Some(500));
        let dry = parse("import --from-dump d --table t --dry-run")
            .unwrap()
            .unwrap();
        assert!(!dry.sync.writes && dry.command == Command::Import(Source::Dump("d".into())));
        assert!(
            !parse("verify x.ndjson --table t")
                .unwrap()
                .unwrap()
                .sync
                .writes
        );
        let http = parse("import https://h/v1 --data t --work w");
        let http = http.unwrap().unwrap();
        assert_eq!(
            http.command,
            Command::Import(Source::Http("https://h/v1".to_owned()))
        );
        assert_eq!(http.reading.work, Some("w".into()));
        let yaml = parse("import dump.yaml --data t").unwrap().unwrap();
        assert_eq!(
            yaml.command,
            Command::Import(Source::Yaml("dump.yaml".into()))
        );
        for wrong in [
            "import",
            "import x",
            "move x --data t",
            "export --data t",
            "export x --to-dump d --data t",
            "verify a b --data t",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("import x --data t --write-capacity 0").is_err());
        assert_eq!(parse("--help").unwrap(), None);
    }
}
