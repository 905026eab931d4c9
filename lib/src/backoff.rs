//! Pauses between attempts: of a request, with full jitter, since callers that failed together must not retry together;
//! of a message of a queue, by the number of its receptions.

use std::time::Duration;

use tokio::time::Instant;

/// The pauses of one caller: each is random, up to a limit that doubles from pause to pause.
#[derive(Clone, Debug)]
pub struct Backoff {
    longest: Duration,
    limit: Duration,
}

impl Backoff {
    /// Pauses of at most `first`, which then doubles each time, up to `limit`.
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

    /// Waits for the next pause. Returns `false` at once if the pause would not end before the deadline.
    pub async fn wait_until(&mut self, deadline: Instant) -> bool {
        let end = Instant::now() + self.next_pause();
        if end >= deadline {
            return false;
        }
        tokio::time::sleep_until(end).await;
        true
    }
}

/// The pause after the first failure of a message; it doubles each time, up to [`MAX_MESSAGE_PAUSE`].
const FIRST_MESSAGE_PAUSE: Duration = Duration::from_secs(1);
/// The longest delay of a message once its receiver has recovered.
const MAX_MESSAGE_PAUSE: Duration = Duration::from_secs(60);

/// The pause after the failure of a message that was received `count` times, for a listener or a Megaphone.
pub fn after_failure(count: u32) -> Duration {
    let doublings = count.saturating_sub(1).min(16);
    (FIRST_MESSAGE_PAUSE * (1 << doublings)).min(MAX_MESSAGE_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_of_a_message_double_up_to_a_minute() {
        let seconds = [0, 1, 2, 3, 6, 7, 8, 1000].map(|count| after_failure(count).as_secs());
        assert_eq!(seconds, [1, 1, 2, 4, 32, 60, 60, 60]);
    }

    #[test]
    fn pauses_grow_up_to_the_limit() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(35));
        for longest in [10, 20, 35, 35] {
            assert!(backoff.next_pause() <= Duration::from_millis(longest));
        }
    }
}
