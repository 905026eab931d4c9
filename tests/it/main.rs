//! The guarantees of the whole.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

mod broadcaster;
mod caches;
mod changes;
mod clients;
mod costs;
mod deployed;
mod dispatch;
mod listeners;
mod lists;
mod local;
mod monitor;
mod notifier;
mod objects;
mod observation;
mod permissions;
mod pipeline;
mod plugins;
mod secrets;
mod service;
mod signer;
mod sweeping;
mod web;
