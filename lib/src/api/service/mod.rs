//! The endpoints that describe the server itself.

pub mod hello;
pub mod openapi;
