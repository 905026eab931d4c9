//! See the files below.

mod lists;
