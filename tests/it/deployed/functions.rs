//! The functions' own binaries as they are deployed: many processes, one request at a time each, between stand-ins of AWS
//! that are as unkind as its documentation allows.
//!
//! The stand-ins and the checks are Python, in `tests/deployed`, whose README explains their assumptions, and how to
//! run them for longer. Needs python3 and the binaries that `tests/run` builds.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// The functions that the scripts run.
const FUNCTIONS: [&str; 4] = ["api", "changes-aggregator", "broadcaster", "notifier"];

/// The time limit of a script. The longest takes a minute; this allows for busy machines.
const PATIENCE: Duration = Duration::from_secs(400);

/// The duration of the clients' writes in a history, in seconds.
const SECONDS: &str = "6";

#[tokio::test]
#[ignore = "needs the functions' binaries: tests/run"]
async fn a_list_that_is_read_while_a_record_is_committed_is_not_taken_for_whole() {
    scenario("list").await;
}

#[tokio::test]
#[ignore = "needs the functions' binaries: tests/run"]
async fn a_changeset_that_is_read_while_a_record_is_committed_is_not_taken_for_whole() {
    scenario("changeset").await;
}

#[tokio::test]
#[ignore = "needs the functions' binaries: tests/run"]
async fn listeners_hear_in_the_order_of_the_commits() {
    scenario("events").await;
}

#[tokio::test]
#[ignore = "needs the functions' binaries: tests/run"]
async fn no_poller_misses_a_change_that_the_stream_brings_late() {
    scenario("monitor").await;
}

#[tokio::test]
#[ignore = "needs the functions' binaries: tests/run"]
async fn a_transaction_that_stalls_is_answered_for_once_and_honestly() {
    scenario("stalled").await;
}

#[tokio::test]
#[ignore = "needs the functions' binaries: tests/run"]
async fn nothing_is_too_large_for_dynamodb_that_the_api_accepts() {
    scenario("limits").await;
}

#[tokio::test]
#[ignore = "needs the functions' binaries: tests/run"]
async fn throttling_is_not_the_clients_concern() {
    scenario("throttled").await;
}

#[tokio::test]
#[ignore = "needs the functions' binaries: tests/run"]
async fn no_operation_asks_for_more_units_than_the_design_allows() {
    run("capacity.py", "capacity", &["--check"]).await;
}

#[tokio::test]
#[ignore = "needs the functions' binaries: tests/run"]
async fn nothing_is_lost_and_nobody_misled_under_few_faults() {
    history("light", "atomic", "1").await;
}

#[tokio::test]
#[ignore = "needs the functions' binaries: tests/run"]
async fn nothing_is_lost_and_nobody_misled_under_many_faults() {
    history("heavy", "atomic", "2").await;
}

#[tokio::test]
#[ignore = "needs the functions' binaries: tests/run"]
async fn nothing_is_lost_under_few_faults_while_partitions_commit_one_after_the_other() {
    history("light", "partition", "3").await;
}

#[tokio::test]
#[ignore = "needs the functions' binaries: tests/run"]
async fn nothing_is_lost_under_many_faults_while_partitions_commit_one_after_the_other() {
    history("heavy", "partition", "4").await;
}

#[tokio::test]
#[ignore = "needs the functions' binaries and autograph-utils: tests/run"]
async fn every_changeset_verifies_while_those_who_publish_are_killed() {
    publications("publications", &["--walks", "6", "--rounds", "3"]).await;
}

#[tokio::test]
#[ignore = "needs the functions' binaries and autograph-utils: tests/run"]
async fn every_changeset_verifies_while_a_large_publication_is_cut_short() {
    let arguments = ["--measure", "600", "--kill", "--latency", "5"];
    publications(
        "publications-large",
        &[&arguments[..], &["--partitions", "4"]].concat(),
    )
    .await;
}

/// Runs one of `tests/deployed/scenarios.py`.
async fn scenario(name: &str) {
    run("scenarios.py", name, &[name]).await;
}

/// Runs a history generated from a seed, with faults, on a table whose transactions become visible according to
/// `isolation`.
async fn history(faults: &str, isolation: &str, seed: &str) {
    let arguments = [
        "--faults",
        faults,
        "--isolation",
        isolation,
        "--seeds",
        seed,
        "--seconds",
        SECONDS,
    ];
    run("histories.py", &format!("{faults}-{isolation}"), &arguments).await;
}

/// Publications, verified by autograph-utils, which is in target/venv.
async fn publications(name: &str, arguments: &[&str]) {
    let python = workspace().join("target/venv/bin/python");
    run_by(&python, "publications.py", name, arguments).await;
}

/// Runs a script, which prints its checks and fails if one does.
async fn run(script: &str, name: &str, arguments: &[&str]) {
    run_by(Path::new("python3"), script, name, arguments).await;
}

async fn run_by(python: &Path, script: &str, name: &str, arguments: &[&str]) {
    let logs = workspace().join("target/deployed").join(name);
    let mut command = Command::new(python);
    command
        .arg(workspace().join("tests/deployed").join(script))
        .args(arguments)
        .arg("--functions")
        .arg(functions())
        .arg("--logs")
        .arg(&logs);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output).await;
    let output = output
        .expect("the script ends in time")
        .expect("python3 is installed");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "{script} {arguments:?} failed, see above; the functions' logs are in {}",
        logs.display()
    );
}

/// The folder with `NAME/bootstrap` of each function: what `cargo lambda build` has built last, by itself or for SAM, else
/// links to the builds of `cargo build`.
fn functions() -> PathBuf {
    let released = workspace().join("target/lambda");
    let bootstrap = |folder: &Path, name: &str| folder.join(name).join("bootstrap");
    if FUNCTIONS
        .iter()
        .all(|name| bootstrap(&released, name).is_file())
    {
        return released;
    }
    let linked = workspace().join("target/deployed/functions");
    for name in FUNCTIONS {
        let built = workspace().join("target/debug").join(name);
        assert!(
            built.is_file(),
            "{name} is not built: tests/run, or cargo build --workspace"
        );
        let link = bootstrap(&linked, name);
        std::fs::create_dir_all(linked.join(name)).expect("target is ours");
        // Another test may have created it.
        if !link.is_file() {
            let _ = std::os::unix::fs::symlink(built, &link);
        }
        assert!(link.is_file(), "{} cannot be made", link.display());
    }
    linked
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace is above tests/")
        .to_owned()
}
