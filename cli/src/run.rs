//! What a command does, and what it prints.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};

use aws_config::BehaviorVersion;
use kinto_local::LocalAws;
use kinto_local::TABLE;
use kinto_serverless::store::Store;

use crate::export::ndjson::Ndjson;
use crate::export::tables::Tables;
use crate::export::yaml::Yaml;
use crate::export::{Format, export};
use crate::http::client::{AUTH_VARIABLE, Client};
use crate::options::{Command, Options, Source, Table, Target};
use crate::progress::Progress;
use crate::source;
use crate::staging::{Staging, UNFIT};
use crate::sync::{Differences, Sync};

/// Does it; whether it succeeded, and nothing differs where that was asked.
///
/// # Errors
/// Source, table or file fail.
pub async fn run(options: Options, out: &mut impl Write) -> Result<bool, Box<dyn Error>> {
    let store = open(&options.table).await?;
    let (from, verifies) = match &options.command {
        Command::Import(source) => (source, false),
        Command::Verify(source) => (source, true),
        Command::Export(target) => {
            let file = |path| File::create(path).map(BufWriter::new);
            let mut format: Box<dyn Format> = match target {
                Target::Dump(directory) => Box::new(Tables::new(directory)?),
                Target::Yaml(path) => Box::new(Yaml::new(file(path)?)?),
                Target::Ndjson(path) => Box::new(Ndjson::new(file(path)?)?),
            };
            let count = export(&store, &mut *format).await?;
            writeln!(out, "{count} objects and tombstones")?;
            for remark in format.remarks() {
                writeln!(out, "{remark}")?;
            }
            return Ok(true);
        }
    };
    let staging = Staging::new()?;
    match from {
        Source::Postgres(url) => source::from_postgres(&staging, url).await?,
        Source::Dump(directory) => source::from_dump(&staging, directory)?,
        Source::Http(url) => {
            let auth = std::env::var(AUTH_VARIABLE).ok();
            let client = Client::new(url, auth.as_deref())?;
            source::from_http(&staging, &client, &options.reading).await?;
        }
        Source::Yaml(path) => source::from_yaml(&staging, path)?,
        Source::Ndjson(path) => source::from_ndjson(&staging, path)?,
    }
    staging.finish()?;
    let mut objects = 0;
    for (kind, live, deleted) in staging.counts()? {
        writeln!(
            out,
            "{live} {} and {deleted} tombstones of them",
            kind.plural()
        )?;
        objects += live + deleted;
    }
    let findings = staging.findings()?;
    for finding in &findings {
        writeln!(
            out,
            "{}: {}, e.g. {}",
            finding.kind,
            finding.count,
            finding.examples.join(", ")
        )?;
    }
    if options.sync.writes
        && !options.leave_out
        && findings.iter().any(|f| f.kind.starts_with(UNFIT))
    {
        writeln!(
            out,
            "Nothing was written; --leave-out goes on without what does not fit."
        )?;
        return Ok(false);
    }
    let progress = Progress::new(objects);
    let found = Sync::run(&staging, &store, options.sync, &progress).await;
    progress.finish();
    let found = found?;
    report(&found, &options, out)?;
    match from {
        Source::Http(_) => writeln!(out, "{}", source::NOT_OVER_HTTP)?,
        Source::Yaml(_) => writeln!(out, "{}", source::NOT_IN_YAML)?,
        _ => {}
    }
    Ok(!verifies || found.by_kind.is_empty())
}

fn report(found: &Differences, options: &Options, out: &mut impl Write) -> std::io::Result<()> {
    let is_written = options.sync.writes;
    for (kind, (count, first)) in &found.by_kind {
        let what = if is_written { "written" } else { "differs" };
        writeln!(out, "{what}: {kind}: {count}, the first {first}")?;
    }
    if is_written {
        let (items, units) = found.written;
        writeln!(
            out,
            "{} compared, {items} items written with {units} write capacity units",
            found.compared
        )?;
    } else if found.by_kind.is_empty() {
        writeln!(out, "{} compared, nothing differs", found.compared)?;
    }
    Ok(())
}

async fn open(table: &Table) -> Result<Store, Box<dyn Error>> {
    Ok(match table {
        Table::DynamoDb(name) => {
            let config = aws_config::load_defaults(BehaviorVersion::v2026_01_12()).await;
            Store::new(aws_sdk_dynamodb::Client::new(&config), name)
        }
        Table::File(path) => {
            let aws = LocalAws::open(path)?;
            aws.create_table(TABLE)?;
            Store::new(aws.dynamodb(), TABLE)
        }
    })
}
