//! One step at a time: each answer that a step can meet, and what becomes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millrace_common::error::Code;
use millrace_common::position::{Position, ShardKey};
use millrace_proto::v1;
use prost::Message;
use tokio_util::sync::CancellationToken;

use super::super::core::{CompleteAnswer, UPLOAD_GUARD};
use super::super::status::Count;
use super::super::{
    BatchCommit, CommitError, CommitOutcome, Committed, Committer, LaunchFacts, Published,
    RecordCounts,
};
use super::heads::{FakeHeads, Whim};
use super::s3::{self, FakeS3, Sight};
use super::time;
use super::world::virtual_pace;
use crate::driver::head::{
    ChunkName, HEAD_VERSION, Head, PendingUpload, Positions, ResetRequest, SourceStart, StartFrom,
    StoredBody,
};

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
        let s3 = FakeS3::new(heads.table.clone(), Arc::new(whims), sight, false);
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
        Committer::with_pace(heads, s3, launch, virtual_pace())
    }

    /// k0 and k1.
    pub(super) async fn start(&self, epoch: u64) -> (Committer, Published) {
        let committer = self.committer(epoch, |_| {});
        let acquired = committer.acquire(BTreeMap::new(), &self.cancel).await.unwrap();
        let published = committer.recover(acquired, &self.cancel).await.unwrap();
        (committer, published)
    }

    pub(super) fn upload(&self, name: &str) -> PendingUpload {
        self.s3.upload(format!("out/{name}.json"), name.to_owned(), vec![(0, 1)])
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

#[test]
fn a_batch_is_invisible_until_it_is_committed_and_published() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let (committer, published) = stage.start(1).await;
        let uploads = vec![stage.upload("a"), stage.upload("b")];
        let committed = commit(&stage, &committer, published, batch(7, uploads)).await.unwrap();
        assert_eq!((committed.batch(), stage.batch()), (1, 1));
        assert_eq!(stage.visible(), Vec::<String>::new());
        let published = committer.publish(committed, &stage.cancel).await.unwrap();
        assert_eq!(stage.visible(), ["out/a.json", "out/b.json"]);
        assert_eq!(published.next_batch(), 2);
        let calls = stage.heads.table.lock().unwrap().num_calls.clone();
        assert_eq!(calls["commit"], 1, "a commit is one request");
    });
}

#[test]
fn a_batch_without_rows_moves_the_positions() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let (committer, published) = stage.start(1).await;
        let committed = commit(&stage, &committer, published, batch(7, Vec::new())).await.unwrap();
        let published = committer.publish(committed, &stage.cancel).await.unwrap();
        assert_eq!(published.positions()[&shard("logs")], at(7));
        let (_, again) = stage.start(2).await;
        assert_eq!(again.positions()[&shard("logs")], at(7));
    });
}

#[test]
fn a_commit_whose_answer_was_lost_is_read_back_as_ours() {
    time::run(async {
        let stage = Stage::new(FakeHeads::scripted([Whim::Honest, Whim::LoseAnswer]));
        let (committer, published) = stage.start(1).await;
        let committed = commit(&stage, &committer, published, batch(7, Vec::new())).await.unwrap();
        assert_eq!((committed.batch(), stage.batch()), (1, 1));
        assert_eq!(committer.status().get(Count::CommitsReadBack), 1);
        assert_eq!(*committer.status().degraded().borrow(), None);
    });
}

#[test]
fn a_commit_that_arrives_late_and_twice_changes_nothing_more() {
    time::run(async {
        let late = Whim::Late(Duration::from_secs(30));
        let twice = Whim::Twice(Duration::from_secs(40));
        let stage = Stage::new(FakeHeads::scripted([Whim::Honest, late, twice]));
        let (committer, published) = stage.start(1).await;
        let committed = commit(&stage, &committer, published, batch(7, Vec::new())).await.unwrap();
        let published = committer.publish(committed, &stage.cancel).await.unwrap();
        let _second = commit(&stage, &committer, published, batch(9, Vec::new())).await.unwrap();
        time::sleep(Duration::from_secs(60)).await;
        assert_eq!((stage.batch(), stage.heads.table.lock().unwrap().history.len()), (2, 3));
    });
}

