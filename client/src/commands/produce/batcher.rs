//! Records to PutRecords batches and, after an answer, to the batch that must be sent again.
//! Pure: no clock, no network.
//!
//! Promises: every record that is pushed is in exactly one batch, in order; no batch breaks a limit
//! of PutRecords; of an answered batch exactly the refused records are kept.

use millrace_common::error::Error;

use super::refuse;

/// Most records of one PutRecords.
pub(super) const RECORDS_MAX: usize = 500;
/// Most bytes of one PutRecords, keys included. The service takes more; a smaller call loses less
/// to throttling and keeps memory small.
pub(super) const BATCH_BYTES_MAX: usize = 1 << 20;
/// Most bytes of one record, its key included.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// Most characters of a partition key.
const KEY_CHARACTERS_MAX: usize = 256;

/// A record to put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// 1 to 256 characters.
    pub(super) key: String,
    /// What is put.
    pub(super) data: Vec<u8>,
}

impl Record {
    fn bytes(&self) -> usize {
        self.key.len() + self.data.len()
    }
}

/// Records of one call, at least one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) records: Vec<Record>,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, record: Record) {
        self.bytes += record.bytes();
        self.records.push(record);
    }

    /// The records whose place in the answer `refused` names, and how many bytes the others have.
    pub(super) fn settle(self, refused: impl Fn(usize) -> bool) -> Settled {
        let mut settled = Settled::default();
        for (index, record) in self.records.into_iter().enumerate() {
            if refused(index) {
                settled.again.add(record);
            } else {
                settled.records += 1;
                settled.bytes += record.data.len() as u64;
            }
        }
        settled
    }
}

/// What an answer made of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Records that were put.
    pub(super) records: u64,
    /// Bytes of their data.
    pub(super) bytes: u64,
    /// What must be sent again; may be empty.
    pub(super) again: Batch,
}

/// Collects records to batches.
#[derive(Debug)]
pub(super) struct Batcher {
    records_max: usize,
    open: Batch,
}

impl Batcher {
    /// Batches of at most `records_max` records, which [`RECORDS_MAX`] bounds.
    pub(super) fn new(records_max: usize) -> Self {
        Self { records_max: records_max.clamp(1, RECORDS_MAX), open: Batch::default() }
    }

    /// Takes a record; gives the batch that it fills or does not fit in any more.
    ///
    /// # Errors
    /// When Kinesis takes no such record.
    pub(super) fn push(&mut self, key: String, data: Vec<u8>) -> Result<Option<Batch>, Error> {
        let record = Record { key, data };
        if record.key.is_empty() || record.key.chars().count() > KEY_CHARACTERS_MAX {
            return Err(refuse(
                "the partition key has not 1 to 256 characters",
                "choose another --key: line and random always fit",
            ));
        }
        if record.bytes() > RECORD_BYTES_MAX {
            return Err(refuse(
                format!("a record of {} bytes is above the limit of 1 MiB", record.bytes()),
                "leave it out or make it shorter",
            ));
        }
        let overflows = self.open.bytes + record.bytes() > BATCH_BYTES_MAX;
        let full = overflows.then(|| std::mem::take(&mut self.open));
        self.open.add(record);
        if full.is_none() && self.open.records.len() >= self.records_max {
            return Ok(Some(std::mem::take(&mut self.open)));
        }
        Ok(full)
    }

    /// What is left at the end.
    pub(super) fn finish(self) -> Option<Batch> {
        (!self.open.records.is_empty()).then_some(self.open)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn record_sizes() -> impl Strategy<Value = Vec<usize>> {
        let size = prop_oneof![8 => 1usize..300, 1 => 100_000usize..=(RECORD_BYTES_MAX - 1)];
        vec(size, 0..1_500)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_record_is_in_one_batch_within_the_limits(
            sizes in record_sizes(),
            records_max in 1usize..=RECORDS_MAX,
        ) {
            let mut batcher = Batcher::new(records_max);
            let mut batches = Vec::new();
            for (index, size) in sizes.iter().enumerate() {
                let mut data = vec![0; *size];
                data[0] = index as u8;
                batches.extend(batcher.push("k".to_owned(), data).unwrap());
            }
            batches.extend(batcher.finish());
            for batch in &batches {
                prop_assert!((1..=records_max).contains(&batch.records.len()));
                let bytes: usize = batch.records.iter().map(Record::bytes).sum();
                prop_assert!(bytes <= BATCH_BYTES_MAX, "{} bytes", bytes);
            }
            let seen: Vec<_> = batches
                .iter()
                .flat_map(|batch| &batch.records)
                .map(|record| (record.data[0], record.data.len()))
                .collect();
            let put: Vec<_> =
                sizes.iter().enumerate().map(|(index, size)| (index as u8, *size)).collect();
            prop_assert_eq!(seen, put);
        }

        #[test]
        fn retrying_the_refused_puts_every_record_once(
            num_records in 1usize..=RECORDS_MAX,
            refusals in vec(vec(any::<bool>(), RECORDS_MAX), 1..6),
        ) {
            let mut batcher = Batcher::new(RECORDS_MAX);
            let mut batch = None;
            for index in 0..num_records {
                batch = batcher.push("k".to_owned(), index.to_be_bytes().to_vec()).unwrap();
            }
            let mut open = batch.or(batcher.finish()).unwrap();
            let mut put = Vec::new();
            let mut counted = 0;
            for refused in &refusals {
                let before = open.records.clone();
                let settled = open.settle(|index| refused[index]);
                put.extend(
                    before.iter().enumerate().filter(|(i, _)| !refused[*i]).map(|(_, r)| r.clone()),
                );
                counted += settled.records;
                open = settled.again;
            }
            let settled = open.clone().settle(|_| false);
            prop_assert_eq!(&settled.again, &Batch::default());
            counted += settled.records;
            put.extend(open.records);
            prop_assert_eq!(counted as usize, num_records);
            let mut numbers: Vec<_> = put.into_iter().map(|record| record.data).collect();
            numbers.sort();
            let all: Vec<_> = (0..num_records).map(|i| i.to_be_bytes().to_vec()).collect();
            prop_assert_eq!(numbers, all);
        }
    }

    #[test]
    fn what_kinesis_does_not_take_is_refused() {
        let mut batcher = Batcher::new(10);
        assert!(batcher.push(String::new(), vec![1]).is_err());
        assert!(batcher.push("k".repeat(257), vec![1]).is_err());
        assert!(batcher.push("ä".repeat(256), vec![1]).is_ok(), "characters, not bytes");
        assert!(batcher.push("k".to_owned(), vec![1; RECORD_BYTES_MAX]).is_err());
        assert!(batcher.push("k".to_owned(), vec![1; RECORD_BYTES_MAX - 1]).is_ok());
    }
}
