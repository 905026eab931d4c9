//! SQS's wire protocol, as far as senders and consumers use it: AWS JSON 1.0 in front of the queues in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use md5::{Digest as _, Md5};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::queue::{Message, Queue};

/// The suffix of a queue's name, and of its dead-letter queue's.
const FIFO: &str = ".fifo";
const DEAD_FIFO: &str = "-dead.fifo";

/// The URL of a queue: SQS checks the account and the name, and so do we.
pub fn url(name: &str) -> String {
    format!("http://sqs.us-east-1.localhost/000000000000/{name}")
}

/// The URL of a queue's dead-letter queue.
pub fn dead_letter_url(name: &str) -> String {
    url(&name.replace(FIFO, DEAD_FIFO))
}

/// FIFO queues by name, with the suffix `.fifo`; each also has a dead-letter queue ([`dead_letter_url`]). Clones share
/// them.
#[derive(Clone)]
pub struct Queues(Arc<BTreeMap<String, Queue>>);

impl Queues {
    /// The queue with that name or URL.
    pub fn get(&self, name_or_url: &str) -> Option<&Queue> {
        self.0.get(last_segment(name_or_url))
    }

    fn known(&self, name_or_url: &str) -> Result<&Queue, SqsError> {
        self.get(name_or_url).ok_or_else(|| {
            SqsError::new(
                "AWS.SimpleQueueService.NonExistentQueue",
                format!("The specified queue does not exist: {name_or_url}"),
            )
        })
    }

    /// The queue whose dead-letter queue has that URL.
    fn of_dead_letters(&self, url: &str) -> Option<&Queue> {
        let name = last_segment(url).strip_suffix(DEAD_FIFO)?;
        self.get(&format!("{name}{FIFO}"))
    }
}

impl<'n> FromIterator<(&'n str, Queue)> for Queues {
    fn from_iter<I: IntoIterator<Item = (&'n str, Queue)>>(queues: I) -> Self {
        let queues = queues.into_iter();
        let queues = queues.map(|(name, queue)| (name.to_owned(), queue));
        Self(Arc::new(queues.collect()))
    }
}

fn last_segment(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}

/// The longest time in seconds for which SQS hides a message.
const MAX_VISIBILITY_TIMEOUT: u64 = 43_200;

/// The default visibility timeout of a received message.
const USUAL_VISIBILITY_TIMEOUT: Duration = Duration::from_secs(30);

/// The most entries in a batch.
const MAX_ENTRIES: usize = 10;

/// An SQS error: its code and message.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {message}")]
pub struct SqsError {
    /// The `__type` on the wire: the SDK uses the code of the older query protocol.
    pub code: &'static str,
    /// The message for people.
    pub message: String,
}

