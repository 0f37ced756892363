//! `millrace local`: a whole cluster on this machine, for trying things.
//!
//! Promises: every process that `up` starts is in `cluster.json` of its directory before anything
//! else happens, so that `down` ends exactly these, by process id and start time, and leaves none
//! behind; an `up` that fails ends what it had started.
//! Never does: touch a process that it did not start, or listen beyond 127.0.0.1.

mod down;
mod process;
mod record;
mod up;

use serde_json::json;

use self::record::{ACCESS_KEY, Directory, REGION, Record, SECRET_KEY};
use crate::arguments::{Local, LocalDirectory};
use crate::ended::Outcome;
use crate::output::{Align, Output, fields, table};

pub(super) async fn run(output: &Output, command: Local) -> Outcome {
    match command {
        Local::Up(command) => up::run(output, &command).await,
        Local::Down(directory) => down::run(output, &directory).await,
        Local::Env(directory) => env(output, &directory),
        Local::Status(directory) => status(output, &directory),
    }
}

/// The environment with which other commands and programs reach the cluster.
fn environment(record: &Record) -> [(&'static str, String); 6] {
    [
        ("AWS_ENDPOINT_URL", record.endpoint.clone()),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
        ("AWS_REGION", REGION.to_owned()),
        ("MILLRACE_MASTER", record.master.clone()),
        ("MILLRACE_TOKEN_FILE", record.token_file.display().to_string()),
    ]
}

fn env(output: &Output, directory: &LocalDirectory) -> Outcome {
    let record = Directory::open(&directory.dir)?.running()?;
    let environment = environment(&record);
    let value: serde_json::Map<_, _> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    output.result(&value, || {
        environment.iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect()
    })
}

fn status(output: &Output, directory: &LocalDirectory) -> Outcome {
    let directory = Directory::open(&directory.dir)?;
    let record = directory.recorded()?;
    let state = |process: &record::Process| if process.lives() { "running" } else { "ended" };
    let processes: Vec<_> = record
        .processes
        .iter()
        .map(|process| {
            json!({
                "role": process.role,
                "pid": process.pid,
                "state": state(process),
                "log": process.log,
            })
        })
        .collect();
    let value = json!({
        "dir": directory.path(),
        "endpoint": record.endpoint,
        "master": record.master,
        "processes": processes,
    });
    output.result(&value, || {
        const COLUMNS: [(&str, Align); 4] = [
            ("PROCESS", Align::Left),
            ("PID", Align::Right),
            ("STATE", Align::Left),
            ("LOG", Align::Left),
        ];
        let rows = record.processes.iter().map(|process| {
            vec![
                process.role.clone(),
                process.pid.to_string(),
                state(process).to_owned(),
                process.log.display().to_string(),
            ]
        });
        let head = fields(&[
            ("directory", directory.path().display().to_string()),
            ("aws endpoint", record.endpoint.clone()),
            ("master", record.master.clone()),
        ]);
        format!("{head}\n{}", table(&COLUMNS, rows))
    })
}
