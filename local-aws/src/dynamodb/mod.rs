//! DynamoDB, called with the SDK's requests and returning the answers that it expects.
//!
//! There are two implementations: a fast one and a strict one.
//!
//! | | implements | for |
//! | --- | --- | --- |
//! | `memory` | one table, with the requests of a program that knows its keys: they are in `requests`, of which `query` answers one, expressions in `expression`, items and the stream in `table` | speed |
//! | `sqlite` | all of DynamoDB, by dynoxide, which is checked against AWS | files, and strict tests |
//!
//! Both recognise a repeated transaction by `tokens`.

mod definition;
mod expression;
mod memory;
mod query;
mod requests;
mod sqlite;
mod table;
mod tokens;

use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lambda_events::dynamodb::EventRecord;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use definition::TableDefinition;
use memory::Memory;
use sqlite::Sqlite;
use tokens::Tokens;

/// An embedded DynamoDB.
#[derive(Debug)]
pub struct DynamoDb {
    // A std mutex: both implementations only ever wait for the disk, and no await happens under the lock.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    engine: Engine,
    tokens: Tokens,
}

#[derive(Debug)]
enum Engine {
    Memory(Memory),
    Sqlite(Sqlite),
}

/// A request that was not executed: the status and the JSON of an AWS error, `{"__type", "message", …}`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{body}")]
pub struct DynamoDbError {
    /// HTTP status
    pub status: u16,
    /// the error
    pub body: Value,
}

impl DynamoDbError {
    /// An error with a DynamoDB code, e.g. `ValidationException`.
    pub fn new(code: &str, message: &str) -> Self {
        let code = format!("com.amazonaws.dynamodb.v20120810#{code}");
        Self {
            status: 400,
            body: json!({"__type": code, "message": message}),
        }
    }

    /// An error for an invalid request.
    pub fn invalid(message: impl AsRef<str>) -> Self {
        Self::new("ValidationException", message.as_ref())
    }

    /// A cancelled transaction, with a reason for each of its items: `{"Code", "Message", "Item"}`.
    pub fn transaction_canceled(reasons: Vec<Value>) -> Self {
        let codes: Vec<_> = reasons
            .iter()
            .filter_map(|reason| reason["Code"].as_str())
            .collect();
        let message = format!(
            "Transaction cancelled, please refer cancellation reasons for specific reasons [{}]",
            codes.join(", ")
        );
        let mut refused = Self::new("TransactionCanceledException", &message);
        refused.body["CancellationReasons"] = Value::Array(reasons);
        refused
    }
}

impl DynamoDb {
    /// One table in memory, fast.
    pub fn memory() -> Self {
        Self::over(Engine::Memory(Memory::default()))
    }

    /// All of DynamoDB, in memory.
    pub fn sqlite() -> Result<Self, DynamoDbError> {
        Ok(Self::over(Engine::Sqlite(Sqlite::memory()?)))
    }

    /// All of DynamoDB, in the file at `path`, created if missing.
    pub fn open(path: &str) -> Result<Self, DynamoDbError> {
        Ok(Self::over(Engine::Sqlite(Sqlite::open(path)?)))
    }

    /// As [`Self::open`], for a program that fills the file and that nothing hears of by the stream: what it puts by
    /// `BatchWriteItem` is imported, which is several times as fast.
    pub fn open_for_import(path: &str) -> Result<Self, DynamoDbError> {
        Ok(Self::over(Engine::Sqlite(Sqlite::open_for_import(path)?)))
    }

    fn over(engine: Engine) -> Self {
        let tokens = Tokens::default();
        Self {
            state: Mutex::new(State { engine, tokens }),
        }
    }

    /// Creates a table, unless it exists. The implementation in memory has one.
    pub fn create_table(&self, table: &TableDefinition) -> Result<(), DynamoDbError> {
        match &mut self.lock().engine {
            Engine::Memory(memory) => memory.create_table(table),
            Engine::Sqlite(sqlite) => Ok(sqlite.create_table(table)?),
        }
    }

    /// Runs one operation, e.g. `GetItem`, on its JSON request and returns the JSON answer.
    pub fn execute(&self, operation: &str, body: &[u8]) -> Result<String, DynamoDbError> {
        let State { engine, tokens } = &mut *self.lock();
        let mut execute = || match engine {
            Engine::Memory(memory) => memory.execute(operation, body),
            Engine::Sqlite(sqlite) => Ok(sqlite.execute(operation, body)?),
        };
        match operation {
            "TransactWriteItems" => tokens.once(body, execute),
            _ => execute(),
        }
    }

    /// An iterator at the oldest record of the table's stream.
    pub fn oldest(&self, table: &str) -> String {
        match &self.lock().engine {
            Engine::Memory(_) => "0".to_owned(),
            Engine::Sqlite(_) => Sqlite::oldest(table),
        }
    }

    /// At most `limit` stream records from `iterator` on, and the iterator after them. The table in memory forgets
    /// those before it.
    pub fn records(
        &self,
        iterator: &str,
        limit: usize,
    ) -> Result<(Vec<EventRecord>, String), DynamoDbError> {
        match &mut self.lock().engine {
            Engine::Memory(memory) => {
                let after = iterator.parse();
                let after = after.map_err(|_| DynamoDbError::invalid("not an iterator"))?;
                let (records, last) = memory.records(after, limit);
                Ok((records, last.to_string()))
            }
            Engine::Sqlite(sqlite) => Ok(sqlite.records(iterator, limit)?),
        }
    }

    /// Deletes expired items (by TTL, which the stream shows), and expired stream records: after a day in a file, at
    /// once for `SQLite` in memory. Only for callers that have read the stream to its end.
    pub fn sweep(&self) -> Result<(), DynamoDbError> {
        match &mut self.lock().engine {
            Engine::Memory(memory) => memory.sweep(),
            Engine::Sqlite(sqlite) => sqlite.sweep()?,
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock rolls SQLite's transaction back, and the table in memory changes only in the last step
        // of a request, so the state stays valid.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, DynamoDbError> {
    serde_json::from_slice(body).map_err(|error| DynamoDbError::invalid(error.to_string()))
}
