//! The mark of a published batch: files that are gone after it are nobody's loss.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::error::Code;
use millrace_common::head::RepairRequest;
use prost::Message;

use super::super::{Committer, Published};
use super::heads::{FakeHeads, Whim};
use super::stage::{Stage, at, batch, code_of, commit, shard};
use super::time;
use crate::driver::head::RepairChoice;

/// Driver 1 publishes a batch of two files.
async fn published(stage: &Stage) -> (Committer, Published) {
    let (committer, published) = stage.start(1).await;
    let uploads = vec![stage.upload("a"), stage.upload("b")];
    let committed = commit(stage, &committer, published, batch(7, uploads)).await.unwrap();
    let published = committer.publish(committed, &stage.cancel).await.unwrap();
    assert_eq!(stage.visible().len(), 2);
    (committer, published)
}

fn remove_all_files(stage: &Stage) {
    stage.s3.bucket.lock().unwrap().objects.clear();
}

#[test]
fn a_batch_without_files_needs_no_mark_and_one_with_files_needs_it_once() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let (committer, start) = stage.start(1).await;
        assert_eq!(start.mark(), None);
        let committed = commit(&stage, &committer, start, batch(3, Vec::new())).await.unwrap();
        let none = committer.publish(committed, &stage.cancel).await.unwrap();
        assert_eq!(none.mark(), None);
        let uploads = vec![stage.upload("a")];
        let committed = commit(&stage, &committer, none, batch(7, uploads)).await.unwrap();
        let mut some = committer.publish(committed, &stage.cancel).await.unwrap();
        let mark = some.mark().expect("it has a file");
        assert!(committer.mark_published(&mark).await.unwrap());
        some.marked(&mark);
        assert_eq!(some.mark(), None);
        // The next commit is a batch of its own.
        let uploads = vec![stage.upload("b")];
        let committed = commit(&stage, &committer, some, batch(9, uploads)).await.unwrap();
        let next = committer.publish(committed, &stage.cancel).await.unwrap();
        assert!(next.mark().is_some_and(|other| other != mark));
        assert!(!committer.mark_published(&mark).await.unwrap(), "the head has moved on");
        assert!(!stage.heads.item().unwrap().is_published());
    });
}

#[test]
fn files_that_are_removed_after_the_mark_are_not_looked_for() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let (committer, proof) = published(&stage).await;
        assert!(committer.mark_published(&proof.mark().unwrap()).await.unwrap());
        remove_all_files(&stage);
        let (committer, proof) = stage.start(2).await;
        assert_eq!(proof.positions()[&shard("logs")], at(7));
        assert_eq!(proof.mark(), None, "the head says it already");
        let uploads = vec![stage.upload("c")];
        let committed = commit(&stage, &committer, proof, batch(9, uploads)).await.unwrap();
        committer.publish(committed, &stage.cancel).await.unwrap();
        assert_eq!(stage.visible(), ["out/c.json"]);
    });
}

#[test]
fn without_the_mark_they_are_taken_for_lost() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        published(&stage).await;
        remove_all_files(&stage);
        let next = stage.committer(2, |_| {});
        let acquired = next.acquire(BTreeMap::new(), &stage.cancel).await.unwrap();
        assert_eq!(code_of(next.recover(acquired, &stage.cancel).await), Code::UploadLost);
    });
}

#[test]
fn what_a_start_has_completed_is_to_be_marked_too() {
    time::run(async {
        let stage = Stage::new(FakeHeads::honest());
        let (committer, start) = stage.start(1).await;
        let uploads = vec![stage.upload("a")];
        let _crashed = commit(&stage, &committer, start, batch(7, uploads)).await.unwrap();
        let (committer, proof) = stage.start(2).await;
        assert!(committer.mark_published(&proof.mark().unwrap()).await.unwrap());
        remove_all_files(&stage);
        let (_, proof) = stage.start(3).await;
        assert_eq!(proof.positions()[&shard("logs")], at(7));
    });
}

#[test]
fn a_mark_that_comes_late_is_seen_before_anything_is_called_lost() {
    time::run(async {
        // Two commits' worth of k0 and k5, then the mark, which comes 20 s after it was sent.
        let late = Whim::Late(Duration::from_secs(20));
        let heads = FakeHeads::scripted([Whim::Honest, Whim::Honest, late]);
        let stage = Stage::new(heads);
        let (committer, proof) = published(&stage).await;
        let error = committer.mark_published(&proof.mark().unwrap()).await.unwrap_err();
        assert_eq!(error.code(), Code::AwsUnreachable);
        remove_all_files(&stage);
        // The next driver takes the head before the mark comes, and finds no files.
        let next = stage.committer(2, |_| {});
        let acquired = next.acquire(BTreeMap::new(), &stage.cancel).await.unwrap();
        assert!(!acquired.head().is_published);
        next.recover(acquired, &stage.cancel).await.expect("the mark came while it looked");
    });
}

#[test]
fn an_operators_word_about_a_published_batch_changes_nothing() {
    time::run(async {
        for choice in [RepairChoice::Reread, RepairChoice::GiveUp, RepairChoice::Duplicate] {
            let stage = Stage::new(FakeHeads::honest());
            let (committer, proof) = published(&stage).await;
            remove_all_files(&stage);
            // The word comes first, from one who was too quick, and the mark after it.
            {
                let mut table = stage.heads.table.lock().unwrap();
                let item = table.item.as_mut().unwrap();
                let commit_id = item.commit_id.clone();
                let request =
                    RepairRequest { batch: item.batch, commit_id, choice, absence_seen: true };
                item.repair = Some(request.to_proto().encode_to_vec());
            }
            assert!(committer.mark_published(&proof.mark().unwrap()).await.unwrap());
            let (committer, proof) = stage.start(2).await;
            assert_eq!(proof.positions()[&shard("logs")], at(7), "{choice:?}");
            let next = commit(&stage, &committer, proof, batch(9, Vec::new())).await.unwrap();
            assert_eq!(next.batch(), 2, "{choice:?}");
            assert_eq!(stage.heads.item().unwrap().repair, None, "the word is void");
        }
    });
}
