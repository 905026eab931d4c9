//! HTTP itself: bodies, headers, caches, browsers.

mod any_request;
mod bodies;
mod cache_control;
mod cors;

use std::io::Read as _;

use aws_lambda_events::apigw::{ApiGatewayV2httpRequest, ApiGatewayV2httpResponse};
use aws_lambda_events::encodings::Body;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tests::{ALICE, Kinto};

/// The most bytes in a function's response to Lambda.
const LAMBDA_LIMIT: usize = 6_291_556;

/// The event of a request by alice, as API Gateway sends it.
fn event(method: &str, path: &str, headers: &[(String, String)], body: &[u8]) -> Value {
    let (raw_path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut all = json!({"host": "kinto.test", "authorization": ALICE});
    for (name, value) in headers {
        all[name.to_ascii_lowercase()] = json!(value);
    }
    let mut event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": raw_path,
        "rawQueryString": query,
        "headers": all,
        "requestContext": {"http": {"method": method, "path": raw_path}},
        "isBase64Encoded": false,
    });
    match std::str::from_utf8(body) {
        Ok("") => {}
        Ok(text) => event["body"] = json!(text),
        Err(_) => {
            event["body"] = json!(BASE64_STANDARD.encode(body));
            event["isBase64Encoded"] = json!(true);
        }
    }
    event
}

/// Sends the request; checks that Lambda and API Gateway can forward the response.
async fn answered(kinto: &Kinto, event: Value) -> ApiGatewayV2httpResponse {
    let event: ApiGatewayV2httpRequest = serde_json::from_value(event).unwrap();
    let answer = kinto.api.handle(event).await;
    let length = serde_json::to_string(&answer).unwrap().len();
    assert!(length <= LAMBDA_LIMIT, "{length} bytes");
    let is_binary = matches!(answer.body, Some(Body::Binary(_)));
    assert_eq!(answer.is_base64_encoded, is_binary);
    for (name, value) in &answer.headers {
        assert!(value.to_str().is_ok(), "{name}: {value:?}");
        assert_eq!(answer.headers.get_all(name).iter().count(), 1, "{name}");
    }
    answer
}

/// The JSON of a response, compressed or not.
fn json_of(answer: &ApiGatewayV2httpResponse) -> Value {
    let gzipped = answer.headers.get("content-encoding").is_some();
    match &answer.body {
        None | Some(Body::Empty) => Value::Null,
        Some(Body::Text(text)) => serde_json::from_str(text).unwrap(),
        Some(Body::Binary(bytes)) if gzipped => {
            let mut text = String::new();
            let mut decoder = flate2::read::GzDecoder::new(&bytes[..]);
            decoder.read_to_string(&mut text).unwrap();
            serde_json::from_str(&text).unwrap()
        }
        Some(Body::Binary(bytes)) => serde_json::from_slice(bytes).unwrap(),
        Some(_) => panic!("another body"),
    }
}
