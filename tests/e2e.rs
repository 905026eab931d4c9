//! The whole way of the data through what is really deployed: `template.yaml` as it stands and the binaries that
//! `sam build` made of it, on an emulator of AWS (ministack) with a Megaphone receiver and webhooks on loopback.
//!
//! The emulator enforces the roles' policies, so a permission that a function lacks fails here. It costs 100 ms
//! a request, so this is one walk without details: those are tested on the local stack. `tests/run` installs sam
//! and ministack, builds, and runs this.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::config::Credentials;
use aws_sdk_sqs::types::QueueAttributeName;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::is_signed;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate, matchers};

const REGION: &str = "us-east-1";
const STACK: &str = "kinto-e2e";
const API_KEY: &str = "key-of-the-broadcaster";
const READER_TOKEN: &str = "token-of-a-reader";
const WEBHOOK_SECRET: &str = "what the webhooks' events are signed with";
const CHANNEL: &str = "/v1/broadcasts/remote-settings/monitor_changes";
/// Far above what a change takes on the emulator (about a second), for machines that are busy.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
#[ignore = "needs sam and ministack: tests/run"]
async fn the_deployed_stack_announces_writes_whatever_happens_to_megaphone() {
    let megaphone = Megaphone::start().await;
    let webhooks = Webhooks::start().await;
    let emulator = Emulator::start().await;
    let key_arn = emulator.create_secret("megaphone-api-key", API_KEY).await;
    let token_arn = emulator.create_secret("reader-token", READER_TOKEN).await;
    let secret_arn = emulator
        .create_secret("webhook-secret", WEBHOOK_SECRET)
        .await;

    // Where nobody listens, nothing is made for it.
    emulator.deploy(&[("Architecture", architecture())]);
    let made = emulator.queues_and_functions().await.join(" ");
    assert!(made.contains("BroadcastQueue") && made.contains("Broadcaster"));
    for part in ["Notif", "Outbox", "ResourceChanged"] {
        assert!(!made.contains(part), "{made}");
    }

    emulator.deploy(&[
        ("Architecture", architecture()),
        ("BucketCreatePrincipals", "system.Authenticated"),
        ("ChangesResources", "/buckets/main"),
        ("MegaphoneUrl", &megaphone.server.uri()),
        ("MegaphoneApiKeyArn", &key_arn),
        ("MatchKintoChanges", "/buckets/main"),
        ("BroadcastsReaderTokenArn", &token_arn),
        ("PushBroadcastMinDebounceSeconds", "0"),
        ("EventResources", "record"),
        ("EventUris", "/buckets/main"),
        ("EventQueue", "true"),
        ("EventBusName", "default"),
        ("EventWebhookUrl", &webhooks.url(TOLD)),
        ("EventWebhookSecretArn", &secret_arn),
        ("SyncResources", "record"),
        ("SyncWebhookUrl", &webhooks.url(ASKED)),
        ("SyncWebhookSecretArn", &secret_arn),
    ]);
    let outputs = emulator.outputs();
    let api = Api::new(&emulator, &outputs["ApiUrl"]);
    let consumer = emulator.consume(&outputs["EventQueueUrl"]);

    let (status, heartbeat) = api.call(Method::GET, "/__heartbeat__", Value::Null).await;
    assert_eq!(
        (status, &heartbeat["megaphone"]),
        (StatusCode::OK, &json!(true)),
        "{heartbeat}"
    );

    // A write is listed with its timestamp, and that is broadcast.
    api.create("/buckets/main", json!({})).await;
    api.create("/buckets/main/collections/one", json!({})).await;
    let first = api
        .create("/buckets/main/collections/one/records/r1", json!({}))
        .await;
    eventually("monitor/changes lists the record's timestamp", async || {
        api.monitored().await == [("one".to_owned(), first)]
    })
    .await;
    eventually("the record's timestamp is broadcast", async || {
        megaphone.version() == Some(first)
    })
    .await;

    // Its changeset announces it; the monitor, computed anew, has nothing to add.
    let (status, changeset) = api
        .call(
            Method::GET,
            "/buckets/main/collections/one/changeset?_expected=0",
            Value::Null,
        )
        .await;
    assert_eq!(status, StatusCode::OK, "{changeset}");
    assert_eq!(changeset["timestamp"], first);
    assert_eq!(changeset["changes"][0]["id"], "r1");
    let rebuilt = emulator.sam(
        &[
            "remote",
            "invoke",
            "ChangesAggregator",
            "--stack-name",
            STACK,
            "--event-file",
            "events/rebuild-monitor.json",
        ],
        [],
    );
    let rebuilt: Value = serde_json::from_slice(&rebuilt).expect("sam prints what it answers");
    assert_eq!(
        rebuilt,
        json!({"collections": 1, "raised": 0, "removed": 0})
    );

    // A record that brings its own time from the past moves nothing.
    let past = api
        .create(
            "/buckets/main/collections/one/records/old",
            json!({"last_modified": first - 1}),
        )
        .await;
    assert_eq!(past, first - 1);

    // What a listener refuses is not there.
    let refused = "/buckets/main/collections/one/records/refused";
    let body = json!({"data": {"refuse": true}});
    let (status, answer) = api.call(Method::PUT, refused, body).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
    assert_eq!(answer["message"], "Not this one", "{answer}");
    let (status, _) = api.call(Method::GET, refused, Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    // A batch with a group, whose members are written besides, and the deletion of a list.
    let put =
        |path: &str, data: Value| json!({"method": "PUT", "path": path, "body": {"data": data}});
    let requests = [
        put("/buckets/other", json!({})),
        put(
            "/buckets/other/groups/g",
            json!({"members": ["account:alice"]}),
        ),
        put("/buckets/other/collections/c", json!({})),
        put("/buckets/other/collections/c/records/r", json!({})),
        json!({"method": "DELETE", "path": "/buckets/other/collections/c/records"}),
    ];
    let (status, batch) = api
        .call(Method::POST, "/batch", json!({"requests": requests}))
        .await;
    let responses = batch["responses"].as_array().map_or(&[][..], Vec::as_slice);
    let statuses: Vec<_> = responses
        .iter()
        .map(|response| &response["status"])
        .collect();
    assert_eq!(
        (status, json!(statuses)),
        (StatusCode::OK, json!([201, 201, 201, 201, 200])),
        "{batch}"
    );

    // Who asks instead of being told gets the same, with a token in Megaphone's place.
    let broadcasts = json!({"remote-settings/monitor_changes": format!("\"{first}\"")});
    eventually("who asks gets the record's timestamp", async || {
        let (_, answer) = api.call(Method::GET, "/__broadcasts__", Value::Null).await;
        answer["broadcasts"] == broadcasts
    })
    .await;
    assert_eq!(
        api.read_broadcasts(READER_TOKEN).await["broadcasts"],
        broadcasts
    );
    assert_eq!(api.read_broadcasts("another").await["errno"], 121);

    // What cannot be understood is put aside.
    emulator
        .send(&outputs["BroadcastQueueUrl"], "not json")
        .await;
    eventually("a message that says nothing is a dead letter", async || {
        emulator
            .count_messages(&outputs["BroadcastDeadLetterQueueUrl"])
            .await
            == 1
    })
    .await;

    // An outage of Megaphone is the queue's concern and not the client's.
    megaphone.fails(true);
    let second = api
        .create("/buckets/main/collections/one/records/r2", json!({}))
        .await;
    eventually("a broadcast fails during the outage", async || {
        megaphone.failures() > 0
    })
    .await;
    assert_eq!(megaphone.version(), Some(first));
    megaphone.fails(false);
    eventually("the broadcast arrives after the outage", async || {
        megaphone.version() == Some(second)
    })
    .await;

    // The queue's consumer and the webhook were told of each record that was written, in this order.
    let told =
        ["r1", "old", "r2"].map(|id| format!("create /buckets/main/collections/one/records/{id}"));
    eventually("the consumer has the events of all records", async || {
        consumer.heard().len() >= told.len()
    })
    .await;
    assert_eq!(consumer.heard(), told);
    eventually("the webhook has the events of all records", async || {
        webhooks.received(TOLD).await.len() >= told.len()
    })
    .await;
    assert_eq!(webhooks.received(TOLD).await, told);
    // So was the bus, which nobody watches: nothing is left to do.
    eventually("all listeners are told", async || {
        emulator
            .count_messages(&outputs["NotificationQueueUrl"])
            .await
            == 0
    })
    .await;
    for queue in [
        "NotificationDeadLetterQueueUrl",
        "OutboxDeadLetterQueueUrl",
        "EventDeadLetterQueueUrl",
    ] {
        assert_eq!(emulator.count_messages(&outputs[queue]).await, 0, "{queue}");
    }

    // With the bucket its collections leave the monitor, which is the aggregator's doing and not the request's.
    let (status, gone) = api.call(Method::DELETE, "/buckets/main", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{gone}");
    eventually("monitor/changes lists nothing any more", async || {
        api.monitored().await.is_empty()
    })
    .await;
    assert_eq!(megaphone.version(), Some(second));
}

/// Asks four times a second until `condition` holds; a failure names what did not come.
async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    eprintln!("{what}: {:.1?}", start.elapsed());
}

/// This machine's processor in Lambda's words: the emulator runs the functions as its own processes.
fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "x86_64"
    }
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace is above tests/")
}

