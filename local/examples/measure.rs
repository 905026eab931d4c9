//! Takes the measurements of docs/performance.md: `cargo run --release -p kinto-local --example measure [ZIPS…]`.
//!
//! Without arguments: from a PUT to its broadcast, 200 in a row, over HTTP on loopback. With paths of
//! `bootstrap.zip` files that `cargo lambda build --release --output-format zip` made: their sizes, and the time
//! from the start of each function's process to its first `GET …/invocation/next`.

use std::collections::HashMap;
use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kinto_local::{Options, Stack};
use kinto_serverless::settings::Vars;
use serde_json::{Value, json};

const WRITES: usize = 200;
const STARTS: usize = 15;

type Outcome = Result<(), Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let zips: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let vars: Vars = std::iter::empty::<(String, String)>().collect();
    let stack = Stack::start(&Options::default(), vars).await?;
    if zips.is_empty() {
        broadcasts(&stack).await?;
    }
    for zip in zips {
        let aws_url = stack.aws_url();
        tokio::task::spawn_blocking(move || cold_start(&zip, &aws_url).map_err(|e| e.to_string()))
            .await??;
    }
    stack.stop().await;
    Ok(())
}

/// The time from sending a PUT until Megaphone has its timestamp.
async fn broadcasts(stack: &Stack) -> Outcome {
    let client = reqwest::Client::new();
    let put = async |path: &str| -> Result<Value, Box<dyn Error>> {
        let request = client
            .put(stack.url() + path)
            .basic_auth("user", Some(""))
            .header("content-type", "application/json");
        let answer = request
            .body(json!({"data": {"title": "x".repeat(250)}}).to_string())
            .send()
            .await?;
        Ok(serde_json::from_slice(&answer.bytes().await?)?)
    };
    put("buckets/main").await?;
    put("buckets/main/collections/one").await?;
    let (mut answered, mut broadcast) = (vec![], vec![]);
    for n in 0..WRITES {
        let begin = Instant::now();
        let object = put(&format!("buckets/main/collections/one/records/r{n}")).await?;
        answered.push(begin.elapsed());
        let version = format!("\"{}\"", object["data"]["last_modified"]);
        while stack
            .megaphone()
            .broadcasts()
            .get("remote-settings/monitor_changes")
            != Some(&version)
        {
            if begin.elapsed() > Duration::from_secs(10) {
                return Err(format!("no broadcast of {version} in 10 seconds").into());
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        broadcast.push(begin.elapsed());
    }
    println!("{WRITES} writes, each broadcast:");
    println!("  PUT answered   {}", quantiles(answered));
    println!("  PUT broadcast  {}", quantiles(broadcast));
    Ok(())
}

/// The time from the start of a function's process to its request for the first event.
fn cold_start(zip: &Path, aws_url: &str) -> Outcome {
    let directory = std::env::temp_dir().join(format!("measure-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let unzipped = Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .arg(zip)
        .arg(&directory)
        .status()?;
    if !unzipped.success() {
        return Err("the zip cannot be read".into());
    }
    let bootstrap = directory.join("bootstrap");
    Command::new("chmod").arg("+x").arg(&bootstrap).status()?;
    let environment: HashMap<&str, &str> = [
        ("TABLE_NAME", "kinto"),
        (
            "BROADCAST_QUEUE_URL",
            "http://127.0.0.1:1/000000000000/kinto-broadcasts.fifo",
        ),
        (
            "BROADCAST_DEAD_LETTER_QUEUE_URL",
            "http://127.0.0.1:1/000000000000/kinto-broadcasts-dead.fifo",
        ),
        (
            "NOTIFICATION_QUEUE_URL",
            "http://127.0.0.1:1/000000000000/kinto-notifications.fifo",
        ),
        (
            "NOTIFICATION_DEAD_LETTER_QUEUE_URL",
            "http://127.0.0.1:1/000000000000/kinto-notifications-dead.fifo",
        ),
        ("KINTO_USERID_HMAC_SECRET", "secret"),
        ("KINTO_MULTIAUTH_POLICIES", "basicauth"),
        ("KINTO_EVENT_LISTENERS", "mp"),
        ("KINTO_EVENT_LISTENERS_MP_USE", "kinto_megaphone.listeners"),
        ("KINTO_EVENT_LISTENERS_MP_URL", "http://127.0.0.1:1"),
        ("KINTO_EVENT_LISTENERS_MP_API_KEY", "key"),
        ("KINTO_EVENT_LISTENERS_MP_BROADCASTER_ID", "remote-settings"),
        (
            "KINTO_EVENT_LISTENERS_MP_MATCH_KINTO_CHANGES",
            "/buckets/main",
        ),
        ("AWS_ENDPOINT_URL", aws_url),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "local"),
        ("AWS_SECRET_ACCESS_KEY", "local"),
        ("AWS_LAMBDA_FUNCTION_NAME", "measure"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", ""),
        ("AWS_LAMBDA_LOG_GROUP_NAME", ""),
    ]
    .into();
    let mut times = vec![];
    for _ in 0..STARTS {
        let runtime = TcpListener::bind("127.0.0.1:0")?;
        let begin = Instant::now();
        let mut function = Command::new(&bootstrap)
            .env_clear()
            .envs(&environment)
            .env("AWS_LAMBDA_RUNTIME_API", runtime.local_addr()?.to_string())
            .stdout(Stdio::null())
            .spawn()?;
        let (mut connection, _) = runtime.accept()?;
        let mut request = [0; 512];
        let length = connection.read(&mut request)?;
        times.push(begin.elapsed());
        function.kill()?;
        function.wait()?;
        let _ = connection.flush();
        if !request[..length].starts_with(b"GET ")
            || !String::from_utf8_lossy(&request).contains("invocation/next")
        {
            return Err("the function did not ask for an event".into());
        }
    }
    let size = std::fs::metadata(zip)?.len() as f64 / 1e6;
    println!(
        "{}: zip {size:.2} MB, start to first invocation/next {}",
        zip.display(),
        quantiles(times)
    );
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: f64| {
        times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1000.0
    };
    format!(
        "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    )
}
