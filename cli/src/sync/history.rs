//! The history of a bucket on both sides, the latest entry first.

use std::collections::VecDeque;

use kinto_serverless::resource::ObjectUri;
use kinto_serverless::store::history::{Entry, HistoryRead, RawEntry, TOMBSTONES_KEPT};
use kinto_serverless::store::import::ImportWrite;
use kinto_serverless::store::{Generation, Key};
use kinto_serverless::timestamp::Timestamp;

use super::{Result, Sync};
use crate::staging::Staging;
use crate::staging::entries::StagedEntry;

/// The entries of the source, page by page.
struct StagedEntries<'a> {
    staging: &'a Staging,
    bucket: &'a ObjectUri,
    before: (Timestamp, String),
    page: VecDeque<StagedEntry>,
}

impl StagedEntries<'_> {
    fn next(&mut self) -> Result<Option<StagedEntry>> {
        if self.page.is_empty() {
            let (time, id) = &self.before;
            self.page = self.staging.entries(self.bucket, (*time, id))?.into();
            if let Some(last) = self.page.back() {
                self.before = (last.time, last.id.clone());
            }
        }
        Ok(self.page.pop_front())
    }
}

impl Sync<'_> {
    /// The history of a bucket, which is written by now. Where the source has no history of anything, what the table has stays.
    pub(super) async fn history(
        &mut self,
        bucket: &ObjectUri,
        generation: &Generation,
    ) -> Result<()> {
        if !self.has_history {
            return Ok(());
        }
        let mut staged = StagedEntries {
            staging: self.staging,
            bucket,
            before: (Timestamp::MAX, String::new()),
            page: [].into(),
        };
        let mut stored = self.store.history(HistoryRead::all(generation));
        let mut source = staged.next()?;
        let mut target = stored.next().await?;
        loop {
            let order = match (&source, &target) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Greater,
                (None, Some(_)) => std::cmp::Ordering::Less,
                (Some(source), Some(target)) => {
                    (source.time, &*source.id).cmp(&(target.time, &*target.id))
                }
            };
            self.found.compared += 1;
            self.progress.advance(1);
            let of_source = source.take_if(|_| order.is_ge());
            let of_target = target.take_if(|_| order.is_le());
            if of_source.is_some() {
                source = staged.next()?;
            }
            if of_target.is_some() {
                target = stored.next().await?;
            }
            self.entry(bucket, generation, of_source, of_target).await?;
        }
        let readers = self.staging.entry_readers(bucket)?;
        let readers = readers.iter().map(String::as_str).collect();
        let notes = Key::history_readers(bucket, generation, &readers);
        let noted = self.store.read(&notes).await?;
        for key in notes.into_iter().filter(|key| !noted.contains_key(key)) {
            self.found.add("readers of a history", bucket);
            self.write(ImportWrite::share(key)?).await?;
        }
        self.flush().await
    }

    async fn entry(
        &mut self,
        bucket: &ObjectUri,
        generation: &Generation,
        source: Option<StagedEntry>,
        target: Option<RawEntry>,
    ) -> Result<()> {
        let uri = |id: &str| format!("{bucket}/history/{id}");
        let Some(source) = source else {
            let Some(target) = target else { return Ok(()) };
            // What happened since a backup was made has happened.
            if !self.options.raises {
                let kind = "entry of a history that the source lacks";
                self.found.add(kind, uri(&target.id));
                self.write(ImportWrite::remove(target.key)?).await?;
            }
            return Ok(());
        };
        let StagedEntry {
            id,
            time,
            list,
            content,
        } = source;
        let key = Key::imported_entry(generation, &list, time, &id);
        let is_same = match (&target, &content) {
            (None, _) => false,
            (Some(target), _) if target.key != key => false,
            (Some(target), None) => target.is_deleted,
            (Some(target), Some(content)) => !target.is_deleted && target.content()? == *content,
        };
        if is_same {
            return Ok(());
        }
        let kind = match target {
            None => "entry of a history that is missing",
            Some(_) => "entry of a history",
        };
        self.found.add(kind, uri(&id));
        if let Some(target) = target.filter(|target| target.key != key) {
            self.write(ImportWrite::remove(target.key)?).await?;
        }
        let write = match &content {
            Some(content) => match Entry::imported(generation, &list, time, &id, content) {
                Some(entry) => ImportWrite::entry(entry)?,
                // It was told before that it does not fit.
                None => return Ok(()),
            },
            None => ImportWrite::entry_tombstone(key, self.now.after(TOMBSTONES_KEPT))?,
        };
        self.write(write).await
    }
}
