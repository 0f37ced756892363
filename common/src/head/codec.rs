//! How a head is packed: columns of equal things, then zstd, so that 500 shards fit in one write.
//!
//! Promises: what `encode_*` made, `decode_*` gives back, equal to the last byte; equal heads give
//! equal bytes; damaged or foreign bytes are refused and never half read. Owned by this folder.
//! Never does: talk to anyone, or know of DynamoDB beyond the size of an item.

use std::collections::{BTreeMap, BTreeSet};

use crate::position::{Position, SEQUENCE_NUMBER_BYTES, SequenceNumber, ShardKey};
use prost::Message;
use sha2::{Digest, Sha256};

use super::before::Before;
use super::state::{Gaps, Head, PendingUpload, Positions, SourceStart, StartFrom, Totals};
use super::text;

mod before;
mod gaps;
mod totals;
mod uploads;

/// Version of the head that this code writes; it reads this and older ones.
pub const HEAD_VERSION: u32 = 1;
/// Largest packed body that stays in the head's own item; an item may have 400 KB in all.
pub const INLINE_LIMIT: usize = 256 * 1024;
/// Size of a chunk of a larger body; the last may be smaller.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// Compression level: the best ratio that still packs 500 shards in about a millisecond.
const ZSTD_LEVEL: i32 = 9;
/// Largest body after unpacking; 100,000 shards need about a tenth of it.
const UNPACKED_LIMIT: usize = 64 * 1024 * 1024;

const HAS_NUMBERED_ID: u8 = 1;
const HAS_SEQUENCE_NUMBER: u8 = 2;
const HAS_EMPTY_UNTIL: u8 = 4;
const HAS_ENDED: u8 = 8;
const ALL_FLAGS: u8 = HAS_NUMBERED_ID | HAS_SEQUENCE_NUMBER | HAS_EMPTY_UNTIL | HAS_ENDED;

/// Why bytes are not a head.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Written by a newer Millrace.
    #[error("it has version {found}, this Millrace reads up to {HEAD_VERSION}")]
    Newer {
        /// Version in the head.
        found: u32,
    },
    /// Not what any Millrace writes.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

fn damaged(what: impl Into<String>) -> CodecError {
    CodecError::Damaged(what.into())
}

/// The part of a head that each commit replaces as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// Progress of every shard.
    pub positions: Positions,
    /// Uploads of the batch.
    pub pending: Vec<PendingUpload>,
    /// Where the batch began; none where it has no uploads.
    pub before: Option<Before>,
    /// Losses that the application went on after, by shard.
    pub gaps: BTreeMap<ShardKey, Gaps>,
    /// What the batches amount to.
    pub totals: Totals,
    /// Key of the state that belongs to the positions.
    pub state_ptr: Option<String>,
}

impl Body {
    /// The body of a head.
    #[must_use]
    pub fn of(head: &Head) -> Self {
        Self {
            positions: head.positions.clone(),
            pending: head.pending.clone(),
            before: head.before.clone(),
            gaps: head.gaps.clone(),
            totals: head.totals,
            state_ptr: head.state_ptr.clone(),
        }
    }
}

/// SHA-256 of a packed body, by which its chunks are told from any others.
#[must_use]
pub fn hash_of(packed: &[u8]) -> [u8; 32] {
    Sha256::digest(packed).into()
}

/// A body that nobody could read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it takes {num_bytes} bytes, and a head holds {UNPACKED_LIMIT} at most")]
pub struct TooLarge {
    /// Size before compression, in bytes.
    pub num_bytes: usize,
}

/// Packs a body.
///
/// # Errors
/// [`TooLarge`] when [`decode_body`] would refuse it: it must never be written then.
pub fn encode_body(body: &Body) -> Result<Vec<u8>, TooLarge> {
    let packed = PackedBody {
        streams: pack_positions(&body.positions),
        uploads: body.pending.iter().map(uploads::pack).collect(),
        state_ptr: body.state_ptr.clone(),
        before: body.before.as_ref().map(|moved| before::pack(moved, &body.positions)),
        gaps: gaps::pack(&body.gaps),
        totals: totals::pack(body.totals),
    };
    let num_bytes = packed.encoded_len();
    if num_bytes > UNPACKED_LIMIT {
        return Err(TooLarge { num_bytes });
    }
    Ok(compress(&packed.encode_to_vec()))
}

