//! DynamoDB's operations over the [`Table`] in memory, as far as the store uses them.
//!
//! It trusts its caller where that changes no answer: dynoxide, over which the tests run the store, checks that an
//! expression uses all its placeholders and no reserved word.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use aws_lambda_events::dynamodb::EventRecord;
use serde::Serialize;
use serde_dynamo::Item;
use serde_json::{Value, json};

use super::expression::{self, Condition, Placeholders};
use super::requests::{
    BatchGet, BatchWrite, Get, Keys, OnFailure, OnSuccess, Put, Query, TransactGet, TransactWrite,
    TransactWriteItem, Update,
};
use super::table::{Key, Row, Table};
use super::{DynamoDbError, TableDefinition, query, read};

/// The most writes of a `BatchWriteItem`.
const MAX_BATCH_WRITE: usize = 25;
/// The limits of a transaction, in items and bytes.
const MAX_TRANSACTION: (usize, usize) = (100, 4 * 1024 * 1024);

/// At most one table in memory.
#[derive(Debug, Default)]
pub struct Memory {
    table: Option<Table>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GetItemOutput<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<&'a Item>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Batch<'a> {
    responses: HashMap<&'a String, Vec<&'a Item>>,
    unprocessed_keys: HashMap<String, Value>,
}

/// The condition of a write failed; holds the existing item, if that was asked for.
struct ConditionFailed(Option<Arc<Row>>);

/// The outcome of a write that is being checked.
type Outcome = Result<Row, ConditionFailed>;

impl Memory {
    /// Creates the table, unless it exists.
    pub fn create_table(&mut self, table: &TableDefinition) -> Result<(), DynamoDbError> {
        let made = self.table.get_or_insert_with(|| Table::new(table.clone()));
        if **made.definition() == *table {
            return Ok(());
        }
        Err(DynamoDbError::new(
            "LimitExceededException",
            "there is one table in memory",
        ))
    }

    /// Runs one operation on its JSON request and returns the JSON answer.
    pub fn execute(&mut self, operation: &str, body: &[u8]) -> Result<String, DynamoDbError> {
        match operation {
            "GetItem" => self.get_item(&read(body)?),
            "BatchGetItem" => self.batch_get_item(&read(body)?),
            "TransactGetItems" => self.transact_get_items(&read(body)?),
            "Query" => self.query(&read(body)?),
            "PutItem" => self.put_item(read(body)?),
            "BatchWriteItem" => self.batch_write_item(read(body)?),
            "UpdateItem" => self.update_item(&read(body)?),
            "TransactWriteItems" => self.transact_write_items(read(body)?),
            unknown => Err(DynamoDbError::invalid(format!(
                "{unknown} is not known to the table in memory; a table in a file (`--data`) knows it"
            ))),
        }
    }

    /// At most `limit` records of the stream after the sequence number `after`, and the number of the last; those up to
    /// `after` are forgotten.
    pub fn records(&mut self, after: u64, limit: usize) -> (Vec<EventRecord>, u64) {
        match &mut self.table {
            Some(table) => table.records(after, limit),
            None => (vec![], after),
        }
    }

    /// Removes the items that expired.
    pub fn sweep(&mut self) {
        self.table.iter_mut().for_each(Table::sweep);
    }

    fn get_item(&self, get: &Get) -> Result<String, DynamoDbError> {
        let table = self.table(&get.table_name)?;
        let key = Key::of(&get.key, table.definition())?;
        Ok(json(&found(table, &key)))
    }

    fn transact_get_items(&self, request: &TransactGet) -> Result<String, DynamoDbError> {
        let Some(first) = request.transact_items.first() else {
            return Err(DynamoDbError::invalid(
                "a transaction has one item at least",
            ));
        };
        for item in &request.transact_items {
            self.table(&item.get.table_name)?;
        }
        let table = self.table(&first.get.table_name)?;
        let keys = request.transact_items.iter().map(|item| &item.get.key);
        let keys = distinct(keys, table.definition())?;
        let responses: Vec<_> = keys.iter().map(|key| found(table, key)).collect();
        Ok(json(&HashMap::from([("Responses", responses)])))
    }

