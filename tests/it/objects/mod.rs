//! Buckets, groups, collections and records: reading and writing one of them.

mod input;
mod preconditions;
mod schemas;
mod writes;
