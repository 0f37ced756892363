//! Whether the disk of the work directory is fit for work: pure.
//!
//! Looks at the disk go in, a verdict comes out. One bad look may be chance, two in a row are not.
//! A disk that failed has to prove itself: it is well again after a span of good looks alone, with
//! room to spare, and each relapse doubles that span, so that a disk that comes and goes does not
//! move containers about.

use std::time::Duration;

use millrace_common::error::Code;
use millrace_common::resources::ByteSize;

/// So many bad looks in a row make a verdict.
const BAD_LOOKS: u32 = 2;
/// A disk that failed has to have more free than the least, by this part of it.
const SPARE_PART: u64 = 4;
/// Longest time in which a disk has to prove itself, unless the configured one is longer. Who is
/// well for as long starts anew.
const PROOF_MAX: Duration = Duration::from_secs(600);

/// What a look at the disk showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::node) enum Look {
    /// A file was written, synced and removed; this many bytes are free.
    Free(u64),
    /// That failed, or what is free can not be told.
    Failed(String),
    /// No answer for this long.
    Late(Duration),
}

/// What is asked of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::node) struct Terms {
    /// The directory, for people.
    pub directory: String,
    /// Less than this is too little.
    pub min_free: ByteSize,
    /// How long a disk that failed has to be well before it counts as well.
    pub recover_after: Duration,
}

/// The verdict on the disk, and what it rests on.
#[derive(Debug)]
pub(in crate::node) struct Judge {
    terms: Terms,
    has_looked: bool,
    num_bad: u32,
    trouble: Option<String>,
    /// Since when all looks were good, while there is trouble.
    good_since: Option<Duration>,
    /// Since when there is no trouble any more.
    well_since: Duration,
    num_relapses: u32,
}

impl Judge {
    /// No verdict yet: the first look makes one.
    pub(in crate::node) fn new(terms: Terms) -> Self {
        Self {
            terms,
            has_looked: false,
            num_bad: 0,
            trouble: None,
            good_since: None,
            well_since: Duration::ZERO,
            num_relapses: 0,
        }
    }

    /// Why the disk is not fit for work, under its code; none when it is.
    pub(in crate::node) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// True while the disk was fit at every look since it failed, and not for long enough.
    pub(in crate::node) fn is_recovering(&self) -> bool {
        self.good_since.is_some()
    }

    /// A look was had. True when the disk is fit now and was not, or the other way round, or begins
    /// or ceases to recover.
    pub(in crate::node) fn look(&mut self, now: Duration, look: &Look) -> bool {
        let is_first = !std::mem::replace(&mut self.has_looked, true);
        match self.fault_of(look) {
            None => self.good(now),
            Some(fault) => {
                // Nothing is known in favour of a disk that fails at once, or does not answer.
                let is_plain = is_first || matches!(look, Look::Late(_));
                self.bad(now, fault, is_plain)
            }
        }
    }

    fn fault_of(&self, look: &Look) -> Option<String> {
        let Terms { directory, min_free, .. } = &self.terms;
        let spare = match self.trouble {
            Some(_) => min_free.as_u64() / SPARE_PART,
            None => 0,
        };
        match look {
            Look::Free(free) if *free >= min_free.as_u64().saturating_add(spare) => None,
            Look::Free(free) => Some(format!(
                "{} of the disk of {directory} are free, {} are wanted (min_free_disk is {min_free})",
                ByteSize::mib(free >> 20),
                ByteSize::bytes(min_free.as_u64().saturating_add(spare)),
            )),
            Look::Failed(detail) => {
                Some(format!("the disk of {directory} can not be written to: {detail}"))
            }
            Look::Late(time) => {
                Some(format!("the disk of {directory} did not answer for {} s", time.as_secs()))
            }
        }
    }

    fn bad(&mut self, now: Duration, fault: String, is_plain: bool) -> bool {
        let text = format!("{}: {fault}", Code::NodeUnhealthy.as_str());
        let was_recovering = self.good_since.take().is_some();
        if let Some(trouble) = &mut self.trouble {
            *trouble = text;
            return was_recovering;
        }
        self.num_bad += 1;
        if self.num_bad < BAD_LOOKS && !is_plain {
            return false;
        }
        if now.saturating_sub(self.well_since) >= self.proof_max() {
            self.num_relapses = 0;
        }
        self.trouble = Some(text);
        true
    }

    fn good(&mut self, now: Duration) -> bool {
        self.num_bad = 0;
        if self.trouble.is_none() {
            return false;
        }
        let is_new = self.good_since.is_none();
        let since = *self.good_since.get_or_insert(now);
        let proof = self.proof();
        if now.saturating_sub(since) < proof {
            self.trouble = Some(format!(
                "{}: the disk of {} has failed and is well again; the node is used when that was so \
                 for {} s",
                Code::NodeUnhealthy.as_str(),
                self.terms.directory,
                proof.as_secs()
            ));
            return is_new;
        }
        self.trouble = None;
        self.good_since = None;
        self.well_since = now;
        self.num_relapses = self.num_relapses.saturating_add(1);
        true
    }

    fn proof_max(&self) -> Duration {
        self.terms.recover_after.max(PROOF_MAX)
    }

