//! Who may do what, and who learns of what.

mod disclosure;
mod endpoint;
mod grants;
mod groups;
mod large_groups;
