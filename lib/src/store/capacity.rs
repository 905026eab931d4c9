//! The capacity that requests to the table consume, as DynamoDB itself tells (`ReturnConsumedCapacity`, which costs
//! nothing).
//!
//! [`Store::metered`] asks for it with every request that is sent within [`consumed_by`], and for nothing elsewhere.
//! It leaves out the capacity of failed requests, which DynamoDB does not tell.

use std::cell::Cell;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::interceptors::{
    AfterDeserializationInterceptorContextRef, BeforeSerializationInterceptorContextMut,
};
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use aws_sdk_dynamodb::operation::batch_get_item::{BatchGetItemInput, BatchGetItemOutput};
use aws_sdk_dynamodb::operation::batch_write_item::{BatchWriteItemInput, BatchWriteItemOutput};
use aws_sdk_dynamodb::operation::get_item::{GetItemInput, GetItemOutput};
use aws_sdk_dynamodb::operation::put_item::{PutItemInput, PutItemOutput};
use aws_sdk_dynamodb::operation::query::{QueryInput, QueryOutput};
use aws_sdk_dynamodb::operation::transact_get_items::{
    TransactGetItemsInput, TransactGetItemsOutput,
};
use aws_sdk_dynamodb::operation::transact_write_items::{
    TransactWriteItemsInput, TransactWriteItemsOutput,
};
use aws_sdk_dynamodb::operation::update_item::{UpdateItemInput, UpdateItemOutput};
use aws_sdk_dynamodb::types::{ConsumedCapacity, ReturnConsumedCapacity};

use super::Store;

tokio::task_local! {
    static CONSUMED: Cell<Capacity>;
}

/// Consumed capacity, in DynamoDB's units.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Capacity {
    /// Read units.
    pub read: f64,
    /// Write units.
    pub write: f64,
}

/// Runs `work`, and tells what its requests to [`Store::metered`] consumed.
pub async fn consumed_by<F: Future>(work: F) -> (F::Output, Capacity) {
    let metered = async {
        let done = work.await;
        (done, CONSUMED.with(Cell::get))
    };
    CONSUMED.scope(Cell::default(), metered).await
}

impl Store {
    /// The same table, with requests whose capacity [`consumed_by`] tells.
    pub fn metered(&self) -> Self {
        let config = self.client.config().to_builder().interceptor(Meter);
        Self {
            client: Client::from_conf(config.build()),
            ..self.clone()
        }
    }
}

/// Asks for the consumed capacity, and adds up the answers.
#[derive(Debug)]
struct Meter;

impl Intercept for Meter {
    fn name(&self) -> &'static str {
        "capacity"
    }

    fn modify_before_serialization(
        &self,
        context: &mut BeforeSerializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if CONSUMED.try_with(|_| ()).is_err() {
            return Ok(());
        }
        let input = context.input_mut();
        macro_rules! ask {
            ($($input:ty),*) => {$(
                if let Some(input) = input.downcast_mut::<$input>() {
                    input.return_consumed_capacity = Some(ReturnConsumedCapacity::Total);
                    return Ok(());
                }
            )*};
        }
        ask!(
            BatchGetItemInput,
            TransactWriteItemsInput,
            QueryInput,
            GetItemInput,
            UpdateItemInput,
            PutItemInput,
            BatchWriteItemInput,
            TransactGetItemsInput
        );
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Ok(output) = context.output_or_error() else {
            return Ok(());
        };
        let units = |consumed: &[ConsumedCapacity]| {
            let units = consumed.iter().filter_map(|it| it.capacity_units);
            units.sum::<f64>()
        };
        let of_one = |consumed: &Option<ConsumedCapacity>| units(consumed.as_slice());
        let (mut read, mut write) = (0.0, 0.0);
        if let Some(output) = output.downcast_ref::<BatchGetItemOutput>() {
            read = units(output.consumed_capacity());
        } else if let Some(output) = output.downcast_ref::<TransactWriteItemsOutput>() {
            write = units(output.consumed_capacity());
        } else if let Some(output) = output.downcast_ref::<QueryOutput>() {
            read = of_one(&output.consumed_capacity);
        } else if let Some(output) = output.downcast_ref::<GetItemOutput>() {
            read = of_one(&output.consumed_capacity);
        } else if let Some(output) = output.downcast_ref::<UpdateItemOutput>() {
            write = of_one(&output.consumed_capacity);
        } else if let Some(output) = output.downcast_ref::<PutItemOutput>() {
            write = of_one(&output.consumed_capacity);
        } else if let Some(output) = output.downcast_ref::<BatchWriteItemOutput>() {
            write = units(output.consumed_capacity());
        } else if let Some(output) = output.downcast_ref::<TransactGetItemsOutput>() {
            read = units(output.consumed_capacity());
        }
        // Outside the scope nothing was asked for.
        _ = CONSUMED.try_with(|consumed| {
            let before = consumed.get();
            consumed.set(Capacity {
                read: before.read + read,
                write: before.write + write,
            });
        });
        Ok(())
    }
}
