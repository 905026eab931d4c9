//! Pauses between attempts, with full jitter: callers that failed together must not try again together.

use std::time::Duration;

use tokio::time::Instant;

/// The pauses of one caller: each is drawn from zero to a longest one, which doubles from pause to pause.
#[derive(Clone, Debug)]
pub struct Backoff {
    longest: Duration,
    limit: Duration,
}

impl Backoff {
    /// Pauses of at most `first`, then at most twice as long each time, up to `limit`.
    pub const fn new(first: Duration, limit: Duration) -> Self {
        Self {
            longest: first,
            limit,
        }
    }

    /// The next pause.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.longest.mul_f64(fastrand::f64());
        self.longest = (self.longest * 2).min(self.limit);
        pause
    }

    /// Waits for the next pause. Returns `false` at once where the pause would not end before the deadline.
    pub async fn wait_until(&mut self, deadline: Instant) -> bool {
        let end = Instant::now() + self.next_pause();
        if end >= deadline {
            return false;
        }
        tokio::time::sleep_until(end).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_limit() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(35));
        for longest in [10, 20, 35, 35] {
            assert!(backoff.next_pause() <= Duration::from_millis(longest));
        }
    }
}
