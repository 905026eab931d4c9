//! JSON: comparison of values, and the size of texts and values, computed without building the other.

pub mod field;
pub mod length;
pub mod values;
pub mod weight;
