//! Listeners: what each kind sends, and what it makes of the answers. AWS, webhooks and mail servers are played by
//! servers that take down what they hear.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

#[path = "../../../local/examples/bucket_mail/listener.rs"]
mod bucket_mail;
mod smtp;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use self::smtp::Smtp;
use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::config::Credentials;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::future::BoxFuture;
use kinto_local::{LocalAws, Options, Stack};
use kinto_serverless::event::ResourceChanged;
use kinto_serverless::listeners::{Aws, Listener, Listeners, Make, NotifyError, Parts};
use kinto_serverless::settings::{ListenerSettings, SettingError, Vars};
use serde_json::{Value, json};
use tests::is_signed;
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
    custom: &[(&str, Make)],
) -> Result<Listeners, SettingError> {
    let given = settings
        .iter()
        .map(|(name, value)| (format!("KINTO_EVENT_LISTENERS_A_{name}"), *value));
    let mut vars: Vars = given.collect();
    vars.set_default("KINTO_EVENT_LISTENERS", "a");
    vars.set_default("KINTO_EVENT_LISTENERS_A_USE", code);
    Listeners::new(ListenerSettings::from_vars(&vars)?, &vars, aws, custom)
}

/// The creation of records with such a text.
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

/// AWS, or a webhook, that answers everything so.
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

fn header<'a>(request: &'a Request, name: &str) -> &'a str {
    request
        .headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

fn is_gone(told: &Result<(), NotifyError>) -> bool {
    matches!(told, Err(NotifyError::Gone(_)))
}

fn is_failed(told: &Result<(), NotifyError>) -> bool {
    matches!(told, Err(NotifyError::Failed { .. }))
}

/// Two objects of 600 KB, and one of 1.2 MB.
fn large() -> ResourceChanged {
    let (text, longer) = ("x".repeat(600_000), "x".repeat(1_200_000));
    event(&[&text, &text, &longer])
}

/// That these tell of all that is large, each with an id of its own and in at most so many bytes, of what is too large
/// what names it.
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

#[tokio::test]
async fn sqs_gets_the_event_as_a_message() {
    let (server, aws) = answering(ok(json!({"MessageId": "m"}))).await;
    let queue = listeners("sqs", &[("QUEUE_URL", QUEUE)], &aws).unwrap();
    let event = event(&["hello"]);
    tell(&queue, &event).await.unwrap();
    let request = &requests(&server).await[0];
    assert_eq!(header(request, "x-amz-target"), "AmazonSQS.SendMessage");
    let expected = json!({"QueueUrl": QUEUE, "MessageBody": event.to_json()});
    assert_eq!(request.body_json::<Value>().unwrap(), expected);
}

#[tokio::test]
async fn a_fifo_queue_gets_the_events_of_a_list_in_one_group_and_each_once() {
    let (server, aws) = answering(ok(json!({"MessageId": "m"}))).await;
    let url = format!("{QUEUE}.fifo");
    let queue = listeners("sqs", &[("QUEUE_URL", &url)], &aws).unwrap();
    let first = event(&["hello"]);
    let second = ResourceChanged {
        id: "second".to_owned(),
        ..first.clone()
    };
    let other = ResourceChanged {
        impacted_uris: vec!["/buckets/a/collections/c/records/r0".to_owned()],
        ..second.clone()
    };
    for event in [&first, &second, &other] {
        tell(&queue, event).await.unwrap();
    }
    let bodies = requests(&server).await;
    let bodies: Vec<Value> = bodies
        .iter()
        .map(|request| request.body_json().unwrap())
        .collect();
    let [group, same, another] = [0, 1, 2].map(|n| bodies[n]["MessageGroupId"].as_str().unwrap());
    assert!(group == same && group != another, "{group} {another}");
    assert_eq!(bodies[0]["MessageDeduplicationId"], first.id);
    assert_eq!(bodies[1]["MessageDeduplicationId"], "second");
}

