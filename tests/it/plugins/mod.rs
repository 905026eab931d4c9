//! See the files below.

mod default_bucket;
mod openid;
