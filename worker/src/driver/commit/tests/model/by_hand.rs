//! The commit once more, by hand, with seven ways of getting it wrong.
//!
//! Promises: [`Variant::Sound`] is right; each of the others differs from it in the one thing that
//! its name says. Never does: share code with the committer, which has no such switches.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::super::super::core::CompleteAnswer::{Done, NoSuchUpload};
use super::Config;
use super::drivers::{End, starts};
use super::replay::{Answer, Name, Replay, Request};
use super::world::{Ran, is_at_end};
use crate::driver::head::{
    AcquireWrite, Body, CommitWrite, HeadItem, PendingUpload, Sizes, StoredBody, decode_body,
    encode_body, encode_starts,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Also of the two variants whose conditions are too weak: those are the table's.
    Sound,
    /// A refused commit counts as one that was never applied.
    NoReadBack,
    AbortAfterTimeout,
    CompleteFirst,
    CompleteFirstUnderBatchNumber,
    NextBeforeCompletesEnd,
}

impl Variant {
    fn completes_first(self) -> bool {
        matches!(self, Self::CompleteFirst | Self::CompleteFirstUnderBatchNumber)
    }
}

enum Won {
    Yes,
    /// Not this time; the head as it is.
    No(Box<HeadItem>),
    /// Somebody else owns the head.
    Exit,
    /// Given up: run the batch again.
    Again,
}

/// Completes that nobody waits for.
#[derive(Default)]
struct Background {
    waiting: Mutex<VecDeque<PendingUpload>>,
    is_closed: AtomicBool,
}

pub(super) async fn drive(replay: &Replay, config: &Config, epoch: u64, variant: Variant) -> End {
    let background = Background::default();
    let driver = async {
        let end = drive_to_the_end(replay, config, epoch, variant, &background).await;
        background.is_closed.store(true, Ordering::Relaxed);
        end
    };
    futures::join!(driver, complete_behind(replay, &background)).0
}

async fn complete_behind(replay: &Replay, background: &Background) {
    let mut under_way = FuturesUnordered::new();
    std::future::poll_fn(|context| {
        for upload in background.waiting.lock().unwrap().drain(..) {
            under_way.push(complete_one(replay, upload));
        }
        while let Poll::Ready(Some(())) = under_way.poll_next_unpin(context) {}
        if under_way.is_empty() && background.is_closed.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}

async fn drive_to_the_end(
    replay: &Replay,
    config: &Config,
    epoch: u64,
    variant: Variant,
    background: &Background,
) -> End {
    let pace = replay.pace(epoch, 0);
    let Some(item) = acquire(replay, epoch).await else { return End::Overtaken };
    let mut body = body_of(&item);
    let mut batch = item.batch;
    complete_all(replay, &body.pending).await;
    while !is_at_end(config, &body.positions) {
        let asked = Request::Run { positions: body.positions.clone(), batch: batch + 1 };
        let Answer::Ran(ran) = replay.ask(Name::Run(batch + 1), asked).await else { continue };
        let Ran { positions, uploads: pending } = ran;
        if variant.completes_first() {
            complete_all(replay, &pending).await;
        }
        let next = Body { positions, pending, ..Body::default() };
        let write = CommitWrite {
            epoch,
            batch: batch + 1,
            commit_id: pace.uuid().to_string(),
            spec_hash: String::new(),
            body: Sizes::TABLE.place(&encode_body(&next).unwrap()),
            starts: None,
            clears_reset: false,
            clears_repair: false,
        };
        match commit(replay, write, &next, variant).await {
            Won::Yes => {
                batch += 1;
                body = next;
            }
            Won::No(item) => {
                batch = item.batch;
                body = body_of(&item);
                continue;
            }
            Won::Again => continue,
            Won::Exit => return End::Overtaken,
        }
        if variant == Variant::NextBeforeCompletesEnd {
            background.waiting.lock().unwrap().extend(body.pending.iter().cloned());
        } else {
            complete_all(replay, &body.pending).await;
        }
    }
    End::Finished
}

fn body_of(item: &HeadItem) -> Body {
    match &item.body {
        StoredBody::Inline(packed) => decode_body(packed).unwrap(),
        StoredBody::None | StoredBody::Chunked { .. } => Body::default(),
    }
}

async fn acquire(replay: &Replay, epoch: u64) -> Option<HeadItem> {
    let write = AcquireWrite {
        epoch,
        owner: format!("process {epoch}"),
        cluster: "local".into(),
        may_create: true,
        starts: encode_starts(&starts(epoch)),
    };
    loop {
        match replay.ask(Name::Acquire, Request::Acquire(write.clone())).await {
            Answer::Acquired(item) => return Some(item),
            Answer::Refused(found) => {
                return found.map(|item| *item).filter(|item| item.owner == write.owner);
            }
            _ => {}
        }
    }
}

async fn commit(replay: &Replay, write: CommitWrite, body: &Body, variant: Variant) -> Won {
    loop {
        let found = match replay.ask(Name::Commit, Request::Commit(write.clone())).await {
            Answer::Done => return Won::Yes,
            Answer::Refused(found) => found,
            _ if variant == Variant::AbortAfterTimeout => {
                for PendingUpload { upload_id: id, .. } in &body.pending {
                    replay.ask(Name::Abort(id.clone()), Request::Abort(id.clone())).await;
                }
                return Won::Again;
            }
            _ => continue,
        };
        return match found {
            Some(item) if variant == Variant::NoReadBack && item.epoch == write.epoch => {
                Won::No(item)
            }
            Some(item) if item.commit_id == write.commit_id => Won::Yes,
            _ => Won::Exit,
        };
    }
}

async fn complete_all(replay: &Replay, uploads: &[PendingUpload]) {
    for upload in uploads {
        complete_one(replay, upload.clone()).await;
    }
}

async fn complete_one(replay: &Replay, upload: PendingUpload) {
    let id = upload.upload_id;
    loop {
        let asked = Request::Complete(id.clone());
        let answer = replay.ask(Name::Complete(id.clone()), asked).await;
        if let Answer::Completed(Done | NoSuchUpload) = answer {
            return;
        }
    }
}
