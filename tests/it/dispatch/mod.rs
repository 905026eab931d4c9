//! From a request to its answer: batches, attempts, and what runs at once.

mod batch;
mod concurrency;
