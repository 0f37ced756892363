//! k0 and k5, one step at a time: each answer of the table, and what becomes of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_common::error::Code;
use millrace_common::position::Position;
use millrace_proto::v1;
use prost::Message;

use super::super::core::UPLOAD_GUARD;
use super::super::status::Count;
use super::super::{BatchCommit, CommitError, CommitOutcome, RecordCounts};
use super::heads::{FakeHeads, Whim};
use super::s3::Sight;
use super::stage::{Stage, at, batch, code_of, commit, shard};
use super::time;
use crate::driver::head::{
    ChunkName, HEAD_VERSION, Head, Positions, ResetRequest, SourceStart, StartFrom, StoredBody,
};

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
fn a_head_that_no_driver_could_read_again_is_not_committed() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let (committer, published) = stage.start(1).await;
        let huge = BatchCommit {
            state_ptr: Some("x".repeat(65 << 20)),
            ..batch(7, vec![stage.upload("a")])
        };
        let refused = commit(&stage, &committer, published, huge).await.map(|_| ());
        let error = refused.unwrap_err().explain(&"word-count".parse().unwrap());
        assert_eq!(error.code(), Code::BatchFailed);
        assert!(error.message().contains("name 1 uploads"), "{error}");
        assert_eq!(stage.batch(), 0);
        assert!(stage.heads.table.lock().unwrap().chunks.is_empty());
        let (_, published) = stage.start(2).await;
        assert_eq!(published.next_batch(), 1, "the head is as readable as it was");
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
        assert!(
            shown
                .lock()
                .unwrap()
                .as_ref()
                .is_some_and(|why| { why.code == "MR3005" && why.message.starts_with("head") })
        );
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
