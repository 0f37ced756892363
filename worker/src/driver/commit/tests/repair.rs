//! A committed batch whose uploads are lost: what each choice of an operator makes of it, record by
//! record.

use std::collections::BTreeMap;

use millrace_common::error::Code;
use millrace_common::head::RepairRequest;
use prost::Message;

use super::super::Committed;
use super::heads::FakeHeads;
use super::s3::Sight;
use super::stage::{Stage, at, batch, code_of, commit, shard};
use super::time;
use crate::driver::head::{PendingUpload, RepairChoice};

/// Driver 1 commits a batch without files up to record 3, and one with the files `a` and `b` up to
/// record 7, and dies before it completes them.
async fn crashed(stage: &Stage) -> Committed {
    let (committer, published) = stage.start(1).await;
    let first = commit(stage, &committer, published, batch(3, Vec::new())).await.unwrap();
    let published = committer.publish(first, &stage.cancel).await.unwrap();
    let uploads: Vec<PendingUpload> = vec![stage.upload("a"), stage.upload("b")];
    commit(stage, &committer, published, batch(7, uploads)).await.unwrap()
}

/// An operator's word about the head's batch, as the master writes it.
fn ask(stage: &Stage, choice: RepairChoice, absence_seen: bool, commit_id: Option<&str>) {
    let mut table = stage.heads.table.lock().unwrap();
    let item = table.item.as_mut().unwrap();
    let commit_id = commit_id.unwrap_or(&item.commit_id).to_owned();
    let request = RepairRequest { batch: item.batch, commit_id, choice, absence_seen };
    item.repair = Some(request.to_proto().encode_to_vec());
}

#[test]
fn a_batch_without_any_visible_file_is_read_again_from_where_it_began() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let _crashed = crashed(&stage).await;
        stage.s3.abort("a");
        stage.s3.abort("b");
        ask(&stage, RepairChoice::Reread, false, None);
        let (committer, published) = stage.start(2).await;
        assert_eq!(published.positions()[&shard("logs")], at(3), "back to the batch's begin");
        assert_eq!(stage.batch(), 3, "a commit of its own");
        assert_eq!(stage.heads.item().unwrap().repair, None, "the word is used up");
        assert_eq!(stage.visible(), Vec::<String>::new());
        // The batch is made again, under new keys, and nothing of the old one can come to be.
        let uploads = vec![stage.upload("again")];
        let made = commit(&stage, &committer, published, batch(7, uploads)).await.unwrap();
        committer.publish(made, &stage.cancel).await.unwrap();
        assert_eq!(stage.visible(), ["out/again.json"]);
    });
}

#[test]
fn what_can_be_completed_is_completed_before_anything_is_given_up() {
    time::run(async {
        for choice in [RepairChoice::Reread, RepairChoice::GiveUp, RepairChoice::Duplicate] {
            let stage = Stage::new(FakeHeads::honest());
            let _crashed = crashed(&stage).await;
            ask(&stage, choice, true, None);
            let (_, published) = stage.start(2).await;
            assert_eq!(stage.visible(), ["out/a.json", "out/b.json"], "{choice:?}");
            assert_eq!(published.positions()[&shard("logs")], at(7), "{choice:?}");
        }
    });
}

#[test]
fn a_batch_with_a_visible_file_is_not_read_again_unless_that_is_said_in_so_many_words() {
    time::run(async {
        for absence_seen in [false, true] {
            let stage = Stage::new(FakeHeads::honest());
            let _crashed = crashed(&stage).await;
            stage.s3.abort("a");
            ask(&stage, RepairChoice::Reread, absence_seen, None);
            let next = stage.committer(2, |_| {});
            let acquired = next.acquire(BTreeMap::new(), &stage.cancel).await.unwrap();
            let refused = next.recover(acquired, &stage.cancel).await;
            assert_eq!(code_of(refused), Code::UploadLost);
            assert_eq!((stage.batch(), stage.visible().len()), (2, 1));
            // Somebody removes the visible file: now it is exact.
            stage.s3.bucket.lock().unwrap().objects.clear();
            let (_, published) = stage.start(3).await;
            assert_eq!(published.positions()[&shard("logs")], at(3));
        }
    });
}

#[test]
fn rows_may_be_given_up_or_doubled_by_name() {
    time::run(async {
        for (choice, position) in [(RepairChoice::GiveUp, 7), (RepairChoice::Duplicate, 3)] {
            let stage = Stage::new(FakeHeads::honest());
            let _crashed = crashed(&stage).await;
            stage.s3.abort("a");
            ask(&stage, choice, false, None);
            let (_, published) = stage.start(2).await;
            assert_eq!(published.positions()[&shard("logs")], at(position), "{choice:?}");
            assert_eq!((stage.batch(), stage.visible().len()), (3, 1), "{choice:?}");
            assert_eq!(stage.heads.item().unwrap().repair, None);
        }
    });
}

#[test]
fn a_driver_that_may_not_look_believes_the_operator_who_did() {
    time::run(async {
        for (absence_seen, position) in [(true, 3), (false, 7)] {
            let stage = Stage::with_s3(FakeHeads::honest(), [], Sight::Nothing);
            let _crashed = crashed(&stage).await;
            stage.s3.abort("a");
            stage.s3.abort("b");
            ask(&stage, RepairChoice::Reread, absence_seen, None);
            let (_, published) = stage.start(2).await;
            assert_eq!(published.positions()[&shard("logs")], at(position), "{absence_seen}");
        }
    });
}

#[test]
fn a_word_about_another_commit_is_void() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let _crashed = crashed(&stage).await;
        stage.s3.abort("a");
        stage.s3.abort("b");
        ask(&stage, RepairChoice::Reread, true, Some("another commit"));
        let next = stage.committer(2, |_| {});
        let acquired = next.acquire(BTreeMap::new(), &stage.cancel).await.unwrap();
        assert_eq!(code_of(next.recover(acquired, &stage.cancel).await), Code::UploadLost);
        assert_eq!(stage.batch(), 2);
    });
}

#[test]
fn a_driver_that_dies_in_the_middle_of_a_repair_is_followed_by_one_that_ends_it() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let _crashed = crashed(&stage).await;
        stage.s3.abort("a");
        stage.s3.abort("b");
        ask(&stage, RepairChoice::Reread, false, None);
        let zombie = stage.committer(2, |_| {});
        let taken = zombie.acquire(BTreeMap::new(), &stage.cancel).await.unwrap();
        // The next driver repairs first; the zombie's own repair is fenced and changes nothing.
        let (_, published) = stage.start(3).await;
        assert_eq!(published.positions()[&shard("logs")], at(3));
        assert_eq!(code_of(zombie.recover(taken, &stage.cancel).await), Code::Fenced);
        assert_eq!(stage.batch(), 3, "repaired once");
    });
}
