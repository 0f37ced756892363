//! Which open uploads can never be named by a commit any more, so that they may be aborted (R3).
//!
//! Promises: what is called an orphan once stays one, whatever any driver does later; what a commit
//! named, or may still name, is never called one. Never does: read a clock, or trust an age.

use uuid::Uuid;

use super::state::Head;
use crate::id::ApplicationName;

/// The run that an object's key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunOrder {
    /// Epoch of the driver.
    pub epoch: u64,
    /// The batch that was run.
    pub batch: u64,
}

/// What may become of an open upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// A commit names it: it is to be completed, and must never be aborted.
    Pending,
    /// No commit names it and none ever can.
    Orphan,
    /// Too young to tell: a commit may yet name it.
    Young,
}

/// Reads the run out of the key of a result or of dead letters,
/// `<prefix>/<partition>/<application>-e<epoch>-b<batch>-t<task>-<run>.<ext>` (dead letters have
/// `x<executor>` in the task's place). None when the key is not one of `application`'s.
#[must_use]
pub fn run_of_key(application: &ApplicationName, key: &str) -> Option<RunOrder> {
    let name = key.rsplit('/').next()?;
    let rest = name.strip_prefix(application.as_str())?.strip_prefix("-e")?;
    let (epoch, rest) = number(rest)?;
    let (batch, rest) = number(rest.strip_prefix("-b")?)?;
    let rest = rest.strip_prefix("-t").or_else(|| rest.strip_prefix("-x"))?;
    let (_, rest) = number(rest)?;
    let (run, extension) = rest.strip_prefix('-')?.split_once('.')?;
    Uuid::try_parse(run).ok()?;
    (!extension.is_empty()).then_some(RunOrder { epoch, batch })
}

/// True for the key of dead letters of `application`, see [`run_of_key`].
#[must_use]
pub fn names_dead_letters(application: &ApplicationName, key: &str) -> bool {
    let name = key.rsplit('/').next().and_then(|name| name.strip_prefix(application.as_str()));
    // `-e1-b2-x3-...`
    let writer = name.and_then(|rest| rest.split('-').nth(3));
    writer.is_some_and(|writer| writer.starts_with('x')) && run_of_key(application, key).is_some()
}

fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

