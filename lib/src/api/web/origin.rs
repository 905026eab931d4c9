//! The origin of requests: the CDN in front, where one is deployed.
//!
//! The functions can be reached without the CDN. So the CDN shows with each request a secret that it shares with us
//! ([decision 20](../../../../docs/decisions/020-cdn.md)), in a header that no client of the CDN can set.

use http::HeaderName;
use subtle::ConstantTimeEq as _;

use crate::api::web::error::ApiError;
use crate::api::web::request::Request;
use crate::settings::ApiSettings;

/// The header in which the CDN shows the secret.
const ORIGIN_SECRET: HeaderName = HeaderName::from_static("x-origin-secret");

/// Checks that the request came through the CDN, where the settings name its secret.
///
/// # Errors
/// 403 when it did not.
pub fn check(request: &Request, settings: &ApiSettings) -> Result<(), ApiError> {
    let Some(secret) = &settings.origin_secret else {
        return Ok(());
    };
    let shown = request.headers.get(ORIGIN_SECRET);
    // In constant time, so that the secret cannot be found out byte by byte.
    let is_right =
        shown.is_some_and(|shown| shown.as_bytes().ct_eq(secret.reveal().as_bytes()).into());
    if is_right {
        Ok(())
    } else {
        Err(ApiError::Reserved(
            "This host takes requests from the CDN in front of it alone",
        ))
    }
}
