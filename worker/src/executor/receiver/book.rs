//! The book of one receiver: its shards, what it has read of them, and what the driver knows of
//! that.
//!
//! Promises: every closed block is announced again and again until the driver has answered, in the
//! order in which it was closed; a refused block is given up together with the rest of its chain,
//! as the driver does too; nothing of a chain that was given up is announced for the first time. Outlives the receiver's actor, so
//! that a new actor goes on where a dead one stopped. Never does: touch a block or a channel.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use millrace_common::position::{Position, SequenceNumber, ShardKey, sequence_number_text};
use millrace_common::{Error, Result};
use millrace_proto::v1;
use millrace_sql::scan::block::BlockId;

use super::assignment::{Assignment, start_of};
use super::core::{EmptyAnswer, Start};

/// Announcements that may be unanswered; while there are as many, blocks wait for the next one. A
/// driver that answers none for so long is lost anyway.
pub const UNANSWERED_MAX: usize = 64;
/// Blocks in one announcement: far below the largest message.
const BLOCKS_MAX: usize = 4_096;
/// An unanswered announcement is sent again after this long.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How often an idle shard's empty reads and a busy one's distance are told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What has to happen after the driver's answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The block is of no use: out of the store.
    Drop(BlockId),
    /// Read the shard from here on.
    Restart {
        /// The shard.
        shard: ShardKey,
        /// The reading that is valid from now on.
        reading: u64,
        /// Where it starts.
        start: Start,
    },
    /// The shard is another receiver's.
    Stop(ShardKey),
}

#[derive(Clone, Debug)]
struct ShardPage {
    assignment: Assignment,
    /// Counts the starts of this shard's reading; what an older one brings is refused.
    reading: u64,
    /// Counts the starts at a place that the driver named; the readings since then continue it.
    chain: u64,
    /// Where a new reading would go on.
    resume: Start,
    empty: Option<v1::EmptyRead>,
    lag: Option<i64>,
    told_at: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Sent {
    announcement: v1::BlockAnnouncement,
    at: Option<Duration>,
}

/// The book.
#[derive(Clone, Debug)]
pub struct Book {
    receiver_id: String,
    shards: BTreeMap<ShardKey, ShardPage>,
    /// Closed and not announced yet.
    pending: VecDeque<v1::BlockDescriptor>,
    unanswered: VecDeque<Sent>,
    next_sequence: u64,
    next_reading: u64,
}

impl Book {
    /// An empty book.
    pub fn new(receiver_id: impl Into<String>) -> Self {
        Self {
            receiver_id: receiver_id.into(),
            shards: BTreeMap::new(),
            pending: VecDeque::new(),
            unanswered: VecDeque::new(),
            next_sequence: 1,
            next_reading: 1,
        }
    }

    /// Takes a shard on. None when it is assigned already in this generation or a later one; else
    /// the blocks of the older generation that nobody will ask for.
    pub fn assign(&mut self, assignment: Assignment) -> Option<Vec<BlockId>> {
        let shard = assignment.shard.clone();
        let known = self.shards.get(&shard).map(|page| page.assignment.generation);
        if known.is_some_and(|generation| generation >= assignment.generation) {
            return None;
        }
        let dropped = self.revoke(&shard);
        let resume = assignment.start;
        let reading = self.new_reading();
        let page = ShardPage {
            assignment,
            reading,
            chain: 1,
            resume,
            empty: None,
            lag: None,
            told_at: None,
        };
        self.shards.insert(shard, page);
        Some(dropped)
    }

    /// Gives a shard up. The blocks that were never announced are of no use; those under way stay
    /// until the driver has answered.
    pub fn revoke(&mut self, shard: &ShardKey) -> Vec<BlockId> {
        self.shards.remove(shard);
        self.forget_pending(shard)
    }

    /// Begins a new reading of a shard where the last one stopped.
    pub fn begin(&mut self, shard: &ShardKey) -> Option<(Assignment, u64, Start)> {
        let reading = self.new_reading();
        let page = self.shards.get_mut(shard)?;
        page.reading = reading;
        Some((page.assignment.clone(), reading, page.resume))
    }

