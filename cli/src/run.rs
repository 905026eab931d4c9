//! What a command does, and what it prints.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use aws_config::BehaviorVersion;
use kinto_local::LocalAws;
use kinto_local::TABLE;
use kinto_serverless::store::Store;
use kinto_serverless::timestamp::Timestamp;

use crate::export::ndjson::Ndjson;
use crate::export::tables::Tables;
use crate::export::yaml::Yaml;
use crate::export::{Format, export};
use crate::http::client::{AUTH_VARIABLE, Client};
use crate::http::comparison::compare;
use crate::maintenance::purge::{self, purge};
use crate::maintenance::raise::raise;
use crate::maintenance::sweep::sweep;
use crate::options::{Command, Options, Source, Table, Target};
use crate::progress::Progress;
use crate::s3::S3Object;
use crate::source;
use crate::staging::{Staging, UNFIT};
use crate::sync::{Differences, Sync};
use crate::table_export;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Does it; whether it succeeded, and nothing differs where that was asked.
///
/// # Errors
/// Source, table or file fail.
pub async fn run(options: Options, out: &mut impl Write) -> Result<bool> {
    match &options.command {
        Command::Import(source, table) => {
            let found = sync(source, table, &options, out).await?;
            Ok(found.is_some())
        }
        Command::Verify(source, table) => {
            let found = sync(source, table, &options, out).await?;
            Ok(found.is_some_and(|found| found.by_kind.is_empty()))
        }
        Command::Compare(source, target) => {
            let directory = tempfile::tempdir()?;
            let (path, progress) = (directory.path().to_owned(), Progress::reading());
            let (source, target) = (client(source)?, client(target)?);
            let found = compare(&source, &target, &options.reading, path, &progress).await;
            progress.finish();
            let found = found?;
            report(&found, false, out)?;
            Ok(found.by_kind.is_empty())
        }
        Command::Export(target, table) => {
            let store = open(table).await?;
            let s3 = match target {
                Target::S3(url) => Some(S3Object::open(url).await?),
                _ => None,
            };
            // Only written to where it goes to S3.
            let directory = tempfile::tempdir()?;
            let temporary = directory.path().join("export.ndjson");
            let file = |path: &Path| File::create(path).map(BufWriter::new);
            let mut format: Box<dyn Format> = match target {
                Target::Dump(directory) => Box::new(Tables::new(directory)?),
                Target::Yaml(path) => Box::new(Yaml::new(file(path)?)?),
                Target::Ndjson(path) => Box::new(Ndjson::new(file(path)?)?),
                Target::S3(_) => Box::new(Ndjson::new(file(&temporary)?)?),
            };
            let count = export(&store, &mut *format).await?;
            if let Some(object) = s3 {
                object.upload(&temporary).await?;
            }
            writeln!(out, "{count} objects and tombstones")?;
            for remark in format.remarks() {
                writeln!(out, "{remark}")?;
            }
            Ok(true)
        }
        Command::PurgeDeleted(kinds, max_retained, table) => {
            let purging = purge::Options {
                kinds: kinds.clone(),
                max_retained: *max_retained,
                dry_run: options.dry_run,
                // Nobody else has the file.
                wait: match table {
                    Table::DynamoDb(_) => purge::WAIT,
                    Table::File(_) => Duration::ZERO,
                },
                capacity: options.sync.capacity,
            };
            let purged = purge(&open(table).await?, &purging).await?;
            let what = if options.dry_run {
                "to remove"
            } else {
                "removed"
            };
            for (kind, count) in purged {
                writeln!(out, "{kind}: {count} tombstones {what}")?;
            }
            Ok(true)
        }
        Command::RaiseTimestamps(table) => {
            let (store, progress) = (open(table).await?, Progress::reading());
            let capacity = options.sync.capacity;
            let raised = raise(&store, capacity, Timestamp::now(), &progress).await;
            progress.finish();
            let raised = raised?;
            writeln!(
                out,
                "{} objects and tombstones of {} lists raised, {} lists had been raised before",
                raised.objects, raised.lists, raised.done_before
            )?;
            for list in raised.signed {
                let collection = list.parent().map(ToString::to_string).unwrap_or_default();
                writeln!(out, "sign again: {collection}")?;
            }
            writeln!(
                out,
                "Now rebuild the monitor, so that clients which follow it hear of the new times."
            )?;
            Ok(true)
        }
        Command::Sweep(tombstones_kept, table) => {
            let (store, progress) = (open(table).await?, Progress::reading());
            let capacity = options.sync.capacity;
            let swept = sweep(&store, *tombstones_kept, capacity, &progress).await;
            progress.finish();
            let swept = swept?;
            writeln!(
                out,
                "{} items looked at, {} of deleted buckets and collections and {} old tombstones expire in a day",
                swept.scanned, swept.orphans, swept.tombstones
            )?;
            Ok(true)
        }
    }
}

