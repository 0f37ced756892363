//! What a batch moved, as it was before: the ranges that `repair` reads again when the batch's files
//! are lost.
//!
//! Promises: restored onto the positions that a batch wrote, it gives the positions that the batch
//! began at. Never does: decide whether they may be restored.

use std::collections::{BTreeMap, BTreeSet};

use millrace_proto::v1;

use super::state::{Positions, Totals};
use crate::position::{Position, ShardKey};

/// The positions before a batch, as far as the batch changed them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// By shard: its position before the batch, none for a shard that had no entry. A shard that
    /// the batch did not move is not here, even where its `empty_until` was renewed: what was known
    /// to be empty stays empty.
    pub positions: BTreeMap<ShardKey, Option<Position>>,
    /// Key of the state that belonged to the positions before.
    pub state_ptr: Option<String>,
    /// What the batches before it amount to.
    pub totals: Totals,
}

impl Before {
    /// What leads from `after` back to `before`. Sources that were dropped in between stay dropped.
    #[must_use]
    pub fn of(
        before: &Positions,
        after: &Positions,
        dropped_sources: &BTreeSet<String>,
        state_ptr: Option<String>,
        totals: Totals,
    ) -> Self {
        let moved = |old: Option<&Position>, new: Option<&Position>| {
            let place = |p: &Position| (p.sequence_number, p.ended);
            old.map(place) != new.map(place)
        };
        let shards: BTreeSet<&ShardKey> = before.keys().chain(after.keys()).collect();
        let positions = shards
            .into_iter()
            .filter(|shard| !dropped_sources.contains(&shard.source))
            .filter(|shard| moved(before.get(shard), after.get(shard)))
            .map(|shard| (shard.clone(), before.get(shard).copied()))
            .collect();
        Self { positions, state_ptr, totals }
    }

    /// The positions that the batch which wrote `after` began at.
    #[must_use]
    pub fn restored_from(&self, after: &Positions) -> Positions {
        let mut positions = after.clone();
        for (shard, position) in &self.positions {
            match position {
                Some(position) => positions.insert(shard.clone(), *position),
                None => positions.remove(shard),
            };
        }
        positions
    }
}

/// What is to become of a committed batch whose files are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairChoice {
    /// Its records are read again, if none of its files is visible.
    Reread,
    /// Its missing rows stay missing.
    GiveUp,
    /// Its records are read again whatever is visible; the visible rows then stand twice.
    Duplicate,
}

/// An operator's word about a lost batch, left in the head by the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairRequest {
    /// The batch. The request is void once the head has moved on.
    pub batch: u64,
    /// Id of the commit that wrote the batch.
    pub commit_id: String,
    /// What is to be done.
    pub choice: RepairChoice,
    /// Who asks has seen, with rights of their own and after the application had ended, that no
    /// upload of the batch is open and none of its objects is there.
    pub absence_seen: bool,
}

impl RepairRequest {
    /// The request in a message; none when it names no choice.
    #[must_use]
    pub fn from_proto(message: &v1::RepairRequest) -> Option<Self> {
        let choice = match message.choice() {
            v1::RepairChoice::Unspecified => return None,
            v1::RepairChoice::Reread => RepairChoice::Reread,
            v1::RepairChoice::GiveUp => RepairChoice::GiveUp,
            v1::RepairChoice::Duplicate => RepairChoice::Duplicate,
        };
        Some(Self {
            batch: message.batch,
            commit_id: message.commit_id.clone(),
            choice,
            absence_seen: message.absence_seen,
        })
    }

    /// The request as a message.
    #[must_use]
    pub fn to_proto(&self) -> v1::RepairRequest {
        let choice = match self.choice {
            RepairChoice::Reread => v1::RepairChoice::Reread,
            RepairChoice::GiveUp => v1::RepairChoice::GiveUp,
            RepairChoice::Duplicate => v1::RepairChoice::Duplicate,
        };
        v1::RepairRequest {
            batch: self.batch,
            commit_id: self.commit_id.clone(),
            choice: choice.into(),
            absence_seen: self.absence_seen,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    fn positions() -> impl Strategy<Value = Positions> {
        let key = ("[ab]", 0u8..4).prop_map(|(source, shard)| ShardKey {
            source,
            stream_arn: "arn".into(),
            stream_created_ms: 1,
            shard_id: shard.to_string(),
        });
        let position = (0u64..3, 0i64..3, any::<bool>()).prop_map(|(number, ms, ended)| Position {
            sequence_number: (number > 0).then(|| number.to_string().parse().unwrap()),
            empty_until_ms: ms,
            ended,
        });
        btree_map(key, position, 0..7)
    }

    /// Everything of a position but how long it was known to be empty.
    fn places(positions: &Positions) -> Vec<(&ShardKey, String)> {
        let place = |p: &Position| format!("{:?} {}", p.sequence_number, p.ended);
        positions.iter().map(|(shard, position)| (shard, place(position))).collect()
    }

    proptest! {
        #[test]
        fn what_was_before_comes_back(before in positions(), after in positions()) {
            let none = BTreeSet::new();
            let back = Before::of(&before, &after, &none, None, Totals::default()).restored_from(&after);
            prop_assert_eq!(places(&back), places(&before));
            // Where the batch moved a shard, the whole position is the old one.
            for (shard, position) in &back {
                prop_assert!(before.get(shard) == Some(position) || after.get(shard) == Some(position));
            }
            prop_assert_eq!(Before::of(&after, &after, &none, None, Totals::default()), Before::default());
        }

        #[test]
        fn a_dropped_source_does_not_come_back(before in positions(), after in positions()) {
            let dropped = BTreeSet::from(["a".to_owned()]);
            let mut after = after;
            after.retain(|shard, _| shard.source != "a");
            let back = Before::of(&before, &after, &dropped, None, Totals::default()).restored_from(&after);
            prop_assert!(back.keys().all(|shard| shard.source != "a"));
        }
    }

    #[test]
    fn requests_cross_the_wire() {
        for choice in [RepairChoice::Reread, RepairChoice::GiveUp, RepairChoice::Duplicate] {
            let request =
                RepairRequest { batch: 4, commit_id: "c".into(), choice, absence_seen: true };
            assert_eq!(RepairRequest::from_proto(&request.to_proto()), Some(request));
        }
        assert_eq!(RepairRequest::from_proto(&v1::RepairRequest::default()), None);
    }
}
