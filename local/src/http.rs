//! The local counterpart of API Gateway: turns an HTTP request into an event of the HTTP API (payload format 2.0), and
//! the function's answer into an HTTP response.

use std::net::SocketAddr;

use aws_lambda_events::apigw::{ApiGatewayV2httpRequest, ApiGatewayV2httpResponse};
use aws_lambda_events::encodings::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{COOKIE, HOST, HeaderName, SET_COOKIE, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use percent_encoding::percent_decode_str;
use tokio::net::TcpListener;
use tokio::sync::watch;
use uuid::Uuid;

use local_aws::server::{self, ServiceResult};

/// The most bytes in a payload that API Gateway accepts.
const MAX_BODY: usize = 10 * 1024 * 1024;

const ROUTE: &str = "$default";

/// Serves HTTP with `handler`, the function behind the API, until `stop` turns true.
pub async fn serve<H, F>(listener: TcpListener, stop: watch::Receiver<bool>, handler: H)
where
    H: Fn(ApiGatewayV2httpRequest) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ApiGatewayV2httpResponse> + Send + 'static,
{
    server::serve(listener, stop, move |request, peer| {
        answer(request, peer, handler.clone())
    })
    .await;
}

async fn answer<H, F>(request: Request<Incoming>, peer: SocketAddr, handler: H) -> ServiceResult
where
    H: Fn(ApiGatewayV2httpRequest) -> F,
    F: Future<Output = ApiGatewayV2httpResponse>,
{
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Ok(refusal(
                StatusCode::PAYLOAD_TOO_LARGE,
                "Request Entity Too Large",
            ));
        }
        Err(_) => return Ok(refusal(StatusCode::BAD_REQUEST, "Bad Request")),
    };
    Ok(response(handler(event(parts, body, peer)).await))
}

