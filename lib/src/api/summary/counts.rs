//! The metrics of requests. A read that succeeds publishes nothing: Lambda counts invocations, and times them, itself.

use super::{Outcome, Summary};
use crate::api::web::error::CONTENTION;
use crate::metrics::Metrics;
use crate::timestamp::Timestamp;

/// Publishes what a request, and those of a batch, did and came to.
pub fn count(metrics: &Metrics, summary: &Summary<'_>) {
    if !metrics.counts() {
        return;
    }
    let outcomes = summary.outcomes();
    let number = |is_such: fn(&Outcome) -> bool| {
        let such = outcomes.iter().filter(|outcome| is_such(outcome));
        such.count() as u64
    };
    let numbers = [
        ("Writes", number(Outcome::is_write)),
        (
            "RefusedCredentials",
            number(|it| matches!(it.status, 401 | 403)),
        ),
        (
            "RefusedUnknown",
            number(|it| matches!(it.status, 404 | 405 | 410)),
        ),
        ("RefusedStale", number(|it| it.status == 412)),
        (
            "RefusedInput",
            number(|it| {
                (400..500).contains(&it.status)
                    && !matches!(it.status, 401 | 403 | 404 | 405 | 410 | 412)
            }),
        ),
        ("Contended", number(|it| it.failure == Some(CONTENTION))),
        (
            "Failed",
            number(|it| it.status >= 500 && it.failure != Some(CONTENTION)),
        ),
        (
            "Retries",
            u64::from(summary.notes.attempts.saturating_sub(1)),
        ),
        ("Turns", u64::from(summary.notes.turns)),
    ];
    metrics.count(Timestamp::now(), &numbers);
}
