//! The command line: every command, its flags and their help.
//!
//! Promises: what can be checked without reading a file is checked here, so that a wrong command
//! line ends with exit code 2 before anything is done. The shell completions come from this.

mod file;
mod local;
mod replay;
mod token;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use millrace_common::access;
use millrace_common::application::StartPosition;
use millrace_common::error::Error;
use millrace_common::table::DEFAULT_TABLE;

pub(crate) use self::file::{FileAndSettings, Plan, Policy, PolicyRole, Preflight, Shards};
pub(crate) use self::local::{DEFAULT_DIRECTORY, Local, LocalDirectory, LocalUp};
pub(crate) use self::replay::Replay;
pub(crate) use self::token::{Token, TokenCreate};
use crate::times::{parse_duration, parse_since, parse_start};

/// Runs SQL over Kinesis streams and writes the results to S3, each record's effect exactly once.
#[derive(Debug, Parser)]
#[command(name = "millrace", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Address of the master, as host:port or http://host:port; of several masters, separated by
    /// commas, the one that leads is found.
    #[arg(
        long,
        global = true,
        env = "MILLRACE_MASTER",
        default_value = "http://127.0.0.1:7070",
        value_name = "ADDRESS"
    )]
    pub(crate) master: String,
    /// File, readable by you only, with the token that the master is shown; MILLRACE_TOKEN may hold
    /// the token itself instead.
    #[arg(long, global = true, env = "MILLRACE_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<OsString>,
    /// Print JSON for programs: data on standard output, errors as one object on standard error.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Global {
    /// The token to show; none in a cluster without tokens.
    pub(crate) fn token(&self) -> Result<Option<access::Token>, Error> {
        // A variable that is set to nothing is not set.
        match self.token_file.as_ref().filter(|path| !path.is_empty()) {
            Some(path) => access::read_token(Path::new(path)).map(Some),
            // Never a flag: every user of the host sees those.
            None => access::Token::parse(&std::env::var("MILLRACE_TOKEN").unwrap_or_default()),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check an application file and hand it to the master.
    Submit(Submit),
    /// Compute a past range of the streams again, into another place; the application goes on.
    Replay(Replay),
    /// List the applications.
    List,
    /// Show an application: state, driver, executors, receivers, progress.
    Status(Named),
    /// Name the one cause why an application waits, is slow or has failed, and what mends it.
    Why(Named),
    /// List the committed batches of an application.
    Batches(Batches),
    /// Show up to where each shard of an application is committed.
    Positions(Named),
    /// Stop an application after its current batch, or drained.
    Stop(Stop),
    /// End an application now; its open batch is given up and read again by the next start.
    Kill(Named),
    /// Print the logs of an application's containers.
    Logs(Logs),
    /// Set the number of executors of an application, or let it follow the load again.
    Scale(Scale),
    /// List the queues, their shares of the cluster and what they hold.
    Queues,
    /// List the revisions of an application and the attempts of its driver, with reasons.
    History(Named),
    /// Make, list and revoke tokens.
    #[command(subcommand)]
    Token(Token),
    /// List the nodes of the cluster.
    Nodes,
    /// Take a node out of use, or back into it.
    #[command(subcommand)]
    Node(Node),
    /// Check an application file and print the plan of its query; needs no cluster.
    Explain(FileAndSettings),
    /// Show the effective value of every key of an application, and where it comes from.
    Config(Config),
    /// Print the least IAM policy that an application can work with; needs no cluster.
    Policy(Policy),
    /// Try every right of an application, and all that its start would find wrong in AWS.
    Preflight(Preflight),
    /// Show whether an application fits on the cluster, or on one described, and the arithmetic.
    Plan(Plan),
    /// Make the cluster's DynamoDB table, and buckets.
    Init(Init),
    /// Make the next start of a stopped application begin somewhere else.
    Reset(Reset),
    /// Say what is to become of a committed batch whose files are lost (MR4005).
    Repair(Repair),
    /// Look at what failed runs of an application left open in S3, and abort it.
    #[command(subcommand)]
    Uploads(Uploads),
    /// Run a cluster on this machine.
    #[command(subcommand)]
    Local(Local),
    /// Put records into a Kinesis stream.
    Produce(Produce),
    /// List the objects below an S3 path.
    Ls(ObjectPath),
    /// Print an S3 object, or all objects below a path that ends with /.
    Cat(ObjectPath),
    /// Print the completion script of a shell.
    Completion {
        /// The shell.
        shell: Shell,
    },
}

/// An application by name.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Name of the application.
    #[arg(value_name = "APP")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Submit {
    #[command(flatten)]
    pub(crate) source: FileAndSettings,
    /// Wait until the application runs, or with `ended` until it has ended.
    #[arg(
        long,
        value_name = "UNTIL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "running"
    )]
    pub(crate) wait: Option<WaitUntil>,
    /// Give up the positions of a source that the file has no more, or that reads another stream
    /// now; may be given more than once.
    #[arg(long, value_name = "SOURCE")]
    pub(crate) drop_source: Vec<String>,
    /// Put it in the place of the application of this name that runs: it is checked first, and the
    /// one that runs goes on when it is refused.
    #[arg(long)]
    pub(crate) upgrade: bool,
    /// The file is a SubmitApplicationRequest as JSON, as API clients send it; - is standard input.
    #[arg(long, conflicts_with_all = ["settings", "params", "drop_source"])]
    pub(crate) from_json: bool,
    /// A name for this submission: the same name and file again are the same submission.
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WaitUntil {
    /// Its driver and executors are at work.
    Running,
    /// It has stopped, failed or been killed.
    Ended,
}