/// Unpacks a body.
///
/// # Errors
/// [`CodecError::Damaged`] when the bytes are not a packed body.
pub fn decode_body(bytes: &[u8]) -> Result<Body, CodecError> {
    let packed = PackedBody::decode(decompress(bytes)?.as_slice())
        .map_err(|error| damaged(format!("its body does not parse: {error}")))?;
    let mut positions = Positions::new();
    for stream in packed.streams {
        unpack_positions(stream, &mut positions)?;
    }
    let pending = packed.uploads.into_iter().map(uploads::unpack).collect::<Result<_, _>>()?;
    let before = packed.before.map(|moved| before::unpack(moved, &positions)).transpose()?;
    let gaps = gaps::unpack(packed.gaps)?;
    let totals = totals::unpack(packed.totals);
    Ok(Body { positions, pending, before, gaps, totals, state_ptr: packed.state_ptr })
}

/// Packs the starts of the sources.
#[must_use]
pub fn encode_starts(starts: &BTreeMap<String, SourceStart>) -> Vec<u8> {
    let packed = PackedStarts {
        starts: starts.iter().map(|(source, start)| pack_start(source, start)).collect(),
    };
    compress(&packed.encode_to_vec())
}

/// Unpacks the starts of the sources.
///
/// # Errors
/// [`CodecError::Damaged`] when the bytes are not packed starts.
pub fn decode_starts(bytes: &[u8]) -> Result<BTreeMap<String, SourceStart>, CodecError> {
    let packed = PackedStarts::decode(decompress(bytes)?.as_slice())
        .map_err(|error| damaged(format!("its starts do not parse: {error}")))?;
    let count = packed.starts.len();
    let starts: BTreeMap<_, _> =
        packed.starts.into_iter().map(unpack_start).collect::<Result<_, _>>()?;
    if starts.len() == count { Ok(starts) } else { Err(damaged("a source starts twice")) }
}

fn compress(plain: &[u8]) -> Vec<u8> {
    let pack = || -> std::io::Result<Vec<u8>> {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
        encoder.include_checksum(true)?;
        // Else zstd prepares for a stream of any length, which takes longer than all the rest.
        encoder.set_pledged_src_size(Some(plain.len() as u64))?;
        std::io::Write::write_all(&mut encoder, plain)?;
        encoder.finish()
    };
    pack().expect("zstd at a valid level into memory has nothing that can fail")
}

fn decompress(packed: &[u8]) -> Result<Vec<u8>, CodecError> {
    if packed.is_empty() {
        return Err(damaged("it is empty"));
    }
    let unpack = || -> std::io::Result<Vec<u8>> {
        let decoder = zstd::stream::Decoder::new(packed)?;
        let mut plain = Vec::new();
        let mut limited = std::io::Read::take(decoder, UNPACKED_LIMIT as u64 + 1);
        std::io::Read::read_to_end(&mut limited, &mut plain)?;
        Ok(plain)
    };
    let plain = unpack().map_err(|error| damaged(format!("it does not unpack: {error}")))?;
    if plain.len() > UNPACKED_LIMIT {
        return Err(damaged("it unpacks to more than any head holds"));
    }
    Ok(plain)
}

/// Shards of one stream of one source, in columns.
#[derive(Clone, PartialEq, Message)]
struct PackedStream {
    #[prost(string, tag = "1")]
    source: String,
    #[prost(string, tag = "2")]
    arn: String,
    #[prost(sint64, tag = "3")]
    created_ms: i64,
    #[prost(message, optional, tag = "4")]
    ids: Option<PackedIds>,
    /// One byte of flags per shard.
    #[prost(bytes = "vec", tag = "5")]
    flags: Vec<u8>,
    /// First bytes of all sequence numbers, then all second bytes, and so on: neighbours are alike.
    #[prost(bytes = "vec", tag = "6")]
    sequence_planes: Vec<u8>,
    /// Differences, starting from 0.
    #[prost(sint64, repeated, tag = "7")]
    empty_until: Vec<i64>,
}

