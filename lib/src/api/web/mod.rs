//! HTTP: requests, responses, errors, and the headers that every answer has.

pub mod accept;
pub mod cache_control;
pub mod compression;
pub mod cors;
pub mod end_of_service;
pub mod error;
pub mod gateway;
pub mod media_type;
pub mod origin;
pub mod preconditions;
pub mod request;
pub mod response;
