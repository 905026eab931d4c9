//! See the files below.

mod changeset;
