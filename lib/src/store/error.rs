//! Errors of requests to the table.

use std::error::Error;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

use crate::error_chain::ErrorChain;
use crate::resource::ListUri;

/// A failed request to the table.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// DynamoDB refused the request, or did not answer in time, after all retries.
    #[error("{operation} failed: {}", ErrorChain(&**source))]
    Request {
        /// The DynamoDB operation.
        operation: &'static str,
        /// The SDK's error.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The objects read together would take more memory than a function has.
    #[error("more than a request may hold at once")]
    TooMuch,
    /// DynamoDB rejects the request itself: a bug in this code, which retrying does not mend.
    #[error("{operation} is invalid: {}", ErrorChain(&**source))]
    Invalid {
        /// The DynamoDB operation.
        operation: &'static str,
        /// The SDK's error.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The request's time ran out before DynamoDB answered.
    #[error("{0} was not answered in time")]
    Late(&'static str),
    /// DynamoDB left keys unread at each attempt.
    #[error("BatchGetItem left {0} keys unread")]
    Unread(usize),
    /// The list names a transaction whose writes did not show at any attempt to read them.
    #[error("a transaction with {0} is being committed for a second")]
    Unsettled(ListUri),
    /// The monitor changed at each attempt to read or write it.
    #[error("others changed the monitor at each of {0} attempts")]
    MonitorContended(u32),
    /// The list changed at each attempt to write it.
    #[error("others changed {0} at each attempt")]
    ListContended(ListUri),
    /// An item in another format than the one we write.
    #[error("item {pk} {sk}: {attribute} is missing or malformed")]
    Malformed {
        /// Its partition key.
        pk: String,
        /// Its sort key.
        sk: String,
        /// The attribute.
        attribute: &'static str,
    },
}

impl StoreError {
    pub(super) fn request<E, R>(operation: &'static str) -> impl FnOnce(SdkError<E, R>) -> Self
    where
        E: Error + ProvideErrorMetadata + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        move |error| {
            let code = error.as_service_error().and_then(|error| error.code());
            let is_invalid = matches!(
                code,
                Some("ValidationException" | "IdempotentParameterMismatchException")
            );
            let source = error.into();
            match is_invalid {
                true => Self::Invalid { operation, source },
                false => Self::Request { operation, source },
            }
        }
    }
}

/// Returns `true` if a condition of the request failed: nothing was written.
pub(super) fn is_failed_condition<E, R>(error: &SdkError<E, R>) -> bool
where
    E: ProvideErrorMetadata,
{
    let service_error = error.as_service_error();
    service_error.and_then(|error| error.code()) == Some("ConditionalCheckFailedException")
}

/// Treats a failed condition as success: the stored item is already as recent.
pub(super) fn ignore_failed_condition<T, E, R>(
    operation: &'static str,
    outcome: Result<T, SdkError<E, R>>,
) -> Result<(), StoreError>
where
    E: Error + ProvideErrorMetadata + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    match outcome {
        Err(error) if !is_failed_condition(&error) => Err(StoreError::request(operation)(error)),
        _ => Ok(()),
    }
}
