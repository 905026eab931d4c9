//! The parts of a transaction: the writes, and their conditions.

use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::types::{AttributeValue, Put, TransactWriteItem, Update};

use super::error::StoreError;
use super::generation::Generation;
use super::item::{Item, Key, number};
use super::membership::{Member, MembershipChanges};
use super::object::{List, Object, Version};
use super::publication::PublicationWrite;
use super::recent::{self, TransactionWrites};
use super::shares::{Shares, SharesChange};
use super::{Store, history, outbox};
use crate::resource::{ListUri, ObjectUri};
use crate::timestamp::Timestamp;

/// One part of a transaction.
#[derive(Clone, Debug)]
pub enum Write {
    /// Replaces the object at `uri`, which must still be as it was read.
    Object {
        /// The object's URI.
        uri: ObjectUri,
        /// The object to write.
        object: Object,
        /// The version that was read; `None` if there was none.
        replaces: Option<Version>,
    },
    /// Changes the list item at `uri`, under a condition.
    List {
        /// The list's URI.
        uri: ListUri,
        /// Its new state, apart from backdated writes and its shares; `None` if it does not change.
        list: Option<List>,
        /// Whether the transaction has backdated writes, which are counted whatever others write meanwhile.
        is_backdated: bool,
        /// The change to its shares.
        shares: SharesChange,
        /// The condition on the list.
        condition: ListCondition,
        /// The name of the transaction's entry of the outbox, if this list is its [`outbox::head`].
        entry: Option<String>,
        /// The transaction's writes to the list.
        wrote: TransactionWrites,
        /// Whether the list starts anew: earlier writes to it no longer count.
        replaced: bool,
        /// What becomes of what it shows of publications.
        publication: PublicationChange,
        /// What becomes of it as the source of publications, and what must hold of that.
        source: Box<SourceChange>,
    },
    /// Names the transaction's entry of the outbox in the item of its [`outbox::head`], to which it writes nothing
    /// else.
    Head {
        /// The list that is the head.
        uri: ListUri,
        /// The entry's name.
        entry: String,
    },
    /// Changes the groups of a principal in a bucket.
    Memberships {
        /// The principal and the bucket.
        member: Member,
        /// The changes.
        changes: MembershipChanges,
    },
    /// Removes groups from the item that a principal had for all buckets.
    OldMemberships {
        /// The principal.
        principal: String,
        /// The groups.
        leaves: Vec<ObjectUri>,
    },
    /// Notes that objects of a list are shared with a principal.
    Share(Key),
    /// Puts a part of an entry into the outbox.
    Outbox(outbox::Part),
    /// Puts an entry into the history of a bucket.
    History(history::Entry),
    /// Puts what remains of an entry that is deleted in its place, whether it is still there or not.
    Forget(history::Removal),
    /// Puts the tombstone of such an entry.
    Forgotten(history::Removal),
}

/// What becomes of what a list shows of publications.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PublicationChange {
    /// Nothing.
    #[default]
    Keep,
    /// It shows none any more.
    Forget,
    /// It shows this one.
    Publish(Box<PublicationWrite>),
}

/// What becomes of a list as the source of publications, and what must hold of that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceChange {
    /// Who must be its editor still.
    pub edited_by: Option<String>,
    /// How many transactions must have written to it with backdated times, no more, where a command rests on all that it holds.
    pub backdated_writes: Option<u64>,
    /// Who becomes its editor; `Some(None)` for nobody.
    pub editor: Option<Option<String>>,
    /// What of it is under review from now on, where that changes.
    pub reviewed: Option<Option<String>>,
}

/// A condition on a list when a transaction commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListCondition {
    /// The list has no item yet.
    Absent,
    /// Its timestamp is the one that was read: nothing was written to the list meanwhile, except backdated.
    Unchanged(Timestamp),
    /// It is open under the same parent, and every write so far came before this time.
    OpenBefore(Generation, Timestamp),
    /// It is open under the same parent.
    Open(Generation),
}