/// Compares source and table, and makes the table equal to the source if the options say so; `None` where something
/// does not fit.
async fn sync(
    from: &Source,
    table: &Table,
    options: &Options,
    out: &mut impl Write,
) -> Result<Option<Differences>> {
    let store = open(table).await?;
    let staging = Staging::new()?;
    match from {
        Source::Postgres(url) => source::from_postgres(&staging, url).await?,
        Source::TableExport(named) => {
            let place = table_export::ExportLocation::open(named).await?;
            table_export::read(&staging, &place).await?;
        }
        Source::Dump(directory) => source::from_dump(&staging, directory)?,
        Source::Http(url) => source::from_http(&staging, &client(url)?, &options.reading).await?,
        Source::Yaml(path) => source::from_yaml(&staging, path)?,
        Source::S3(url) => {
            let path = staging.directory().join("export.ndjson");
            S3Object::open(url).await?.download(&path).await?;
            source::from_ndjson(&staging, &path)?;
            std::fs::remove_file(&path)?;
        }
        Source::Ndjson(path) => source::from_ndjson(&staging, path)?,
    }
    staging.finish()?;
    let mut objects = 0;
    for (kind, live, deleted) in staging.counts()? {
        let kind = kind.plural();
        writeln!(out, "{live} {kind} and {deleted} tombstones of them")?;
        objects += live + deleted;
    }
    let (entries, deleted) = staging.entry_counts()?;
    if entries + deleted > 0 {
        writeln!(
            out,
            "{entries} entries of histories and {deleted} tombstones of them"
        )?;
        objects += entries + deleted;
    }
    let findings = staging.findings()?;
    for finding in &findings {
        let examples = finding.examples.join(", ");
        writeln!(out, "{}: {}, e.g. {examples}", finding.kind, finding.count)?;
    }
    let fits = !findings.iter().any(|f| f.kind.starts_with(UNFIT));
    if options.sync.writes && !options.leave_out && !fits {
        writeln!(
            out,
            "Nothing was written, because some of it does not fit. Change that in the source, or leave it out by --leave-out."
        )?;
        return Ok(None);
    }
    let progress = Progress::new(objects);
    let found = Sync::run(&staging, &store, options.sync, &progress).await;
    progress.finish();
    let found = found?;
    report(&found, options.sync.writes, out)?;
    if let (count @ 1.., first) = &found.used
        && options.sync.writes
        && !options.sync.raises
    {
        writeln!(out, "{}", overwritten(*count, first))?;
    }
    match from {
        Source::Http(_) => writeln!(out, "{}", source::NOT_OVER_HTTP)?,
        Source::Yaml(_) => writeln!(out, "{}", source::NOT_IN_YAML)?,
        _ => {}
    }
    Ok(Some(found))
}

fn report(found: &Differences, is_written: bool, out: &mut impl Write) -> std::io::Result<()> {
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

/// What those have to know who used `--overwrite` without raising times.
fn overwritten(count: u64, first: &str) -> String {
    format!(
        "WARNING: {count} lists had been written to through the API, the first {first}. These writes are gone. Clients that \
         have them keep them and hear of nothing, because the restored times are earlier than those that they know. \
         --raise-timestamps gives every object a new time, so that clients hear of it. These lists now have the source's \
         signatures: if collections are signed, sign them again."
    )
}

fn client(url: &str) -> Result<Client> {
    let auth = std::env::var(AUTH_VARIABLE).ok();
    Ok(Client::new(url, auth.as_deref())?)
}

async fn open(table: &Table) -> Result<Store> {
    Ok(match table {
        Table::DynamoDb(name) => {
            let config = aws_config::load_defaults(BehaviorVersion::v2026_01_12()).await;
            Store::new(aws_sdk_dynamodb::Client::new(&config), name)
        }
        Table::File(path) => {
            let aws = LocalAws::open_for_import(path)?;
            aws.create_table(TABLE)?;
            Store::new(aws.dynamodb(), TABLE)
        }
    })
}
