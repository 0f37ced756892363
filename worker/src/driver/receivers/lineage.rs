//! Which shards of one source may be read: the graph of parents and children, and how far each is.
//!
//! Promises: a child is readable only after a block that ends each of its parents is planned; the
//! ancestors of the shards where the application began are never read; a listed shard that belongs
//! to nothing known is reported as lost and never silently read or skipped. Owned by the receivers'
//! core. Never does: hold positions, or call Kinesis.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use millrace_common::position::HashKeyRange;

/// A shard as `ListShards` describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedShard {
    /// Id within the stream.
    pub shard_id: String,
    /// None, one (after a split) or two (after a merge).
    pub parents: Vec<String>,
    /// The keys it takes.
    pub range: HashKeyRange,
    /// False when it takes no more records.
    pub open: bool,
}

/// Where the application begins with a source, fixed by its first k0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Every listed shard, from its oldest record.
    Earliest,
    /// The shards that were open at this moment, from this moment on.
    At {
        /// Server time, Unix milliseconds.
        timestamp_ms: i64,
        /// Open at that time; their ancestors are never read.
        shards: BTreeSet<String>,
    },
}

/// Where the first read of a shard without a position begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// At its oldest record.
    TrimHorizon,
    /// At the first record that arrived at or after this server time, Unix milliseconds.
    Timestamp(i64),
}

/// Records that can not be read any more, seen in the graph alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// Listed, but neither it nor any ancestor is known to the head.
    Orphan(String),
    /// The head holds a position in it, it has not ended there, and Kinesis lists it no more.
    Vanished(String),
    /// A child waits for this parent, which was never read and is not listed.
    MissingParent {
        /// The parent that is gone.
        parent: String,
        /// The child that waits.
        child: String,
    },
}