/// Ids of shards: `shardId-` with twelve digits as differences, any other as text.
#[derive(Clone, PartialEq, Message)]
struct PackedIds {
    #[prost(uint64, repeated, tag = "1")]
    numbers: Vec<u64>,
    #[prost(string, repeated, tag = "2")]
    names: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct PackedBody {
    #[prost(message, repeated, tag = "1")]
    streams: Vec<PackedStream>,
    #[prost(message, repeated, tag = "2")]
    uploads: Vec<uploads::PackedUpload>,
    #[prost(string, optional, tag = "3")]
    state_ptr: Option<String>,
    #[prost(message, optional, tag = "4")]
    before: Option<before::PackedBefore>,
    #[prost(message, repeated, tag = "5")]
    gaps: Vec<gaps::PackedGaps>,
    #[prost(message, optional, tag = "6")]
    totals: Option<totals::PackedTotals>,
}

#[derive(Clone, PartialEq, Message)]
struct PackedStart {
    #[prost(string, tag = "1")]
    source: String,
    #[prost(string, tag = "2")]
    arn: String,
    #[prost(sint64, tag = "3")]
    created_ms: i64,
    #[prost(sint64, tag = "4")]
    fixed_ms: i64,
    #[prost(oneof = "PackedFrom", tags = "5, 6, 7, 9")]
    from: Option<PackedFrom>,
    /// Shards open at the start; empty but for `latest` and a time.
    #[prost(message, optional, tag = "8")]
    open: Option<PackedIds>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum PackedFrom {
    #[prost(bool, tag = "5")]
    Earliest(bool),
    #[prost(bool, tag = "6")]
    Latest(bool),
    #[prost(sint64, tag = "7")]
    Timestamp(i64),
    #[prost(message, tag = "9")]
    TakenOver(PackedStream),
}

#[derive(Clone, PartialEq, Message)]
struct PackedStarts {
    #[prost(message, repeated, tag = "1")]
    starts: Vec<PackedStart>,
}

/// Writes ids column by column.
#[derive(Default)]
struct IdWriter {
    ids: PackedIds,
    last: u64,
}

impl IdWriter {
    /// True when the id was written as a number.
    fn push(&mut self, id: &str) -> bool {
        match text::shard_number(id) {
            Some(number) => {
                self.ids.numbers.push(number.wrapping_sub(self.last));
                self.last = number;
                true
            }
            None => {
                self.ids.names.push(id.to_owned());
                false
            }
        }
    }
}

/// Reads them back.
struct IdReader {
    numbers: std::vec::IntoIter<u64>,
    names: std::vec::IntoIter<String>,
    last: u64,
}

impl IdReader {
    fn new(ids: PackedIds) -> Self {
        Self { numbers: ids.numbers.into_iter(), names: ids.names.into_iter(), last: 0 }
    }

    fn number(&mut self) -> Result<String, CodecError> {
        let difference = self.numbers.next().ok_or_else(|| damaged("a shard has no number"))?;
        self.last = self.last.wrapping_add(difference);
        text::shard_id(self.last).ok_or_else(|| damaged("a shard's number is too large"))
    }

    fn name(&mut self) -> Result<String, CodecError> {
        self.names.next().ok_or_else(|| damaged("a shard has no name"))
    }

    fn is_empty(&self) -> bool {
        self.numbers.len() == 0 && self.names.len() == 0
    }

