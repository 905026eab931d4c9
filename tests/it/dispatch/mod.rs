//! From a request to its response: batches, retries, and concurrency.

mod batch;
mod concurrency;
