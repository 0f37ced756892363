//! What executors report of their shards: blocks, empty reads, trouble.

use std::time::Duration;

use millrace_common::error::{Code, Error};
use millrace_common::id::{BlockId, ContainerId, ReceiverId};
use millrace_common::position::{ShardKey, optional_sequence_number};
use millrace_proto::v1;
use millrace_proto::v1::executor_command::Body;
use millrace_proto::v1::shard_trouble::Kind;

use super::{Core, Effect};
use crate::driver::ledger::{Block, EmptyRead, Verdict};

/// What became of an announced block.
enum Taken {
    Accepted(BlockId),
    Known,
    Refused(v1::RefusedBlock),
}

impl Core {
    /// An announcement: judged block by block and always acknowledged. A malformed part is a
    /// defect of the sender: it is logged and refused, never guessed at.
    pub fn announced(
        &mut self,
        from: &ContainerId,
        announcement: v1::BlockAnnouncement,
        now: Duration,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        if !self.executors.contains_key(from) {
            return effects;
        }
        let (mut refused, mut accepted) = (Vec::new(), Vec::new());
        let mut ended = false;
        for descriptor in announcement.blocks {
            let ends = descriptor.ends_shard;
            match self.take_block(from, descriptor, now) {
                Ok(Taken::Accepted(id)) => {
                    ended |= ends;
                    accepted.push(id);
                }
                Ok(Taken::Known) => ended |= ends,
                Ok(Taken::Refused(refusal)) => refused.push(refusal),
                Err(error) => {
                    tracing::error!(executor = %from, %error, "a block was not understood")
                }
            }
        }
        let mut range_ends = false;
        for read in announcement.empty_reads {
            match self.take_empty_read(from, &read, now) {
                Ok(ends) => range_ends |= ends,
                Err(error) => {
                    tracing::error!(executor = %from, %error, "an empty read was not understood");
                }
            }
        }
        range_ends |= self.end_empty_ranges();
        for lag in announcement.lags {
            if let Ok(shard) = ShardKey::from_proto(lag.shard)
                && self.ledger.contains(&shard)
            {
                self.lags.insert(shard, lag.millis_behind_latest);
            }
        }
        if let Some(cut) = &mut self.cut
            && cut.id == announcement.cut_id
        {
            let receiver = ReceiverId::new(announcement.receiver_id.clone());
            cut.waiting.remove(&(from.clone(), receiver));
        }
        effects.push(Effect::Send(
            from.clone(),
            Body::Acknowledged(v1::AnnouncementAcknowledged {
                receiver_id: announcement.receiver_id,
                sequence: announcement.sequence,
                refused,
            }),
        ));
        effects.extend(self.copy(from, accepted));
        if ended {
            effects.extend(self.stale_listings());
        }
        if ended || range_ends {
            effects.extend(self.place(now));
        }
        effects
    }

    /// Takes in a block.
    fn take_block(
        &mut self,
        from: &ContainerId,
        descriptor: v1::BlockDescriptor,
        now: Duration,
    ) -> Result<Taken, Error> {
        let block = Block::from_proto(descriptor)?;
        let (id, shard, bytes) = (block.id.clone(), block.shard.clone(), block.num_bytes);
        let children =
            if block.ends_shard { block.descriptor.children.clone() } else { Vec::new() };
        let ends_shard = block.ends_shard;
        match self.ledger.accept(from, block, now) {
            Verdict::Accepted => {
                self.rates.observe(&shard, bytes, now);
                self.avoid.remove(&shard);
                self.troubles.remove(&shard);
                self.missing.remove(&shard);
                if ends_shard {
                    self.end_accepted(&shard, children);
                }
                Ok(Taken::Accepted(id))
            }
            Verdict::Known => Ok(Taken::Known),
            Verdict::Refused { generation, tail } => {
                tracing::info!(%shard, block = %id, executor = %from, generation, ?tail, "a block does not chain: refused");
                let mut position = self.ledger.reading(&shard).map(|(_, p)| p).unwrap_or_default();
                position.sequence_number = tail;
                Ok(Taken::Refused(v1::RefusedBlock {
                    block_id: id.as_str().to_owned(),
                    shard: Some(shard.to_proto()),
                    generation,
                    tail: Some(self.read_from(&shard, position)),
                }))
            }
        }
    }

