//! The AWS port: the same DynamoDB and SQS for processes that use `AWS_ENDPOINT_URL`, such as `cargo lambda`.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::aws::{ConnectionBroken, LocalAws};
use crate::server;

/// The answer to a `ReceiveMessage` without messages.
const NO_MESSAGES: &str = r#"{"Messages":[]}"#;

/// Serves `aws` until `stop` turns true.
pub async fn serve(listener: TcpListener, stop: watch::Receiver<bool>, aws: LocalAws) {
    server::serve(listener, stop, move |request, _peer| {
        answer(aws.clone(), request)
    })
    .await;
}

async fn answer(
    aws: LocalAws,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, ConnectionBroken> {
    let (parts, body) = request.into_parts();
    let target = parts
        .headers
        .get("x-amz-target")
        .and_then(|target| target.to_str().ok())
        .unwrap_or_default();
    let body = body
        .collect()
        .await
        .map_err(|_| ConnectionBroken)?
        .to_bytes();
    let mut answer = aws.call(target, &body)?;
    if target == "AmazonSQS.ReceiveMessage" {
        let end = Instant::now() + wait_time(&body);
        while answer.body == NO_MESSAGES && Instant::now() < end {
            sleep(Duration::from_millis(50)).await;
            answer = aws.call(target, &body)?;
        }
    }
    let mut response = Response::new(Full::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).map_err(|_| ConnectionBroken)?;
    let json = http::HeaderValue::from_static("application/x-amz-json-1.0");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

/// The time that a `ReceiveMessage` waits for a message.
fn wait_time(body: &[u8]) -> Duration {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let seconds = request["WaitTimeSeconds"].as_u64().unwrap_or_default();
    Duration::from_secs(seconds.min(20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::Fault;
    use crate::dynamodb::{DynamoDb, TableDefinition};
    use crate::sqs::Queues;
    use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
    use aws_sdk_dynamodb::types::AttributeValue;

    #[tokio::test]
    async fn another_process_reads_and_writes_over_http() {
        let aws = LocalAws::over(DynamoDb::memory(), Queues::from_iter([]));
        aws.create_table(&TableDefinition::for_tests()).unwrap();
        let listener = server::bind(0).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_stop, stopped) = watch::channel(false);
        tokio::spawn(serve(listener, stopped, aws.clone()));
        let client = aws_sdk_dynamodb::Client::from_conf(
            aws_sdk_dynamodb::Config::builder()
                .behavior_version(BehaviorVersion::v2026_01_12())
                .region(Region::new("us-east-1"))
                .credentials_provider(Credentials::new("local", "local", None, None, "test"))
                .endpoint_url(format!("http://{address}"))
                .build(),
        );
        let requests = aws.requests();
        let count = aws.requests();
        aws.inject(move |_, _| (count.of("PutItem") == 1).then_some(Fault::AnswerLost));
        let key = AttributeValue::S("k".to_owned());
        let put = client.put_item().table_name("kinto");
        put.item("pk", key.clone())
            .item("sk", key.clone())
            .send()
            .await
            .unwrap();
        assert_eq!(requests.of("PutItem"), 2);

        let got = aws.dynamodb().get_item().table_name("kinto");
        let got = got
            .key("pk", key.clone())
            .key("sk", key)
            .send()
            .await
            .unwrap();
        assert!(got.item.is_some());
    }
}
