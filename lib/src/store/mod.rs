//! The one DynamoDB table: what it holds and the requests that read and write it.
//!
//! | item | `pk` | `sk` | see |
//! | --- | --- | --- | --- |
//! | object | its parent's URI, `#`, its kind | its id | [`Object`] |
//! | timestamp of a list | the same partition | `#timestamp` | [`List`] |
//! | monitor entry | `#monitor` | the collection's URI | [`monitor`] |
//! | monitor's clock and latest changes | `#monitor` | `#state` | [`monitor`] |
//! | broadcast state | `#broadcast` | the listener's name | [`broadcast`] |
//! | that something of a list is shared | `#shared#`, the parent's generation, `#` and the principal | the list's partition | [`shares`] |
//! | a login under way | `#login#` and its state | `#login` | [`login`] |
//! | a principal's groups in a bucket | `#principal#` and the principal | the bucket's URI | [`membership`] |
//! | what listeners are to be told of | `#outbox#` and a parent's URI | see there | [`outbox`] |
//! | turns at an item that is contended | `#turn#` and the item's key | `#turn` | [`Store::reserve_turn`] |
//!
//! No id may begin with `#`, so the reserved keys never meet an object's. The local secondary index
//! `by_last_modified` takes in what has a `last_modified`: objects, and monitor entries by their positions.

pub mod broadcast;
pub mod changeset;
mod commit;
pub mod import;
pub mod list;
pub mod login;
pub mod membership;
pub mod monitor;
mod object;
pub mod outbox;
pub mod pull;
pub mod recent;
mod retries;
pub mod shares;
mod turn;

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{BuildError, DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, Get, KeysAndAttributes, Put, TransactGetItem, TransactWriteItem, Update,
};
use tokio::time::Instant;

use self::commit::is_contention;
use self::membership::{Member, MembershipChanges};
use self::recent::Wrote;
use self::shares::{Shares, SharesChange};

pub use commit::CommitError;
pub use object::{Content, Generation, List, Object, Version};
pub use retries::RETRY_TIME;

use crate::backoff::Backoff;
use crate::json::weight;
use crate::resource::{ListUri, ObjectUri};
use crate::timestamp::Timestamp;

/// The sort key of the item that holds a list's timestamp.
pub const TIMESTAMP_KEY: &str = "#timestamp";
/// The local secondary index by `last_modified`.
pub const BY_LAST_MODIFIED: &str = "by_last_modified";
/// Items in one transaction at most (DynamoDB).
pub const MAX_TRANSACTION_ITEMS: usize = 100;
/// Keys in one `BatchGetItem` at most (DynamoDB).
const MAX_BATCH_GET_KEYS: usize = 100;
/// The longest pause before keys that DynamoDB left unread are asked for again; it doubles each time.
const FIRST_UNREAD_PAUSE: Duration = Duration::from_millis(10);
/// The longest of these pauses.
const MAX_UNREAD_PAUSE: Duration = Duration::from_millis(500);

/// Shares that a process keeps in mind, of 200 bytes each.
const MAX_KNOWN_SHARES: usize = 10_000;

/// An item as the SDK gives it.
pub type Item = HashMap<String, AttributeValue>;

