//! Listeners: the requests of each kind, and its treatment of the responses. Servers that record what they get stand
//! for AWS, webhooks and mail servers.

mod aws;
#[path = "../../../local/examples/bucket_mail/listener.rs"]
mod bucket_mail;
mod custom;
mod email;
mod example;
mod settings;
mod smtp;
mod webhook;

use std::time::Duration;

use self::smtp::Smtp;
use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::config::Credentials;
use kinto_serverless::event::ResourceChanged;
use kinto_serverless::listeners::{Aws, ListenerFactory, Listeners, NotifyError};
use kinto_serverless::settings::{ListenerSettings, SettingError, Vars};
use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

const QUEUE: &str = "https://sqs.eu-central-1.amazonaws.com/123456789012/kinto";
const FUNCTION: &str = "arn:aws:lambda:eu-central-1:123456789012:function:told";
const WEBHOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A listener `a` of a kind, with these settings.
fn listeners(code: &str, settings: &[(&str, &str)], aws: &Aws) -> Result<Listeners, SettingError> {
    with_custom(code, settings, aws, &[])
}

fn with_custom(
    code: &str,
    settings: &[(&str, &str)],
    aws: &Aws,
    custom: &[(&str, ListenerFactory)],
) -> Result<Listeners, SettingError> {
    let given = settings
        .iter()
        .map(|(name, value)| (format!("KINTO_EVENT_LISTENERS_A_{name}"), *value));
    let mut vars: Vars = given.collect();
    vars.set_default("KINTO_EVENT_LISTENERS", "a");
    vars.set_default("KINTO_EVENT_LISTENERS_A_USE", code);
    Listeners::new(ListenerSettings::from_vars(&vars)?, &vars, aws, custom)
}

/// An event of creating records with these texts.
fn event(texts: &[&str]) -> ResourceChanged {
    let uri = "/buckets/a/collections/b/records";
    let record = |(n, text): (usize, &&str)| json!({"new": {"id": format!("r{n}"), "last_modified": n, "text": text}});
    let records: Vec<_> = texts.iter().enumerate().map(record).collect();
    let uris: Vec<_> = (0..texts.len()).map(|n| format!("{uri}/r{n}")).collect();
    serde_json::from_value(json!({
        "id": "6e56e6fa-2a70-4a1b-9ea4-7f9cb2d3ba1c", "timestamp": 9, "action": "create", "uri": uri,
        "user_id": "account:ada", "resource_name": "record", "bucket_id": "a", "collection_id": "b",
        "date": "2023-11-14T22:13:20Z", "impacted_records": records, "impacted_uris": uris,
    }))
    .unwrap()
}

async fn tell(listeners: &Listeners, event: &ResourceChanged) -> Result<(), NotifyError> {
    let told = listeners.notify("a", std::slice::from_ref(event)).await;
    told.unwrap()
}

/// AWS, or a webhook, that answers everything with this response.
async fn answering(answer: ResponseTemplate) -> (MockServer, Aws) {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(answer).mount(&server).await;
    let aws = Aws::new(&config(&server.uri()).await);
    (server, aws)
}

async fn config(url: &str) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .endpoint_url(url)
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(1)))
        .load()
        .await
}

fn ok(body: Value) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(body)
}

fn aws_error(status: u16, code: &str) -> ResponseTemplate {
    ResponseTemplate::new(status)
        .insert_header("x-amzn-errortype", code)
        .set_body_json(json!({"__type": code, "message": "no"}))
}

async fn requests(server: &MockServer) -> Vec<Request> {
    server.received_requests().await.unwrap()
}

fn is_gone(told: &Result<(), NotifyError>) -> bool {
    matches!(
        told,
        Err(NotifyError::Permanent(_) | NotifyError::Unauthorized(_))
    )
}

fn is_failed(told: &Result<(), NotifyError>) -> bool {
    matches!(told, Err(NotifyError::Failed { .. }))
}

/// Two objects of 600 KB, and one of 1.2 MB.
fn large() -> ResourceChanged {
    let (text, longer) = ("x".repeat(600_000), "x".repeat(1_200_000));
    event(&[&text, &text, &longer])
}

/// Asserts that these contain all of the large event, each with an id of its own and in at most `most` bytes, and that
/// an object that is too large is reduced to the fields that identify it.
fn assert_tell_of_large(bodies: &[&str], most: usize) {
    assert!(bodies.iter().all(|body| body.len() <= most));
    let parts: Vec<ResourceChanged> = bodies
        .iter()
        .map(|body| serde_json::from_str(body).unwrap())
        .collect();
    let uris: Vec<_> = parts
        .iter()
        .flat_map(|part| part.impacted_uris.clone())
        .collect();
    assert_eq!(uris, large().impacted_uris);
    assert!(parts.len() > 1);
    for (n, part) in parts.iter().enumerate() {
        assert!(parts[..n].iter().all(|earlier| earlier.id != part.id));
        let is_last = n == parts.len() - 1;
        assert_eq!(part.truncated, is_last);
        let record = &part.impacted_records[0].new;
        assert_eq!(record.contains_key("text"), !is_last);
    }
}

/// The settings of a listener that mails through this server.
fn mailing<'a>(smtp: &'a Smtp, port: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("SMTP_HOST", "localhost"),
        ("SMTP_PORT", port),
        ("SMTP_CA_CERTIFICATE", &smtp.certificate),
        ("USERNAME", "ada"),
        ("PASSWORD", "hush"),
        ("SENDER", "Kinto <kinto@example.org>"),
        ("RECIPIENTS", "Ops <ops@example.org>, eve@example.org"),
    ]
}

/// The lines between `DATA` and the dot.
fn mails(heard: &[String]) -> Vec<Vec<String>> {
    let mut mails: Vec<Vec<String>> = vec![];
    let mut in_mail = false;
    for line in heard {
        match (in_mail, &**line) {
            (false, "DATA") => mails.push(vec![]),
            (true, ".") => {}
            (true, line) => mails.last_mut().unwrap().push(line.to_owned()),
            (false, _) => continue,
        }
        in_mail = line != ".";
    }
    mails
}

fn has(lines: &[String], line: &str) -> bool {
    lines.iter().any(|heard| heard == line)
}

fn header<'a>(request: &'a Request, name: &str) -> &'a str {
    request
        .headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}
