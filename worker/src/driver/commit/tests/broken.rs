//! The commit once more, by hand, with seven ways of getting it wrong.
//!
//! Promises: [`Variant::Sound`] is right; each of the others differs from it in the one thing that
//! its name says. Never does: share code with the committer, which has no such switches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::core::CompleteAnswer;
use super::super::uploads::UploadStore;
use super::heads::Conditions;
use super::time;
use super::world::World;
use crate::driver::head::{
    AcquireWrite, Body, CommitWrite, HeadItem, HeadStore, PendingUpload, StoredBody, WriteFailure,
    decode_body, encode_body, encode_starts, place_body,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    Sound,
    NoBatchCondition,
    NoCondition,
    /// A refused commit counts as one that was never applied.
    NoReadBack,
    AbortAfterTimeout,
    CompleteFirst,
    CompleteFirstUnderBatchNumber,
    NextBeforeCompletesEnd,
}

impl Variant {
    fn conditions(self) -> Conditions {
        match self {
            Self::NoBatchCondition => Conditions { epoch: true, batch: false },
            Self::NoCondition => Conditions { epoch: false, batch: false },
            _ => Conditions::ALL,
        }
    }

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

pub(super) async fn drive(world: Arc<World>, epoch: u64, variant: Variant) {
    let Some(item) = acquire(&world, epoch).await else { return };
    let mut body = body_of(&item);
    let mut batch = item.batch;
    complete_all(&world, &body.pending).await;
    loop {
        let run = if variant == Variant::CompleteFirstUnderBatchNumber {
            let key = move |task: usize| format!("sim-b{}-t{task}.json", batch + 1);
            world.run_batch_into(&body.positions, key).await
        } else {
            world.run_batch(&body.positions, epoch, batch + 1).await
        };
        let Some((positions, pending)) = run else { return };
        if variant.completes_first() {
            complete_all(&world, &pending).await;
        }
        let next =
            Body { positions, pending, before: None, gaps: BTreeMap::new(), state_ptr: None };
        match commit(&world, epoch, batch + 1, &next, variant).await {
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
            Won::Exit => return,
        }
        if variant == Variant::NextBeforeCompletesEnd {
            // They die with the driver, as tasks of one process do.
            let unfinished = complete_all(&world, &body.pending);
            let in_time = world.random(|random| rand::Rng::random_range(random, 0..100));
            let _ = world.pace().in_time(Duration::from_millis(in_time), unfinished).await;
        } else {
            complete_all(&world, &body.pending).await;
        }
    }
}

fn body_of(item: &HeadItem) -> Body {
    match &item.body {
        StoredBody::Inline(packed) => decode_body(packed).unwrap(),
        StoredBody::None | StoredBody::Chunked { .. } => Body::default(),
    }
}

async fn acquire(world: &World, epoch: u64) -> Option<HeadItem> {
    let owner = world.pace().uuid().to_string();
    let write = AcquireWrite {
        epoch,
        owner: owner.clone(),
        cluster: "local".into(),
        may_create: true,
        starts: encode_starts(&BTreeMap::new()),
    };
    loop {
        match world.heads.acquire(&write).await {
            Ok(item) => return Some(item),
            Err(WriteFailure::Refused(found)) => {
                return found.map(|item| *item).filter(|item| item.owner == owner);
            }
            Err(WriteFailure::Store(_)) => pause(world).await,
        }
    }
}

async fn commit(world: &World, epoch: u64, batch: u64, body: &Body, variant: Variant) -> Won {
    let write = CommitWrite {
        epoch,
        batch,
        commit_id: world.pace().uuid().to_string(),
        spec_hash: String::new(),
        body: place_body(&encode_body(body)),
        starts: None,
        clears_reset: false,
        clears_repair: false,
    };
    loop {
        let found = match world.heads.commit_checking(&write, variant.conditions()).await {
            Ok(()) => return Won::Yes,
            Err(WriteFailure::Refused(found)) => found,
            Err(WriteFailure::Store(_)) if variant == Variant::AbortAfterTimeout => {
                body.pending.iter().for_each(|upload| world.s3.abort(&upload.upload_id));
                return Won::Again;
            }
            Err(WriteFailure::Store(_)) => {
                pause(world).await;
                continue;
            }
        };
        return match found {
            Some(item) if variant == Variant::NoReadBack && item.epoch == epoch => Won::No(item),
            Some(item) if item.commit_id == write.commit_id => Won::Yes,
            _ => Won::Exit,
        };
    }
}

async fn complete_all(world: &World, uploads: &[PendingUpload]) {
    for upload in uploads {
        loop {
            match world.s3.complete(upload).await.answer {
                CompleteAnswer::Done | CompleteAnswer::NoSuchUpload => break,
                _ => pause(world).await,
            }
        }
    }
}

async fn pause(world: &World) {
    time::sleep(world.pace().back_off(1)).await;
}