impl Store {
    /// A part of a transaction as DynamoDB takes it.
    pub(super) fn transact_item(&self, write: Write) -> Result<TransactWriteItem, StoreError> {
        let built = match write {
            Write::Object {
                uri,
                object,
                replaces,
            } => {
                let put = Put::builder()
                    .table_name(&self.table)
                    .set_item(Some(object.into_item(Key::object(&uri))));
                match replaces {
                    None => put.condition_expression("attribute_not_exists(pk)"),
                    Some(read) => put
                        .condition_expression(
                            "generation = :generation AND last_modified = :last_modified",
                        )
                        .expression_attribute_values(
                            ":generation",
                            AttributeValue::S(read.generation.0),
                        )
                        .expression_attribute_values(":last_modified", number(read.last_modified)),
                }
                .build()
                .map(|put| TransactWriteItem::builder().put(put).build())
            }
            Write::List {
                uri,
                list,
                is_backdated,
                shares,
                condition,
                entry,
                wrote,
                replaced,
                publication,
                source,
            } => {
                let mut update = ListUpdate::default();
                update.move_to(&uri, list.as_ref(), is_backdated);
                let is_known = matches!(shares, SharesChange::Add(_));
                update.share_with(shares);
                update.name_entry(entry);
                let is_new = replaced || condition == ListCondition::Absent;
                // Who shows a layer has seen all that was written before: what that deletes is not looked for.
                let is_new = is_new
                    || matches!(&publication, PublicationChange::Publish(show) if show.layer.is_some());
                update.publish(publication, replaced);
                if list.is_some() || is_backdated {
                    let reached = list.map(|list| list.timestamp);
                    update.name_writes(wrote, reached, is_new);
                }
                let mut conditions = vec![];
                if is_known {
                    conditions.push("shared_at = #timestamp".to_owned());
                }
                conditions.extend(update.source(*source));
                let update = self.update_list(&uri, update, condition, conditions);
                update.map(|update| TransactWriteItem::builder().update(update).build())
            }
            Write::Head { uri, entry } => {
                let update = self.update_head(&uri, entry);
                update.map(|update| TransactWriteItem::builder().update(update).build())
            }
            Write::Memberships { member, changes } => self.write_memberships(&member, changes),
            Write::OldMemberships { principal, leaves } => {
                self.leave_old_groups(&principal, leaves)
            }
            Write::Share(key) => self.put(key.into_item()),
            Write::Outbox(part) => self.put(part.into_item()),
            Write::History(entry) => self.put(entry.into_item()),
            Write::Forget(removal) => self.put(removal.into_entry()),
            Write::Forgotten(removal) => self.put(removal.into_tombstone()),
        };
        built.map_err(|e| StoreError::Request {
            operation: "TransactWriteItems",
            source: e.into(),
        })
    }

    fn put(&self, item: Item) -> Result<TransactWriteItem, BuildError> {
        let put = Put::builder().table_name(&self.table).set_item(Some(item));
        Ok(TransactWriteItem::builder().put(put.build()?).build())
    }

    fn update_list(
        &self,
        uri: &ListUri,
        update: ListUpdate,
        condition: ListCondition,
        more: Vec<String>,
    ) -> Result<Update, BuildError> {
        let (mut condition, mut values) = condition.expression();
        for more in more {
            condition = format!("{condition} AND {more}");
        }
        let expression = update.expression();
        values.extend(update.values);
        // `timestamp` is a reserved word of DynamoDB, which also rejects a name that no expression uses.
        let is_named = [&condition, &expression]
            .iter()
            .any(|text| text.contains("#timestamp"));
        let name = ("#timestamp".to_owned(), "timestamp".to_owned());
        Update::builder()
            .table_name(&self.table)
            .set_key(Some(Key::list(uri).into_item()))
            .update_expression(expression)
            .condition_expression(condition)
            .set_expression_attribute_names(is_named.then(|| [name].into()))
            .set_expression_attribute_values(Some(values))
            .build()
    }

