//! See the files below.

mod disclosure;
mod endpoint;
mod groups;
