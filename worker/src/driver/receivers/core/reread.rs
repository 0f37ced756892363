//! Lost blocks of planned batches: read again from Kinesis by another executor, checked there.

use std::time::Duration;

use millrace_common::error::{Code, Error};
use millrace_common::id::{BlockId, ContainerId};
use millrace_common::retry::Backoff;
use millrace_proto::v1;
use millrace_proto::v1::executor_command::Body;

use super::{Core, Effect};
use crate::driver::ledger::Block;

/// How long an executor may take to read one block again before another is asked: a block is some
/// MiB, a shard gives two a second and five calls a second.
const REREAD_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Reread {
    block: Block,
    /// Who was asked, and when.
    asked: Option<(ContainerId, Duration)>,
    failures: u32,
    not_before: Duration,
}

impl Reread {
    pub(super) fn of(block: Block) -> Self {
        Self { block, asked: None, failures: 0, not_before: Duration::ZERO }
    }
}

impl Core {
    /// A run found that a block is not where it should be.
    pub fn block_missing(&mut self, id: &BlockId, now: Duration) -> Vec<Effect> {
        if let Some(block) = self.ledger.lose_block(id) {
            self.rereads.entry(id.clone()).or_insert_with(|| Reread::of(block));
        }
        self.reread(now)
    }

    /// Nobody waits for this executor's answers any more.
    pub(super) fn reread_lost_on(&mut self, executor: &ContainerId) {
        for reread in self.rereads.values_mut() {
            reread.asked.take_if(|(asked, _)| asked == executor);
        }
    }

    /// Asks executors for every lost block that nobody reads now, the least loaded first.
    pub(super) fn reread(&mut self, now: Duration) -> Vec<Effect> {
        let mut load = self.ledger.planned_bytes();
        let staying = self.staying();
        load.retain(|executor, _| staying.contains_key(executor));
        for executor in staying.into_keys() {
            load.entry(executor).or_default();
        }
        let mut effects = Vec::new();
        for reread in self.rereads.values_mut() {
            reread.asked.take_if(|(_, since)| now.saturating_sub(*since) >= REREAD_LIMIT);
            if reread.asked.is_some() || now < reread.not_before {
                continue;
            }
            let Some(source) = self.sources.get(&reread.block.shard.source) else { continue };
            let Some((executor, bytes)) = load.iter_mut().min_by_key(|(_, bytes)| **bytes) else {
                break;
            };
            *bytes += reread.block.num_bytes;
            reread.asked = Some((executor.clone(), now));
            let range = source.lineage.range(&reread.block.shard.shard_id);
            let command = v1::RereadBlock {
                block: Some(reread.block.descriptor.clone()),
                stream_name: source.setup.stream.name.clone(),
                starting_hash_key: range.map_or_else(String::new, |r| r.starting.to_string()),
                ending_hash_key: range.map_or_else(String::new, |r| r.ending.to_string()),
                keyed: source.setup.stream.keyed,
            };
            effects.push(Effect::Send(executor.clone(), Body::Reread(command)));
        }
        effects
    }

    /// An executor has read a lost block again, or could not.
    pub fn reread_done(
        &mut self,
        from: &ContainerId,
        done: v1::RereadDone,
        now: Duration,
    ) -> Vec<Effect> {
        let id = BlockId::new(done.block_id);
        let Some(reread) = self.rereads.get_mut(&id) else { return Vec::new() };
        if reread.asked.as_ref().is_none_or(|(asked, _)| asked != from) {
            return Vec::new();
        }
        match done.failure.map(Error::from_failure) {
            None => {
                self.rereads.remove(&id);
                self.ledger.found(&id, from);
                Vec::new()
            }
            Some(error) if error.code() == Code::DataLost => vec![Effect::Fail(error)],
            Some(error) => {
                tracing::warn!(block = %id, executor = %from, %error, "a lost block could not be read again yet");
                reread.asked = None;
                reread.failures += 1;
                reread.not_before = now + Backoff::CALL.delay(reread.failures, 0.0);
                self.reread(now)
            }
        }
    }

    /// True while a planned batch waits for lost blocks.
    #[must_use]
    pub fn is_rereading(&self) -> bool {
        !self.rereads.is_empty()
    }
}