/// A request to the table that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// DynamoDB refused, did not answer, or did not answer in time, after all retries.
    #[error("{operation} failed: {}", DisplayErrorContext(&**source))]
    Request {
        /// The DynamoDB operation.
        operation: &'static str,
        /// What the SDK says.
        source: Box<dyn Error + Send + Sync>,
    },
    /// What is read together would take more memory than a function has.
    #[error("more than a request may hold at once")]
    TooMuch,
    /// DynamoDB finds the request itself wrong: a fault of this code, which repeating does not mend.
    #[error("{operation} is invalid: {}", DisplayErrorContext(&**source))]
    Invalid {
        /// The DynamoDB operation.
        operation: &'static str,
        /// What the SDK says.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The time of the request was over before DynamoDB answered.
    #[error("{0} was not answered in time")]
    Late(&'static str),
    /// DynamoDB left keys unread each time that it was asked.
    #[error("BatchGetItem left {0} keys unread")]
    Unread(usize),
    /// What a transaction wrote to a list that says so does not show, each time that it was read.
    #[error("a transaction with {0} is being committed for a second")]
    Unsettled(ListUri),
    /// Others changed the monitor each time that it was read or written.
    #[error("others changed the monitor at each of {0} attempts")]
    MonitorContended(u32),
    /// An item that is not as we write it.
    #[error("item {pk} {sk}: {attribute} is missing or malformed")]
    Malformed {
        /// Its partition key.
        pk: String,
        /// Its sort key.
        sk: String,
        /// The attribute.
        attribute: &'static str,
    },
}

impl StoreError {
    fn request<E, R>(operation: &'static str) -> impl FnOnce(SdkError<E, R>) -> Self
    where
        E: Error + ProvideErrorMetadata + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        move |error| {
            let code = error.as_service_error().and_then(|error| error.code());
            let is_invalid = matches!(
                code,
                Some("ValidationException" | "IdempotentParameterMismatchException")
            );
            let source = error.into();
            match is_invalid {
                true => Self::Invalid { operation, source },
                false => Self::Request { operation, source },
            }
        }
    }
}

/// The key of an item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Partition key.
    pub pk: String,
    /// Sort key.
    pub sk: String,
}

impl Key {
    /// The key of an object.
    pub fn object(uri: &ObjectUri) -> Self {
        Self {
            pk: partition(uri.list()),
            sk: uri.id().to_owned(),
        }
    }

    /// The key of a list's timestamp.
    pub fn list(uri: &ListUri) -> Self {
        Self {
            pk: partition(uri),
            sk: TIMESTAMP_KEY.to_owned(),
        }
    }

    fn into_item(self) -> Item {
        [("pk", self.pk), ("sk", self.sk)]
            .map(|(name, value)| (name.to_owned(), AttributeValue::S(value)))
            .into()
    }
}

/// The partition that holds the objects of a list, and the list's timestamp.
fn partition(list: &ListUri) -> String {
    match list.parent() {
        Some(parent) => format!("{parent}#{}", list.kind().name()),
        None => format!("#{}", list.kind().name()),
    }
}

/// One part of a transaction.
#[derive(Clone, Debug)]
pub enum Write {
    /// Replaces the object at `uri`, which must still be as it was read.
    Object {
        /// Where.
        uri: ObjectUri,
        /// What to write.
        object: Object,
        /// What was read there; `None` when nothing was.
        replaces: Option<Version>,
    },
    /// Changes the list item at `uri`, under a condition.
    List {
        /// Where.
        uri: ListUri,
        /// What becomes of it, but for the writes under past times and its shares; `None` when nothing does.
        list: Option<List>,
        /// Whether objects are written under past times, which is counted whatever others write meanwhile.
        past: bool,
        /// What becomes of its shares.
        shares: SharesChange,
        /// What must still hold.
        condition: ListCondition,
        /// The name of the outbox's entry that the transaction has, where this is its [`outbox::head`].
        entry: Option<String>,
        /// What the transaction writes to the list.
        wrote: Wrote,
        /// Whether it is as new: what was written to it before is of no account.
        replaced: bool,
    },
    /// Names the outbox's entry that the transaction has in the item of its [`outbox::head`], of which it writes nothing
    /// else.
    Head {
        /// Which list's.
        uri: ListUri,
        /// The entry's name.
        entry: String,
    },
    /// Changes the groups of a principal in a bucket.
    Memberships {
        /// Whose and where.
        member: Member,
        /// How.
        changes: MembershipChanges,
    },
    /// Takes groups out of the item that a principal had for all buckets.
    OldMemberships {
        /// Whose.
        principal: String,
        /// Which.
        leaves: Vec<ObjectUri>,
    },
    /// Notes that objects of a list are shared with a principal.
    Share(Key),
    /// Puts a part of an entry into the outbox.
    Outbox(outbox::Part),
}

