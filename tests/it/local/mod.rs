//! See the files below.

mod dynamodb;
mod stack;
