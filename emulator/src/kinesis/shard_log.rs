//! The records of one shard, in order, in chunks: pure bookkeeping, no file and no clock.
//!
//! Records get indexes 1, 2, 3 ... and arrival times that never go back. The newest chunk grows in
//! memory; a sealed chunk may be dropped from memory and brought back from the bytes on disk, whose
//! place it remembers. Records are handed out exactly as they were taken in.

use std::collections::VecDeque;
use std::sync::Arc;

use super::frame::{Frame, read_frame};

/// A chunk is sealed when it holds this many bytes: small enough to read back quickly, large enough
/// that a full GetRecords answer takes few of them.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;
/// Chunks of a shard that stay in memory: what a reader asks for that is a few seconds behind. Older
/// ones come from the page cache at little more cost.
const RESIDENT_CHUNKS: usize = 16;

/// Frames in one buffer with the place of each.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    starts: Vec<u32>,
}

impl Frames {
    /// Takes a buffer of whole frames apart. Ends at the first byte that is no frame.
    pub(crate) fn parse(bytes: Vec<u8>) -> Self {
        let (mut starts, mut at) = (Vec::new(), 0);
        while let Some((_, next)) = read_frame(&bytes, at) {
            starts.push(u32::try_from(at).expect("a chunk is far below 4 GiB"));
            at = next;
        }
        Self { bytes, starts }
    }

    pub(crate) fn num_records(&self) -> usize {
        self.starts.len()
    }

    pub(crate) fn get(&self, n: usize) -> Option<Frame<'_>> {
        let at = *self.starts.get(n)?;
        read_frame(&self.bytes, at as usize).map(|(frame, _)| frame)
    }

    fn append(&mut self, frames: &[u8]) {
        let base = self.bytes.len();
        self.bytes.extend_from_slice(frames);
        let mut at = base;
        while let Some((_, next)) = read_frame(&self.bytes, at) {
            self.starts.push(u32::try_from(at).expect("a chunk is far below 4 GiB"));
            at = next;
        }
    }
}

/// Where the bytes of a chunk lie on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// What is known of a chunk without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkSpan {
    pub(crate) first_index: u64,
    pub(crate) num_records: u64,
    pub(crate) last_arrival_ms: u64,
    pub(crate) place: Place,
}

impl ChunkSpan {
    fn end_index(&self) -> u64 {
        self.first_index + self.num_records
    }
}

#[derive(Debug)]
struct Chunk {
    span: ChunkSpan,
    frames: Option<Arc<Frames>>,
}

/// The log of one shard.
#[derive(Debug)]
pub(crate) struct ShardLog {
    chunks: VecDeque<Chunk>,
    next_index: u64,
    last_arrival_ms: u64,
    /// Records below this index have passed the retention or were trimmed by request.
    first_index: u64,
}

impl ShardLog {
    /// A log without records.
    pub(crate) fn empty() -> Self {
        Self { chunks: VecDeque::new(), next_index: 1, last_arrival_ms: 0, first_index: 1 }
    }

    /// The log that the chunks on disk make up, none of them in memory. `first_kept` is the least
    /// index that was not trimmed by request.
    pub(crate) fn recovered(spans: Vec<ChunkSpan>, first_kept: u64) -> Self {
        let first_index = spans.first().map_or(1, |s| s.first_index).max(first_kept);
        let next_index = spans.last().map_or(1, ChunkSpan::end_index).max(first_kept);
        let last_arrival_ms = spans.last().map_or(0, |s| s.last_arrival_ms);
        let chunks = spans.into_iter().map(|span| Chunk { span, frames: None }).collect();
        Self { chunks, next_index, last_arrival_ms, first_index }
    }

    /// The index that the next record gets.
    pub(crate) fn next_index(&self) -> u64 {
        self.next_index
    }

    /// The index of the oldest record that can be read; `next_index` if there is none.
    pub(crate) fn first_index(&self) -> u64 {
        self.first_index
    }

    /// The arrival time of a record that comes at `now_ms`.
    pub(crate) fn arrival_ms(&self, now_ms: u64) -> u64 {
        self.last_arrival_ms.max(now_ms)
    }

