//! All of DynamoDB, by dynoxide over `SQLite`, in memory or in a file.
//!
//! dynoxide's own `Database` hides two things that we need, so its `Storage` is used directly: an index on the stream
//! (without it every write reads the stream's whole history to find its last number) and the trimming of that history.
//! [`super::tokens`] replaces what `Database` adds for transactions.

mod pages;

use std::fmt;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use aws_lambda_events::dynamodb::EventRecord;
use dynoxide::actions::batch_write_item::{self, BatchWriteItemRequest, BatchWriteItemResponse};
use dynoxide::actions::vector_lifecycle::VectorIndexLifecycle;
use dynoxide::actions::{self, get_records, get_shard_iterator, import_items};
use dynoxide::storage::Storage;
use dynoxide::{DynoxideError, ImportOptions, Result, streams, ttl};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{DynamoDbError, TableDefinition};

/// The retention of stream records, in DynamoDB and in a file.
const STREAM_RETENTION_HOURS: u32 = 24;

/// The index for dynoxide's searches by number in a text column: for the last record, and for those after an iterator.
const STREAM_INDEX: &str = "
    CREATE INDEX IF NOT EXISTS stream_by_sequence ON _stream_records (CAST(sequence_number AS INTEGER));";

/// A dynoxide database.
pub struct Sqlite {
    storage: Storage,
    lifecycle: VectorIndexLifecycle,
    stream_retention_hours: u32,
    /// Those of [`Self::create_table`].
    tables: Vec<TableDefinition>,
    /// Whether `BatchWriteItem` is an import.
    imports: bool,
}

impl Sqlite {
    /// A database that ends with the process.
    pub fn memory() -> Result<Self> {
        // No reader of the stream survives a restart.
        Self::over(Storage::memory()?, 0)
    }

    /// The database in the file at `path`, created if missing.
    pub fn open(path: &str) -> Result<Self> {
        let storage = Storage::new(path)?;
        // A crash of the process loses nothing; a crash of the machine may lose the last writes.
        storage
            .conn()
            .execute_batch("PRAGMA synchronous = NORMAL; PRAGMA cache_size = -64000")?;
        Self::over(storage, STREAM_RETENTION_HOURS)
    }

    /// As [`Self::open`], for a program that fills the file: what it puts by `BatchWriteItem` is imported.
    ///
    /// An import writes the items of a request at once, several times as fast, and leaves no records on the stream, as
    /// DynamoDB's own from S3.
    pub fn open_for_import(path: &str) -> Result<Self> {
        let sqlite = Self::open(path)?;
        // It writes to the index in random order, but list by list: a cache of 32 MB holds that part of the index, and the program
        // stays below 200 MB with all else.
        let cache = "PRAGMA cache_size = -32000";
        sqlite.storage.conn().execute_batch(cache)?;
        Ok(Self {
            imports: true,
            ..sqlite
        })
    }

    fn over(storage: Storage, stream_retention_hours: u32) -> Result<Self> {
        storage.conn().execute_batch(STREAM_INDEX)?;
        Ok(Self {
            storage,
            lifecycle: VectorIndexLifecycle::default(),
            stream_retention_hours,
            tables: vec![],
            imports: false,
        })
    }

    /// Runs one operation, e.g. `GetItem`, on its JSON request and returns the JSON answer.
    pub fn execute(&self, operation: &str, body: &[u8]) -> Result<String> {
        let storage = &self.storage;
        match operation {
            "GetItem" => reply(actions::get_item::execute(storage, read(body)?)),
            "PutItem" => reply(actions::put_item::execute(storage, read(body)?)),
            "UpdateItem" => reply(actions::update_item::execute(storage, read(body)?)),
            "DeleteItem" => reply(actions::delete_item::execute(storage, read(body)?)),
            "Query" => self.query(body),
            "Scan" => self.scan(body),
            "BatchGetItem" => reply(actions::batch_get_item::execute(storage, read(body)?)),
            "BatchWriteItem" => self.batch_write_item(read(body)?),
            "TransactGetItems" => reply(actions::transact_get_items::execute(storage, read(body)?)),
            "TransactWriteItems" => {
                reply(actions::transact_write_items::execute(storage, read(body)?))
            }
            "CreateTable" => reply(actions::create_table::execute(storage, read(body)?)),
            "DescribeTable" => reply(actions::describe_table::execute(
                storage,
                read(body)?,
                &self.lifecycle,
            )),
            "ListTables" => reply(actions::list_tables::execute(storage, read(body)?)),
            "UpdateTimeToLive" => {
                reply(actions::update_time_to_live::execute(storage, read(body)?))
            }
            "DescribeTimeToLive" => reply(actions::describe_time_to_live::execute(
                storage,
                read(body)?,
            )),
            "ListStreams" => reply(actions::list_streams::execute(storage, read(body)?)),
            "DescribeStream" => reply(actions::describe_stream::execute(storage, read(body)?)),
            "GetShardIterator" => reply(get_shard_iterator::execute(storage, read(body)?)),
            "GetRecords" => reply(get_records::execute(storage, read(body)?)),
            unknown => Err(DynoxideError::ValidationException(format!(
                "The local stack does not know the operation {unknown}"
            ))),
        }
    }

