//! The one unit of time: milliseconds since the epoch.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, as in `last_modified` and in every `ETag`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The latest time that a client may give: 2100-01-01T00:00:00Z (kinto-changes 4.1 bounds `_since` by it).
    pub const MAX: Self = Self(4_102_444_800_000);

    /// The clock of this machine.
    pub fn now() -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Self(since_epoch.as_millis() as u64)
    }

    /// The next millisecond.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// This time, or the next millisecond after `previous` if that is later.
    pub fn later_than(self, previous: Self) -> Self {
        self.max(previous.next())
    }

    /// This time plus `duration`.
    pub fn after(self, duration: Duration) -> Self {
        let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(milliseconds))
    }

    /// The time since `earlier`; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The entity tag: the milliseconds in double quotes.
    pub fn etag(self) -> String {
        format!("\"{}\"", self.0)
    }

    /// The HTTP date, which has a resolution of seconds.
    pub fn http_date(self) -> String {
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(self.0.min(Self::MAX.0)))
    }

    /// Parses `"123"`, the form of entity tags. `None` for anything else.
    pub fn from_etag(value: &str) -> Option<Self> {
        let digits = value.strip_prefix('"')?.strip_suffix('"')?;
        Self::from_digits(digits)
    }

    /// Parses `W/"123"`, a CDN's form of an entity tag when it compresses. `None` for anything else.
    pub fn from_weak_etag(value: &str) -> Option<Self> {
        Self::from_etag(value.strip_prefix("W/")?)
    }

    /// Parses `123`, `"123"` or `W/"123"`, the forms of times in a query string, and the variants of the last by
    /// clients that remove the quotes or add some: `W/123` (kinto-http.js), `W/"123"` (kinto-http.py), `"W/123"`.
    /// `None` for anything else.
    pub fn from_query(value: &str) -> Option<Self> {
        Self::from_etag(value)
            .or_else(|| Self::from_digits(value))
            .or_else(|| {
                let weak = value.trim_matches('"').strip_prefix("W/")?;
                Self::from_digits(weak.trim_matches('"'))
            })
    }

    /// Parses `123`: ASCII digits only, no sign. `None` for anything else.
    pub fn from_digits(digits: &str) -> Option<Self> {
        let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        all_digits.then(|| digits.parse().ok().map(Self)).flatten()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_the_quoted_milliseconds() {
        assert_eq!(Timestamp(1_795_289_972_422).etag(), "\"1795289972422\"");
        assert_eq!(
            Timestamp::from_etag("\"1795289972422\""),
            Some(Timestamp(1_795_289_972_422))
        );
    }

    #[test]
    fn anything_but_quoted_digits_is_no_etag() {
        for bad in [
            "",
            "12",
            "\"",
            "\"\"",
            "\"-1\"",
            "\"+1\"",
            "\"a\"",
            "W/\"1\"",
            "\"99999999999999999999\"",
        ] {
            assert_eq!(Timestamp::from_etag(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_time_in_a_query_string_may_be_a_weak_tag_in_any_quotes() {
        for time in [
            "12",
            "\"12\"",
            "W/\"12\"",
            "W/12",
            "W/\"12",
            "\"W/12\"",
            "\"W/\"12\"\"",
        ] {
            assert_eq!(Timestamp::from_query(time), Some(Timestamp(12)), "{time}");
        }
        for bad in ["", "\"12", "W/", "W/\"\"", "w/12", "W/W/12", "W/-1"] {
            assert_eq!(Timestamp::from_query(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_http_date_drops_the_milliseconds() {
        assert_eq!(
            Timestamp(1_795_289_972_999).http_date(),
            "Sat, 21 Nov 2026 19:39:32 GMT"
        );
    }
}
