//! A real Kinto on PostgreSQL is moved into the local stack: `tests/moving`, which says what it compares.

use std::path::{Path, PathBuf};
use std::process::Command;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
#[ignore = "needs Kinto and PostgreSQL: tests/run"]
fn every_answer_of_a_kinto_is_the_same_after_a_move() {
    let program = Path::new(env!("CARGO_BIN_EXE_kinto-serverless"));
    // Of another package, which the workspace's tests build beside it.
    let local = program.with_file_name("kinto-local");
    assert!(local.exists(), "cargo build --package kinto-local");
    let python = workspace().join("target/venv/bin/python");
    let moved = Command::new(python)
        .args(["-W", "ignore"])
        .arg(workspace().join("tests/moving"))
        .args([program, &local])
        .args(["--sequences", "16", "--kills", "4"])
        .output()
        .expect("python is installed (tests/run)");
    print!("{}", String::from_utf8_lossy(&moved.stdout));
    eprint!("{}", String::from_utf8_lossy(&moved.stderr));
    assert!(moved.status.success(), "a difference, see above");
}
