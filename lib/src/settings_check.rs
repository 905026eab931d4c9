//! Tries the settings of all functions while the stack is deployed, before any function that serves is replaced.
//!
//! `CloudFormation` asks by a custom resource of template.yaml, whose function has the new code and the new variables. A
//! refusal fails the deployment; what serves was not touched (decision 26).
//!
//! Source of the events: <https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/crpg-ref.html>

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::environment::Environment;
use crate::startup;
use crate::{hmac, http_client};

/// The variable by which a function that has the api's code knows that it is to answer these events.
pub const CHECKS_SETTINGS: &str = "CHECKS_SETTINGS";
/// What a permission that the same deployment gives may take until it holds everywhere.
const PAUSES: [Duration; 3] = [
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// `CloudFormation` takes 4,096 bytes of an answer.
const MAX_REASON: usize = 1_000;

/// What `CloudFormation` asks.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Request {
    request_type: RequestType,
    /// Where the answer goes: a signed URL of S3.
    #[serde(rename = "ResponseURL")]
    response_url: String,
    stack_id: String,
    request_id: String,
    logical_resource_id: String,
    /// What we answered last; nothing when the stack is created.
    physical_resource_id: Option<String>,
    /// The parameters of the stack that functions depend on, and which code they run.
    #[serde(default)]
    resource_properties: Value,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
enum RequestType {
    Create,
    Update,
    Delete,
}

/// What it is answered.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Answer<'a> {
    status: Status,
    reason: String,
    /// Names the properties that were found right last.
    physical_resource_id: String,
    stack_id: &'a str,
    request_id: &'a str,
    logical_resource_id: &'a str,
    data: BTreeMap<&'static str, String>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Status {
    Success,
    Failed,
}

/// Tries the settings if there are new ones, and tells `CloudFormation`.
///
/// # Errors
/// The answer cannot be delivered; then the deployment fails once the resource's `ServiceTimeout` is over.
pub async fn handle(request: Request) -> Result<(), reqwest::Error> {
    let variables = std::env::vars().collect();
    let answer = decide(&request, &variables, &PAUSES, start_all).await;
    tracing::info!(status = ?answer.status, reason = answer.reason, "settings were tried");
    let client = http_client::builder(CONNECT_TIMEOUT).build()?;
    // The signature is over no content type.
    let sent = client
        .put(&request.response_url)
        .header("content-type", "")
        .body(serde_json::to_vec(&answer).unwrap_or_default())
        .send();
    let answered = sent.await.and_then(reqwest::Response::error_for_status);
    // Whoever has the URL, which is signed, could answer in this function's place, and the runtime logs the error.
    answered.map_err(reqwest::Error::without_url)?;
    Ok(())
}

async fn decide<'r>(
    request: &'r Request,
    variables: &BTreeMap<String, String>,
    pauses: &[Duration],
    start: impl AsyncFn() -> Result<(), CannotStart>,
) -> Answer<'r> {
    let properties = format!(
        "settings-{}",
        &fingerprint([&request.resource_properties.to_string()])[..16]
    );
    let before = request.physical_resource_id.as_ref();
    // A deployment that failed goes back to what was found right: that must not fail, whatever became of a file meanwhile.
    let is_known = before == Some(&properties);
    let result = if request.request_type == RequestType::Delete || is_known {
        Ok(())
    } else {
        with_pauses(pauses, start).await
    };
    let (status, reason, id) = match result {
        Ok(()) if request.request_type == RequestType::Delete => (
            Status::Success,
            String::new(),
            before.unwrap_or(&properties).clone(),
        ),
        Ok(()) => (Status::Success, String::new(), properties),
        Err(CannotStart(reason)) => {
            let reason = reason.chars().take(MAX_REASON).collect();
            (
                Status::Failed,
                reason,
                before.map_or_else(|| "refused".to_owned(), Clone::clone),
            )
        }
    };
    Answer {
        status,
        reason,
        physical_resource_id: id,
        stack_id: &request.stack_id,
        request_id: &request.request_id,
        logical_resource_id: &request.logical_resource_id,
        data: BTreeMap::from([("Digest", digest(&request.resource_properties, variables))]),
    }
}

