//! Memberships: the groups of each principal, one item for each principal and bucket, written by the transactions that
//! write groups.
//!
//! A group's object lists its members; this is the inverse, so that a request reads its user's groups in the buckets
//! concerned together with everything else ([decision 8](../../../docs/decisions/008-groups.md)). Memberships carry the
//! generation of the bucket: once that is deleted they are void, whatever the table still holds.
//!
//! Before generations were marked (see [`Generation::unique`]) a principal had one item for all buckets. As long as
//! such a bucket exists, that item is read as well, and a member who leaves a group leaves it there too.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::types::{AttributeValue, Put, TransactWriteItem, Update};

use super::{Generation, Item, Key, Store, StoreError, malformed, string};
use crate::resource::{Kind, ObjectUri};

/// The sort key of the one item that a principal had for all buckets.
const OLD_KEY: &str = "#groups";

/// The greatest length of a principal in bytes: it must fit into a DynamoDB key.
pub const MAX_PRINCIPAL_LENGTH: usize = 1024;
/// The most bytes of ids of groups of one bucket that one principal may be in: each request in the bucket reads them, 1
/// RCU for 4 KB.
pub const MAX_IDS: usize = 16 * 1024;

/// A principal among the members of a bucket's groups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The principal.
    pub principal: String,
    /// The bucket.
    pub bucket: ObjectUri,
}

/// The groups of one bucket that a principal is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memberships {
    /// The generation of the bucket under which they hold; the root's if there are none.
    pub bucket: Generation,
    /// The groups' ids.
    pub groups: BTreeSet<String>,
}

/// The changes to a principal's memberships in one bucket in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembershipChanges {
    /// The bucket's generation.
    pub bucket: Generation,
    /// The ids of the groups that it joins.
    pub joins: BTreeSet<String>,
    /// The ids of the groups that it leaves.
    pub leaves: BTreeSet<String>,
    /// The earlier generation whose void memberships are still stored, and are replaced.
    pub replaces: Option<Generation>,
}

impl Key {
    /// The key of the item with a member's groups.
    pub fn memberships(member: &Member) -> Self {
        Self {
            pk: partition(&member.principal),
            sk: member.bucket.to_string(),
        }
    }

    /// The key of the item with `principal`'s groups in all buckets.
    pub fn old_memberships(principal: &str) -> Self {
        Self {
            pk: partition(principal),
            sk: OLD_KEY.to_owned(),
        }
    }
}

fn partition(principal: &str) -> String {
    format!("#principal#{principal}")
}

impl Memberships {
    /// Reads an item back: each group is an attribute.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] if it is not in the format that we write.
    pub fn from_item(item: &Item) -> Result<Self, StoreError> {
        if !item.contains_key("generation") {
            return Ok(Self::default());
        }
        let groups = item.keys().filter_map(|name| name.strip_prefix('/'));
        Ok(Self {
            bucket: Generation(string(item, "generation")?),
            groups: groups.map(str::to_owned).collect(),
        })
    }
}

/// Reads back the memberships in all buckets, each group with the generation of its bucket.
///
/// # Errors
/// [`StoreError::Malformed`] if they are not in the format in which they were written.
pub fn from_old_item(item: &Item) -> Result<Vec<(ObjectUri, Generation)>, StoreError> {
    let attributes = item.iter().filter(|(name, _)| name.starts_with('/'));
    let memberships = attributes.map(|(name, value)| {
        let group = ObjectUri::parse(name).filter(|uri| uri.kind() == Kind::Group);
        match (group, value) {
            (Some(group), AttributeValue::S(bucket)) => Ok((group, Generation(bucket.clone()))),
            _ => Err(malformed(item, "group")),
        }
    });
    memberships.collect()
}

impl Store {
    /// The memberships of a principal in at most `limit` buckets, the first by id, and those in the item for all
    /// buckets.
    ///
    /// One `Query` of one page.
    pub async fn memberships(
        &self,
        principal: &str,
        buckets: i32,
    ) -> Result<(Vec<(Member, Memberships)>, Vec<(ObjectUri, Generation)>), StoreError> {
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", AttributeValue::S(partition(principal)))
            .consistent_read(true)
            .limit(buckets);
        let page = query.send().await.map_err(StoreError::request("Query"))?;
        let (mut memberships, mut old) = (vec![], vec![]);
        for item in page.items() {
            match ObjectUri::parse(&string(item, "sk")?) {
                Some(bucket) => {
                    let principal = principal.to_owned();
                    let member = Member { principal, bucket };
                    memberships.push((member, Memberships::from_item(item)?));
                }
                None => old = from_old_item(item)?,
            }
        }
        Ok((memberships, old))
    }

