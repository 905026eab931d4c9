//! The emulator of AWS with the stack deployed in it.

use crate::webhooks::Consumer;
use crate::{REGION, STACK, architecture, eventually, release, workspace};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::config::Credentials;
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant, SystemTime};

/// AWS on loopback: a process that ends with this value, and the processes of its functions with it.
pub struct Emulator {
    pub process: Child,
    pub port: u16,
    pub endpoint: String,
    pub log: PathBuf,
}

impl Emulator {
    pub async fn start() -> Self {
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

    pub async fn sdk_config(&self) -> SdkConfig {
        aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(&self.endpoint)
            .credentials_provider(Credentials::new("test", "test", None, None, "e2e"))
            .load()
            .await
    }

    /// Stores a secret, as an operator does before the deployment, and returns its ARN.
    pub async fn create_secret(&self, name: &str, value: &str) -> String {
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
    pub fn consume(&self, queue_url: &str) -> Consumer {
        let mut command = Command::new("python");
        command.args(["examples/consumer.py", queue_url]);
        Consumer::start(command.current_dir(workspace()).envs(self.environment()))
    }

    /// What a program needs to take this for AWS.
    pub fn environment(&self) -> [(&'static str, &str); 4] {
        [
            ("AWS_ENDPOINT_URL", &self.endpoint),
            ("AWS_DEFAULT_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ]
    }

    /// Sends a message to the group of the listener.
    pub async fn send(&self, queue_url: &str, body: &str) {
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
    pub async fn count_messages(&self, queue_url: &str) -> u32 {
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
    pub async fn queues_and_functions(&self) -> Vec<String> {
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

    /// Deploys the release by a profile of its `samconfig.toml`, with parameters in place of the profile's.
    pub fn deploy_profile(&self, profile: &str, parameters: &[(&str, &str)]) {
        self.deploy(&["--config-env", profile], parameters);
    }

    /// Deploys the release's template with all parameters.
    pub fn deploy_full(&self, parameters: &[(&str, &str)]) {
        self.deploy(&["--template-file", &full_template()], parameters);
    }

    /// Tries to deploy the release's template with all parameters, which must fail, and returns what sam says.
    pub fn deploy_is_refused(&self, parameters: &[(&str, &str)]) -> String {
        let start = Instant::now();
        let output = self.run_deploy(&["--template-file", &full_template()], parameters);
        eprintln!("refused: {:.1?}", start.elapsed());
        let said = said(&output);
        assert!(!output.status.success(), "{said}");
        said
    }

    fn deploy(&self, what: &[&str], parameters: &[(&str, &str)]) {
        let start = Instant::now();
        let output = self.run_deploy(what, parameters);
        let log = self.log.display();
        assert!(output.status.success(), "{}\nsee {log}", said(&output));
        eprintln!("deployed {what:?}: {:.1?}", start.elapsed());
    }

    fn run_deploy(&self, what: &[&str], parameters: &[(&str, &str)]) -> Output {
        let parameters = parameters
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let unasked = ["--no-confirm-changeset", "--parameter-overrides"];
        self.run_sam(&[&["deploy"], what, &unasked].concat(), parameters)
    }

    /// What `alarms.py` found: the stack's alarms, and which of them rang.
    pub fn ring_alarms(&self) -> Value {
        let found = self.python(&["tests/e2e/alarms.py", STACK]);
        serde_json::from_str(&found).expect("alarms.py prints JSON")
    }

    /// Has the schedule of sweeps fire, and returns when the item that it marks is to expire.
    pub fn sweep(&self, table: &str, [pk, sk]: [&str; 2]) -> SystemTime {
        let start = Instant::now();
        let expires = self.python(&["tests/e2e/sweep.py", STACK, table, pk, sk]);
        eprintln!("swept by the schedule: {:.1?}", start.elapsed());
        let seconds = expires.parse().expect("sweep.py prints seconds");
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Restores the table into another, and returns the ARN of its stream.
    pub fn restore(&self, table: &str, restored: &str) -> String {
        self.python(&["tests/e2e/restore.py", table, restored])
    }

    /// Stores an object, without what its lines are indented by, in a bucket of the emulator's S3, and returns its ARN.
    pub fn put_object(&self, key: &str, body: &str) -> String {
        const PUT: &str = "import boto3, sys; s3 = boto3.client('s3'); s3.create_bucket(Bucket='settings'); \
             s3.put_object(Bucket='settings', Key=sys.argv[1], Body=sys.argv[2].encode())";
        let lines: Vec<_> = body.lines().map(str::trim_start).collect();
        self.python(&["-c", PUT, key, &lines.join("\n")]);
        format!("arn:aws:s3:::settings/{key}")
    }

    /// Runs Python against this emulator, which must work, and returns what it prints.
    fn python(&self, arguments: &[&str]) -> String {
        let mut python = Command::new("python");
        python.args(arguments).current_dir(workspace());
        let output = python.envs(self.environment()).output();
        let output = output.expect("python is installed");
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The stack's outputs.
    pub fn outputs(&self) -> BTreeMap<String, String> {
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
    pub fn sam(&self, command: &[&str], more: impl IntoIterator<Item = String>) -> Vec<u8> {
        let output = self.run_sam(command, more);
        let log = self.log.display();
        assert!(
            output.status.success(),
            "sam {command:?}: {}\nsee {log}",
            said(&output)
        );
        output.stdout
    }

    fn run_sam(&self, command: &[&str], more: impl IntoIterator<Item = String>) -> Output {
        Command::new("sam")
            .args(command)
            .args(more)
            // The release's, which finds its samconfig.toml from here as an operator's does.
            .current_dir(release())
            .envs(self.environment())
            .env_remove("AWS_SESSION_TOKEN")
            .env_remove("AWS_PROFILE")
            .env("SAM_CLI_TELEMETRY", "0")
            .output()
            .expect("sam is installed (tests/run)")
    }
}

fn full_template() -> String {
    format!("full-{}.yaml", architecture())
}

/// What a program printed.
fn said(output: &Output) -> String {
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{stdout}{stderr}")
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
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a free port");
    listener
        .local_addr()
        .expect("a bound socket has an address")
        .port()
}
