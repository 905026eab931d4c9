//! Clients written for Kinto against the local stack, and the stack against Kinto itself.
//!
//! The clients' scripts are in `tests/clients`, the comparison is `tests/differential`; `tests/run` installs the
//! programs that run both in `target/`. For more sequences set `DIFFERENTIAL_SEQUENCES`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kinto_local::{Options, Stack};
use tests::CHEAP_HASHES;
use tokio::net::TcpListener;
use tokio::process::Command;

/// The time limit of a client. It takes seconds; this allows for busy machines.
const PATIENCE: Duration = Duration::from_secs(300);

/// Enough for a build to find outright breakage; a release takes 5,000.
const SEQUENCES: &str = "200";
/// The same for events: 15 seconds.
const EVENT_SEQUENCES: &str = "40";

/// A build must not fail by chance: only a long run has a new seed each time.
const SEED: &str = "build";

#[tokio::test]
#[ignore = "needs kinto-http for Python: tests/run"]
async fn kinto_http_for_python_works_unchanged() {
    client("python", "with_kinto_http.py").await;
}

#[tokio::test]
#[ignore = "needs kinto-http for Python: tests/run"]
async fn kinto_http_for_python_requests_declines_approves_and_takes_back() {
    let pem = crate::signer::new_key().0;
    let stack = stack(&[
        ("KINTO_INCLUDES", "kinto_remote_settings"),
        ("KINTO_SIGNER_TO_REVIEW_ENABLED", "true"),
        ("KINTO_SIGNER_ECDSA_PRIVATE_KEY", &pem),
    ])
    .await;
    client_of(&stack, "python", "with_reviews.py").await;
    stack.stop().await;
}

#[tokio::test]
#[ignore = "needs node and kinto-http for JavaScript: tests/run"]
async fn kinto_http_for_javascript_works_unchanged() {
    client("node", "with_kinto_http.mjs").await;
}

#[tokio::test]
#[ignore = "needs node and kinto.js: tests/run"]
async fn two_kinto_js_clients_stay_in_sync() {
    client("node", "with_kinto.mjs").await;
}

#[tokio::test]
#[ignore = "needs node, Kinto Admin and Chromium: tests/run"]
async fn kinto_admin_works_in_a_browser() {
    let build = workspace().join("admin/opt/admin");
    let stack = stack(&[
        ("KINTO_INCLUDES", "kinto.plugins.admin"),
        ("KINTO_ADMIN_ASSETS_PATH", &build.display().to_string()),
    ])
    .await;
    client_of(&stack, "node", "with_kinto_admin.mjs").await;
    stack.stop().await;
}

#[tokio::test]
#[ignore = "needs node, Kinto Admin and Chromium: tests/run"]
async fn kinto_admin_reviews_and_shows_the_history_in_a_browser() {
    let build = workspace().join("admin/opt/admin");
    let pem = crate::signer::new_key().0;
    let includes = "kinto.plugins.admin kinto.plugins.history kinto_remote_settings";
    let stack = stack(&[
        ("KINTO_INCLUDES", includes),
        ("KINTO_ADMIN_ASSETS_PATH", &build.display().to_string()),
        ("KINTO_SIGNER_TO_REVIEW_ENABLED", "true"),
        ("KINTO_SIGNER_ECDSA_PRIVATE_KEY", &pem),
    ])
    .await;
    client_of(&stack, "node", "with_kinto_admin_reviews.mjs").await;
    stack.stop().await;
}

#[tokio::test]
#[ignore = "needs Kinto's source: tests/run"]
async fn kintos_own_tests_fail_only_where_it_is_said() {
    let mut python = installed("python");
    python.arg(workspace().join("tests/kinto"));
    // It ends by itself, as the comparison does.
    assert!(succeeds(python).await, "a test of Kinto's, see above");
}

#[tokio::test]
#[ignore = "needs Kinto: tests/run"]
async fn random_requests_are_answered_as_by_kinto() {
    let stack = stack(&[]).await;
    compare(&stack, SEQUENCES, &[]).await;
    stack.stop().await;
}

#[tokio::test]
#[ignore = "needs Kinto: tests/run"]
async fn histories_of_random_writes_are_those_of_kinto() {
    let stack = stack(&[("KINTO_INCLUDES", "kinto.plugins.history")]).await;
    compare(&stack, EVENT_SEQUENCES, &["--history"]).await;
    stack.stop().await;
}