/// A function of the stack cannot start with the settings that are tried. Holds the causes too, as text: an operator reads it
/// in the events of the stack.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct CannotStart(String);

impl CannotStart {
    fn of(function: &str, error: &dyn Error) -> Self {
        let mut reason = format!("the {function} cannot start: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            let _ = write!(reason, ": {error}");
            cause = error.source();
        }
        Self(reason)
    }
}

/// Starts once more after each pause until that works.
async fn with_pauses(
    pauses: &[Duration],
    start: impl AsyncFn() -> Result<(), CannotStart>,
) -> Result<(), CannotStart> {
    for pause in pauses {
        match start().await {
            Ok(()) => return Ok(()),
            Err(error) => tracing::warn!(reason = error.0, "tried again"),
        }
        tokio::time::sleep(*pause).await;
    }
    start().await
}

/// Starts each function of the stack as it starts by itself, and throws it away.
async fn start_all() -> Result<(), CannotStart> {
    let environment = Environment::of_process().await;
    // On the heap, as the compiler does not look into types so deep.
    Box::pin(startup::api(environment.clone()))
        .await
        .map_err(|it| CannotStart::of("api", &it))?;
    Box::pin(startup::aggregator(environment.clone()))
        .await
        .map_err(|it| CannotStart::of("changes-aggregator", &it))?;
    Box::pin(startup::broadcaster(environment.clone()))
        .await
        .map_err(|it| CannotStart::of("broadcaster", &it))?;
    if std::env::var_os("NOTIFICATION_QUEUE_URL").is_some() {
        Box::pin(startup::notifier(environment))
            .await
            .map_err(|it| CannotStart::of("notifier", &it))?;
    }
    Ok(())
}

/// Names the settings: another name where anything of them is another, so that functions start anew with them.
fn digest(properties: &Value, variables: &BTreeMap<String, String>) -> String {
    const OURS: [&str; 5] = [
        "KINTO_",
        "TABLE_NAME",
        "BROADCAST_",
        "NOTIFICATION_",
        "CONFIG_REVISION",
    ];
    let variables = variables
        .iter()
        .filter(|(name, _)| OURS.iter().any(|ours| name.starts_with(ours)))
        .map(|(name, value)| format!("{name}={value}"));
    let parameters = properties["Parameters"].to_string();
    fingerprint(variables.chain([parameters]))
}

