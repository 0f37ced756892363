//! Draws what happens next.
//!
//! Promises: the same seed draws the same acts in the same order, whatever becomes of them: every
//! draw takes the same numbers from the seed. Never does: act, or know whom a number will mean.

use std::time::Duration;

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

/// Something that is done to the cluster. Numbers choose among those whom it can be done to then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// An application that is not live is submitted, for the first time or again.
    Submit(usize),
    /// An application that is live is submitted, which has to be refused.
    SubmitTaken(usize),
    /// An application is stopped, drained or at the edge of its batch.
    Stop {
        /// Which.
        which: usize,
        /// Drained.
        is_drained: bool,
    },
    /// An application is ended at once.
    Kill(usize),
    /// The number of an application's executors is set by hand, or given back to its file.
    Scale {
        /// Which.
        which: usize,
        /// Up to how many; the application has a bound of its own. 0: as its file says.
        executors: u32,
    },
    /// A node is drained, and added again later.
    Drain {
        /// Which.
        which: usize,
        /// After this long what is left on it is ended.
        deadline: Option<Duration>,
        /// It takes containers again after this long.
        back: Duration,
    },
    /// A worker dies, and is started again later.
    KillWorker(usize, Duration),
    /// A worker is told to end, and is started again later.
    EndWorker(usize, Duration),
    /// The master dies, and is started again later.
    KillMaster(Duration),
    /// A container dies.
    KillContainer(usize),
}

/// Draws the next act.
pub fn draw(rng: &mut ChaCha8Rng) -> Act {
    let (kind, which, part) =
        (rng.random_range(0..100), rng.random_range(0..10_000_usize), rng.random_range(0..1_000));
    let between = |from: u64, to: u64| Duration::from_millis(from * 1_000 + part * (to - from));
    match kind {
        0..16 => Act::Submit(which),
        16..19 => Act::SubmitTaken(which),
        19..26 => Act::Stop { which, is_drained: false },
        26..31 => Act::Stop { which, is_drained: true },
        31..38 => Act::Kill(which),
        38..56 => Act::Scale { which, executors: u32::try_from(part % 5).unwrap_or(0) },
        56..66 => {
            let deadline = (part % 3 == 0).then_some(Duration::from_secs(4));
            Act::Drain { which, deadline, back: between(4, 20) }
        }
        66..73 => Act::KillWorker(which, between(0, 10)),
        73..77 => Act::EndWorker(which, between(1, 10)),
        77..81 => Act::KillMaster(between(0, 8)),
        _ => Act::KillContainer(which),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn first_acts(seed: u64) -> Vec<Act> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..300).map(|_| draw(&mut rng)).collect()
    }

    #[test]
    fn a_seed_draws_the_same_acts_and_another_one_others() {
        assert_eq!(first_acts(7), first_acts(7));
        assert_ne!(first_acts(7), first_acts(8));
    }

    #[test]
    fn every_kind_of_act_is_drawn() {
        let acts = first_acts(1);
        let has = |what: fn(&Act) -> bool| assert!(acts.iter().any(what));
        has(|act| matches!(act, Act::Submit(_)));
        has(|act| matches!(act, Act::SubmitTaken(_)));
        has(|act| matches!(act, Act::Stop { is_drained: true, .. }));
        has(|act| matches!(act, Act::Stop { is_drained: false, .. }));
        has(|act| matches!(act, Act::Kill(_)));
        has(|act| matches!(act, Act::Scale { executors: 0, .. }));
        has(|act| matches!(act, Act::Scale { executors: 3, .. }));
        has(|act| matches!(act, Act::Drain { deadline: Some(_), .. }));
        has(|act| matches!(act, Act::Drain { deadline: None, .. }));
        has(|act| matches!(act, Act::KillWorker(..)));
        has(|act| matches!(act, Act::EndWorker(..)));
        has(|act| matches!(act, Act::KillMaster(_)));
        has(|act| matches!(act, Act::KillContainer(_)));
    }
}
