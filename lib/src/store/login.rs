//! Logins in progress, each with its callback. The table's TTL removes them some time after they expire.

use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};

use uuid::Uuid;

use super::{Key, Store, StoreError, number, string};
use crate::timestamp::Timestamp;

/// The sort key of all of them.
const KEY: &str = "#login";

fn key(state: &str) -> Key {
    Key {
        pk: format!("#login#{state}"),
        sk: KEY.to_owned(),
    }
}

/// A time in whole seconds, the unit of DynamoDB's TTL.
fn seconds(time: Timestamp) -> AttributeValue {
    number(Timestamp(time.0 / 1000))
}

impl Store {
    /// Records that the login with `provider` under `state` leads back to `callback`, for `ttl` from `now` on. One
    /// `PutItem`, 1 WCU.
    pub async fn begin_login(
        &self,
        state: &str,
        provider: &str,
        callback: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let expires = now.0.saturating_add(ttl);
        let text = |value: &str| AttributeValue::S(value.to_owned());
        self.client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(key(state).into_item()))
            .item("provider", text(provider))
            .item("callback", text(callback))
            .item("expires", seconds(Timestamp(expires)))
            .send()
            .await
            .map_err(StoreError::request("PutItem"))?;
        Ok(())
    }

    /// Returns the callback of a login, once; `None` if there is no such login with that provider, or no longer. One
    /// `UpdateItem`, 1 WCU, which recognises itself when it is retried after a lost response.
    pub async fn redeem_login(
        &self,
        state: &str,
        provider: &str,
        now: Timestamp,
    ) -> Result<Option<String>, StoreError> {
        let update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(state).into_item()))
            .update_expression("SET ended = :by")
            .condition_expression(
                "provider = :provider AND expires > :now AND (attribute_not_exists(ended) OR ended = :by)",
            )
            .expression_attribute_values(":by", AttributeValue::S(Uuid::new_v4().to_string()))
            .expression_attribute_values(":provider", AttributeValue::S(provider.to_owned()))
            .expression_attribute_values(":now", seconds(now))
            .return_values(ReturnValue::AllNew);
        match update.send().await {
            Ok(answer) => {
                let item = answer.attributes.unwrap_or_default();
                string(&item, "callback").map(Some)
            }
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_conditional_check_failed_exception()) =>
            {
                Ok(None)
            }
            Err(error) => Err(StoreError::request("UpdateItem")(error)),
        }
    }
}
