//! See the files below.

mod schemas;
mod writes;
