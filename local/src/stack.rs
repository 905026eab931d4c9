//! The whole stack: its start, its settings, and its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lambda_events::sqs::{SqsBatchResponse, SqsMessage};
use kinto_serverless::aggregator::Aggregator;
use kinto_serverless::api::Api;
use kinto_serverless::broadcaster::Broadcaster;
use kinto_serverless::environment::StartError;
use kinto_serverless::listeners::custom::LISTENERS;
use kinto_serverless::listeners::{ListenerFactory, Listeners};
use kinto_serverless::notifier::Notifier;
use kinto_serverless::queue::{BroadcastQueue, NotificationQueue, QueueConsumer};
use kinto_serverless::settings::{Settings, Vars};
use kinto_serverless::signer::keys::Signer;
use kinto_serverless::store::Store;
use kinto_serverless::timestamp::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::aws::{self, LocalAws};
use crate::megaphone::Megaphone;
use crate::sqs::{self, NOTIFICATIONS};
use crate::stream::{self, Mapping};
use crate::watch::{Stage, Watch};
use crate::{Options, http};
use local_aws::dynamodb::DynamoDbError;
use local_aws::{endpoint, server};

/// The name of the one table.
pub const TABLE: &str = "kinto";

const MEGAPHONE_API_KEY: &str = "local";

/// The time limit for requests in flight when the stack ends.
const LAST_REQUESTS: Duration = Duration::from_secs(10);