#[tokio::test]
async fn what_is_too_large_for_sqs_comes_in_several_messages() {
    let (server, aws) = answering(ok(json!({"MessageId": "m"}))).await;
    let url = format!("{QUEUE}.fifo");
    let queue = listeners("sqs", &[("QUEUE_URL", &url)], &aws).unwrap();
    tell(&queue, &large()).await.unwrap();
    let sent = requests(&server).await;
    let sent: Vec<Value> = sent
        .iter()
        .map(|request| request.body_json().unwrap())
        .collect();
    let bodies: Vec<_> = sent
        .iter()
        .map(|body| body["MessageBody"].as_str().unwrap())
        .collect();
    assert_tell_of_large(&bodies, 1024 * 1024);
    for message in &sent {
        let event: Value = serde_json::from_str(message["MessageBody"].as_str().unwrap()).unwrap();
        assert_eq!(message["MessageDeduplicationId"], event["id"]);
    }
}

#[tokio::test]
async fn eventbridge_gets_the_event_as_the_detail_of_one_that_rules_can_match() {
    let (server, aws) = answering(ok(
        json!({"FailedEntryCount": 0, "Entries": [{"EventId": "e"}]}),
    ))
    .await;
    let bus = listeners("eventbridge", &[("BUS", "kinto")], &aws).unwrap();
    let event = event(&["hello"]);
    tell(&bus, &event).await.unwrap();
    let request = &requests(&server).await[0];
    assert_eq!(header(request, "x-amz-target"), "AWSEvents.PutEvents");
    let expected = json!({"Entries": [{
        "EventBusName": "kinto", "Source": "kinto", "DetailType": "ResourceChanged", "Detail": event.to_json(),
        "Resources": [event.uri], "Time": 1_700_000_000,
    }]});
    assert_eq!(request.body_json::<Value>().unwrap(), expected);
}

#[tokio::test]
async fn what_is_too_large_for_eventbridge_comes_in_several_events() {
    let (server, aws) = answering(ok(
        json!({"FailedEntryCount": 0, "Entries": [{"EventId": "e"}]}),
    ))
    .await;
    let bus = listeners("eventbridge", &[("BUS", "kinto")], &aws).unwrap();
    tell(&bus, &large()).await.unwrap();
    let sent = requests(&server).await;
    let sent: Vec<Value> = sent
        .iter()
        .map(|request| request.body_json().unwrap())
        .collect();
    let details: Vec<_> = sent
        .iter()
        .map(|body| body["Entries"][0]["Detail"].as_str().unwrap())
        .collect();
    assert_tell_of_large(&details, 1_000_000);
}

#[tokio::test]
async fn an_entry_that_eventbridge_does_not_take_is_not_told() {
    for (code, gone) in [
        ("ThrottlingException", false),
        ("InternalFailure", false),
        ("InternalException", false),
        ("MalformedDetail", true),
        ("AccessDeniedException", true),
    ] {
        let entry = json!({"ErrorCode": code, "ErrorMessage": "no"});
        let (_server, aws) =
            answering(ok(json!({"FailedEntryCount": 1, "Entries": [entry]}))).await;
        let bus = listeners("eventbridge", &[("BUS", "kinto")], &aws).unwrap();
        let told = tell(&bus, &event(&["hello"])).await;
        assert!(told.as_ref().unwrap_err().to_string().contains(code));
        assert_eq!((is_gone(&told), is_failed(&told)), (gone, !gone), "{code}");
    }
}

#[tokio::test]
async fn a_function_is_called_with_the_event_and_waited_for() {
    let (server, aws) = answering(ok(Value::Null)).await;
    let function = listeners("lambda", &[("FUNCTION", FUNCTION)], &aws).unwrap();
    let event = event(&["hello"]);
    tell(&function, &event).await.unwrap();
    let request = &requests(&server).await[0];
    let name = FUNCTION.replace(':', "%3A");
    assert_eq!(
        request.url.path(),
        format!("/2015-03-31/functions/{name}/invocations")
    );
    assert!(matches!(
        header(request, "x-amz-invocation-type"),
        "" | "RequestResponse"
    ));
    assert_eq!(request.body_json::<ResourceChanged>().unwrap(), event);
}

#[tokio::test]
async fn what_is_too_large_for_a_function_is_named() {
    let (server, aws) = answering(ok(Value::Null)).await;
    let function = listeners("lambda", &[("FUNCTION", FUNCTION)], &aws).unwrap();
    let event = event(&[&"x".repeat(6_000_000)]);
    tell(&function, &event).await.unwrap();
    let told: ResourceChanged = requests(&server).await[0].body_json().unwrap();
    assert_eq!(told, event.truncated());
}

