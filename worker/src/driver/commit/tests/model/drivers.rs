//! The drivers of the model: the real steps of the commit, from one proof to the next.
//!
//! Promises: what a driver knows at a proof is the proof and nothing else, so two ways to the same
//! proof are one state. A crash is the end of a driver at any call, answered or not.
//! Never does: copy a step; see the committer for that.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use millrace_common::error::Code;
use tokio_util::sync::CancellationToken;

use super::super::super::{
    BatchCommit, CommitError, CommitOutcome, Committed, Committer, LaunchFacts, Published,
    RecordCounts,
};
use super::replay::{Answers, Call, Replay, Request};
use super::world::{Ran, is_at_end};
use super::{Config, Kind, by_hand};
use crate::driver::head::{ChunkName, Head, PublishedMark, SourceStart, StartFrom};

/// How a driver ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum End {
    /// Everything is read, committed and published.
    Finished,
    /// A newer driver owns the head.
    Overtaken,
    Crashed,
    /// An upload that was committed is gone, and it says so.
    Lost,
    /// What no history of this world may make of it.
    Failed(String),
}

/// What a driver has proved so far.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Point {
    /// Nothing: k0 and k1 are under way.
    Starting,
    /// Nothing is pending; it waits for the next run.
    Published(Head, u32),
    /// k5 is under way.
    Committing(Head, u32, Ran),
    /// k6 is under way, and the tasks of the next batch may be.
    Publishing(Head, u32, Vec<ChunkName>),
    /// One of those written by hand, anywhere.
    ByHand,
    Ended(End),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Driver {
    pub(super) epoch: u64,
    /// The master knew of a head when it started this driver.
    head_expected: bool,
    pub(super) point: Point,
    /// The result of the next batch's run, when there is one.
    pub(super) next: Option<Ran>,
    /// What was answered since the last proof.
    pub(super) answers: Answers,
    /// What is asked; follows from everything above.
    pub(super) open: Vec<(Call, Request)>,
}

impl Hash for Driver {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.epoch, self.head_expected, &self.next, &self.answers).hash(state);
        std::mem::discriminant(&self.point).hash(state);
        match &self.point {
            Point::Starting | Point::ByHand => {}
            Point::Published(head, num_chunks) => {
                hash_head(head, state);
                num_chunks.hash(state);
            }
            Point::Committing(head, num_chunks, ran) => {
                hash_head(head, state);
                (num_chunks, ran).hash(state);
            }
            Point::Publishing(head, num_chunks, obsolete) => {
                hash_head(head, state);
                num_chunks.hash(state);
                obsolete.iter().for_each(|name| (&name.commit_id, name.index).hash(state));
            }
            Point::Ended(end) => end.hash(state),
        }
    }
}

fn hash_head<H: Hasher>(head: &Head, state: &mut H) {
    (head.epoch, head.batch, &head.commit_id, &head.positions).hash(state);
    head.is_published.hash(state);
    head.repair.is_some().hash(state);
    head.pending.iter().for_each(|upload| upload.upload_id.hash(state));
    head.before.iter().for_each(|before| before.positions.hash(state));
    head.starts.values().for_each(|start| start.fixed_ms.hash(state));
}

impl Driver {
    /// A driver that has sent its first call.
    pub(super) fn start(config: &Config, epoch: u64, head_expected: bool) -> Self {
        let point = match config.kind {
            Kind::Real => Point::Starting,
            Kind::ByHand(_) => Point::ByHand,
        };
        let (next, answers, open) = Default::default();
        let mut driver = Self { epoch, head_expected, point, next, answers, open };
        driver.go_on(config);
        driver
    }

