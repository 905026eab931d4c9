//! Kinto's plugins: each is off unless `KINTO_INCLUDES` names it.

pub mod accounts;
pub mod admin;
pub mod default_bucket;
pub mod flush;
pub mod openid;
pub mod permissions_endpoint;
