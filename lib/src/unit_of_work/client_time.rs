//! The times that clients may give: how far ahead of now they may lie (Kinto 26.5, of times in queries).

use crate::timestamp::Timestamp;

/// How far ahead of now a time that a client gives may lie: one day, in milliseconds (Kinto 26.5, of those in queries).
pub const MAX_AHEAD: u64 = 24 * 60 * 60 * 1000;

/// What takes the place of now where times of a list are looked at: the list's own `timestamp` may lie further ahead, and
/// what it answered is always taken back.
pub fn reference_time(now: Timestamp, timestamp: Timestamp) -> Timestamp {
    now.max(Timestamp(timestamp.0.saturating_sub(MAX_AHEAD)))
}

/// The latest time that a client may give to what it writes to a list with this timestamp.
pub fn latest_time(now: Timestamp, timestamp: Timestamp) -> Timestamp {
    Timestamp(reference_time(now, timestamp).0.saturating_add(MAX_AHEAD))
}