    /// The list of buckets may have no item yet; then this creates one as for a list without writes.
    fn update_head(&self, uri: &ListUri, entry: String) -> Result<Update, BuildError> {
        let expression = "SET entry = :entry, #timestamp = if_not_exists(#timestamp, :never), \
            generation = if_not_exists(generation, :root), kind = if_not_exists(kind, :kind)";
        let kind = AttributeValue::S(uri.kind().name().to_owned());
        Update::builder()
            .table_name(&self.table)
            .set_key(Some(Key::list(uri).into_item()))
            .update_expression(expression)
            .expression_attribute_names("#timestamp", "timestamp")
            .expression_attribute_values(":entry", AttributeValue::S(entry))
            .expression_attribute_values(":never", number(Timestamp(0)))
            .expression_attribute_values(":root", AttributeValue::S(Generation::ROOT.0))
            .expression_attribute_values(":kind", kind)
            .build()
    }
}

/// The update of a list's item.
#[derive(Default)]
struct ListUpdate {
    set: Vec<&'static str>,
    remove: Vec<&'static str>,
    add: Vec<&'static str>,
    values: Item,
}

/// The signatures that a list shows.
pub(super) const FORGET_SIGNATURES: &str = "signatures, signed_until";
/// How far an earlier layer of the list is settled.
const FORGET_PLACED: &str = "layer_placed_to, layer_placed";
const FORGET_LAYER: &str = "layer, layer_size, layer_placed_to, layer_placed";
const FORGET_PUBLICATION: &str =
    "signatures, signed_until, layer, layer_size, layer_placed_to, layer_placed";

impl ListUpdate {
    fn value(&mut self, name: &str, value: AttributeValue) {
        self.values.insert(name.to_owned(), value);
    }

    /// Sets the list's new state; counts a backdated write if it `is_backdated`.
    fn move_to(&mut self, uri: &ListUri, list: Option<&List>, is_backdated: bool) {
        if let Some(list) = list {
            // Not called `last_modified`, so that the index leaves it out. The stream's filter recognises lists of
            // records by their kind.
            self.set
                .push("#timestamp = :reached, shared_at = :reached, generation = :generation, kind = :kind");
            self.value(":reached", number(list.timestamp));
            self.value(":generation", AttributeValue::S(list.generation.0.clone()));
            self.value(":kind", AttributeValue::S(uri.kind().name().to_owned()));
            if list.closed {
                self.set.push("closed = :closed");
                self.value(":closed", AttributeValue::Bool(true));
            } else {
                self.remove.push("closed");
            }
        }
        if is_backdated {
            self.add.push("past :one");
            self.value(":one", AttributeValue::N("1".to_owned()));
        }
    }

    /// Names the principals that objects of the list are shared with.
    fn share_with(&mut self, change: SharesChange) {
        let (names, is_new) = match change {
            SharesChange::Set(shares) => (shares, true),
            SharesChange::Add(added) => (Shares::from(added), false),
            SharesChange::Forget => (Shares::default(), true),
        };
        match names.into_attribute() {
            Some(names) => {
                self.value(":shared", names);
                match is_new {
                    true => self.set.push("shared_with = :shared"),
                    false => self.add.push("shared_with :shared"),
                }
            }
            None if is_new => self.remove.push("shared_with"),
            None => {}
        }
    }

    /// Names the outbox's entry. Without one, the attribute is removed, so that the stream's filter for the notifier
    /// lets nothing through.
    fn name_entry(&mut self, entry: Option<String>) {
        match entry {
            Some(entry) => {
                self.set.push("entry = :entry");
                self.value(":entry", AttributeValue::S(entry));
            }
            None => self.remove.push(outbox::ENTRY),
        }
    }