#[test]
fn an_acquired_head_whose_answer_was_lost_is_ours() {
    time::run(async {
        let stage = Stage::new(FakeHeads::scripted([Whim::LoseAnswer]));
        let (_, published) = stage.start(3).await;
        assert_eq!(published.head().epoch, 3);
    });
}

#[test]
fn a_newer_driver_fences_an_older_one() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let (old, published) = stage.start(1).await;
        let (_new, _) = stage.start(2).await;
        let fenced = commit(&stage, &old, published, batch(7, Vec::new())).await.unwrap_err();
        assert!(matches!(fenced, CommitError::Fenced { mine: 1, found: 2 }), "{fenced:?}");
        assert!(fenced.is_retryable());
        assert_eq!(stage.batch(), 0);
    });
}

#[test]
fn an_older_driver_is_told_to_ask_for_a_higher_epoch() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        stage.start(5).await;
        let old = stage.committer(3, |_| {});
        let refused = old.acquire(BTreeMap::new(), &stage.cancel).await.unwrap_err();
        assert!(matches!(refused, CommitError::EpochTooLow { seen: 5 }), "{refused:?}");
        assert!(old.with_epoch(6).acquire(BTreeMap::new(), &stage.cancel).await.is_ok());
    });
}

#[test]
fn another_clusters_head_is_left_alone() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        stage.start(1).await;
        let foreign = stage.committer(9, |launch| launch.cluster = "other".into());
        let refused = foreign.acquire(BTreeMap::new(), &stage.cancel).await;
        assert_eq!(code_of(refused), Code::HeadForeign);
        assert_eq!(stage.heads.item().unwrap().epoch, 1);
    });
}

#[test]
fn a_head_that_must_be_there_and_is_not_is_never_made_anew() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let expecting = stage.committer(2, |launch| launch.head_expected = true);
        let refused = expecting.acquire(BTreeMap::new(), &stage.cancel).await;
        assert_eq!(code_of(refused), Code::HeadMissing);
        let (committer, published) = stage.start(1).await;
        stage.heads.table.lock().unwrap().item = None;
        let refused = commit(&stage, &committer, published, batch(7, Vec::new())).await;
        assert_eq!(code_of(refused), Code::HeadMissing);
        assert_eq!(stage.heads.item(), None);
    });
}

#[test]
fn a_newer_head_is_refused_before_its_driver_is_fenced() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        stage.start(1).await;
        let newer = HEAD_VERSION + 1;
        stage.heads.table.lock().unwrap().item.as_mut().unwrap().version = newer;
        let committer = stage.committer(2, |_| {});
        let refused = committer.acquire(BTreeMap::new(), &stage.cancel).await;
        assert_eq!(code_of(refused), Code::HeadUnreadable);
        assert_eq!(stage.heads.item().unwrap().epoch, 1);
    });
}

#[test]
fn what_is_not_fit_to_be_committed_is_not_written() {
    time::run(async {
        let forgotten = BatchCommit { positions: Positions::new(), ..batch(9, Vec::new()) };
        let unread =
            BatchCommit { records: RecordCounts { planned: 3, read: 2 }, ..batch(9, Vec::new()) };
        for unfit in [batch(6, Vec::new()), forgotten, unread] {
            let stage = Stage::new(FakeHeads::honest());
            let (committer, published) = stage.start(1).await;
            let committed =
                commit(&stage, &committer, published, batch(7, Vec::new())).await.unwrap();
            let published = committer.publish(committed, &stage.cancel).await.unwrap();
            let refused = commit(&stage, &committer, published, unfit).await;
            assert_eq!(code_of(refused), Code::Internal);
            assert_eq!(stage.batch(), 1);
        }
    });
}

