//! The AWS of this process: one dispatcher of DynamoDB and SQS requests, for SDK clients in the process (without a
//! socket) and for others over loopback HTTP.
//!
//! It counts requests by operation, because the design has a budget of round trips, and lets a test answer any of them
//! with a fault, because the design's invariants are about failures.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_dynamodb::config::{BehaviorVersion, Region, StalledStreamProtectionConfig};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use serde_json::json;
use tokio::sync::Notify;

use crate::connector::InProcess;
use crate::dynamodb::{DynamoDb, DynamoDbError, TableDefinition};
use crate::sqs::{self, Queues};

/// The region of everything.
pub const REGION: Region = Region::from_static("us-east-1");

/// Operations that leave records on the stream.
const WRITES: [&str; 5] = [
    "PutItem",
    "UpdateItem",
    "DeleteItem",
    "BatchWriteItem",
    "TransactWriteItems",
];

/// DynamoDB and SQS in this process; clones share them.
#[derive(Clone)]
pub struct LocalAws {
    dynamodb: Arc<DynamoDb>,
    queues: Queues,
    requests: RequestCounter,
    hook: Arc<Mutex<Option<Hook>>>,
    written: Arc<Notify>,
}

type Hook = Arc<dyn Fn(&str, &[u8]) -> Option<Fault> + Send + Sync>;

/// A fault of a request, instead of its regular answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Not executed, and answered with this status and JSON.
    Refused {
        /// HTTP status
        status: u16,
        /// an AWS error: `{"__type", "message", …}`
        body: String,
    },
    /// Not executed, and no answer: the connection broke on the way to the server.
    Unreached,
    /// Executed, but no answer: the connection broke on the way back.
    AnswerLost,
}

impl Fault {
    /// Refused with a DynamoDB error, e.g. `ProvisionedThroughputExceededException`. `InternalServerError` has the status
    /// 500, with which DynamoDB leaves open whether it executed the request.
    pub fn error(code: &str) -> Self {
        let mut refused = DynamoDbError::new(code, "injected by a test");
        if code == "InternalServerError" {
            refused.status = 500;
        }
        refused.into()
    }

    /// A transaction refused with one reason an item, e.g. `["None", "TransactionConflict"]`.
    pub fn transaction_canceled(codes: &[&str]) -> Self {
        let reasons = codes.iter().map(|code| json!({"Code": code})).collect();
        DynamoDbError::transaction_canceled(reasons).into()
    }
}

impl From<DynamoDbError> for Fault {
    fn from(refused: DynamoDbError) -> Self {
        Self::Refused {
            status: refused.status,
            body: refused.body.to_string(),
        }
    }
}

/// A status and a JSON body.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status
    pub status: u16,
    /// JSON
    pub body: String,
}

/// The connection broke; the client does not know whether the request was executed.
#[derive(Debug, thiserror::Error)]
#[error("the connection broke before the answer")]
pub struct ConnectionBroken;

impl LocalAws {
    /// Over the given database, with these queues.
    pub fn over(dynamodb: DynamoDb, queues: Queues) -> Self {
        Self {
            dynamodb: Arc::new(dynamodb),
            queues,
            requests: RequestCounter::default(),
            hook: Arc::default(),
            written: Arc::default(),
        }
    }

    /// Creates a table, unless it exists.
    pub fn create_table(&self, table: &TableDefinition) -> Result<(), DynamoDbError> {
        self.dynamodb.create_table(table)
    }

