//! A FIFO queue in memory, and its consumer: the local counterparts of SQS and its event source mapping.
//!
//! Messages of one group are delivered in order, and never in two batches at once; groups do not wait for each other. A
//! message that the consumer reports as failed returns to the head of its group, after a delay that the consumer may
//! have changed; after too many deliveries it goes to the dead letters, from which it can be moved back.

mod consumer;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

/// The time for which SQS remembers a deduplication id.
const DEDUPLICATION_WINDOW: Duration = Duration::from_secs(300);

/// The treatment of messages that the consumer fails.
#[derive(Clone, Copy, Debug)]
pub struct Redrive {
    /// The pause before a failed message and its group are retried, unless the consumer sets one: the visibility
    /// timeout.
    pub delay: Duration,
    /// The number of deliveries of a message before it goes to the dead letters.
    pub max_receive_count: u32,
}

impl Default for Redrive {
    fn default() -> Self {
        Self {
            delay: Duration::from_secs(1),
            max_receive_count: 1000,
        }
    }
}

/// A message of a group.
#[derive(Clone, Debug)]
pub struct Message {
    /// The id that `SendMessage` returned.
    pub id: String,
    /// `MessageGroupId`
    pub group: String,
    /// `MessageBody`
    pub body: String,
    /// `MessageDeduplicationId`
    pub deduplication_id: String,
    /// The number of its deliveries.
    pub receive_count: u32,
}

impl Message {
    /// A message that was not received yet.
    fn new(group: &str, deduplication_id: &str, body: &str) -> Self {
        Self {
            id: Uuid::new_v4().to_string(),
            group: group.to_owned(),
            body: body.to_owned(),
            deduplication_id: deduplication_id.to_owned(),
            receive_count: 0,
        }
    }
}

impl Message {
    /// The receipt of its latest delivery.
    pub fn receipt(&self) -> String {
        format!("{}#{}", self.id, self.receive_count)
    }