    fn batch_write_item(&self, mut request: BatchWriteItemRequest) -> Result<String> {
        if !self.imports {
            return reply(batch_write_item::execute(&self.storage, request));
        }
        for (table, writes) in &mut request.request_items {
            let puts = writes.extract_if(.., |write| write.put_request.is_some());
            let items = puts.filter_map(|write| Some(write.put_request?.item));
            let items: Vec<_> = items.collect();
            let options = ImportOptions::default();
            complete(import_items::execute(&self.storage, table, items, &options))?;
        }
        request.request_items.retain(|_, writes| !writes.is_empty());
        match request.request_items.is_empty() {
            true => reply(std::future::ready(Ok(BatchWriteItemResponse::default()))),
            false => reply(batch_write_item::execute(&self.storage, request)),
        }
    }

    /// Creates the table, unless it exists.
    pub fn create_table(&mut self, table: &TableDefinition) -> Result<()> {
        if !self.tables.iter().any(|known| known.name == table.name) {
            self.tables.push(table.clone());
        }
        let definition = json!({
            "TableName": table.name,
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [
                {"AttributeName": table.partition_key, "AttributeType": "S"},
                {"AttributeName": table.sort_key, "AttributeType": "S"},
                {"AttributeName": table.index_key, "AttributeType": "N"},
            ],
            "KeySchema": [
                {"AttributeName": table.partition_key, "KeyType": "HASH"},
                {"AttributeName": table.sort_key, "KeyType": "RANGE"},
            ],
            "LocalSecondaryIndexes": [{
                "IndexName": table.index,
                "KeySchema": [
                    {"AttributeName": table.partition_key, "KeyType": "HASH"},
                    {"AttributeName": table.index_key, "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "ALL"},
            }],
            "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        });
        match self.execute("CreateTable", definition.to_string().as_bytes()) {
            Ok(_) => {}
            Err(DynoxideError::ResourceInUseException(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        let expiry = json!({
            "TableName": table.name,
            "TimeToLiveSpecification": {"AttributeName": table.expiry, "Enabled": true},
        });
        self.execute("UpdateTimeToLive", expiry.to_string().as_bytes())?;
        Ok(())
    }

    /// An iterator at the oldest record of the table's stream.
    pub fn oldest(table: &str) -> String {
        get_shard_iterator::encode_shard_iterator(table, &streams::shard_id(table), 0)
    }

    /// At most `limit` stream records from `iterator` on, and the iterator after them.
    pub fn records(&self, iterator: &str, limit: usize) -> Result<(Vec<EventRecord>, String)> {
        let request = get_records::GetRecordsRequest {
            shard_iterator: iterator.to_owned(),
            limit: Some(limit),
        };
        let page = complete(get_records::execute(&self.storage, request))?;
        let records = page.records.iter().map(event).collect::<Result<_>>()?;
        let next = page.next_shard_iterator;
        Ok((records, next.unwrap_or_else(|| iterator.to_owned())))
    }

    /// Deletes expired items (by TTL, which the stream shows), and stream records after a day, or at once in memory.
    /// Only for callers that have read the stream to its end.
    pub fn sweep(&self) -> Result<()> {
        self.storage.conn().execute_batch(&format!(
            "DELETE FROM _stream_records WHERE created_at < unixepoch('now', '-{} hours')",
            self.stream_retention_hours
        ))?;
        complete(ttl::sweep_expired_items(&self.storage))?;
        Ok(())
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").finish_non_exhaustive()
    }
}

impl From<DynoxideError> for DynamoDbError {
    fn from(error: DynoxideError) -> Self {
        Self {
            status: error.status_code(),
            body: serde_json::from_str(&error.to_json()).unwrap_or_default(),
        }
    }
}

/// The record in Lambda's format, which is also how dynoxide serializes it.
fn event(record: &get_records::Record) -> Result<EventRecord> {
    let json = serde_json::to_value(record).and_then(serde_json::from_value);
    json.map_err(|error| DynoxideError::InternalServerError(error.to_string()))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| {
        // dynoxide's deserializers prefix the message with a marker of the error's class.
        let message = error.to_string();
        let message = message
            .strip_prefix("VALIDATION_REQUEST:")
            .or_else(|| message.strip_prefix("VALIDATION:"))
            .unwrap_or(&message);
        DynoxideError::ValidationException(message.to_owned())
    })
}

fn reply<T: Serialize>(action: impl Future<Output = Result<T>>) -> Result<String> {
    json(&complete(action)?)
}

fn json(answer: &impl Serialize) -> Result<String> {
    serde_json::to_string(answer)
        .map_err(|error| DynoxideError::InternalServerError(error.to_string()))
}

/// The output of an action. Actions are async for the browser's sake; over `SQLite` they never wait.
fn complete<T>(action: impl Future<Output = Result<T>>) -> Result<T> {
    match pin!(action).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => Err(DynoxideError::InternalServerError(
            "an action over SQLite waited".to_owned(),
        )),
    }
}
