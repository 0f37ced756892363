//! The last batches of an application, as its driver told them: for looking at, the head is the
//! truth. A few of them stand in the record whenever that is written for another reason; the rest
//! a new master hears again from the driver.

use std::collections::VecDeque;

use millrace_proto::v1;

/// Batches kept per application; at a batch every 10 s that is almost three hours.
pub(crate) const BATCHES_MAX: usize = 1_000;
/// Files named per batch in the history; the rest is counted only.
const FILES_MAX: usize = 100;
/// Batches kept in the record, which is one item of DynamoDB's and written whole.
const KEPT_MAX: usize = 20;
/// Files named per batch in the record.
const KEPT_FILES_MAX: usize = 3;

/// The newest [`BATCHES_MAX`] batches, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    batches: VecDeque<v1::Batch>,
}

impl History {
    /// The history that the record holds.
    pub(crate) fn restore(recorded: &[v1::Batch]) -> Self {
        Self { batches: recorded.iter().cloned().collect() }
    }

    /// The newest batches, for the record.
    pub(crate) fn recorded(&self) -> Vec<v1::Batch> {
        let newest = self.batches.iter().skip(self.batches.len().saturating_sub(KEPT_MAX));
        newest
            .map(|batch| {
                let files = batch.files.iter().take(KEPT_FILES_MAX).cloned().collect();
                v1::Batch { files, ..batch.clone() }
            })
            .collect()
    }

    /// Takes a batch in, or the news of one that is already there. A driver says old ones again.
    pub(crate) fn record(&mut self, mut batch: v1::Batch) {
        batch.files.truncate(FILES_MAX);
        let at = self.batches.partition_point(|known| known.number < batch.number);
        if let Some(known) = self.batches.get_mut(at).filter(|known| known.number == batch.number) {
            // Its own driver knew more of it than the one that found it in the head.
            if known.recovered || !batch.recovered {
                *known = batch;
            }
            return;
        }
        self.batches.insert(at, batch);
        if self.batches.len() > BATCHES_MAX {
            self.batches.pop_front();
        }
    }

    /// The newest `limit` batches, newest first.
    pub(crate) fn newest(&self, limit: usize) -> Vec<v1::Batch> {
        self.batches.iter().rev().take(limit).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(number: u64, num_files: usize) -> v1::Batch {
        v1::Batch { number, files: vec!["f".to_owned(); num_files], ..Default::default() }
    }

    #[test]
    fn what_is_said_again_stands_once_and_in_its_place() {
        let mut history = History::default();
        for number in [1, 2, 5, 3, 4, 5, 2] {
            history.record(batch(number, 1));
        }
        let numbers: Vec<u64> = history.newest(10).iter().map(|batch| batch.number).collect();
        assert_eq!(numbers, [5, 4, 3, 2, 1]);
    }

    #[test]
    fn what_a_batchs_own_driver_said_is_not_replaced_by_what_another_found() {
        let mut history = History::default();
        let recovered = |number| v1::Batch { recovered: true, ..batch(number, 1) };
        history.record(batch(1, 3));
        history.record(recovered(1));
        history.record(recovered(2));
        assert_eq!(history.newest(10), [recovered(2), batch(1, 3)]);
        history.record(batch(2, 4));
        assert_eq!(history.newest(1), [batch(2, 4)]);
    }

    #[test]
    fn the_record_holds_a_few_and_they_come_back() {
        let mut history = History::default();
        for number in 0..2_000 {
            history.record(batch(number, 200));
        }
        assert_eq!(history.newest(usize::MAX).len(), BATCHES_MAX);
        let recorded = history.recorded();
        assert_eq!(recorded.len(), KEPT_MAX);
        assert!(recorded.iter().all(|batch| batch.files.len() == KEPT_FILES_MAX));
        let mut back = History::restore(&recorded);
        assert_eq!(back.newest(1)[0].number, 1_999);
        // The driver says the last ones again, with all that is known of them.
        back.record(batch(1_999, 50));
        assert_eq!(back.newest(1)[0].files.len(), 50);
    }
}
