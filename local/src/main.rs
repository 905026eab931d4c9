//! `cargo run`: starts the stack, says where it listens, and ends with a signal; or has a running one rebuild its
//! monitor.

use std::error::Error;
use std::process::ExitCode;

use kinto_local::{Options, Stack, admin, options, rebuild};
use kinto_serverless::settings::Vars;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A fifth of the instructions were those of the allocator: the SDK and the emulator make many small values.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let var = |name: &str| std::env::var(name).ok();
    let Some(options) = Options::parse(std::env::args_os().skip(1), var)? else {
        println!("{}", options::HELP);
        return Ok(());
    };
    let levels = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(levels)
        .with_writer(std::io::stderr)
        .init();

    if options.rebuild_monitor {
        let rebuilt = rebuild::rebuild_monitor(options.aws_port, Vars::from_env()).await?;
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
    let mut vars = Vars::from_env();
    admin::set_defaults(&mut vars, &admin::directories());
    let stack = Stack::start(&options, vars).await?;
    println!("dynamodb and sqs on {}", stack.aws_url());
    println!("listening on {}", stack.url());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stack.stop().await;
    Ok(())
}