    /// The write that changes a member's groups.
    pub(super) fn write_memberships(
        &self,
        member: &Member,
        changes: MembershipChanges,
    ) -> Result<TransactWriteItem, BuildError> {
        let key = Key::memberships(member).into_item();
        let generation = AttributeValue::S(changes.bucket.0);
        let name = |group: &String| format!("/{group}");
        let is_in = AttributeValue::Bool(true);
        if let Some(replaced) = changes.replaces {
            let mut item = key;
            item.insert("generation".to_owned(), generation);
            let groups = changes.joins.iter().map(name);
            item.extend(groups.map(|group| (group, is_in.clone())));
            let put = Put::builder()
                .table_name(&self.table)
                .set_item(Some(item))
                .condition_expression("generation = :generation")
                .expression_attribute_values(":generation", AttributeValue::S(replaced.0));
            return Ok(TransactWriteItem::builder().put(put.build()?).build());
        }
        let mut update = Update::builder().table_name(&self.table).set_key(Some(key));
        let (mut sets, mut removes) = (vec![], vec![]);
        for (n, group) in changes.joins.iter().enumerate() {
            sets.push(format!("#j{n} = :in"));
            update = update.expression_attribute_names(format!("#j{n}"), name(group));
        }
        for (n, group) in changes.leaves.iter().enumerate() {
            removes.push(format!("#l{n}"));
            update = update.expression_attribute_names(format!("#l{n}"), name(group));
        }
        let mut expression = String::new();
        if !sets.is_empty() {
            expression = format!("SET generation = :generation, {} ", sets.join(", "));
            update = update
                .condition_expression(
                    "attribute_not_exists(generation) OR generation = :generation",
                )
                .expression_attribute_values(":generation", generation)
                .expression_attribute_values(":in", is_in);
        }
        if !removes.is_empty() {
            expression += &format!("REMOVE {}", removes.join(", "));
        }
        let update = update.update_expression(expression.trim_end());
        Ok(TransactWriteItem::builder().update(update.build()?).build())
    }

    /// The write that removes groups from the item that a principal had for all buckets.
    pub(super) fn leave_old_groups(
        &self,
        principal: &str,
        groups: Vec<ObjectUri>,
    ) -> Result<TransactWriteItem, BuildError> {
        let mut update = Update::builder()
            .table_name(&self.table)
            .set_key(Some(Key::old_memberships(principal).into_item()));
        let mut removes = vec![];
        for (n, group) in groups.iter().enumerate() {
            removes.push(format!("#l{n}"));
            update = update.expression_attribute_names(format!("#l{n}"), group.to_string());
        }
        let update = update.update_expression(format!("REMOVE {}", removes.join(", ")));
        Ok(TransactWriteItem::builder().update(update.build()?).build())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_are_read_back_from_the_items_attributes() {
        let member = Member {
            principal: "alice".to_owned(),
            bucket: ObjectUri::bucket("a"),
        };
        let mut item = Key::memberships(&member).into_item();
        assert_eq!(
            Memberships::from_item(&item).unwrap(),
            Memberships::default()
        );
        item.insert(
            "generation".to_owned(),
            AttributeValue::S("life".to_owned()),
        );
        item.insert("/g".to_owned(), AttributeValue::Bool(true));
        let read = Memberships::from_item(&item).unwrap();
        assert_eq!(read.bucket, Generation("life".to_owned()));
        assert_eq!(read.groups, ["g".to_owned()].into());
    }

    #[test]
    fn old_memberships_are_of_all_buckets() {
        let mut item = Key::old_memberships("alice").into_item();
        item.insert(
            "/buckets/a/groups/g".to_owned(),
            AttributeValue::S("life".to_owned()),
        );
        let read = from_old_item(&item).unwrap();
        let expected = (ObjectUri::group("a", "g"), Generation("life".to_owned()));
        assert_eq!(read, [expected]);
    }
}
