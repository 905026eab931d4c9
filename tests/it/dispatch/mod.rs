//! See the files below.

mod batch;
mod concurrency;
