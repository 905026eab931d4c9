//! `kinto-local` as a new user runs it: started, written to, stopped, started again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use reqwest::{Client, StatusCode};
use serde_json::Value;

/// The running program. Killed, if it still runs, when the test ends.
struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    aws_port: String,
    url: String,
}

impl Program {
    fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    fn start_with(data: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kinto-local"))
            .arg("--data")
            .arg(data)
            .args(arguments)
            .env("PORT", "0")
            .env("AWS_PORT", "0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut program_says = |prefix: &str| loop {
            let line = lines.next().unwrap().unwrap();
            if let Some(rest) = line.strip_prefix(prefix) {
                break rest.to_owned();
            }
        };
        let aws_url = program_says("dynamodb and sqs on ");
        let aws_port = aws_url.rsplit(':').next().unwrap().to_owned();
        let url = program_says("listening on ");
        assert!(
            url.starts_with("http://127.0.0.1:") && url.ends_with("/v1/"),
            "{url}"
        );
        Self {
            child,
            lines,
            aws_port,
            url,
        }
    }

    async fn put(&self, path: &str) -> Value {
        let request = Client::new()
            .put(format!("{}{path}", self.url))
            .basic_auth("me", Some("secret"));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED, "{path}");
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        let request = Client::new()
            .get(format!("{}{path}", self.url))
            .basic_auth("me", Some("secret"));
        serde_json::from_slice(&request.send().await.unwrap().bytes().await.unwrap()).unwrap()
    }

    /// Stops it as an operator would.
    fn terminate(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_record_is_broadcast_and_survives_a_restart() {
    let data = std::env::temp_dir().join(format!("kinto-local-{}.db", std::process::id()));
    let mut program = Program::start(&data);
    program.put("buckets/main").await;
    program.put("buckets/main/collections/news").await;
    let record = program
        .put("buckets/main/collections/news/records/first")
        .await;
    let version = record["data"]["last_modified"].to_string();
    let told = format!("broadcast remote-settings/monitor_changes \"{version}\"");
    // The creation of the collection may be broadcast before.
    assert!(
        program
            .lines
            .by_ref()
            .map(Result::unwrap)
            .any(|line| line == told)
    );
    program.terminate();

    let program = Program::start(&data);
    let kept = program
        .get("buckets/main/collections/news/records/first")
        .await;
    assert_eq!(kept["data"], record["data"]);
    let changes = program
        .get("buckets/monitor/collections/changes/records")
        .await;
    assert_eq!(
        changes["data"][0]["last_modified"],
        record["data"]["last_modified"]
    );
    program.terminate();
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", data.display()));
    }
}

#[tokio::test]
async fn the_monitor_of_a_running_stack_is_rebuilt() {
    let data = std::env::temp_dir().join(format!("kinto-rebuild-{}.db", std::process::id()));
    let program = Program::start(&data);
    program.put("buckets/main").await;
    program.put("buckets/main/collections/news").await;
    let rebuild = |port: &str| {
        Command::new(env!("CARGO_BIN_EXE_kinto-local"))
            .arg("rebuild-monitor")
            .env("AWS_PORT", port)
            .output()
            .unwrap()
    };
    let output = rebuild(&program.aws_port);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.starts_with("1 collections, "), "{said}");
    let port = program.aws_port.clone();
    program.terminate();

    let output = rebuild(&port);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("AWS_PORT {port}")), "{said}");
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", data.display()));
    }
}

#[test]
fn a_setting_that_cannot_be_used_stops_the_start_and_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_kinto-local"))
        .env("PORT", "0")
        .env("AWS_PORT", "0")
        .env("KINTO_CHANGES_RESOURCES", "main")
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("KINTO_CHANGES_RESOURCES"));
}

#[tokio::test]
async fn a_watched_write_is_logged_at_each_stage_where_nobody_has_a_terminal() {
    let data = std::env::temp_dir().join(format!("kinto-watch-{}.db", std::process::id()));
    let mut program = Program::start_with(&data, &["--watch"]);
    program.put("buckets/main").await;
    program.put("buckets/main/collections/news").await;
    program
        .put("buckets/main/collections/news/records/first")
        .await;
    for (stage, what) in [
        ("write", "PUT /v1/buckets/main 201"),
        ("monitor", "/buckets/main/collections/news"),
        ("broadcast", "remote-settings/monitor_changes \""),
    ] {
        let mut lines = program.lines.by_ref().map(Result::unwrap);
        assert!(
            lines.any(|line| line.contains(&format!(" {stage} ")) && line.contains(what)),
            "{stage}"
        );
    }
    program.terminate();
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", data.display()));
    }
}
