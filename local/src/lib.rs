//! The local stack: Kinto's functions and the AWS around them in one process on loopback.
//!
//! | on AWS | here |
//! | --- | --- |
//! | API Gateway (HTTP API) | [`http`], over [`server`] |
//! | DynamoDB | [`dynamodb`], in memory or a file |
//! | the stream's event source mapping | [`stream`] |
//! | SQS and its event source mapping | [`sqs`] for who sends, [`queue`] for who receives |
//! | the SDK's way to them | [`connector`] in this process, [`endpoint`] for other processes, both into [`aws`] |
//! | Megaphone, which is not AWS | [`megaphone`] |
//!
//! [`Stack`] starts all of it around the functions of `kinto-serverless`; [`options`] says where, [`watch`] shows what happens. A test that needs
//! no HTTP takes [`LocalAws`] alone: its clients speak to the functions' own code, it counts their requests and
//! answers them with faults.

pub mod admin;
pub mod aws;
pub mod connector;
pub mod dynamodb;
pub mod endpoint;
pub mod http;
pub mod megaphone;
pub mod options;
pub mod queue;
pub mod rebuild;
mod request_line;
pub mod server;
pub mod sqs;
mod stack;
pub mod stream;
pub mod watch;

pub use aws::{Fault, LocalAws, RequestCounter};
pub use options::Options;
pub use stack::{Stack, StackError, TABLE};
