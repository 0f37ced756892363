//! What batches take, on average, and what of it.
//!
//! Owned by the parent. Never does: judge.

use millrace_proto::v1;

/// Batches over which durations are averaged, when there are as many.
pub(crate) const BATCHES_JUDGED: usize = 5;

/// What the newest batches of one driver took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    num: u64,
    /// What keeps the next batch: the longer one of running it and of publishing it.
    pub took_ms: u64,
    run_ms: u64,
    /// Of the run, with the object store.
    store_ms: u64,
    /// After the commit, until the files were visible.
    publish_ms: u64,
}

impl Pace {
    /// None before a batch of the newest driver was published. Batches that were run more than once
    /// say nothing about the next.
    pub(super) fn over(batches: &[v1::Batch]) -> Option<Self> {
        let epoch = batches.first()?.epoch;
        let ran = |batch: &&v1::Batch| {
            batch.epoch == epoch && batch.published_ms > 0 && batch.num_runs == 1
        };
        let judged: Vec<&v1::Batch> = batches.iter().filter(ran).take(BATCHES_JUDGED).collect();
        let num = u64::try_from(judged.len()).ok().filter(|num| *num > 0)?;
        let publish_ms =
            |batch: &v1::Batch| u64::try_from(batch.published_ms - batch.committed_ms).unwrap_or(0);
        let mean = |of: &dyn Fn(&v1::Batch) -> u64| {
            judged.iter().map(|batch| of(batch)).sum::<u64>() / num
        };
        Some(Self {
            num,
            // Publishing a batch and running the next go on at once; the longer one sets the pace.
            took_ms: mean(&|batch| batch.run_ms.max(publish_ms(batch))),
            run_ms: mean(&|batch| batch.run_ms),
            store_ms: mean(&|batch| batch.store_ms),
            publish_ms: mean(&publish_ms),
        })
    }

    /// True when most of the time is the object store's.
    pub(super) fn is_sink(self) -> bool {
        self.store_ms.max(self.publish_ms) * 2 > self.took_ms
    }

    /// In numbers, beside the interval.
    pub(super) fn describe(self, interval_ms: u64) -> String {
        let Self { num, took_ms, run_ms, store_ms, publish_ms } = self;
        let batches =
            if num == 1 { "the last batch".to_owned() } else { format!("the last {num} batches") };
        format!(
            "{batches} took {took_ms} ms of an interval of {interval_ms} ms: {run_ms} ms to run, \
             {store_ms} ms of it with the object store, and {publish_ms} ms to publish"
        )
    }
}
