//! The local stack under a series of writes.

use std::time::Duration;

use kinto_local::{Options, Stack};
use kinto_serverless::settings::Vars;
use reqwest::{Client, StatusCode};
use serde_json::Value;

#[tokio::test]
async fn every_one_of_200_writes_is_broadcast() {
    let stack = Stack::start(&Options::default(), Vars::default())
        .await
        .unwrap();
    let client = Client::new();
    let put = async |path: &str| -> Value {
        let request = client
            .put(stack.url() + path)
            .basic_auth("me", Some("secret"));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    };
    put("buckets/main").await;
    put("buckets/main/collections/one").await;
    for n in 0..200 {
        let record = put(&format!("buckets/main/collections/one/records/r{n}")).await;
        let version = format!("\"{}\"", record["data"]["last_modified"]);
        let heard = async {
            while stack
                .megaphone()
                .broadcasts()
                .get("remote-settings/monitor_changes")
                != Some(&version)
            {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), heard)
            .await
            .expect("the broadcast of every write");
    }
    stack.stop().await;
}
