//! Authentication and authorization: which user sends a request, and what this user may do.

pub mod account_id;
pub mod authorization;
pub mod credentials;
pub mod passwords;
pub mod principals;
