//! JSON values: how they compare, and how much memory they take.

pub mod values;
pub mod weight;
