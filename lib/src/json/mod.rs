//! JSON: how values compare, and what a text or value takes, told without building the other.

pub mod field;
pub mod length;
pub mod values;
pub mod weight;