#[tokio::test]
#[ignore = "needs Kinto: tests/run"]
async fn a_listener_hears_of_random_requests_what_kintos_hears() {
    // Released at once, so that the script can listen there.
    let webhook = TcpListener::bind("127.0.0.1:0").await;
    let port = webhook.and_then(|webhook| webhook.local_addr());
    let port = port.expect("there is a port").port().to_string();
    let url = format!("http://127.0.0.1:{port}/");
    let stack = stack(&[
        (
            "KINTO_INCLUDES",
            "kinto.plugins.default_bucket kinto.plugins.accounts",
        ),
        // The same as the local stack's other secret, and as the script's.
        ("KINTO_DEFAULT_BUCKET_HMAC_SECRET", "local"),
        ("KINTO_ACCOUNT_CREATE_PRINCIPALS", "system.Everyone"),
        ("KINTO_MULTIAUTH_POLICIES", "account basicauth"),
        (
            "KINTO_MULTIAUTH_POLICY_ACCOUNT_USE",
            "kinto.plugins.accounts.AccountsPolicy",
        ),
        ("KINTO_EVENT_LISTENERS", "w"),
        ("KINTO_EVENT_LISTENERS_W_USE", "webhook"),
        ("KINTO_EVENT_LISTENERS_W_URL", &url),
        (
            "KINTO_EVENT_LISTENERS_W_SECRET",
            "the differential test's own secret",
        ),
        ("KINTO_EVENT_LISTENERS_W_SYNCHRONOUS", "true"),
    ])
    .await;
    compare(&stack, EVENT_SEQUENCES, &["--events", &port]).await;
    stack.stop().await;
}

/// The objects that `tests/openapi/schemathesis.toml` needs in order to request more than missing ones.
const THERE: [&str; 4] = [
    "buckets/main",
    "buckets/main/collections/one",
    "buckets/main/groups/g",
    "buckets/main/collections/one/records/r",
];

#[tokio::test]
#[ignore = "needs schemathesis: tests/run"]
async fn the_openapi_document_tells_what_is_taken_and_what_is_answered() {
    let stack = stack(&[
        ("KINTO_INCLUDES", "kinto.plugins.accounts"),
        ("KINTO_ACCOUNT_CREATE_PRINCIPALS", "system.Everyone"),
        ("KINTO_ACCOUNT_WRITE_PRINCIPALS", "system.Authenticated"),
        ("KINTO_MULTIAUTH_POLICIES", "account basicauth"),
        (
            "KINTO_MULTIAUTH_POLICY_ACCOUNT_USE",
            "kinto.plugins.accounts.AccountsPolicy",
        ),
    ])
    .await;
    let client = reqwest::Client::new();
    for path in THERE {
        let put = client.put(format!("{}{path}", stack.url()));
        let put = put.basic_auth("alice", Some("secret")).send().await;
        assert_eq!(put.unwrap().status(), 201, "{path}");
    }
    let mut command = installed("schemathesis");
    command
        .current_dir(workspace().join("tests/openapi"))
        .args(["--config-file", "schemathesis.toml", "run"])
        .arg(format!("{}__api__", stack.url()))
        .args(["--no-color", "--generation-database", "none"])
        .args(["--seed", "1", "--max-examples", "8"]);
    let succeeded = tokio::time::timeout(PATIENCE, succeeds(command)).await;
    assert_eq!(
        succeeded,
        Ok(true),
        "schemathesis found something, see above"
    );
    stack.stop().await;
}

/// Compares the stack with Kinto under `usual_sequences` sequences of requests, or the environment's number.
async fn compare(stack: &Stack, usual_sequences: &str, arguments: &[&str]) {
    let sequences = std::env::var("DIFFERENTIAL_SEQUENCES");
    let mut python = installed("python");
    python
        // Kinto's own imports cause deprecation warnings.
        .args(["-W", "ignore"])
        .arg(workspace().join("tests/differential"))
        .arg(stack.url())
        .args([
            "--sequences",
            sequences.as_deref().unwrap_or(usual_sequences),
        ])
        .args(arguments);
    if sequences.is_err() {
        python.args(["--seed", SEED]);
    }
    // The comparison ends by itself: each request that it sends succeeds or fails within a minute.
    assert!(succeeds(python).await, "a difference from Kinto, see above");
}

/// Runs a client's script, which prints its checks and fails at the first one that does not hold.
async fn client(interpreter: &str, script: &str) {
    let stack = stack(&[]).await;
    client_of(&stack, interpreter, script).await;
    stack.stop().await;
}

/// The same against a running stack.
async fn client_of(stack: &Stack, interpreter: &str, script: &str) {
    let url = stack.url();
    let mut command = installed(interpreter);
    command
        .arg(workspace().join("tests/clients").join(script))
        .arg(url.trim_end_matches('/'))
        .env("NODE_PATH", workspace().join("target/clients/node_modules"));
    let succeeded = tokio::time::timeout(PATIENCE, succeeds(command)).await;
    assert_eq!(succeeded, Ok(true), "{script} failed, see above");
}

/// A stack on free ports with the settings that real Kinto needs too, and more.
async fn stack(more: &[(&str, &str)]) -> Stack {
    let any_port = Options::default();
    let vars = [
        CHEAP_HASHES,
        ("KINTO_EXPERIMENTAL_PERMISSIONS_ENDPOINT", "true"),
        ("KINTO_EXPERIMENTAL_COLLECTION_SCHEMA_VALIDATION", "true"),
    ];
    let vars = vars.iter().chain(more).copied().collect();
    Stack::start(&any_port, vars)
        .await
        .expect("the stack starts")
}

/// A program that `tests/run` has installed.
pub fn installed(program: &str) -> Command {
    Command::new(workspace().join("target/venv/bin").join(program))
}

/// Returns `true` if the command succeeds; its output becomes this test's.
pub async fn succeeds(mut command: Command) -> bool {
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("the program is installed (tests/run)");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace is above tests/")
        .to_owned()
}
