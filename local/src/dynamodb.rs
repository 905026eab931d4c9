//! DynamoDB: dynoxide's storage and actions, called with what an SDK sends and answering what it expects.
//!
//! dynoxide's own `Database` hides two things we need, so its `Storage` is used directly: an index on the stream
//! (without it every write reads the whole history of the stream to find its last number) and the trimming of that
//! history. What `Database` adds for transactions, idempotency by `ClientRequestToken`, is therefore here too.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use dynoxide::actions::vector_lifecycle::VectorIndexLifecycle;
use dynoxide::actions::{self, get_records, get_shard_iterator};
use dynoxide::storage::Storage;
use dynoxide::{DynoxideError, Result, streams, ttl};
use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

/// How long DynamoDB remembers a `ClientRequestToken`.
const TOKEN_WINDOW: Duration = Duration::from_secs(600);

/// How long DynamoDB keeps a stream record, and how long a file does.
const STREAM_RETENTION_HOURS: u32 = 24;

/// What dynoxide looks up by number in a text column: the last record, and those behind an iterator.
const STREAM_INDEX: &str = "
    CREATE INDEX IF NOT EXISTS kinto_stream ON _stream_records (CAST(sequence_number AS INTEGER));";

/// An embedded DynamoDB, in memory or in a file.
pub struct DynamoDb {
    // A std mutex: SQLite never waits for anything but the disk, and no await happens under the lock.
    state: Mutex<State>,
}

struct State {
    storage: Storage,
    tokens: Tokens,
    lifecycle: VectorIndexLifecycle,
    stream_retention_hours: u32,
}

impl DynamoDb {
    /// A database that ends with the process.
    pub fn memory() -> Result<Self> {
        // Nobody comes back for the stream after a restart.
        Self::over(Storage::memory()?, 0)
    }

    /// The database in the file at `path`, created if missing.
    pub fn open(path: &str) -> Result<Self> {
        let storage = Storage::new(path)?;
        // A crash of the process loses nothing; a crash of the machine may lose the last writes.
        storage
            .conn()
            .execute_batch("PRAGMA synchronous = NORMAL")?;
        Self::over(storage, STREAM_RETENTION_HOURS)
    }

    fn over(storage: Storage, stream_retention_hours: u32) -> Result<Self> {
        storage.conn().execute_batch(STREAM_INDEX)?;
        let state = State {
            storage,
            tokens: Tokens::default(),
            lifecycle: VectorIndexLifecycle::default(),
            stream_retention_hours,
        };
        Ok(Self {
            state: Mutex::new(state),
        })
    }

