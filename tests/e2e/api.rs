//! The deployed API.

use crate::PATIENCE;
use crate::emulator::Emulator;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// Kinto's HTTP API as deployed, spoken to as one user.
pub struct Api {
    pub http: reqwest::Client,
    pub url: String,
    pub host: String,
}

impl Api {
    /// The API whose URL on AWS is `url`; the emulator finds it by the first label of the host.
    pub fn new(emulator: &Emulator, url: &str) -> Self {
        let id = url
            .trim_start_matches("https://")
            .split('.')
            .next()
            .unwrap_or_default();
        Self {
            http: reqwest::Client::new(),
            url: format!("{}/v1", emulator.endpoint),
            host: format!("{id}.execute-api.localhost:{}", emulator.port),
        }
    }

    /// Sends `body` unless it is null. An answer that is not JSON is returned as a string.
    pub async fn call(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .header("host", &self.host)
            .basic_auth("alice", Some("secret"))
            .timeout(PATIENCE);
        if !body.is_null() {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        let response = request.send().await.expect("the API answers");
        let status = response.status();
        let text = response.text().await.expect("the API's answer is whole");
        (
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    /// What Megaphone would answer to a reader with this token.
    pub async fn read_broadcasts(&self, token: &str) -> Value {
        let request = self
            .http
            .get(format!("{}/broadcasts", self.url))
            .header("host", &self.host)
            .bearer_auth(token)
            .timeout(PATIENCE);
        let response = request.send().await.expect("the API answers");
        let text = response.text().await.expect("the API's answer is whole");
        serde_json::from_str(&text).expect("the answer is JSON")
    }

    /// Creates the object, which must work, and returns its timestamp.
    pub async fn create(&self, path: &str, data: Value) -> u64 {
        let (status, object) = self.call(Method::PUT, path, json!({"data": data})).await;
        assert_eq!(status, StatusCode::CREATED, "PUT {path}: {object}");
        object["data"]["last_modified"]
            .as_u64()
            .expect("last_modified is a number")
    }

    /// The collections that monitor/changes lists, with their timestamps.
    pub async fn monitored(&self) -> Vec<(String, u64)> {
        let path = "/buckets/monitor/collections/changes/records";
        let (status, list) = self.call(Method::GET, path, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{list}");
        let entries = list["data"].as_array().expect("a list has data");
        let text = |entry: &Value| entry["collection"].as_str().unwrap_or_default().to_owned();
        let time = |entry: &Value| entry["last_modified"].as_u64().unwrap_or_default();
        entries
            .iter()
            .map(|entry| (text(entry), time(entry)))
            .collect()
    }
}
