//! Source and table compared list by list, in the order of ids, and the table made equal to the source.
//!
//! The table itself tells how far an earlier run came: what is there as it should be is left alone. So a run that was
//! killed is begun again, a second run brings what changed since the first, and a run that writes nothing tells whether
//! both are equal.

mod history;
mod lists;
mod merge;

use std::collections::{BTreeMap, BTreeSet};

use kinto_serverless::resource::{Kind, ListUri, ObjectUri};
use kinto_serverless::store::import::{ImportWrite, MAX_BATCH};
use kinto_serverless::store::membership::{Member, Memberships};
use kinto_serverless::store::monitor::CollectionChange;
use kinto_serverless::store::{Content, Generation, Key, Object, Store, StoreError};
use kinto_serverless::timestamp::Timestamp;
use serde_json::Value;
use tokio::task::JoinSet;

use self::lists::change;
use self::merge::Merge;
use crate::maintenance::pace::Pace;
use crate::maintenance::raise;
use crate::progress::Progress;
use crate::staging::{StagedObject, Staging, StagingError};

/// `BatchWriteItem`s under way at once.
const CONCURRENCY: usize = 16;
/// Bytes of a `BatchWriteItem`'s items from which on it is sent.
const MAX_WAITING: usize = 1024 * 1024;

/// Why source and table were not compared to the end.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The table.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The source.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// Somebody uses the table.
    #[error(
        "{0} was written to through the API. Import into a table that nobody has written to, or discard these writes by --overwrite"
    )]
    InUse(ListUri),
}

type Result<T> = std::result::Result<T, SyncError>;

/// How source and table are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether the table is made equal to the source.
    pub writes: bool,
    /// Whether what was written through the API may be lost.
    pub overwrites: bool,
    /// Whether all times are made new ones, so that clients hear of everything.
    pub raises: bool,
    /// Write capacity units a second at most.
    pub capacity: Option<u64>,
}

/// What differs between source and table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Of each sort how many, and the first.
    pub by_kind: BTreeMap<&'static str, (u64, String)>,
    /// Objects that were compared.
    pub compared: u64,
    /// Items that were written, and the write capacity units that they took.
    pub written: (u64, u64),
    /// Lists that were written to through the API since the last import, and the first.
    pub used: (u64, String),
}

impl Differences {
    /// Adds one.
    pub fn add(&mut self, kind: &'static str, what: impl ToString) {
        let found = self.by_kind.entry(kind);
        found.or_insert_with(|| (0, what.to_string())).0 += 1;
    }
}

/// One comparison.
pub struct Sync<'a> {
    staging: &'a Staging,
    store: &'a Store,
    options: Options,
    progress: &'a Progress,
    now: Timestamp,
    /// Whether the source has the history of anything.
    has_history: bool,
    /// With the bytes of its items.
    waiting: (Vec<ImportWrite>, usize),
    under_way: JoinSet<std::result::Result<(), StoreError>>,
    pace: Pace,
    changes: Vec<CollectionChange>,
    /// Each with its parent's generation, whether something in it was changed, and the latest time of its objects.
    lists: Vec<(ListUri, Generation, bool, Timestamp)>,
    found: Differences,
}

impl<'a> Sync<'a> {
    /// Compares all that the source holds with the table, and makes that equal if the options say so.
    ///
    /// # Errors
    /// Either side fails, or the table is in use.
    pub async fn run(
        staging: &'a Staging,
        store: &'a Store,
        options: Options,
        progress: &'a Progress,
    ) -> Result<Differences> {
        if options.raises {
            staging.rank()?;
        }
        let mut sync = Self {
            staging,
            store,
            options,
            progress,
            now: Timestamp::now(),
            has_history: staging.entry_counts()? != (0, 0),
            waiting: (vec![], 0),
            under_way: JoinSet::new(),
            pace: Pace::new(options.capacity),
            changes: vec![],
            lists: vec![],
            found: Differences::default(),
        };
        sync.check_unused().await?;
        sync.objects_of(&ListUri::buckets(), &Generation::ROOT)
            .await?;
        sync.objects_of(&ListUri::accounts(), &Generation::ROOT)
            .await?;
        sync.end_lists().await?;
        Ok(sync.found)
    }

    /// Refuses a table that others write to.
    async fn check_unused(&self) -> Result<()> {
        if !self.options.writes || self.options.overwrites || self.options.raises {
            return Ok(());
        }
        self.check_lists(&[ListUri::buckets(), ListUri::accounts()])
            .await?;
        let mut after = String::new();
        loop {
            let ids = self.staging.live_ids(&ListUri::buckets(), &after)?;
            let Some(last) = ids.last() else {
                return Ok(());
            };
            after.clone_from(last);
            let buckets = ids.into_iter().map(ObjectUri::bucket);
            for bucket in buckets {
                let lists: Vec<_> = bucket.child_lists().collect();
                self.check_lists(&lists).await?;
                let collections = bucket.children(Kind::Collection);
                let mut after = String::new();
                loop {
                    let ids = self.staging.live_ids(&collections, &after)?;
                    let Some(last) = ids.last() else { break };
                    after.clone_from(last);
                    let lists = ids.into_iter().map(|id| {
                        let collection = collections.clone().object(id);
                        collection.children(Kind::Record)
                    });
                    self.check_lists(&lists.collect::<Vec<_>>()).await?;
                }
            }
        }
    }