    /// Runs one operation, e.g. `GetItem`, on its JSON request and returns the JSON answer.
    pub fn execute(&self, operation: &str, body: &[u8]) -> Result<String> {
        let state = &mut *self.lock();
        if operation == "TransactWriteItems" {
            return state.transact_write(body);
        }
        let storage = &state.storage;
        match operation {
            "GetItem" => reply(actions::get_item::execute(storage, read(body)?)),
            "PutItem" => reply(actions::put_item::execute(storage, read(body)?)),
            "UpdateItem" => reply(actions::update_item::execute(storage, read(body)?)),
            "DeleteItem" => reply(actions::delete_item::execute(storage, read(body)?)),
            "Query" => reply(actions::query::execute(storage, read(body)?)),
            "Scan" => reply(actions::scan::execute(storage, read(body)?)),
            "BatchGetItem" => reply(actions::batch_get_item::execute(storage, read(body)?)),
            "BatchWriteItem" => reply(actions::batch_write_item::execute(storage, read(body)?)),
            "TransactGetItems" => reply(actions::transact_get_items::execute(storage, read(body)?)),
            "CreateTable" => reply(actions::create_table::execute(storage, read(body)?)),
            "DescribeTable" => reply(actions::describe_table::execute(
                storage,
                read(body)?,
                &state.lifecycle,
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

    /// Creates the table of template.yaml under `name`, unless it is there.
    pub fn create_table(&self, name: &str) -> Result<()> {
        let definition = json!({
            "TableName": name,
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [
                {"AttributeName": "pk", "AttributeType": "S"},
                {"AttributeName": "sk", "AttributeType": "S"},
                {"AttributeName": "last_modified", "AttributeType": "N"},
            ],
            "KeySchema": [
                {"AttributeName": "pk", "KeyType": "HASH"},
                {"AttributeName": "sk", "KeyType": "RANGE"},
            ],
            "LocalSecondaryIndexes": [{
                "IndexName": "by_last_modified",
                "KeySchema": [
                    {"AttributeName": "pk", "KeyType": "HASH"},
                    {"AttributeName": "last_modified", "KeyType": "RANGE"},
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
            "TableName": name,
            "TimeToLiveSpecification": {"AttributeName": "expires", "Enabled": true},
        });
        self.execute("UpdateTimeToLive", expiry.to_string().as_bytes())?;
        Ok(())
    }

    /// An iterator at the oldest record of the table's stream.
    pub fn oldest(&self, table: &str) -> String {
        get_shard_iterator::encode_shard_iterator(table, &streams::shard_id(table), 0)
    }

    /// At most `limit` stream records from `iterator` on, and the iterator behind them.
    pub fn records(
        &self,
        iterator: String,
        limit: usize,
    ) -> Result<(Vec<get_records::Record>, String)> {
        let request = get_records::GetRecordsRequest {
            shard_iterator: iterator.clone(),
            limit: Some(limit),
        };
        let page = complete(get_records::execute(&self.lock().storage, request))?;
        Ok((page.records, page.next_shard_iterator.unwrap_or(iterator)))
    }

    /// Deletes what expired: items by their TTL (which reach the stream), and stream records after a day, in memory
    /// at once. Only for who has read the stream to its end.
    pub fn sweep(&self) -> Result<()> {
        let state = self.lock();
        state.storage.conn().execute_batch(&format!(
            "DELETE FROM _stream_records WHERE created_at < unixepoch('now', '-{} hours')",
            state.stream_retention_hours
        ))?;
        complete(ttl::sweep_expired_items(&state.storage))?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock rolls SQLite's transaction back, so the state is as good as before it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn transact_write(&mut self, body: &[u8]) -> Result<String> {
        let request: actions::transact_write_items::TransactWriteItemsRequest = read(body)?;
        let Some(token) = request.client_request_token.clone() else {
            return reply(actions::transact_write_items::execute(
                &self.storage,
                request,
            ));
        };
        let Identity {
            items: Digest(hash),
        } = read(body)?;
        if let Some(answer) = self.tokens.replay(&token, hash)? {
            return Ok(answer);
        }
        let answer = reply(actions::transact_write_items::execute(
            &self.storage,
            request,
        ))?;
        self.tokens.remember(token, hash, answer.clone());
        Ok(answer)
    }
}

/// The answers of committed transactions, by their `ClientRequestToken`.
#[derive(Default)]
struct Tokens {
    answers: HashMap<String, (u64, String)>,
    by_age: VecDeque<(Instant, String)>,
}

impl Tokens {
    fn replay(&mut self, token: &str, hash: u64) -> Result<Option<String>> {
        while let Some((at, _)) = self.by_age.front()
            && at.elapsed() > TOKEN_WINDOW
            && let Some((_, expired)) = self.by_age.pop_front()
        {
            self.answers.remove(&expired);
        }
        match self.answers.get(token) {
            None => Ok(None),
            Some((known, answer)) if *known == hash => Ok(Some(answer.clone())),
            Some(_) => Err(DynoxideError::IdempotentParameterMismatchException(
                "The ClientRequestToken was used with other parameters".to_owned(),
            )),
        }
    }

    fn remember(&mut self, token: String, hash: u64, answer: String) {
        self.by_age.push_back((Instant::now(), token.clone()));
        self.answers.insert(token, (hash, answer));
    }
}

/// What makes two transactions the same one.
#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "TransactItems")]
    items: Digest,
}

/// A hash of DynamoDB's JSON (which has no numbers) that does not depend on the order of keys: the SDK writes its maps
/// in whatever order they iterate.
struct Digest(u64);

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(json: D) -> std::result::Result<Self, D::Error> {
        json.deserialize_any(DigestVisitor)
    }
}

struct DigestVisitor;

impl DigestVisitor {
    fn digest<E>(value: impl Hash) -> std::result::Result<Digest, E> {
        Ok(Digest(hash_of(value)))
    }
}

impl<'de> Visitor<'de> for DigestVisitor {
    type Value = Digest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> std::result::Result<Digest, E> {
        Self::digest(())
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Digest, E> {
        Self::digest(value)
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Digest, E> {
        Self::digest(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Digest, A::Error> {
        let mut hasher = DefaultHasher::new();
        while let Some(Digest(item)) = items.next_element()? {
            item.hash(&mut hasher);
        }
        Ok(Digest(hasher.finish()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> std::result::Result<Digest, A::Error> {
        let mut sum = 0_u64;
        while let Some((Digest(key), Digest(member))) = members.next_entry()? {
            sum = sum.wrapping_add(hash_of((key, member)));
        }
        Self::digest(sum)
    }
}

fn hash_of(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| {
        // dynoxide's deserializers put a marker of the error's class before the message.
        let message = error.to_string();
        let message = message
            .strip_prefix("VALIDATION_REQUEST:")
            .or_else(|| message.strip_prefix("VALIDATION:"))
            .unwrap_or(&message);
        DynoxideError::ValidationException(message.to_owned())
    })
}

fn reply<T: Serialize>(action: impl Future<Output = Result<T>>) -> Result<String> {
    let answer = complete(action)?;
    serde_json::to_string(&answer)
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
