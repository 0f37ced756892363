//! The arguments of the commands about an application file: what is in it, and whether it fits.
//!
//! Promises: as in the parent.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use millrace_common::application::{self, ApplicationSpec, Changes};
use millrace_common::error::Error;
use millrace_common::plan::Described;
use millrace_common::table::DEFAULT_TABLE;

/// Most shards of a stream that a plan is made for; Kinesis' own quotas are below.
const SHARDS_MAX: u32 = 100_000;

/// An application file and changes to it.
#[derive(Debug, Args)]
pub(crate) struct FileAndSettings {
    /// The application file.
    pub(crate) file: PathBuf,
    /// Change a key of the file, as batch.interval=1s; may be given again.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
    /// Give a parameter of the query a value, as level=ERROR or since:timestamp=2026-11-22T10:00:00Z;
    /// may be given again.
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub(crate) params: Vec<String>,
}

impl FileAndSettings {
    /// The application that is meant.
    pub(crate) fn load(&self) -> Result<ApplicationSpec, Error> {
        let changes = Changes { settings: self.settings.clone(), params: self.params.clone() };
        application::load_with(&self.file, &changes)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) source: FileAndSettings,
    /// A cluster in words instead of the live one, as 4x8:32GiB for four nodes of 8 cores with 32GiB
    /// each, or 4x8:32GiB,1x1:4GiB; without a memory each core brings 4GiB.
    #[arg(long, value_name = "NODESxCORES[:MEMORY]", value_parser = parse_cluster)]
    pub(crate) cluster: Option<Described>,
    /// It has to fit also when any K nodes are lost.
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(crate) nodes_lost: usize,
    /// Open shards of the streams, or of one source's, instead of asking Kinesis; may be given again.
    #[arg(long, value_name = "N|SOURCE=N", value_parser = parse_shards)]
    pub(crate) shards: Vec<Shards>,
}

/// How many shards the stream of a source, or of all sources, has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shards {
    /// None: of every source.
    pub(crate) source: Option<String>,
    /// At least one.
    pub(crate) count: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Policy {
    #[command(flatten)]
    pub(crate) source: FileAndSettings,
    /// Whose policy.
    #[arg(long = "for", value_name = "ROLE", default_value = "application")]
    pub(crate) role: PolicyRole,
    /// With the rights that the application works without: with them it tells what is lost in S3 from
    /// what only seems to be.
    #[arg(long)]
    pub(crate) optional: bool,
    /// Account of the table and the streams; else that of the credentials is asked for.
    #[arg(long, value_name = "ID", value_parser = parse_account)]
    pub(crate) account: Option<String>,
    /// Name of the cluster's table.
    #[arg(long, default_value = DEFAULT_TABLE)]
    pub(crate) table: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyRole {
    /// Driver and executors; the credentials of the nodes.
    Application,
    /// The master of the cluster.
    Master,
    /// Who looks after the application by `preflight`, `uploads`, `repair`, `ls` and `cat`.
    Operator,
}

#[derive(Debug, Args)]
pub(crate) struct Preflight {
    #[command(flatten)]
    pub(crate) source: FileAndSettings,
    /// Account that the statements to add name; else that of the credentials.
    #[arg(long, value_name = "ID", value_parser = parse_account)]
    pub(crate) account: Option<String>,
    /// Name of the cluster's table.
    #[arg(long, default_value = DEFAULT_TABLE)]
    pub(crate) table: String,
}

fn parse_account(text: &str) -> Result<String, String> {
    let is_account = text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
    if is_account { Ok(text.to_owned()) } else { Err("an account is 12 digits".to_owned()) }
}

fn parse_cluster(text: &str) -> Result<Described, String> {
    text.parse().map_err(|error: Error| format!("{}; {}", error.message(), error.next_move()))
}

fn parse_shards(text: &str) -> Result<Shards, String> {
    let (source, count) = match text.split_once('=') {
        Some((source, count)) => (Some(source.trim().to_owned()), count),
        None => (None, text),
    };
    let count = count.trim().parse().ok().filter(|count| (1..=SHARDS_MAX).contains(count));
    let is_named = source.as_ref().is_none_or(|source| !source.is_empty());
    count
        .filter(|_| is_named)
        .map(|count| Shards { source, count })
        .ok_or_else(|| format!("write a number from 1 to {SHARDS_MAX}, or SOURCE=N, as logs=36"))
}
