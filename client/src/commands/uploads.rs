//! `millrace uploads list APP` and `millrace uploads gc APP`: what failed runs left open in S3.
//!
//! Promises: aborts only uploads that no commit names and none ever can (rule R3), judged by a
//! consistent read of the head after the listing; asks first. Never does: touch the uploads of
//! another application, or a visible object.

use millrace_common::aws::{error_code, explain, kind};
use millrace_common::error::Result;
use millrace_common::head::{self, Fate, Head};
use millrace_common::retry::{self, Backoff};
use serde::Serialize;

use super::buckets::s3_of;
use super::confirm::confirm;
use super::subject::{OpenUpload, Subject, TRIES};
use crate::arguments::{Global, Uploads, UploadsGc};
use crate::ended::{Ended, Outcome};
use crate::output::{Align, Output, counted, table};
use crate::times::show_time;

/// An open upload as `--json` shows it.
#[derive(Clone, Debug, Serialize)]
struct UploadView {
    path: String,
    upload_id: String,
    epoch: u64,
    batch: u64,
    created_ms: Option<i64>,
    fate: &'static str,
}

/// What `gc` did.
#[derive(Clone, Debug, Serialize)]
struct GcView {
    dry_run: bool,
    num_orphans: usize,
    num_aborted: usize,
    num_pending: usize,
    num_young: usize,
    orphans: Vec<UploadView>,
}

pub(super) async fn run(global: &Global, output: &Output, command: &Uploads) -> Outcome {
    match command {
        Uploads::List(named) => list(global, output, &named.name).await,
        Uploads::Gc(command) => gc(global, output, command).await,
    }
}

async fn list(global: &Global, output: &Output, name: &str) -> Outcome {
    let subject = Subject::find(global, output, name).await?;
    let (open, head) = look(&subject).await?;
    let views: Vec<_> =
        open.iter().map(|upload| view(upload, fate_of(head.as_ref(), upload))).collect();
    output.result(&views, || {
        if views.is_empty() {
            output.say(&format!("{name} has no open uploads"));
            return String::new();
        }
        show(&views)
    })
}

async fn gc(global: &Global, output: &Output, command: &UploadsGc) -> Outcome {
    let name = &command.named.name;
    let subject = Subject::find(global, output, name).await?;
    let (open, head) = look(&subject).await?;
    let of = |wanted: Fate| {
        let matches = |upload: &&OpenUpload| fate_of(head.as_ref(), upload) == wanted;
        open.iter().filter(matches).collect::<Vec<_>>()
    };
    let orphans = of(Fate::Orphan);
    let mut done = GcView {
        dry_run: command.dry_run,
        num_orphans: orphans.len(),
        num_aborted: 0,
        num_pending: of(Fate::Pending).len(),
        num_young: of(Fate::Young).len(),
        orphans: orphans.iter().map(|upload| view(upload, Fate::Orphan)).collect(),
    };
    if !command.dry_run && !orphans.is_empty() {
        if !command.yes {
            output.say(&show(&done.orphans));
            let consequence = match orphans.len() {
                1 => format!("an upload that no commit of {name} can name is aborted"),
                many => format!("{many} uploads that no commit of {name} can name are aborted"),
            };
            confirm(&format!("aborting uploads of {name}"), &consequence)?;
        }
        for orphan in &orphans {
            abort(&subject, orphan).await?;
            done.num_aborted += 1;
        }
    }
    output.result(&done, || {
        let kept = format!("{} pending and {} too young stay", done.num_pending, done.num_young);
        match (done.num_orphans, done.dry_run) {
            (0, _) => format!("{name}: no orphaned uploads; {kept}"),
            (many, true) => {
                format!("{}\n{name}: {many} would be aborted; {kept}", show(&done.orphans))
            }
            (_, false) => {
                format!("{name}: {} aborted; {kept}", counted(done.num_aborted, "upload"))
            }
        }
    })
}

/// What is open, and then the head.
async fn look(subject: &Subject) -> Result<(Vec<OpenUpload>, Option<Head>)> {
    let open = subject.open_uploads().await?;
    let head = subject.head().await?;
    Ok((open, head))
}

fn fate_of(head: Option<&Head>, upload: &OpenUpload) -> Fate {
    head::fate(head, upload.run, &upload.key, &upload.upload_id)
}

/// Aborts one; one that is gone already counts as aborted.
async fn abort(subject: &Subject, upload: &OpenUpload) -> Result<(), Ended> {
    let s3 = s3_of(&subject.aws, &upload.bucket).await;
    let sent = retry::call(
        Backoff::CALL,
        TRIES,
        |error| kind(error).is_transient(),
        || {
            s3.abort_multipart_upload()
                .bucket(&upload.bucket)
                .key(&upload.key)
                .upload_id(&upload.upload_id)
                .send()
        },
    )
    .await;
    match sent {
        Ok(_) => Ok(()),
        Err(error) if error_code(&error) == Some("NoSuchUpload") => Ok(()),
        Err(error) => {
            let resource = format!("s3://{}/{}", upload.bucket, upload.key);
            Err(explain("s3", "AbortMultipartUpload", &resource, &error).into())
        }
    }
}

fn view(upload: &OpenUpload, fate: Fate) -> UploadView {
    UploadView {
        path: format!("s3://{}/{}", upload.bucket, upload.key),
        upload_id: upload.upload_id.clone(),
        epoch: upload.run.epoch,
        batch: upload.run.batch,
        created_ms: upload.created_ms,
        fate: match fate {
            Fate::Pending => "pending",
            Fate::Orphan => "orphan",
            Fate::Young => "young",
        },
    }
}

fn show(views: &[UploadView]) -> String {
    const COLUMNS: [(&str, Align); 5] = [
        ("FATE", Align::Left),
        ("EPOCH", Align::Right),
        ("BATCH", Align::Right),
        ("BEGUN", Align::Left),
        ("OBJECT", Align::Left),
    ];
    let row = |view: &UploadView| {
        vec![
            view.fate.to_owned(),
            view.epoch.to_string(),
            view.batch.to_string(),
            view.created_ms.map_or_else(|| "-".to_owned(), show_time),
            view.path.clone(),
        ]
    };
    table(&COLUMNS, views.iter().map(row))
}
