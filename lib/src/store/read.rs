//! Reading items by their keys, and queries page by page.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::{Get, KeysAndAttributes, TransactGetItem};
use tokio::time::Instant;

use super::error::StoreError;
use super::item::{Item, Key, key_of};
use super::retries::RETRY_TIME;
use super::{MAX_TRANSACTION_ITEMS, Store};
use crate::backoff::Backoff;
use crate::resource::ListUri;

/// The most keys in one `BatchGetItem` (DynamoDB).
const MAX_BATCH_GET_KEYS: usize = 100;
/// The longest pause before the first retry of keys that DynamoDB left unread; it doubles each time.
const FIRST_UNREAD_PAUSE: Duration = Duration::from_millis(10);
/// The limit of these pauses.
const MAX_UNREAD_PAUSE: Duration = Duration::from_millis(500);

impl Store {
    /// Opens the connection with the cheapest read there is, and fails if the table does not answer.
    ///
    /// One `GetItem`, 0.5 RCU.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let key = Key::list(&ListUri::buckets());
        self.client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key.into_item()))
            .send()
            .await
            .map_err(StoreError::request("GetItem"))?;
        Ok(())
    }

    /// Reads those of the items with these keys that exist, strongly consistent.
    ///
    /// One `BatchGetItem` for each 100 keys, 1 RCU for each item and 4 KB of it. This is no snapshot: a write that
    /// relies on it must repeat what it relied on as conditions of the transaction.
    pub async fn read(&self, keys: &[Key]) -> Result<HashMap<Key, Item>, StoreError> {
        if self.reads_snapshots && (1..=MAX_TRANSACTION_ITEMS).contains(&keys.len()) {
            return self.read_snapshot(keys).await;
        }
        let mut found = HashMap::with_capacity(keys.len());
        for chunk in keys.chunks(MAX_BATCH_GET_KEYS) {
            let mut wanted = chunk
                .iter()
                .cloned()
                .map(Key::into_item)
                .collect::<Vec<_>>();
            let deadline = Instant::now() + RETRY_TIME;
            let mut backoff = Backoff::new(FIRST_UNREAD_PAUSE, MAX_UNREAD_PAUSE);
            loop {
                let request = KeysAndAttributes::builder()
                    .set_keys(Some(wanted))
                    .consistent_read(true)
                    .build();
                let request = request.map_err(|e| StoreError::Request {
                    operation: "BatchGetItem",
                    source: e.into(),
                })?;
                let answer = self
                    .client
                    .batch_get_item()
                    .request_items(&self.table, request)
                    .send()
                    .await
                    .map_err(StoreError::request("BatchGetItem"))?;
                for item in answer
                    .responses
                    .into_iter()
                    .flatten()
                    .flat_map(|(_, items)| items)
                {
                    found.insert(key_of(&item)?, item);
                }
                wanted = answer
                    .unprocessed_keys
                    .into_iter()
                    .flatten()
                    .flat_map(|(_, left)| left.keys)
                    .collect();
                if wanted.is_empty() {
                    break;
                }
                // DynamoDB throttled some of the keys.
                if !backoff.wait_until(deadline).await {
                    return Err(StoreError::Unread(wanted.len()));
                }
            }
        }
        Ok(found)
    }

    /// One `TransactGetItems` of at most 100 keys, 2 RCU for each item and 4 KB of it.
    async fn read_snapshot(&self, keys: &[Key]) -> Result<HashMap<Key, Item>, StoreError> {
        let not_built = |error: BuildError| StoreError::Request {
            operation: "TransactGetItems",
            source: error.into(),
        };
        let gets = keys.iter().cloned().map(|key| {
            let get = Get::builder()
                .table_name(&self.table)
                .set_key(Some(key.into_item()))
                .build()?;
            Ok(TransactGetItem::builder().get(get).build())
        });
        let gets: Vec<_> = gets.collect::<Result<_, _>>().map_err(not_built)?;
        let request = self.client.transact_get_items();
        let answer = request.set_transact_items(Some(gets)).send().await;
        let answer = answer.map_err(StoreError::request("TransactGetItems"))?;
        let items = answer.responses.into_iter().flatten();
        items
            .filter_map(|response| response.item)
            .map(|item| Ok((key_of(&item)?, item)))
            .collect()
    }
}

/// The items of every page. One `Query` for each MB.
pub(super) async fn all_pages(query: QueryFluentBuilder) -> Result<Vec<Item>, StoreError> {
    let items = query.into_paginator().items().send();
    let items = items.try_collect().await;
    items.map_err(StoreError::request("Query"))
}
