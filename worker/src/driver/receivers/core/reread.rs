//! Lost blocks of planned batches: read again from Kinesis by another executor, checked there.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::error::{Code, Error};
use millrace_common::id::{BlockId, ContainerId};
use millrace_common::position::ShardKey;
use millrace_common::retry::Backoff;
use millrace_proto::v1;
use millrace_proto::v1::executor_command::Body;

use super::{Core, Effect};
use crate::driver::ledger::Block;

/// How long an executor may take to read one block again before another is asked: a block is some
/// MiB, a shard gives two a second and five calls a second.
const REREAD_LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub(super) struct Reread {
    block: Block,
    /// Who was asked, and when.
    asked: Option<(ContainerId, Duration)>,
    failures: u32,
    not_before: Duration,
    /// What the executor said, when Kinesis does not hold it any more.
    lost: Option<v1::Failure>,
}

impl Reread {
    pub(super) fn of(block: Block) -> Self {
        Self { block, asked: None, failures: 0, not_before: Duration::ZERO, lost: None }
    }
}

impl Core {
    /// A run found that a block is not where it should be.
    pub fn block_missing(&mut self, id: &BlockId, now: Duration) -> Vec<Effect> {
        let Some((loser, reread)) = self.ledger.lose_block(id) else { return Vec::new() };
        if let Some(block) = reread {
            self.rereads.entry(id.clone()).or_insert_with(|| Reread::of(block));
        }
        // What it may still have of it can not be read: it is not to be taken for the block.
        let dropped = loser.map(|loser| (loser, vec![id.clone()])).into_iter().collect();
        let mut effects = self.drop_blocks(dropped, now);
        effects.extend(self.reread(now));
        effects
    }

    /// Nobody waits for this executor's answers any more.
    pub(super) fn reread_lost_on(&mut self, executor: &ContainerId) {
        for reread in self.rereads.values_mut() {
            reread.asked.take_if(|(asked, _)| asked == executor);
        }
    }

    /// Asks executors for every lost block that nobody reads now. All blocks of a shard are read by
    /// one executor, its reader where it has one, so that the shard's calls keep one pace.
    pub(super) fn reread(&mut self, now: Duration) -> Vec<Effect> {
        let mut load = self.ledger.planned_bytes();
        let staying = self.staying();
        load.retain(|executor, _| staying.contains_key(executor));
        for executor in staying.into_keys() {
            load.entry(executor).or_default();
        }
        let mut of_shard: BTreeMap<ShardKey, ContainerId> = BTreeMap::new();
        for reread in self.rereads.values_mut() {
            reread.asked.take_if(|(_, since)| now.saturating_sub(*since) >= REREAD_LIMIT);
            if let Some((executor, _)) = &reread.asked {
                of_shard.insert(reread.block.shard.clone(), executor.clone());
            }
        }
        let mut asked = Vec::new();
        for reread in self.rereads.values_mut() {
            if reread.asked.is_some() || reread.lost.is_some() || now < reread.not_before {
                continue;
            }
            let shard = &reread.block.shard;
            let of_shard_now = of_shard.get(shard).or_else(|| self.ledger.reader(shard));
            // Where it failed it is tried elsewhere.
            let near = of_shard_now.filter(|e| reread.failures == 0 && load.contains_key(*e));
            let emptiest = || load.iter().min_by_key(|(_, bytes)| **bytes).map(|(e, _)| e);
            let Some(executor) = near.or_else(emptiest).cloned() else { break };
            *load.entry(executor.clone()).or_default() += reread.block.num_bytes;
            of_shard.insert(shard.clone(), executor.clone());
            reread.asked = Some((executor.clone(), now));
            asked.push((executor, reread.block.clone()));
        }
        asked.into_iter().filter_map(|(executor, block)| self.ask(executor, &block)).collect()
    }

