//! Sweeping: has what nobody can see any more expire, so that DynamoDB's TTL removes it
//! ([decision 28](../../../docs/decisions/028-sweeping.md)).
//!
//! A sweep scans the table, a bounded part of it a run, and goes on where the run before ended. What it finds to be over gets
//! the attribute `expires`, [`GRACE`] from now; it deletes nothing itself.
//!
//! | item | is over when |
//! | --- | --- |
//! | object, or tombstone | its parent's generation is over |
//! | tombstone | it is older than tombstones are kept |
//! | memberships, history, shares | the generation that they carry is over |
//!
//! | `pk` | `sk` | holds |
//! | --- | --- | --- |
//! | `#sweep` | `#state` | `begun`: when the pass began; `after_pk`, `after_sk`: how far it is, while it is not at its end |

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, ReturnConsumedCapacity};
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use tokio::time::Instant;

use super::error::ignore_failed_condition;
use super::item::key_of;
use super::{
    Generation, Item, Key, Object, Store, StoreError, flag, history, number, optional_time, string,
    time,
};
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::timestamp::Timestamp;

/// How long an item stays after it was found to be over: far longer than any request runs.
///
/// So no request sees a part of what it reads disappear, and no condition that failed because of the item holds again while the
/// transaction may be retried.
pub const GRACE: Duration = Duration::from_secs(24 * 3600);
/// How long a share must have been seen without its generation. A share may be written before the object that its
/// generation is of, by a request that is still running.
const UNOWNED: Duration = Duration::from_secs(3600);
/// The most items that one `Scan` reads.
const PAGE: i32 = 500;
/// The most parents that are read at once: their items may have 400 KB each.
const PARENTS: usize = 50;
/// Requests under way at once.
const CONCURRENCY: usize = 16;
/// The most generations that a run remembers to be over.
const MAX_OVER: usize = 10_000;
/// The capacity units assumed for an item that is scanned, and for one that is marked, where DynamoDB does not tell.
const UNITS_OF_AN_ITEM: (f64, f64) = (0.5, 2.0);

/// The item of a sweep's state.
const STATE: (&str, &str) = ("#sweep", "#state");
/// When a share was first seen without its generation.
const UNOWNED_SINCE: &str = "unowned";

/// The limits of a run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How old a tombstone is, by its `last_modified`, when it is over; `None` keeps all that are not an earlier generation's.
    pub tombstones_kept: Option<Duration>,
    /// Read and write capacity units after which the run ends; the page that it is at is finished.
    pub units: u64,
    /// When the run ends at the latest, but for its last page.
    pub deadline: Instant,
}

/// The result of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Swept {
    /// Items that were looked at, but for those that expire already.
    pub scanned: u64,
    /// Objects, memberships, shares and entries of histories whose generation is over.
    pub orphans: u64,
    /// Tombstones that were too old.
    pub tombstones: u64,
    /// Capacity units consumed.
    pub units: f64,
    /// Whether the pass came to the end of the table, or none was due.
    pub is_complete: bool,
}

/// An item that may be over.
#[derive(Clone, Debug)]
struct Subject {
    key: Key,
    /// Its parent; `None` for buckets and accounts.
    parent: Option<ObjectUri>,
    /// The generation of that under which it was written.
    generation: Generation,
    what: SubjectKind,
}

#[derive(Clone, Debug)]
enum SubjectKind {
    Object {
        generation: Generation,
        last_modified: Timestamp,
        is_deleted: bool,
    },
    Memberships,
    Entry,
    /// With the time since which its generation was not seen.
    Share(Option<Timestamp>),
}

/// The finding about an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Its generation is over.
    Orphan,
    /// It is a tombstone that is too old.
    Tombstone,
    /// It is a share that is seen without its generation for the first time.
    Unowned,
}

impl Subject {
    /// Reads an item; `None` if no sweep concerns it: such items are never removed, or expire by themselves.
    fn of(item: Item) -> Result<Option<Self>, StoreError> {
        let key = key_of(&item)?;
        if let Some(rest) = key.pk.strip_prefix("#shared#") {
            let generation = rest.split_once('#').map(|(generation, _)| generation);
            let since = optional_time(&item, UNOWNED_SINCE)?;
            let parent = key.sk.rsplit_once('#').map(|(parent, _)| parent);
            return Ok(generation.zip(parent.and_then(ObjectUri::parse)).map(
                |(generation, parent)| Self {
                    generation: Generation(generation.to_owned()),
                    parent: Some(parent),
                    what: SubjectKind::Share(since),
                    key: key.clone(),
                },
            ));
        }
        if key.pk.starts_with("#principal#") {
            let bucket = ObjectUri::parse(&key.sk).filter(|_| item.contains_key("generation"));
            let Some(parent) = bucket else {
                return Ok(None);
            };
            return Ok(Some(Self {
                generation: Generation(string(&item, "generation")?),
                parent: Some(parent),
                what: SubjectKind::Memberships,
                key,
            }));
        }
        if let Some((generation, uri)) = history::origin(&item)? {
            return Ok(Some(Self {
                generation,
                parent: Some(uri.bucket_uri().clone()),
                what: SubjectKind::Entry,
                key,
            }));
        }
        let list = list_of(&key.pk).filter(|list| list.kind().is_valid_id(&key.sk));
        let Some(list) = list else {
            return Ok(None);
        };
        Ok(Some(Self {
            generation: Generation(string(&item, "parent")?),
            parent: list.parent().cloned(),
            what: SubjectKind::Object {
                generation: Generation(string(&item, "generation")?),
                last_modified: time(&item, "last_modified")?,
                is_deleted: flag(&item, "deleted"),
            },
            key,
        }))
    }

