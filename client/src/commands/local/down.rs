//! `millrace local down`: ends every process of a local cluster.
//!
//! Promises: master first (so that it starts nothing again), then the nodes, which end their
//! containers, then the emulator; what does not end by itself is killed. The data stays.

use std::time::Duration;

use millrace_common::error::{Code, Error, Result};
use serde_json::json;

use super::process;
use super::record::{Directory, Process, Record};
use crate::arguments::LocalDirectory;
use crate::ended::Outcome;
use crate::output::Output;

/// How long master and emulator may take to end when asked.
const SERVER_GRACE: Duration = Duration::from_secs(10);
/// How long a node may take to end its containers and itself: it gives them some seconds to finish.
const NODE_GRACE: Duration = Duration::from_secs(20);
/// How long containers may outlive their node: they end when their standard input closes.
const CONTAINER_GRACE: Duration = Duration::from_secs(5);

pub(super) async fn run(output: &Output, directory: &LocalDirectory) -> Outcome {
    let directory = match Directory::open(&directory.dir) {
        Ok(directory) => directory,
        Err(error) if error.code() == Code::LocalCluster => return nothing(output, &error),
        Err(error) => return Err(error.into()),
    };
    let _lock = directory.lock()?;
    let record = match directory.recorded() {
        Ok(record) => record,
        Err(error) if directory.load()?.is_none() => return nothing(output, &error),
        Err(error) => return Err(error.into()),
    };
    let spinner = output.spinner("ending the local cluster");
    let ended = end(&directory, &record).await;
    spinner.finish_and_clear();
    let ended = ended?;
    directory.forget()?;
    let value = json!({ "dir": directory.path(), "ended": ended.ended, "killed": ended.killed });
    output.result(&value, || {
        let killed = match ended.killed.as_slice() {
            [] => String::new(),
            killed => format!("; killed: {}", killed.join(" ")),
        };
        let what = match ended.ended {
            1 => "1 process".to_owned(),
            number => format!("{number} processes"),
        };
        format!("ended {what} in {}{killed}", directory.path().display())
    })
}

/// There is nothing to end, which is what was asked for.
fn nothing(output: &Output, why: &Error) -> Outcome {
    output.say(why.message());
    output.result(&json!({ "ended": 0, "killed": [] }), String::new)
}

/// What `end` did.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// Number of processes that had lived.
    ended: usize,
    /// Roles of those that did not end when asked.
    killed: Vec<String>,
}

/// Ends everything that is in the record and lives, and the containers of its nodes.
pub(super) async fn end(directory: &Directory, record: &Record) -> Result<Ended> {
    let mut done = Ended::default();
    let role = |wanted: fn(&str) -> bool| -> Vec<Process> {
        record.processes.iter().filter(|process| wanted(&process.role)).cloned().collect()
    };
    let groups = [
        (role(|role| role == "master"), SERVER_GRACE),
        (role(|role| role != "master" && role != "emulator"), NODE_GRACE),
        (role(|role| role == "emulator"), SERVER_GRACE),
    ];
    for (group, grace) in groups {
        let living: Vec<_> = group.into_iter().filter(Process::lives).collect();
        done.ended += living.len();
        done.take(process::end(&living, grace).await?);
        if grace == NODE_GRACE {
            let containers = process::containers_below(directory.path());
            if !process::gone(&containers, CONTAINER_GRACE).await {
                done.take(process::end(&containers, CONTAINER_GRACE).await?);
            }
        }
    }
    Ok(done)
}

impl Ended {
    fn take(&mut self, killed: Vec<Process>) {
        self.killed.extend(killed.into_iter().map(|process| process.role));
    }
}