/// What must hold of a list when a transaction commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListCondition {
    /// There is no such item yet.
    Absent,
    /// Its timestamp is what was read: nothing was written to the list meanwhile, unless under a past time.
    Unchanged(Timestamp),
    /// It is open under the same parent, and every write so far came before this time.
    OpenBefore(Generation, Timestamp),
    /// It is open under the same parent.
    Open(Generation),
}

/// A part of a list, the latest first and those of one time by their ids, and how much of it is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Only what is later.
    pub since: Option<Timestamp>,
    /// Only what is earlier.
    pub before: Option<Timestamp>,
    /// Only what comes behind the object with this time and id.
    pub after: Option<(Timestamp, &'a str)>,
    /// No more objects than these, but for those that have the time of the last one too.
    pub enough: Option<usize>,
    /// No more than have so many bytes of data, but for those that have the time of the first one.
    pub bytes: usize,
}

/// The table.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    table: String,
    /// Whether items that are read together are read at one moment.
    at_once: bool,
    /// Shares that this process knows to be noted apart; shared by clones.
    known_shares: Arc<Mutex<HashSet<Key>>>,
}

impl Store {
    /// The table called `table`. What the client says of retries does not count: the store has its own rules.
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        Self {
            client: retries::client(&client),
            table: table.into(),
            at_once: false,
            known_shares: Arc::default(),
        }
    }

    /// The same table, which reads items together at one moment: a transaction shows in all of them or in none.
    ///
    /// Costs twice as much, and is refused while a transaction has one of the items in hand; then it is done again.
    pub fn at_once(&self) -> Self {
        Self {
            at_once: true,
            ..self.clone()
        }
    }

    /// Opens the connection with the cheapest read there is, and tells whether the table answers.
    ///
    /// One `GetItem`, 0.5 RCU.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let key = Key::list(&ListUri::buckets());
        self.client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key.into_item()))
            .send()
            .await
            .map_err(StoreError::request("GetItem"))?;
        Ok(())
    }

    /// Whether the share is noted for sure, so that it need not be written.
    pub fn knows_share(&self, share: &Key) -> bool {
        let known = self.known_shares.lock();
        known
            .unwrap_or_else(PoisonError::into_inner)
            .contains(share)
    }

    /// Keeps in mind that these are noted. Nothing takes a share back, so that this stays true.
    pub fn remember_shares(&self, shares: impl IntoIterator<Item = Key>) {
        let mut known = self
            .known_shares
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.len() > MAX_KNOWN_SHARES {
            known.clear();
        }
        known.extend(shares);
    }

    /// Reads the items with these keys, strongly consistent, those that exist.
    ///
    /// One `BatchGetItem` for each 100 keys, 1 RCU for each item and 4 KB of it. It is no snapshot: whoever
    /// writes on the strength of it repeats what it relied on as conditions of the transaction.
    pub async fn read(&self, keys: &[Key]) -> Result<HashMap<Key, Item>, StoreError> {
        if self.at_once && (1..=MAX_TRANSACTION_ITEMS).contains(&keys.len()) {
            return self.read_at_once(keys).await;
        }
        let mut found = HashMap::with_capacity(keys.len());
        for chunk in keys.chunks(MAX_BATCH_GET_KEYS) {
            let mut wanted = chunk
                .iter()
                .cloned()
                .map(Key::into_item)
                .collect::<Vec<_>>();
            let deadline = Instant::now() + RETRY_TIME;
            let mut backoff = Backoff::new(FIRST_UNREAD_PAUSE, MAX_UNREAD_PAUSE);
            loop {
                let request = KeysAndAttributes::builder()
                    .set_keys(Some(wanted))
                    .consistent_read(true)
                    .build();
                let request = request.map_err(|e| StoreError::Request {
                    operation: "BatchGetItem",
                    source: e.into(),
                })?;
                let answer = self
                    .client
                    .batch_get_item()
                    .request_items(&self.table, request)
                    .send()
                    .await
                    .map_err(StoreError::request("BatchGetItem"))?;
                for item in answer
                    .responses
                    .into_iter()
                    .flatten()
                    .flat_map(|(_, items)| items)
                {
                    found.insert(key_of(&item)?, item);
                }
                wanted = answer
                    .unprocessed_keys
                    .into_iter()
                    .flatten()
                    .flat_map(|(_, left)| left.keys)
                    .collect();
                if wanted.is_empty() {
                    break;
                }
                // DynamoDB throttles some of what was asked for.
                if !backoff.wait_until(deadline).await {
                    return Err(StoreError::Unread(wanted.len()));
                }
            }
        }
        Ok(found)
    }

    /// One `TransactGetItems` of at most 100 keys, 2 RCU for each item and 4 KB of it.
    async fn read_at_once(&self, keys: &[Key]) -> Result<HashMap<Key, Item>, StoreError> {
        let not_built = |error: BuildError| StoreError::Request {
            operation: "TransactGetItems",
            source: error.into(),
        };
        let gets = keys.iter().cloned().map(|key| {
            let get = Get::builder()
                .table_name(&self.table)
                .set_key(Some(key.into_item()))
                .build()?;
            Ok(TransactGetItem::builder().get(get).build())
        });
        let gets: Vec<_> = gets.collect::<Result<_, _>>().map_err(not_built)?;
        let request = self.client.transact_get_items();
        let answer = request.set_transact_items(Some(gets)).send().await;
        let answer = answer.map_err(StoreError::request("TransactGetItems"))?;
        let items = answer.responses.into_iter().flatten();
        items
            .filter_map(|response| response.item)
            .map(|item| Ok((key_of(&item)?, item)))
            .collect()
    }

    fn transact_item(&self, write: Write) -> Result<TransactWriteItem, StoreError> {
        let built = match write {
            Write::Object {
                uri,
                object,
                replaces,
            } => {
                let put = Put::builder()
                    .table_name(&self.table)
                    .set_item(Some(object.into_item(Key::object(&uri))));
                match replaces {
                    None => put.condition_expression("attribute_not_exists(pk)"),
                    Some(read) => put
                        .condition_expression(
                            "generation = :generation AND last_modified = :last_modified",
                        )
                        .expression_attribute_values(
                            ":generation",
                            AttributeValue::S(read.generation.0),
                        )
                        .expression_attribute_values(":last_modified", number(read.last_modified)),
                }
                .build()
                .map(|put| TransactWriteItem::builder().put(put).build())
            }
            Write::List {
                uri,
                list,
                past,
                shares,
                condition,
                entry,
                wrote,
                replaced,
            } => {
                let mut update = ListUpdate::default();
                update.move_to(&uri, list.as_ref(), past);
                let is_known = matches!(shares, SharesChange::Add(_));
                update.share_with(shares);
                update.name_entry(entry);
                let reached = list.map(|list| list.timestamp);
                let is_new = replaced || condition == ListCondition::Absent;
                update.name_writes(wrote, reached, is_new);
                let update = self.update_list(&uri, update, condition, is_known);
                update.map(|update| TransactWriteItem::builder().update(update).build())
            }
            Write::Head { uri, entry } => {
                let update = self.update_head(&uri, entry);
                update.map(|update| TransactWriteItem::builder().update(update).build())
            }
            Write::Memberships { member, changes } => self.write_memberships(&member, changes),
            Write::OldMemberships { principal, leaves } => {
                self.leave_old_groups(&principal, leaves)
            }
            Write::Share(key) => self.put(key.into_item()),
            Write::Outbox(part) => self.put(part.into_item()),
        };
        built.map_err(|e| StoreError::Request {
            operation: "TransactWriteItems",
            source: e.into(),
        })
    }

    fn put(&self, item: Item) -> Result<TransactWriteItem, BuildError> {
        let put = Put::builder().table_name(&self.table).set_item(Some(item));
        Ok(TransactWriteItem::builder().put(put.build()?).build())
    }

    fn update_list(
        &self,
        uri: &ListUri,
        update: ListUpdate,
        condition: ListCondition,
        shares_are_known: bool,
    ) -> Result<Update, BuildError> {
        let (mut condition, mut values) = condition.expression();
        if shares_are_known {
            condition += " AND shared_at = #timestamp";
        }
        let expression = update.expression();
        values.extend(update.values);
        // A reserved word of DynamoDB, which takes no name either that stands nowhere.
        let is_named = [&condition, &expression]
            .iter()
            .any(|text| text.contains("#timestamp"));
        let name = ("#timestamp".to_owned(), "timestamp".to_owned());
        Update::builder()
            .table_name(&self.table)
            .set_key(Some(Key::list(uri).into_item()))
            .update_expression(expression)
            .condition_expression(condition)
            .set_expression_attribute_names(is_named.then(|| [name].into()))
            .set_expression_attribute_values(Some(values))
            .build()
    }

    /// Of the list of buckets there may be no item yet; then this makes one as of a list that nothing was written to.
    fn update_head(&self, uri: &ListUri, entry: String) -> Result<Update, BuildError> {
        let expression = "SET entry = :entry, #timestamp = if_not_exists(#timestamp, :never), \
            generation = if_not_exists(generation, :root), kind = if_not_exists(kind, :kind)";
        let kind = AttributeValue::S(uri.kind().name().to_owned());
        Update::builder()
            .table_name(&self.table)
            .set_key(Some(Key::list(uri).into_item()))
            .update_expression(expression)
            .expression_attribute_names("#timestamp", "timestamp")
            .expression_attribute_values(":entry", AttributeValue::S(entry))
            .expression_attribute_values(":never", number(Timestamp(0)))
            .expression_attribute_values(":root", AttributeValue::S(Generation::ROOT.0))
            .expression_attribute_values(":kind", kind)
            .build()
    }
}

