//! See the files below.

mod pipeline;