impl Loss {
    /// The shard whose records are lost.
    #[must_use]
    pub fn shard_id(&self) -> &str {
        match self {
            Self::Orphan(shard) | Self::Vanished(shard) => shard,
            Self::MissingParent { parent, .. } => parent,
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Orphan(shard) => {
                write!(f, "shard {shard} is listed, but neither it nor an ancestor has a position")
            }
            Self::Vanished(shard) => {
                write!(f, "shard {shard} is listed no more, and its end was not reached")
            }
            Self::MissingParent { parent, child } => {
                write!(f, "shard {parent}, parent of {child}, is listed no more and was never read")
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Seen, not yet judged.
    Unplaced,
    /// An ancestor of where the application began.
    Before,
    /// A parent's end is not planned yet.
    Waiting,
    /// May be read.
    Reading,
    /// The block that ends it is in a planned batch.
    EndPlanned,
    /// That batch is committed.
    Ended,
}

impl Stage {
    fn has_entry(self) -> bool {
        matches!(self, Self::Reading | Self::EndPlanned | Self::Ended)
    }

    fn is_through(self) -> bool {
        matches!(self, Self::EndPlanned | Self::Ended)
    }
}

#[derive(Clone, Debug)]
struct Shard {
    parents: Vec<String>,
    /// Known once Kinesis has listed it.
    range: Option<HashKeyRange>,
    listed: bool,
    stage: Stage,
}

/// The shards of one source.
#[derive(Clone, Debug)]
pub struct Lineage {
    start: Start,
    /// False until the first listing has been taken in.
    listed_once: bool,
    shards: BTreeMap<String, Shard>,
}

impl Lineage {
    /// The graph as the head knows it: `entries` says of each shard with a position whether it has
    /// ended there. Without entries the application begins at `start`.
    pub fn new(start: Start, entries: impl IntoIterator<Item = (String, bool)>) -> Self {
        let entry = |(shard_id, ended)| {
            let stage = if ended { Stage::Ended } else { Stage::Reading };
            (shard_id, Shard { parents: Vec::new(), range: None, listed: false, stage })
        };
        Self { start, listed_once: false, shards: entries.into_iter().map(entry).collect() }
    }

    /// Takes in a complete listing and gives what it shows to be lost. Losses are reported again
    /// by the next listing unless they were [accepted](Self::accept).
    pub fn list(&mut self, listing: Vec<ListedShard>) -> Vec<Loss> {
        for shard in self.shards.values_mut() {
            shard.listed = false;
        }
        let begins = !self.shards.values().any(|shard| shard.stage.has_entry());
        for listed in listing {
            let shard = self.shards.entry(listed.shard_id).or_insert_with(Shard::unplaced);
            shard.parents = listed.parents;
            shard.range = Some(listed.range);
            shard.listed = true;
        }
        if begins {
            self.place_first();
        }
        let mut losses = self.place();
        if !self.listed_once {
            self.listed_once = true;
            losses.extend(self.unlisted_reading().map(Loss::Vanished));
        }
        self.settle();
        losses.extend(self.missing_parents());
        losses.sort();
        losses
    }

    /// Takes in a child that the answer at its parent's end named, before any listing does.
    pub fn announce_child(&mut self, shard_id: String, parents: Vec<String>) {
        self.shards.entry(shard_id).or_insert(Shard {
            parents,
            range: None,
            listed: false,
            stage: Stage::Waiting,
        });
        self.settle();
    }

    /// The shards that may be read now, with their ranges of keys.
    pub fn readable(&self) -> impl Iterator<Item = (&str, HashKeyRange)> {
        self.shards.iter().filter_map(|(id, shard)| {
            let range = shard.range.filter(|_| shard.stage == Stage::Reading)?;
            Some((id.as_str(), range))
        })
    }

    /// The shards that may be read and whose ends are not planned, listed or not.
    pub fn reading(&self) -> impl Iterator<Item = &str> {
        let reading = self.shards.iter().filter(|(_, shard)| shard.stage == Stage::Reading);
        reading.map(|(id, _)| id.as_str())
    }

    /// True when a shard is known that took over from this one, which takes no more records then.
    #[must_use]
    pub fn has_child(&self, shard_id: &str) -> bool {
        self.shards.values().any(|shard| shard.parents.iter().any(|parent| parent == shard_id))
    }

    /// Where the first read of this shard begins, when it has no position.
    #[must_use]
    pub fn origin(&self, shard_id: &str) -> Origin {
        match &self.start {
            Start::At { timestamp_ms, shards } if shards.contains(shard_id) => {
                Origin::Timestamp(*timestamp_ms)
            }
            _ => Origin::TrimHorizon,
        }
    }

    /// True when the last listing held this shard.
    #[must_use]
    pub fn is_listed(&self, shard_id: &str) -> bool {
        self.shards.get(shard_id).is_some_and(|shard| shard.listed)
    }

    /// True when this shard may be read and its end is not planned.
    #[must_use]
    pub fn is_reading(&self, shard_id: &str) -> bool {
        self.shards.get(shard_id).is_some_and(|shard| shard.stage == Stage::Reading)
    }

    /// The range of keys of a shard, once it has been listed.
    #[must_use]
    pub fn range(&self, shard_id: &str) -> Option<HashKeyRange> {
        self.shards.get(shard_id)?.range
    }

    /// The shards that have, or now get, an entry in the head.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.shards.iter().filter(|(_, s)| s.stage.has_entry()).map(|(id, _)| id.as_str())
    }

    /// True while a shard that has not ended is known whose records this application will read.
    pub fn unended(&self) -> impl Iterator<Item = &str> {
        self.shards
            .iter()
            .filter(|(_, s)| matches!(s.stage, Stage::Reading | Stage::Waiting))
            .map(|(id, _)| id.as_str())
    }

    /// The block that ends this shard is in a planned batch: its children may be read.
    pub fn plan_end(&mut self, shard_id: &str) {
        if let Some(shard) = self.shards.get_mut(shard_id)
            && shard.stage == Stage::Reading
        {
            shard.stage = Stage::EndPlanned;
            self.settle();
        }
    }

    /// The batch that ends this shard is committed.
    pub fn commit_end(&mut self, shard_id: &str) {
        if let Some(shard) = self.shards.get_mut(shard_id)
            && shard.stage == Stage::EndPlanned
        {
            shard.stage = Stage::Ended;
        }
    }

    /// Removes and gives the shards whose entries may leave the head: ended, no longer listed, and
    /// all their children have entries.
    pub fn forget(&mut self) -> Vec<String> {
        if !self.listed_once {
            return Vec::new();
        }
        let needed: BTreeSet<&str> = self
            .shards
            .values()
            .filter(|child| !child.stage.has_entry())
            .flat_map(|child| child.parents.iter().map(String::as_str))
            .collect();
        let gone: Vec<String> = self
            .shards
            .iter()
            .filter(|(id, shard)| !shard.listed && !needed.contains(id.as_str()))
            .filter(|(_, shard)| matches!(shard.stage, Stage::Ended | Stage::Before))
            .map(|(id, _)| id.clone())
            .collect();
        let had_entry = |id: &String| self.shards.get(id).is_some_and(|s| s.stage.has_entry());
        let left = gone.iter().filter(|id| had_entry(id)).cloned().collect();
        for id in &gone {
            self.shards.remove(id);
        }
        left
    }

    /// Goes on after a loss, by the policy `continue`: an orphan is read from its oldest record; a
    /// shard that is gone counts as ended.
    pub fn accept(&mut self, loss: &Loss) {
        let stage = match loss {
            Loss::Orphan(_) => Stage::Reading,
            // The next commit says so in the head.
            Loss::Vanished(_) | Loss::MissingParent { .. } => Stage::EndPlanned,
        };
        let shard = self.shards.entry(loss.shard_id().to_owned()).or_insert_with(Shard::unplaced);
        shard.stage = stage;
        self.settle();
    }

    /// Puts the shards where the application begins.
    fn place_first(&mut self) {
        let first: Vec<String> = match &self.start {
            Start::Earliest => self
                .shards
                .iter()
                .filter(|(_, s)| !s.parents.iter().any(|p| self.shards.contains_key(p)))
                .map(|(id, _)| id.clone())
                .collect(),
            Start::At { shards, .. } => shards.iter().cloned().collect(),
        };
        for id in first {
            self.shards.entry(id).or_insert_with(Shard::unplaced).stage = Stage::Reading;
        }
    }

    /// Judges every unplaced shard by its relatives.
    fn place(&mut self) -> Vec<Loss> {
        if !self.shards.values().any(|shard| shard.stage == Stage::Unplaced) {
            return Vec::new();
        }
        let mut up = BTreeMap::<&str, Vec<&str>>::new();
        let mut down = BTreeMap::<&str, Vec<&str>>::new();
        for (id, shard) in &self.shards {
            for parent in &shard.parents {
                up.entry(id).or_default().push(parent);
                down.entry(parent).or_default().push(id);
            }
        }
        let entered = |shard: &Shard| shard.stage.has_entry();
        let ancestors = self.reach(&up, entered);
        let descendants = self.reach(&down, |s| entered(s) || s.stage == Stage::Waiting);
        let mut losses = Vec::new();
        for (id, shard) in self.shards.iter_mut().filter(|(_, s)| s.stage == Stage::Unplaced) {
            // One that lies between two entries should have had one itself.
            match (ancestors.contains(id), descendants.contains(id)) {
                (true, false) => shard.stage = Stage::Before,
                (false, true) => shard.stage = Stage::Waiting,
                _ => losses.push(Loss::Orphan(id.clone())),
            }
        }
        losses
    }

    /// The shards that `edges` lead to from those that `from` picks.
    fn reach(
        &self,
        edges: &BTreeMap<&str, Vec<&str>>,
        from: impl Fn(&Shard) -> bool,
    ) -> BTreeSet<String> {
        let mut reached = BTreeSet::new();
        let picked = self.shards.iter().filter(|(_, shard)| from(shard));
        let mut border: Vec<&str> = picked.map(|(id, _)| id.as_str()).collect();
        while let Some(id) = border.pop() {
            for next in edges.get(id).into_iter().flatten() {
                if reached.insert((*next).to_owned()) {
                    border.push(next);
                }
            }
        }
        reached
    }

    /// Opens every waiting shard all of whose parents are through.
    fn settle(&mut self) {
        let opened: Vec<String> = self
            .shards
            .iter()
            .filter(|(_, shard)| shard.stage == Stage::Waiting)
            .filter(|(_, shard)| {
                shard.parents.iter().all(|parent| {
                    self.shards.get(parent).is_some_and(|parent| parent.stage.is_through())
                })
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in opened {
            if let Some(shard) = self.shards.get_mut(&id) {
                shard.stage = Stage::Reading;
            }
        }
    }

    fn unlisted_reading(&self) -> impl Iterator<Item = String> {
        self.shards
            .iter()
            .filter(|(_, shard)| shard.stage == Stage::Reading && !shard.listed)
            .map(|(id, _)| id.clone())
    }

    fn missing_parents(&self) -> Vec<Loss> {
        let waiting = self.shards.iter().filter(|(_, shard)| shard.stage == Stage::Waiting);
        let missing = waiting.flat_map(|(child, shard)| {
            let gone = shard.parents.iter().filter(|parent| !self.shards.contains_key(*parent));
            gone.map(|parent| Loss::MissingParent { parent: parent.clone(), child: child.clone() })
        });
        missing.collect()
    }
}

impl Shard {
    fn unplaced() -> Self {
        Self { parents: Vec::new(), range: None, listed: false, stage: Stage::Unplaced }
    }
}

#[cfg(test)]
#[path = "lineage_tests.rs"]
mod tests;
