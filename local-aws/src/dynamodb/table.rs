//! A table in memory: its items by key and by the index's number, and its stream.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lambda_events::dynamodb::{EventRecord, StreamViewType, UserIdentity};
use serde_dynamo::{AttributeValue, Item};

use super::expression::number;
use super::{DynamoDbError, TableDefinition};

/// The most bytes in an item.
const MAX_ITEM: usize = 400 * 1024;

/// The items of the table.
#[derive(Debug)]
pub struct Table {
    definition: Arc<TableDefinition>,
    partitions: BTreeMap<String, Partition>,
    stream: VecDeque<Change>,
    /// The sequence number of the last change.
    last: u64,
}

/// The items of one partition key, in both orders.
#[derive(Debug, Default)]
struct Partition {
    by_key: BTreeMap<Position, Arc<Row>>,
    by_index: BTreeMap<Position, Arc<Row>>,
}

/// An order of the items of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The table's order: by sort key.
    Key,
    /// The index's order, which only has the items with its attribute.
    Index,
}

/// The position of an item within its partition: by the index's number (0 in the table itself), then by its sort key.
pub type Position = (i128, String);

/// The primary key of an item.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The partition key.
    pub pk: String,
    /// The sort key.
    pub sk: String,
}

/// An item that is valid for the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    key: Key,
    /// The number by which the index sorts it.
    index_key: Option<i128>,
    item: Item,
    /// Its size in bytes, as DynamoDB counts them.
    size: usize,
}

/// A change of one item.
#[derive(Debug)]
struct Change {
    sequence: u64,
    at: SystemTime,
    old: Option<Arc<Row>>,
    new: Option<Arc<Row>>,
}

impl Key {
    /// The key of an item.
    pub fn of(item: &Item, table: &TableDefinition) -> Result<Self, DynamoDbError> {
        let part = |name| match item.get(name) {
            Some(AttributeValue::S(part)) if !part.is_empty() => Ok(part.clone()),
            _ => Err(DynamoDbError::invalid(format!(
                "{name} must be a string, not an empty one"
            ))),
        };
        Ok(Self {
            pk: part(table.partition_key)?,
            sk: part(table.sort_key)?,
        })
    }

    /// The attributes of the key.
    pub fn to_item(&self, table: &TableDefinition) -> Item {
        let part = |name: &str, part: &String| (name.to_owned(), AttributeValue::S(part.clone()));
        HashMap::from([
            part(table.partition_key, &self.pk),
            part(table.sort_key, &self.sk),
        ])
        .into()
    }
}

impl Row {
    /// Checks an item.
    pub fn new(item: Item, table: &TableDefinition) -> Result<Self, DynamoDbError> {
        let index_key = match item.get(table.index_key) {
            None => None,
            Some(AttributeValue::N(at)) => Some(number(at)?),
            Some(_) => {
                let problem = format!("{} must be a number", table.index_key);
                return Err(DynamoDbError::invalid(problem));
            }
        };
        let size = item_size(&item);
        if size > MAX_ITEM {
            return Err(DynamoDbError::invalid(
                "Item size has exceeded the maximum allowed size",
            ));
        }
        Ok(Self {
            key: Key::of(&item, table)?,
            index_key,
            item,
            size,
        })
    }

    /// Its attributes.
    pub fn item(&self) -> &Item {
        &self.item
    }

    /// Its primary key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Its size in bytes, as DynamoDB counts them.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The attributes that determine its position in an order.
    pub fn position(&self, order: Order, table: &TableDefinition) -> Item {
        let mut position = self.key.to_item(table);
        if order == Order::Index
            && let Some(at) = self.index_key
        {
            position.insert(
                table.index_key.to_owned(),
                AttributeValue::N(at.to_string()),
            );
        }
        position
    }

    /// Its position in an order, if it is in it.
    pub fn place(&self, order: Order) -> Option<Position> {
        let at = match order {
            Order::Key => 0,
            Order::Index => self.index_key?,
        };
        Some((at, self.key.sk.clone()))
    }

    fn has_expired(&self, expiry: &str, now: u64) -> bool {
        match self.item.get(expiry) {
            Some(AttributeValue::N(seconds)) => seconds.parse().is_ok_and(|at: u64| at < now),
            _ => false,
        }
    }
}

impl Table {
    /// An empty table.
    pub fn new(definition: TableDefinition) -> Self {
        Self {
            definition: Arc::new(definition),
            partitions: BTreeMap::new(),
            stream: VecDeque::new(),
            last: 0,
        }
    }

    /// The table's definition; clones of the pointer outlive changes of the table.
    pub fn definition(&self) -> &Arc<TableDefinition> {
        &self.definition
    }

    /// The item with that key.
    pub fn get(&self, key: &Key) -> Option<&Arc<Row>> {
        let partition = self.partitions.get(&key.pk)?;
        partition.by_key.get(&(0, key.sk.clone()))
    }

    /// The items of a partition between two positions of an order.
    pub fn range(
        &self,
        pk: &str,
        order: Order,
        range: Range<Position>,
    ) -> impl DoubleEndedIterator<Item = &Arc<Row>> {
        let partition = self.partitions.get(pk).map(|partition| match order {
            Order::Key => &partition.by_key,
            Order::Index => &partition.by_index,
        });
        // A map panics if a range ends before it starts.
        let rows = partition.filter(|_| !range.is_empty());
        let rows = rows.map(|rows| rows.range(range));
        rows.into_iter().flatten().map(|(_, row)| row)
    }

