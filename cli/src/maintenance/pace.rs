//! How fast a command writes.

use std::time::Duration;

use tokio::time::Instant;

/// Keeps writes below a number of write capacity units a second.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    capacity: Option<u64>,
    next: Instant,
}

impl Pace {
    /// So many units a second; as fast as it goes with `None`.
    pub fn new(capacity: Option<u64>) -> Self {
        Self {
            capacity,
            next: Instant::now(),
        }
    }

    /// Waits until that many units may be written.
    pub async fn spend(&mut self, units: u64) {
        let Some(capacity) = self.capacity else {
            return;
        };
        tokio::time::sleep_until(self.next).await;
        let pause = Duration::from_secs_f64(units as f64 / capacity as f64);
        self.next = self.next.max(Instant::now()) + pause;
    }
}
