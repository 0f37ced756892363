//! k1 and k6: each answer of S3 to a Complete, and what becomes of the upload.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::error::Code;

use super::super::CommitError;
use super::super::core::{CompleteAnswer, UPLOAD_GUARD};
use super::super::status::Count;
use super::heads::FakeHeads;
use super::s3::{self, Sight};
use super::stage::{Stage, batch, code_of, commit};
use super::time;

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
fn a_part_that_came_twice_is_named_by_the_sending_that_stayed() {
    time::run(async {
        // The first sending of part 1 is applied after the head has named the second one's ETag.
        let late = |stage: &Stage| stage.s3.replace_part("a", s3::part(1, "second sending"));
        let (stage, ended) = publish_with([], Sight::All, late).await;
        assert_eq!(ended.unwrap(), 0);
        assert_eq!(stage.visible(), ["out/a.json"]);
        // The answers about it may be lost as well, and the next driver finds its way too.
        for answers in [[s3::Whim::Honest, s3::Whim::LoseAnswer], [s3::Whim::LoseAnswer; 2]] {
            let (stage, ended) = publish_with(answers, Sight::All, late).await;
            assert!(ended.is_ok(), "{answers:?}: {ended:?}");
            assert_eq!(stage.visible(), ["out/a.json"]);
        }
        let stage = Stage::new(FakeHeads::honest());
        let (committer, published) = stage.start(1).await;
        let uploads = vec![stage.upload("a")];
        let _crashed = commit(&stage, &committer, published, batch(7, uploads)).await.unwrap();
        late(&stage);
        stage.start(2).await;
        assert_eq!(stage.visible(), ["out/a.json"]);
    });
}

#[test]
fn a_part_with_other_bytes_is_not_taken_for_ours() {
    time::run(async {
        let mut foreign = s3::part(1, "second sending");
        foreign.crc32c = "other bytes".into();
        let spoil = |stage: &Stage| stage.s3.replace_part("a", foreign.clone());
        let (stage, ended) = publish_with([], Sight::All, spoil).await;
        assert_eq!(code_of(ended), Code::UploadLost);
        assert_eq!(stage.visible(), Vec::<String>::new());
        // Without the right to list parts a refusal is what it was.
        let late = |stage: &Stage| stage.s3.replace_part("a", s3::part(1, "second sending"));
        let (_, ended) = publish_with([], Sight::Nothing, late).await;
        assert_eq!(code_of(ended), Code::UploadLost);
    });
}