    /// The attributes that its receiver gets.
    pub fn attributes(&self) -> HashMap<String, String> {
        [
            ("MessageGroupId", self.group.clone()),
            ("MessageDeduplicationId", self.deduplication_id.clone()),
            ("ApproximateReceiveCount", self.receive_count.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// A FIFO queue; clones share it.
#[derive(Clone)]
pub struct Queue {
    redrive: Redrive,
    // A std mutex: it is held while messages move between collections, never across an await.
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    groups: HashMap<String, Group>,
    sent: HashMap<String, String>,
    sent_by_age: VecDeque<(Instant, String)>,
    dead: Vec<Message>,
    /// Messages that were received and not deleted.
    taken: Vec<Message>,
}

/// The messages of one group; it exists while it has any, waiting or in flight.
#[derive(Default)]
struct Group {
    waiting: VecDeque<Message>,
    /// The receipts of messages in flight, each with the time of its retry if the consumer set one.
    in_flight: HashMap<String, Option<Instant>>,
    blocked_until: Option<Instant>,
}

impl Group {
    /// At most `most` next messages, in flight from now on until `visible_at`.
    fn hand_out(&mut self, most: usize, visible_at: Option<Instant>) -> Vec<Message> {
        let count = self.waiting.len().min(most);
        let mut messages: Vec<_> = self.waiting.drain(..count).collect();
        for message in &mut messages {
            message.receive_count += 1;
            self.in_flight.insert(message.receipt(), visible_at);
        }
        messages
    }
}

impl State {
    /// Returns messages that were taken and not deleted in time to the head of their groups.
    fn give_back(&mut self, now: Instant) {
        let Self { groups, taken, .. } = self;
        let is_hidden = |message: &Message| {
            let group = groups.get(&message.group);
            let until = group.and_then(|group| *group.in_flight.get(&message.receipt())?);
            until.is_some_and(|until| until > now)
        };
        let (hidden, late): (Vec<_>, Vec<_>) = taken.drain(..).partition(is_hidden);
        *taken = hidden;
        for message in late.into_iter().rev() {
            if let Some(group) = groups.get_mut(&message.group) {
                group.in_flight.remove(&message.receipt());
                group.waiting.push_front(message);
            }
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Queue {
    /// An empty queue.
    pub fn new(redrive: Redrive) -> Self {
        Self {
            redrive,
            state: Arc::default(),
            changed: Arc::default(),
        }
    }

    /// Adds a message to its group and returns its id; one with a deduplication id of the last five minutes is
    /// accepted, under the first one's id, and not delivered again.
    pub fn send(&self, group: &str, deduplication_id: &str, body: &str) -> String {
        let mut state = self.lock();
        let now = Instant::now();
        while let Some((at, _)) = state.sent_by_age.front()
            && now.duration_since(*at) >= DEDUPLICATION_WINDOW
            && let Some((_, expired)) = state.sent_by_age.pop_front()
        {
            state.sent.remove(&expired);
        }
        if let Some(id) = state.sent.get(deduplication_id) {
            return id.clone();
        }
        let message = Message::new(group, deduplication_id, body);
        let id = message.id.clone();
        state.sent.insert(deduplication_id.to_owned(), id.clone());
        state
            .sent_by_age
            .push_back((now, deduplication_id.to_owned()));
        state
            .groups
            .entry(group.to_owned())
            .or_default()
            .waiting
            .push_back(message);
        drop(state);
        self.changed.notify_one();
        id
    }

    /// Sets the pause before the message with that receipt is retried, once it is reported as failed. Returns `false`
    /// if no such message is in flight.
    pub fn change_visibility(&self, receipt: &str, pause: Duration) -> bool {
        let mut state = self.lock();
        let mut groups = state.groups.values_mut();
        match groups.find_map(|group| group.in_flight.get_mut(receipt)) {
            Some(visible_at) => {
                *visible_at = Some(Instant::now() + pause);
                true
            }
            None => false,
        }
    }

    /// Returns at most `most` messages to a consumer that polls. Each blocks its group, and is redelivered after
    /// `hidden` unless it is deleted.
    pub fn take(&self, most: usize, hidden: Duration) -> Vec<Message> {
        let now = Instant::now();
        let mut state = self.lock();
        state.give_back(now);
        let mut taken = vec![];
        let groups = state.groups.values_mut();
        for group in groups.filter(|group| group.in_flight.is_empty()) {
            taken.extend(group.hand_out(most - taken.len(), Some(now + hidden)));
        }
        state.taken.extend(taken.iter().cloned());
        taken
    }

    /// Deletes the message with that receipt. Returns `false` if no such message is in flight.
    pub fn delete(&self, receipt: &str) -> bool {
        let mut state = self.lock();
        let State { groups, taken, .. } = &mut *state;
        let Some(at) = taken
            .iter()
            .position(|message| message.receipt() == receipt)
        else {
            return false;
        };
        let name = taken.remove(at).group;
        if let Some(group) = groups.get_mut(&name) {
            group.in_flight.remove(receipt);
            if group.in_flight.is_empty() && group.waiting.is_empty() {
                groups.remove(&name);
            }
        }
        true
    }

    /// Adds a message to the dead letters, as their own queue does on AWS, and returns its id.
    pub fn dead_letter(&self, group: &str, deduplication_id: &str, body: &str) -> String {
        let message = Message::new(group, deduplication_id, body);
        let id = message.id.clone();
        self.lock().dead.push(message);
        id
    }

    /// Moves all dead letters back to the end of their groups, as new messages.
    pub fn redrive(&self) {
        let mut state = self.lock();
        let State { groups, dead, .. } = &mut *state;
        for mut message in dead.drain(..) {
            message.receive_count = 0;
            let group = groups.entry(message.group.clone()).or_default();
            group.waiting.push_back(message);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// The messages that were delivered too often or given up, oldest first.
    pub fn dead_letters(&self) -> Vec<Message> {
        self.lock().dead.clone()
    }

    /// The waiting messages, those of one group in order.
    pub fn waiting(&self) -> Vec<Message> {
        let state = self.lock();
        let groups = state.groups.values();
        groups
            .flat_map(|group| group.waiting.iter().cloned())
            .collect()
    }

    /// Returns `true` if no message waits or is in flight.
    pub fn is_empty(&self) -> bool {
        self.lock().groups.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A consumer that records its messages and fails the bodies that `fails` picks.
    fn consumer(
        queue: &Queue,
        fails: impl Fn(&str, u32) -> bool + Clone + Send + Sync + 'static,
    ) -> Arc<Mutex<Vec<String>>> {
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&seen);
        tokio::spawn(queue.clone().consume(move |event: SqsEvent| {
            let (log, fails) = (Arc::clone(&log), fails.clone());
            async move {
                let mut response = SqsBatchResponse::default();
                for record in event.records {
                    let body = record.body.unwrap();
                    let count = record.attributes["ApproximateReceiveCount"]
                        .parse()
                        .unwrap();
                    log.lock().unwrap().push(body.clone());
                    if fails(&body, count) {
                        response.add_failure(record.message_id.unwrap());
                    }
                }
                response
            }
        }));
        seen
    }

    async fn emptied(queue: &Queue) {
        while !queue.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn queue() -> Queue {
        Queue::new(Redrive {
            delay: Duration::from_secs(1),
            max_receive_count: 3,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_is_delivered_in_order_and_a_repeated_id_once() {
        let queue = queue();
        let first = queue.send("a", "1", "one");
        assert_eq!(queue.send("a", "1", "one again"), first);
        queue.send("a", "2", "two");
        let seen = consumer(&queue, |_, _| false);
        emptied(&queue).await;
        assert_eq!(*seen.lock().unwrap(), ["one", "two"]);

        tokio::time::advance(DEDUPLICATION_WINDOW).await;
        assert_ne!(queue.send("a", "1", "one later"), first);
        emptied(&queue).await;
        assert_eq!(seen.lock().unwrap().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_message_comes_back_after_the_delay() {
        let queue = queue();
        let start = Instant::now();
        queue.send("a", "1", "one");
        let seen = consumer(&queue, |_, count| count < 2);
        emptied(&queue).await;
        assert_eq!(*seen.lock().unwrap(), ["one", "one"]);
        assert!(start.elapsed() >= Duration::from_secs(1));
        assert!(queue.dead_letters().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_consumer_may_change_when_a_failed_message_comes_back() {
        let queue = queue();
        let start = Instant::now();
        queue.send("a", "1", "one");
        queue.send("a", "2", "two");
        let inbox = queue.clone();
        tokio::spawn(queue.clone().consume(move |event: SqsEvent| {
            let inbox = inbox.clone();
            async move {
                let mut response = SqsBatchResponse::default();
                for record in event.records {
                    let receipt = record.receipt_handle.unwrap();
                    if receipt.ends_with("#1") && record.body.as_deref() == Some("one") {
                        assert!(inbox.change_visibility(&receipt, Duration::from_secs(60)));
                        assert!(!inbox.change_visibility("other", Duration::ZERO));
                        response.add_failure(record.message_id.unwrap());
                    }
                }
                response
            }
        }));
        tokio::time::sleep(Duration::from_secs(5)).await;
        queue.send("a", "3", "three");
        emptied(&queue).await;
        assert_eq!(start.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn dead_letters_can_be_moved_back() {
        let queue = queue();
        queue.dead_letter("a", "1", "one");
        assert_eq!(queue.dead_letters().len(), 1);
        let seen = consumer(&queue, |_, _| false);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(seen.lock().unwrap().is_empty());
        queue.redrive();
        emptied(&queue).await;
        assert_eq!(*seen.lock().unwrap(), ["one"]);
        assert!(queue.dead_letters().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_always_fails_becomes_a_dead_letter_and_blocks_no_other_group() {
        let queue = queue();
        let start = Instant::now();
        queue.send("bad", "1", "poison");
        queue.send("good", "2", "fine");
        let seen = consumer(&queue, |body, _| body == "poison");
        while !seen.lock().unwrap().iter().any(|body| body == "fine") {
            tokio::task::yield_now().await;
        }
        assert!(start.elapsed() < Duration::from_secs(1));
        emptied(&queue).await;
        let dead = queue.dead_letters();
        assert_eq!(dead.len(), 1);
        assert_eq!(
            (dead[0].body.as_str(), dead[0].receive_count),
            ("poison", 3)
        );
        assert_eq!(seen.lock().unwrap().len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_has_one_batch_in_flight_while_groups_overlap() {
        let queue = queue();
        for (group, id) in [("a", "1"), ("a", "2"), ("b", "3")] {
            queue.send(group, id, id);
        }
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (running, peak) = (Arc::clone(&now), Arc::clone(&most));
        tokio::spawn(queue.clone().consume(move |event: SqsEvent| {
            let (running, peak) = (Arc::clone(&running), Arc::clone(&peak));
            async move {
                assert!(event.records.len() <= 2);
                peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                SqsBatchResponse::default()
            }
        }));
        tokio::time::sleep(Duration::from_millis(5)).await;
        queue.send("a", "4", "4");
        emptied(&queue).await;
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_and_an_empty_identifier_fail_the_whole_batch() {
        let queue = queue();
        queue.send("a", "1", "one");
        queue.send("a", "2", "two");
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        tokio::spawn(queue.clone().consume(move |event: SqsEvent| {
            let call = count.fetch_add(1, Ordering::SeqCst);
            async move {
                assert_eq!(event.records.len(), 2);
                assert!(call != 0, "a panic on purpose");
                let mut response = SqsBatchResponse::default();
                if call == 1 {
                    response.add_failure("");
                }
                response
            }
        }));
        emptied(&queue).await;
        assert_eq!(calls.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_and_not_deleted_in_time_comes_again_in_order() {
        let queue = queue();
        for (group, body) in [("a", "one"), ("a", "two"), ("b", "three")] {
            queue.send(group, body, body);
        }
        let hidden = Duration::from_secs(30);
        let taken = queue.take(10, hidden);
        assert_eq!(taken.len(), 3);
        assert!(queue.take(10, hidden).is_empty());
        for message in taken.iter().filter(|message| message.body != "one") {
            assert!(queue.delete(&message.receipt()));
        }
        queue.send("a", "four", "four");
        tokio::time::advance(hidden).await;
        let bodies = |taken: Vec<Message>| -> Vec<_> {
            taken.into_iter().map(|message| message.body).collect()
        };
        assert_eq!(bodies(queue.take(1, hidden)), ["one"]);
        let again = Message {
            receive_count: 2,
            ..taken
                .into_iter()
                .find(|message| message.body == "one")
                .unwrap()
        };
        assert!(queue.delete(&again.receipt()));
        assert_eq!(bodies(queue.take(1, hidden)), ["four"]);
    }
}
