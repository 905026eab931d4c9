//! A run of a sweep, by a schedule ([decision 28](../../../docs/decisions/028-sweeping.md)).

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::Aggregator;
use crate::store::StoreError;
use crate::store::sweep::{Limits, Swept};
use crate::timestamp::Timestamp;

/// How often the whole table is looked at, if the runs suffice for that.
const EVERY: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a run goes on before its last page: half of the function's time.
const RUN: Duration = Duration::from_secs(30);
/// A day.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The request of the schedule.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SweepRequest {
    /// Capacity units after which the run ends.
    units: u64,
    /// Days after which tombstones go; 0 keeps them, as Kinto does.
    #[serde(default)]
    tombstone_days: u32,
}

impl Aggregator {
    /// One run of a sweep. Safe to repeat, beside others, and during writes.
    ///
    /// # Errors
    /// The table failed. The next run goes on.
    pub async fn sweep(&self, request: SweepRequest) -> Result<Swept, StoreError> {
        let days = request.tombstone_days;
        let limits = Limits {
            tombstones_kept: (days > 0).then(|| DAY * days),
            units: request.units,
            deadline: Instant::now() + RUN,
        };
        let swept = self.store.sweep(limits, EVERY, Timestamp::now()).await?;
        tracing::info!(?swept, "swept");
        Ok(swept)
    }
}