/// The fate of the upload `upload_id` of `key`, made by `run`, seen from `head`. The head must have
/// been read consistently; whether before or after the upload was seen does not matter, since an
/// orphan of an older head is one of every later head.
#[must_use]
pub fn fate(head: Option<&Head>, run: RunOrder, key: &str, upload_id: &str) -> Fate {
    let Some(head) = head else { return Fate::Young };
    let names =
        |pending: &super::PendingUpload| pending.key == key || pending.upload_id == upload_id;
    if head.pending.iter().any(names) {
        return Fate::Pending;
    }
    // No driver of an older epoch can commit any more, and this epoch's driver commits batches in
    // order, each once.
    let decided = RunOrder { epoch: head.epoch, batch: head.batch };
    if run.epoch < decided.epoch || (run.epoch == decided.epoch && run.batch <= decided.batch) {
        Fate::Orphan
    } else {
        Fate::Young
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::head::PendingUpload;
    use crate::head::Totals;

    const RUN: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

    fn application(name: &str) -> ApplicationName {
        name.parse().unwrap()
    }

    #[test]
    fn keys_of_results_and_dead_letters_name_their_run() {
        let run = |key: &str| run_of_key(&application("word-count"), key);
        let expected = Some(RunOrder { epoch: 12, batch: 345 });
        for key in [
            format!("word-count-e12-b345-t0-{RUN}.json"),
            format!("out/word-count/word-count-e12-b345-t17-{RUN}.json.gz"),
            format!("out/day=2026-11-22/word-count-e12-b345-t3-{RUN}.parquet"),
            format!("bad/word-count-e12-b345-x1-{RUN}.json"),
        ] {
            assert_eq!(run(&key), expected, "{key}");
            let is_dead = names_dead_letters(&application("word-count"), &key);
            assert_eq!(is_dead, key.starts_with("bad/"), "{key}");
        }
    }

    #[test]
    fn foreign_keys_name_none() {
        let run = |key: &str| run_of_key(&application("a"), key);
        for key in [
            String::new(),
            "a".to_owned(),
            format!("b-e1-b2-t3-{RUN}.json"),
            format!("aa-e1-b2-t3-{RUN}.json"),
            format!("a-e1-b2-t3-{RUN}"),
            format!("a-e1-b2-t3-{RUN}."),
            "a-e1-b2-t3-run.json".to_owned(),
            format!("a-e-b2-t3-{RUN}.json"),
            format!("a-e1-b99999999999999999999999-t3-{RUN}.json"),
            // Applications whose names begin as a key of `a` would.
            format!("a-e1-e5-b6-t0-{RUN}.json"),
            format!("a-e1-b2-t3-e5-b6-t0-{RUN}.json"),
            format!("a-e1-b2-t3-{RUN}-e5-b6-t0-{RUN}.json"),
            format!("a-e1-b2-t3-{RUN}.json/other"),
        ] {
            assert_eq!(run(&key), None, "{key}");
        }
    }

    proptest! {
        #[test]
        fn only_one_application_owns_a_key(
            owner in "[a-z][a-z0-9-]{0,20}", other in "[a-z][a-z0-9-]{0,20}",
            epoch: u64, batch: u64, task: u32,
        ) {
            prop_assume!(owner.parse::<ApplicationName>().is_ok());
            prop_assume!(other.parse::<ApplicationName>().is_ok());
            let key = format!("p/{owner}-e{epoch}-b{batch}-t{task}-{RUN}.json");
            prop_assert_eq!(
                run_of_key(&application(&owner), &key), Some(RunOrder { epoch, batch })
            );
            if owner != other {
                prop_assert_eq!(run_of_key(&application(&other), &key), None);
            }
        }
    }

    /// A world of drivers that may do whatever the protocol lets them do.
    #[derive(Clone, Debug)]
    enum Deed {
        /// A driver of a higher epoch takes the head.
        Acquire,
        /// The driver of this epoch uploads for the batch after the one that it knows of.
        Upload { epoch: u64 },
        /// The driver of this epoch commits, naming some of what it uploaded for the batch.
        Commit { epoch: u64, chosen: u8 },
        /// The head's driver completes what is pending.
        Publish,
    }

    fn deed() -> impl Strategy<Value = Deed> {
        prop_oneof![
            1 => Just(Deed::Acquire),
            4 => (1u64..5).prop_map(|epoch| Deed::Upload { epoch }),
            3 => (1u64..5, any::<u8>()).prop_map(|(epoch, chosen)| Deed::Commit { epoch, chosen }),
            2 => Just(Deed::Publish),
        ]
    }

    #[derive(Debug)]
    struct World {
        head: Head,
        /// Batch that each epoch's driver believes to be the last.
        known: BTreeMap<u64, u64>,
        /// Open uploads by id.
        open: BTreeMap<u32, RunOrder>,
        is_published: bool,
        next: u32,
    }

    impl World {
        fn new() -> Self {
            let head = Head {
                epoch: 1,
                owner: String::new(),
                cluster: String::new(),
                batch: 0,
                commit_id: String::new(),
                positions: BTreeMap::new(),
                pending: Vec::new(),
                is_published: false,
                before: None,
                gaps: BTreeMap::new(),
                totals: Totals::default(),
                state_ptr: None,
                spec_hash: String::new(),
                starts: BTreeMap::new(),
                reset: None,
                repair: None,
            };
            let known = BTreeMap::from([(1, 0)]);
            Self { head, known, open: BTreeMap::new(), is_published: true, next: 0 }
        }

        fn key(id: u32) -> String {
            format!("key {id}")
        }

        fn pending(id: u32) -> PendingUpload {
            PendingUpload {
                bucket: String::new(),
                region: String::new(),
                key: Self::key(id),
                upload_id: id.to_string(),
                parts: Vec::new(),
                rows: 1,
                bytes: 1,
                token: String::new(),
                created_ms: 0,
            }
        }

        fn fate(&self, id: u32) -> Fate {
            fate(Some(&self.head), self.open[&id], &Self::key(id), &id.to_string())
        }

        fn perform(&mut self, deed: &Deed) {
            match deed {
                Deed::Acquire => {
                    self.head.epoch += 1;
                    self.known.insert(self.head.epoch, self.head.batch);
                }
                Deed::Upload { epoch } => {
                    let Some(known) = self.known.get(epoch) else { return };
                    let run = RunOrder { epoch: *epoch, batch: known + 1 };
                    self.open.insert(self.next, run);
                    self.next += 1;
                }
                Deed::Commit { epoch, chosen } => {
                    let Some(known) = self.known.get(epoch).copied() else { return };
                    let won = *epoch == self.head.epoch && known == self.head.batch;
                    if !won || !self.is_published {
                        return;
                    }
                    let run = RunOrder { epoch: *epoch, batch: known + 1 };
                    let mine = self.open.iter().filter(|(_, of)| **of == run);
                    let ids = mine.map(|(id, _)| *id).filter(|id| chosen >> (id % 8) & 1 == 1);
                    self.head.pending = ids.map(Self::pending).collect();
                    self.head.batch += 1;
                    self.known.insert(*epoch, self.head.batch);
                    self.is_published = false;
                }
                Deed::Publish => {
                    for upload in &self.head.pending {
                        self.open.remove(&upload.upload_id.parse().unwrap());
                    }
                    self.is_published = true;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn an_orphan_is_never_named_by_any_later_commit(
            deeds in proptest::collection::vec(deed(), 1..60)
        ) {
            let mut world = World::new();
            let mut orphans = BTreeSet::new();
            for deed in deeds {
                world.perform(&deed);
                let pending: BTreeSet<u32> =
                    world.head.pending.iter().map(|u| u.upload_id.parse().unwrap()).collect();
                prop_assert!(orphans.is_disjoint(&pending), "{:?} names an orphan", deed);
                for id in world.open.keys() {
                    let fate = world.fate(*id);
                    if orphans.contains(id) {
                        prop_assert_eq!(fate, Fate::Orphan, "an orphan stays one");
                    }
                    prop_assert_eq!(fate == Fate::Pending, pending.contains(id));
                    if fate == Fate::Orphan {
                        orphans.insert(*id);
                    }
                }
            }
        }

        #[test]
        fn everything_left_behind_is_an_orphan_of_the_next_driver_at_last(
            deeds in proptest::collection::vec(deed(), 1..40)
        ) {
            let mut world = World::new();
            deeds.iter().for_each(|deed| world.perform(deed));
            world.perform(&Deed::Acquire);
            world.perform(&Deed::Publish);
            for id in world.open.keys() {
                prop_assert_eq!(world.fate(*id), Fate::Orphan);
            }
        }
    }

    #[test]
    fn without_a_head_nothing_can_be_told() {
        let run = RunOrder { epoch: 1, batch: 1 };
        assert_eq!(fate(None, run, "k", "u"), Fate::Young);
    }
}
