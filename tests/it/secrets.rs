//! Settings that refer to secrets stored elsewhere.

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_secretsmanager::config::Credentials;
use kinto_serverless::secrets;
use kinto_serverless::settings::Vars;
use serde_json::{Value, json};
use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

const SECRET: &str = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:key-AbCdEf";
const PARAMETER: &str = "arn:aws:ssm:eu-central-1:123456789012:parameter/kinto/key";

/// An AWS that answers these operations.
async fn aws(answers: &[(&str, Value, u16, Value)]) -> (MockServer, SdkConfig) {
    let server = MockServer::start().await;
    for (target, request, status, answer) in answers {
        Mock::given(matchers::header("x-amz-target", *target))
            .and(matchers::body_json(request))
            .respond_with(ResponseTemplate::new(*status).set_body_json(answer))
            .expect(1)
            .mount(&server)
            .await;
    }
    let config = config(&server).await;
    (server, config)
}

async fn config(server: &MockServer) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .endpoint_url(server.uri())
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .load()
        .await
}

#[tokio::test]
async fn an_arn_stands_for_what_is_kept_there_and_only_what_is_needed_is_read() {
    let (_server, config) = aws(&[
        (
            "secretsmanager.GetSecretValue",
            json!({"SecretId": SECRET}),
            200,
            json!({"SecretString": "of the manager"}),
        ),
        (
            "AmazonSSM.GetParameter",
            json!({"Name": PARAMETER, "WithDecryption": true}),
            200,
            json!({"Parameter": {"Value": "of the store"}}),
        ),
    ])
    .await;
    let mut vars: Vars = [
        ("A", SECRET),
        ("B", PARAMETER),
        ("C", "itself"),
        ("D", PARAMETER),
    ]
    .into_iter()
    .collect();
    secrets::resolve(&mut vars, |name| name != "D", &config)
        .await
        .unwrap();
    let read = ["A", "B", "C", "D"].map(|name| vars.get(name).unwrap());
    assert_eq!(
        read,
        ["of the manager", "of the store", "itself", PARAMETER]
    );
}

#[tokio::test]
async fn a_secret_in_an_answer_that_cannot_be_read_is_in_no_error() {
    let server = MockServer::start().await;
    Mock::given(matchers::any())
        .respond_with(ResponseTemplate::new(200).set_body_string("{\"SecretString\": \"hush"))
        .mount(&server)
        .await;
    let config = config(&server).await;
    for arn in [SECRET, PARAMETER] {
        let mut vars: Vars = [("KEY", arn)].into_iter().collect();
        let error = secrets::resolve(&mut vars, |_| true, &config).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("cannot be read"), "{error}");
        assert!(!error.contains("hush"), "{error}");
    }
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_names_the_setting() {
    let refusal = json!({"__type": "ParameterNotFound"});
    let request = json!({"Name": PARAMETER, "WithDecryption": true});
    let (_server, config) = aws(&[("AmazonSSM.GetParameter", request, 400, refusal)]).await;
    let mut vars: Vars = [("KEY", PARAMETER)].into_iter().collect();
    let error = secrets::resolve(&mut vars, |_| true, &config)
        .await
        .unwrap_err();
    assert_eq!(error.variable, "KEY");
    assert!(error.problem.contains("ParameterNotFound"), "{error}");
}

#[tokio::test]
async fn a_read_that_is_throttled_or_fails_there_is_repeated_and_no_other() {
    let throttled = || {
        ResponseTemplate::new(400)
            .set_body_json(json!({"__type": "com.amazonaws.ssm#ThrottlingException"}))
    };
    let answer =
        || ResponseTemplate::new(200).set_body_json(json!({"Parameter": {"Value": "hush"}}));
    let refused =
        || ResponseTemplate::new(400).set_body_json(json!({"__type": "AccessDeniedException"}));
    let failed = || ResponseTemplate::new(503);
    let cases = [
        (vec![throttled(), failed(), answer()], Ok("hush"), 3),
        (
            vec![failed(), throttled(), failed(), answer()],
            Err("503"),
            3,
        ),
        (vec![refused(), answer()], Err("AccessDeniedException"), 1),
    ];
    for (answers, expected, requests) in cases {
        let server = MockServer::start().await;
        for answer in answers {
            let one = Mock::given(matchers::path("/")).respond_with(answer);
            one.up_to_n_times(1).mount(&server).await;
        }
        let mut vars: Vars = [("KEY", PARAMETER)].into_iter().collect();
        let read = secrets::resolve(&mut vars, |_| true, &config(&server).await).await;
        match expected {
            Ok(value) => assert_eq!(vars.get("KEY"), Some(value), "{read:?}"),
            Err(problem) => assert!(read.unwrap_err().problem.contains(problem)),
        }
        assert_eq!(server.received_requests().await.unwrap().len(), requests);
    }
}
