//! What changed: monitor/changes, changesets, broadcasts.

pub mod broadcasts;
pub mod changeset;
pub mod changeset_cache;
pub mod monitor;
