//! Why data do not match a schema.

/// Why a value does not match a schema, or cannot be matched with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It does not match.
    Mismatch {
        /// The field: the last part of where the value is wrong; at the top what is missing, or the keyword.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// The schema refers to something that is not there, has no end, or takes too long.
    Unusable(String),
}
