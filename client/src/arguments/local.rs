//! The arguments of `millrace local`.
//!
//! Promises: as in the parent.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use millrace_common::error::Error;
use millrace_common::resources::ByteSize;

#[derive(Debug, Subcommand)]
pub(crate) enum Local {
    /// Start emulator, master and workers, and leave them running.
    Up(LocalUp),
    /// Print the environment that other commands and programs need, as export lines.
    Env(LocalDirectory),
    /// End every process of the local cluster.
    Down(LocalDirectory),
    /// Show the processes of the local cluster.
    Status(LocalDirectory),
}

/// Where a local cluster is when nobody says.
pub(crate) const DEFAULT_DIRECTORY: &str = ".millrace";

/// The directory of a local cluster.
#[derive(Debug, Args)]
pub(crate) struct LocalDirectory {
    /// Directory of the cluster's data, logs and process ids.
    #[arg(long, value_name = "D", default_value = DEFAULT_DIRECTORY)]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct LocalUp {
    #[command(flatten)]
    pub(crate) directory: LocalDirectory,
    /// Number of workers.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) workers: u32,
    /// Cores that each worker offers.
    #[arg(long, value_name = "C", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) cores: u32,
    /// Memory that each worker offers.
    #[arg(long, value_name = "M", default_value = "2GiB", value_parser = parse_size)]
    pub(crate) memory: ByteSize,
    /// Bucket to make; may be given again.
    #[arg(long = "bucket", value_name = "NAME", default_value = "results")]
    pub(crate) buckets: Vec<String>,
    /// Switch the emulator's Kinesis limits off, as benchmarks need it.
    #[arg(long)]
    pub(crate) no_limits: bool,
}

fn parse_size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|error: Error| format!("{}; {}", error.message(), error.next_move()))
}