    async fn check_lists(&self, lists: &[ListUri]) -> Result<()> {
        let stored = self.store.stored_lists(lists).await?;
        let used = stored.into_iter().find(|(_, list)| list.is_written_by_api);
        match used {
            Some((uri, _)) => Err(SyncError::InUse(uri)),
            None => Ok(()),
        }
    }

    /// The objects of a list whose parent has that generation, and all that is under them.
    async fn objects_of(&mut self, list: &ListUri, parent: &Generation) -> Result<()> {
        if list.kind() == Kind::Group {
            self.memberships(list, parent).await?;
        }
        let stored = self.store.stored_lists(std::slice::from_ref(list)).await?;
        let base = self.base(stored.get(list).map(|stored| stored.list.timestamp));
        let (mut children, mut changed, mut extra) = (vec![], false, 0);
        let mut latest = Timestamp(0);
        let mut merge = Merge::new(self.staging, self.store, list);
        while let Some((id, source, target)) = merge.next().await? {
            self.found.compared += 1;
            self.progress.advance(1);
            let uri = list.clone().object(id);
            let is_there = |target: &&Object| {
                parent.owns(&target.parent) && target.content != Content::Deleted
            };
            let live = target.as_ref().filter(is_there);
            let source = source.map(|source| StagedObject {
                last_modified: Timestamp(base.0 + source.last_modified.0),
                ..source
            });
            // A backup does not have it: clients are to hear that it is gone.
            let source = match (source, &live) {
                (None, Some(_)) if self.options.raises => {
                    extra += 1;
                    let ranked = self.staging.timestamp(list)?.unwrap_or_default();
                    Some(StagedObject {
                        id: uri.id().to_owned(),
                        last_modified: Timestamp(base.0 + ranked.0 + extra),
                        content: Content::Deleted,
                    })
                }
                (source, _) => source,
            };
            latest = latest.max(
                source
                    .as_ref()
                    .map_or(latest, |source| source.last_modified),
            );
            let generation = match (&source, live) {
                (
                    Some(StagedObject {
                        content: Content::Deleted,
                        ..
                    }),
                    _,
                )
                | (_, Some(_)) => target.as_ref().map(|target| target.generation.clone()),
                _ => None,
            };
            let generation = generation.unwrap_or_else(Generation::unique);
            let is_live = matches!(&source, Some(source) if source.content != Content::Deleted);
            if let (false, Some(live)) = (is_live, live) {
                self.close(&uri, &live.generation).await?;
            }
            if is_live && !list.kind().children().is_empty() {
                children.push((uri.clone(), generation.clone()));
            }
            changed |= self
                .object(
                    &uri,
                    source,
                    target.as_ref().filter(|t| parent.owns(&t.parent)),
                    generation,
                    parent,
                )
                .await?;
        }
        self.flush().await?;
        self.lists
            .push((list.clone(), parent.clone(), changed, latest));
        // Parents are written by now.
        for (uri, generation) in children {
            if uri.kind() == Kind::Bucket {
                self.history(&uri, &generation).await?;
            }
            for list in uri.child_lists() {
                Box::pin(self.objects_of(&list, &generation)).await?;
            }
        }
        Ok(())
    }

    /// What is added to the places that stand for times where all are raised.
    fn base(&self, reached: Option<Timestamp>) -> Timestamp {
        match self.options.raises {
            true => raise::base(self.now, reached),
            false => Timestamp(0),
        }
    }

    async fn object(
        &mut self,
        uri: &ObjectUri,
        source: Option<StagedObject>,
        target: Option<&Object>,
        generation: Generation,
        parent: &Generation,
    ) -> Result<bool> {
        let kind = match (&source, target) {
            (None, None) => return Ok(false),
            (None, Some(target)) if target.content == Content::Deleted => {
                "tombstone that the source lacks"
            }
            (None, Some(_)) => "object that the source lacks",
            (Some(source), None) if source.content == Content::Deleted => {
                "tombstone that is missing"
            }
            (Some(_), None) => "object that is missing",
            (Some(source), Some(target)) => match (&source.content, &target.content) {
                (Content::Deleted, Content::Live { .. }) => "object that the source deleted",
                (Content::Live { .. }, Content::Deleted) => "object that is deleted",
                (
                    Content::Live { data, permissions },
                    Content::Live {
                        data: other_data,
                        permissions: others,
                    },
                ) if data != other_data || permissions != others => match data == other_data {
                    true => "permissions",
                    false if uri.kind() == Kind::Account => "account",
                    false => "data",
                },
                _ if source.last_modified != target.last_modified => "last_modified",
                _ => return Ok(false),
            },
        };
        self.found.add(kind, uri);
        let write = match source {
            Some(source) => {
                let object = source.to_object(generation, parent.clone());
                ImportWrite::object(Key::object(uri), object)?
            }
            None => ImportWrite::remove(Key::object(uri))?,
        };
        self.write(write).await?;
        Ok(true)
    }

