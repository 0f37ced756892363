//! The fault rows, the storm and the churn, as a program: real processes, real faults, one table.
//!
//! Promises: exit code 0 only when every row that was asked for is kept or could not run here. The
//! table and the logs of what failed stay in `--out`.
//! Never does: pass a row in silence.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use millrace_integration_tests::churn;
use millrace_integration_tests::churn::cast::Size;
use millrace_integration_tests::faults::rows::{ROWS, Row, row};
use millrace_integration_tests::faults::stage::Stage;
use millrace_integration_tests::faults::{run, storm, table};
use tokio::sync::Mutex;

/// Injects faults into a local cluster and judges what comes out.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these rows; all of them when none is named.
    #[arg(long = "row", value_delimiter = ',')]
    rows: Vec<u32>,
    /// Row 40: random faults on one cluster.
    #[arg(long)]
    storm: bool,
    /// Many applications on one cluster, submitted, scaled, drained and killed at random.
    #[arg(long, conflicts_with = "storm")]
    churn: bool,
    /// Seed of the storm or the churn; from the clock when not given, and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Length of the storm or the churn.
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,
    /// Faults come faster than an application may be able to commit.
    #[arg(long, requires = "storm")]
    harsh: bool,
    /// Where the table and the logs of failed rows go.
    #[arg(long, default_value = "target/faults")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be started");
    // An open table is a row's output too: the directory must be there before hours are spent.
    std::fs::create_dir_all(&arguments.out).expect("the output directory can be made");
    if arguments.churn {
        runtime.block_on(a_churn(&arguments))
    } else if arguments.storm {
        runtime.block_on(a_storm(&arguments))
    } else {
        runtime.block_on(all(&arguments))
    }
}

async fn all(arguments: &Arguments) -> ExitCode {
    let wanted: Vec<&'static Row> = match arguments.rows.as_slice() {
        [] => ROWS.iter().collect(),
        named => named.iter().filter_map(|number| row(*number)).collect(),
    };
    if wanted.len() < arguments.rows.len() {
        eprintln!("there is no such row in {:?}; rows are 1 to 39, and --storm", arguments.rows);
        return ExitCode::from(2);
    }
    let (place, began) = (Arc::new(Mutex::new(None::<Stage>)), Instant::now());
    let mut outcomes = Vec::new();
    for row in wanted {
        let started = Instant::now();
        let outcome = run::run(&place, row, &arguments.out).await;
        println!("{} {:.0} s", table::line(&outcome), started.elapsed().as_secs_f64());
        outcomes.push(outcome);
        if let Err(error) = table::write(&arguments.out, &outcomes) {
            eprintln!("the table can not be written: {error}");
            return ExitCode::FAILURE;
        }
    }
    println!("\n{}", table::markdown(&outcomes));
    println!("{:.0} s; table and logs: {}", began.elapsed().as_secs_f64(), arguments.out.display());
    let complaints = table::complaints(&outcomes);
    complaints.iter().for_each(|complaint| eprintln!("{complaint}"));
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn a_storm(arguments: &Arguments) -> ExitCode {
    let seed = arguments.seed.unwrap_or_else(seed_of_the_clock);
    let time = Duration::from_secs_f64(arguments.minutes * 60.0);
    println!("storm: seed {seed}, {:.0} s", time.as_secs_f64());
    let forecast = storm::Forecast { seed, time, is_harsh: arguments.harsh };
    let outcome = storm::run(forecast, &arguments.out).await;
    println!("{}", table::line(&outcome));
    if outcome.verdict == run::Verdict::Kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn a_churn(arguments: &Arguments) -> ExitCode {
    let seed = arguments.seed.unwrap_or_else(seed_of_the_clock);
    let time = Duration::from_secs_f64(arguments.minutes * 60.0);
    println!("churn: seed {seed}, {:.0} s", time.as_secs_f64());
    let forecast = churn::run::Forecast { seed, time, size: Size::Full };
    let report = churn::run::run(forecast, &arguments.out).await;
    println!("{report}history and logs: {}", arguments.out.display());
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn seed_of_the_clock() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| since.as_secs())
}
