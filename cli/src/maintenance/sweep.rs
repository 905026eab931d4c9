//! `sweep`: a whole pass over a table, as the stack's schedule does it bit by bit.

use std::time::Duration;

use kinto_serverless::store::sweep::{Limits, Swept};
use kinto_serverless::store::{Store, StoreError};
use kinto_serverless::timestamp::Timestamp;
use tokio::time::Instant;

use super::pace::Pace;
use crate::progress::Progress;

/// Units of a run, between which it may pause.
const RUN: u64 = 100;

/// Marks all that is over.
///
/// # Errors
/// Failures of the table. What was marked stays so.
pub async fn sweep(
    store: &Store,
    tombstones_kept: Option<Duration>,
    capacity: Option<u64>,
    progress: &Progress,
) -> Result<Swept, StoreError> {
    let (mut sum, mut after, mut pace) = (Swept::default(), None, Pace::new(capacity));
    loop {
        let limits = Limits {
            tombstones_kept,
            units: RUN,
            deadline: Instant::now() + Duration::from_secs(60),
        };
        let (swept, end) = store.sweep_from(after, limits, Timestamp::now()).await?;
        sum.scanned += swept.scanned;
        sum.orphans += swept.orphans;
        sum.tombstones += swept.tombstones;
        sum.units += swept.units;
        progress.advance(swept.scanned);
        pace.spend(swept.units.ceil() as u64).await;
        after = end;
        if after.is_none() {
            sum.is_complete = true;
            return Ok(sum);
        }
    }
}