    fn all(mut self) -> Result<BTreeSet<String>, CodecError> {
        let mut all = BTreeSet::new();
        while self.numbers.len() > 0 {
            all.insert(self.number()?);
        }
        all.extend(self.names);
        Ok(all)
    }
}

fn pack_positions(positions: &Positions) -> Vec<PackedStream> {
    let mut streams = Vec::new();
    let mut rest = positions.iter().peekable();
    while let Some((first, _)) = rest.peek().copied() {
        let same = |key: &ShardKey| {
            (&key.source, &key.stream_arn, key.stream_created_ms)
                == (&first.source, &first.stream_arn, first.stream_created_ms)
        };
        let mut ids = IdWriter::default();
        let (mut flags, mut numbers, mut empty_until) = (Vec::new(), Vec::new(), Vec::new());
        let mut last_empty = 0;
        while let Some((key, position)) = rest.next_if(|(key, _)| same(key)) {
            let mut flag = if ids.push(&key.shard_id) { HAS_NUMBERED_ID } else { 0 };
            if let Some(number) = position.sequence_number {
                flag |= HAS_SEQUENCE_NUMBER;
                numbers.push(number);
            }
            if position.empty_until_ms != 0 {
                flag |= HAS_EMPTY_UNTIL;
                empty_until.push(position.empty_until_ms.wrapping_sub(last_empty));
                last_empty = position.empty_until_ms;
            }
            if position.ended {
                flag |= HAS_ENDED;
            }
            flags.push(flag);
        }
        let planes = (0..SEQUENCE_NUMBER_BYTES)
            .flat_map(|plane| numbers.iter().map(move |number| number.as_bytes()[plane]))
            .collect();
        streams.push(PackedStream {
            source: first.source.clone(),
            arn: first.stream_arn.clone(),
            created_ms: first.stream_created_ms,
            ids: Some(ids.ids),
            flags,
            sequence_planes: planes,
            empty_until,
        });
    }
    streams
}

fn unpack_positions(stream: PackedStream, into: &mut Positions) -> Result<(), CodecError> {
    let mut ids = IdReader::new(stream.ids.unwrap_or_default());
    let with_number = stream.flags.iter().filter(|flag| *flag & HAS_SEQUENCE_NUMBER != 0).count();
    if stream.sequence_planes.len() != with_number * SEQUENCE_NUMBER_BYTES {
        return Err(damaged("its sequence numbers are incomplete"));
    }
    let mut empty_until = stream.empty_until.into_iter();
    let (mut next_number, mut last_empty) = (0, 0i64);
    for flag in stream.flags {
        if flag & !ALL_FLAGS != 0 {
            return Err(damaged("a shard has unknown flags"));
        }
        let mut position = Position { ended: flag & HAS_ENDED != 0, ..Position::default() };
        if flag & HAS_SEQUENCE_NUMBER != 0 {
            let mut bytes = [0; SEQUENCE_NUMBER_BYTES];
            for (plane, byte) in bytes.iter_mut().enumerate() {
                *byte = stream.sequence_planes[plane * with_number + next_number];
            }
            position.sequence_number = Some(SequenceNumber::from_bytes(bytes));
            next_number += 1;
        }
        if flag & HAS_EMPTY_UNTIL != 0 {
            let difference =
                empty_until.next().ok_or_else(|| damaged("a shard lacks its empty time"))?;
            last_empty = last_empty.wrapping_add(difference);
            position.empty_until_ms = last_empty;
        }
        let key = ShardKey {
            source: stream.source.clone(),
            stream_arn: stream.arn.clone(),
            stream_created_ms: stream.created_ms,
            shard_id: if flag & HAS_NUMBERED_ID != 0 { ids.number()? } else { ids.name()? },
        };
        if into.insert(key, position).is_some() {
            return Err(damaged("a shard stands twice"));
        }
    }
    if ids.is_empty() && empty_until.len() == 0 {
        Ok(())
    } else {
        Err(damaged("it has more columns than shards"))
    }
}

fn pack_start(source: &str, start: &SourceStart) -> PackedStart {
    let (from, open) = match &start.from {
        StartFrom::Earliest => (PackedFrom::Earliest(true), None),
        StartFrom::Latest { open_shards } => (PackedFrom::Latest(true), Some(open_shards)),
        StartFrom::Timestamp { at_ms, open_shards } => {
            (PackedFrom::Timestamp(*at_ms), Some(open_shards))
        }
        StartFrom::TakenOver { positions } => {
            let keyed =
                positions.iter().map(|(shard_id, at)| (key_of(source, start, shard_id), *at));
            let stream = pack_positions(&keyed.collect()).pop().unwrap_or_default();
            (PackedFrom::TakenOver(stream), None)
        }
    };
    let open = open.map(|shards| {
        let mut ids = IdWriter::default();
        for shard in shards {
            ids.push(shard);
        }
        ids.ids
    });
    PackedStart {
        source: source.to_owned(),
        arn: start.stream_arn.clone(),
        created_ms: start.stream_created_ms,
        fixed_ms: start.fixed_ms,
        from: Some(from),
        open,
    }
}

fn key_of(source: &str, start: &SourceStart, shard_id: &str) -> ShardKey {
    ShardKey {
        source: source.to_owned(),
        stream_arn: start.stream_arn.clone(),
        stream_created_ms: start.stream_created_ms,
        shard_id: shard_id.to_owned(),
    }
}

fn unpack_start(packed: PackedStart) -> Result<(String, SourceStart), CodecError> {
    let open_shards = IdReader::new(packed.open.unwrap_or_default()).all()?;
    let from = match packed.from {
        Some(PackedFrom::Earliest(_)) => StartFrom::Earliest,
        Some(PackedFrom::Latest(_)) => StartFrom::Latest { open_shards },
        Some(PackedFrom::Timestamp(at_ms)) => StartFrom::Timestamp { at_ms, open_shards },
        Some(PackedFrom::TakenOver(stream)) => {
            let mut positions = Positions::new();
            unpack_positions(stream, &mut positions)?;
            let by_shard = positions.into_iter().map(|(key, at)| (key.shard_id, at));
            StartFrom::TakenOver { positions: by_shard.collect() }
        }
        None => return Err(damaged("a source has no start")),
    };
    let start = SourceStart {
        stream_arn: packed.arn,
        stream_created_ms: packed.created_ms,
        fixed_ms: packed.fixed_ms,
        from,
    };
    Ok((packed.source, start))
}

#[cfg(test)]
#[path = "../../../fuzz/properties/head.rs"]
mod property;
#[cfg(test)]
mod tests;
