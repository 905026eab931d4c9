//! `kinto-serverless`.
fn main() {}
