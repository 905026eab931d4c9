//! The sender's side of SQS on the wire: AWS JSON 1.0 in front of the queue in memory.

use md5::{Digest as _, Md5};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::queue::Queue;

/// The queue's name; its URL is [`URL`].
pub const NAME: &str = "kinto-broadcasts.fifo";

/// What `SQS_QUEUE_URL`-like settings must hold: SQS checks the account and the name, and so do we.
pub const URL: &str = "http://sqs.us-east-1.localhost/000000000000/kinto-broadcasts.fifo";

/// SQS refuses a batch of more entries.
const MAX_ENTRIES: usize = 10;

/// An answer that is not a success: SQS's error code and message.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {message}")]
pub struct SqsError {
    /// The `__type` on the wire: the SDK goes by the code of the older query protocol.
    pub code: &'static str,
    /// For people.
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
struct GetQueueUrl {
    queue_name: String,
}

/// Runs one operation on its JSON request and returns the JSON answer.
pub fn execute(queue: &Queue, operation: &str, body: &[u8]) -> Result<String, SqsError> {
    match operation {
        "SendMessage" => {
            let SendMessage { queue_url, entry } = read(body)?;
            known(&queue_url)?;
            Ok(send(queue, &entry)?.to_string())
        }
        "SendMessageBatch" => {
            let SendMessageBatch { queue_url, entries } = read(body)?;
            known(&queue_url)?;
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
        "GetQueueUrl" => {
            let GetQueueUrl { queue_name } = read(body)?;
            known(&queue_name)?;
            Ok(json!({"QueueUrl": URL}).to_string())
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
        match send(queue, entry) {
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

fn send(queue: &Queue, entry: &Entry) -> Result<Value, SqsError> {
    let required = |value: &Option<String>, name| {
        value
            .clone()
            .ok_or_else(|| SqsError::new("MissingParameter", format!("A FIFO queue needs {name}")))
    };
    let group = required(&entry.message_group_id, "MessageGroupId")?;
    let deduplication_id = required(&entry.message_deduplication_id, "MessageDeduplicationId")?;
    let id = queue.send(&group, &deduplication_id, &entry.message_body);
    let digest = Md5::digest(entry.message_body.as_bytes());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(json!({"MessageId": id, "MD5OfMessageBody": digest}))
}

fn known(queue: &str) -> Result<(), SqsError> {
    if queue.rsplit('/').next() == Some(NAME) {
        Ok(())
    } else {
        Err(SqsError::new(
            "AWS.SimpleQueueService.NonExistentQueue",
            format!("The specified queue does not exist: {queue}"),
        ))
    }
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, SqsError> {
    serde_json::from_slice(body)
        .map_err(|error| SqsError::new("InvalidParameterValue", error.to_string()))
}
