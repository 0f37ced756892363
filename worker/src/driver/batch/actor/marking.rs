//! Marks a batch as published once it is clear that no other is committed soon.
//!
//! Promises: one write for each time that the commits rest, so a busy application pays nothing for
//! it; a mark that was not written is tried again until the next commit. Nothing waits for it: the
//! next commit may overtake it, and is refused nothing. Owned by the batches.
//! Never does: mark what is not published.

use std::time::Duration;

use actix::prelude::*;

use super::Batches;
use crate::driver::commit::Published;
use crate::driver::head::PublishedMark;

/// Time without a commit after which the last one is marked. Shorter than most readers take to
/// load a file and remove it, longer than the usual interval between two batches.
const QUIET: Duration = Duration::from_secs(5);
/// Time from a mark to the next sending, should it not have been written. Above the deadline of
/// the call.
const AGAIN: Duration = Duration::from_secs(60);

/// What is to be marked next, and when.
#[derive(Debug, Default)]
pub(super) struct Marking {
    next: Option<(PublishedMark, Duration)>,
}

impl Marking {
    /// The mark to be sent now; `wanted` is the one that the head lacks.
    fn due(&mut self, wanted: Option<PublishedMark>, now: Duration) -> Option<PublishedMark> {
        let Some(wanted) = wanted else {
            self.next = None;
            return None;
        };
        match &mut self.next {
            Some((mark, at)) if *mark == wanted => {
                if now < *at {
                    return None;
                }
                *at = now + AGAIN;
                Some(wanted)
            }
            _ => {
                self.next = Some((wanted, now + QUIET));
                None
            }
        }
    }
}

impl Batches {
    /// Sends the mark when its time has come. To be called often.
    pub(super) fn mark_when_quiet(&mut self, now: Duration, ctx: &mut Context<Self>) {
        let wanted = self.proof.as_ref().and_then(Published::mark);
        let Some(mark) = self.marking.due(wanted, now) else { return };
        let committer = self.setup.committer.clone();
        let sent = async move {
            let written = committer.mark_published(&mark).await;
            (mark, written)
        };
        ctx.spawn(sent.into_actor(self).map(|(mark, written), actor, _| match written {
            Ok(true) => {
                if let Some(proof) = &mut actor.proof {
                    proof.marked(&mark);
                }
            }
            Ok(false) => tracing::debug!("the head holds another batch than the one to be marked"),
            Err(error) => tracing::debug!(%error, "the batch is not marked as published yet"),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(id: &str) -> Option<PublishedMark> {
        Some(PublishedMark { commit_id: id.into() })
    }

    #[test]
    fn a_commit_is_marked_when_none_follows_it_for_a_while() {
        let mut marking = Marking::default();
        let tick = Duration::from_millis(50);
        // Commits that follow one another, seen or unseen: no mark.
        let mut now = Duration::ZERO;
        for number in 0..100 {
            for _ in 0..20 {
                assert_eq!(marking.due(mark(&number.to_string()), now), None);
                now += tick;
            }
        }
        // The last of them, and then a rest: one mark.
        let mut sent = Vec::new();
        for _ in 0..400 {
            sent.extend(marking.due(mark("last"), now).map(|mark| (mark.commit_id, now)));
            now += tick;
        }
        assert_eq!(sent.len(), 1, "{sent:?}");
        assert_eq!(sent[0].0, "last");
        // It was not written: again after a while, not sooner.
        assert_eq!(marking.due(mark("last"), sent[0].1 + AGAIN - tick), None);
        assert_eq!(marking.due(mark("last"), sent[0].1 + AGAIN), mark("last"));
        // It was: nothing more, however long it rests.
        assert_eq!(marking.due(None, now + AGAIN * 9), None);
        assert_eq!(marking.due(mark("next"), now + AGAIN * 10), None, "its own rest begins");
    }
}
