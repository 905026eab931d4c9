//! `kinto.plugins.flush`: `POST /__flush__` removes everything, whoever asks (Kinto 26.5).
//!
//! Everything is what is not under anything else. What is under it goes with it, so this takes time by the number of
//! buckets and accounts, not by what is in them. Clients and monitor/changes learn of it as of any deletion: tombstones and
//! timestamps stay.

use http::StatusCode;
use serde_json::json;

use crate::api::lists;
use crate::api::web::error::ApiError;
use crate::api::web::response::Response;
use crate::resource::ListUri;
use crate::store::Store;
use crate::unit_of_work::{Needs, UnitOfWork};

/// What a flush must know before what is to go is read.
pub fn needs() -> Needs {
    Needs {
        lists: [ListUri::buckets(), ListUri::accounts()].into(),
        ..Needs::default()
    }
}

/// Deletes every bucket and account.
///
/// # Errors
/// Failures of ours.
pub async fn answer(unit: &mut UnitOfWork, store: &Store) -> Result<Response, ApiError> {
    for list in [ListUri::buckets(), ListUri::accounts()] {
        lists::clear(unit, store, &list).await?;
    }
    Ok(Response::json(StatusCode::ACCEPTED, &json!({})))
}
