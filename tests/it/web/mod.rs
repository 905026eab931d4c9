//! See the files below.

mod any_request;
mod cache_control;
