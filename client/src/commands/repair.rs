//! `millrace repair APP`: what is lost of a committed batch, and what is to become of it.
//!
//! Promises: shows every file of the batch and the ranges it covers before it asks; offers an exact
//! repair only where nothing of the batch is visible, and names the choices otherwise. What is asked
//! for is done by the next start of the application, under its epoch.
//! Never does: write the head, delete an object, abort an upload.

use std::collections::BTreeSet;

use millrace_common::aws::{Kind, explain, kind};
use millrace_common::error::{Code, Error, Result};
use millrace_common::head::{Before, Head, PendingUpload, RepairChoice, RepairRequest};
use millrace_common::position::SequenceNumber;
use millrace_common::retry::{self, Backoff};
use serde::Serialize;
use serde_json::json;

use super::confirm::confirm;
use super::subject::{Subject, TRIES};
use crate::arguments::{Global, Repair};
use crate::ended::Outcome;
use crate::output::{Align, Output, table};

/// Where a file of the batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Readers see it.
    Visible,
    /// Its upload and its object are gone.
    Missing,
    /// Its upload is still there: a start of the application completes it.
    Open,
    /// The user may not look at it.
    Unknown,
}

/// A file of the batch.
#[derive(Clone, Debug, Serialize)]
struct FileView {
    path: String,
    rows: u64,
    state: State,
}

/// What the batch covers of a shard: everything after `from` up to `to`.
#[derive(Clone, Debug, Serialize)]
struct RangeView {
    source: String,
    shard_id: String,
    from: Option<String>,
    to: Option<String>,
}

pub(super) async fn run(global: &Global, output: &Output, command: &Repair) -> Outcome {
    let name = &command.named.name;
    let subject = Subject::find(global, output, name).await?;
    let head = subject.head().await?.filter(|head| !head.pending.is_empty());
    let Some(head) = head else {
        return Err(Error::new(
            Code::WrongState,
            format!("the head of {name} names no files: nothing of it can be lost"),
            format!("see `millrace status {name}`"),
        )
        .into());
    };
    if head.is_published {
        return Err(Error::new(
            Code::WrongState,
            format!(
                "batch {} of {name} was published: each of its files was visible, and one that is \
                 gone was removed since by somebody else; nothing is lost",
                head.batch
            ),
            format!("submit {name} again: it goes on after this batch"),
        )
        .into());
    }
    let files = look(&subject, &head).await?;
    let ranges = head.before.as_ref().map(|before| ranges(&head, before)).unwrap_or_default();
    if !output.json() {
        output.say(&show(head.batch, &files, &ranges));
    }
    let choice = choose(name, command, head.batch, &files)?;
    let request = RepairRequest {
        batch: head.batch,
        commit_id: head.commit_id.clone(),
        choice,
        absence_seen: files.iter().all(|file| file.state == State::Missing),
    };
    let consequence = consequence(&head, choice, &files);
    if !command.yes {
        confirm(&format!("repairing {name}"), &consequence)?;
    }
    subject.client.repair(name, request.to_proto()).await?;
    let value = json!({
        "name": name,
        "batch": head.batch,
        "choice": choice_name(choice),
        "files": files,
        "ranges": ranges,
    });
    output.result(&value, || format!("{consequence}, when {name} is submitted again"))
}

/// Every file of the head's batch. The uploads are listed before the objects are looked at, so that
/// one which is neither open nor there has never become visible, or was removed.
async fn look(subject: &Subject, head: &Head) -> Result<Vec<FileView>> {
    let open = subject.open_uploads().await?;
    let open: BTreeSet<&str> = open.iter().map(|upload| upload.upload_id.as_str()).collect();
    let mut files = Vec::new();
    for upload in &head.pending {
        let state = match look_at(subject, upload).await? {
            State::Missing | State::Unknown if open.contains(upload.upload_id.as_str()) => {
                State::Open
            }
            state => state,
        };
        let path = format!("s3://{}/{}", upload.bucket, upload.key);
        files.push(FileView { path, rows: upload.rows, state });
    }
    Ok(files)
}

async fn look_at(subject: &Subject, upload: &PendingUpload) -> Result<State> {
    let client = subject.aws.s3_in(&upload.region);
    let sent = retry::call(
        Backoff::CALL,
        TRIES,
        |error| kind(error).is_transient(),
        || client.head_object().bucket(&upload.bucket).key(&upload.key).send(),
    )
    .await;
    match sent {
        Ok(_) => Ok(State::Visible),
        Err(error) => match kind(&error) {
            Kind::Missing => Ok(State::Missing),
            Kind::Forbidden => Ok(State::Unknown),
            _ => {
                let resource = format!("s3://{}/{}", upload.bucket, upload.key);
                Err(explain("s3", "HeadObject", &resource, &error))
            }
        },
    }
}