    /// Ends it where it is.
    pub(super) fn crash(&mut self) {
        self.end(End::Crashed);
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.point, Point::Ended(_))
    }

    /// The head that the tasks of a next batch could start from now.
    pub(super) fn may_run(&self, config: &Config) -> Option<&Head> {
        let head = match &self.point {
            Point::Published(head, _) => head,
            Point::Publishing(head, ..) if config.runs_during_publish => head,
            _ => return None,
        };
        (self.next.is_none() && !is_at_end(config, &head.positions)).then_some(head)
    }

    fn end(&mut self, end: End) {
        self.point = Point::Ended(end);
        self.next = None;
        self.answers.clear();
        self.open.clear();
    }

    /// Runs the real code until it waits for an answer that it does not have.
    pub(super) fn go_on(&mut self, config: &Config) {
        loop {
            let replay = Replay::of(&self.answers);
            let done = match &self.point {
                Point::Ended(_) => return,
                Point::ByHand => {
                    let Kind::ByHand(variant) = config.kind else { return };
                    replay
                        .run(by_hand::drive(&replay, config, self.epoch, variant))
                        .map(|end| Ok(Point::Ended(end)))
                }
                Point::Starting => replay.run(self.starts(config, &replay)),
                Point::Published(head, num_chunks) => match self.next.take() {
                    Some(ran) => Ok(Ok(Point::Committing(head.clone(), *num_chunks, ran))),
                    None => {
                        let proof = Published { head: head.clone(), num_chunks: *num_chunks };
                        match proof.mark().filter(|_| config.marks) {
                            Some(mark) => replay.run(self.marks(config, &replay, proof, mark)),
                            None if is_at_end(config, &head.positions) => {
                                Ok(Ok(Point::Ended(End::Finished)))
                            }
                            None => return self.open.clear(),
                        }
                    }
                },
                Point::Committing(head, num_chunks, ran) => {
                    let before = Published { head: head.clone(), num_chunks: *num_chunks };
                    replay.run(self.commits(config, &replay, before, ran.clone()))
                }
                Point::Publishing(head, num_chunks, obsolete) => {
                    let committed = Committed {
                        head: head.clone(),
                        num_chunks: *num_chunks,
                        obsolete: obsolete.clone(),
                    };
                    replay.run(self.publishes(config, &replay, committed))
                }
            };
            match done {
                Err(open) => return self.open = open,
                Ok(Ok(Point::Ended(end))) => self.end(end),
                Ok(Ok(point)) => {
                    self.answers.clear();
                    self.point = point;
                }
                Ok(Err(CommitError::Fenced { .. } | CommitError::EpochTooLow { .. })) => {
                    self.end(End::Overtaken);
                }
                Ok(Err(CommitError::Failed(error))) if error.code() == Code::UploadLost => {
                    self.end(End::Lost);
                }
                Ok(Err(error)) => self.end(End::Failed(error.to_string())),
            }
        }
    }

    fn committer(&self, config: &Config, replay: &Replay, batch: u64) -> Committer {
        let launch = LaunchFacts {
            application: "model".parse().unwrap(),
            cluster: "local".into(),
            epoch: self.epoch,
            owner: format!("process {}", self.epoch),
            head_expected: self.head_expected,
        };
        let store = Arc::new(replay.clone());
        let pace = replay.pace(self.epoch, batch);
        Committer::with_pace(store.clone(), store, launch, pace, config.sizes)
    }

    async fn starts(&self, config: &Config, replay: &Replay) -> Result<Point, CommitError> {
        let cancel = CancellationToken::new();
        let committer = self.committer(config, replay, 0);
        let acquired = committer.acquire(starts(self.epoch), &cancel).await?;
        let Published { head, num_chunks } = committer.recover(acquired, &cancel).await?;
        Ok(Point::Published(head, num_chunks))
    }

    async fn commits(
        &self,
        config: &Config,
        replay: &Replay,
        before: Published,
        ran: Ran,
    ) -> Result<Point, CommitError> {
        let cancel = CancellationToken::new();
        let batch = BatchCommit {
            positions: ran.positions,
            gaps: BTreeMap::new(),
            uploads: ran.uploads,
            state_ptr: None,
            spec_hash: "spec".into(),
            dropped_sources: [].into(),
            records: RecordCounts { planned: 1, read: 1 },
            run_age: Duration::ZERO,
        };
        let committer = self.committer(config, replay, before.next_batch());
        match committer.commit(before, batch, &cancel).await? {
            CommitOutcome::Committed(Committed { head, num_chunks, obsolete }) => {
                Ok(Point::Publishing(head, num_chunks, obsolete))
            }
            CommitOutcome::RunTooOld(_) => Ok(Point::Ended(End::Failed("no run is old".into()))),
        }
    }

    /// A rest: the mark is sent until it is answered, or until the next run ends first.
    async fn marks(
        &self,
        config: &Config,
        replay: &Replay,
        mut proof: Published,
        mark: PublishedMark,
    ) -> Result<Point, CommitError> {
        let committer = self.committer(config, replay, proof.next_batch() - 1);
        while committer.mark_published(&mark).await.is_err() {}
        // Where it is refused another driver owns the head, and the next commit will say so.
        proof.marked(&mark);
        Ok(Point::Published(proof.head, proof.num_chunks))
    }

    async fn publishes(
        &self,
        config: &Config,
        replay: &Replay,
        committed: Committed,
    ) -> Result<Point, CommitError> {
        let committer = self.committer(config, replay, committed.batch());
        let published = committer.publish(committed, &CancellationToken::new()).await?;
        Ok(Point::Published(published.head, published.num_chunks))
    }
}

/// Each driver proposes a start of its own; the head must keep the first.
pub(super) fn starts(epoch: u64) -> BTreeMap<String, SourceStart> {
    let start = SourceStart {
        stream_arn: "arn".into(),
        stream_created_ms: 1,
        fixed_ms: i64::try_from(epoch).unwrap(),
        from: StartFrom::Earliest,
    };
    BTreeMap::from([("logs".to_owned(), start)])
}