    /// Writes an item, replacing the one with the same key.
    pub fn put(&mut self, row: Row) {
        let old = self.get(&row.key).cloned();
        if old.as_ref().is_some_and(|old| **old == row) {
            return;
        }
        let row = Arc::new(row);
        let partition = self.partitions.entry(row.key.pk.clone()).or_default();
        let left = old.as_ref().and_then(|old| old.place(Order::Index));
        if let Some(left) = left {
            partition.by_index.remove(&left);
        }
        if let Some(taken) = row.place(Order::Index) {
            partition.by_index.insert(taken, Arc::clone(&row));
        }
        let place = (0, row.key.sk.clone());
        partition.by_key.insert(place, Arc::clone(&row));
        self.record_change(old, Some(row));
    }

    /// Removes expired items.
    pub fn sweep(&mut self) {
        let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        let expiry = self.definition.expiry;
        let mut expired = vec![];
        self.partitions.retain(|_, partition| {
            let gone = partition
                .by_key
                .extract_if(.., |_, row| row.has_expired(expiry, now));
            for (_, row) in gone {
                if let Some(left) = row.place(Order::Index) {
                    partition.by_index.remove(&left);
                }
                expired.push(row);
            }
            !partition.by_key.is_empty()
        });
        for row in expired {
            self.record_change(Some(row), None);
        }
    }

    /// At most `limit` records of the stream after the sequence number `after`, and the number of the last.
    ///
    /// Those up to `after` are forgotten: the caller is the only reader, and has read them.
    pub fn records(&mut self, after: u64, limit: usize) -> (Vec<EventRecord>, u64) {
        let read = self
            .stream
            .partition_point(|change| change.sequence <= after);
        self.stream.drain(..read);
        let changes = self.stream.iter().take(limit);
        let last = changes.clone().next_back();
        let last = last.map_or(after, |last| last.sequence);
        let records = changes.map(|change| change.record(&self.definition));
        (records.collect(), last)
    }

    fn record_change(&mut self, old: Option<Arc<Row>>, new: Option<Arc<Row>>) {
        self.last += 1;
        self.stream.push_back(Change {
            sequence: self.last,
            at: SystemTime::now(),
            old,
            new,
        });
    }
}

impl Change {
    /// The record as a function receives it.
    fn record(&self, table: &TableDefinition) -> EventRecord {
        let image = |row: &Option<Arc<Row>>| row.as_ref().map(|row| row.item.clone());
        let images = [&self.old, &self.new].into_iter().flatten();
        let keys = images.clone().next().map(|row| row.key.to_item(table));
        let mut record = EventRecord::default();
        record.event_name = match (&self.old, &self.new) {
            (None, _) => "INSERT",
            (_, Some(_)) => "MODIFY",
            (_, None) => "REMOVE",
        }
        .to_owned();
        record.event_id = format!("{:032x}", self.sequence);
        record.event_version = Some("1.1".to_owned());
        record.event_source = Some("aws:dynamodb".to_owned());
        record.aws_region = crate::aws::REGION.to_string();
        if self.new.is_none() {
            // Items are only removed by expiry here.
            let mut expiry = UserIdentity::default();
            expiry.type_ = "Service".to_owned();
            expiry.principal_id = "dynamodb.amazonaws.com".to_owned();
            record.user_identity = Some(expiry);
        }
        let change = &mut record.change;
        change.approximate_creation_date_time = self.at.into();
        change.keys = keys.unwrap_or_default();
        change.old_image = image(&self.old).unwrap_or_default();
        change.new_image = image(&self.new).unwrap_or_default();
        change.sequence_number = Some(format!("{:021}", self.sequence));
        let size = item_size(&change.keys) + images.map(|row| row.size).sum::<usize>();
        change.size_bytes = i64::try_from(size).unwrap_or(i64::MAX);
        change.stream_view_type = Some(StreamViewType::NewAndOldImages);
        record
    }
}

fn item_size(item: &Item) -> usize {
    let sizes = item
        .iter()
        .map(|(name, value)| name.len() + value_size(value));
    sizes.sum()
}

fn value_size(value: &AttributeValue) -> usize {
    // By its significant digits: 800 is shorter than 801.
    let number = |digits: &String| dynoxide::types::number_size(digits);
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => number(digits),
        AttributeValue::B(bytes) => bytes.len(),
        AttributeValue::Bool(_) | AttributeValue::Null(_) => 1,
        AttributeValue::Ss(texts) => texts.iter().map(String::len).sum(),
        AttributeValue::Ns(numbers) => numbers.iter().map(number).sum(),
        AttributeValue::Bs(all) => all.iter().map(Vec::len).sum(),
        AttributeValue::L(values) => {
            values
                .iter()
                .map(|value| value_size(value) + 1)
                .sum::<usize>()
                + 3
        }
        AttributeValue::M(members) => {
            let sizes = members
                .iter()
                .map(|(name, value)| name.len() + value_size(value) + 1);
            sizes.sum::<usize>() + 3
        }
    }
}