    /// Returns `true` if it is written in the transaction that creates the object of its generation, or in a later one.
    fn follows_its_generation(&self) -> bool {
        !matches!(self.what, SubjectKind::Share(_))
    }

    /// Returns `true` of a tombstone from before that time.
    fn is_tombstone_before(&self, before: Option<Timestamp>) -> bool {
        match (&self.what, before) {
            (
                SubjectKind::Object {
                    last_modified,
                    is_deleted: true,
                    ..
                },
                Some(before),
            ) => *last_modified < before,
            _ => false,
        }
    }
}

/// The list whose objects are in a partition.
fn list_of(pk: &str) -> Option<ListUri> {
    let (parent, kind) = pk.rsplit_once('#')?;
    let kind = Kind::from_name(kind)?;
    match (parent, kind) {
        ("", Kind::Bucket) => Some(ListUri::buckets()),
        ("", Kind::Account) => Some(ListUri::accounts()),
        _ => {
            let parent = ObjectUri::parse(parent)?;
            let holds = parent.kind().children().contains(&kind);
            holds.then(|| parent.children(kind))
        }
    }
}

/// One run.
struct SweepRun<'s> {
    store: &'s Store,
    now: Timestamp,
    tombstones_before: Option<Timestamp>,
    /// Parents' generations that are known to be over.
    over: HashSet<(ObjectUri, String)>,
    swept: Swept,
}

impl Store {
    /// One run: goes on with the pass that is under way, or begins another one if the last began `every` ago.
    ///
    /// Runs may overlap: each marks what is over, wherever the others are, and both may say how far they came.
    ///
    /// # Errors
    /// Failures of the table. What was marked stays so, and the next run begins where this one did.
    pub async fn sweep(
        &self,
        limits: Limits,
        every: Duration,
        now: Timestamp,
    ) -> Result<Swept, StoreError> {
        let key = Key {
            pk: STATE.0.to_owned(),
            sk: STATE.1.to_owned(),
        };
        let state = self.read(std::slice::from_ref(&key)).await?.remove(&key);
        let after = state.as_ref().and_then(|state| {
            let text = |name| string(state, name).ok();
            Some(Key {
                pk: text("after_pk")?,
                sk: text("after_sk")?,
            })
        });
        let begun = state
            .as_ref()
            .map(|state| time(state, "begun"))
            .transpose()?;
        let begun = match (&after, begun) {
            (Some(_), Some(begun)) => begun,
            (None, Some(begun)) if now.since(begun) < every => {
                return Ok(Swept {
                    is_complete: true,
                    ..Swept::default()
                });
            }
            _ => now,
        };
        let (swept, after) = self.sweep_from(after, limits, now).await?;
        let mut item = key.into_item();
        item.insert("begun".to_owned(), number(begun));
        if let Some(Key { pk, sk }) = after {
            item.insert("after_pk".to_owned(), AttributeValue::S(pk));
            item.insert("after_sk".to_owned(), AttributeValue::S(sk));
        }
        let put = self.client.put_item().table_name(&self.table);
        let put = put.set_item(Some(item)).send().await;
        put.map_err(StoreError::request("PutItem"))?;
        Ok(swept)
    }

    /// Sweeps from behind that key on, within the limits. Gives where to go on; `None` at the end of the table.
    ///
    /// For each 500 items at most a `Scan`, eventually consistent, 0.5 RCU for each 4 KB; a `BatchGetItem` for their parents; for each
    /// generation that seems over a `TransactGetItems` of three items at most; and for each item that is over an `UpdateItem`, 16
    /// at once, 1 WCU for each KB and as much again in the index.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn sweep_from(
        &self,
        mut after: Option<Key>,
        limits: Limits,
        now: Timestamp,
    ) -> Result<(Swept, Option<Key>), StoreError> {
        let kept = limits.tombstones_kept;
        let mut run = SweepRun {
            store: self,
            now,
            tombstones_before: kept.map(|kept| Timestamp(now.0.saturating_sub(millis(kept)))),
            over: HashSet::new(),
            swept: Swept::default(),
        };
        loop {
            after = run.page(after).await?;
            run.swept.is_complete = after.is_none();
            let has_room =
                run.swept.units < limits.units as f64 && Instant::now() < limits.deadline;
            if after.is_none() || !has_room {
                return Ok((run.swept, after));
            }
        }
    }
}

