//! One stream: its description, its shards with their records, files and limits.
//!
//! Promise: a record is answered for only after its bytes are with the operating system; a change
//! of the description is on disk before it is answered. The service holds each stream under a lock,
//! so a put, a read and a reshard of one stream never interleave.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{ErrorKind, KinesisError, KinesisResult};
use super::frame::{Frame, write_frame};
use super::journal::Journal;
use super::sequence::{ENDING_INDEX, SequenceNumber, ShardStamp};
use super::shard_log::{Frames, ShardLog};
use super::topology::{HashKey, ShardEntry, Topology, shard_id};
use crate::files::write_atomic;
use crate::limits::{FULL_ANSWER_BYTES, ShardLimits};
use serde::{Deserialize, Serialize};

const META_FILE: &str = "stream.json";
const HOUR_MS: u64 = 3_600_000;

/// Where a stream is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Status {
    Creating { until_ms: u64 },
    Active,
    Updating { until_ms: u64 },
    Deleting { until_ms: u64 },
}

/// What is kept of a stream beside its records.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StreamMeta {
    pub(crate) name: String,
    pub(crate) created_ms: u64,
    pub(crate) status: Status,
    pub(crate) retention_hours: u64,
    pub(crate) on_demand: bool,
    pub(crate) max_record_kib: u64,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) topology: Topology,
    /// The least index per shard that was not trimmed by request.
    pub(crate) trimmed: BTreeMap<u32, u64>,
}

impl StreamMeta {
    /// The oldest arrival time that retention keeps.
    pub(crate) fn horizon_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.retention_hours * HOUR_MS)
    }
}

#[derive(Debug)]
struct Shard {
    stamp: ShardStamp,
    log: ShardLog,
    journal: Journal,
    limits: ShardLimits,
    /// Frames of the call in hand, not yet on disk.
    pending: Vec<u8>,
    num_pending: u64,
}

/// A record on its way in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewRecord<'a> {
    pub(crate) key: &'a str,
    pub(crate) hash_key: HashKey,
    pub(crate) data: &'a [u8],
}

/// What became of a record of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PutOutcome {
    Stored { shard: u32, sequence: SequenceNumber },
    Throttled { shard: u32 },
    Failed,
}

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadOutcome {
    /// The index to go on from.
    pub(crate) next_index: u64,
    /// Keys and data handed out.
    pub(crate) bytes: u64,
    /// The next record did not fit any more.
    pub(crate) is_full: bool,
    /// How long the oldest unread record has been waiting; 0 at the tip.
    pub(crate) behind_ms: u64,
    /// The shard is closed and has been read to its end.
    pub(crate) at_end: bool,
}

/// A stream with its shards.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) meta: StreamMeta,
    dir: PathBuf,
    shards: BTreeMap<u32, Shard>,
}