    /// All shards of the receiver.
    #[must_use]
    pub fn shards(&self) -> Vec<ShardKey> {
        self.shards.keys().cloned().collect()
    }

    /// A block was closed and is in the store. False when its reading was given up: the block is of
    /// no use.
    #[must_use]
    pub fn closed(
        &mut self,
        reading: u64,
        shard: &ShardKey,
        mut block: v1::BlockDescriptor,
    ) -> bool {
        let Some(page) = self.shards.get_mut(shard).filter(|page| page.reading == reading) else {
            return false;
        };
        let last: Option<SequenceNumber> = block.last_seq.parse().ok();
        if last.is_some() || block.ends_shard {
            let before = page.resume.tail();
            page.resume = Start::Position(Position {
                sequence_number: last.or(before),
                empty_until_ms: 0,
                ended: block.ends_shard,
            });
        }
        block.chain = page.chain;
        self.pending.push_back(block);
        true
    }

    /// An answer without records. What an older reading says does not count.
    pub fn empty(&mut self, reading: u64, shard: &ShardKey, empty: EmptyAnswer) {
        let Some(page) = self.shards.get_mut(shard).filter(|page| page.reading == reading) else {
            return;
        };
        page.lag = Some(empty.millis_behind_latest);
        page.empty = Some(v1::EmptyRead {
            shard: Some(shard.to_proto()),
            generation: page.assignment.generation,
            after_seq: sequence_number_text(empty.after_seq),
            server_ms: empty.server_ms,
            millis_behind_latest: empty.millis_behind_latest,
            nothing_before_ms: empty.nothing_before_ms,
        });
    }

    /// How far a reading is behind.
    pub fn lag(&mut self, reading: u64, shard: &ShardKey, millis_behind_latest: i64) {
        if let Some(page) = self.shards.get_mut(shard).filter(|page| page.reading == reading) {
            page.lag = Some(millis_behind_latest);
            // Older than the records that came since.
            page.empty = None;
        }
    }

    /// What to send now: what is unanswered for long, and what is new.
    pub fn announce(&mut self, now: Duration) -> Vec<v1::BlockAnnouncement> {
        let mut due = Vec::new();
        for sent in &mut self.unanswered {
            if sent.at.is_none_or(|at| now.saturating_sub(at) >= AGAIN_AFTER) {
                sent.at = Some(now);
                due.push(sent.announcement.clone());
            }
        }
        let has_news = !self.pending.is_empty() || self.shards.values().any(|p| p.is_due(now));
        if has_news && self.unanswered.len() < UNANSWERED_MAX {
            due.push(self.next_announcement(0, now, false));
        }
        due
    }

    /// The announcement that answers a cut: everything read before it that was not announced yet.
    pub fn cut(&mut self, cut_id: u64, now: Duration) -> Vec<v1::BlockAnnouncement> {
        let mut announcements = Vec::new();
        while self.pending.len() > BLOCKS_MAX {
            announcements.push(self.next_announcement(0, now, false));
        }
        announcements.push(self.next_announcement(cut_id, now, true));
        announcements
    }

    /// The connection to the driver is a new one: everything unanswered is due.
    pub fn reconnected(&mut self) {
        for sent in &mut self.unanswered {
            sent.at = None;
        }
    }

    /// The blocks that the driver has not answered yet.
    #[cfg(test)]
    pub(crate) fn open_blocks(&self) -> impl Iterator<Item = &str> {
        let sent = self.unanswered.iter().flat_map(|sent| &sent.announcement.blocks);
        sent.chain(&self.pending).map(|block| block.block_id.as_str())
    }