#[test]
fn an_old_run_is_run_again_and_its_proof_given_back() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let (committer, published) = stage.start(1).await;
        let old = BatchCommit { run_age: UPLOAD_GUARD, ..batch(7, Vec::new()) };
        let outcome = committer.commit(published, old, &stage.cancel).await.unwrap();
        let CommitOutcome::RunTooOld(published) = outcome else { panic!("{outcome:?}") };
        assert!(commit(&stage, &committer, published, batch(7, Vec::new())).await.is_ok());
    });
}

#[test]
fn what_one_driver_committed_the_next_completes() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let (committer, published) = stage.start(1).await;
        let uploads = vec![stage.upload("a"), stage.upload("b")];
        let _crashed = commit(&stage, &committer, published, batch(7, uploads)).await.unwrap();
        assert_eq!(stage.visible(), Vec::<String>::new());
        stage.start(2).await;
        assert_eq!(stage.visible(), ["out/a.json", "out/b.json"]);
        // Once more: they are complete, and the bucket no longer knows the uploads.
        stage.start(3).await;
        assert_eq!(stage.visible(), ["out/a.json", "out/b.json"]);
    });
}

#[test]
fn a_zombie_that_meets_completed_uploads_is_fenced_and_reports_no_loss() {
    time::run(async {
        for sight in [Sight::All, Sight::Nothing] {
            let stage = Stage::with_s3(FakeHeads::honest(), [], sight);
            let (zombie, published) = stage.start(1).await;
            let uploads = vec![stage.upload("a")];
            let committed = commit(&stage, &zombie, published, batch(7, uploads)).await.unwrap();
            stage.start(2).await;
            let ended = zombie.publish(committed, &stage.cancel).await.map(|_| ());
            match sight {
                Sight::Nothing => {
                    assert!(matches!(ended, Err(CommitError::Fenced { .. })), "{ended:?}")
                }
                Sight::All | Sight::ObjectsOnly => assert!(ended.is_ok(), "{ended:?}"),
            }
        }
    });
}

/// Publishes upload "a" with these answers, after `spoil` has been at the bucket.
async fn publish_with<const N: usize>(
    answers: [s3::Whim; N],
    sight: Sight,
    spoil: impl FnOnce(&Stage),
) -> (Stage, Result<u64, CommitError>) {
    let stage = Stage::with_s3(FakeHeads::honest(), answers, sight);
    let (committer, published) = stage.start(1).await;
    let uploads = vec![stage.upload("a")];
    let committed = commit(&stage, &committer, published, batch(7, uploads)).await.unwrap();
    spoil(&stage);
    let ended = committer.publish(committed, &stage.cancel).await;
    let unverified = committer.status().get(Count::CompletedUnverified);
    assert!(ended.is_err() || committer.status().degraded().borrow().is_none());
    (stage, ended.map(|_| unverified))
}

#[test]
fn answers_that_leave_a_complete_open_are_asked_again() {
    time::run(async {
        let refuse = s3::Whim::Refuse;
        let answers = [
            refuse(CompleteAnswer::Open),
            refuse(CompleteAnswer::NotNow),
            refuse(CompleteAnswer::Denied),
            refuse(CompleteAnswer::Open),
        ];
        let before = time::now();
        let (stage, ended) = publish_with(answers, Sight::All, |_| {}).await;
        assert_eq!(ended.unwrap(), 0);
        assert_eq!(stage.visible(), ["out/a.json"]);
        assert!(time::now() - before >= Duration::from_secs(60), "403 is asked again each minute");
    });
}

#[test]
fn no_such_upload_after_an_unheard_success_is_done() {
    time::run(async {
        for (sight, unverified) in [(Sight::All, 0), (Sight::ObjectsOnly, 0), (Sight::Nothing, 1)] {
            let (stage, ended) = publish_with([s3::Whim::LoseAnswer], sight, |_| {}).await;
            assert_eq!(ended.unwrap(), unverified, "{sight:?}");
            assert_eq!(stage.visible(), ["out/a.json"]);
        }
    });
}

