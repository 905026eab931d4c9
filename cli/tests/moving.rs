//! A real Kinto on PostgreSQL is moved into the local stack: `tests/moving`, which says what it compares.

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
    run("", &["--sequences", "16", "--kills", "4"]);
}

#[test]
#[ignore = "needs Kinto and PostgreSQL: tests/run"]
fn every_answer_of_a_kinto_is_the_same_after_a_move_by_its_api() {
    run("api.py", &[]);
}

#[test]
#[ignore = "needs Kinto and PostgreSQL: tests/run"]
fn every_answer_is_the_same_in_a_kinto_after_a_move_back() {
    run("back.py", &[]);
}