    /// The driver answered an announcement. An answer to one that is not open changes nothing.
    ///
    /// # Errors
    /// When a refusal can not be understood.
    pub fn acknowledged(
        &mut self,
        sequence: u64,
        refused: Vec<v1::RefusedBlock>,
    ) -> Result<Vec<Verdict>, Error> {
        let open = |sent: &Sent| sent.announcement.sequence == sequence;
        let Some(place) = self.unanswered.iter().position(open) else { return Ok(Vec::new()) };
        let Some(sent) = self.unanswered.remove(place) else { return Ok(Vec::new()) };
        let mut verdicts = Vec::new();
        for refusal in refused {
            let is_it = |block: &&v1::BlockDescriptor| block.block_id == refusal.block_id;
            let Some(block) = sent.announcement.blocks.iter().find(is_it) else { continue };
            let shard = ShardKey::from_proto(refusal.shard)?;
            let tail = start_of(refusal.tail.as_ref())?;
            verdicts.push(Verdict::Drop(BlockId::new(refusal.block_id)));
            match self.shards.get(&shard) {
                Some(page)
                    if (page.assignment.generation, page.chain)
                        == (block.generation, block.chain) =>
                {
                    if refusal.generation == page.assignment.generation {
                        verdicts.extend(self.restart(&shard, tail));
                    } else {
                        verdicts.extend(self.revoke(&shard).into_iter().map(Verdict::Drop));
                        verdicts.push(Verdict::Stop(shard));
                    }
                }
                // Of a chain that was given up already, as its fellows were.
                _ => {}
            }
        }
        Ok(verdicts)
    }

    /// Begins a new reading at the driver's tail. Blocks under way stay: the driver may have taken
    /// them, and says so when it answers.
    fn restart(&mut self, shard: &ShardKey, tail: Start) -> Vec<Verdict> {
        let reading = self.new_reading();
        let dropped = self.forget_pending(shard);
        if let Some(page) = self.shards.get_mut(shard) {
            page.reading = reading;
            page.chain += 1;
            page.resume = tail;
            page.empty = None;
        }
        let restart = Verdict::Restart { shard: shard.clone(), reading, start: tail };
        dropped.into_iter().map(Verdict::Drop).chain([restart]).collect()
    }

    fn forget_pending(&mut self, shard: &ShardKey) -> Vec<BlockId> {
        let mut dropped = Vec::new();
        self.pending.retain(|block| {
            let keep = !is_of(block, shard);
            if !keep {
                dropped.push(BlockId::new(block.block_id.as_str()));
            }
            keep
        });
        dropped
    }

    fn new_reading(&mut self) -> u64 {
        let reading = self.next_reading;
        self.next_reading += 1;
        reading
    }

    fn next_announcement(
        &mut self,
        cut_id: u64,
        now: Duration,
        tells_all: bool,
    ) -> v1::BlockAnnouncement {
        let num_blocks = self.pending.len().min(BLOCKS_MAX);
        let blocks = self.pending.drain(..num_blocks).collect();
        let (mut empty_reads, mut lags) = (Vec::new(), Vec::new());
        for (shard, page) in &mut self.shards {
            if tells_all || page.is_due(now) {
                page.told_at = Some(now);
                empty_reads.extend(page.empty.take());
                lags.extend(page.lag.take().map(|millis_behind_latest| v1::ShardLag {
                    shard: Some(shard.to_proto()),
                    millis_behind_latest,
                }));
            }
        }
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let announcement = v1::BlockAnnouncement {
            receiver_id: self.receiver_id.clone(),
            sequence,
            blocks,
            empty_reads,
            cut_id,
            lags,
        };
        let sent = Sent { announcement: announcement.clone(), at: Some(now) };
        self.unanswered.push_back(sent);
        announcement
    }
}

impl ShardPage {
    fn is_due(&self, now: Duration) -> bool {
        (self.empty.is_some() || self.lag.is_some())
            && self.told_at.is_none_or(|at| now.saturating_sub(at) >= TELL_EVERY)
    }
}

fn is_of(block: &v1::BlockDescriptor, shard: &ShardKey) -> bool {
    block.shard.as_ref() == Some(&shard.to_proto())
}