impl SqsError {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The JSON that the SDK turns back into the error.
    pub fn body(&self) -> String {
        json!({"__type": self.code, "message": self.message}).to_string()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(default)]
    id: String,
    message_body: String,
    message_group_id: Option<String>,
    message_deduplication_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SendMessage {
    queue_url: String,
    #[serde(flatten)]
    entry: Entry,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SendMessageBatch {
    queue_url: String,
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeMessageVisibility {
    queue_url: String,
    receipt_handle: String,
    visibility_timeout: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReceiveMessage {
    queue_url: String,
    #[serde(default = "one")]
    max_number_of_messages: usize,
    visibility_timeout: Option<u64>,
}

const fn one() -> usize {
    1
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteMessage {
    queue_url: String,
    receipt_handle: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetQueueUrl {
    queue_name: String,
}

/// Runs one operation on its JSON request and returns the JSON answer.
pub fn execute(queues: &Queues, operation: &str, body: &[u8]) -> Result<String, SqsError> {
    match operation {
        "SendMessage" => {
            let SendMessage { queue_url, entry } = read(body)?;
            if let Some(queue) = queues.of_dead_letters(&queue_url) {
                return Ok(send(&entry, |g, d, b| queue.dead_letter(g, d, b))?.to_string());
            }
            let queue = queues.known(&queue_url)?;
            Ok(send(&entry, |g, d, b| queue.send(g, d, b))?.to_string())
        }
        "SendMessageBatch" => {
            let SendMessageBatch { queue_url, entries } = read(body)?;
            let queue = queues.known(&queue_url)?;
            if entries.is_empty() {
                return Err(SqsError::new(
                    "AWS.SimpleQueueService.EmptyBatchRequest",
                    "The batch is empty",
                ));
            }
            if entries.len() > MAX_ENTRIES {
                return Err(SqsError::new(
                    "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
                    format!("{} entries, at most {MAX_ENTRIES}", entries.len()),
                ));
            }
            Ok(send_batch(queue, &entries).to_string())
        }
        "ChangeMessageVisibility" => {
            let ChangeMessageVisibility {
                queue_url,
                receipt_handle,
                visibility_timeout,
            } = read(body)?;
            let queue = queues.known(&queue_url)?;
            if visibility_timeout > MAX_VISIBILITY_TIMEOUT {
                return Err(SqsError::new(
                    "InvalidParameterValue",
                    format!("{visibility_timeout} seconds, at most {MAX_VISIBILITY_TIMEOUT}"),
                ));
            }
            let pause = Duration::from_secs(visibility_timeout);
            if !queue.change_visibility(&receipt_handle, pause) {
                return Err(SqsError::new(
                    "ReceiptHandleIsInvalid",
                    "No message in flight has that receipt handle",
                ));
            }
            Ok(json!({}).to_string())
        }
        "ReceiveMessage" => {
            let request: ReceiveMessage = read(body)?;
            let queue = queues.known(&request.queue_url)?;
            let hidden = request.visibility_timeout.map(Duration::from_secs);
            let most = request.max_number_of_messages.min(MAX_ENTRIES);
            let taken = queue.take(most, hidden.unwrap_or(USUAL_VISIBILITY_TIMEOUT));
            let messages: Vec<_> = taken.iter().map(received).collect();
            Ok(json!({"Messages": messages}).to_string())
        }
        "DeleteMessage" => {
            let request: DeleteMessage = read(body)?;
            // SQS also accepts the receipt of a message that no longer exists.
            queues
                .known(&request.queue_url)?
                .delete(&request.receipt_handle);
            Ok(json!({}).to_string())
        }
        "GetQueueUrl" => {
            let GetQueueUrl { queue_name } = read(body)?;
            queues.known(&queue_name)?;
            Ok(json!({"QueueUrl": url(&queue_name)}).to_string())
        }
        unknown => Err(SqsError::new(
            "AWS.SimpleQueueService.UnsupportedOperation",
            format!("The local stack does not know the operation {unknown}"),
        )),
    }
}

fn send_batch(queue: &Queue, entries: &[Entry]) -> Value {
    let mut successful = Vec::new();
    let mut failed = Vec::new();
    for entry in entries {
        match send(entry, |g, d, b| queue.send(g, d, b)) {
            Ok(mut sent) => {
                sent["Id"] = json!(entry.id);
                successful.push(sent);
            }
            Err(error) => failed.push(json!({
                "Id": entry.id, "SenderFault": true, "Code": error.code, "Message": error.message,
            })),
        }
    }
    json!({"Successful": successful, "Failed": failed})
}

/// Passes the entry's group, deduplication id and body to `accept`, which returns its id.
fn send(entry: &Entry, accept: impl FnOnce(&str, &str, &str) -> String) -> Result<Value, SqsError> {
    let required = |value: &Option<String>, name| {
        value
            .clone()
            .ok_or_else(|| SqsError::new("MissingParameter", format!("A FIFO queue needs {name}")))
    };
    let group = required(&entry.message_group_id, "MessageGroupId")?;
    let deduplication_id = required(&entry.message_deduplication_id, "MessageDeduplicationId")?;
    let id = accept(&group, &deduplication_id, &entry.message_body);
    Ok(json!({"MessageId": id, "MD5OfMessageBody": md5(&entry.message_body)}))
}

/// A message in the form of `ReceiveMessage`.
fn received(message: &Message) -> Value {
    json!({
        "MessageId": message.id, "ReceiptHandle": message.receipt(), "Body": message.body,
        "MD5OfBody": md5(&message.body), "Attributes": message.attributes(),
    })
}

fn md5(body: &str) -> String {
    let digest = Md5::digest(body.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, SqsError> {
    serde_json::from_slice(body)
        .map_err(|error| SqsError::new("InvalidParameterValue", error.to_string()))
}