    /// Closes the lists under an object that is to go.
    async fn close(&mut self, uri: &ObjectUri, generation: &Generation) -> Result<()> {
        if !self.options.writes {
            return Ok(());
        }
        if uri.kind() == Kind::Bucket {
            self.store
                .close_generation(uri, generation, self.now)
                .await?;
        }
        let lists: Vec<_> = uri.child_lists().collect();
        for (list, stored) in self.store.stored_lists(&lists).await? {
            let mut closed = stored.list;
            closed.timestamp = self.now.later_than(closed.timestamp);
            closed.closed = true;
            if uri.kind() == Kind::Collection {
                let change = change(uri, closed.timestamp, true);
                self.store.import_into_monitor(vec![change]).await?;
            }
            self.write(ImportWrite::list(&list, closed)?).await?;
        }
        self.flush().await
    }

    /// Who is in which groups of a bucket; before the groups themselves, by which is seen who was.
    async fn memberships(&mut self, groups: &ListUri, generation: &Generation) -> Result<()> {
        let Some(bucket) = groups.parent() else {
            return Ok(());
        };
        self.staging.begin_members(bucket)?;
        let mut by_id = self.store.objects_by_id(groups);
        while let Some(page) = by_id.next().await? {
            for (_, group) in page
                .iter()
                .filter(|(_, group)| generation.owns(&group.parent))
            {
                if let Content::Live { data, .. } = &group.content {
                    let members = data.get("members").and_then(Value::as_array);
                    for member in members.into_iter().flatten().filter_map(Value::as_str) {
                        self.staging.add_member(member)?;
                    }
                }
            }
        }
        let mut after = String::new();
        loop {
            let page = self.staging.members(bucket, &after)?;
            let Some((last, _)) = page.last() else {
                break;
            };
            after.clone_from(&last.principal);
            let members: Vec<_> = page.iter().map(|(member, _)| member.clone()).collect();
            let stored = self.store.stored_memberships(&members).await?;
            for (member, groups) in page {
                let groups: BTreeSet<_> = groups.into_iter().collect();
                let held = stored
                    .get(&member)
                    .filter(|held| generation.owns(&held.bucket));
                if held.map_or(groups.is_empty(), |held| held.groups == groups) {
                    continue;
                }
                let Member { principal, bucket } = &member;
                self.found
                    .add("groups of a member", format!("{principal} in {bucket}"));
                let bucket = generation.clone();
                let memberships = Memberships { bucket, groups };
                self.write(ImportWrite::memberships(&member, memberships)?)
                    .await?;
            }
        }
        self.flush().await
    }

    async fn write(&mut self, write: ImportWrite) -> Result<()> {
        if !self.options.writes {
            return Ok(());
        }
        self.waiting.1 += write.size();
        self.waiting.0.push(write);
        if self.waiting.0.len() >= MAX_BATCH || self.waiting.1 >= MAX_WAITING {
            self.send().await?;
        }
        Ok(())
    }

    /// Sends what waits, while others are under way; waits for one of these where they are too many.
    async fn send(&mut self) -> Result<()> {
        let (writes, _) = std::mem::take(&mut self.waiting);
        if writes.is_empty() {
            return Ok(());
        }
        if self.under_way.len() >= CONCURRENCY {
            self.end_one().await?;
        }
        let units: u64 = writes.iter().map(ImportWrite::capacity).sum();
        let count = writes.len() as u64;
        self.pace.spend(units).await;
        let store = self.store.clone();
        self.under_way
            .spawn(async move { store.write_batch(writes).await });
        self.found.written.0 += count;
        self.found.written.1 += units;
        let (items, units) = self.found.written;
        self.progress.wrote(items, units);
        Ok(())
    }

    async fn end_one(&mut self) -> Result<()> {
        match self.under_way.join_next().await {
            Some(Ok(written)) => Ok(written?),
            // Nobody cancels it.
            Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            None => Ok(()),
        }
    }

    /// Everything that was to be written is, when this returns.
    async fn flush(&mut self) -> Result<()> {
        self.send().await?;
        while !self.under_way.is_empty() {
            self.end_one().await?;
        }
        Ok(())
    }
}