fn num(files: &[FileView], state: State) -> usize {
    files.iter().filter(|file| file.state == state).count()
}

/// What is to be done, or why nothing is.
fn choose(name: &str, command: &Repair, batch: u64, files: &[FileView]) -> Result<RepairChoice> {
    let (visible, unknown) = (num(files, State::Visible), num(files, State::Unknown));
    if num(files, State::Open) > 0 {
        return Err(Error::new(
            Code::WrongState,
            format!("uploads of batch {batch} of {name} are still there: they are not lost"),
            format!(
                "wait for its driver, which completes them first (`millrace why {name}`), or submit \
                 {name} again if it does not run"
            ),
        ));
    }
    if visible == files.len() {
        return Err(Error::new(
            Code::WrongState,
            format!("every file of batch {batch} of {name} is visible: nothing is lost"),
            format!("nothing, or submit {name} again if it does not run"),
        ));
    }
    match (command.give_up, command.duplicate) {
        (true, _) => Ok(RepairChoice::GiveUp),
        (_, true) => Ok(RepairChoice::Duplicate),
        _ if visible > 0 => Err(Error::new(
            Code::UploadLost,
            format!(
                "{visible} of {} files of batch {batch} of {name} are visible: read again, their \
                 rows would stand twice, and which rows are missing is not known",
                files.len()
            ),
            "remove the visible files and run this again, which is exact; or give the missing rows \
             up with --give-up; or have the visible rows twice with --duplicate",
        )),
        _ if unknown > 0 => Err(Error::new(
            Code::Forbidden,
            format!(
                "whether {unknown} files of batch {batch} of {name} are visible can not be seen"
            ),
            "run this with s3:GetObject and s3:ListBucket on the bucket",
        )),
        _ => Ok(RepairChoice::Reread),
    }
}

fn consequence(head: &Head, choice: RepairChoice, files: &[FileView]) -> String {
    let batch = head.batch;
    let rows = |state: State| -> u64 {
        files.iter().filter(|file| file.state == state).map(|file| file.rows).sum()
    };
    match choice {
        RepairChoice::Reread => {
            format!("the records of batch {batch} are read again, and its rows written once")
        }
        RepairChoice::GiveUp => {
            format!("{} rows of batch {batch} are given up", rows(State::Missing))
        }
        RepairChoice::Duplicate => format!(
            "the records of batch {batch} are read again; {} visible rows will stand twice",
            rows(State::Visible)
        ),
    }
}

fn choice_name(choice: RepairChoice) -> &'static str {
    match choice {
        RepairChoice::Reread => "reread",
        RepairChoice::GiveUp => "give_up",
        RepairChoice::Duplicate => "duplicate",
    }
}

fn ranges(head: &Head, before: &Before) -> Vec<RangeView> {
    let number = |number: Option<SequenceNumber>| number.map(|number| number.to_string());
    before
        .positions
        .iter()
        .map(|(shard, from)| RangeView {
            source: shard.source.clone(),
            shard_id: shard.shard_id.clone(),
            from: number(from.and_then(|from| from.sequence_number)),
            to: number(head.positions.get(shard).and_then(|to| to.sequence_number)),
        })
        .collect()
}

fn show(batch: u64, files: &[FileView], ranges: &[RangeView]) -> String {
    const FILES: [(&str, Align); 3] =
        [("FILE IS", Align::Left), ("ROWS", Align::Right), ("OBJECT", Align::Left)];
    const RANGES: [(&str, Align); 4] = [
        ("SOURCE", Align::Left),
        ("SHARD", Align::Left),
        ("AFTER", Align::Left),
        ("UP TO", Align::Left),
    ];
    let files = files.iter().map(|file| {
        let state = format!("{:?}", file.state).to_lowercase();
        vec![state, file.rows.to_string(), file.path.clone()]
    });
    let or_start = |number: &Option<String>| number.clone().unwrap_or_else(|| "its start".into());
    let ranges = ranges.iter().map(|range| {
        let (from, to) = (or_start(&range.from), or_start(&range.to));
        vec![range.source.clone(), range.shard_id.clone(), from, to]
    });
    format!("batch {batch}\n{}\n\n{}", table(&FILES, files), table(&RANGES, ranges))
}