    /// How long the disk has to be well before it counts as well again.
    fn proof(&self) -> Duration {
        let factor = 2_u32.saturating_pow(self.num_relapses);
        self.terms.recover_after.saturating_mul(factor).min(self.proof_max())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIN_FREE: u64 = 100 << 20;
    const RECOVER: Duration = Duration::from_secs(30);

    fn judge() -> Judge {
        let min_free = ByteSize::bytes(MIN_FREE);
        Judge::new(Terms { directory: "/work".to_owned(), min_free, recover_after: RECOVER })
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn failed() -> Look {
        Look::Failed("no space left".to_owned())
    }

    #[test]
    fn two_bad_looks_make_a_verdict_and_one_does_not() {
        let mut judge = judge();
        assert!(!judge.look(at(0), &Look::Free(MIN_FREE)));
        assert!(!judge.look(at(2), &failed()));
        assert!(!judge.look(at(4), &Look::Free(MIN_FREE)), "that was chance");
        assert!(!judge.look(at(6), &failed()));
        assert!(judge.look(at(8), &Look::Free(MIN_FREE - 1)));
        let text = judge.trouble().unwrap();
        assert!(text.starts_with("MR6008: 99MiB of the disk of /work are free"), "{text}");
        assert!(!judge.look(at(10), &failed()));
        assert!(judge.trouble().unwrap().contains("no space left"), "what is so now is told");
    }

    #[test]
    fn the_first_look_and_a_disk_that_hangs_are_plain() {
        let mut first = judge();
        assert!(first.look(at(0), &failed()));
        let mut hangs = judge();
        hangs.look(at(0), &Look::Free(u64::MAX));
        assert!(hangs.look(at(10), &Look::Late(at(10))));
        assert!(hangs.trouble().unwrap().contains("did not answer for 10 s"));
    }

    #[test]
    fn a_disk_that_failed_proves_itself_with_room_to_spare_and_longer_each_time() {
        let mut judge = judge();
        judge.look(at(0), &failed());
        judge.look(at(10), &Look::Free(MIN_FREE));
        assert!(!judge.look(at(100), &Look::Free(MIN_FREE)), "no room to spare");
        assert!(!judge.is_recovering());
        assert!(judge.look(at(110), &Look::Free(2 * MIN_FREE)), "it begins to recover");
        assert!(judge.is_recovering() && judge.trouble().unwrap().contains("for 30 s"));
        assert!(!judge.look(at(139), &Look::Free(2 * MIN_FREE)));
        assert!(judge.look(at(140), &Look::Free(2 * MIN_FREE)));
        assert_eq!((judge.trouble(), judge.is_recovering()), (None, false));
        judge.look(at(150), &Look::Late(at(10)));
        judge.look(at(160), &Look::Free(u64::MAX));
        assert!(!judge.look(at(219), &Look::Free(u64::MAX)), "a relapse takes twice as long");
        assert!(judge.look(at(220), &Look::Free(u64::MAX)));
        judge.look(at(820), &Look::Late(at(10)));
        judge.look(at(830), &Look::Free(u64::MAX));
        assert!(judge.look(at(860), &Look::Free(u64::MAX)), "forgiven after ten minutes");
    }

    fn looks() -> impl Strategy<Value = Vec<(u64, Look)>> {
        let look = prop_oneof![
            (0..3 * MIN_FREE).prop_map(Look::Free),
            Just(Look::Free(u64::MAX)),
            Just(failed()),
            Just(Look::Late(at(10))),
        ];
        prop::collection::vec((1_u64..20, look), 1..200)
    }

    proptest! {
        /// Whatever the disk does: no verdict on a single failure, none of fitness before its time,
        /// and never two of them within that time.
        #[test]
        fn verdicts_do_not_flap(looks in looks()) {
            let mut judge = judge();
            let (mut now, mut good_since, mut before) = (at(0), None, None);
            for (index, (pause, look)) in looks.iter().enumerate() {
                now += at(*pause);
                let was = (judge.trouble().is_none(), judge.is_recovering());
                let is_good = matches!(look, Look::Free(free) if *free >= MIN_FREE);
                good_since = if is_good { good_since.or(Some(now)) } else { None };
                let changed = judge.look(now, look);
                let is = (judge.trouble().is_none(), judge.is_recovering());
                prop_assert_eq!(changed, was != is);
                prop_assert!(is != (true, true), "who is well has nothing to recover from");
                if was.0 && !is.0 {
                    let is_plain = index == 0 || matches!(look, Look::Late(_));
                    let before_was_bad = matches!(before, Some(false));
                    prop_assert!(!is_good && (is_plain || before_was_bad));
                } else if !was.0 && is.0 {
                    prop_assert!(good_since.is_some_and(|since| now - since >= RECOVER));
                }
                before = Some(is_good);
            }
        }

        /// A disk that is well from some time on counts as well in the end.
        #[test]
        fn a_disk_that_is_mended_is_used_again(looks in looks()) {
            let mut judge = judge();
            let mut now = at(0);
            for (pause, look) in &looks {
                now += at(*pause);
                judge.look(now, look);
            }
            for _ in 0..=PROOF_MAX.as_secs() / 10 {
                now += at(10);
                judge.look(now, &Look::Free(u64::MAX));
            }
            prop_assert_eq!(judge.trouble(), None);
        }
    }
}
