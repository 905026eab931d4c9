//! The JSON of the requests that the table in memory answers.
//!
//! An unknown member is refused, so that none is overlooked; options on how to read or write have no effect here, and neither consumed
//! capacity nor the size of a partition is told.

use std::collections::HashMap;

use serde::Deserialize;
use serde_dynamo::Item;

/// A `GetItem`, or one of a transaction.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Get {
    pub table_name: String,
    pub key: Item,
    #[serde(rename = "ConsistentRead")]
    _consistent_read: Option<bool>,
    #[serde(rename = "ReturnConsumedCapacity")]
    _return_consumed_capacity: Option<String>,
}

/// A `BatchGetItem`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct BatchGet {
    pub request_items: HashMap<String, Keys>,
    #[serde(rename = "ReturnConsumedCapacity")]
    _return_consumed_capacity: Option<String>,
}

/// The keys that a `BatchGetItem` reads from one table.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Keys {
    pub keys: Vec<Item>,
    #[serde(rename = "ConsistentRead")]
    _consistent_read: Option<bool>,
}

/// A `TransactGetItems`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct TransactGet {
    pub transact_items: Vec<TransactGetItem>,
    #[serde(rename = "ReturnConsumedCapacity")]
    _return_consumed_capacity: Option<String>,
}

/// One of a `TransactGetItems`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct TransactGetItem {
    pub get: Get,
}

/// A `Query`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Query {
    pub table_name: String,
    pub index_name: Option<String>,
    pub key_condition_expression: String,
    pub filter_expression: Option<String>,
    pub projection_expression: Option<String>,
    pub select: Option<Select>,
    #[serde(default)]
    pub expression_attribute_names: HashMap<String, String>,
    #[serde(default)]
    pub expression_attribute_values: Item,
    pub exclusive_start_key: Option<Item>,
    pub scan_index_forward: Option<bool>,
    pub limit: Option<usize>,
    #[serde(rename = "ConsistentRead")]
    _consistent_read: Option<bool>,
    #[serde(rename = "ReturnConsumedCapacity")]
    _return_consumed_capacity: Option<String>,
}

/// What a `Query` returns instead of items.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Select {
    Count,
}

/// A `PutItem`, or one of a transaction.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Put {
    pub table_name: String,
    pub item: Item,
    pub condition_expression: Option<String>,
    #[serde(default)]
    pub expression_attribute_names: HashMap<String, String>,
    #[serde(default)]
    pub expression_attribute_values: Item,
    #[serde(default)]
    pub return_values_on_condition_check_failure: OnFailure,
    #[serde(rename = "ReturnConsumedCapacity")]
    _return_consumed_capacity: Option<String>,
}

/// A `BatchWriteItem` that deletes nothing.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct BatchWrite {
    pub request_items: HashMap<String, Vec<BatchWriteItem>>,
    #[serde(rename = "ReturnConsumedCapacity")]
    _return_consumed_capacity: Option<String>,
}

/// One write of a `BatchWriteItem`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct BatchWriteItem {
    pub put_request: PutRequest,
}

/// The item that a `BatchWriteItem` puts.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct PutRequest {
    pub item: Item,
}

/// An `UpdateItem`, or one of a transaction.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Update {
    pub table_name: String,
    pub key: Item,
    pub update_expression: String,
    pub condition_expression: Option<String>,
    #[serde(default)]
    pub expression_attribute_names: HashMap<String, String>,
    #[serde(default)]
    pub expression_attribute_values: Item,
    #[serde(default)]
    pub return_values: OnSuccess,
    #[serde(default)]
    pub return_values_on_condition_check_failure: OnFailure,
    #[serde(rename = "ReturnConsumedCapacity")]
    _return_consumed_capacity: Option<String>,
}

/// A `TransactWriteItems`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct TransactWrite {
    pub transact_items: Vec<TransactWriteItem>,
    #[serde(rename = "ClientRequestToken")]
    _client_request_token: Option<String>,
    #[serde(rename = "ReturnItemCollectionMetrics")]
    _return_item_collection_metrics: Option<String>,
    #[serde(rename = "ReturnConsumedCapacity")]
    _return_consumed_capacity: Option<String>,
}

/// One of a `TransactWriteItems`.
#[derive(Deserialize)]
pub enum TransactWriteItem {
    Put(Put),
    Update(Update),
}

/// What a successful update returns.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OnSuccess {
    #[default]
    None,
    AllNew,
}

/// What a write whose condition fails returns.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OnFailure {
    #[default]
    None,
    AllOld,
}

impl TransactWriteItem {
    pub fn key(&self) -> &Item {
        match self {
            Self::Put(put) => &put.item,
            Self::Update(update) => &update.key,
        }
    }
}
