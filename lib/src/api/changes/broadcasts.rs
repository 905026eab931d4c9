//! The latest broadcast, for clients that ask instead of being notified: the push service, or any reader of Megaphone.
//!
//! Both endpoints read the monitor's state, which the aggregator keeps ([`crate::store::polled_broadcast`]), and write nothing.

use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use serde_json::json;
use subtle::ConstantTimeEq as _;

use crate::api::dispatch::context::Context;
use crate::api::web::error::ApiError;
use crate::api::web::response::Response;
use crate::megaphone::CHANNEL;
use crate::timestamp::Timestamp;

/// `GET /v1/__broadcasts__`, for everyone: the endpoint that the push service polls (Remote Settings).
///
/// One request to the table. Before the first change the response has no broadcast.
///
/// # Errors
/// Failures of the table.
pub async fn poll(cx: &mut Context<'_>) -> Result<Response, ApiError> {
    let api = cx.api;
    let settings = &api.settings.broadcasts;
    let mut broadcasts = json!({});
    let state = api.store.monitor_state().await?;
    let polled = if state.has_clock() {
        state.polled_broadcast()
    } else {
        api.store.polled_broadcast_of_earlier_version().await?
    };
    if let Some(polled) = polled {
        let version = polled.version(Timestamp::now(), settings.debounce);
        broadcasts[format!("{}/{CHANNEL}", settings.broadcaster_id)] = version.etag().into();
    }
    let answer = json!({"code": 200, "broadcasts": broadcasts});
    Ok(Response::json(StatusCode::OK, &answer).uncached())
}

/// `GET /v1/broadcasts`, for clients with the reader's token: the same, in Megaphone's place, its errors included.
///
/// # Errors
/// 404 when no token is configured. A missing or wrong token is Megaphone's 401.
pub async fn broadcasts(cx: &mut Context<'_>) -> Result<Response, ApiError> {
    let request = cx.request;
    let Some(token) = &cx.api.settings.broadcasts.reader_token else {
        return Err(ApiError::UnknownPath);
    };
    let shown = request
        .header(AUTHORIZATION)
        .and_then(|value| value.strip_prefix("Bearer "));
    match shown {
        None => Ok(unauthorized(120, "Missing Authorization")),
        // In constant time, so that the token cannot be found out byte by byte.
        Some(shown) if bool::from(shown.as_bytes().ct_eq(token.reveal().as_bytes())) => {
            poll(cx).await
        }
        Some(_) => Ok(unauthorized(121, "Invalid token")),
    }
}

fn unauthorized(errno: u16, message: &str) -> Response {
    let status = StatusCode::UNAUTHORIZED;
    let refusal = json!({
        "code": status.as_u16(), "errno": errno, "error": "Unauthorized", "message": message,
    });
    let mut response = Response::json(status, &refusal)
        .for_error(errno, None)
        .uncached();
    response.set(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}