    /// An SDK client without a socket, without signatures, which are not checked here, and without a watch for stalled
    /// streams, which do not occur.
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::from_conf(
            aws_sdk_dynamodb::Config::builder()
                .behavior_version(BehaviorVersion::v2026_01_12())
                .region(REGION)
                .allow_no_auth()
                .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
                .http_client(self.http_client())
                .build(),
        )
    }

    /// As [`Self::dynamodb`].
    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        aws_sdk_sqs::Client::from_conf(
            aws_sdk_sqs::Config::builder()
                .behavior_version(BehaviorVersion::v2026_01_12())
                .region(REGION)
                .allow_no_auth()
                .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
                .http_client(self.http_client())
                .build(),
        )
    }

    /// The HTTP client that connects any SDK client without a socket.
    pub fn http_client(&self) -> SharedHttpClient {
        SharedHttpClient::new(InProcess::new(self.clone()))
    }

    /// All the queues.
    pub fn queues(&self) -> &Queues {
        &self.queues
    }

    /// The database itself; direct requests to it are neither counted nor faulted.
    pub fn database(&self) -> &DynamoDb {
        &self.dynamodb
    }

    /// All requests so far, by operation.
    pub fn requests(&self) -> RequestCounter {
        self.requests.clone()
    }

    /// Calls `hook` before each request from now on, with its target (`DynamoDB_20120810.PutItem`) and body; it may
    /// return a fault. The hook may itself write to the database: that is how a test lets another writer in between two
    /// requests.
    pub fn inject(&self, hook: impl Fn(&str, &[u8]) -> Option<Fault> + Send + Sync + 'static) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(hook));
    }

    /// Removes the fault hook.
    pub fn clear_faults(&self) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Executes the request given by `X-Amz-Target` and the JSON body.
    pub fn call(&self, target: &str, body: &[u8]) -> Result<Answer, ConnectionBroken> {
        let (service, operation) = target.split_once('.').unwrap_or((target, ""));
        self.requests.count(operation);
        let hook = self
            .hook
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match hook.and_then(|hook| hook(target, body)) {
            None => Ok(self.execute(service, operation, body)),
            Some(Fault::Refused { status, body }) => Ok(Answer { status, body }),
            Some(Fault::Unreached) => Err(ConnectionBroken),
            Some(Fault::AnswerLost) => {
                self.execute(service, operation, body);
                Err(ConnectionBroken)
            }
        }
    }

    /// Waits until a write may have left a record on the stream; one since the last wait counts.
    pub async fn written(&self) {
        self.written.notified().await;
    }

    fn execute(&self, service: &str, operation: &str, body: &[u8]) -> Answer {
        if service == "AmazonSQS" {
            return match sqs::execute(&self.queues, operation, body) {
                Ok(body) => Answer { status: 200, body },
                Err(error) => Answer {
                    status: 400,
                    body: error.body(),
                },
            };
        }
        match self.dynamodb.execute(operation, body) {
            Ok(body) => {
                if WRITES.contains(&operation) {
                    self.written.notify_one();
                }
                Answer { status: 200, body }
            }
            Err(DynamoDbError { status, body }) => Answer {
                status,
                body: body.to_string(),
            },
        }
    }
}

impl fmt::Debug for LocalAws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalAws")
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

/// The number of requests by operation; clones count together.
#[derive(Clone, Debug, Default)]
pub struct RequestCounter(Arc<Mutex<BTreeMap<String, u64>>>);

impl RequestCounter {
    /// The number of requests of `operation`, e.g. `GetItem`.
    pub fn of(&self, operation: &str) -> u64 {
        self.lock().get(operation).copied().unwrap_or_default()
    }

    /// The number of requests of all operations.
    pub fn total(&self) -> u64 {
        self.lock().values().sum()
    }

