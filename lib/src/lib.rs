//! Kinto's records, changes feed and global broadcasts as serverless functions.
//!
//! The modules follow the way of a change:
//!
//! | module | what it is |
//! | --- | --- |
//! | [`api`] | the Kinto HTTP API v1: an API Gateway request in, its response out |
//! | [`unit_of_work`] | what one request has read and is about to write, committed in one transaction |
//! | [`store`] | the one DynamoDB table: objects, list timestamps, monitor entries, broadcast states |
//! | [`aggregator`] | stream batches in, monitor entries and broadcast requests out |
//! | [`queue`] | the SQS queue of broadcast requests |
//! | [`broadcaster`] | broadcast requests in, `PUT /v1/broadcasts/…` out |
//! | [`megaphone`] | the HTTP client of Megaphone |
//! | [`event`] | the events of writes, as listeners receive them |
//! | [`notifier`] | the outbox's entries in, notifications of listeners out |
//! | [`listeners`] | the receivers of events: queues, functions, webhooks, people, your own code |
//!
//! Beside that way are the vocabulary ([`resource`], [`permission`], [`timestamp`]), the configuration ([`settings`],
//! [`settings_file`], [`secrets`]), the start of a function ([`startup`], [`environment`]), its trial when the stack is deployed
//! ([`settings_check`]), its settings while it stays [`warm`], and small tools: signatures ([`hmac`]; of published
//! collections: [`signer`]), HTTP clients (`http_client`; of AWS: `signed_request`), pauses (`backoff`), metrics ([`metrics`]), patterns with `*`
//! (`wildcard`), errors with their causes ([`error_chain`]), the memory that JSON takes (`json`).
//!
//! Only [`api`] knows the requests of clients. Lambda's event types end in the first lines of [`api`], [`aggregator`],
//! [`broadcaster`], [`notifier`] and [`queue`].

pub mod aggregator;
pub mod api;
#[cfg(test)]
mod architecture;
pub mod backoff;
pub mod broadcaster;
pub mod environment;
pub mod error_chain;
pub mod event;
pub mod hmac;
pub mod http_client;
mod json;
pub mod listeners;
pub mod megaphone;
pub mod metrics;
pub mod notifier;
pub mod permission;
pub mod queue;
pub mod resource;
pub mod secrets;
pub mod settings;
pub mod settings_check;
pub mod settings_file;
mod signed_request;
pub mod signer;
pub mod startup;
pub mod store;
pub mod timestamp;
pub mod unit_of_work;
pub mod warm;

mod wildcard;
