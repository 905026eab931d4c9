//! The local stack: Kinto's functions and the AWS around them in one process on loopback.
//!
//! | on AWS | here |
//! | --- | --- |
//! | API Gateway (HTTP API) | [`http`], over [`server`] |
//! | DynamoDB and SQS | [`aws`]: Kinto's table and queues, over the crate `local_aws` |
//! | the stream's event source mapping | [`stream`] |
//! | Megaphone, which is not AWS | [`megaphone`] |
//!
//! [`Stack`] starts all of it around the functions of `kinto-serverless`; [`options`] says where, [`watch`] shows what happens. A test that needs
//! no HTTP takes [`LocalAws`] alone: its clients speak to the functions' own code, it counts their requests and
//! answers them with faults.

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
