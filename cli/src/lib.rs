//! Moves a Kinto into a table, and out of it (docs/moving.md).
//!
//! [`source`] reads what is to be moved, from a database ([`tls`]), by [`http`], from [`yaml`] or from a [`table_export`], into a [`staging`] database, which finds what does not fit. [`sync`] compares that
//! with the table and makes the table equal to it, or tells what differs. [`export`] writes the table to a file, which may lie in [`s3`].
//! [`maintenance`] keeps the table: purges, restores, sweeps. [`options`] is the command line, [`run`] what it does.

pub mod export;
pub mod http;
pub mod maintenance;
pub mod options;
pub mod progress;
pub mod run;
pub mod s3;
pub mod source;
pub mod staging;
pub mod sync;
pub mod table_export;
pub mod tls;
pub mod yaml;
