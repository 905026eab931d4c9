//! Which user a request is from, and what this user may do.

pub mod authorization;
pub mod credentials;
pub mod passwords;