#[test]
fn no_such_upload_to_the_first_complete_is_a_loss() {
    time::run(async {
        for sight in [Sight::All, Sight::ObjectsOnly, Sight::Nothing] {
            let (_, ended) = publish_with([], sight, |stage| stage.s3.abort("a")).await;
            assert_eq!(code_of(ended), Code::UploadLost, "{sight:?}");
        }
    });
}

#[test]
fn an_upload_that_is_gone_is_a_loss_once_no_complete_can_be_on_its_way() {
    time::run(async {
        let before = time::now();
        let open = [s3::Whim::Refuse(CompleteAnswer::Open)];
        let (_, ended) = publish_with(open, Sight::All, |stage| stage.s3.abort("a")).await;
        assert_eq!(code_of(ended), Code::UploadLost);
        assert!(time::now() - before >= Duration::from_secs(300));
    });
}

#[test]
fn an_object_without_our_token_is_not_ours() {
    time::run(async {
        let open = [s3::Whim::LoseAnswer];
        let (_, ended) = publish_with(open, Sight::All, |stage| {
            let mut bucket = stage.s3.bucket.lock().unwrap();
            bucket.uploads.get_mut("a").unwrap().token = "another".into();
        })
        .await;
        assert_eq!(code_of(ended), Code::UploadLost);
    });
}

#[test]
fn one_lost_upload_does_not_keep_the_others_from_being_completed() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let (committer, published) = stage.start(1).await;
        let uploads = vec![stage.upload("a"), stage.upload("b"), stage.upload("c")];
        let committed = commit(&stage, &committer, published, batch(7, uploads)).await.unwrap();
        stage.s3.abort("b");
        let ended = committer.publish(committed, &stage.cancel).await;
        assert_eq!(code_of(ended), Code::UploadLost);
        assert_eq!(stage.visible(), ["out/a.json", "out/c.json"]);
    });
}

#[test]
fn a_visible_neighbour_tells_a_missing_object_from_a_missing_right() {
    time::run(async {
        let stage = Stage::with_s3(FakeHeads::honest(), [], Sight::ObjectsOnly);
        let (committer, published) = stage.start(1).await;
        let uploads = vec![stage.upload("a"), stage.upload("b")];
        let _crashed = commit(&stage, &committer, published, batch(7, uploads)).await.unwrap();
        stage.s3.abort("a");
        let next = stage.committer(2, |_| {});
        let acquired = next.acquire(BTreeMap::new(), &stage.cancel).await.unwrap();
        assert_eq!(code_of(next.recover(acquired, &stage.cancel).await), Code::UploadLost);
        assert_eq!(next.status().get(Count::CompletedUnverified), 0);
    });
}

#[test]
fn uploads_older_than_the_guard_are_not_taken_on_trust() {
    time::run(async {
        let stage = Stage::with_s3(FakeHeads::honest(), [], Sight::Nothing);
        let (committer, published) = stage.start(1).await;
        let uploads = vec![stage.upload("a")];
        let _crashed = commit(&stage, &committer, published, batch(7, uploads)).await.unwrap();
        stage.s3.abort("a");
        time::sleep(UPLOAD_GUARD).await;
        let next = stage.committer(2, |_| {});
        let acquired = next.acquire(BTreeMap::new(), &stage.cancel).await.unwrap();
        assert_eq!(code_of(next.recover(acquired, &stage.cancel).await), Code::UploadLost);
    });
}

#[test]
fn after_a_clean_stop_nothing_is_pending() {
    time::run(async {
        let stage = Stage::with_s3(FakeHeads::honest(), [], Sight::Nothing);
        let (committer, published) = stage.start(1).await;
        let uploads = vec![stage.upload("a")];
        let committed = commit(&stage, &committer, published, batch(7, uploads)).await.unwrap();
        let published = committer.publish(committed, &stage.cancel).await.unwrap();
        committer.fix_starts(published, BTreeMap::new(), &stage.cancel).await.unwrap();
        time::sleep(UPLOAD_GUARD * 9).await;
        let (_, published) = stage.start(2).await;
        assert_eq!(published.positions()[&shard("logs")], at(7));
    });
}

