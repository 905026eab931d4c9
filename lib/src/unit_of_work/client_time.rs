//! The limit for times that clients give: how far they may lie in the future (Kinto 26.5, for times in queries).

use crate::timestamp::Timestamp;

/// How far in the future a time given by a client may lie: one day, in milliseconds (Kinto 26.5, for times in queries).
pub const MAX_AHEAD: u64 = 24 * 60 * 60 * 1000;

/// The time that stands for now when the times of a list are checked. The list's own `timestamp` may lie further ahead,
/// and a timestamp that the list has returned is always accepted.
pub fn reference_time(now: Timestamp, timestamp: Timestamp) -> Timestamp {
    now.max(Timestamp(timestamp.0.saturating_sub(MAX_AHEAD)))
}

/// The latest time that a client may give to an object in a list with this timestamp.
pub fn latest_time(now: Timestamp, timestamp: Timestamp) -> Timestamp {
    Timestamp(reference_time(now, timestamp).0.saturating_add(MAX_AHEAD))
}