/// What an update does to a list's item.
#[derive(Default)]
struct ListUpdate {
    set: Vec<&'static str>,
    remove: Vec<&'static str>,
    add: Vec<&'static str>,
    values: Item,
}

impl ListUpdate {
    fn value(&mut self, name: &str, value: AttributeValue) {
        self.values.insert(name.to_owned(), value);
    }

    /// What becomes of the list; counts a write under `past` times.
    fn move_to(&mut self, uri: &ListUri, list: Option<&List>, past: bool) {
        if let Some(list) = list {
            // Not called `last_modified`, so that the index leaves it out. The stream's filter tells the lists of records
            // by their kind.
            self.set
                .push("#timestamp = :reached, shared_at = :reached, generation = :generation, kind = :kind");
            self.value(":reached", number(list.timestamp));
            self.value(":generation", AttributeValue::S(list.generation.0.clone()));
            self.value(":kind", AttributeValue::S(uri.kind().name().to_owned()));
            if list.closed {
                self.set.push("closed = :closed");
                self.value(":closed", AttributeValue::Bool(true));
            } else {
                self.remove.push("closed");
            }
        }
        if past {
            self.add.push("past :one");
            self.value(":one", AttributeValue::N("1".to_owned()));
        }
    }

    /// Names with whom objects of the list are shared.
    fn share_with(&mut self, change: SharesChange) {
        let (names, is_new) = match change {
            SharesChange::Set(shares) => (shares, true),
            SharesChange::Add(added) => (Shares::from(added), false),
            SharesChange::Forget => (Shares::default(), true),
        };
        match names.into_attribute() {
            Some(names) => {
                self.value(":shared", names);
                match is_new {
                    true => self.set.push("shared_with = :shared"),
                    false => self.add.push("shared_with :shared"),
                }
            }
            None if is_new => self.remove.push("shared_with"),
            None => {}
        }
    }

