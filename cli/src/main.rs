//! `kinto-serverless`: moves a Kinto into a table, and out of it; makes certificates for the keys that sign.

use std::process::ExitCode;

use kinto_cli::chain;
use kinto_cli::options::{HELP, Options};
use kinto_cli::run::run;

/// As in the local stack, whose table many of its values are made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One thread reads and compares, the others write.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    if chain::is_asked(std::env::args_os().nth(1).as_ref()) {
        return make_certificates().await;
    }
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match run(options, &mut std::io::stdout()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

async fn make_certificates() -> ExitCode {
    let made = async {
        match chain::Options::parse(std::env::args_os().skip(1))? {
            Some(options) => chain::run(options, &mut std::io::stdout()).await,
            None => {
                println!("{}", chain::HELP);
                Ok(())
            }
        }
    };
    match made.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
