//! The one DynamoDB table: what it holds and the requests that read and write it.
//!
//! | item | `pk` | `sk` | see |
//! | --- | --- | --- | --- |
//! | object | its parent's URI, `#`, its kind | its id | [`Object`] |
//! | timestamp of a list | the same partition | `#timestamp` | [`List`] |
//! | monitor entry | `#monitor` | the collection's URI | [`monitor`] |
//! | monitor's clock and latest changes | `#monitor` | `#state` | [`monitor`] |
//! | broadcast state | `#broadcast` | the listener's name | [`broadcast`] |
//! | a login under way | `#login#` and its state | `#login` | [`login`] |
//! | a principal's groups | `#principal#` and the principal | `#groups` | [`membership`] |
//! | what listeners are to be told of | `#outbox#` and a parent's URI | see there | [`outbox`] |
//!
//! No id may begin with `#`, so the reserved keys never meet an object's. The local secondary index
//! `by_last_modified` takes in what has a `last_modified`: objects, and monitor entries by their positions.

pub mod broadcast;
pub mod changeset;
pub mod login;
pub mod membership;
pub mod monitor;
mod object;
pub mod outbox;
pub mod pull;

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{BuildError, DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::operation::transact_get_items::TransactGetItemsError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeValue, Get, KeysAndAttributes, Put, TransactGetItem, TransactWriteItem, Update,
};

use self::membership::MembershipChanges;

pub use object::{Content, Generation, List, Object, Version};

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
/// Times that a reading is done again because a transaction had an item in hand: about a second.
const MAX_CONFLICTS: u32 = 8;
/// Times that keys which DynamoDB left unread are asked for again.
const MAX_UNPROCESSED_ROUNDS: u32 = 5;

/// An item as the SDK gives it.
pub type Item = HashMap<String, AttributeValue>;

/// A request to the table that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// DynamoDB refused, did not answer, or did not answer in time, after the SDK's own retries.
    #[error("{operation} failed: {}", DisplayErrorContext(&**source))]
    Request {
        /// The DynamoDB operation.
        operation: &'static str,
        /// What the SDK says.
        source: Box<dyn Error + Send + Sync>,
    },
    /// DynamoDB left keys unread each time that it was asked.
    #[error("BatchGetItem left {0} keys unread")]
    Unread(usize),
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
        E: Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        move |error| Self::Request {
            operation,
            source: error.into(),
        }
    }
}

/// A transaction that was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another write came between reading and committing. Nothing was written; read again and repeat.
    #[error("another write came between")]
    Conflict,
    /// Another transaction has one of the items in hand. Nothing was written; repeat, later and with a later time.
    #[error("another transaction is under way")]
    Contended,
    /// A part of it is committed and the rest cannot be, since another write came between. Safe to repeat.
    #[error("another write came between the parts of a large one")]
    Partial,
    /// It is more than a transaction can hold. Nothing was written.
    #[error("more than a transaction can hold")]
    TooLarge,
    /// It failed; a lost answer may hide a commit.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The key of an item.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
        /// What becomes of it, but for the writes under past times; `None` when nothing does.
        list: Option<List>,
        /// Whether objects are written under past times, which is counted whatever others write meanwhile.
        past: bool,
        /// What must still hold.
        condition: ListCondition,
    },
    /// Changes the groups of a principal.
    Memberships {
        /// Whose.
        principal: String,
        /// How.
        changes: MembershipChanges,
    },
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

/// The table.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    table: String,
    /// Whether items that are read together are read at one moment.
    at_once: bool,
}

