//! Which groups a principal is in: one item for each principal, kept by the transactions that write groups.
//!
//! A group's own object lists its members; this is the same the other way round, so that a request reads the
//! groups of its user together with everything else. A membership carries the generation of the group's bucket:
//! when that bucket is deleted, its memberships hold no more, whatever the table still has.

use aws_sdk_dynamodb::types::AttributeValue;

use super::{Generation, Item, Key, StoreError, malformed};
use crate::resource::{Kind, ObjectUri};

/// The sort key of a principal's item.
const KEY: &str = "#groups";

/// A principal's length in bytes at most: a key of DynamoDB must hold it.
pub const MAX_PRINCIPAL_LENGTH: usize = 1024;

/// That a principal is in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The group.
    pub group: ObjectUri,
    /// The generation of its bucket under which it holds.
    pub bucket: Generation,
}

/// What becomes of a principal's memberships in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembershipChanges {
    /// Those that it gets.
    pub joins: Vec<Membership>,
    /// The groups that it leaves.
    pub leaves: Vec<ObjectUri>,
}

impl Key {
    /// The key of the item that tells `principal`'s groups.
    pub fn groups(principal: &str) -> Self {
        Self {
            pk: format!("#principal#{principal}"),
            sk: KEY.to_owned(),
        }
    }
}

impl Membership {
    /// Reads the memberships back from a principal's item: each group is an attribute.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] when it is not as we write it.
    pub fn from_item(item: &Item) -> Result<Vec<Self>, StoreError> {
        let attributes = item.iter().filter(|(name, _)| name.starts_with('/'));
        let memberships = attributes.map(|(name, value)| {
            let group = ObjectUri::parse(name).filter(|uri| uri.kind() == Kind::Group);
            match (group, value) {
                (Some(group), AttributeValue::S(bucket)) => Ok(Self {
                    group,
                    bucket: Generation(bucket.clone()),
                }),
                _ => Err(malformed(item, "group")),
            }
        });
        memberships.collect()
    }
}

impl MembershipChanges {
    /// The update expression, with its names and values.
    pub(super) fn expression(self) -> (String, Vec<(String, String)>, Option<Item>) {
        let (mut sets, mut removes, mut names) = (vec![], vec![], vec![]);
        let mut values = Item::new();
        for (n, Membership { group, bucket }) in self.joins.into_iter().enumerate() {
            sets.push(format!("#j{n} = :j{n}"));
            names.push((format!("#j{n}"), group.to_string()));
            values.insert(format!(":j{n}"), AttributeValue::S(bucket.0));
        }
        for (n, group) in self.leaves.into_iter().enumerate() {
            removes.push(format!("#l{n}"));
            names.push((format!("#l{n}"), group.to_string()));
        }
        let clause = |word: &str, parts: Vec<String>| match parts.is_empty() {
            true => String::new(),
            false => format!("{word} {} ", parts.join(", ")),
        };
        let expression = clause("SET", sets) + &clause("REMOVE", removes);
        (
            expression.trim_end().to_owned(),
            names,
            (!values.is_empty()).then_some(values),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining_and_leaving_are_one_update() {
        let changes = MembershipChanges {
            joins: vec![Membership {
                group: ObjectUri::group("a", "new"),
                bucket: Generation("g".to_owned()),
            }],
            leaves: vec![ObjectUri::group("a", "old")],
        };
        let (expression, names, values) = changes.expression();
        assert_eq!(expression, "SET #j0 = :j0 REMOVE #l0");
        assert_eq!(names[0].1, "/buckets/a/groups/new");
        assert_eq!(names[1].1, "/buckets/a/groups/old");
        assert_eq!(values.map(|values| values.len()), Some(1));
    }

    #[test]
    fn memberships_are_read_back_from_the_items_attributes() {
        let mut item = Key::groups("alice").into_item();
        item.insert(
            "/buckets/a/groups/g".to_owned(),
            AttributeValue::S("life".to_owned()),
        );
        let read = Membership::from_item(&item).unwrap();
        let expected = Membership {
            group: ObjectUri::group("a", "g"),
            bucket: Generation("life".to_owned()),
        };
        assert_eq!(read, [expected]);
    }
}
