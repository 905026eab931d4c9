//! Changes: monitor/changes, changesets, broadcasts.

pub mod broadcasts;
pub mod changeset;
pub mod changeset_cache;
pub mod monitor;
pub mod monitor_cache;
pub mod monitor_entry;
