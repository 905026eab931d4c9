//! The endpoints of the server itself: what it is, and who its users are.

pub mod hello;
pub mod openapi;
pub mod operation;
pub mod user_data;