    fn ask(&mut self, executor: ContainerId, block: &Block) -> Option<Effect> {
        self.forget_release(&executor, &block.id);
        let source = self.sources.get(&block.shard.source)?;
        let range = source.lineage.range(&block.shard.shard_id);
        let command = v1::RereadBlock {
            block: Some(block.descriptor.clone()),
            stream_name: source.setup.stream.name.clone(),
            starting_hash_key: range.map_or_else(String::new, |r| r.starting.to_string()),
            ending_hash_key: range.map_or_else(String::new, |r| r.ending.to_string()),
            keyed: source.setup.stream.keyed,
        };
        Some(Effect::Send(executor, Body::Reread(command)))
    }

    /// An executor has read a lost block again, or could not.
    pub fn reread_done(
        &mut self,
        from: &ContainerId,
        done: v1::RereadDone,
        now: Duration,
    ) -> Vec<Effect> {
        // What it holds is gone with it: its report may come after its end.
        if !self.executors.contains_key(from) {
            return Vec::new();
        }
        let id = BlockId::new(done.block_id);
        let Some(failure) = done.failure else {
            return self.reread_found(from, &id, now);
        };
        let Some(reread) = self.rereads.get_mut(&id) else { return Vec::new() };
        if reread.asked.as_ref().is_none_or(|(asked, _)| asked != from) {
            return Vec::new();
        }
        reread.asked = None;
        let error = Error::from_failure(failure.clone());
        if error.code() == Code::DataLost {
            reread.lost = Some(failure);
            return Vec::new();
        }
        tracing::warn!(block = %id, executor = %from, %error, "a lost block could not be read again yet");
        reread.failures += 1;
        reread.not_before = now + Backoff::CALL.delay(reread.failures, 0.0);
        let shard = reread.block.shard.clone();
        let mut effects = Vec::new();
        if error.code() == Code::StreamMissing {
            effects = self.not_found(&shard, false);
        }
        effects.extend(self.reread(now));
        effects
    }

    /// Kinesis has let go of this shard: its lost blocks can not be read again.
    pub(super) fn blocks_are_gone_with(&mut self, shard: &ShardKey) {
        for reread in self.rereads.values_mut().filter(|reread| reread.block.shard == *shard) {
            let descriptor = &reread.block.descriptor;
            let error = Error::new(
                Code::DataLost,
                format!(
                    "records of {shard} from {} to {} were lost with their executor and can not be \
                     read again: Kinesis lists the shard no more",
                    descriptor.first_seq, descriptor.last_seq
                ),
                "reset the application to a new start, or set on_data_loss = \"continue\" to go on",
            );
            reread.asked = None;
            reread.lost = Some(error.to_failure());
        }
    }

    /// A lost block is held again, even if by then another executor was asked, or its batch is
    /// committed.
    fn reread_found(&mut self, from: &ContainerId, id: &BlockId, now: Duration) -> Vec<Effect> {
        self.rereads.remove(id);
        if self.ledger.descriptor(id).is_some() {
            self.ledger.found(id, from);
            return Vec::new();
        }
        let dropped = BTreeMap::from([(from.clone(), vec![id.clone()])]);
        self.drop_blocks(dropped, now)
    }

    /// A run waits for the blocks of a batch: those that can not be had again stop the application,
    /// or, by policy, are left out of the batch as gaps. (A batch that has its result needs none.)
    pub fn settle_lost(&mut self, batch: u64, now: Duration) -> Vec<Effect> {
        let waits = |id: &BlockId| self.ledger.blocks(batch).iter().any(|h| h.block.id == *id);
        let lost: Vec<BlockId> = self
            .rereads
            .iter()
            .filter(|(id, reread)| reread.lost.is_some() && waits(id))
            .map(|(id, _)| id.clone())
            .collect();
        let mut effects = Vec::new();
        for id in lost {
            let Some(Reread { block, lost: Some(failure), .. }) = self.rereads.remove(&id) else {
                continue;
            };
            let error = Error::from_failure(failure);
            if self.survives_loss(&block.shard) {
                let dropped = self.ledger.give_up(&id);
                effects.extend(self.drop_blocks(dropped, now));
                effects.push(self.gap(&block.shard, error));
            } else {
                effects.push(Effect::Fail(error));
            }
        }
        effects
    }

    /// True while a planned batch waits for lost blocks.
    #[must_use]
    pub fn is_rereading(&self) -> bool {
        !self.rereads.is_empty()
    }
}