/// The reason why the stack did not start.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// A port is in use.
    #[error("port {port}: {source}")]
    Port {
        /// The requested port.
        port: u16,
        /// The system's error.
        source: std::io::Error,
    },
    /// The table's file is unusable.
    #[error("the table cannot be opened: {0}")]
    Table(#[from] DynamoDbError),
    /// A function cannot start.
    #[error(transparent)]
    Function(#[from] StartError),
}

/// The running local stack. Dropping it ends it at once, [`Stack::stop`] answers requests first.
pub struct Stack {
    address: SocketAddr,
    aws_address: SocketAddr,
    aws: LocalAws,
    megaphone: Megaphone,
    banner: Vec<String>,
    watch: Watch,
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
    /// The event source mappings; they end with the set.
    _consumers: JoinSet<()>,
}

impl Stack {
    /// Starts everything, with the settings in `vars` and local defaults for required ones.
    pub async fn start(options: &Options, vars: Vars) -> Result<Self, StackError> {
        let aws = match &options.data {
            Some(path) => LocalAws::open(path)?,
            None => LocalAws::memory(),
        };
        Self::over(aws, options, vars, LISTENERS).await
    }

    /// Starts everything else around an AWS that a test has prepared, with these listeners besides the built-in ones.
    pub async fn over(
        aws: LocalAws,
        options: &Options,
        mut vars: Vars,
        custom: &[(&str, ListenerFactory)],
    ) -> Result<Self, StackError> {
        aws.create_table(TABLE)?;
        let (http_listener, address) = listen(options.port).await?;
        let (aws_listener, aws_address) = listen(options.aws_port).await?;
        let (megaphone_listener, megaphone_address) = listen(0).await?;
        let has_megaphone = vars.get("KINTO_EVENT_LISTENERS").is_none();
        set_defaults(&mut vars, megaphone_address);
        let Functions {
            api,
            aggregator,
            broadcaster,
            notifier,
        } = Functions::new(&aws, &vars, custom).await?;
        let banner = banner(options, &vars, address, aws_address, has_megaphone);
        let watch = match options.watch {
            true => Watch::start(banner.clone()),
            false => Watch::Off,
        };
        let megaphone = Megaphone::new(MEGAPHONE_API_KEY);
        let megaphone = match watch.is_on() {
            true => megaphone.watched_by(watch.clone()),
            false => megaphone.printing(),
        };

        let (stop, stopped) = watch::channel(false);
        let mut servers = JoinSet::new();
        servers.spawn(endpoint::serve(
            aws_listener,
            stopped.clone(),
            (*aws).clone(),
        ));
        servers.spawn(megaphone.clone().serve(megaphone_listener, stopped.clone()));
        let watching = watch.clone();
        servers.spawn(http::serve(http_listener, stopped, move |event| {
            let (api, watch) = (Arc::clone(&api), watching.clone());
            async move {
                let (began, method) = (Instant::now(), &event.request_context.http.method);
                let writes = watch.is_on() && !method.is_safe();
                let path = event.raw_path.as_deref().unwrap_or_default();
                let what = writes.then(|| format!("{method} {path}"));
                let answer = api.handle(event).await;
                if let Some(what) = what {
                    let what = format!("{what} {}", answer.status_code);
                    watch.note(Stage::Write, &what, began.elapsed());
                }
                answer
            }
        }));

        let mut consumers = JoinSet::new();
        let watching = watch.clone();
        let mut mappings = vec![Mapping::of_aggregator(move |event| {
            let (aggregator, watch) = (Arc::clone(&aggregator), watching.clone());
            async move {
                let records = watch.is_on().then(|| event.records.clone());
                let response = aggregator.handle(event).await;
                if let Some(records) = records.filter(|_| response.batch_item_failures.is_empty()) {
                    watch.note_monitored(&records, Timestamp::now());
                }
                response
            }
        })];
        if let Some(notifier) = notifier {
            let enqueuing = Arc::clone(&notifier);
            mappings.push(Mapping::of_notifier(move |event| {
                let notifier = Arc::clone(&enqueuing);
                async move { notifier.enqueue(event).await }
            }));
            let notifications = aws.queues().notifications.clone();
            let watching = watch.clone();
            consumers.spawn(notifications.consume(move |event| {
                let (notifier, watch) = (Arc::clone(&notifier), watching.clone());
                async move {
                    let messages = watch.is_on().then(|| event.records.clone());
                    let response = notifier.deliver(event).await;
                    if let Some(messages) = messages {
                        watch.note_told(&done(messages, &response), Timestamp::now());
                    }
                    response
                }
            }));
        }
        consumers.spawn(stream::consume(aws.clone(), TABLE.to_owned(), mappings));
        consumers.spawn(aws.queue().clone().consume(move |event| {
            let broadcaster = Arc::clone(&broadcaster);
            async move { broadcaster.handle(event).await }
        }));
        Ok(Self {
            address,
            aws_address,
            aws,
            megaphone,
            banner,
            watch,
            stop,
            servers,
            _consumers: consumers,
        })
    }

    /// The URL of the HTTP API: `http://127.0.0.1:PORT/v1/`.
    pub fn url(&self) -> String {
        format!("http://{}/v1/", self.address)
    }

    /// The URL of DynamoDB and SQS, for `AWS_ENDPOINT_URL`.
    pub fn aws_url(&self) -> String {
        format!("http://{}", self.aws_address)
    }

    /// The banner: one line for each part of the stack, with its address.
    pub fn banner(&self) -> &[String] {
        &self.banner
    }

    /// Returns `true` if the view fills the terminal, so that nothing else may be printed.
    pub fn fills_terminal(&self) -> bool {
        matches!(self.watch, Watch::View(_))
    }

    /// DynamoDB and SQS, for counting requests and injecting faults.
    pub fn aws(&self) -> &LocalAws {
        &self.aws
    }

    /// The built-in Megaphone, which gets nothing if the settings name another one.
    pub fn megaphone(&self) -> &Megaphone {
        &self.megaphone
    }

    /// Ends the stack: accepts no new requests, answers those in flight, and stops the consumers where they are.
    pub async fn stop(mut self) {
        self.watch.end();
        self.stop.send_replace(true);
        let ended = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_REQUESTS, ended).await.is_err() {
            tracing::warn!("requests were still in flight after {LAST_REQUESTS:?}");
        }
    }
}

/// The functions, each with the settings of its deployed counterpart.
struct Functions {
    api: Arc<Api>,
    aggregator: Arc<Aggregator>,
    broadcaster: Arc<Broadcaster>,
    /// Deployed only if a listener is notified after the commit.
    notifier: Option<Arc<Notifier>>,
}

