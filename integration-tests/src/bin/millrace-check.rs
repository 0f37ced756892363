//! `millrace-check`: judges what an application wrote, and watches one while it runs.
//!
//! Promises: exit code 0 when no invariant is broken, 1 when one is, 2 when something that is needed
//! can not be read. Reads only. AWS is found by `AWS_ENDPOINT_URL` and the two keys.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use millrace_common::access::read_token;
use millrace_integration_tests::aws::Endpoint;
use millrace_integration_tests::checker::{
    CheckError, Kind, Machine, Observations, OutOfRange, Subject, Truth, Watcher,
};
use tokio::signal::unix::{SignalKind, signal};

/// Holds an application's output against its streams, its head and its commits.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Judge the invariants, once producers and application have stopped.
    Check(Check),
    /// Watch an application until SIGINT or SIGTERM, for I3 and I4.
    Watch(Watch),
}

#[derive(Debug, Args)]
struct Where {
    /// Name of the application.
    application: String,
    /// Where its objects are.
    #[arg(long, value_name = "s3://BUCKET/PREFIX/", value_parser = bucket_and_prefix)]
    sink: (String, String),
    /// The cluster's table.
    #[arg(long, default_value = "millrace")]
    table: String,
    /// Where AWS is.
    #[arg(long, env = "AWS_ENDPOINT_URL")]
    endpoint: String,
    /// Who asks.
    #[arg(long, env = "AWS_ACCESS_KEY_ID")]
    access_key_id: String,
    /// The secret of who asks.
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", hide_env_values = true)]
    secret_access_key: String,
}

#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    place: Where,
    /// The stream behind a source; once per source.
    #[arg(long = "source", value_name = "SOURCE=STREAM", required = true, value_parser = pair)]
    sources: Vec<(String, String)>,
    /// What the query writes.
    #[arg(long, value_enum, default_value = "records")]
    rows: RowKind,
    /// The application was drained after its producers had stopped.
    #[arg(long)]
    drained: bool,
    /// KPL records outside their shard's range are delivered, not dropped.
    #[arg(long)]
    out_of_range_delivered: bool,
    /// The master, for its history of batches.
    #[arg(long, value_name = "ADDRESS")]
    master: Option<SocketAddr>,
    /// A file with the token that the master is shown.
    #[arg(long, value_name = "FILE", env = "MILLRACE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// A file of `millrace-check watch`.
    #[arg(long, value_name = "FILE")]
    watched: Option<PathBuf>,
    /// The directory that the cluster's processes name; nothing of them may be left.
    #[arg(long, value_name = "DIRECTORY")]
    machine: Option<PathBuf>,
    /// A process that may live on; with --machine.
    #[arg(long = "wanted", value_name = "PID")]
    wanted: Vec<u32>,
    /// A port that must be closed; with --machine.
    #[arg(long = "port", value_name = "ADDRESS")]
    ports: Vec<SocketAddr>,
    /// Print the report as one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Watch {
    #[command(flatten)]
    place: Where,
    /// Where to write what is seen.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RowKind {
    /// A row per record: source, shard, seq, sub, sha256 or data.
    Records,
    /// A row per word and batch: word, n.
    Words,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (source, stream) = text.split_once('=').ok_or("write it as SOURCE=STREAM")?;
    Ok((source.to_owned(), stream.to_owned()))
}

fn bucket_and_prefix(text: &str) -> Result<(String, String), String> {
    let path = text.strip_prefix("s3://").and_then(|path| path.split_once('/'));
    let (bucket, prefix) = path.ok_or("write it as s3://BUCKET/PREFIX/")?;
    Ok((bucket.to_owned(), prefix.to_owned()))
}

impl Where {
    fn subject(self) -> Subject {
        let (bucket, prefix) = self.sink;
        Subject {
            endpoint: Endpoint {
                url: self.endpoint,
                access_key_id: self.access_key_id,
                secret_access_key: self.secret_access_key,
            },
            application: self.application,
            streams: [].into(),
            table: self.table,
            bucket,
            prefix,
            kind: Kind::Records,
            out_of_range: OutOfRange::Dropped,
            is_drained: false,
            master: None,
            token: None,
            machine: None,
            observations: None,
            earlier: Truth::default(),
            excused: Vec::new(),
        }
    }
}

impl Check {
    fn subject(self) -> Result<Subject, CheckError> {
        let observations = match self.watched {
            None => None,
            Some(path) => {
                let failed = |what: String| CheckError(format!("{}: {what}", path.display()));
                let text = std::fs::read_to_string(&path).map_err(|e| failed(e.to_string()))?;
                Some(Observations::parse(&text).map_err(failed)?)
            }
        };
        let token = self.token_file.as_deref().map(read_token).transpose();
        let token = token.map_err(|error| CheckError(error.to_string()))?;
        let (wanted, ports) = (self.wanted.into_iter().collect(), self.ports);
        Ok(Subject {
            streams: self.sources.into_iter().collect(),
            kind: match self.rows {
                RowKind::Records => Kind::Records,
                RowKind::Words => Kind::Words,
            },
            out_of_range: match self.out_of_range_delivered {
                true => OutOfRange::Delivered,
                false => OutOfRange::Dropped,
            },
            is_drained: self.drained,
            master: self.master,
            token,
            machine: self.machine.map(|directory| Machine { directory, wanted, ports }),
            observations,
            ..self.place.subject()
        })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Flags::parse().command {
        Command::Check(check) => run_check(check).await,
        Command::Watch(watch) => run_watch(watch).await,
    };
    done.unwrap_or_else(|error| {
        eprintln!("millrace-check: {error}");
        ExitCode::from(2)
    })
}

async fn run_check(check: Check) -> Result<ExitCode, CheckError> {
    let json = check.json;
    let report = check.subject()?.facts().await?.judge();
    if json {
        let text = serde_json::to_string_pretty(&report);
        println!("{}", text.map_err(|error| CheckError(format!("the report: {error}")))?);
    } else {
        print!("{report}");
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run_watch(watch: Watch) -> Result<ExitCode, CheckError> {
    let failed = |error: std::io::Error| CheckError(format!("signals can not be heard: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let watcher = Watcher::start_writing(&watch.place.subject(), Some(watch.out));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let seen = watcher.stop().await?;
    let coverage = seen.coverage;
    eprintln!("{} listings, {} heads", coverage.num_listings, coverage.num_heads);
    Ok(ExitCode::SUCCESS)
}