    fn end_accepted(&mut self, shard: &ShardKey, children: Vec<v1::ChildShard>) {
        self.lags.remove(shard);
        if let Some(source) = self.sources.get_mut(&shard.source) {
            source.listing_is_stale = true;
            for child in children {
                source.lineage.announce_child(child.shard_id, child.parents);
            }
        }
    }

    /// Takes in an answer without records; true when it says that the shard's part of a range is
    /// read.
    fn take_empty_read(
        &mut self,
        from: &ContainerId,
        read: &v1::EmptyRead,
        now: Duration,
    ) -> Result<bool, Error> {
        let shard = ShardKey::from_proto(read.shard.clone())?;
        let useful = self.ledger.empty_read(
            from,
            &shard,
            EmptyRead {
                generation: read.generation,
                after: optional_sequence_number(&read.after_seq)?,
                server_ms: read.server_ms,
                millis_behind_latest: read.millis_behind_latest,
                nothing_before_ms: read.nothing_before_ms,
            },
            now,
        );
        if useful {
            self.avoid.remove(&shard);
            self.troubles.remove(&shard);
            self.missing.remove(&shard);
        }
        let ends_range = useful && read.nothing_before_ms > 0;
        if ends_range {
            self.lags.remove(&shard);
        } else if useful {
            self.lags.insert(shard, read.millis_behind_latest);
        }
        Ok(ends_range)
    }

    /// A shard can not be read as assigned.
    pub fn troubled(
        &mut self,
        from: &ContainerId,
        trouble: v1::ShardTrouble,
        now: Duration,
    ) -> Vec<Effect> {
        let kind = trouble.kind();
        let shard = match ShardKey::from_proto(trouble.shard) {
            Ok(shard) => shard,
            Err(error) => {
                tracing::error!(executor = %from, %error, "a trouble was not understood");
                return Vec::new();
            }
        };
        let current = self.ledger.reader(&shard) == Some(from)
            && self.ledger.reading(&shard).is_some_and(|(g, _)| g == trouble.generation);
        if !current {
            return Vec::new();
        }
        let cause = trouble.failure.map(Error::from_failure);
        match kind {
            Kind::DataLost => {
                let range = (trouble.lost_after_seq, trouble.lost_before_seq);
                self.data_lost(&shard, &range, cause, now)
            }
            // What it has read comes first: a loss begins behind it.
            Kind::StreamGone if trouble.lost_after_seq != self.tail_text(&shard) => Vec::new(),
            Kind::StreamGone => self.not_found(&shard, true),
            Kind::Forbidden | Kind::Delayed | Kind::Unspecified => {
                let error = cause.unwrap_or_else(|| {
                    let text = format!("{shard} can not be read for now");
                    Error::new(Code::AwsOther, text, "wait: it is tried again")
                });
                tracing::warn!(%shard, executor = %from, %error, "a shard can not be read for now");
                self.troubles.insert(shard, error.to_failure());
                Vec::new()
            }
        }
    }

    /// The last accepted record of a shard, as a trouble names it.
    fn tail_text(&self, shard: &ShardKey) -> String {
        let tail = self.ledger.reading(shard).and_then(|(_, position)| position.sequence_number);
        tail.map(|number| number.to_string()).unwrap_or_default()
    }

    fn data_lost(
        &mut self,
        shard: &ShardKey,
        (after, before): &(String, String),
        cause: Option<Error>,
        now: Duration,
    ) -> Vec<Effect> {
        let show = |number: &str, otherwise: &str| {
            if number.is_empty() { otherwise.to_owned() } else { number.to_owned() }
        };
        let mut error = Error::new(
            Code::DataLost,
            format!(
                "records of {shard} after {} and before {} can not be read any more",
                show(after, "its start"),
                show(before, "what Kinesis still holds")
            ),
            "reset the application to a new start, or set on_data_loss = \"continue\" to go on",
        );
        if let Some(cause) = cause {
            error = error.caused_by(cause);
        }
        if !self.survives_loss(shard) {
            return vec![Effect::Fail(error)];
        }
        // What was read before it comes first, so that no more is passed over than is gone.
        if *after != self.tail_text(shard) {
            return Vec::new();
        }
        self.ledger.skip_gap(shard, now);
        let mut effects = vec![self.gap(shard, error)];
        effects.extend(self.place(now));
        effects
    }

    /// Listings that are wanted because a shard ended since the last one.
    fn stale_listings(&self) -> Vec<Effect> {
        self.sources
            .iter()
            .filter(|(_, source)| source.listing_is_stale)
            .map(|(name, _)| Effect::Discover(name.clone()))
            .collect()
    }
}