    /// Takes in frames that are safe on disk at `place`. `arrival_ms` is that of all of them.
    pub(crate) fn append(&mut self, frames: &[u8], num: u64, arrival_ms: u64, place: Place) {
        self.last_arrival_ms = arrival_ms;
        let joins = self.chunks.back().is_some_and(|c| {
            let end = c.span.place.offset + c.span.place.len;
            c.frames.is_some()
                && c.span.place.segment == place.segment
                && end == place.offset
                && c.span.place.len < CHUNK_BYTES as u64
        });
        if !joins {
            let span = ChunkSpan {
                first_index: self.next_index,
                num_records: 0,
                last_arrival_ms: arrival_ms,
                place: Place { len: 0, ..place },
            };
            self.chunks.push_back(Chunk { span, frames: Some(Arc::default()) });
            self.evict();
        }
        let chunk = self.chunks.back_mut().expect("pushed above if there was none");
        let held = chunk.frames.as_mut().expect("the chunk that grows is in memory");
        Arc::make_mut(held).append(frames);
        chunk.span.num_records += num;
        chunk.span.last_arrival_ms = arrival_ms;
        chunk.span.place.len += place.len;
        self.next_index += num;
    }

    /// The chunk that holds `index`: where its bytes lie, its frames if they are in memory, and the
    /// number of the record within the chunk.
    pub(crate) fn chunk_of(&self, index: u64) -> Option<(ChunkSpan, Option<Arc<Frames>>, usize)> {
        let n = self.chunks.partition_point(|c| c.span.end_index() <= index);
        let chunk = self.chunks.get(n)?;
        let within = index.checked_sub(chunk.span.first_index)?;
        Some((chunk.span, chunk.frames.clone(), usize::try_from(within).ok()?))
    }

    /// The place of the first chunk whose last record arrived at or after `time_ms`.
    pub(crate) fn first_chunk_since(&self, time_ms: u64) -> Option<ChunkSpan> {
        let n = self.chunks.partition_point(|c| c.span.last_arrival_ms < time_ms);
        self.chunks.get(n).map(|c| c.span)
    }

    /// Forgets the records below `index`, and returns the lowest segment that is still in use.
    pub(crate) fn trim(&mut self, index: u64) -> Option<u32> {
        self.first_index = self.first_index.max(index.min(self.next_index));
        while self.chunks.front().is_some_and(|c| c.span.end_index() <= self.first_index) {
            self.chunks.pop_front();
        }
        self.chunks.front().map(|c| c.span.place.segment)
    }

    /// Drops the chunk from memory that has become too old to stay; it is on disk.
    fn evict(&mut self) {
        if let Some(n) = self.chunks.len().checked_sub(RESIDENT_CHUNKS + 1) {
            self.chunks[n].frames = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::write_frame;
    use super::*;
    use proptest::prelude::*;

    fn frames(first: u64, num: u64, arrival_ms: u64, size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for index in first..first + num {
            let data = vec![b'x'; size];
            write_frame(&mut out, &Frame { index, arrival_ms, key: "k", data: &data });
        }
        out
    }

    proptest! {
        // A case writes megabytes; a few dozen meet every way of sealing and dropping chunks.
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Every record is found under its index, in memory or after its chunk was dropped and read
        /// back, and those that were trimmed are gone.
        #[test]
        fn each_record_is_found_once(
            appends in prop::collection::vec((1u64..40, 0usize..60_000), 1..60),
            trim in any::<prop::sample::Index>(),
        ) {
            let (mut log, mut disk) = (ShardLog::empty(), Vec::new());
            for (i, (num, size)) in appends.iter().enumerate() {
                let bytes = frames(log.next_index(), *num, i as u64, *size);
                let (offset, len) = (disk.len() as u64, bytes.len() as u64);
                disk.extend_from_slice(&bytes);
                log.append(&bytes, *num, i as u64, Place { segment: 0, offset, len });
            }
            let trim = 1 + trim.index(log.next_index() as usize) as u64;
            log.trim(trim);
            prop_assert_eq!(log.first_index(), trim.min(log.next_index()));
            for index in log.first_index()..log.next_index() {
                let (span, held, n) = log.chunk_of(index).expect("kept");
                let range = span.place.offset as usize..(span.place.offset + span.place.len) as usize;
                let held = held.unwrap_or_else(|| Arc::new(Frames::parse(disk[range].to_vec())));
                prop_assert_eq!(held.get(n).map(|f| f.index), Some(index));
            }
            prop_assert!(log.chunk_of(log.next_index()).is_none());
        }
    }

    #[test]
    fn a_recovered_log_goes_on_after_its_last_record() {
        let place = Place { segment: 0, offset: 0, len: 10 };
        let span = ChunkSpan { first_index: 5, num_records: 3, last_arrival_ms: 90, place };
        let log = ShardLog::recovered(vec![span], 1);
        assert_eq!((log.first_index(), log.next_index(), log.arrival_ms(50)), (5, 8, 90));
        let trimmed = ShardLog::recovered(Vec::new(), 8);
        assert_eq!((trimmed.first_index(), trimmed.next_index()), (8, 8));
    }
}
