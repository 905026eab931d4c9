//! The endpoints of the server itself: its description, and the deletion of its users.

pub mod hello;
pub mod openapi;
pub mod operation;
pub mod user_data;