    fn batch_get_item(&self, request: &BatchGet) -> Result<String, DynamoDbError> {
        let mut responses = HashMap::new();
        for (name, Keys { keys, .. }) in &request.request_items {
            let table = self.table(name)?;
            let keys = distinct(keys.iter(), table.definition())?;
            let items = keys.iter().filter_map(|key| found(table, key).item);
            responses.insert(name, items.collect());
        }
        Ok(json(&Batch {
            responses,
            unprocessed_keys: HashMap::new(),
        }))
    }

    fn query(&self, query: &Query) -> Result<String, DynamoDbError> {
        let table = self.table(&query.table_name)?;
        Ok(json(&query::run(table, query)?))
    }

    fn put_item(&mut self, put: Put) -> Result<String, DynamoDbError> {
        let row = self.outcome_of_put(put)??;
        self.put(row);
        Ok("{}".to_owned())
    }

    fn batch_write_item(&mut self, request: BatchWrite) -> Result<String, DynamoDbError> {
        let mut rows = vec![];
        for (name, writes) in request.request_items {
            let definition = self.table(&name)?.definition();
            if writes.is_empty() || writes.len() > MAX_BATCH_WRITE {
                return Err(DynamoDbError::invalid("a batch has 1 to 25 writes"));
            }
            for write in writes {
                rows.push(Row::new(write.put_request.item, definition)?);
            }
        }
        let keys: HashSet<_> = rows.iter().map(Row::key).collect();
        if keys.len() < rows.len() {
            return Err(DynamoDbError::invalid("a request names each item once"));
        }
        for row in rows {
            self.put(row);
        }
        Ok(json!({"UnprocessedItems": {}}).to_string())
    }

    fn update_item(&mut self, update: &Update) -> Result<String, DynamoDbError> {
        let row = self.outcome_of_update(update)??;
        let answer = match update.return_values {
            OnSuccess::None => json!({}),
            OnSuccess::AllNew => json!({"Attributes": row.item()}),
        };
        self.put(row);
        Ok(answer.to_string())
    }

    fn transact_write_items(&mut self, request: TransactWrite) -> Result<String, DynamoDbError> {
        let items = request.transact_items;
        if let Some(table) = &self.table {
            distinct(items.iter().map(TransactWriteItem::key), table.definition())?;
        }
        let outcomes = items.into_iter().map(|item| match item {
            TransactWriteItem::Put(put) => self.outcome_of_put(put),
            TransactWriteItem::Update(update) => self.outcome_of_update(&update),
        });
        let outcomes = outcomes.collect::<Result<Vec<_>, _>>()?;
        if outcomes.iter().any(Outcome::is_err) {
            return Err(DynamoDbError::transaction_canceled(
                outcomes.iter().map(reason).collect(),
            ));
        }
        let rows: Vec<_> = outcomes.into_iter().filter_map(Outcome::ok).collect();
        let size = rows.iter().map(Row::size).sum::<usize>();
        if rows.len() > MAX_TRANSACTION.0 || size > MAX_TRANSACTION.1 {
            return Err(DynamoDbError::invalid(
                "a transaction has 100 items and 4 MB at most",
            ));
        }
        for row in rows {
            self.put(row);
        }
        Ok("{}".to_owned())
    }

    fn outcome_of_put(&self, put: Put) -> Result<Outcome, DynamoDbError> {
        let table = self.table(&put.table_name)?;
        let row = Row::new(put.item, table.definition())?;
        let old = table.get(row.key());
        let placeholders = Placeholders {
            names: &put.expression_attribute_names,
            values: &put.expression_attribute_values,
        };
        let on_failure = put.return_values_on_condition_check_failure;
        let condition = put.condition_expression.as_deref();
        let met = check(condition, old, placeholders, on_failure)?;
        Ok(met.map(|()| row))
    }