#[tokio::test]
async fn a_function_that_fails_is_not_told_and_one_that_refuses_says_so() {
    let failed =
        ok(json!({"errorMessage": "oops"})).insert_header("x-amz-function-error", "Unhandled");
    let (_server, aws) = answering(failed).await;
    let settings = [("FUNCTION", FUNCTION)];
    let told = tell(
        &listeners("lambda", &settings, &aws).unwrap(),
        &event(&[""]),
    )
    .await;
    assert!(is_failed(&told), "{told:?}");

    let refusal = json!({"refused": {"status": 409, "message": "Not today"}});
    let (_server, aws) = answering(ok(refusal)).await;
    let told = tell(
        &listeners("lambda", &settings, &aws).unwrap(),
        &event(&[""]),
    )
    .await;
    let message = "Not today".to_owned();
    assert_eq!(
        told,
        Err(NotifyError::Refused {
            status: 409,
            message
        })
    );
}

/// Each kind that is a call of AWS, with what it needs.
const OF_AWS: [(&str, (&str, &str)); 3] = [
    ("sqs", ("QUEUE_URL", QUEUE)),
    ("eventbridge", ("BUS", "kinto")),
    ("lambda", ("FUNCTION", FUNCTION)),
];

#[tokio::test]
async fn what_aws_cannot_do_now_is_told_apart_from_what_it_will_never_do() {
    for (code, setting) in OF_AWS {
        for (status, error, gone) in [
            (400, "ThrottlingException", false),
            (400, "RequestThrottled", false),
            (400, "KmsThrottled", false),
            (429, "TooManyRequestsException", false),
            (409, "ResourceConflictException", false),
            (500, "InternalFailure", false),
            (503, "ServiceUnavailable", false),
            (403, "AccessDeniedException", true),
            (404, "ResourceNotFoundException", true),
            (400, "QueueDoesNotExist", true),
            (413, "RequestTooLargeException", true),
        ] {
            let (_server, aws) = answering(aws_error(status, error)).await;
            let told = tell(&listeners(code, &[setting], &aws).unwrap(), &event(&[""])).await;
            assert_eq!(
                (is_gone(&told), is_failed(&told)),
                (gone, !gone),
                "{code} {error}: {told:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_function_with_too_many_calls_is_called_again_and_then_left_alone_as_long_as_it_says() {
    let answer = aws_error(429, "TooManyRequestsException").insert_header("retry-after", "7");
    let (server, aws) = answering(answer).await;
    let told = tell(
        &listeners("lambda", &[("FUNCTION", FUNCTION)], &aws).unwrap(),
        &event(&[""]),
    )
    .await;
    let Err(NotifyError::Failed { retry_after, .. }) = told else {
        panic!("{told:?}");
    };
    assert_eq!(retry_after, Some(Duration::from_secs(7)));
    assert!(requests(&server).await.len() > 1);
}

#[tokio::test]
async fn who_does_not_answer_in_time_is_not_told() {
    let (server, aws) = answering(ok(json!({})).set_delay(Duration::from_secs(30))).await;
    let url = server.uri();
    let webhook = [("URL", &*url), ("SECRET", WEBHOOK_SECRET)];
    let seconds = ("TIMEOUT_SECONDS", "3");
    let mut kinds: Vec<_> = OF_AWS
        .iter()
        .map(|(code, setting)| (*code, vec![*setting, seconds]))
        .collect();
    kinds.push(("webhook", [&webhook[..], &[seconds]].concat()));
    let told = kinds.into_iter().map(async |(code, settings)| {
        let listeners = listeners(code, &settings, &aws).unwrap();
        (code, tell(&listeners, &event(&[""])).await)
    });
    for (code, told) in futures::future::join_all(told).await {
        let Err(NotifyError::Failed { message, .. }) = told else {
            panic!("{code}: {told:?}");
        };
        assert_eq!(message, "no answer within 3s", "{code}");
    }
    // Nobody waits for a slow function twice.
    let calls = requests(&server).await;
    let calls = calls
        .iter()
        .filter(|request| request.url.path().ends_with("/invocations"));
    assert_eq!(calls.count(), 1);
}

/// Checks a request as <https://github.com/standard-webhooks/standard-webhooks> has it.
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

#[tokio::test]
async fn a_setting_that_is_missing_or_wrong_is_named() {
    let aws = Aws::new(&config("http://127.0.0.1:1").await);
    let webhook = [("URL", "http://localhost"), ("SECRET", WEBHOOK_SECRET)];
    let email = [
        ("SMTP_HOST", "localhost"),
        ("SENDER", "kinto@example.org"),
        ("RECIPIENTS", "ops@example.org"),
    ];
    for (code, fixed, setting, value) in [
        ("nobody", &[][..], "USE", "nobody"),
        ("sqs", &[], "QUEUE_URL", ""),
        ("eventbridge", &[], "BUS", ""),
        ("lambda", &[], "FUNCTION", ""),
        ("webhook", &webhook, "URL", ""),
        ("webhook", &webhook, "URL", "ftp://localhost"),
        ("webhook", &webhook, "SECRET", ""),
        ("webhook", &webhook, "SECRET", "short"),
        ("webhook", &webhook, "SECRET", "whsec_MfKQ9r8GKYqr"),
        (
            "webhook",
            &webhook,
            "SECRET",
            "whsec_!MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        ),
        ("email", &email, "SMTP_HOST", ""),
        ("email", &email, "SMTP_PORT", "66000"),
        ("email", &email, "SMTP_TLS", "maybe"),
        ("email", &email, "SMTP_CA_CERTIFICATE", "none"),
        (
            "email",
            &email,
            "SMTP_CA_CERTIFICATE",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        ),
        ("email", &email, "SENDER", ""),
        ("email", &email, "SENDER", "kinto"),
        ("email", &email, "RECIPIENTS", ""),
        ("email", &email, "RECIPIENTS", ","),
        ("email", &email, "RECIPIENTS", "ops@example.org, nobody"),
        ("email", &email, "SUBJECT", "{event}"),
        ("email", &email, "BODY", "{"),
    ] {
        let settings: Vec<_> = [(setting, value)]
            .into_iter()
            .chain(fixed.iter().copied().filter(|(name, _)| *name != setting))
            .collect();
        let error = listeners(code, &settings, &aws).unwrap_err();
        assert_eq!(
            error.variable,
            format!("KINTO_EVENT_LISTENERS_A_{setting}"),
            "{code}: {value}"
        );
    }
    for (given, named) in [
        (&[("USERNAME", "ada")][..], "PASSWORD"),
        (&[("PASSWORD", "hush")], "USERNAME"),
        (
            &[
                ("USERNAME", "ada"),
                ("PASSWORD", "hush"),
                ("SMTP_TLS", "none"),
            ],
            "PASSWORD",
        ),
    ] {
        let error = listeners("email", &[&email, given].concat(), &aws).unwrap_err();
        assert_eq!(error.variable, format!("KINTO_EVENT_LISTENERS_A_{named}"));
        assert!(!error.to_string().contains("hush"));
    }
}

/// What a listener is told, where one was made.
static TOLD: Mutex<Vec<String>> = Mutex::new(vec![]);

#[derive(Debug)]
struct Custom(String);

impl Listener for Custom {
    fn notify<'a>(&'a self, event: &'a ResourceChanged) -> BoxFuture<'a, Result<(), NotifyError>> {
        assert_ne!(self.0, "panics at once");
        Box::pin(async {
            match &*self.0 {
                "panics" => panic!("on purpose"),
                "sleeps" => std::future::pending().await,
                name => TOLD.lock().unwrap().push(format!("{name} {}", event.id)),
            }
            Ok(())
        })
    }
}

fn custom(parts: Parts<'_>) -> Result<Arc<dyn Listener>, SettingError> {
    Ok(Arc::new(Custom(parts.require("NAME")?.to_owned())))
}

#[tokio::test]
async fn code_of_your_own_goes_before_what_is_built_in() {
    let aws = Aws::new(&config("http://127.0.0.1:1").await);
    let own = with_custom("sqs", &[("NAME", "mine")], &aws, &[("sqs", custom)]).unwrap();
    let event = event(&[""]);
    tell(&own, &event).await.unwrap();
    assert_eq!(*TOLD.lock().unwrap(), [format!("mine {}", event.id)]);
}

#[tokio::test(start_paused = true)]
async fn code_that_panics_or_sleeps_fails() {
    let aws = Aws::new(&config("http://127.0.0.1:1").await);
    for name in ["panics", "panics at once", "sleeps"] {
        for settings in [
            &[("NAME", name)][..],
            &[("NAME", name), ("SYNCHRONOUS", "true")],
        ] {
            let listeners = with_custom("own", settings, &aws, &[("own", custom)]).unwrap();
            let told = tell(&listeners, &event(&[""])).await;
            assert!(is_failed(&told), "{name}: {told:?}");
            let told = listeners.notify_all(&[event(&[""])]).await;
            assert_eq!(told.unwrap_err().0, "a");
        }
    }
}

/// The settings of a listener that mails by this server.
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

/// That a listener `email` is told, with these settings besides.
async fn mail(
    smtp: &Smtp,
    more: &[(&str, &str)],
    event: &ResourceChanged,
) -> Result<(), NotifyError> {
    let aws = Aws::new(&config("http://127.0.0.1:1").await);
    let port = smtp.port.to_string();
    let mut settings = mailing(smtp, &port);
    settings.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    settings.extend(more.iter().copied());
    tell(&listeners("email", &settings, &aws).unwrap(), event).await
}

/// What stands between `DATA` and the dot.
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

#[tokio::test]
async fn an_email_is_sent_by_starttls_as_the_user_to_all_recipients() {
    let smtp = Smtp::start(false, &[]).await;
    mail(&smtp, &[], &event(&["hello"])).await.unwrap();
    let heard = smtp.heard();
    let commands: Vec<_> = heard
        .iter()
        .take(7)
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(
        commands,
        ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "RCPT"]
    );
    assert!(has(
        &heard,
        &format!("AUTH PLAIN {}", BASE64_STANDARD.encode("\0ada\0hush"))
    ));
    assert!(has(&heard, "MAIL FROM:<kinto@example.org>"));
    assert!(has(&heard, "RCPT TO:<ops@example.org>") && has(&heard, "RCPT TO:<eve@example.org>"));
    let mail = &mails(&heard)[0];
    for line in [
        "From: Kinto <kinto@example.org>",
        "To: Ops <ops@example.org>, eve@example.org",
        "Subject: record created: /buckets/a/collections/b/records",
        "Message-ID: <6e56e6fa-2a70-4a1b-9ea4-7f9cb2d3ba1c.a@example.org>",
        "Auto-Submitted: auto-generated",
        "Content-Type: text/plain; charset=utf-8",
        "User id: account:ada",
        "/buckets/a/collections/b/records/r0",
    ] {
        assert!(has(mail, line), "{line} in {mail:#?}");
    }
}

#[tokio::test]
async fn an_email_is_sent_by_tls_from_the_start_or_without_tls() {
    let smtp = Smtp::start(true, &[]).await;
    mail(&smtp, &[("SMTP_TLS", "implicit")], &event(&[""]))
        .await
        .unwrap();
    assert_eq!(mails(&smtp.heard()).len(), 1);

    let smtp = Smtp::start(false, &[]).await;
    let settings = [("SMTP_TLS", "none"), ("USERNAME", ""), ("PASSWORD", "")];
    mail(&smtp, &settings, &event(&[""])).await.unwrap();
    let heard = smtp.heard();
    assert_eq!(mails(&heard).len(), 1);
    assert!(!has(&heard, "STARTTLS"));
}

#[tokio::test]
async fn a_mail_server_that_cannot_be_trusted_hears_no_password() {
    // Signed by nobody that the system trusts; and by somebody else than it should be.
    let smtp = Smtp::start(false, &[]).await;
    let other = Smtp::start(false, &[]).await;
    for certificate in ["", &other.certificate] {
        let told = mail(
            &smtp,
            &[("SMTP_CA_CERTIFICATE", certificate)],
            &event(&[""]),
        )
        .await;
        assert!(is_failed(&told), "{told:?}");
        assert!(smtp.heard().ends_with(&["STARTTLS".to_owned()]));
    }
    // Its certificate is for another name.
    let told = mail(&smtp, &[("SMTP_HOST", "127.0.0.1")], &event(&[""])).await;
    assert!(is_failed(&told), "{told:?}");
    assert!(smtp.heard().ends_with(&["STARTTLS".to_owned()]));
    // Somebody between us cut STARTTLS out.
    let smtp = Smtp::start(false, &[("EHLO", "250-localhost\r\n250 AUTH PLAIN LOGIN")]).await;
    let told = mail(&smtp, &[], &event(&[""])).await;
    assert!(is_failed(&told), "{told:?}");
    assert!(smtp.heard().iter().all(|line| !line.starts_with("AUTH")));
}

#[tokio::test]
async fn what_a_mail_server_answers_says_whether_a_repetition_helps() {
    for answers in [
        &[("AUTH", "535 Who are you?")],
        &[("MAIL", "550 Not from you")],
        &[("RCPT TO:<eve", "550 No such user")],
        &[(".", "554 Spam")],
    ] {
        let smtp = Smtp::start(false, answers).await;
        let told = mail(&smtp, &[], &event(&[""])).await;
        assert!(is_gone(&told), "{answers:?}: {told:?}");
    }
    for answers in [
        &[("EHLO", "421 Closing")],
        &[("STARTTLS", "454 Not now")],
        &[("AUTH", "454 Not now")],
        &[("RCPT", "450 Busy")],
        &[(
            ".",
            "454 Throttling failure: Maximum sending rate exceeded.",
        )],
        &[("DATA", "nonsense")],
    ] {
        let smtp = Smtp::start(false, answers).await;
        let told = mail(&smtp, &[], &event(&[""])).await;
        assert!(is_failed(&told), "{answers:?}: {told:?}");
    }
    let smtp = Smtp::start(false, &[]).await;
    let told = mail(&smtp, &[("SMTP_PORT", "1")], &event(&[""])).await;
    assert!(is_failed(&told), "{told:?}");
}

#[tokio::test]
async fn an_email_is_what_its_templates_make_of_the_event() {
    let smtp = Smtp::start(false, &[]).await;
    let templates = [
        ("SUBJECT", "{action} in {bucket_id} größer{record_id}"),
        ("BODY", "{{{timestamp}}}\n{impacted_records}\n"),
    ];
    mail(&smtp, &templates, &event(&["hello"])).await.unwrap();
    let mail = &mails(&smtp.heard())[0];
    let subject = format!(
        "Subject: create in a =?utf-8?b?{}?=",
        BASE64_STANDARD.encode("größer")
    );
    assert!(has(mail, &subject), "{mail:#?}");
    assert!(
        has(mail, "{9}") && has(mail, "      \"text\": \"hello\""),
        "{mail:#?}"
    );
}

#[tokio::test]
async fn the_example_sends_an_email_about_new_buckets() {
    let smtp = Smtp::start(false, &[]).await;
    let aws = Aws::new(&config("http://127.0.0.1:1").await);
    let port = smtp.port.to_string();
    let mut settings = mailing(&smtp, &port);
    settings.extend([("ACTIONS", "create"), ("RESOURCES", "bucket")]);
    let custom: [(&str, Make); 1] = [("bucket_mail", bucket_mail::make)];
    let listeners = with_custom("bucket_mail", &settings, &aws, &custom).unwrap();
    tell(&listeners, &event(&[""])).await.unwrap();
    assert_eq!(smtp.heard(), [""; 0]);
    let bucket = ResourceChanged {
        resource_name: "bucket".to_owned(),
        impacted_uris: vec!["/buckets/r0".to_owned()],
        ..event(&[""])
    };
    tell(&listeners, &bucket).await.unwrap();
    let mail = &mails(&smtp.heard())[0];
    assert!(has(mail, "Subject: New in Kinto: r0"), "{mail:#?}");
    assert!(
        has(mail, "account:ada created") && has(mail, "/buckets/r0"),
        "{mail:#?}"
    );
}

/// A local stack whose listener is the example's, told before the commit or after it.
async fn stack_with_example(smtp: &Smtp, synchronous: &str) -> Stack {
    let port = smtp.port.to_string();
    let mut settings = mailing(smtp, &port);
    settings.extend([
        ("USE", "bucket_mail"),
        ("ACTIONS", "create"),
        ("RESOURCES", "bucket"),
        ("SYNCHRONOUS", synchronous),
    ]);
    let settings = settings.into_iter();
    let mut vars: Vars = settings
        .map(|(name, value)| (format!("KINTO_EVENT_LISTENERS_A_{name}"), value))
        .collect();
    vars.set_default("KINTO_EVENT_LISTENERS", "a");
    let options = Options::default();
    let aws = LocalAws::sqlite().unwrap();
    let custom = &[("bucket_mail", bucket_mail::make as Make)];
    Stack::over(aws, &options, vars, custom).await.unwrap()
}

/// Creates a bucket; gives the status.
async fn create_bucket(stack: &Stack, id: &str) -> u16 {
    let url = format!("{}buckets/{id}", stack.url());
    let request = reqwest::Client::new().put(url).basic_auth("ada", Some(""));
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn the_example_mails_after_the_commit_in_a_stack() {
    let smtp = Smtp::start(false, &[]).await;
    let stack = stack_with_example(&smtp, "false").await;
    assert_eq!(create_bucket(&stack, "blog").await, 201);
    let mut heard = vec![];
    let mailed = async {
        while !heard.contains(&".".to_owned()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            heard.extend(smtp.heard());
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), mailed).await;
    in_time.unwrap();
    assert!(has(&mails(&heard)[0], "Subject: New in Kinto: blog"));
}

#[tokio::test]
async fn the_example_mails_before_the_commit_in_a_stack_and_without_a_mail_there_is_no_bucket() {
    let smtp = Smtp::start(false, &[]).await;
    let stack = stack_with_example(&smtp, "true").await;
    assert_eq!(create_bucket(&stack, "blog").await, 201);
    assert!(has(&mails(&smtp.heard())[0], "Subject: New in Kinto: blog"));

    let broken = Smtp::start(false, &[("MAIL", "451 later")]).await;
    let stack = stack_with_example(&broken, "true").await;
    assert_eq!(create_bucket(&stack, "blog").await, 503);
    let url = format!("{}buckets/blog", stack.url());
    let request = reqwest::Client::new().get(url).basic_auth("ada", Some(""));
    assert_eq!(request.send().await.unwrap().status().as_u16(), 403);
}

#[tokio::test]
async fn nothing_that_a_client_chose_begins_a_header_or_ends_the_mail() {
    let smtp = Smtp::start(false, &[]).await;
    for end in ["\r\n", "\n", "\r"] {
        let chosen = format!(
            "ada{end}Bcc: mallory@example.org{end}{end}.{end}RCPT TO:<mallory@example.org>{end}"
        );
        let event = ResourceChanged {
            user_id: Some(chosen),
            ..event(&[""])
        };
        mail(
            &smtp,
            &[("SUBJECT", "{user_id}"), ("BODY", "{user_id}")],
            &event,
        )
        .await
        .unwrap();
        let heard = smtp.heard();
        assert!(
            heard
                .iter()
                .all(|line| !line.contains('\r') && !line.contains('\n'))
        );
        let recipients = heard.iter().take_while(|line| *line != "DATA");
        assert_eq!(
            recipients.filter(|line| line.starts_with("RCPT")).count(),
            2
        );
        let mails = mails(&heard);
        assert_eq!(mails.len(), 1);
        let headers: Vec<_> = mails[0]
            .iter()
            .take_while(|line| !line.is_empty())
            .collect();
        assert!(
            headers.iter().all(|line| !line.starts_with("Bcc")),
            "{headers:#?}"
        );
    }
}

#[tokio::test]
async fn an_email_is_no_longer_than_people_and_servers_take() {
    let smtp = Smtp::start(false, &[]).await;
    let event = ResourceChanged {
        uri: "/x".repeat(2000),
        ..event(&[&"x".repeat(1_000_000)])
    };
    let body = ("BODY", "{impacted_records}");
    mail(&smtp, &[("SUBJECT", "{uri}"), body], &event)
        .await
        .unwrap();
    let mail = &mails(&smtp.heard())[0];
    let size: usize = mail.iter().map(|line| line.len() + 2).sum();
    assert!(size < 200_000, "{size}");
    assert!(mail.iter().all(|line| line.len() <= 998));
}
