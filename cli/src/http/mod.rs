//! Another Kinto, reached by its API.
//!
//! [`client`] sends requests. [`mirror`] keeps what was read in a file, by which a later reading asks only for what
//! changed since. [`reading`] reads list by list into it, parents before what is under them, and [`history`] the histories
//! of buckets, of which [`readers`] says who may see which entry.
//! [`comparison`] reads two Kintos and tells what differs.

pub mod client;
pub mod comparison;
pub mod history;
pub mod mirror;
pub mod readers;
pub mod reading;
mod shallow;
