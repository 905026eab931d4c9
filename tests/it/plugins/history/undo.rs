//! `examples/undo.py`: a collection is written again as it was.

use std::path::Path;

use kinto_local::{Options, Stack};
use kinto_serverless::settings::Vars;
use serde_json::{Value, json};
use tests::ALICE;
use tokio::process::Command;

async fn send(stack: &Stack, method: &str, path: &str, body: Value) -> Value {
    let url = format!("{}{path}", stack.url());
    let method = method.parse().unwrap();
    let request = reqwest::Client::new().request(method, url);
    let request = request
        .header("authorization", ALICE)
        .body(body.to_string());
    let answer = request
        .header("content-type", "application/json")
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

#[tokio::test]
async fn an_undo_writes_a_moment_again_under_new_timestamps() {
    let vars: Vars = [
        ("KINTO_INCLUDES", "kinto.plugins.history"),
        ("MULTIAUTH_POLICIES", "basicauth"),
        ("KINTO_USERID_HMAC_SECRET", "s"),
        ("KINTO_PAGINATE_BY", "20"),
    ]
    .into_iter()
    .collect();
    let stack = Stack::start(&Options::default(), vars).await.unwrap();
    let records = "buckets/a/collections/b/records";
    for path in ["buckets/a", "buckets/a/collections/b"] {
        send(&stack, "PUT", path, json!({})).await;
    }
    let put = async |id: usize, n: usize| {
        let body = json!({"data": {"n": n}});
        send(&stack, "PUT", &format!("{records}/r{id:02}"), body).await
    };
    let mut moment = 0;
    for id in 0..30 {
        moment = put(id, 1).await["data"]["last_modified"].as_u64().unwrap();
    }
    let listed = async || {
        send(
            &stack,
            "GET",
            &format!("{records}?_sort=id&_limit=50&_fields=n"),
            json!({}),
        )
        .await
    };
    let stripped = |list: Value| -> Vec<(String, Value)> {
        let list = list["data"].as_array().unwrap().clone();
        list.iter()
            .map(|it| (it["id"].to_string(), it["n"].clone()))
            .collect()
    };
    let before = stripped(listed().await);
    for id in 0..40 {
        match id % 3 {
            0 if id < 30 => {
                _ = send(&stack, "DELETE", &format!("{records}/r{id:02}"), json!({})).await
            }
            _ => _ = put(id, 2).await,
        }
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/undo.py");
    let undo = async || {
        let mut python = Command::new("python3");
        python
            .arg(&script)
            .arg(format!("{}buckets/a/collections/b", stack.url()));
        python
            .arg(moment.to_string())
            .env("KINTO_AUTHORIZATION", ALICE)
            .kill_on_drop(true);
        let output = python.output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).lines().count()
    };
    assert_eq!(undo().await, 40);
    let after = listed().await;
    let oldest = after["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["last_modified"].as_u64())
        .min();
    assert!(oldest > Some(Some(moment)));
    assert_eq!(stripped(after), before);
    assert_eq!(undo().await, 0);
    stack.stop().await;
}
