//! The process `millrace-emulator`: flags, log, signals.
//!
//! Prints one line to stdout when it serves. Exit codes: 0 after SIGTERM or SIGINT, 1 when it cannot
//! start, 2 for wrong flags.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use millrace_emulator::{Config, Emulator};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Kinesis, DynamoDB and S3 on one port, with the limits and errors of the real services.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:4566", env = "MILLRACE_EMULATOR_LISTEN")]
    listen: SocketAddr,
    /// Directory that keeps streams, tables and objects. Without it they end with the process.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Switch off the rate limits of the real services, for benchmarks.
    #[arg(long)]
    no_limits: bool,
    /// Region that ARNs and bucket locations name.
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// Account that ARNs name: 12 digits.
    #[arg(long, default_value = "000000000000", value_parser = account_id)]
    account_id: String,
    /// Access key and secret that S3 accepts, as KEY:SECRET; may be given more than once. Kinesis
    /// and DynamoDB accept any.
    #[arg(long = "credentials", value_name = "KEY:SECRET", default_value = "test:test",
          value_parser = key_and_secret)]
    credentials: Vec<(String, String)>,
    /// How long a stream stays CREATING or UPDATING.
    #[arg(long, value_name = "MS", default_value_t = 300)]
    transition_ms: u64,
    /// File that gets the address once it is open, written in one step.
    #[arg(long)]
    port_file: Option<PathBuf>,
    /// error, warn, info, debug or trace, or a filter in the syntax of tracing-subscriber.
    #[arg(long, default_value = "info", env = "MILLRACE_EMULATOR_LOG")]
    log_level: String,
}

fn account_id(text: &str) -> Result<String, String> {
    if text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(text.to_owned());
    }
    Err("an account id has 12 digits".to_owned())
}

fn key_and_secret(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((key, secret)) if !key.is_empty() && !secret.is_empty() => {
            Ok((key.to_owned(), secret.to_owned()))
        }
        _ => Err("give KEY:SECRET".to_owned()),
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    // s3s logs every refused request as an error; to a client's author that is noise.
    let filter = match EnvFilter::try_new(format!("{},s3s=off", flags.log_level)) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("--log-level {}: {error}; try info", flags.log_level);
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.map_err(|e| e.to_string()).and_then(|r| r.block_on(run(flags)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> Result<(), String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    let config = Config {
        listen: flags.listen,
        data_dir: flags.data_dir,
        limited: !flags.no_limits,
        region: flags.region,
        account_id: flags.account_id,
        credentials: flags.credentials,
        transition_ms: flags.transition_ms,
        port_file: flags.port_file,
    };
    let handle = Emulator::start(config).await.map_err(|e| e.to_string())?;
    println!("listening on http://{}", handle.addr());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    handle.stop().await;
    Ok(())
}
