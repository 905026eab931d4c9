//! Permissions, and what users must not learn without them.

mod disclosure;
mod endpoint;
mod grants;
mod groups;
mod large_groups;