    /// The counts since the last `take`.
    pub fn take(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *self.lock())
    }

    fn count(&self, operation: &str) {
        let mut counts = self.lock();
        match counts.get_mut(operation) {
            Some(count) => *count += 1,
            None => {
                counts.insert(operation.to_owned(), 1);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Queue, Redrive};
    use aws_sdk_dynamodb::error::ProvideErrorMetadata as _;
    use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
    use aws_sdk_dynamodb::types::{
        AttributeValue, Get, KeysAndAttributes, Put, TransactGetItem, TransactWriteItem,
    };
    use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
    use std::collections::HashMap;

    const TABLE: &str = "kinto";
    const QUEUE: &str = "kinto.fifo";

    fn over(dynamodb: DynamoDb) -> LocalAws {
        let queue = Queue::new(Redrive::default());
        let aws = LocalAws::over(dynamodb, [(QUEUE, queue)].into_iter().collect());
        aws.create_table(&TableDefinition::for_tests()).unwrap();
        aws
    }

    fn aws() -> LocalAws {
        over(DynamoDb::sqlite().unwrap())
    }

    fn text(value: &str) -> AttributeValue {
        AttributeValue::S(value.to_owned())
    }

    fn key(sk: &str) -> HashMap<String, AttributeValue> {
        HashMap::from([("pk".to_owned(), text("p")), ("sk".to_owned(), text(sk))])
    }

    fn item(sk: &str, last_modified: u64) -> HashMap<String, AttributeValue> {
        let mut item = key(sk);
        let number = AttributeValue::N(last_modified.to_string());
        item.insert("last_modified".to_owned(), number);
        item
    }

    fn put(item: HashMap<String, AttributeValue>) -> Put {
        Put::builder()
            .table_name(TABLE)
            .set_item(Some(item))
            .build()
            .unwrap()
    }

    fn only_if_new(item: HashMap<String, AttributeValue>) -> TransactWriteItem {
        let mut put = put(item);
        put.condition_expression = Some("attribute_not_exists(pk)".to_owned());
        TransactWriteItem::builder().put(put).build()
    }

    #[tokio::test]
    async fn what_is_written_is_read_by_key_by_index_in_batches_and_in_transactions() {
        let aws = aws();
        aws.create_table(&TableDefinition::for_tests()).unwrap();
        let client = aws.dynamodb();
        for (sk, last_modified) in [("a", 3), ("b", 1), ("c", 2)] {
            let put = client.put_item().table_name(TABLE);
            put.set_item(Some(item(sk, last_modified)))
                .send()
                .await
                .unwrap();
        }
        let got = client.get_item().table_name(TABLE).set_key(Some(key("b")));
        assert_eq!(got.send().await.unwrap().item, Some(item("b", 1)));

        let listed = client
            .query()
            .table_name(TABLE)
            .index_name("by_last_modified")
            .key_condition_expression("pk = :pk AND last_modified > :since")
            .expression_attribute_values(":pk", text("p"))
            .expression_attribute_values(":since", AttributeValue::N("1".to_owned()))
            .scan_index_forward(false)
            .send()
            .await
            .unwrap();
        assert_eq!(listed.items(), [item("a", 3), item("c", 2)]);

        let keys = KeysAndAttributes::builder()
            .keys(key("a"))
            .keys(key("none"))
            .build()
            .unwrap();
        let batch = client
            .batch_get_item()
            .request_items(TABLE, keys)
            .send()
            .await
            .unwrap();
        assert_eq!(batch.responses.unwrap()[TABLE], [item("a", 3)]);

        let get = Get::builder()
            .table_name(TABLE)
            .set_key(Some(key("c")))
            .build()
            .unwrap();
        let get = TransactGetItem::builder().get(get).build();
        let read = client
            .transact_get_items()
            .transact_items(get)
            .send()
            .await
            .unwrap();
        assert_eq!(read.responses()[0].item, Some(item("c", 2)));

        let counts = aws.requests().take();
        assert_eq!(counts["PutItem"], 3);
        assert_eq!(counts.values().sum::<u64>(), 7);
        assert_eq!(aws.requests().total(), 0);
    }

    #[tokio::test]
    async fn a_failed_condition_cancels_the_transaction_with_a_reason_for_each_item() {
        let client = aws().dynamodb();
        let first = client
            .transact_write_items()
            .transact_items(only_if_new(item("a", 1)));
        first.send().await.unwrap();
        let second = client
            .transact_write_items()
            .transact_items(only_if_new(item("b", 2)))
            .transact_items(only_if_new(item("a", 2)));
        let error = second.send().await.unwrap_err().into_service_error();
        let TransactWriteItemsError::TransactionCanceledException(canceled) = error else {
            panic!("{error:?}");
        };
        let codes: Vec<_> = canceled
            .cancellation_reasons()
            .iter()
            .map(|r| r.code().unwrap())
            .collect();
        assert_eq!(codes, ["None", "ConditionalCheckFailed"]);
        let b = client.get_item().table_name(TABLE).set_key(Some(key("b")));
        assert_eq!(b.send().await.unwrap().item, None);
    }

    #[tokio::test]
    async fn a_transaction_repeated_with_its_token_is_written_once() {
        let aws = aws();
        let client = aws.dynamodb();
        let send = |token: &str, sk: &str| {
            let write = client.transact_write_items().client_request_token(token);
            write.transact_items(only_if_new(item(sk, 1))).send()
        };
        send("t", "a").await.unwrap();
        send("t", "a").await.unwrap();
        let other = send("t", "b").await.unwrap_err().into_service_error();
        assert!(other.is_idempotent_parameter_mismatch_exception());
        let again = send("u", "a").await.unwrap_err().into_service_error();
        assert!(again.is_transaction_canceled_exception());
    }

    #[tokio::test]
    async fn a_lost_answer_is_retried_by_the_sdk_and_the_write_stands() {
        let aws = aws();
        let requests = aws.requests();
        let lose_first = requests.clone();
        aws.inject(move |target, _| {
            let first =
                target.ends_with(".TransactWriteItems") && lose_first.of("TransactWriteItems") == 1;
            first.then_some(Fault::AnswerLost)
        });
        let client = aws.dynamodb();
        let write = client
            .transact_write_items()
            .transact_items(only_if_new(item("a", 1)));
        write.send().await.unwrap();
        assert_eq!(requests.of("TransactWriteItems"), 2);
        let got = client.get_item().table_name(TABLE).set_key(Some(key("a")));
        assert_eq!(got.send().await.unwrap().item, Some(item("a", 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn refused_and_unreached_requests_change_nothing() {
        let aws = aws();
        let client = aws.dynamodb();
        let write = || {
            let write = client.transact_write_items();
            write.transact_items(only_if_new(item("a", 1))).send()
        };
        aws.inject(|_, _| Some(Fault::transaction_canceled(&["TransactionConflict"])));
        let error = write().await.unwrap_err().into_service_error();
        let TransactWriteItemsError::TransactionCanceledException(canceled) = error else {
            panic!("{error:?}");
        };
        assert_eq!(
            canceled.cancellation_reasons()[0].code(),
            Some("TransactionConflict")
        );

        aws.inject(|_, _| Some(Fault::error("ProvisionedThroughputExceededException")));
        let error = write().await.unwrap_err().into_service_error();
        assert_eq!(error.code(), Some("ProvisionedThroughputExceededException"));

        aws.inject(|_, _| Some(Fault::Unreached));
        assert!(write().await.unwrap_err().as_service_error().is_none());

        aws.clear_faults();
        let got = client.get_item().table_name(TABLE).set_key(Some(key("a")));
        assert_eq!(got.send().await.unwrap().item, None);
    }

    #[tokio::test]
    async fn a_hook_can_let_a_rival_write_first() {
        let aws = aws();
        let rival = aws.clone();
        aws.inject(move |target, _| {
            if target.ends_with(".PutItem") {
                let write =
                    json!({"TableName": TABLE, "Item": {"pk": {"S": "p"}, "sk": {"S": "rival"}}});
                rival
                    .database()
                    .execute("PutItem", write.to_string().as_bytes())
                    .unwrap();
            }
            None
        });
        let client = aws.dynamodb();
        let put = client
            .put_item()
            .table_name(TABLE)
            .set_item(Some(item("a", 1)));
        put.send().await.unwrap();
        let got = client
            .get_item()
            .table_name(TABLE)
            .set_key(Some(key("rival")));
        assert!(got.send().await.unwrap().item.is_some());
    }

    #[tokio::test]
    async fn a_file_keeps_its_table_and_its_stream() {
        let file = std::env::temp_dir().join(format!("kinto-local-{}.db", uuid::Uuid::new_v4()));
        let path = file.to_str().unwrap();
        for round in 1..=2 {
            let aws = over(DynamoDb::open(path).unwrap());
            let client = aws.dynamodb();
            let put = client.put_item().table_name(TABLE);
            put.set_item(Some(item(&round.to_string(), round)))
                .send()
                .await
                .unwrap();
            aws.database().sweep().unwrap();
            let oldest = aws.database().oldest(TABLE);
            let (records, _) = aws.database().records(&oldest, 10).unwrap();
            assert_eq!(records.len() as u64, round);
        }
        std::fs::remove_file(file).unwrap();
    }

    #[tokio::test]
    async fn messages_are_queued_by_group_and_a_bad_entry_fails_alone() {
        let aws = aws();
        let client = aws.sqs();
        let entry = |id: &str, group: Option<&str>| {
            SendMessageBatchRequestEntry::builder()
                .id(id)
                .message_body("body")
                .message_deduplication_id("same")
                .set_message_group_id(group.map(str::to_owned))
                .build()
                .unwrap()
        };
        let url = client
            .get_queue_url()
            .queue_name(QUEUE)
            .send()
            .await
            .unwrap();
        assert_eq!(url.queue_url(), Some(&*sqs::url(QUEUE)));
        let sent = client
            .send_message_batch()
            .queue_url(sqs::url(QUEUE))
            .entries(entry("1", Some("g")))
            .entries(entry("2", Some("g")))
            .entries(entry("3", None))
            .send()
            .await
            .unwrap();
        assert_eq!(sent.successful().len(), 2);
        assert_eq!(
            sent.successful()[0].message_id,
            sent.successful()[1].message_id
        );
        assert_eq!(sent.failed()[0].id(), "3");

        let message = client
            .send_message()
            .message_body("b")
            .message_group_id("g");
        let message = message.message_deduplication_id("other");
        let lost = message
            .clone()
            .queue_url("http://elsewhere/0/other.fifo")
            .send()
            .await;
        assert!(
            lost.unwrap_err()
                .into_service_error()
                .is_queue_does_not_exist()
        );
        let sent = message.queue_url(sqs::url(QUEUE)).send().await.unwrap();
        assert!(sent.message_id().is_some());
    }
}
