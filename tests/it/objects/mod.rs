//! Buckets, groups, collections and records: reading and writing a single one.

mod input;
mod preconditions;
mod schemas;
mod writes;
