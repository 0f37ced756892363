//! `millrace-worker`: the node, and with a launch context the driver or the executor.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command, value_parser};
use millrace_common::clock::SystemClock;
use millrace_common::config::{self, DUMP_FLAG};
use millrace_common::error::Error;
use millrace_common::{shutdown, telemetry};
use millrace_proto::v1::{ContainerKind, LaunchContext};
use millrace_worker::config::WorkerConfig;
use millrace_worker::{driver, entry, executor, isolation, launch, node};

fn main() -> ExitCode {
    telemetry::init();
    let matches = command().get_matches();
    match matches.subcommand() {
        Some(("driver", matches)) => container(matches, driver::main),
        Some(("executor", matches)) => container(matches, executor::main),
        Some((_, matches)) => node(matches),
        None => node(&matches),
    }
}

fn command() -> Command {
    let node_args = || config::to_args::<WorkerConfig>();
    let container = |name: &'static str, about: &'static str| {
        Command::new(name)
            .about(about)
            .arg(
                Arg::new("launch")
                    .long("launch")
                    .required(true)
                    .value_name("path")
                    .value_parser(value_parser!(PathBuf))
                    .help("The launch context that the node wrote"),
            )
            .arg(
                Arg::new("args")
                    .last(true)
                    .num_args(0..)
                    .value_parser(value_parser!(OsString))
                    .help("Arguments of the application, as its file gives them"),
            )
    };
    Command::new("millrace-worker")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Offers this host to a Millrace cluster and runs its containers")
        .args_conflicts_with_subcommands(true)
        .args(node_args())
        .subcommand(Command::new("node").about("Run as node (the default)").args(node_args()))
        .subcommand(container("driver", "Run as driver; started by a node"))
        .subcommand(container("executor", "Run as executor; started by a node"))
}

fn fail(error: &Error) -> ExitCode {
    let failure = error.to_failure();
    telemetry::say(&format!("millrace-worker: {}: {}", failure.code, failure.message));
    telemetry::say(&format!("next: {}", failure.next_move));
    ExitCode::FAILURE
}

fn container(matches: &ArgMatches, run: fn(LaunchContext) -> ExitCode) -> ExitCode {
    let Some(path) = matches.get_one::<PathBuf>("launch") else {
        return fail(&Error::internal("--launch is required and was not given"));
    };
    if let Err(error) = isolation::isolate() {
        return fail(&Error::internal("rights can not be given up").caused_by(error));
    }
    // Before any thread starts: a container with secrets begins twice.
    let context = match launch::read(path) {
        Ok(context) => context,
        Err(error) => return fail(&error),
    };
    match entry::enter(&context) {
        Ok(()) => {}
        // The driver meets the same fault, and tells the master.
        Err(_) if context.kind() == ContainerKind::Driver => {}
        Err(error) => return fail(&error),
    }
    let watched = launch::watch_parent()
        .map_err(|error| Error::internal("standard input can not be watched").caused_by(error));
    #[cfg(feature = "failpoints")]
    let watched =
        watched.and_then(|()| millrace_worker::failpoints::load().map_err(Error::internal));
    match watched {
        Ok(()) => run(context),
        Err(error) => fail(&error),
    }
}

fn node(matches: &ArgMatches) -> ExitCode {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let sources = config::from_matches::<WorkerConfig>(matches, environment);
    let outcome = config::load::<WorkerConfig>(&sources).and_then(|loaded| {
        for conflict in loaded.effective.conflicts() {
            tracing::info!("{conflict}");
        }
        if matches.get_flag(DUMP_FLAG) {
            print!("{}", loaded.effective);
            return Ok(());
        }
        run_node(loaded.settings)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// A node does little: one thread for its work and one to spare is plenty, and keeps it small.
const NODE_THREADS: usize = 2;
/// How long a look at a disk that hangs may hold up the end.
const LEFT_DEADLINE: Duration = Duration::from_secs(1);

fn run_node(config: WorkerConfig) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(NODE_THREADS)
        .enable_all()
        .build()
        .map_err(|error| Error::internal("no runtime can be made").caused_by(error))?;
    let outcome = runtime.block_on(async {
        let shutdown = shutdown::on_signal()
            .map_err(|error| Error::internal("signals can not be heard").caused_by(error))?;
        let program = std::env::current_exe()
            .map_err(|error| Error::internal("this program can not be found").caused_by(error))?;
        node::run(config, program, SystemClock::shared(), shutdown).await
    });
    runtime.shutdown_timeout(LEFT_DEADLINE);
    outcome
}