    fn outcome_of_update(&self, update: &Update) -> Result<Outcome, DynamoDbError> {
        let table = self.table(&update.table_name)?;
        let definition = table.definition();
        let key = Key::of(&update.key, definition)?;
        let old = table.get(&key);
        let placeholders = Placeholders {
            names: &update.expression_attribute_names,
            values: &update.expression_attribute_values,
        };
        let on_failure = update.return_values_on_condition_check_failure;
        let condition = update.condition_expression.as_deref();
        if let Err(unmet) = check(condition, old, placeholders, on_failure)? {
            return Ok(Err(unmet));
        }
        let expression = expression::Update::parse(&update.update_expression)?;
        let item = match old {
            Some(old) => expression.apply(old.item(), placeholders)?,
            None => expression.apply(&key.to_item(definition), placeholders)?,
        };
        let row = Row::new(item, definition)?;
        if *row.key() != key {
            return Err(DynamoDbError::invalid(
                "an update does not change its item's key",
            ));
        }
        Ok(Ok(row))
    }

    /// The table of that name.
    fn table(&self, name: &str) -> Result<&Table, DynamoDbError> {
        let table = self.table.as_ref();
        table
            .filter(|table| table.definition().name == name)
            .ok_or_else(|| {
                let message = format!("Requested resource not found: Table: {name} not found");
                DynamoDbError::new("ResourceNotFoundException", &message)
            })
    }

    /// Writes an item that was checked against the table's definition.
    fn put(&mut self, row: Row) {
        if let Some(table) = &mut self.table {
            table.put(row);
        }
    }
}

fn found<'t>(table: &'t Table, key: &Key) -> GetItemOutput<'t> {
    let row = table.get(key);
    GetItemOutput {
        item: row.map(|row| row.item()),
    }
}

const CONDITION_FAILED: &str = "The conditional request failed";

impl ConditionFailed {
    /// Adds the item that failed the condition to an error.
    fn add_to(&self, error: &mut Value) {
        if let Some(row) = &self.0 {
            error["Item"] = json!(row.item());
        }
    }
}

impl From<ConditionFailed> for DynamoDbError {
    fn from(unmet: ConditionFailed) -> Self {
        let mut refused = Self::new("ConditionalCheckFailedException", CONDITION_FAILED);
        unmet.add_to(&mut refused.body);
        refused
    }
}

/// The reason of this item in a transaction that failed.
fn reason(outcome: &Outcome) -> Value {
    let Err(unmet) = outcome else {
        return json!({"Code": "None"});
    };
    let mut reason = json!({"Code": "ConditionalCheckFailed", "Message": CONDITION_FAILED});
    unmet.add_to(&mut reason);
    reason
}

fn json(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).expect("maps of strings are JSON")
}

/// Checks a condition on the existing item.
fn check(
    condition: Option<&str>,
    old: Option<&Arc<Row>>,
    placeholders: Placeholders<'_>,
    on_failure: OnFailure,
) -> Result<Result<(), ConditionFailed>, DynamoDbError> {
    let Some(condition) = condition else {
        return Ok(Ok(()));
    };
    let condition = Condition::parse(condition)?;
    if condition.holds(old.map(|old| old.item()), placeholders)? {
        return Ok(Ok(()));
    }
    let asked_for = old.filter(|_| on_failure == OnFailure::AllOld);
    Ok(Err(ConditionFailed(asked_for.cloned())))
}

/// The keys; an error if two are the same.
fn distinct<'a>(
    keys: impl Iterator<Item = &'a Item>,
    table: &TableDefinition,
) -> Result<Vec<Key>, DynamoDbError> {
    let keys = keys.map(|key| Key::of(key, table));
    let keys: Vec<_> = keys.collect::<Result<_, _>>()?;
    if keys.iter().collect::<HashSet<_>>().len() < keys.len() {
        return Err(DynamoDbError::invalid("a request names each item once"));
    }
    Ok(keys)
}
