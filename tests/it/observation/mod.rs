//! Lines of the log, and metrics.

mod counts;
mod partitions;
mod prometheus;
mod request_log;

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::EnvFilter;

/// The log of a test, in the form that it has on Lambda.
pub struct Log {
    written: Arc<Mutex<Vec<u8>>>,
    _guard: DefaultGuard,
}

struct Writer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// All that is logged from now on, from the level `INFO`.
    pub fn start() -> Self {
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let writer = Arc::clone(&written);
        // As `lambda_runtime` makes it.
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_target(false)
            .without_time()
            .with_env_filter(EnvFilter::new("info"))
            .with_writer(move || Writer(Arc::clone(&writer)))
            .finish();
        Self {
            written,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    /// The text since the last call.
    fn text(&self) -> String {
        let written = std::mem::take(&mut *self.written.lock().unwrap());
        String::from_utf8(written).unwrap()
    }

    /// The lines since the last call.
    pub fn lines(&self) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The messages since the last call that an alarm counts.
    pub fn errors(&self) -> Vec<Value> {
        let lines = self.lines().into_iter();
        let errors = lines.filter(|line| line["level"] == "ERROR");
        errors
            .map(|line| line["fields"]["message"].clone())
            .collect()
    }

    /// The fields of the only line of a request since the last call.
    fn request(&self) -> Value {
        let lines = self.lines();
        let of_requests = lines.iter().map(|line| &line["fields"]);
        let of_requests: Vec<_> = of_requests
            .filter(|fields| fields["message"] == "request.summary")
            .collect();
        assert_eq!(of_requests.len(), 1, "{lines:?}");
        of_requests[0].clone()
    }
}