impl Functions {
    async fn new(
        aws: &LocalAws,
        vars: &Vars,
        custom: &[(&str, ListenerFactory)],
    ) -> Result<Self, StartError> {
        use kinto_serverless::megaphone::Megaphone;

        let settings = Settings::from_vars(vars)?;
        let store = Store::new(aws.dynamodb(), TABLE);
        let queue = BroadcastQueue::new(aws.sqs(), aws.queue_url());
        let consumer = QueueConsumer::new(aws.sqs(), aws.queue_url(), aws.dead_letter_url());
        let megaphones = settings.megaphones.iter().cloned().map(Megaphone::new);
        let megaphones = megaphones.collect::<Result<Vec<_>, _>>()?;
        let told = settings.megaphones.clone();
        let environment = aws::of_environment().await;
        let clients = aws.of_listeners(&environment);
        let (before, after): (Vec<_>, Vec<_>) = settings
            .listeners
            .iter()
            .cloned()
            .partition(|listener| listener.synchronous);
        let before = Listeners::new(before, vars, &clients, custom)?;
        let after = Listeners::new(after, vars, &clients, custom)?;
        let notifier = (!after.is_empty()).then(|| {
            let (url, dead) = (sqs::url(NOTIFICATIONS), sqs::dead_letter_url(NOTIFICATIONS));
            let queue = NotificationQueue::new(aws.sqs(), &*url);
            let consumer = QueueConsumer::new(aws.sqs(), url, dead);
            Arc::new(Notifier::new(store.clone(), queue, consumer, after))
        });
        Ok(Self {
            notifier,
            aggregator: Arc::new(Aggregator::new(
                store.clone(),
                queue,
                settings.changes.clone(),
                settings.broadcasts.clone(),
                told,
            )),
            broadcaster: Arc::new(Broadcaster::new(
                store.clone(),
                consumer,
                megaphones.clone(),
            )),
            api: Arc::new(
                Api::new(store, settings, megaphones, before)
                    .signing_with(Signer::new(&environment)),
            ),
        })
    }
}

