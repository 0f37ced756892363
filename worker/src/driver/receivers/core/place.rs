//! Giving shards their readers: the difference between the assignment that should be and the one
//! that is, as commands.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::id::ContainerId;
use millrace_common::position::{Position, ShardKey};
use millrace_proto::v1;
use millrace_proto::v1::executor_command::Body;

use super::{Core, Effect};
use crate::driver::receivers::assignment::{Assignment, Demand, Seat, assign, weight};

impl Core {
    /// Opens what became readable and assigns every shard that has no good reader.
    pub(super) fn place(&mut self, now: Duration) -> Vec<Effect> {
        self.balanced_at = now;
        self.open_readable(now);
        let wanted = self.wanted(now);
        let mut revoked = BTreeMap::<ContainerId, Vec<v1::ShardKey>>::new();
        let mut assigned = BTreeMap::<ContainerId, Vec<v1::ShardAssignment>>::new();
        for (shard, seat) in &self.assignment {
            let moves = wanted.get(shard).is_none_or(|to| to.container != seat.container);
            if moves && self.executors.contains_key(&seat.container) {
                revoked.entry(seat.container.clone()).or_default().push(shard.to_proto());
            }
        }
        for (shard, seat) in &wanted {
            let stays = self.assignment.get(shard) == Some(seat)
                && self.ledger.reader(shard) == Some(&seat.container);
            if stays {
                continue;
            }
            if let Some(assignment) = self.assign(shard, seat, now) {
                assigned.entry(seat.container.clone()).or_default().push(assignment);
            }
        }
        for shard in self.assignment.keys().filter(|shard| !wanted.contains_key(*shard)) {
            self.ledger.unassign(shard, now);
        }
        self.assignment = wanted;
        let revoke = |(to, shards)| Effect::Send(to, Body::Revoke(v1::RevokeShards { shards }));
        let assign =
            |(to, assignments)| Effect::Send(to, Body::Assign(v1::AssignShards { assignments }));
        revoked.into_iter().map(revoke).chain(assigned.into_iter().map(assign)).collect()
    }

    /// The assignments of an executor as they are, to be sent again after its session broke.
    pub fn resend(&mut self, executor: &ContainerId) -> Vec<Effect> {
        let seats = self.assignment.iter().filter(|(_, seat)| seat.container == *executor);
        let assignments: Vec<_> = seats
            .filter_map(|(shard, seat)| {
                let (generation, position) = self.ledger.reading(shard)?;
                // It may have been told before, and has kept its pace since.
                self.describe(shard, seat, (generation, position), Duration::ZERO)
            })
            .collect();
        if assignments.is_empty() {
            return Vec::new();
        }
        vec![Effect::Send(executor.clone(), Body::Assign(v1::AssignShards { assignments }))]
    }

    fn open_readable(&mut self, now: Duration) {
        for (name, source) in &self.sources {
            for (shard_id, _) in source.lineage.readable() {
                let shard = source.setup.stream.shard(name, shard_id);
                if !self.ledger.contains(&shard) {
                    self.ledger.open(shard, Position::default(), now);
                }
            }
        }
    }

    /// The assignment that should be.
    fn wanted(&self, now: Duration) -> Assignment {
        let mut load = self.staying();
        let mut wanted = Assignment::new();
        for (name, source) in &self.sources {
            let stream = &source.setup.stream;
            let shards = source.lineage.readable().map(|(id, _)| stream.shard(name, id));
            let demands: Vec<Demand> = shards
                .filter(|shard| !self.ledger.is_ended(shard))
                .filter(|shard| self.until_ms.is_none() || !self.ledger.is_range_read(shard))
                .map(|shard| Demand {
                    bytes_per_second: self.rates.bytes_per_second(&shard, now),
                    avoid: self.avoid.get(&shard).cloned(),
                    shard,
                })
                .collect();
            let current = self.assignment.iter().filter(|(shard, _)| shard.source == *name);
            let current = current.map(|(shard, seat)| (shard.clone(), seat.clone())).collect();
            let seats = assign(name, source.setup.layout, &load, &demands, &current);
            for demand in &demands {
                let seat = seats.get(&demand.shard);
                if let Some(load) = seat.and_then(|seat| load.get_mut(&seat.container)) {
                    *load += weight(demand.bytes_per_second);
                }
            }
            wanted.extend(seats);
        }
        wanted
    }

    fn assign(
        &mut self,
        shard: &ShardKey,
        seat: &Seat,
        now: Duration,
    ) -> Option<v1::ShardAssignment> {
        let reading = self.ledger.assign(shard, seat.container.clone(), now)?;
        let rest = self.ledger.rest(shard, &seat.container, now);
        self.describe(shard, seat, reading, rest)
    }

    fn describe(
        &self,
        shard: &ShardKey,
        seat: &Seat,
        (generation, position): (u64, Position),
        rest: Duration,
    ) -> Option<v1::ShardAssignment> {
        let source = self.sources.get(&shard.source)?;
        let range = source.lineage.range(&shard.shard_id)?;
        Some(v1::ShardAssignment {
            receiver_id: seat.receiver.as_str().to_owned(),
            shard: Some(shard.to_proto()),
            stream_name: source.setup.stream.name.clone(),
            generation,
            from: Some(self.read_from(shard, position)),
            starting_hash_key: range.starting.to_string(),
            ending_hash_key: range.ending.to_string(),
            keyed: source.setup.stream.keyed,
            retention_ms: millis(source.setup.retention),
            skips_gap: self.ledger.skips_gap(shard),
            rest_ms: millis(rest),
            num_readers: self.num_readers(&source.setup.stream.arn),
            until_ms: self.until_ms.unwrap_or_default(),
        })
    }

    /// How many sources read a stream. A replay leaves the part of one more to the application that
    /// goes on meanwhile.
    fn num_readers(&self, arn: &str) -> u32 {
        let same = self.sources.values().filter(|source| source.setup.stream.arn == arn);
        let num = same.count() + usize::from(self.until_ms.is_some());
        u32::try_from(num).unwrap_or(u32::MAX)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
