//! Webhooks, and a consumer of an SQS queue, as listeners.

use crate::WEBHOOK_SECRET;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use tests::is_signed;
use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

/// Where a webhook is told after the commit, and where another is asked before it.
pub const TOLD: &str = "/told";

pub const ASKED: &str = "/asked";

/// Webhooks that keep what they receive. Asked about a record that has `refuse`, they refuse it.
pub struct Webhooks(MockServer);

impl Webhooks {
    pub async fn start() -> Self {
        let server = MockServer::start().await;
        let refusal = json!({"refused": {"status": 403, "message": "Not this one"}});
        let refused = json!({"impacted_records": [{"new": {"refuse": true}}]});
        let answers = [
            Mock::given(matchers::path(ASKED))
                .and(matchers::body_partial_json(refused))
                .respond_with(ResponseTemplate::new(200).set_body_json(refusal)),
            Mock::given(matchers::method("POST")).respond_with(ResponseTemplate::new(200)),
        ];
        for answer in answers {
            answer.mount(&server).await;
        }
        Self(server)
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.0.uri())
    }

    /// What was received there, in its order and without what came again, as the consumer writes it.
    pub async fn received(&self, path: &str) -> Vec<String> {
        let requests = self.0.received_requests().await.unwrap_or_default();
        let requests = requests.iter().filter(|request| request.url.path() == path);
        let mut events: Vec<(String, String)> = vec![];
        for request in requests {
            assert!(is_signed(request, WEBHOOK_SECRET.as_bytes()), "{request:?}");
            let event: Value = serde_json::from_slice(&request.body).expect("an event is JSON");
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let id = text(&event["id"]);
            let what = format!(
                "{} {}",
                text(&event["action"]),
                text(&event["impacted_uris"][0])
            );
            if events.iter().all(|(known, _)| *known != id) {
                events.push((id, what));
            }
        }
        events.into_iter().map(|(_, what)| what).collect()
    }
}

/// `examples/consumer.py`, running until this is dropped.
pub struct Consumer {
    pub process: Child,
    pub lines: Arc<Mutex<Vec<String>>>,
}

impl Consumer {
    pub fn start(command: &mut Command) -> Self {
        let spawned = command.stdout(Stdio::piped()).spawn();
        let mut process = spawned.expect("python is installed (tests/run)");
        let stdout = process.stdout.take().expect("its output is ours");
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let all = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                all.lock().expect("no holder panics").push(line);
            }
        });
        Self { process, lines }
    }

    /// Of each event that it handled what was done, and to what.
    pub fn heard(&self) -> Vec<String> {
        let lines = self.lines.lock().expect("no holder panics");
        let words = lines.iter().map(|line| line.split(' ').collect::<Vec<_>>());
        // The date is in front, the object behind.
        words.map(|words| words[1..3].join(" ")).collect()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