fn fingerprint<T: AsRef<str>>(parts: impl IntoIterator<Item = T>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_ref().len().to_be_bytes());
        hash.update(part.as_ref());
    }
    hmac::hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::json;

    use super::*;

    fn request(kind: &str, before: Option<&str>, revision: &str) -> Request {
        let request = json!({
            "RequestType": kind,
            "ResponseURL": "https://cloudformation.example/answer",
            "StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/kinto/1",
            "RequestId": "r",
            "LogicalResourceId": "Settings",
            "PhysicalResourceId": before,
            "ResourceType": "Custom::Settings",
            "ResourceProperties": {"Parameters": [revision], "ServiceTimeout": "120"},
        });
        serde_json::from_value(request).unwrap()
    }

    async fn decide_at_once(
        request: &Request,
        result: Result<(), &str>,
    ) -> (Status, String, String) {
        let start = async || result.map_err(|reason| CannotStart(reason.to_owned()));
        let answer = decide(request, &BTreeMap::new(), &[], start).await;
        (answer.status, answer.reason, answer.physical_resource_id)
    }

    #[tokio::test]
    async fn the_signed_url_of_the_answer_is_in_no_error() {
        let mut request = request("Delete", None, "1");
        // Nobody listens there.
        request.response_url = "http://127.0.0.1:9/answer?X-Amz-Signature=hush".to_owned();
        let error = handle(request).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
    }

    #[tokio::test]
    async fn settings_that_stop_a_start_fail_the_deployment_with_the_reason() {
        let create = request("Create", None, "1");
        let refused = Err("the api cannot start: KINTO_EOS: not a date");
        let (status, reason, id) = decide_at_once(&create, refused).await;
        assert_eq!((status, id.as_str()), (Status::Failed, "refused"));
        assert_eq!(reason, "the api cannot start: KINTO_EOS: not a date");
    }

    #[tokio::test]
    async fn what_is_right_is_named_and_may_be_gone_back_to_whatever_becomes_of_it() {
        let (status, _, first) = decide_at_once(&request("Create", None, "1"), Ok(())).await;
        assert_eq!(status, Status::Success);
        // The update is refused and keeps the name; to go back asks with the properties of before.
        let update = request("Update", Some(&first), "2");
        let (status, _, kept) = decide_at_once(&update, Err("no")).await;
        assert_eq!((status, &kept), (Status::Failed, &first));
        let back = request("Update", Some(&kept), "1");
        let (status, _, id) = decide_at_once(&back, Err("the file is broken")).await;
        assert_eq!((status, id), (Status::Success, first));
    }

    #[tokio::test]
    async fn the_resource_can_always_be_deleted() {
        for before in ["refused", "settings-1"] {
            let delete = request("Delete", Some(before), "1");
            let (status, _, id) = decide_at_once(&delete, Err("no")).await;
            assert_eq!((status, id.as_str()), (Status::Success, before));
        }
    }

    #[tokio::test]
    async fn a_permission_that_does_not_hold_yet_is_waited_for() {
        let attempts = Cell::new(0);
        let start = async || {
            attempts.set(attempts.get() + 1);
            if attempts.get() < 3 {
                Err(CannotStart("access denied".to_owned()))
            } else {
                Ok(())
            }
        };
        let create = request("Create", None, "1");
        let answer = decide(&create, &BTreeMap::new(), &[Duration::ZERO; 3], start).await;
        assert_eq!((answer.status, attempts.get()), (Status::Success, 3));
    }

    #[test]
    fn another_setting_is_another_digest_and_what_lambda_adds_is_none() {
        let variables = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            pairs.collect::<BTreeMap<_, _>>()
        };
        let properties = json!({"Parameters": ["a"], "Code": "1"});
        let of = |pairs: &[(&str, &str)]| digest(&properties, &variables(pairs));
        let first = of(&[("KINTO_INI", "a")]);
        assert_ne!(first, of(&[("KINTO_INI", "b")]));
        assert_ne!(first, of(&[("KINTO_INI", "a"), ("TABLE_NAME", "t")]));
        assert_eq!(first, of(&[("KINTO_INI", "a"), ("AWS_SESSION_TOKEN", "x")]));
        let no_variables = variables(&[]);
        let by_code = json!({"Parameters": ["a"], "Code": "2"});
        assert_eq!(
            digest(&properties, &no_variables),
            digest(&by_code, &no_variables)
        );
    }

    #[test]
    fn an_answer_has_the_names_that_cloudformation_reads() {
        let request = request("Create", None, "1");
        let answer = Answer {
            status: Status::Failed,
            reason: "why".to_owned(),
            physical_resource_id: "refused".to_owned(),
            stack_id: &request.stack_id,
            request_id: &request.request_id,
            logical_resource_id: &request.logical_resource_id,
            data: BTreeMap::from([("Digest", "d".to_owned())]),
        };
        let expected = json!({
            "Status": "FAILED",
            "Reason": "why",
            "PhysicalResourceId": "refused",
            "StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/kinto/1",
            "RequestId": "r",
            "LogicalResourceId": "Settings",
            "Data": {"Digest": "d"},
        });
        assert_eq!(serde_json::to_value(&answer).unwrap(), expected);
    }
}
