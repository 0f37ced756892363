//! Packing what a batch moved: each old sequence number is kept as what it differs in from the new
//! one, which is its low bytes.

use std::collections::BTreeMap;

use prost::Message;

use super::totals::{self, PackedTotals};
use super::{CodecError, PackedStream, damaged, pack_positions, unpack_positions};
use crate::head::Before;
use crate::head::state::Positions;
use crate::position::{Position, SEQUENCE_NUMBER_BYTES, SequenceNumber, ShardKey};

/// A [`Before`], seen from the positions that it leads back from.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PackedBefore {
    /// Shards that had an entry; their sequence numbers are differences.
    #[prost(message, repeated, tag = "1")]
    moved: Vec<PackedStream>,
    /// Shards that had none; only their names matter.
    #[prost(message, repeated, tag = "2")]
    made: Vec<PackedStream>,
    #[prost(string, optional, tag = "3")]
    state_ptr: Option<String>,
    #[prost(message, optional, tag = "4")]
    totals: Option<PackedTotals>,
}

pub(super) fn pack(before: &Before, after: &Positions) -> PackedBefore {
    let moved = before.positions.iter().filter_map(|(shard, position)| {
        let position = (*position)?;
        Some((shard.clone(), differing(shard, position, after)))
    });
    let made = before.positions.iter().filter(|(_, position)| position.is_none());
    let made = made.map(|(shard, _)| (shard.clone(), Position::default()));
    PackedBefore {
        moved: pack_positions(&moved.collect()),
        made: pack_positions(&made.collect()),
        state_ptr: before.state_ptr.clone(),
        totals: totals::pack(before.totals),
    }
}

pub(super) fn unpack(packed: PackedBefore, after: &Positions) -> Result<Before, CodecError> {
    let (mut moved, mut made) = (Positions::new(), Positions::new());
    packed.moved.into_iter().try_for_each(|stream| unpack_positions(stream, &mut moved))?;
    packed.made.into_iter().try_for_each(|stream| unpack_positions(stream, &mut made))?;
    let mut positions: BTreeMap<ShardKey, Option<Position>> = moved
        .into_iter()
        .map(|(shard, position)| {
            let position = differing(&shard, position, after);
            (shard, Some(position))
        })
        .collect();
    for shard in made.into_keys() {
        if positions.insert(shard, None).is_some() {
            return Err(damaged("a shard was both moved and made"));
        }
    }
    let totals = totals::unpack(packed.totals);
    Ok(Before { positions, state_ptr: packed.state_ptr, totals })
}

/// The position with its sequence number replaced by what it differs in from the one after; doing
/// that twice gives the position again.
fn differing(shard: &ShardKey, position: Position, after: &Positions) -> Position {
    let none = [0; SEQUENCE_NUMBER_BYTES];
    let other = after.get(shard).and_then(|after| after.sequence_number);
    let other = other.map_or(none, |number| *number.as_bytes());
    let differs = position.sequence_number.map(|number| {
        let mut bytes = *number.as_bytes();
        bytes.iter_mut().zip(other).for_each(|(byte, other)| *byte ^= other);
        SequenceNumber::from_bytes(bytes)
    });
    Position { sequence_number: differs, ..position }
}