/// Kinto's HTTP API as deployed, spoken to as one user.
struct Api {
    http: reqwest::Client,
    url: String,
    host: String,
}

impl Api {
    /// The API whose URL on AWS is `url`; the emulator finds it by the first label of the host.
    fn new(emulator: &Emulator, url: &str) -> Self {
        let id = url
            .trim_start_matches("https://")
            .split('.')
            .next()
            .unwrap_or_default();
        Self {
            http: reqwest::Client::new(),
            url: format!("{}/v1", emulator.endpoint),
            host: format!("{id}.execute-api.localhost:{}", emulator.port),
        }
    }

    /// Sends `body` unless it is null. An answer that is not JSON is returned as a string.
    async fn call(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .header("host", &self.host)
            .basic_auth("alice", Some("secret"))
            .timeout(PATIENCE);
        if !body.is_null() {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        let response = request.send().await.expect("the API answers");
        let status = response.status();
        let text = response.text().await.expect("the API's answer is whole");
        (
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    /// What Megaphone would answer to a reader with this token.
    async fn read_broadcasts(&self, token: &str) -> Value {
        let request = self
            .http
            .get(format!("{}/broadcasts", self.url))
            .header("host", &self.host)
            .bearer_auth(token)
            .timeout(PATIENCE);
        let response = request.send().await.expect("the API answers");
        let text = response.text().await.expect("the API's answer is whole");
        serde_json::from_str(&text).expect("the answer is JSON")
    }

    /// Creates the object, which must work, and returns its timestamp.
    async fn create(&self, path: &str, data: Value) -> u64 {
        let (status, object) = self.call(Method::PUT, path, json!({"data": data})).await;
        assert_eq!(status, StatusCode::CREATED, "PUT {path}: {object}");
        object["data"]["last_modified"]
            .as_u64()
            .expect("last_modified is a number")
    }

    /// The collections that monitor/changes lists, with their timestamps.
    async fn monitored(&self) -> Vec<(String, u64)> {
        let path = "/buckets/monitor/collections/changes/records";
        let (status, list) = self.call(Method::GET, path, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{list}");
        let entries = list["data"].as_array().expect("a list has data");
        let text = |entry: &Value| entry["collection"].as_str().unwrap_or_default().to_owned();
        let time = |entry: &Value| entry["last_modified"].as_u64().unwrap_or_default();
        entries
            .iter()
            .map(|entry| (text(entry), time(entry)))
            .collect()
    }
}

/// A Megaphone that keeps a channel's version, or fails while told to.
struct Megaphone {
    server: MockServer,
    channel: Channel,
}

#[derive(Clone, Default)]
struct Channel {
    failing: Arc<AtomicBool>,
    /// Of each broadcast in order: its version if it was taken, nothing if it failed.
    received: Arc<Mutex<Vec<Option<u64>>>>,
}

impl Respond for Channel {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        // A body without its quotes, or that is no timestamp, is not a version.
        let version = serde_json::from_slice::<String>(&request.body)
            .ok()
            .and_then(|etag| etag.parse().ok());
        let (version, status) = match version {
            None => (None, 400),
            Some(_) if self.failing.load(Ordering::SeqCst) => (None, 503),
            Some(version) => (Some(version), 200),
        };
        self.received
            .lock()
            .expect("no holder panics")
            .push(version);
        ResponseTemplate::new(status).set_body_json(json!({"code": status}))
    }
}

impl Megaphone {
    /// Answers what is not a broadcast with this key on this channel with 404.
    async fn start() -> Self {
        let server = MockServer::start().await;
        let channel = Channel::default();
        Mock::given(matchers::method("PUT"))
            .and(matchers::path(CHANNEL))
            .and(matchers::bearer_token(API_KEY))
            .respond_with(channel.clone())
            .mount(&server)
            .await;
        Mock::given(matchers::method("GET"))
            .and(matchers::path("/__heartbeat__"))
            .respond_with(ResponseTemplate::new(200))
            .mount(&server)
            .await;
        Self { server, channel }
    }

    fn fails(&self, failing: bool) {
        self.channel.failing.store(failing, Ordering::SeqCst);
    }

    fn received(&self) -> Vec<Option<u64>> {
        self.channel
            .received
            .lock()
            .expect("no holder panics")
            .clone()
    }

    /// The version told last. It never goes back.
    fn version(&self) -> Option<u64> {
        let versions: Vec<_> = self.received().into_iter().flatten().collect();
        assert!(versions.is_sorted(), "the version went back: {versions:?}");
        versions.last().copied()
    }

    fn failures(&self) -> usize {
        self.received()
            .iter()
            .filter(|version| version.is_none())
            .count()
    }
}

/// Where a webhook is told after the commit, and where another is asked before it.
const TOLD: &str = "/told";
const ASKED: &str = "/asked";

/// Webhooks that keep what they receive. Asked about a record that has `refuse`, they refuse it.
struct Webhooks(MockServer);

impl Webhooks {
    async fn start() -> Self {
        let server = MockServer::start().await;
        let refusal = json!({"refused": {"status": 403, "message": "Not this one"}});
        let refused = json!({"impacted_records": [{"new": {"refuse": true}}]});
        let answers = [
            Mock::given(matchers::path(ASKED))
                .and(matchers::body_partial_json(refused))
                .respond_with(ResponseTemplate::new(200).set_body_json(refusal)),
            Mock::given(matchers::method("POST")).respond_with(ResponseTemplate::new(200)),
        ];
        for answer in answers {
            answer.mount(&server).await;
        }
        Self(server)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.0.uri())
    }

    /// What was received there, in its order and without what came again, as the consumer writes it.
    async fn received(&self, path: &str) -> Vec<String> {
        let requests = self.0.received_requests().await.unwrap_or_default();
        let requests = requests.iter().filter(|request| request.url.path() == path);
        let mut events: Vec<(String, String)> = vec![];
        for request in requests {
            assert!(is_signed(request, WEBHOOK_SECRET.as_bytes()), "{request:?}");
            let event: Value = serde_json::from_slice(&request.body).expect("an event is JSON");
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let id = text(&event["id"]);
            let what = format!(
                "{} {}",
                text(&event["action"]),
                text(&event["impacted_uris"][0])
            );
            if events.iter().all(|(known, _)| *known != id) {
                events.push((id, what));
            }
        }
        events.into_iter().map(|(_, what)| what).collect()
    }
}

/// `examples/consumer.py`, running until this is dropped.
struct Consumer {
    process: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Consumer {
    fn start(command: &mut Command) -> Self {
        let spawned = command.stdout(Stdio::piped()).spawn();
        let mut process = spawned.expect("python is installed (tests/run)");
        let stdout = process.stdout.take().expect("its output is ours");
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let all = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                all.lock().expect("no holder panics").push(line);
            }
        });
        Self { process, lines }
    }

