//! Kinto's plugins: what they add when `includes` names them.

mod accounts;
mod admin;
mod default_bucket;
mod flush;
mod history;
mod openid;
