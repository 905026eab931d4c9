//! The definition of a table, as far as the table in memory supports it.

/// A table whose keys are strings, with one local secondary index by a number, a stream with both images of an item, and
/// an expiry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDefinition {
    /// Its name.
    pub name: String,
    /// The attribute that is its partition key.
    pub partition_key: &'static str,
    /// The attribute that is its sort key.
    pub sort_key: &'static str,
    /// The name of the index; it holds all attributes of the items that have [`Self::index_key`].
    pub index: &'static str,
    /// The number by which the index sorts.
    pub index_key: &'static str,
    /// The attribute with an item's expiry time, in seconds.
    pub expiry: &'static str,
}

#[cfg(test)]
impl TableDefinition {
    /// A table for the tests of this crate.
    pub fn for_tests() -> Self {
        Self {
            name: "kinto".to_owned(),
            partition_key: "pk",
            sort_key: "sk",
            index: "by_last_modified",
            index_key: "last_modified",
            expiry: "expires",
        }
    }
}
