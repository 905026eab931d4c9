//! A line of the log for each request, with the fields of Kinto's `request.summary` (26.5) where these are no secrets and
//! name nobody.
//!
//! No path, which has ids that may be those of users, no query, no header. The user's id is hashed, with a key: who has the
//! log can tell that two requests are from one user, and not from whom.

use std::collections::BTreeMap;

use super::{Outcome, Summary};
use crate::hmac;
use crate::settings::{ApiSettings, Secret};

/// The target of the lines, by which a filter names them.
pub const TARGET: &str = "request.summary";

/// The log of requests.
#[derive(Debug)]
pub struct RequestLog {
    key: Secret,
}

impl RequestLog {
    pub fn new(settings: &ApiSettings) -> Self {
        Self {
            key: settings.userid_hmac_secret.derive("request log"),
        }
    }

    /// Writes the line of a request.
    pub fn write(&self, summary: &Summary<'_>) {
        let Summary { outcome, notes, .. } = summary;
        let user_id = notes.user_id.as_deref();
        let uid = user_id.map(|id| hmac::hex(&hmac::sign(self.key.as_bytes(), id)[..8]));
        let some = |number: u32| Some(number).filter(|number| *number > 0);
        let units = |units: f64| Some(units).filter(|units| *units > 0.0);
        let is_batch = notes.batch_size.is_some();
        tracing::info!(
            target: TARGET,
            method = outcome.method(),
            route = summary.route,
            code = outcome.status,
            errno = outcome.errno,
            failure = outcome.failure,
            t = summary.milliseconds,
            uid,
            authn_type = summary.policy(),
            rid = summary.request_id,
            batch_size = notes.batch_size,
            statuses = is_batch.then(|| statuses(&notes.outcomes)),
            attempts = some(notes.attempts),
            turns = some(notes.turns),
            rcu = units(summary.capacity.read),
            wcu = units(summary.capacity.write),
            "request.summary"
        );
    }
}

/// How many of the requests in a batch had each status: `200=3 412=1`.
fn statuses(outcomes: &[Outcome]) -> String {
    let mut counts = BTreeMap::<u16, usize>::new();
    for outcome in outcomes {
        *counts.entry(outcome.status).or_default() += 1;
    }
    let counts = counts
        .into_iter()
        .map(|(status, count)| format!("{status}={count}"));
    counts.collect::<Vec<_>>().join(" ")
}
