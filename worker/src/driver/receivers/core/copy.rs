//! Second copies of blocks: who makes them, and what becomes of them. About speed, never about
//! correctness: a copy that does not come about costs a re-read if the only holder is lost.

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::id::{BlockId, ContainerId};
use millrace_proto::v1;
use millrace_proto::v1::executor_command::Body;

use super::{Core, Effect};

impl Core {
    /// Asks another executor to copy these blocks, which `holder` has just announced.
    pub(super) fn copy(&mut self, holder: &ContainerId, accepted: Vec<BlockId>) -> Vec<Effect> {
        let wanted: Vec<BlockId> = accepted.into_iter().filter(|id| self.is_copied(id)).collect();
        let Some(home) = self.executors.get(holder).map(|executor| &executor.home) else {
            return Vec::new();
        };
        let (node_id, holder_address) = (home.node_id.clone(), home.address.clone());
        let mut bytes = if wanted.is_empty() { BTreeMap::new() } else { self.accepted_bytes() };
        let mut copies = BTreeMap::<ContainerId, Vec<v1::BlockCopy>>::new();
        for id in wanted {
            let candidates = self.executors.iter().filter(|(executor, e)| {
                let gets_work =
                    !self.leaving.contains(*executor) && !self.excluded.contains(*executor);
                *executor != holder && !e.over_budget && gets_work
            });
            // Another node, so that the loss of one does not take both; then the emptiest.
            let target = candidates.min_by_key(|(executor, e)| {
                (e.home.node_id == node_id, bytes.get(*executor).copied().unwrap_or(0))
            });
            let Some((target, _)) = target else { break };
            let target = target.clone();
            let Some(descriptor) = self.ledger.descriptor(&id) else { continue };
            *bytes.entry(target.clone()).or_default() += descriptor.num_bytes;
            self.ledger.copying(&id, &target);
            self.forget_release(&target, &id);
            let holder_address = holder_address.clone();
            let copy = v1::BlockCopy { block: Some(descriptor), holder_address };
            copies.entry(target).or_default().push(copy);
        }
        let send = |(to, copies)| Effect::Send(to, Body::Copy(v1::CopyBlocks { copies }));
        copies.into_iter().map(send).collect()
    }

    /// True for a block with records of a source whose storage level asks for two holders.
    fn is_copied(&self, id: &BlockId) -> bool {
        let Some(block) = self.ledger.descriptor(id) else { return false };
        let source = block.shard.as_ref().and_then(|shard| self.sources.get(&shard.source));
        block.num_raw_records > 0 && source.is_some_and(|source| source.setup.copies)
    }

    /// Bytes of accepted blocks, by executor.
    fn accepted_bytes(&self) -> BTreeMap<ContainerId, u64> {
        let mut bytes = self.ledger.pending_bytes();
        for (executor, planned) in self.ledger.planned_bytes() {
            *bytes.entry(executor).or_default() += planned;
        }
        bytes
    }

    /// An executor has copied a block, or could not. A copy that nobody needs any more is dropped.
    pub fn copied(&mut self, from: &ContainerId, done: v1::BlockCopied) -> Vec<Effect> {
        let id = BlockId::new(done.block_id);
        let is_held = done.failure.is_none();
        if let Some(failure) = done.failure {
            tracing::debug!(block = %id, executor = %from, reason = %failure.message, "no second copy");
        }
        if self.ledger.copied(&id, from, is_held) || !is_held {
            return Vec::new();
        }
        let block_ids = vec![id.as_str().to_owned()];
        vec![Effect::Send(from.clone(), Body::Release(v1::ReleaseBlocks { block_ids }))]
    }

    /// The session of an executor broke: the copies it was told to make are here, or will not be.
    pub(super) fn copies_lost_on(&mut self, executor: &ContainerId, held: &BTreeSet<BlockId>) {
        for id in self.ledger.copying_to(executor) {
            self.ledger.copied(&id, executor, held.contains(&id));
        }
    }

    /// The executor is to have the block from now on: an older command to drop it is not repeated.
    pub(super) fn forget_release(&mut self, executor: &ContainerId, id: &BlockId) {
        self.released.retain(|(_, holder, released)| holder != executor || released != id);
    }
}
