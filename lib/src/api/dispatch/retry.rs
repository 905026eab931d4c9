//! One request, or batch, until its outcome is known: read, decide, commit; retried while other writes come between.
//!
//! [`Store::commit`](crate::store::Store::commit) finds out the outcome of a commit that is not answered. Writers that
//! meet at one item take turns ([decision 16](../../../../docs/decisions/016-turns.md)).

use crate::api::plugins;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::RwLock;
use tokio::time::{Instant, timeout_at};

use crate::api::Api;
use crate::api::dispatch::call::Call;
use crate::api::summary::notes;
use crate::api::web::error::ApiError;
use crate::api::web::response::Response;
use crate::backoff::Backoff;
use crate::notifier;
use crate::resource::ListUri;
use crate::store::publication::Layer;
use crate::store::{CommitError, Key, StoreError};
use crate::timestamp::Timestamp;
use crate::unit_of_work::{Allowance, Needs, UnitOfWork};

/// A request is answered within this time of its arrival, whatever is known by then: the function is stopped after 29
/// seconds (template.yaml).
const REQUEST_TIME: Duration = Duration::from_secs(27);
/// A request is retried within this time of its arrival. The outcome of what it has sent is awaited beyond it.
const RETRY_TIME: Duration = Duration::from_secs(10);
/// The longest pause before the first retry; it doubles with each retry, and each pause has full jitter.
///
/// Measured with 32 writers of one collection (docs/performance.md): shorter pauses collide more, and are slower.
const INITIAL_BACKOFF: Duration = Duration::from_millis(16);
/// The longest pause before any retry.
const MAX_BACKOFF: Duration = Duration::from_millis(400);
/// The age up to which an attempt may reuse what an earlier one read, unless that is known to have changed. The commit
/// checks all of it but the permissions.
const MAX_STALENESS: Duration = Duration::from_secs(1);
/// The time for which a list counts as contended after contention was met there.
const CONTENDED_FOR: Duration = Duration::from_secs(1);
/// The length of a turn before this process has committed anything.
const FIRST_TURN: Duration = Duration::from_millis(10);
/// The longest turn.
const MAX_TURN: Duration = Duration::from_millis(100);
/// The most objects of a publication that its own request puts in their places. The answer does not wait for more, which
/// whoever reads the stream settles.
const MAX_SETTLED: usize = 500;

/// The contention that this process has met.
#[derive(Debug)]
pub struct Contention {
    /// For the local server: a Lambda function has one request at a time and never waits for this. Shared by first
    /// attempts, held exclusively by a retry: requests of one process that collide once would keep colliding with one
    /// another; alone, a retry meets only those of other processes.
    retry_lock: RwLock<()>,
    state: Mutex<ContentionState>,
}

#[derive(Debug)]
struct ContentionState {
    /// The time until which each list counts as contended, by the key of its item.
    lists: HashMap<Key, Instant>,
    /// The duration of a commit, as a moving average.
    turn: Duration,
}

impl Default for Contention {
    fn default() -> Self {
        Self {
            retry_lock: RwLock::default(),
            state: Mutex::new(ContentionState {
                lists: HashMap::new(),
                turn: FIRST_TURN,
            }),
        }
    }
}

impl Contention {
    /// Notes that lists are contended.
    fn met(&self, lists: impl IntoIterator<Item = Key>) {
        let now = Instant::now();
        let known = &mut self.lock().lists;
        known.retain(|_, until| *until > now);
        known.extend(lists.into_iter().map(|list| (list, now + CONTENDED_FOR)));
    }

    /// Returns `true` if any list may be contended.
    fn exists(&self) -> bool {
        !self.lock().lists.is_empty()
    }

    /// Notes the duration of a commit.
    fn took(&self, duration: Duration) {
        let turn = &mut self.lock().turn;
        *turn = (*turn * 3 + duration.min(MAX_TURN)) / 4;
    }

    /// A contended list that the unit writes, with the length of a turn there. Writers of the same lists get the same
    /// one.
    fn turn_for(&self, unit: &UnitOfWork) -> Option<(Key, Duration)> {
        let state = self.lock();
        if state.lists.is_empty() {
            return None;
        }
        let now = Instant::now();
        let lists = unit.written_lists().map(Key::list);
        let contended =
            lists.filter(|list| state.lists.get(list).is_some_and(|until| *until > now));
        let list = contended.min_by(|a, b| a.pk.cmp(&b.pk))?;
        // Turns are reserved in milliseconds.
        Some((list, state.turn + Duration::from_millis(1)))
    }

