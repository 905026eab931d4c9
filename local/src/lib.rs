//! The local stack: Kinto's functions and the AWS around them in one process on loopback.
//!
//! | on AWS | here |
//! | --- | --- |
//! | API Gateway (HTTP API) | [`http`], over [`server`] |
//! | DynamoDB and SQS | [`aws`]: Kinto's table and queues, over the crate `local_aws` |
//! | the stream's event source mapping | [`stream`] |
//! | Megaphone, which is not AWS | [`megaphone`] |
//!
//! [`Stack`] starts all of it around the functions of `kinto-serverless`; [`options`] configures it, [`watch`] shows
//! its progress. A test that needs no HTTP uses [`LocalAws`] alone: its clients connect the functions' own code, and it
//! counts their requests and injects faults.

pub mod admin;
pub mod aws;
pub mod http;
pub mod megaphone;
pub mod options;
pub mod rebuild;
pub mod sqs;
mod stack;
pub mod stream;
pub mod watch;

pub use aws::LocalAws;
pub use local_aws::{Fault, RequestCounter, connector, dynamodb, endpoint, queue, server};
pub use options::Options;
pub use stack::{Stack, StackError, TABLE};
