//! `KINTO_INI`: settings in a file stored elsewhere.

use std::path::Path;
use std::process::Command;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_secretsmanager::config::Credentials;
use kinto_serverless::settings::{Settings, Vars};
use kinto_serverless::settings_file;
use serde_json::json;
use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

const INI: &str =
    "[app:main]\nuse = egg:kinto\nkinto.userid_hmac_secret = s\nkinto.paginate_by = 7\n";
const PARAMETER: &str = "arn:aws:ssm:eu-central-1:123456789012:parameter/kinto/ini:3";
const OBJECT: &str = "arn:aws:s3:::settings/a folder/kinto.ini";

async fn aws(server: &MockServer) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .endpoint_url(server.uri())
        .credentials_provider(Credentials::new(
            "id",
            "key",
            Some("token".into()),
            None,
            "test",
        ))
        .load()
        .await
}

async fn page_size(reference: &str, config: &SdkConfig) -> Result<Option<usize>, String> {
    let mut vars: Vars = [("KINTO_INI", reference)].into_iter().collect();
    let added = settings_file::read(&mut vars, config).await;
    added.map_err(|error| error.to_string())?;
    Ok(Settings::from_vars(&vars).unwrap().api.paginate_by)
}

#[tokio::test]
async fn settings_come_from_a_parameter_of_systems_manager() {
    let server = MockServer::start().await;
    Mock::given(matchers::header("x-amz-target", "AmazonSSM.GetParameter"))
        .and(matchers::body_json(
            json!({"Name": PARAMETER, "WithDecryption": true}),
        ))
        .respond_with(
            ResponseTemplate::new(200).set_body_json(json!({"Parameter": {"Value": INI}})),
        )
        .expect(1)
        .mount(&server)
        .await;
    let config = aws(&server).await;
    assert_eq!(page_size(PARAMETER, &config).await, Ok(Some(7)));
}

#[tokio::test]
async fn settings_come_from_an_object_of_s3_by_one_signed_request() {
    let server = MockServer::start().await;
    Mock::given(matchers::method("GET"))
        .and(matchers::path("/settings/a%20folder/kinto.ini"))
        .and(matchers::header_exists("x-amz-content-sha256"))
        .and(matchers::header_exists("x-amz-date"))
        .and(matchers::header("x-amz-security-token", "token"))
        .and(matchers::header_regex(
            "authorization",
            "^AWS4-HMAC-SHA256 Credential=id/[0-9]{8}/eu-central-1/s3/aws4_request, ",
        ))
        .respond_with(ResponseTemplate::new(200).set_body_string(INI))
        .expect(1)
        .mount(&server)
        .await;
    let config = aws(&server).await;
    assert_eq!(page_size(OBJECT, &config).await, Ok(Some(7)));
    let missing = page_size("arn:aws:s3:::settings/none.ini", &config).await;
    assert_eq!(
        missing.unwrap_err(),
        "KINTO_INI: the object cannot be read: S3 answers 404 Not Found"
    );
}

#[tokio::test]
async fn nothing_is_asked_without_a_reference_and_a_wrong_one_is_named() {
    let server = MockServer::start().await;
    let config = aws(&server).await;
    settings_file::read(&mut Vars::default(), &config)
        .await
        .unwrap();
    for wrong in [
        "arn:aws:s3:::bucket",
        "arn:aws:sqs:eu-central-1:1:q",
        "/no/such/kinto.ini",
    ] {
        let error = page_size(wrong, &config).await.unwrap_err();
        assert!(error.starts_with("KINTO_INI: "), "{error}");
    }
    assert_eq!(server.received_requests().await.unwrap().len(), 0);
}

/// Runs a program of `tests/settings`, which needs real Kinto and what `cargo test --workspace` builds; it counts the differences.
fn nothing_differs(program: &str) {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let compared = Command::new(workspace.join("target/venv/bin/python"))
        .args(["-W", "ignore"])
        .arg(workspace.join("tests/settings").join(program))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&compared.stdout);
    assert!(compared.status.success(), "{said}");
    assert!(said.contains(" passed, 0 failed"), "{said}");
}

#[test]
#[ignore = "needs real Kinto: tests/run"]
fn a_kinto_ini_says_here_what_it_says_to_kinto() {
    nothing_differs("__main__.py");
}

#[test]
#[ignore = "needs PasteDeploy: tests/run"]
fn random_files_are_read_as_pastedeploy_reads_them() {
    nothing_differs("fuzz.py");
}
