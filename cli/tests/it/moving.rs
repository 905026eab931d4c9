//! Real Kintos are moved into the local stack and out of it: `tests/moving`, whose programs say what they compare.

use std::path::{Path, PathBuf};
use std::process::Command;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a program of `tests/moving` with the two commands, and fails if it does.
fn run(program_of_tests: &str, options: &[&str]) {
    let program = Path::new(env!("CARGO_BIN_EXE_kinto-serverless"));
    // Of another package, which the workspace's tests build beside it.
    let local = program.with_file_name("kinto-local");
    assert!(local.exists(), "cargo build --package kinto-local");
    let python = workspace().join("target/venv/bin/python");
    let moved = Command::new(python)
        .args(["-W", "ignore"])
        .arg(workspace().join("tests/moving").join(program_of_tests))
        .args([program, &local])
        .args(options)
        .output()
        .expect("python is installed (tests/run)");
    print!("{}", String::from_utf8_lossy(&moved.stdout));
    eprint!("{}", String::from_utf8_lossy(&moved.stderr));
    assert!(moved.status.success(), "a difference, see above");
}

#[test]
#[ignore = "needs Kinto and PostgreSQL: tests/run"]
fn every_answer_of_a_kinto_is_the_same_after_a_move() {
    run("", &["--sequences", "5", "--kills", "3"]);
}

#[test]
#[ignore = "needs Kinto and PostgreSQL: tests/run"]
fn every_answer_of_a_kinto_is_the_same_after_a_move_by_its_api() {
    run("api.py", &["--sequences", "4"]);
}

#[test]
#[ignore = "needs Kinto and PostgreSQL: tests/run"]
fn what_kinto_holds_that_is_odd_is_moved_or_named() {
    run("odd.py", &[]);
}

#[test]
#[ignore = "needs Kinto and PostgreSQL: tests/run"]
fn every_answer_is_the_same_in_a_kinto_after_a_move_back() {
    run("back.py", &[]);
}

#[test]
#[ignore = "needs Kinto and PostgreSQL: tests/run"]
fn two_servers_are_compared_by_what_they_show() {
    run("servers_by_url.py", &[]);
}

#[test]
#[ignore = "needs Kinto, PostgreSQL and kinto.js: tests/run"]
fn clients_go_on_after_a_move() {
    run("clients.py", &[]);
}

#[test]
#[ignore = "needs Kinto, PostgreSQL and openssl: tests/run"]
fn a_postgresql_shows_who_it_is_as_far_as_the_url_asks() {
    run("tls.py", &[]);
}

#[test]
#[ignore = "needs Kinto and PostgreSQL: tests/run"]
fn tombstones_are_purged_as_by_kinto() {
    run("purge.py", &[]);
}

#[test]
#[ignore = "needs ministack: tests/run"]
fn an_export_goes_to_s3_and_comes_back() {
    run("s3.py", &[]);
}