/// The event that API Gateway sends for this request.
fn event(parts: Parts, body: Bytes, peer: SocketAddr) -> ApiGatewayV2httpRequest {
    let path = percent_decode_str(parts.uri.path())
        .decode_utf8_lossy()
        .into_owned();
    let mut event = ApiGatewayV2httpRequest::default();
    event.version = Some("2.0".to_owned());
    event.route_key = Some(ROUTE.to_owned());
    event.raw_path = Some(path.clone());
    event.raw_query_string = Some(parts.uri.query().unwrap_or_default().to_owned());
    event.headers = joined(parts.headers);
    event.cookies = event.headers.remove(COOKIE).and_then(|cookies| {
        let cookies = cookies.to_str().ok()?;
        Some(cookies.split("; ").map(str::to_owned).collect())
    });

    let source_ip = peer.ip().to_string();
    if let Ok(address) = HeaderValue::from_str(&source_ip) {
        event.headers.insert(FORWARDED_FOR, address);
    }
    event
        .headers
        .insert(FORWARDED_PROTO, HeaderValue::from_static("http"));

    let text = |name: &HeaderName| {
        let value = event.headers.get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    event.request_context.request_id = Some(Uuid::new_v4().to_string());
    event.request_context.domain_name = text(&HOST);
    event.request_context.http.user_agent = text(&USER_AGENT);
    event.request_context.route_key = Some(ROUTE.to_owned());
    event.request_context.stage = Some(ROUTE.to_owned());
    event.request_context.http.method = parts.method;
    event.request_context.http.path = Some(path);
    event.request_context.http.protocol = Some(format!("{:?}", parts.version));
    event.request_context.http.source_ip = Some(source_ip);

    if !body.is_empty() {
        match String::from_utf8(body.into()) {
            Ok(text) => event.body = Some(text),
            Err(binary) => {
                event.body = Some(BASE64.encode(binary.as_bytes()));
                event.is_base64_encoded = true;
            }
        }
    }
    event
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// API Gateway joins the values of a repeated header with commas.
fn joined(headers: HeaderMap) -> HeaderMap {
    if headers.len() == headers.keys_len() {
        return headers;
    }
    let mut joined = HeaderMap::with_capacity(headers.keys_len());
    for name in headers.keys() {
        let separator: &[u8] = if name == COOKIE { b"; " } else { b"," };
        let values: Vec<&[u8]> = headers
            .get_all(name)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        if let Ok(value) = HeaderValue::from_bytes(&values.join(separator)) {
            joined.insert(name, value);
        }
    }
    joined
}

/// The response that API Gateway makes from this answer.
fn response(answer: ApiGatewayV2httpResponse) -> Response<Full<Bytes>> {
    let status = u16::try_from(answer.status_code)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok());
    let body = match (answer.body, answer.is_base64_encoded) {
        (Some(Body::Text(text)), true) => BASE64.decode(text).ok().map(Bytes::from),
        (Some(Body::Text(text)), false) => Some(Bytes::from(text)),
        (Some(Body::Binary(bytes)), _) => Some(Bytes::from(bytes)),
        (_, _) => Some(Bytes::new()),
    };
    let (Some(status), Some(body)) = (status, body) else {
        tracing::error!(answer.status_code, "an answer that API Gateway cannot send");
        return refusal(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error");
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    *response.headers_mut() = answer.headers;
    let mut name = None;
    for (next, value) in answer.multi_value_headers {
        name = next.or(name);
        if let Some(name) = &name {
            response.headers_mut().append(name, value);
        }
    }
    for cookie in answer.cookies {
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
    }
    response
}

/// A response of API Gateway itself.
fn refusal(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let body = serde_json::json!({ "message": message }).to_string();
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;

    type Events = Arc<Mutex<Vec<ApiGatewayV2httpRequest>>>;

    /// A server with a handler that records its events and echoes their body.
    async fn echo() -> (String, Events, watch::Sender<bool>) {
        let listener = server::bind(0).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = watch::channel(false);
        let events = Events::default();
        let log = Arc::clone(&events);
        tokio::spawn(serve(listener, stopped, move |event| {
            let log = Arc::clone(&log);
            async move {
                let mut answer = ApiGatewayV2httpResponse::default();
                answer.status_code = 201;
                answer.headers.insert("etag", "\"7\"".parse().unwrap());
                answer.cookies = vec!["a=b".to_owned(), "c=d".to_owned()];
                answer.body = event.body.clone().map(Body::Text);
                answer.is_base64_encoded = event.is_base64_encoded;
                log.lock().unwrap().push(event);
                answer
            }
        }));
        (url, events, stop)
    }

    #[tokio::test]
    async fn a_request_becomes_the_event_that_api_gateway_sends() {
        let (url, events, _stop) = echo().await;
        let answer = reqwest::Client::new()
            .put(format!("{url}/v1/buckets/caf%C3%A9?_since=%225%22&a"))
            .header("X-Twice", "1")
            .header("X-Twice", "2")
            .header("Cookie", "x=1; y=2")
            .body("hello")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 201);
        assert_eq!(answer.headers()["etag"], "\"7\"");
        assert_eq!(answer.headers().get_all("set-cookie").iter().count(), 2);
        assert_eq!(answer.text().await.unwrap(), "hello");

        let events = events.lock().unwrap();
        let event = &events[0];
        assert_eq!(event.raw_path.as_deref(), Some("/v1/buckets/café"));
        assert_eq!(event.raw_query_string.as_deref(), Some("_since=%225%22&a"));
        assert_eq!(event.headers["x-twice"], "1,2");
        assert_eq!(event.headers["x-forwarded-proto"], "http");
        assert_eq!(
            event.cookies.as_deref(),
            Some(&["x=1".to_owned(), "y=2".to_owned()][..])
        );
        let http = &event.request_context.http;
        assert_eq!(http.method, http::Method::PUT);
        assert_eq!(http.protocol.as_deref(), Some("HTTP/1.1"));
        assert_eq!(http.source_ip.as_deref(), Some("127.0.0.1"));
        assert!(!event.is_base64_encoded);
    }

    #[tokio::test]
    async fn a_url_may_have_quotes_and_a_body_keeps_its_own() {
        let (url, events, _stop) = echo().await;
        let address = url.strip_prefix("http://").unwrap();
        let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = "PUT /v1/a?_since=\"5\"&b=<c> HTTP/1.1\r\nHost: x\r\nIf-Match: \"5\"\r\nContent-Length: 7\r\n\r\n{\"a\":1}";
        for n in 1..=2 {
            connection.write_all(request.as_bytes()).await.unwrap();
            let mut answer = vec![];
            while !answer.ends_with(b"{\"a\":1}") {
                assert_ne!(connection.read_buf(&mut answer).await.unwrap(), 0);
            }
            let events = events.lock().unwrap();
            assert_eq!(events.len(), n);
            let event = events.last().unwrap();
            let query = event.raw_query_string.as_deref();
            assert_eq!(query, Some("_since=%225%22&b=%3Cc%3E"));
            assert_eq!(event.headers["if-match"], "\"5\"");
            assert_eq!(event.body.as_deref(), Some("{\"a\":1}"));
        }
    }

    #[tokio::test]
    async fn a_body_that_is_no_text_travels_as_base64() {
        let (url, events, _stop) = echo().await;
        let bytes = vec![0_u8, 159, 146, 150];
        let answer = reqwest::Client::new()
            .post(&url)
            .body(bytes.clone())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.bytes().await.unwrap(), bytes);
        assert!(events.lock().unwrap()[0].is_base64_encoded);
    }

    #[tokio::test]
    async fn a_head_answer_has_headers_and_no_body() {
        let (url, _events, _stop) = echo().await;
        let answer = reqwest::Client::new()
            .head(&url)
            .body("hello")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.headers()["etag"], "\"7\"");
        assert!(answer.bytes().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn more_than_ten_megabytes_are_413() {
        let (url, events, _stop) = echo().await;
        let client = reqwest::Client::new();
        let answer = client.post(&url).body(vec![b'a'; MAX_BODY]).send().await;
        assert_eq!(answer.unwrap().status(), 201);
        let answer = client
            .post(&url)
            .body(vec![b'a'; MAX_BODY + 1])
            .send()
            .await;
        assert_eq!(answer.unwrap().status(), 413);
        assert_eq!(events.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_stop_answers_what_is_in_flight_and_takes_nothing_new() {
        let listener = server::bind(0).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = watch::channel(false);
        let (arrived, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell, wait) = (Arc::clone(&arrived), Arc::clone(&go_on));
        let served = tokio::spawn(serve(listener, stopped, move |_| {
            let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
            async move {
                tell.notify_one();
                wait.notified().await;
                let mut answer = ApiGatewayV2httpResponse::default();
                answer.status_code = 200;
                answer
            }
        }));
        let client = reqwest::Client::new();
        let in_flight = tokio::spawn(client.get(&url).send());
        arrived.notified().await;
        stop.send_replace(true);
        while client.get(&url).send().await.is_ok() {}
        assert!(!served.is_finished());
        go_on.notify_one();
        assert_eq!(in_flight.await.unwrap().unwrap().status(), 200);
        served.await.unwrap();
    }
}
