//! The program's tests; one binary, since each would link the SDK again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

mod chain;
mod http;
mod moving;
mod unfit;
