//! One driver's stage: a fake table, a fake bucket, a committer in virtual time.
//!
//! Promises: nothing fails here unless a whim says so. Never does: judge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millrace_common::error::Code;
use millrace_common::position::{Position, ShardKey};
use tokio_util::sync::CancellationToken;

use super::super::{
    BatchCommit, CommitError, CommitOutcome, Committed, Committer, LaunchFacts, Published,
    RecordCounts,
};
use super::heads::FakeHeads;
use super::s3::{self, FakeS3, Sight};
use super::time::virtual_pace;
use crate::driver::head::{PendingUpload, Positions, Sizes};

/// Everything one driver stands on.
pub(super) struct Stage {
    pub(super) heads: FakeHeads,
    pub(super) s3: FakeS3,
    pub(super) cancel: CancellationToken,
}

impl Stage {
    pub(super) fn new(heads: FakeHeads) -> Self {
        Self::with_s3(heads, [], Sight::All)
    }

    /// A bucket that answers like this, one Complete after the other, then honestly.
    pub(super) fn with_s3<const N: usize>(
        heads: FakeHeads,
        answers: [s3::Whim; N],
        sight: Sight,
    ) -> Self {
        let next = AtomicUsize::new(0);
        let whims = move || {
            let whim = answers.get(next.fetch_add(1, Ordering::Relaxed)).copied();
            (Duration::ZERO, whim.unwrap_or(s3::Whim::Honest))
        };
        let s3 = FakeS3::new(Arc::new(whims), sight);
        Self { heads, s3, cancel: CancellationToken::new() }
    }

    pub(super) fn committer(&self, epoch: u64, change: impl FnOnce(&mut LaunchFacts)) -> Committer {
        let mut launch = LaunchFacts {
            application: "word-count".parse().unwrap(),
            cluster: "local".into(),
            epoch,
            owner: format!("process {epoch}"),
            head_expected: false,
        };
        change(&mut launch);
        let (heads, s3) = (Arc::new(self.heads.clone()), Arc::new(self.s3.clone()));
        Committer::with_pace(heads, s3, launch, virtual_pace(), Sizes::TABLE)
    }

    /// k0 and k1.
    pub(super) async fn start(&self, epoch: u64) -> (Committer, Published) {
        let committer = self.committer(epoch, |_| {});
        let acquired = committer.acquire(BTreeMap::new(), &self.cancel).await.unwrap();
        let published = committer.recover(acquired, &self.cancel).await.unwrap();
        (committer, published)
    }

    pub(super) fn upload(&self, name: &str) -> PendingUpload {
        self.s3.upload(format!("out/{name}.json"), name.to_owned())
    }

    pub(super) fn visible(&self) -> Vec<String> {
        self.s3.bucket.lock().unwrap().objects.keys().cloned().collect()
    }

    pub(super) fn batch(&self) -> u64 {
        self.heads.item().map_or(0, |item| item.batch)
    }
}

pub(super) fn shard(source: &str) -> ShardKey {
    ShardKey {
        source: source.into(),
        stream_arn: "arn".into(),
        stream_created_ms: 1,
        shard_id: "shardId-000000000000".into(),
    }
}

pub(super) fn at(number: u64) -> Position {
    let sequence_number = Some(number.to_string().parse().unwrap());
    Position { sequence_number, ..Position::default() }
}

pub(super) fn batch(number: u64, uploads: Vec<PendingUpload>) -> BatchCommit {
    BatchCommit {
        positions: Positions::from([(shard("logs"), at(number))]),
        gaps: BTreeMap::new(),
        uploads,
        state_ptr: None,
        spec_hash: "spec".into(),
        dropped_sources: BTreeSet::new(),
        records: RecordCounts { planned: 3, read: 3 },
        run_age: Duration::from_secs(1),
    }
}

pub(super) async fn commit(
    stage: &Stage,
    committer: &Committer,
    published: Published,
    batch: BatchCommit,
) -> Result<Committed, CommitError> {
    match committer.commit(published, batch, &stage.cancel).await? {
        CommitOutcome::Committed(committed) => Ok(committed),
        CommitOutcome::RunTooOld(_) => panic!("the run is young"),
    }
}

pub(super) fn code_of<T: std::fmt::Debug>(result: Result<T, CommitError>) -> Code {
    result.unwrap_err().explain(&"word-count".parse().unwrap()).code()
}