impl SweepRun<'_> {
    /// Sweeps a page behind that key. Gives its end, unless it is the table's.
    async fn page(&mut self, after: Option<Key>) -> Result<Option<Key>, StoreError> {
        let page = self
            .store
            .client
            .scan()
            .table_name(&self.store.table)
            .set_exclusive_start_key(after.map(Key::into_item))
            .filter_expression("attribute_not_exists(expires)")
            .projection_expression(
                "pk, sk, parent, generation, deleted, last_modified, unowned, told",
            )
            .limit(PAGE)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send()
            .await;
        let page = page.map_err(StoreError::request("Scan"))?;
        let units = page
            .consumed_capacity()
            .and_then(|used| used.capacity_units());
        let guess = UNITS_OF_AN_ITEM.0 * f64::from(page.scanned_count);
        self.swept.units += units.unwrap_or(guess);
        let end = page.last_evaluated_key.as_ref().map(key_of).transpose()?;
        let mut subjects = vec![];
        for item in page.items.unwrap_or_default() {
            self.swept.scanned += 1;
            match Subject::of(item) {
                Ok(subject) => subjects.extend(subject),
                // Of a later version perhaps. It stays.
                Err(error) => tracing::warn!(%error, "an item is not swept"),
            }
        }
        let marks = self.judge(subjects).await?;
        let count = |wanted| marks.iter().filter(|(_, mark)| *mark == wanted).count() as u64;
        self.swept.orphans += count(Verdict::Orphan);
        self.swept.tombstones += count(Verdict::Tombstone);
        let used = stream::iter(marks)
            .map(|(subject, mark)| self.mark(subject, mark))
            .buffer_unordered(CONCURRENCY);
        let used: Vec<_> = used.try_collect().await?;
        self.swept.units += used.into_iter().sum::<f64>();
        Ok(end)
    }

    /// Which of them are over.
    async fn judge(
        &mut self,
        subjects: Vec<Subject>,
    ) -> Result<Vec<(Subject, Verdict)>, StoreError> {
        let parents: BTreeSet<_> = subjects.iter().filter_map(|it| it.parent.clone()).collect();
        let parents: Vec<_> = parents.into_iter().collect();
        let present = self.present(&parents).await?;
        let mut marks = vec![];
        let mut orphans = BTreeMap::<_, Vec<Subject>>::new();
        for subject in subjects {
            let is_there = |parent| match present.get(parent) {
                Some(Some(generation)) => generation.owns(&subject.generation),
                _ => false,
            };
            match subject.parent.clone() {
                Some(parent) if !is_there(&parent) => {
                    let generation = subject.generation.0.clone();
                    orphans
                        .entry((parent, generation))
                        .or_default()
                        .push(subject);
                }
                _ if subject.is_tombstone_before(self.tombstones_before) => {
                    marks.push((subject, Verdict::Tombstone));
                }
                _ => {}
            }
        }
        for (origin, orphans) in orphans {
            let is_over = self.is_over(&origin, &orphans).await?;
            for orphan in orphans {
                let mark = match orphan.what {
                    _ if is_over => Verdict::Orphan,
                    SubjectKind::Share(None) => Verdict::Unowned,
                    SubjectKind::Share(Some(since)) if self.now.since(since) > UNOWNED => {
                        Verdict::Orphan
                    }
                    _ => continue,
                };
                if self.has_left_the_monitor(&orphan).await {
                    marks.push((orphan, mark));
                }
            }
        }
        Ok(marks)
    }

    /// The generations of those of the parents that exist.
    async fn present(
        &mut self,
        parents: &[ObjectUri],
    ) -> Result<HashMap<ObjectUri, Option<Generation>>, StoreError> {
        let mut present = HashMap::new();
        for chunk in parents.chunks(PARENTS) {
            let keys: BTreeSet<_> = chunk
                .iter()
                .flat_map(ObjectUri::lineage)
                .map(Key::object)
                .collect();
            let keys: Vec<_> = keys.into_iter().collect();
            let found = self.store.read(&keys).await?;
            self.swept.units += keys.len() as f64;
            for uri in chunk {
                present.insert(uri.clone(), generation_in(&found, uri)?);
            }
        }
        Ok(present)
    }

    /// Returns `true` if what is there shows that a generation of a parent has been, and is no more. No generation returns.
    ///
    /// That the parent is not there under it may also mean that it is just being created, by a transaction which shows
    /// the child before the parent. A snapshot tells: it shows all of that transaction or nothing.
    async fn is_over(
        &mut self,
        origin: &(ObjectUri, String),
        orphans: &[Subject],
    ) -> Result<bool, StoreError> {
        if self.over.contains(origin) {
            return Ok(true);
        }
        let Some(witness) = orphans.iter().find(|it| it.follows_its_generation()) else {
            return Ok(false);
        };
        let (parent, generation) = origin;
        let keys = parent.lineage().map(Key::object);
        let keys: Vec<_> = keys.chain([witness.key.clone()]).collect();
        let snapshot = self.store.with_snapshot_reads().read(&keys).await;
        self.swept.units += 2.0 * keys.len() as f64;
        let found = match snapshot {
            Ok(found) => found,
            // A transaction has one of them in hand: the next pass will see.
            Err(error) => {
                tracing::warn!(%error, "whether a generation is over is not known");
                return Ok(false);
            }
        };
        let item = found.get(&witness.key).cloned().map(Subject::of);
        let carried = item.transpose()?.flatten().map(|it| it.generation.0);
        let present = generation_in(&found, parent)?;
        let is_over = carried.as_ref() == Some(generation)
            && present.is_none_or(|present| !present.owns(&Generation(generation.clone())));
        if is_over {
            if self.over.len() >= MAX_OVER {
                self.over.clear();
            }
            self.over.insert(origin.clone());
        }
        Ok(is_over)
    }

    /// Returns `true` unless it is a collection whose list of records is open: the monitor hears that it is gone from that
    /// list, which is found by the collection's item. Closes it, as the aggregator does.
    async fn has_left_the_monitor(&self, subject: &Subject) -> bool {
        let SubjectKind::Object { generation, .. } = &subject.what else {
            return true;
        };
        let list = list_of(&subject.key.pk).filter(|list| list.kind() == Kind::Collection);
        let Some(list) = list else {
            return true;
        };
        let collection = list.object(&*subject.key.sk);
        let closed = self
            .store
            .close_records(&collection, generation.clone(), self.now)
            .await;
        if let Err(error) = &closed {
            tracing::warn!(%error, %collection, "a list is not closed");
        }
        closed.is_ok()
    }

    /// Marks an item, if it still is what was judged. Gives the units that it took.
    async fn mark(&self, subject: Subject, mark: Verdict) -> Result<f64, StoreError> {
        let (attribute, value) = match mark {
            Verdict::Unowned => (UNOWNED_SINCE, self.now),
            // DynamoDB's TTL counts seconds.
            Verdict::Orphan | Verdict::Tombstone => {
                ("expires", Timestamp(self.now.after(GRACE).0 / 1000))
            }
        };
        let mut update = self
            .store
            .client
            .update_item()
            .table_name(&self.store.table)
            .set_key(Some(subject.key.into_item()))
            .update_expression(format!("SET {attribute} = :value"))
            .expression_attribute_values(":value", number(value))
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let carried = AttributeValue::S(subject.generation.0);
        update = match subject.what {
            SubjectKind::Object {
                generation,
                last_modified,
                ..
            } => update
                .condition_expression(
                    "generation = :generation AND last_modified = :last_modified AND parent = :parent",
                )
                .expression_attribute_values(":generation", AttributeValue::S(generation.0))
                .expression_attribute_values(":last_modified", number(last_modified))
                .expression_attribute_values(":parent", carried),
            SubjectKind::Memberships => update
                .condition_expression("generation = :generation")
                .expression_attribute_values(":generation", carried),
            SubjectKind::Entry | SubjectKind::Share(_) => update.condition_expression("attribute_exists(pk)"),
        };
        let updated = update.send().await;
        let units = updated
            .as_ref()
            .ok()
            .and_then(|it| it.consumed_capacity()?.capacity_units());
        ignore_failed_condition("UpdateItem", updated)?;
        Ok(units.unwrap_or(UNITS_OF_AN_ITEM.1))
    }
}

/// The generation of an object, if it and all that it is under exist.
fn generation_in(
    found: &HashMap<Key, Item>,
    uri: &ObjectUri,
) -> Result<Option<Generation>, StoreError> {
    let Some(item) = found
        .get(&Key::object(uri))
        .filter(|item| !flag(item, "deleted"))
    else {
        return Ok(None);
    };
    let parent = match uri.parent() {
        Some(parent) => generation_in(found, parent)?,
        None => Some(Generation::ROOT),
    };
    let object = Object::without_data(item)?;
    let exists = parent.is_some_and(|parent| parent.owns(&object.parent));
    Ok(exists.then_some(object.generation))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