impl Store {
    /// The table called `table`.
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        Self {
            client,
            table: table.into(),
            at_once: false,
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
            for round in 0.. {
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
                if round == MAX_UNPROCESSED_ROUNDS {
                    return Err(StoreError::Unread(wanted.len()));
                }
                tokio::time::sleep(Duration::from_millis(10 << round)).await;
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
        let mut round = 0;
        loop {
            let request = self.client.transact_get_items();
            match request.set_transact_items(Some(gets.clone())).send().await {
                Ok(answer) => {
                    let items = answer.responses.into_iter().flatten();
                    return items
                        .filter_map(|response| response.item)
                        .map(|item| Ok((key_of(&item)?, item)))
                        .collect();
                }
                Err(error) if round < MAX_CONFLICTS && is_read_conflict(&error) => {
                    // A transaction takes some milliseconds; full jitter, as among writers.
                    let longest = 4 << round;
                    round += 1;
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=longest))).await;
                }
                Err(error) => return Err(StoreError::request("TransactGetItems")(error)),
            }
        }
    }

    /// The objects of a list, the latest first: those written under the parent's `generation`, between the times
    /// given (both exclusive), tombstones only when asked for, and no more than `enough` of them. No more is read
    /// once their data has more than `bytes` bytes; then `true` says that there may be more.
    ///
    /// One `Query` of the index for each MB read, strongly consistent; 1 RCU for each 4 KB.
    pub async fn list(
        &self,
        bytes: usize,
        list: &ListUri,
        generation: &Generation,
        (since, before): (Option<Timestamp>, Option<Timestamp>),
        with_tombstones: bool,
        enough: Option<usize>,
    ) -> Result<(Vec<(String, Object)>, bool), StoreError> {
        let first = since.map_or(Timestamp(0), Timestamp::next);
        let last = before.map_or(Timestamp(u64::MAX), |before| {
            Timestamp(before.0.saturating_sub(1))
        });
        if first > last {
            return Ok((vec![], false));
        }
        let filter = if with_tombstones {
            "parent = :parent"
        } else {
            "parent = :parent AND attribute_not_exists(deleted)"
        };
        let mut objects = vec![];
        let mut length = 0;
        let mut pages = self
            .client
            .query()
            .table_name(&self.table)
            .index_name(BY_LAST_MODIFIED)
            .key_condition_expression("pk = :pk AND last_modified BETWEEN :first AND :last")
            .filter_expression(filter)
            .expression_attribute_values(":pk", AttributeValue::S(partition(list)))
            .expression_attribute_values(":first", number(first))
            .expression_attribute_values(":last", number(last))
            .expression_attribute_values(":parent", AttributeValue::S(generation.0.clone()))
            .scan_index_forward(false)
            .consistent_read(true)
            .set_limit(enough.and_then(|enough| i32::try_from(enough).ok()))
            .into_paginator()
            .items()
            .send();
        while let Some(item) = pages.next().await {
            let item = item.map_err(StoreError::request("Query"))?;
            let data = item.get("data").and_then(|data| data.as_s().ok());
            length += data.map_or(0, String::len);
            objects.push((string(&item, "sk")?, Object::from_item(&item)?));
            if enough.is_some_and(|enough| objects.len() >= enough) {
                break;
            }
            if length > bytes {
                return Ok((objects, true));
            }
        }
        Ok((objects, false))
    }

    /// Commits `writes` in one transaction, all or none. Each item costs 2 WCU for each KB.
    ///
    /// The SDK sends the same `ClientRequestToken` each time that it retries, so an answer that got lost
    /// does not make it write twice.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] when a condition does not hold any more, [`CommitError::Contended`] when another
    /// transaction has an item in hand; nothing was written then.
    pub async fn commit(&self, writes: Vec<Write>) -> Result<(), CommitError> {
        let items = writes
            .into_iter()
            .map(|write| self.transact_item(write))
            .collect::<Result<Vec<_>, _>>()?;
        match self
            .client
            .transact_write_items()
            .set_transact_items(Some(items))
            .send()
            .await
        {
            Ok(_) => Ok(()),
            Err(error) => Err(refusal(&error)
                .unwrap_or_else(|| StoreError::request("TransactWriteItems")(error).into())),
        }
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
                condition,
            } => {
                let update = self.update_list(&uri, list, past, condition);
                update.map(|update| TransactWriteItem::builder().update(update).build())
            }
            Write::Memberships { principal, changes } => {
                let (expression, names, values) = changes.expression();
                Update::builder()
                    .table_name(&self.table)
                    .set_key(Some(Key::groups(&principal).into_item()))
                    .update_expression(expression)
                    .set_expression_attribute_names(Some(names.into_iter().collect()))
                    .set_expression_attribute_values(values)
                    .build()
                    .map(|update| TransactWriteItem::builder().update(update).build())
            }
            Write::Outbox(part) => Put::builder()
                .table_name(&self.table)
                .set_item(Some(part.into_item()))
                .build()
                .map(|put| TransactWriteItem::builder().put(put).build()),
        };
        built.map_err(|e| StoreError::Request {
            operation: "TransactWriteItems",
            source: e.into(),
        })
    }

    fn update_list(
        &self,
        uri: &ListUri,
        list: Option<List>,
        past: bool,
        condition: ListCondition,
    ) -> Result<Update, BuildError> {
        let (condition, mut values) = condition.expression();
        let mut expression = String::new();
        if let Some(list) = list {
            // Not called `last_modified`, so that the index leaves it out. The stream's filter tells the lists of records
            // by their kind.
            expression += "SET #timestamp = :reached, generation = :generation, kind = :kind";
            let kind = uri.kind().name().to_owned();
            values.extend([
                (":reached".to_owned(), number(list.timestamp)),
                (
                    ":generation".to_owned(),
                    AttributeValue::S(list.generation.0),
                ),
                (":kind".to_owned(), AttributeValue::S(kind)),
            ]);
            if list.closed {
                expression += ", closed = :closed";
                values.insert(":closed".to_owned(), AttributeValue::Bool(true));
            } else {
                expression += " REMOVE closed";
            }
        }
        if past {
            expression += " ADD past :one";
            values.insert(":one".to_owned(), AttributeValue::N("1".to_owned()));
        }
        // A reserved word of DynamoDB, which takes no name either that stands nowhere.
        let is_named = [condition, &expression]
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
}

impl ListCondition {
    /// The condition expression with its values.
    fn expression(self) -> (&'static str, Item) {
        let generation = |g: Generation| (":generation".to_owned(), AttributeValue::S(g.0));
        let timestamp = |t: Timestamp| (":timestamp".to_owned(), number(t));
        match self {
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
        }
    }
}

/// Why a transaction failed, if that was because of another write, so that to repeat it may succeed.
fn refusal<R>(error: &SdkError<TransactWriteItemsError, R>) -> Option<CommitError> {
    match error.as_service_error()? {
        TransactWriteItemsError::TransactionCanceledException(cancelled) => {
            let reasons = cancelled.cancellation_reasons();
            let has = |code| reasons.iter().any(|reason| reason.code() == Some(code));
            if has("ConditionalCheckFailed") {
                Some(CommitError::Conflict)
            } else {
                has("TransactionConflict").then_some(CommitError::Contended)
            }
        }
        other if other.code() == Some("TransactionInProgressException") => {
            Some(CommitError::Contended)
        }
        _ => None,
    }
}

/// Whether a reading failed because a transaction had an item in hand.
fn is_read_conflict<R>(error: &SdkError<TransactGetItemsError, R>) -> bool {
    match error.as_service_error() {
        Some(TransactGetItemsError::TransactionCanceledException(cancelled)) => cancelled
            .cancellation_reasons()
            .iter()
            .any(|reason| reason.code() == Some("TransactionConflict")),
        _ => false,
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