impl Stream {
    /// Makes a stream under `root`.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub(crate) fn create(root: &Path, meta: StreamMeta) -> io::Result<Self> {
        let dir = root.join(format!("{}@{}", meta.name, meta.created_ms));
        fs::create_dir_all(&dir)?;
        let mut stream = Self { meta, dir, shards: BTreeMap::new() };
        stream.save()?;
        stream.open_new_shards();
        Ok(stream)
    }

    /// Reads back what a former process left in `dir`; nothing if it was not a whole stream.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn recover(dir: PathBuf, now_ms: u64) -> io::Result<Option<Self>> {
        let meta: StreamMeta = match fs::read(dir.join(META_FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::remove_dir_all(&dir)?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut shards = BTreeMap::new();
        for entry in meta.topology.shards() {
            let (journal, spans) = Journal::recover(dir.join(entry.id()))?;
            let first_kept = meta.trimmed.get(&entry.index).copied().unwrap_or(1);
            let log = ShardLog::recovered(spans, first_kept);
            shards.insert(entry.index, Shard::new(entry, log, journal, now_ms));
        }
        Ok(Some(Self { meta, dir, shards }))
    }

    /// Removes the stream's files; the stream is gone once its description is.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub(crate) fn delete_files(&self) -> io::Result<()> {
        fs::remove_file(self.dir.join(META_FILE))?;
        fs::remove_dir_all(&self.dir)
    }

    /// Brings the stream up to `now_ms`: ends a change whose time has come, and lets go of what has
    /// passed the retention.
    pub(crate) fn settle(&mut self, now_ms: u64) {
        if let Status::Creating { until_ms } | Status::Updating { until_ms } = self.meta.status
            && now_ms >= until_ms
        {
            self.meta.status = Status::Active;
        }
        for index in self.meta.topology.drop_expired(self.meta.horizon_ms(now_ms)) {
            self.shards.remove(&index);
            let dir = self.dir.join(shard_id(index));
            if let Err(error) = fs::remove_dir_all(&dir)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(dir = %dir.display(), %error, "cannot remove an expired shard");
            }
        }
    }

    /// True when the stream was deleted and is gone by `now_ms`.
    pub(crate) fn is_deleted(&self, now_ms: u64) -> bool {
        matches!(self.meta.status, Status::Deleting { until_ms } if now_ms >= until_ms)
    }

    /// Changes the shards by `change` and saves the result; refused unless the stream is active.
    pub(crate) fn reshard(
        &mut self,
        now_ms: u64,
        delay_ms: u64,
        change: impl FnOnce(&mut Topology) -> KinesisResult<()>,
    ) -> KinesisResult<()> {
        self.require_active()?;
        let before = self.meta.clone();
        change(&mut self.meta.topology)?;
        if delay_ms > 0 {
            self.meta.status = Status::Updating { until_ms: now_ms + delay_ms };
        }
        self.save_or_restore(before)?;
        self.open_new_shards();
        Ok(())
    }

    /// Changes the description by `change` and saves it.
    pub(crate) fn update(
        &mut self,
        change: impl FnOnce(&mut StreamMeta) -> KinesisResult<()>,
    ) -> KinesisResult<()> {
        let before = self.meta.clone();
        change(&mut self.meta)?;
        self.save_or_restore(before)
    }

    /// Refuses with ResourceInUse unless the stream is active.
    pub(crate) fn require_active(&self) -> KinesisResult<()> {
        if self.meta.status == Status::Active {
            return Ok(());
        }
        Err(KinesisError::new(
            ErrorKind::ResourceInUse,
            format!("Stream {} is not ACTIVE; wait until it is and call again.", self.meta.name),
        ))
    }

    /// Stores records, each in the shard of its hash key, and says what became of each.
    pub(crate) fn put(
        &mut self,
        records: &[NewRecord<'_>],
        now_ms: u64,
        limited: bool,
    ) -> Vec<PutOutcome> {
        let mut outcomes: Vec<_> =
            records.iter().map(|record| self.stage(record, now_ms, limited)).collect();
        for (index, shard) in self.shards.iter_mut().filter(|(_, s)| s.num_pending > 0) {
            if let Err(error) = shard.store_pending(now_ms) {
                tracing::error!(
                    stream = self.meta.name,
                    shard = shard_id(*index),
                    %error,
                    "cannot write records to disk; free some space under --data-dir"
                );
                for outcome in &mut outcomes {
                    if matches!(outcome, PutOutcome::Stored { shard, .. } if shard == index) {
                        *outcome = PutOutcome::Failed;
                    }
                }
            }
        }
        outcomes
    }

    fn stage(&mut self, record: &NewRecord<'_>, now_ms: u64, limited: bool) -> PutOutcome {
        let index = self.meta.topology.route(record.hash_key);
        let shard = self.shards.get_mut(&index).expect("every listed shard is open here");
        let bytes = (record.key.len() + record.data.len()) as u64;
        if limited && !shard.limits.admit_record(bytes, now_ms) {
            return PutOutcome::Throttled { shard: index };
        }
        PutOutcome::Stored { shard: index, sequence: shard.stage(record, now_ms) }
    }

    /// The oldest and the next index of a shard, after letting go of what passed the retention.
    pub(crate) fn bounds(&mut self, shard: u32, now_ms: u64) -> KinesisResult<(u64, u64)> {
        let since_ms = self.meta.horizon_ms(now_ms);
        let first = self.index_since(shard, since_ms)?;
        let shard = self.shard_mut(shard)?;
        let keep = shard.log.trim(first);
        if let Err(error) = shard.journal.remove_below(keep) {
            tracing::warn!(%error, "cannot remove an expired segment");
        }
        Ok((shard.log.first_index(), shard.log.next_index()))
    }

    /// The index of the first record that arrived at or after `time_ms`.
    pub(crate) fn index_since(&self, shard: u32, time_ms: u64) -> KinesisResult<u64> {
        let shard = self.shard(shard)?;
        let Some(span) = shard.log.first_chunk_since(time_ms) else {
            return Ok(shard.log.next_index());
        };
        let mut index = span.first_index.max(shard.log.first_index());
        // Most often the whole chunk is younger, and its first record says so.
        while let Some((frames, n)) = shard.frames_of(index)? {
            match frames.get(n) {
                Some(frame) if frame.arrival_ms < time_ms => {
                    let older = |i: &usize| frames.get(*i).is_some_and(|f| f.arrival_ms < time_ms);
                    index += (n..frames.num_records()).take_while(older).count() as u64;
                }
                _ => break,
            }
        }
        Ok(index)
    }

    /// Hands records from `from` on to `each`: at most `limit` of them and 10 MiB together.
    pub(crate) fn read(
        &mut self,
        shard: u32,
        from: u64,
        limit: u64,
        now_ms: u64,
        mut each: impl FnMut(ShardStamp, &Frame<'_>),
    ) -> KinesisResult<ReadOutcome> {
        let (first, end) = self.bounds(shard, now_ms)?;
        let closed = self.meta.topology.get(shard).is_some_and(|s| !s.is_open());
        let live = self.shard(shard)?;
        let (mut next, mut bytes) = (from.max(first), 0);
        let (mut unread, mut is_full) = (None, false);
        let stop = next.saturating_add(limit).min(end);
        while next < end && unread.is_none() {
            let Some((frames, start)) = live.frames_of(next)? else { break };
            let before = next;
            for frame in (start..frames.num_records()).map_while(|n| frames.get(n)) {
                is_full = bytes > 0 && bytes + frame.counted_bytes() > FULL_ANSWER_BYTES;
                if is_full || next >= stop {
                    unread = Some(frame.arrival_ms);
                    break;
                }
                bytes += frame.counted_bytes();
                each(live.stamp, &frame);
                next += 1;
            }
            if next == before {
                break;
            }
        }
        let behind_ms = unread.map_or(0, |arrival_ms| now_ms.saturating_sub(arrival_ms).max(1));
        Ok(ReadOutcome {
            next_index: next,
            bytes,
            is_full,
            behind_ms,
            at_end: closed && next >= end,
        })
    }

    /// The limits of a shard.
    pub(crate) fn limits(&mut self, shard: u32) -> KinesisResult<&mut ShardLimits> {
        self.shard_mut(shard).map(|s| &mut s.limits)
    }

    /// The sequence numbers at which a shard starts and, if it is closed, ends.
    pub(crate) fn sequence_range(
        &self,
        entry: &ShardEntry,
    ) -> (SequenceNumber, Option<SequenceNumber>) {
        let stamp = stamp_of(entry);
        let start = SequenceNumber::new(stamp, 0, stamp.created_s);
        let end = entry.closed_ms.map(|ms| SequenceNumber::new(stamp, ENDING_INDEX, ms / 1000));
        (start, end)
    }

    /// Forgets the records of a shard below `index`, and remembers that.
    pub(crate) fn trim(&mut self, shard: u32, index: u64) -> KinesisResult<()> {
        let end = self.shard(shard)?.log.next_index();
        self.update(|meta| {
            let least = meta.trimmed.entry(shard).or_insert(1);
            *least = (*least).max(index.min(end));
            Ok(())
        })?;
        self.shard_mut(shard)?.log.trim(index);
        Ok(())
    }

    fn shard(&self, index: u32) -> KinesisResult<&Shard> {
        self.shards.get(&index).ok_or_else(|| self.no_such_shard(index))
    }

    fn shard_mut(&mut self, index: u32) -> KinesisResult<&mut Shard> {
        if !self.shards.contains_key(&index) {
            return Err(self.no_such_shard(index));
        }
        Ok(self.shards.get_mut(&index).expect("looked up above"))
    }

    fn no_such_shard(&self, index: u32) -> KinesisError {
        KinesisError::new(
            ErrorKind::ResourceNotFound,
            format!("Could not find shard {} in stream {}.", shard_id(index), self.meta.name),
        )
    }

    fn open_new_shards(&mut self) {
        for entry in self.meta.topology.shards() {
            self.shards.entry(entry.index).or_insert_with(|| {
                let journal = Journal::new(self.dir.join(entry.id()));
                Shard::new(entry, ShardLog::empty(), journal, entry.created_ms)
            });
        }
    }

    fn save(&self) -> io::Result<()> {
        write_atomic(&self.dir.join(META_FILE), &serde_json::to_vec(&self.meta)?)
    }

    fn save_or_restore(&mut self, before: StreamMeta) -> KinesisResult<()> {
        self.save().map_err(|error| {
            self.meta = before;
            KinesisError::internal("Cannot save the stream's description", &error)
        })
    }
}

fn stamp_of(entry: &ShardEntry) -> ShardStamp {
    ShardStamp { shard: entry.index, created_s: entry.created_ms / 1000 }
}

impl Shard {
    fn new(entry: &ShardEntry, log: ShardLog, journal: Journal, now_ms: u64) -> Self {
        let limits = ShardLimits::new(now_ms);
        Self { stamp: stamp_of(entry), log, journal, limits, pending: Vec::new(), num_pending: 0 }
    }

    fn stage(&mut self, record: &NewRecord<'_>, now_ms: u64) -> SequenceNumber {
        let index = self.log.next_index() + self.num_pending;
        let arrival_ms = self.log.arrival_ms(now_ms);
        let frame = Frame { index, arrival_ms, key: record.key, data: record.data };
        write_frame(&mut self.pending, &frame);
        self.num_pending += 1;
        SequenceNumber::new(self.stamp, index, arrival_ms / 1000)
    }

    fn store_pending(&mut self, now_ms: u64) -> io::Result<()> {
        let stored = self.journal.append(&self.pending);
        if let Ok(place) = stored {
            let arrival_ms = self.log.arrival_ms(now_ms);
            self.log.append(&self.pending, self.num_pending, arrival_ms, place);
        }
        self.pending.clear();
        self.num_pending = 0;
        stored.map(|_| ())
    }

    /// The chunk that holds `index`, from memory or from disk, and the record's number in it.
    fn frames_of(&self, index: u64) -> KinesisResult<Option<(std::sync::Arc<Frames>, usize)>> {
        let Some((span, held, n)) = self.log.chunk_of(index) else {
            return Ok(None);
        };
        if let Some(frames) = held {
            return Ok(Some((frames, n)));
        }
        let frames = self
            .journal
            .read(span.place)
            .map_err(|error| KinesisError::internal("Cannot read records from disk", &error))?;
        Ok(Some((frames.into(), n)))
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