    /// Names the outbox's entry. Where there is none, the stream's filter for the notifier is to let nothing through.
    fn name_entry(&mut self, entry: Option<String>) {
        match entry {
            Some(entry) => {
                self.set.push("entry = :entry");
                self.value(":entry", AttributeValue::S(entry));
            }
            None => self.remove.push(outbox::ENTRY),
        }
    }

    /// Names what is written to the list ([`recent`]). All that is read is read from the item as it was.
    fn name_writes(&mut self, wrote: Wrote, reached: Option<Timestamp>, is_new: bool) {
        self.value(":wrote", wrote.into_value(reached));
        if is_new {
            self.set.push("wrote = :wrote");
            self.remove.push(recent::FORGET);
        } else {
            self.set.push(recent::SHIFT);
        }
    }

    fn expression(&self) -> String {
        let clauses = [
            ("SET", &self.set),
            ("REMOVE", &self.remove),
            ("ADD", &self.add),
        ];
        let clauses = clauses
            .into_iter()
            .filter(|(_, changes)| !changes.is_empty());
        let clauses = clauses.map(|(keyword, changes)| format!("{keyword} {}", changes.join(", ")));
        clauses.collect::<Vec<_>>().join(" ")
    }
}

impl ListCondition {
    /// The condition expression with its values.
    fn expression(self) -> (String, Item) {
        let generation = |g: Generation| (":generation".to_owned(), AttributeValue::S(g.0));
        let timestamp = |t: Timestamp| (":timestamp".to_owned(), number(t));
        let (condition, values) = match self {
            Self::Absent => ("attribute_not_exists(pk)", Item::new()),
            Self::Unchanged(read) => ("#timestamp = :timestamp", [timestamp(read)].into()),
            Self::OpenBefore(g, t) => (
                "generation = :generation AND attribute_not_exists(closed) AND #timestamp < :timestamp",
                [generation(g), timestamp(t)].into(),
            ),
            Self::Open(g) => (
                "generation = :generation AND attribute_not_exists(closed)",
                [generation(g)].into(),
            ),
        };
        (condition.to_owned(), values)
    }
}