async fn listen(port: u16) -> Result<(TcpListener, SocketAddr), StackError> {
    let bound = async {
        let listener = server::bind(port).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound
        .await
        .map_err(|source| StackError::Port { port, source })
}

/// The messages of a batch that were handled.
fn done(mut messages: Vec<SqsMessage>, response: &SqsBatchResponse) -> Vec<SqsMessage> {
    let failed = &response.batch_item_failures;
    messages.retain(|message| {
        let id = message.message_id.as_deref();
        !failed
            .iter()
            .any(|failed| Some(&*failed.item_identifier) == id)
    });
    messages
}

/// The banner: one line for each part of the stack, with its address.
fn banner(
    options: &Options,
    vars: &Vars,
    address: SocketAddr,
    aws_address: SocketAddr,
    has_megaphone: bool,
) -> Vec<String> {
    let set = |name| vars.text(name).unwrap_or("nothing");
    let mut banner = vec![
        format!("dynamodb and sqs on http://{aws_address}"),
        format!("listening on http://{address}/v1/"),
    ];
    let mut say = |what: &str, text: String| banner.push(format!("  {what:<12}{text}"));
    let includes = vars.text("KINTO_INCLUDES").unwrap_or_default();
    if includes
        .split_whitespace()
        .any(|name| name == "kinto.plugins.admin")
    {
        say("Kinto Admin", format!("http://{address}/v1/admin/"));
    }
    let shown = set("KINTO_CHANGES_RESOURCES");
    say(
        "changes",
        format!("http://{address}/v1/buckets/monitor/collections/changes/records, of {shown}"),
    );
    say(
        "broadcasts",
        match has_megaphone {
            true => {
                let matched = set("KINTO_EVENT_LISTENERS_MP_MATCH_KINTO_CHANGES");
                format!("of {matched}, to a Megaphone that prints them")
            }
            false => format!("and listeners: {}", set("KINTO_EVENT_LISTENERS")),
        },
    );
    say(
        "data",
        match &options.data {
            Some(file) => format!("in {file}"),
            None => {
                "in memory, until this process ends; --data FILE keeps them in a file".to_owned()
            }
        },
    );
    banner
}

/// Sets the settings that the functions require and that a first `cargo run` lacks. A `kinto.ini` takes precedence.
pub(crate) fn set_defaults(vars: &mut Vars, megaphone: SocketAddr) {
    if vars.has_file() {
        return;
    }
    vars.set_default("KINTO_USERID_HMAC_SECRET", "local");
    if vars.get("MULTIAUTH_POLICIES").is_none() {
        vars.set_default("KINTO_MULTIAUTH_POLICIES", "basicauth");
    }
    if vars.get("KINTO_EVENT_LISTENERS").is_some() {
        return;
    }
    for (name, value) in [
        ("KINTO_EVENT_LISTENERS", "mp"),
        ("KINTO_EVENT_LISTENERS_MP_USE", "kinto_megaphone.listeners"),
        (
            "KINTO_EVENT_LISTENERS_MP_URL",
            &format!("http://{megaphone}"),
        ),
        ("KINTO_EVENT_LISTENERS_MP_API_KEY", MEGAPHONE_API_KEY),
        ("KINTO_EVENT_LISTENERS_MP_BROADCASTER_ID", "remote-settings"),
        (
            "KINTO_EVENT_LISTENERS_MP_MATCH_KINTO_CHANGES",
            "/buckets/main",
        ),
        // A listener is notified only of what monitor/changes shows.
        ("KINTO_CHANGES_RESOURCES", "/buckets/main"),
    ] {
        vars.set_default(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::{Method, StatusCode};
    use serde_json::{Value, json};

    const ANY_PORT: Options = Options {
        port: 0,
        aws_port: 0,
        data: None,
        ini: None,
        rebuild_monitor: false,
        watch: false,
    };

    async fn call(stack: &Stack, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let request = reqwest::Client::new().request(method, stack.url() + path);
        let request = request
            .basic_auth("user", Some("password"))
            .header("content-type", "application/json");
        let answer = request.body(body.to_string()).send().await.unwrap();
        (
            answer.status(),
            serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap(),
        )
    }

    async fn put(stack: &Stack, path: &str) -> Value {
        let (status, object) = call(stack, Method::PUT, path, &json!({"data": {}})).await;
        assert_eq!(status, StatusCode::CREATED, "{object}");
        object["data"]["last_modified"].clone()
    }

    async fn until(condition: impl AsyncFn() -> bool) {
        tokio::time::timeout(Duration::from_secs(5), async {
            while !condition().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_write_reaches_monitor_changes_and_megaphone() {
        let stack = Stack::start(&ANY_PORT, Vars::default()).await.unwrap();
        put(&stack, "buckets/main").await;
        put(&stack, "buckets/main/collections/c").await;
        let written = put(&stack, "buckets/main/collections/c/records/r").await;
        until(async || {
            let path = "buckets/monitor/collections/changes/records";
            let (_, changes) = call(&stack, Method::GET, path, &Value::Null).await;
            changes["data"][0]["last_modified"] == written
        })
        .await;
        let version = format!("\"{written}\"");
        until(async || {
            let broadcasts = stack.megaphone().broadcasts();
            broadcasts.get("remote-settings/monitor_changes") == Some(&version)
        })
        .await;
        stack.stop().await;
    }

    #[tokio::test]
    async fn a_setting_that_cannot_be_used_or_a_port_that_is_taken_stops_the_start() {
        let vars = Vars::from_iter([("KINTO_READONLY", "perhaps")]);
        let error = Stack::start(&ANY_PORT, vars).await.err().unwrap();
        assert!(error.to_string().starts_with("KINTO_READONLY"), "{error}");

        let stack = Stack::start(&ANY_PORT, Vars::default()).await.unwrap();
        let taken = Options {
            port: stack.address.port(),
            ..ANY_PORT
        };
        let error = Stack::start(&taken, Vars::default()).await.err().unwrap();
        assert!(matches!(error, StackError::Port { .. }), "{error}");
    }
}