    /// Of each event that it handled what was done, and to what.
    fn heard(&self) -> Vec<String> {
        let lines = self.lines.lock().expect("no holder panics");
        let words = lines.iter().map(|line| line.split(' ').collect::<Vec<_>>());
        // The date is in front, the object behind.
        words.map(|words| words[1..3].join(" ")).collect()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// AWS on loopback: a process that ends with this value, and the processes of its functions with it.
struct Emulator {
    process: Child,
    port: u16,
    endpoint: String,
    log: PathBuf,
}

impl Emulator {
    async fn start() -> Self {
        let port = free_port();
        let endpoint = format!("http://127.0.0.1:{port}");
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ministack.log");
        let output = File::create(&log).expect("the target directory is writable");
        eprintln!(
            "the emulator's log, with the functions' output: {}",
            log.display()
        );
        let process = Command::new("ministack")
            .env("GATEWAY_PORT", port.to_string())
            .env("BIND_HOST", "127.0.0.1")
            // Inherited by the functions: this is how they find the emulator.
            .env("AWS_ENDPOINT_URL", &endpoint)
            // IAM is enforced.
            .env("AUTH", "true")
            .stdout(output.try_clone().expect("a file handle is to be had"))
            .stderr(output)
            .spawn()
            .expect("ministack is installed (tests/run)");
        let emulator = Self {
            process,
            port,
            endpoint,
            log,
        };
        let health = format!("{}/_ministack/health", emulator.endpoint);
        eventually("the emulator is up", async || {
            reqwest::get(&health)
                .await
                .is_ok_and(|r| r.status().is_success())
        })
        .await;
        emulator
    }

    async fn sdk_config(&self) -> SdkConfig {
        aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(&self.endpoint)
            .credentials_provider(Credentials::new("test", "test", None, None, "e2e"))
            .load()
            .await
    }

    /// Stores a secret, as an operator does before the deployment, and returns its ARN.
    async fn create_secret(&self, name: &str, value: &str) -> String {
        let client = aws_sdk_secretsmanager::Client::new(&self.sdk_config().await);
        let created = client
            .create_secret()
            .name(name)
            .secret_string(value)
            .send()
            .await;
        created
            .expect("the secret is created")
            .arn
            .expect("a secret has an ARN")
    }

    /// Starts the example of a consumer of the stack's queue.
    fn consume(&self, queue_url: &str) -> Consumer {
        let mut command = Command::new("python");
        command.args(["examples/consumer.py", queue_url]);
        Consumer::start(command.current_dir(workspace()).envs(self.environment()))
    }

    /// What a program needs to take this for AWS.
    fn environment(&self) -> [(&'static str, &str); 4] {
        [
            ("AWS_ENDPOINT_URL", &self.endpoint),
            ("AWS_DEFAULT_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ]
    }

    /// Sends a message to the group of the listener.
    async fn send(&self, queue_url: &str, body: &str) {
        let client = aws_sdk_sqs::Client::new(&self.sdk_config().await);
        let message = client.send_message().queue_url(queue_url);
        message
            .message_body(body)
            .message_group_id("mp")
            .message_deduplication_id(body.replace(' ', "-"))
            .send()
            .await
            .expect("the message is sent");
    }

    /// About how many messages wait in a queue, or are worked on.
    async fn count_messages(&self, queue_url: &str) -> u32 {
        let client = aws_sdk_sqs::Client::new(&self.sdk_config().await);
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        let asked = client.get_queue_attributes().queue_url(queue_url);
        let answer = asked.set_attribute_names(Some(names.to_vec())).send().await;
        let counts = answer.expect("the queue's attributes are read").attributes;
        let counts = counts.unwrap_or_default().into_values();
        counts.filter_map(|count| count.parse::<u32>().ok()).sum()
    }

    /// The URLs of all queues and the names of all functions.
    async fn queues_and_functions(&self) -> Vec<String> {
        let config = self.sdk_config().await;
        let queues = aws_sdk_sqs::Client::new(&config).list_queues().send();
        let mut all = queues.await.expect("queues are listed").queue_urls;
        let functions = aws_sdk_lambda::Client::new(&config).list_functions().send();
        let functions = functions.await.expect("functions are listed").functions;
        let names = functions.into_iter().flatten();
        all.get_or_insert_default()
            .extend(names.filter_map(|function| function.function_name));
        all.unwrap_or_default()
    }

    /// Deploys what `sam build` left.
    fn deploy(&self, parameters: &[(&str, &str)]) {
        let start = Instant::now();
        let parameters = parameters
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        // No --template-file: as for an operator, .aws-sam/build and samconfig.toml are found from here.
        self.sam(
            &[
                "deploy",
                "--stack-name",
                STACK,
                "--no-confirm-changeset",
                "--parameter-overrides",
            ],
            parameters,
        );
        eprintln!("deployed: {:.1?}", start.elapsed());
    }

    /// The stack's outputs.
    fn outputs(&self) -> BTreeMap<String, String> {
        let outputs = self.sam(
            &[
                "list",
                "stack-outputs",
                "--stack-name",
                STACK,
                "--output",
                "json",
            ],
            [],
        );
        let outputs: Vec<Value> =
            serde_json::from_slice(&outputs).expect("sam lists outputs as JSON");
        let text = |output: &Value, key: &str| output[key].as_str().unwrap_or_default().to_owned();
        outputs
            .iter()
            .map(|output| (text(output, "OutputKey"), text(output, "OutputValue")))
            .collect()
    }

    /// Runs sam against this emulator, which must work, and returns its standard output.
    fn sam(&self, command: &[&str], more: impl IntoIterator<Item = String>) -> Vec<u8> {
        let output = Command::new("sam")
            .args(command)
            .args(more)
            .current_dir(workspace())
            .envs(self.environment())
            .env_remove("AWS_SESSION_TOKEN")
            .env_remove("AWS_PROFILE")
            .env("SAM_CLI_TELEMETRY", "0")
            .output()
            .expect("sam is installed (tests/run)");
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "sam {command:?}: {stdout}{stderr}\nsee {}",
            self.log.display()
        );
        output.stdout
    }
}

impl Drop for Emulator {
    /// Asks it to end, so that it ends its functions' processes too, and insists after ten seconds.
    fn drop(&mut self) {
        // The standard library sends SIGKILL only.
        let asked = Command::new("kill")
            .arg(self.process.id().to_string())
            .status()
            .is_ok_and(|kill| kill.success());
        let deadline = Instant::now() + Duration::from_secs(10);
        while asked && Instant::now() < deadline {
            if let Ok(Some(_)) = self.process.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that nobody listens on right now: the emulator must be told one.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a free port");
    listener
        .local_addr()
        .expect("a bound socket has an address")
        .port()
}
