//! DynamoDB and SQS in this process, for programs written for AWS: for SDK clients in the process without a socket, and
//! for others over loopback HTTP.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`aws`] | one dispatcher of all requests, which counts them and injects faults for tests |
//! | [`dynamodb`] | DynamoDB, in memory or a file, with its stream |
//! | [`sqs`] | SQS for senders, and for consumers that poll |
//! | [`queue`] | a FIFO queue, and the event source mapping that empties it |
//! | [`connector`] | the SDK's way to [`aws`] in this process |
//! | [`endpoint`] | the port for other processes, over [`server`] |
//!
//! The user defines the table and the queues ([`dynamodb::TableDefinition`], [`sqs::Queues`]): nothing here is specific
//! to one program.

pub mod aws;
pub mod connector;
pub mod dynamodb;
pub mod endpoint;
pub mod queue;
mod request_line;
pub mod server;
pub mod sqs;

pub use aws::{Fault, LocalAws, RequestCounter};
