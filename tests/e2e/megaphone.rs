//! A Megaphone that the deployed functions speak to.

use crate::{API_KEY, CHANNEL};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate, matchers};

/// A Megaphone that keeps a channel's version, or fails while told to.
pub struct Megaphone {
    pub server: MockServer,
    pub channel: Channel,
}

#[derive(Clone, Default)]
pub struct Channel {
    pub failing: Arc<AtomicBool>,
    /// Of each broadcast in order: its version if it was taken, nothing if it failed.
    pub received: Arc<Mutex<Vec<Option<u64>>>>,
}

impl Respond for Channel {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        // A body without its quotes, or that is no timestamp, is not a version.
        let version = serde_json::from_slice::<String>(&request.body)
            .ok()
            .and_then(|etag| etag.parse().ok());
        let (version, status) = match version {
            None => (None, 400),
            Some(_) if self.failing.load(Ordering::SeqCst) => (None, 503),
            Some(version) => (Some(version), 200),
        };
        self.received
            .lock()
            .expect("no holder panics")
            .push(version);
        ResponseTemplate::new(status).set_body_json(json!({"code": status}))
    }
}

impl Megaphone {
    /// Answers what is not a broadcast with this key on this channel with 404.
    pub async fn start() -> Self {
        let server = MockServer::start().await;
        let channel = Channel::default();
        Mock::given(matchers::method("PUT"))
            .and(matchers::path(CHANNEL))
            .and(matchers::bearer_token(API_KEY))
            .respond_with(channel.clone())
            .mount(&server)
            .await;
        Mock::given(matchers::method("GET"))
            .and(matchers::path("/__heartbeat__"))
            .respond_with(ResponseTemplate::new(200))
            .mount(&server)
            .await;
        Self { server, channel }
    }

    pub fn fails(&self, failing: bool) {
        self.channel.failing.store(failing, Ordering::SeqCst);
    }

    pub fn received(&self) -> Vec<Option<u64>> {
        self.channel
            .received
            .lock()
            .expect("no holder panics")
            .clone()
    }

    /// The version told last. It never goes back.
    pub fn version(&self) -> Option<u64> {
        let versions: Vec<_> = self.received().into_iter().flatten().collect();
        assert!(versions.is_sorted(), "the version went back: {versions:?}");
        versions.last().copied()
    }

    pub fn failures(&self) -> usize {
        self.received()
            .iter()
            .filter(|version| version.is_none())
            .count()
    }
}
