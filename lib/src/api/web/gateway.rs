//! API Gateway's events (payload format 2.0), or a function URL's: a request out of one, a response into one.

use aws_lambda_events::apigw::{ApiGatewayV2httpRequest, ApiGatewayV2httpResponse};
use aws_lambda_events::encodings::Body;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::StatusCode;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, ETAG, EXPIRES, HeaderMap, HeaderValue,
    LAST_MODIFIED,
};
use percent_encoding::percent_decode_str;

use crate::api::web::compression;
use crate::api::web::error::{ApiError, Location};
use crate::api::web::request::Request;
use crate::api::web::response::Response;

/// Takes the request out of an event.
///
/// # Errors
/// 400 when the event says that its body is base64 and it is not.
pub fn request(event: ApiGatewayV2httpRequest) -> Result<Request, ApiError> {
    let body = event.body.unwrap_or_default();
    let body = if event.is_base64_encoded {
        BASE64_STANDARD
            .decode(body)
            .map_err(|_| ApiError::invalid(Location::Body, "", "The body is not valid base64"))?
    } else {
        body.into_bytes()
    };
    let mut path = event
        .raw_path
        .filter(|path| path.starts_with('/'))
        .unwrap_or_else(|| "/".to_owned());
    // A function URL sends the same event, except that it does not decode the path.
    let domain = event.request_context.domain_name.as_deref();
    if domain.is_some_and(|domain| domain.contains(".lambda-url.")) {
        path = percent_decode_str(&path).decode_utf8_lossy().into_owned();
    }
    Ok(Request {
        method: event.request_context.http.method,
        path,
        query_string: event.raw_query_string.unwrap_or_default(),
        headers: event.headers,
        body,
        domain_name: event.request_context.domain_name,
    })
}

/// Puts a response into an event, compressed where this pays and the client accepts it. The response to `HEAD` has the
/// headers only.
///
/// A body that Lambda could not send becomes a 413 that says so, rather than a failure of the function. Endpoints with
/// pages never come to that: [`compression::MAX_BODY`] is the most that each may return.
pub fn event(response: Response, is_head: bool, accept_encoding: &str) -> ApiGatewayV2httpResponse {
    let mut response = response;
    let has_body = !is_head && response.length() > 0;
    if has_body && compression::is_negotiated(response.length()) {
        response.add_vary(ACCEPT_ENCODING);
    }
    let (mut status, mut headers, body) = response.into_parts();
    let mut body = has_body.then(|| match body {
        Body::Text(text) => encode(text, accept_encoding, &mut headers),
        // An image, say, which is compressed already.
        body => body,
    });
    if !body.as_ref().is_none_or(compression::fits) {
        tracing::warn!(%status, "a response larger than Lambda can send");
        (status, body) = refuse(&mut headers);
    }
    let mut event = ApiGatewayV2httpResponse::default();
    event.status_code = status.as_u16().into();
    event.is_base64_encoded = matches!(body, Some(Body::Binary(_)));
    event.body = body;
    event.headers = headers;
    event
}

/// The body in the form in which it is sent; adds the header that names this form.
fn encode(text: String, accept_encoding: &str, headers: &mut HeaderMap) -> Body {
    if !compression::is_negotiated(text.len()) {
        return Body::Text(text);
    }
    let accepts_gzip = compression::accepts_gzip(accept_encoding);
    match accepts_gzip.then(|| compression::gzip(&text)).flatten() {
        Some(bytes) => {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            Body::Binary(bytes)
        }
        None => compression::plain(text),
    }
}

/// Turns the headers into those of the 413 for a response that is too large. Returns its status and body.
fn refuse(headers: &mut HeaderMap) -> (StatusCode, Option<Body>) {
    let refusal = ApiError::ResponseTooLarge;
    for header in [CONTENT_ENCODING, ETAG, EXPIRES, LAST_MODIFIED] {
        headers.remove(header);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    (
        refusal.status(),
        Some(Body::Text(refusal.body().to_string())),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::timestamp::Timestamp;

    #[test]
    fn a_path_is_decoded_once_whoever_took_it() {
        let path = |domain: &str, path: &str| {
            let mut event = ApiGatewayV2httpRequest::default();
            event.request_context.domain_name = Some(domain.to_owned());
            event.raw_path = Some(path.to_owned());
            request(event).unwrap().path
        };
        let of_api = |raw| path("abc.execute-api.eu-central-1.amazonaws.com", raw);
        let of_function = |raw| path("abc.lambda-url.eu-central-1.on.aws", raw);
        assert_eq!(of_api("/v1/buckets/café"), "/v1/buckets/café");
        assert_eq!(of_function("/v1/buckets/caf%C3%A9"), "/v1/buckets/café");
        assert_eq!(of_api("/v1/buckets/a%20b"), "/v1/buckets/a%20b");
        assert_eq!(of_function("/v1/buckets/a%2520b"), "/v1/buckets/a%20b");
        assert_eq!(of_function("/v1/buckets/%FF"), "/v1/buckets/\u{fffd}");
    }

    #[test]
    fn a_response_that_lambda_could_not_send_becomes_a_refusal_that_says_so() {
        let body = json!({"data": "x".repeat(compression::MAX_BODY * 2)});
        let large = Response::json(StatusCode::OK, &body).modified_at(Timestamp(1));
        let compressed = event(large.clone(), false, "gzip");
        assert_eq!(
            (compressed.status_code, compressed.is_base64_encoded),
            (200, true)
        );
        let failed = event(large.clone(), false, "");
        assert_eq!((failed.status_code, failed.headers.get(ETAG)), (413, None));
        assert!(matches!(failed.body, Some(Body::Text(text)) if text.contains("\"errno\":113")));
        assert_eq!(event(large, true, "").status_code, 200);
    }
}
