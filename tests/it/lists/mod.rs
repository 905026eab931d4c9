//! See the files below.

mod reading;