#[test]
fn a_denied_table_is_asked_each_minute_and_shows() {
    time::run(async {
        let stage = Stage::new(FakeHeads::scripted([Whim::Honest, Whim::Deny, Whim::Throttle]));
        let (committer, published) = stage.start(1).await;
        let mut degraded = committer.status().degraded();
        let shown = Arc::new(std::sync::Mutex::new(None));
        let seen = shown.clone();
        time::spawn(async move {
            *seen.lock().unwrap() = degraded.wait_for(Option::is_some).await.unwrap().clone();
        });
        let before = time::now();
        let _late = commit(&stage, &committer, published, batch(7, Vec::new())).await.unwrap();
        assert!(time::now() - before >= Duration::from_secs(60));
        assert!(shown.lock().unwrap().as_ref().is_some_and(|why| why.starts_with("MR3005 head")));
        assert_eq!(*committer.status().degraded().borrow(), None);
    });
}

#[test]
fn a_cancelled_step_ends_at_once() {
    time::run(async {
        let stage = Stage::new(FakeHeads::scripted([Whim::Honest, Whim::Deny]));
        let (committer, published) = stage.start(1).await;
        let cancel = stage.cancel.clone();
        time::spawn(async move {
            time::sleep(Duration::from_secs(1)).await;
            cancel.cancel();
        });
        let ended = commit(&stage, &committer, published, batch(7, Vec::new())).await;
        assert!(matches!(ended, Err(CommitError::Cancelled)));
    });
}

fn start_at(fixed_ms: i64) -> SourceStart {
    let from = StartFrom::Latest { open_shards: ["shardId-000000000000".to_owned()].into() };
    SourceStart { stream_arn: "arn".into(), stream_created_ms: 1, fixed_ms, from }
}

#[test]
fn a_start_is_fixed_once_and_a_new_source_gets_its_own() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let starts = |ms| BTreeMap::from([("logs".to_owned(), start_at(ms))]);
        let first = stage.committer(1, |_| {});
        first.acquire(starts(1), &stage.cancel).await.unwrap();
        let second = stage.committer(2, |_| {});
        let acquired = second.acquire(starts(2), &stage.cancel).await.unwrap();
        let published = second.recover(acquired, &stage.cancel).await.unwrap();
        assert_eq!(published.start_of("logs"), Some(&start_at(1)));
        let added = BTreeMap::from([("clicks".to_owned(), start_at(3))]);
        second.fix_starts(published, added, &stage.cancel).await.unwrap();
        let (_, third) = stage.start(3).await;
        assert_eq!(third.start_of("logs"), Some(&start_at(1)));
        assert_eq!(third.start_of("clicks"), Some(&start_at(3)));
    });
}

#[test]
fn a_reset_gives_up_positions_as_a_batch_of_its_own() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let (committer, published) = stage.start(1).await;
        let committed =
            commit(&stage, &committer, published, batch(7, vec![stage.upload("a")])).await;
        let _crashed = committed.unwrap();
        let wish = v1::StartPosition { at: Some(v1::start_position::At::Earliest(true)) };
        stage.heads.table.lock().unwrap().item.as_mut().unwrap().reset = Some(wish.encode_to_vec());
        let (committer, published) = stage.start(2).await;
        assert_eq!(stage.visible(), ["out/a.json"], "k1 comes before a reset");
        assert_eq!(published.reset_request(), Some(ResetRequest::Earliest));
        let starts = BTreeMap::from([("logs".to_owned(), start_at(9))]);
        let published = committer.reset(published, starts.clone(), &stage.cancel).await.unwrap();
        let expected = (2, &Positions::new(), None);
        assert_eq!((stage.batch(), published.positions(), published.reset_request()), expected);
        let (_, next) = stage.start(3).await;
        assert_eq!((&next.head().starts, next.reset_request()), (&starts, None));
    });
}

