//! The one DynamoDB table: its items, and the requests that read and write it.
//!
//! | item | `pk` | `sk` | see |
//! | --- | --- | --- | --- |
//! | object | its parent's URI, `#`, its kind | its id | [`Object`] |
//! | timestamp of a list | the same partition | `#timestamp` | [`List`] |
//! | monitor entry | `#monitor` | the collection's URI | [`monitor`] |
//! | monitor's clock and latest changes | `#monitor` | `#state` | [`monitor`] |
//! | broadcast state | `#broadcast` | the listener's name | [`broadcast_claim`] |
//! | share of a list | `#shared#`, the parent's generation, `#` and the principal | the list's partition | [`shares`] |
//! | login in progress | `#login#` and its state | `#login` | [`login`] |
//! | a principal's groups in a bucket | `#principal#` and the principal | the bucket's URI | [`membership`] |
//! | events for listeners | `#outbox##` and a parent's URI | see there | [`outbox`] |
//! | a publication, until it is settled | `#layer#`, a list's partition, `#`, a name, for more partitions `#`, a number | an object's id | [`publication`] |
//! | an entry of a bucket's history | `#history#`, the bucket's generation, `#` and a shard | a time, `#` and its id | [`history`] |
//! | how far a sweep is | `#sweep` | `#state` | [`sweep`] |
//! | raising in progress | `#raise` | `#state` | [`raise`] |
//! | turns at a contended item | `#turn#` and the item's key | `#turn` | [`Store::reserve_turn`] |
//!
//! No id may begin with `#`, so the reserved keys never collide with an object's. The local secondary index
//! `by_last_modified` holds every item with a `last_modified`: objects, and monitor entries by their positions.

pub mod broadcast_claim;
pub mod capacity;
pub mod changeset;
mod commit;
mod error;
mod generation;
pub mod history;
pub mod import;
mod item;
pub mod list;
pub mod login;
pub mod membership;
pub mod monitor;
mod object;
pub mod outbox;
pub mod polled_broadcast;
pub mod publication;
pub mod raise;
mod read;
pub mod recent;
mod retries;
pub mod shares;
pub mod sweep;
mod turn;
pub mod write;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::Client;

pub use commit::CommitError;
pub use error::StoreError;
pub use generation::Generation;
pub(crate) use item::number;
pub use item::{Item, Key, weight_of};
pub use object::{Content, List, Object, Version};
pub use retries::RETRY_TIME;
pub use write::{ListCondition, Write};

use self::commit::is_contention;
use self::error::{ignore_failed_condition, is_failed_condition};
use self::item::{flag, malformed, optional_time, partition, string, time};
use self::read::all_pages;

/// The sort key of the item that holds a list's timestamp.
pub const TIMESTAMP_KEY: &str = "#timestamp";
/// The local secondary index by `last_modified`.
pub const BY_LAST_MODIFIED: &str = "by_last_modified";
/// The most items in one transaction (DynamoDB).
pub const MAX_TRANSACTION_ITEMS: usize = 100;

/// The table.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    table: String,
    /// Whether items that are read together are read as a snapshot.
    reads_snapshots: bool,
    /// Shares that this process knows to be stored in items of their own; shared by clones.
    known_shares: Arc<Mutex<HashSet<Key>>>,
}

impl Store {
    /// The table called `table`. The client's retry settings are replaced by the store's own.
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        Self {
            client: retries::client(&client),
            table: table.into(),
            reads_snapshots: false,
            known_shares: Arc::default(),
        }
    }

    /// The same table, with reads of several items as snapshots: a transaction shows in all of them or in none.
    ///
    /// Costs twice as much, and fails while a transaction holds one of the items; then it is retried.
    pub fn with_snapshot_reads(&self) -> Self {
        Self {
            reads_snapshots: true,
            ..self.clone()
        }
    }
}