    fn lock(&self) -> MutexGuard<'_, ContentionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Api {
    /// Reads, answers, commits; starts again while other writes come between. `received` is when the request arrived.
    ///
    /// # Errors
    /// What fails all of them together: a server error, the refusal of a listener, or a commit that is too large or adds
    /// members to too many groups. Nothing was written unless the error says otherwise. Other refusals are responses.
    pub async fn run_with_retries(
        &self,
        calls: &[Call],
        received: Instant,
    ) -> Result<Vec<Response>, ApiError> {
        let (retry_until, deadline) = (received + RETRY_TIME, received + REQUEST_TIME);
        let contention = &self.contention;
        let (mut shared, mut alone) = (None, None);
        if calls.iter().any(Call::writes) {
            shared = Some(contention.retry_lock.read().await);
        }
        let mut last_read: Option<(Instant, UnitOfWork)> = None;
        let mut backoff = Backoff::new(INITIAL_BACKOFF, MAX_BACKOFF);
        let (mut has_turn, mut had_conflict) = (false, false);
        loop {
            // A first attempt rarely needs another.
            let keeps = alone.is_some() || contention.exists();
            let decided = timeout_at(deadline, self.decide(calls, &mut last_read, keeps)).await;
            let (unit, responses) = match decided.map_err(|_| late())? {
                Err(ApiError::Overtaken) => {
                    notes::attempt();
                    last_read = None;
                    if backoff.wait_until(retry_until).await {
                        continue;
                    }
                    return Err(ApiError::Busy);
                }
                decided => decided?,
            };
            if !unit.has_writes() {
                return Ok(responses);
            }
            if !has_turn && let Some((list, length)) = contention.turn_for(&unit) {
                notes::turn();
                self.wait_for_turn(list, length, retry_until).await;
                // Where times follow the list's timestamp and not the clock, each write of others outdates what was
                // read before the turn.
                let now = Timestamp::now();
                let mut lists = unit.written_lists();
                if had_conflict || lists.any(|list| unit.timestamp_of(list) > now) {
                    last_read = None;
                }
                has_turn = true;
                continue;
            }
            let asked = timeout_at(deadline, self.ask_listeners(&unit)).await;
            asked.map_err(|_| late())??;
            notes::attempt();
            let sent = Instant::now();
            let layers = unit.layers_to_settle();
            match self.commit(unit, deadline).await {
                Ok(()) => {
                    contention.took(sent.elapsed());
                    self.settle(layers, deadline).await;
                    return Ok(responses);
                }
                // What was read is out of date.
                Err(CommitError::Conflict) => {
                    had_conflict = true;
                    last_read = None;
                }
                Err(CommitError::Contended { lists }) => contention.met(lists),
                Err(error) => return Err(error.into()),
            }
            has_turn = false;
            let is_first = shared.take().is_some();
            if !backoff.wait_until(retry_until).await {
                return Err(ApiError::Busy);
            }
            if is_first {
                alone = Some(contention.retry_lock.write().await);
            }
        }
    }

    /// Reads, or reuses what was read recently, and answers. `keeps` says whether what is read is kept.
    async fn decide(
        &self,
        calls: &[Call],
        last_read: &mut Option<(Instant, UnitOfWork)>,
        keeps: bool,
    ) -> Result<(UnitOfWork, Vec<Response>), ApiError> {
        let mut unit = match last_read {
            Some((at, unit)) if at.elapsed() < MAX_STALENESS => unit.clone().at(Timestamp::now()),
            _ => {
                let needs = calls.iter().map(|call| call.needs(&self.settings.api));
                let needs = needs.fold(Needs::default(), Needs::and);
                let mut unit = UnitOfWork::read(&self.store, Timestamp::now(), needs).await?;
                let is_batch = calls.len() > 1;
                if is_batch {
                    // A single request asks for that itself, once its user is known.
                    let groups = calls.iter().map(|call| call.needs_of_groups(&unit));
                    let groups = groups.fold(Needs::default(), Needs::and);
                    unit.read_more(&self.store, groups).await?;
                    unit = unit.allowed(Allowance::of_batch());
                }
                let unit = unit.with_events(self.has_subscribers());
                let unit = unit.with_journal(self.settings.api.signer.is_some());
                *last_read = keeps.then(|| (Instant::now(), unit.clone()));
                unit
            }
        };
        let responses = self.answer_calls(calls, &mut unit).await?;
        plugins::after_writes(&self.on_write, self, &mut unit).await?;
        Ok((unit, responses))
    }

    /// Returns `true` if anybody is notified of writes.
    pub fn has_subscribers(&self) -> bool {
        !self.settings.listeners.is_empty() || !self.on_write.is_empty()
    }

    /// Commits a unit of work, with the events that listeners wait for.
    ///
    /// # Errors
    /// As [`UnitOfWork::commit`].
    pub async fn commit(&self, unit: UnitOfWork, deadline: Instant) -> Result<(), CommitError> {
        let waits_for = |event: &_| notifier::waits_for(&self.settings.listeners, event);
        unit.commit(&self.store, waits_for, deadline).await
    }

    /// Settles what was published. Where that does not succeed in time, others do it: who reads the stream, and who
    /// publishes next.
    async fn settle(&self, layers: Vec<(ListUri, Layer)>, deadline: Instant) {
        let few = layers
            .into_iter()
            .filter(|(_, layer)| layer.size <= MAX_SETTLED);
        for (list, layer) in few {
            let settled = timeout_at(deadline, self.store.settle_layer(&list, &layer)).await;
            match settled {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, %list, "a publication is not settled yet"),
                Err(_) => tracing::warn!(%list, "a publication is not settled yet"),
            }
        }
    }

    /// Waits for a turn at a list. Does not wait if it gets none, or none in time because too many wait or some clock
    /// is wrong.
    async fn wait_for_turn(&self, list: Key, length: Duration, retry_until: Instant) {
        let (now, earliest) = (Instant::now(), Timestamp::now());
        let reserved = self.store.reserve_turn(&list, earliest, length);
        match timeout_at(retry_until, reserved).await {
            Ok(Ok(Some(turn))) if turn > earliest => {
                // Others are waiting as well.
                self.contention.met([list]);
                let turn = now + turn.since(earliest);
                if turn < retry_until {
                    tokio::time::sleep_until(turn).await;
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "no turn was given"),
            _ => {}
        }
    }
}

/// The error when the request's time is over and nothing was written.
fn late() -> ApiError {
    StoreError::Late("the request").into()
}
