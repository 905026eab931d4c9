//! The names of Kinto's queues.

pub use local_aws::sqs::{dead_letter_url, url};

/// The queue of broadcast requests.
pub const BROADCASTS: &str = "kinto-broadcasts.fifo";
/// The queue between the notifier's halves.
pub const NOTIFICATIONS: &str = "kinto-notifications.fifo";
/// A queue for a listener to write to, and for a program outside to read.
pub const EVENTS: &str = "kinto-events.fifo";
