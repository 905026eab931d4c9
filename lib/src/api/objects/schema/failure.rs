//! The reasons why data do not match a schema.

/// The reason why a value does not match a schema, or cannot be matched with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The value does not match.
    Mismatch {
        /// The last part of the location of what is wrong; at the top, the missing field or the keyword.
        field: String,
        /// The description of what is wrong.
        problem: String,
    },
    /// The schema refers to something that does not exist, has no end, or takes too long.
    Unusable(String),
}
