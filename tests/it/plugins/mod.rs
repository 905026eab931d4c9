//! Kinto's plugins, switched on by `includes`.

mod accounts;
mod admin;
mod default_bucket;
mod flush;
mod history;
mod openid;
