//! The guarantees of broadcasts: the receiver's version never goes back, ends at the latest and keeps to the debounce
//! window, and a failing Megaphone affects neither writes nor another Megaphone.
//!
//! The clock is tokio's paused one: hours pass in no time, and queue, functions and Megaphone share it.

mod failures;
mod polled;
mod schedules;
mod window;

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use aws_lambda_events::dynamodb::Event;
use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent};
use kinto_local::dynamodb::DynamoDb;
use kinto_local::megaphone::{Megaphone as Receiver, ReceivedBroadcast};
use kinto_local::queue::Redrive;
use kinto_local::{LocalAws, server};
use kinto_serverless::aggregator::Aggregator;
use kinto_serverless::api::Api;
use kinto_serverless::broadcaster::Broadcaster;
use kinto_serverless::listeners::Listeners;
use kinto_serverless::megaphone::Megaphone;
use kinto_serverless::queue::{BroadcastQueue, QueueConsumer};
use kinto_serverless::settings::Settings;
use kinto_serverless::store::Store;
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Value, json};
use tests::{Kinto, TABLE, changed, settings};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// As in template.yaml.
const FUNCTION_TIMEOUT: Duration = Duration::from_secs(40);

/// As in template.yaml.
const REDRIVE: Redrive = Redrive {
    delay: Duration::from_secs(240),
    max_receive_count: 1000,
};

/// The name of a listener, and its settings beside the common ones.
type Listener<'a> = (&'a str, &'a [(&'a str, &'a str)]);

/// The functions, their table and queue, and a Megaphone for each listener.
struct World {
    aws: LocalAws,
    aggregator: Aggregator,
    broadcaster: Broadcaster,
    settings: Settings,
    receivers: Vec<Receiver>,
    begin: Instant,
    /// Background tasks; they end with this.
    tasks: JoinSet<()>,
    _stop: watch::Sender<bool>,
}

impl World {
    /// With these listeners, each of which has a Megaphone of its own and is notified of the bucket `main`.
    async fn new(listeners: &[Listener<'_>]) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (mut tasks, mut receivers) = (JoinSet::new(), vec![]);
        let names: Vec<&str> = listeners.iter().map(|(name, _)| *name).collect();
        let mut vars = vec![("KINTO_EVENT_LISTENERS".to_owned(), names.join(" "))];
        for (name, more) in listeners {
            let socket = server::bind(0).await.unwrap();
            let url = format!("http://{}", socket.local_addr().unwrap());
            let receiver = Receiver::new("hush");
            tasks.spawn(receiver.clone().serve(socket, stopped.clone()));
            receivers.push(receiver);
            let set = [
                ("USE", "kinto_megaphone.listeners"),
                ("API_KEY", "hush"),
                ("URL", url.as_str()),
                ("BROADCASTER_ID", "remote-settings"),
                ("MATCH_KINTO_CHANGES", "/buckets/main"),
            ];
            for (setting, value) in set.iter().chain(*more) {
                let name = name.to_ascii_uppercase();
                let variable = format!("KINTO_EVENT_LISTENERS_{name}_{setting}");
                vars.push((variable, (*value).to_owned()));
            }
        }
        let vars: Vec<_> = vars
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let settings = settings(&vars);
        let aws = LocalAws::over(DynamoDb::sqlite().unwrap(), REDRIVE);
        aws.create_table(TABLE).unwrap();
        let store = Store::new(aws.dynamodb(), TABLE);
        let queue = BroadcastQueue::new(aws.sqs(), aws.queue_url());
        let consumer = QueueConsumer::new(aws.sqs(), aws.queue_url(), aws.dead_letter_url());
        let megaphones = settings.megaphones.iter().cloned();
        let megaphones = megaphones.map(|m| Megaphone::new(m).unwrap()).collect();
        Self {
            aggregator: Aggregator::new(
                store.clone(),
                queue,
                settings.changes.clone(),
                settings.broadcasts.clone(),
                settings.megaphones.clone(),
            ),
            broadcaster: Broadcaster::new(store, consumer, megaphones),
            settings,
            aws,
            receivers,
            begin: Instant::now(),
            tasks,
            _stop: stop,
        }
    }

    /// The same with the queue's messages handled as they arrive.
    fn consuming(mut self) -> Self {
        let (broadcaster, begin) = (self.broadcaster.clone(), self.begin);
        let consumed = self.aws.queue().clone().consume(move |event| {
            let broadcaster = broadcaster.clone();
            async move { broadcaster.handle_at(event, clock(begin)).await }
        });
        self.tasks.spawn(consumed);
        self
    }

    /// The only listener's Megaphone.
    fn receiver(&self) -> &Receiver {
        &self.receivers[0]
    }

    /// Returns the sequence number of the first failure.
    async fn aggregate(&self, records: &[Value]) -> Option<String> {
        let event: Event = serde_json::from_value(json!({"Records": records})).unwrap();
        let failures = self.aggregator.handle(event).await.batch_item_failures;
        failures.into_iter().find_map(|f| f.item_identifier)
    }

    /// A change of a collection that matches, passed to the queue at once.
    async fn change(&self, timestamp: u64) {
        let record = changed(timestamp, "one", timestamp);
        assert_eq!(self.aggregate(&[record]).await, None);
    }

    /// Waits until the queue is empty; a day at most.
    async fn settled(&self) {
        let empty = async {
            while !self.aws.queue().is_empty() {
                sleep(Duration::from_secs(1)).await;
            }
        };
        timeout(Duration::from_secs(86_400), empty)
            .await
            .expect("the queue is empty within a day");
    }
}

fn clock(begin: Instant) -> Timestamp {
    Timestamp(1_795_289_972_000).after(begin.elapsed())
}

fn versions(arrivals: &[ReceivedBroadcast]) -> Vec<u64> {
    let version = |arrival: &ReceivedBroadcast| arrival.version.trim_matches('"').parse().unwrap();
    arrivals.iter().map(version).collect()
}

/// The whole seconds of each arrival since `begin`.
fn seconds(arrivals: &[ReceivedBroadcast], begin: Instant) -> Vec<u64> {
    let seconds = |arrival: &ReceivedBroadcast| arrival.at.duration_since(begin).as_secs();
    arrivals.iter().map(seconds).collect()
}

/// Drops `future` once it has waited `waits` times, as when a function is stopped, and returns `None` then.
async fn killed_after<F: Future>(waits: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = waits;
    std::future::poll_fn(move |context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// The response of a function that was stopped: every message is retried.
fn stopped() -> SqsBatchResponse {
    let mut response = SqsBatchResponse::default();
    response.add_failure("");
    response
}

/// A batch with one message, sent by hand.
fn by_hand() -> SqsEvent {
    let message = json!({"messageId": "1", "body": r#"{"listener": "mp"}"#});
    serde_json::from_value(json!({"Records": [message]})).unwrap()
}

/// The API over the world's table.
fn kinto(world: &World) -> Kinto {
    let mut kinto = Kinto::new();
    kinto.aws = world.aws.clone();
    let store = Store::new(world.aws.dynamodb(), TABLE);
    kinto.api = Api::new(store, world.settings.clone(), vec![], Listeners::default());
    kinto
}
