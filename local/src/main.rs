//! `cargo run`: starts the stack, prints its addresses, and ends on a signal; or rebuilds the monitor of a running one.

use std::error::Error;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use kinto_local::{Options, Stack, admin, options, rebuild};
use kinto_serverless::settings::Vars;
use kinto_serverless::settings_file;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout};
use tracing_subscriber::EnvFilter;

/// The default allocator took a fifth of the instructions: the SDK and the emulator make many small values.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The interval of a long command's progress messages.
const PROGRESS: Duration = Duration::from_secs(2);

/// The log's default filter: the lines of requests where a setting asks for them (`KINTO_REQUEST_LOG`).
const LEVELS: &str = "warn,request.summary=info";

/// Several threads, whatever cores there are: one that hashes a password for a quarter of a second holds up no other request. (A
/// function on Lambda has one request at a time.)
#[tokio::main(worker_threads = 4)]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints every few seconds that the work goes on, and for how long.
async fn with_progress<T>(what: &str, work: impl Future<Output = T>) -> T {
    let begin = Instant::now();
    let mut work = pin!(work);
    loop {
        match timeout(PROGRESS, work.as_mut()).await {
            Ok(done) => return done,
            Err(_) => eprintln!("{what}, for {} s now", begin.elapsed().as_secs()),
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let var = |name: &str| std::env::var(name).ok();
    let Some(options) = Options::parse(std::env::args_os().skip(1), var)? else {
        println!("{}", options::HELP);
        return Ok(());
    };
    let levels = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LEVELS));
    tracing_subscriber::fmt()
        .with_env_filter(levels)
        .with_writer(std::io::stderr)
        .init();

    let mut vars = Vars::from_env();
    let ini = options
        .ini
        .as_deref()
        .or(vars.text(settings_file::KINTO_INI));
    if let Some(ini) = ini.map(PathBuf::from) {
        for warning in settings_file::read_file(&mut vars, &ini)? {
            tracing::warn!("{warning}");
        }
    }
    if options.rebuild_monitor {
        let rebuilding = rebuild::rebuild_monitor(options.aws_port, vars);
        let rebuilt = with_progress("reading every collection", rebuilding).await?;
        println!(
            "{} collections, {} entries raised, {} removed",
            rebuilt.collections, rebuilt.raised, rebuilt.removed
        );
        return Ok(());
    }
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    admin::set_defaults(&mut vars, &admin::directories());
    let stack = Stack::start(&options, vars).await?;
    if !stack.fills_terminal() {
        for line in stack.banner() {
            println!("{line}");
        }
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stack.stop().await;
    Ok(())
}
