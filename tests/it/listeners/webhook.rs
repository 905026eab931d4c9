//! Webhooks.

use std::time::Duration;

use super::{
    WEBHOOK_SECRET, answering, assert_tell_of_large, config, event, header, is_failed, is_gone,
    large, listeners, ok, requests, tell,
};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kinto_serverless::listeners::{Aws, NotifyError};
use serde_json::{Value, json};
use tests::is_signed;
use wiremock::{MockServer, Request, ResponseTemplate};

/// Checks a request according to <https://github.com/standard-webhooks/standard-webhooks>.
fn verify(request: &Request, secret: &str) {
    let seconds = header(request, "webhook-timestamp");
    let sent = Duration::from_secs(seconds.parse().unwrap());
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    assert!(now.abs_diff(sent) < Duration::from_secs(300));
    let key = BASE64_STANDARD
        .decode(secret.strip_prefix("whsec_").unwrap())
        .unwrap();
    assert!(is_signed(request, &key), "{request:?}");
}

async fn webhook(answer: ResponseTemplate) -> (MockServer, Result<(), NotifyError>) {
    let (server, aws) = answering(answer).await;
    let url = format!("{}/told", server.uri());
    let webhook = listeners(
        "webhook",
        &[("URL", &url), ("SECRET", WEBHOOK_SECRET)],
        &aws,
    )
    .unwrap();
    let told = tell(&webhook, &event(&["hello"])).await;
    (server, told)
}

#[tokio::test]
async fn a_webhook_gets_the_event_signed() {
    let (server, told) = webhook(ResponseTemplate::new(204)).await;
    told.unwrap();
    let request = &requests(&server).await[0];
    let event = event(&["hello"]);
    assert_eq!(
        (request.method.as_str(), request.url.path()),
        ("POST", "/told")
    );
    assert_eq!(header(request, "content-type"), "application/json");
    assert_eq!(header(request, "webhook-id"), event.id);
    assert_eq!(request.body, event.to_json().into_bytes());
    verify(request, WEBHOOK_SECRET);
}

#[tokio::test]
async fn what_is_too_large_for_a_webhook_comes_in_several_requests() {
    let (server, aws) = answering(ResponseTemplate::new(204)).await;
    let url = server.uri();
    let webhook = listeners(
        "webhook",
        &[("URL", &url), ("SECRET", WEBHOOK_SECRET)],
        &aws,
    )
    .unwrap();
    tell(&webhook, &large()).await.unwrap();
    let sent = requests(&server).await;
    let bodies: Vec<_> = sent
        .iter()
        .map(|request| str::from_utf8(&request.body).unwrap())
        .collect();
    assert_tell_of_large(&bodies, 1024 * 1024);
    for request in &sent {
        let event: Value = request.body_json().unwrap();
        assert_eq!(header(request, "webhook-id"), event["id"]);
        verify(request, WEBHOOK_SECRET);
    }
}

#[tokio::test]
async fn a_webhooks_status_says_whether_it_was_told() {
    for status in [300, 400, 401, 404, 410, 413] {
        let (_server, told) = webhook(ResponseTemplate::new(status)).await;
        assert!(is_gone(&told), "{status}: {told:?}");
    }
    for status in [408, 429, 500, 502, 503, 504] {
        let (_server, told) = webhook(ResponseTemplate::new(status)).await;
        assert!(is_failed(&told), "{status}: {told:?}");
    }
    let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(60));
    for (value, seconds) in [("120", 120..=120), (&*date, 55..=60)] {
        let (_server, told) =
            webhook(ResponseTemplate::new(429).insert_header("retry-after", value)).await;
        let Err(NotifyError::Failed {
            retry_after: Some(pause),
            ..
        }) = told
        else {
            panic!("{told:?}");
        };
        assert!(seconds.contains(&pause.as_secs()), "{pause:?}");
    }
}

#[tokio::test]
async fn a_webhook_refuses_by_its_answer() {
    let (_server, told) = webhook(ok(json!({"refused": {"message": "No"}}))).await;
    let message = "No".to_owned();
    assert_eq!(
        told,
        Err(NotifyError::Refused {
            status: 403,
            message
        })
    );
    let (_server, told) = webhook(ResponseTemplate::new(200).set_body_string("<html>")).await;
    assert_eq!(told, Ok(()));
}

#[tokio::test]
async fn a_webhooks_redirect_is_not_followed_and_a_long_answer_not_read() {
    let (server, told) =
        webhook(ResponseTemplate::new(307).insert_header("location", "/elsewhere")).await;
    assert!(is_gone(&told), "{told:?}");
    assert_eq!(requests(&server).await.len(), 1);
    let (_server, told) =
        webhook(ResponseTemplate::new(200).set_body_bytes(vec![b' '; 1_000_000])).await;
    assert!(is_failed(&told), "{told:?}");
}

#[tokio::test]
async fn a_webhook_that_cannot_be_reached_is_not_told_and_its_url_in_no_message() {
    let aws = Aws::new(&config("http://127.0.0.1:1").await);
    let settings = [
        ("URL", "http://127.0.0.1:1/hush"),
        ("SECRET", WEBHOOK_SECRET),
    ];
    let told = tell(
        &listeners("webhook", &settings, &aws).unwrap(),
        &event(&[""]),
    )
    .await;
    assert!(is_failed(&told), "{told:?}");
    assert!(!told.unwrap_err().to_string().contains("hush"));
}