    /// Shows a publication, or none. Where the list is as new, an earlier layer is of no account.
    fn publish(&mut self, change: PublicationChange, is_new: bool) {
        match change {
            PublicationChange::Keep => {}
            PublicationChange::Forget => self.remove.push(FORGET_PUBLICATION),
            PublicationChange::Publish(show) => {
                let PublicationWrite {
                    signatures,
                    until,
                    layer,
                } = *show;
                if let Some(signatures) = signatures {
                    self.set.push("signatures = :signatures");
                    self.value(":signatures", AttributeValue::S(signatures));
                }
                match until {
                    Some(until) => {
                        self.set.push("signed_until = :signed_until");
                        self.value(":signed_until", AttributeValue::N(until.0.to_string()));
                    }
                    None => self.remove.push("signed_until"),
                }
                match layer {
                    Some(layer) => {
                        self.set.push("layer = :layer, layer_size = :layer_size");
                        self.remove.push(FORGET_PLACED);
                        let size = AttributeValue::N(layer.size.to_string());
                        self.value(":layer_size", size);
                        self.value(":layer", AttributeValue::S(layer.name));
                    }
                    None if is_new => self.remove.push(FORGET_LAYER),
                    None => {}
                }
            }
        }
    }

    /// What becomes of the list as a source; gives the conditions.
    fn source(&mut self, change: SourceChange) -> Vec<String> {
        let mut conditions = vec![];
        if let Some(editor) = change.edited_by {
            conditions.push("editor = :edited_by".to_owned());
            self.value(":edited_by", AttributeValue::S(editor));
        }
        match change.backdated_writes {
            None => {}
            Some(0) => conditions.push("attribute_not_exists(past)".to_owned()),
            Some(count) => {
                conditions.push("past = :past".to_owned());
                self.value(":past", AttributeValue::N(count.to_string()));
            }
        }
        let mut put = |value: Option<Option<String>>, name, set, key| match value {
            None => {}
            Some(None) => self.remove.push(name),
            Some(Some(text)) => {
                self.set.push(set);
                self.values
                    .insert(String::from(key), AttributeValue::S(text));
            }
        };
        put(change.editor, "editor", "editor = :editor", ":editor");
        put(
            change.reviewed,
            "reviewed",
            "reviewed = :reviewed",
            ":reviewed",
        );
        conditions
    }

    /// Names the writes to the list ([`recent`]). DynamoDB evaluates all operands on the item as it was before the
    /// update.
    fn name_writes(&mut self, wrote: TransactionWrites, reached: Option<Timestamp>, is_new: bool) {
        self.value(":wrote", wrote.into_value(reached));
        if is_new {
            self.set.push("wrote = :wrote");
            self.remove.push(recent::REMOVE_EARLIER);
        } else {
            self.set.push(recent::SHIFT);
        }
    }

    fn expression(&self) -> String {
        let clauses = [
            ("SET", &self.set),
            ("REMOVE", &self.remove),
            ("ADD", &self.add),
        ];
        let clauses = clauses
            .into_iter()
            .filter(|(_, changes)| !changes.is_empty());
        let clauses = clauses.map(|(keyword, changes)| format!("{keyword} {}", changes.join(", ")));
        clauses.collect::<Vec<_>>().join(" ")
    }
}

impl ListCondition {
    /// The condition expression with its values.
    fn expression(self) -> (String, Item) {
        let generation = |g: Generation| (":generation".to_owned(), AttributeValue::S(g.0));
        let timestamp = |t: Timestamp| (":timestamp".to_owned(), number(t));
        let (condition, values) = match self {
            Self::Absent => ("attribute_not_exists(pk)", Item::new()),
            Self::Unchanged(read) => ("#timestamp = :timestamp", [timestamp(read)].into()),
            Self::OpenBefore(g, t) => (
                "generation = :generation AND attribute_not_exists(closed) AND #timestamp < :timestamp",
                [generation(g), timestamp(t)].into(),
            ),
            Self::Open(g) => (
                "generation = :generation AND attribute_not_exists(closed)",
                [generation(g)].into(),
            ),
        };
        (condition.to_owned(), values)
    }
}
