//! The local stack and the table in memory that it runs on.

mod dynamodb;
mod pages;
mod stack;
