//! An accepted block and the executors that hold it.
//!
//! Promises: whoever holds the block or may still come to hold it hears when it is not needed any
//! more. Owned by the ledger. Never does: choose who makes a copy.

use std::collections::BTreeMap;

use millrace_common::id::{BlockId, ContainerId};

use super::Block;

/// An accepted block that is not released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The block.
    pub block: Block,
    /// Who holds it, the reader first; nobody while it is lost and not read again yet.
    holders: Vec<ContainerId>,
    /// Who was told to copy it and has not answered.
    copy_to: Option<ContainerId>,
}

impl Held {
    /// A block that its reader holds.
    #[must_use]
    pub fn by(reader: ContainerId, block: Block) -> Self {
        Self { block, holders: vec![reader], copy_to: None }
    }

    /// Who holds it; a run asks the first.
    #[must_use]
    pub fn holders(&self) -> &[ContainerId] {
        &self.holders
    }

    /// Who was told to copy it and has not answered.
    #[must_use]
    pub fn copy_to(&self) -> Option<&ContainerId> {
        self.copy_to.as_ref()
    }

    /// True when nobody holds it.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.holders.is_empty()
    }

    /// The executor does not have it any more, and will not get it. True when it had it.
    pub(super) fn lose(&mut self, executor: &ContainerId) -> bool {
        self.copy_to.take_if(|to| to == executor);
        let before = self.holders.len();
        self.holders.retain(|holder| holder != executor);
        self.holders.len() < before
    }

    pub(super) fn found(&mut self, holder: &ContainerId) {
        if !self.holders.contains(holder) {
            self.holders.push(holder.clone());
        }
    }

    pub(super) fn copying(&mut self, to: ContainerId) {
        self.copy_to = Some(to);
    }

    /// True when the answer was waited for.
    pub(super) fn copied(&mut self, by: &ContainerId, is_held: bool) -> bool {
        if self.copy_to.take_if(|to| to == by).is_none() {
            return self.holders.contains(by);
        }
        if is_held {
            self.found(by);
        }
        true
    }

    pub(super) fn add_bytes(&self, bytes: &mut BTreeMap<ContainerId, u64>) {
        for holder in self.holders.iter().chain(&self.copy_to) {
            *bytes.entry(holder.clone()).or_default() += self.block.num_bytes;
        }
    }

    pub(super) fn drop_everywhere(self, dropped: &mut BTreeMap<ContainerId, Vec<BlockId>>) {
        for holder in self.holders.into_iter().chain(self.copy_to) {
            dropped.entry(holder).or_default().push(self.block.id.clone());
        }
    }
}