#[test]
fn dropped_sources_leave_the_head_and_ended_shards_may() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let (committer, published) = stage.start(1).await;
        let ended = Position { ended: true, ..at(3) };
        let positions =
            [(shard("ended"), ended), (shard("dropped"), at(1)), (shard("logs"), at(7))];
        let first = BatchCommit { positions: positions.into(), ..batch(7, Vec::new()) };
        let committed = commit(&stage, &committer, published, first).await.unwrap();
        let published = committer.publish(committed, &stage.cancel).await.unwrap();
        let second =
            BatchCommit { dropped_sources: ["dropped".to_owned()].into(), ..batch(8, Vec::new()) };
        let committed = commit(&stage, &committer, published, second).await.unwrap();
        assert_eq!(committed.positions().len(), 1);
    });
}

/// A batch whose head needs two chunks.
fn large_batch(number: u64, fill: u8) -> BatchCommit {
    use rand::{Rng, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(u64::from(fill));
    let state = (0..500_000).map(|_| char::from(random.random_range(b'!'..=b'~'))).collect();
    BatchCommit { state_ptr: Some(state), ..batch(number, Vec::new()) }
}

#[test]
fn a_large_head_goes_to_chunks_that_live_as_long_as_it_is_the_head() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let (committer, published) = stage.start(1).await;
        let num_chunks = || stage.heads.table.lock().unwrap().chunks.len();
        let committed = commit(&stage, &committer, published, large_batch(7, 1)).await.unwrap();
        let published = committer.publish(committed, &stage.cancel).await.unwrap();
        assert!(matches!(stage.heads.item().unwrap().body, StoredBody::Chunked { count: 2, .. }));
        assert_eq!(num_chunks(), 2);
        let committed = commit(&stage, &committer, published, large_batch(8, 2)).await.unwrap();
        assert_eq!(num_chunks(), 4, "the old chunks stay until the commit is won");
        let published = committer.publish(committed, &stage.cancel).await.unwrap();
        assert_eq!(num_chunks(), 2);
        let head: Head = published.head().clone();
        // A crash before the old chunks were deleted leaves orphans to the next start.
        let table = &stage.heads.table;
        let orphan = table.lock().unwrap().chunks.keys().next().cloned().unwrap();
        let orphan = ChunkName { batch: 1, commit_id: "old".into(), ..orphan };
        table.lock().unwrap().chunks.insert(orphan.clone(), vec![1]);
        // One of a batch still to come may belong to a driver that has just fenced this one.
        let coming = ChunkName { batch: 3, commit_id: "new".into(), ..orphan };
        table.lock().unwrap().chunks.insert(coming.clone(), vec![1]);
        let (committer, next) = stage.start(2).await;
        assert_eq!((&next.head().state_ptr, num_chunks()), (&head.state_ptr, 3));
        let committed = commit(&stage, &committer, next, batch(9, Vec::new())).await.unwrap();
        committer.publish(committed, &stage.cancel).await.unwrap();
        let left: Vec<_> = table.lock().unwrap().chunks.keys().cloned().collect();
        assert_eq!(left, [coming]);
    });
}

#[test]
fn a_missing_or_changed_chunk_is_refused() {
    time::run(async {
        for spoil in [true, false] {
            let stage = Stage::new(FakeHeads::honest());
            let (committer, published) = stage.start(1).await;
            let _committed =
                commit(&stage, &committer, published, large_batch(7, 1)).await.unwrap();
            let name = stage.heads.table.lock().unwrap().chunks.keys().next().cloned().unwrap();
            if spoil {
                stage.heads.table.lock().unwrap().chunks.get_mut(&name).unwrap()[9] ^= 1;
            } else {
                stage.heads.table.lock().unwrap().chunks.remove(&name);
            }
            let next = stage.committer(2, |_| {});
            let refused = next.acquire(BTreeMap::new(), &stage.cancel).await;
            assert_eq!(code_of(refused), Code::HeadUnreadable);
            assert_eq!(code_of(next.peek(&stage.cancel).await), Code::HeadUnreadable);
        }
    });
}