#[derive(Debug, Args)]
pub(crate) struct Batches {
    #[command(flatten)]
    pub(crate) named: Named,
    /// Go on with each batch as it is committed, until the application ends.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Show the newest N batches.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    pub(crate) named: Named,
    /// Read everything that is in the streams now before stopping.
    #[arg(long)]
    pub(crate) drain: bool,
    /// Give up draining after this long and stop at a batch edge (exit code 5).
    #[arg(long, value_name = "D", requires = "drain", value_parser = parse_duration)]
    pub(crate) deadline: Option<Duration>,
    /// Return at once instead of waiting until the application has stopped.
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    pub(crate) named: Named,
    /// Only this container.
    #[arg(long, value_name = "ID")]
    pub(crate) container: Option<String>,
    /// Go on as lines come, until the containers end.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only lines of this time or later: how long ago, as 10m, or a time as 2026-11-22T10:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub(crate) since: Option<i64>,
    /// Only lines in which this regular expression is found.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) grep: Option<String>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("number").required(true).args(["executors", "auto"]))]
pub(crate) struct Scale {
    #[command(flatten)]
    pub(crate) named: Named,
    /// So many, for the attempts to come too, until this is said again or it is submitted anew.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) executors: Option<u32>,
    /// As the application's file says: fixed, or between min and max as the load is.
    #[arg(long)]
    pub(crate) auto: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Move everything off a node and start nothing there, until it is undrained.
    Drain(Drain),
    /// Let a node take containers again.
    Undrain {
        /// Name of the node.
        #[arg(value_name = "NODE")]
        node: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// Name of the node.
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// End what is left on the node after this long, whether there is room elsewhere or not.
    #[arg(long, value_name = "D", value_parser = parse_duration)]
    pub(crate) deadline: Option<Duration>,
    /// Return at once instead of waiting until nothing runs on the node.
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Name of the table.
    #[arg(long, default_value = DEFAULT_TABLE)]
    pub(crate) table: String,
    /// S3 bucket to make where it is missing; may be given again.
    #[arg(long = "bucket", value_name = "NAME")]
    pub(crate) buckets: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(flatten)]
    pub(crate) named: Named,
    /// Show also what this container was given, its environment included.
    #[arg(long, value_name = "ID")]
    pub(crate) container: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Reset {
    #[command(flatten)]
    pub(crate) named: Named,
    /// Where to begin: earliest, latest, or a time as 2026-11-22T10:00:00Z.
    #[arg(long, value_parser = parse_start)]
    pub(crate) to: StartPosition,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Repair {
    #[command(flatten)]
    pub(crate) named: Named,
    /// Go on without the missing rows instead of reading the batch again.
    #[arg(long, conflicts_with = "duplicate")]
    pub(crate) give_up: bool,
    /// Read the batch again although files of it are visible: their rows will stand twice.
    #[arg(long)]
    pub(crate) duplicate: bool,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Uploads {
    /// List the open multipart uploads of an application, and what may become of each.
    List(Named),
    /// Abort those that no commit names and none ever can.
    Gc(UploadsGc),
}

#[derive(Debug, Args)]
pub(crate) struct UploadsGc {
    #[command(flatten)]
    pub(crate) named: Named,
    /// Only show what would be aborted.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("records").required(true).args(["files", "generate"]))]
pub(crate) struct Produce {
    /// Name of the stream.
    #[arg(long, value_name = "S")]
    pub(crate) stream: String,
    /// Files whose lines become records, without the line ends; - is standard input.
    #[arg(long = "file", value_name = "F", num_args = 1..)]
    pub(crate) files: Vec<PathBuf>,
    /// Make records up instead.
    #[arg(long, value_name = "KIND")]
    pub(crate) generate: Option<Generated>,
    /// Records per second; as fast as the stream takes them when not given.
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// Stop after this many records.
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Make the stream with this many shards if it does not exist.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) create_shards: Option<u32>,
    /// Partition key: line (its hash), random, or the name of a field of JSON records.
    #[arg(long, default_value = "random", value_name = "line|random|FIELD")]
    pub(crate) key: String,
    /// Seed of the made-up records; the same seed gives the same records but for their times.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Generated {
    /// Application logs as JSON of about 235 bytes: ts, level, host, service, request_id, status,
    /// latency_ms, message.
    AppLogs,
}

#[derive(Debug, Args)]
pub(crate) struct ObjectPath {
    /// Path as s3://bucket/prefix/ or s3://bucket/key.
    #[arg(value_name = "S3_PATH")]
    pub(crate) path: String,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use millrace_common::plan::Described;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace()).map(|arguments| arguments.command)
    }

    #[test]
    fn wait_takes_an_optional_state() {
        let wait = |line| match parse(line) {
            Ok(Command::Submit(submit)) => submit.wait,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait("millrace submit app.toml"), None);
        assert_eq!(wait("millrace submit --wait app.toml"), Some(WaitUntil::Running));
        assert_eq!(wait("millrace submit app.toml --wait=ended"), Some(WaitUntil::Ended));
    }

    #[test]
    fn wrong_lines_are_refused() {
        for line in [
            "millrace produce --stream s",
            "millrace produce --stream s --file a --generate app-logs",
            "millrace stop a --deadline 5s",
            "millrace stop a --drain --deadline 5",
            "millrace reset a",
            "millrace scale a",
            "millrace scale a --executors 0",
            "millrace scale a --executors 2 --auto",
            "millrace reset a --to noon",
            "millrace policy app.toml --account 12",
            "millrace policy app.toml --for me",
            "millrace local up --workers 0",
            "millrace logs a --since noon",
            "millrace local up --memory 2",
            "millrace plan a.toml --cluster 4",
            "millrace plan a.toml --cluster 4x0",
            "millrace plan a.toml --shards 0",
            "millrace plan a.toml --shards =3",
            "millrace plan a.toml --nodes-lost -1",
        ] {
            assert!(parse(line).is_err(), "{line} was taken");
        }
    }

    #[test]
    fn a_plan_takes_a_cluster_and_shards() {
        let line = "millrace plan a.toml --cluster 4x8:32GiB,1x1 --shards 4 --shards logs=36";
        let Ok(Command::Plan(plan)) = parse(line) else { panic!("{line} was refused") };
        assert_eq!(plan.cluster.map(|Described(nodes)| nodes.len()), Some(5));
        let shards = |source: Option<&str>, count| Shards { source: source.map(Into::into), count };
        assert_eq!(plan.shards, [shards(None, 4), shards(Some("logs"), 36)]);
    }

    #[test]
    fn flags_of_every_command_stand_anywhere() {
        let arguments =
            Arguments::try_parse_from(["millrace", "list", "--json", "--master", "h:1"]).unwrap();
        assert!(arguments.global.json);
        assert_eq!(arguments.global.master, "h:1");
    }
}