/// What comes of a write that may be refused by its condition: then what is there is as late, and nothing is to be done.
fn unless_refused<T, E, R>(
    operation: &'static str,
    outcome: Result<T, SdkError<E, R>>,
) -> Result<(), StoreError>
where
    E: Error + ProvideErrorMetadata + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    let is_refusal = |error: &SdkError<E, R>| {
        let service_error = error.as_service_error();
        service_error.and_then(|e| e.code()) == Some("ConditionalCheckFailedException")
    };
    match outcome {
        Err(error) if !is_refusal(&error) => Err(StoreError::request(operation)(error)),
        _ => Ok(()),
    }
}

/// The items of every page. One `Query` for each MB.
async fn all_pages(query: QueryFluentBuilder) -> Result<Vec<Item>, StoreError> {
    let items = query.into_paginator().items().send();
    let items = items.try_collect().await;
    items.map_err(StoreError::request("Query"))
}

/// What the data of an item weighs once it is read.
pub fn weight_of(item: &Item) -> usize {
    let data = item.get("data").and_then(|data| data.as_s().ok());
    data.map_or(0, |data| weight::of_text(data.as_bytes()))
}

/// A number attribute.
pub(crate) fn number(timestamp: Timestamp) -> AttributeValue {
    AttributeValue::N(timestamp.to_string())
}

/// The key of an item that was read.
fn key_of(item: &Item) -> Result<Key, StoreError> {
    Ok(Key {
        pk: string(item, "pk")?,
        sk: string(item, "sk")?,
    })
}

/// A string attribute of an item that was read.
fn string(item: &Item, attribute: &'static str) -> Result<String, StoreError> {
    item.get(attribute)
        .and_then(|value| value.as_s().ok())
        .cloned()
        .ok_or_else(|| malformed(item, attribute))
}

/// A time attribute of an item that was read.
fn time(item: &Item, attribute: &'static str) -> Result<Timestamp, StoreError> {
    let value = item.get(attribute).and_then(|value| value.as_n().ok());
    value
        .and_then(|digits| Timestamp::from_digits(digits))
        .ok_or_else(|| malformed(item, attribute))
}

/// Whether a flag of an item that was read is set.
fn flag(item: &Item, attribute: &str) -> bool {
    item.get(attribute)
        .and_then(|value| value.as_bool().ok())
        .copied()
        .unwrap_or(false)
}

fn malformed(item: &Item, attribute: &'static str) -> StoreError {
    let shown = |name: &str| {
        item.get(name)
            .and_then(|value| value.as_s().ok())
            .cloned()
            .unwrap_or_default()
    };
    StoreError::Malformed {
        pk: shown("pk"),
        sk: shown("sk"),
        attribute,
    }
}
