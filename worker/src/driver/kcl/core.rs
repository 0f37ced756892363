//! From leases to positions: a pure judge.
//!
//! Promises: every listed shard is either behind what the KCL had processed, or read from where it
//! had left off, or waits for its parents; no shard is passed over because it has no lease. A lease
//! that leaves a doubt is refused with its name. Never does: call anyone, or guess.

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::error::{Code, Error};
use millrace_common::position::{Position, SequenceNumber};

use crate::driver::receivers::lineage::ListedShard;

/// Leases that one refusal names; a stream may have thousands.
const NAMED_MAX: usize = 10;

/// A row of a lease table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// `leaseKey`: the shard, or `account:stream:epoch:shard` where the table serves many streams.
    pub key: String,
    /// Who holds it, or is handing it over; none when it is free.
    pub owner: Option<String>,
    /// Rises with each renewal.
    pub counter: String,
    /// How far it is.
    pub checkpoint: Checkpoint,
    /// Place of the last processed user record in the aggregate at the checkpoint.
    pub sub_sequence_number: u64,
}

/// The `checkpoint` of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// Everything up to this record is processed.
    Number(SequenceNumber),
    /// Nothing; it would begin at the oldest record.
    TrimHorizon,
    /// Nothing; it would begin wherever the stream is by then.
    Latest,
    /// Nothing; it would begin at a time that the table does not name.
    AtTimestamp,
    /// Everything.
    ShardEnd,
}

impl Checkpoint {
    /// From the text of a lease; none when it is no checkpoint.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "TRIM_HORIZON" => Some(Self::TrimHorizon),
            "LATEST" => Some(Self::Latest),
            "AT_TIMESTAMP" => Some(Self::AtTimestamp),
            "SHARD_END" => Some(Self::ShardEnd),
            number => number.parse().ok().map(Self::Number),
        }
    }

    fn has_processed(self) -> bool {
        matches!(self, Self::Number(_) | Self::ShardEnd)
    }
}

/// What the keys of a table that serves many streams say of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamName {
    prefix: String,
}

impl StreamName {
    /// The stream of this ARN and name, created at this Unix time in milliseconds.
    #[must_use]
    pub fn of(arn: &str, name: &str, created_ms: i64) -> Self {
        let account = arn.split(':').nth(4).unwrap_or_default();
        let epoch = created_ms.div_euclid(1_000);
        Self { prefix: format!("{account}:{name}:{epoch}:") }
    }

    /// The shard that a lease is of; none when it is of another stream.
    fn shard_of<'a>(&self, key: &'a str) -> Option<&'a str> {
        if key.contains(':') { key.strip_prefix(&self.prefix) } else { Some(key) }
    }
}

/// What was taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Import {
    /// By shard. Listed shards that are not here are descendants of these, and begin when their
    /// parents have ended.
    pub positions: BTreeMap<String, Position>,
    /// Records to look at first: the positions hold only if all of them pass [`check_records`].
    pub looks: Vec<Look>,
}

/// A checkpoint that may stand inside an aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The shard.
    pub shard_id: String,
    /// The record.
    pub number: SequenceNumber,
    /// The user record that was the last to be processed.
    pub sub_sequence_number: u64,
}

/// What was found at a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A record of so many user records; 1 when it is no aggregate.
    UserRecords(usize),
    /// The stream does not hold it any more, and nothing before it.
    Trimmed,
    /// The shard never had a record of that number.
    NeverThere,
}

/// True when somebody holds a lease, or did when they died.
#[must_use]
pub fn is_owned(leases: &[Lease]) -> bool {
    leases.iter().any(|lease| lease.owner.is_some())
}

/// Sees that nobody has touched a lease between two looks at the table.
///
/// # Errors
/// [`Code::KclLive`] naming who did.
pub fn check_still(table: &str, before: &[Lease], after: &[Lease]) -> Result<(), Error> {
    let by_key = |leases: &[Lease]| -> BTreeMap<String, Lease> {
        leases.iter().map(|lease| (lease.key.clone(), lease.clone())).collect()
    };
    let (before, after) = (by_key(before), by_key(after));
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let moved: Vec<&String> =
        keys.into_iter().filter(|key| before.get(*key) != after.get(*key)).collect();
    if moved.is_empty() {
        return Ok(());
    }
    let owners: BTreeSet<&str> = moved
        .iter()
        .filter_map(|key| after.get(*key).or_else(|| before.get(*key)))
        .filter_map(|lease| lease.owner.as_deref())
        .collect();
    let owners: Vec<&str> = owners.into_iter().collect();
    let by = if owners.is_empty() { "nobody named" } else { &*owners.join(", ") };
    Err(Error::new(
        Code::KclLive,
        format!(
            "the KCL application of the lease table {table} is running: leases of {} changed, owned \
             by {by}",
            named(&moved)
        ),
        "stop every worker of that application, in order, so that they checkpoint; then submit again",
    ))
}

/// What each listed shard begins at.
///
/// # Errors
/// [`Code::KclCheckpoint`] naming the leases that leave a doubt.
pub fn judge(
    table: &str,
    stream: &StreamName,
    leases: &[Lease],
    listed: &[ListedShard],
) -> Result<Import, Error> {
    let mut leased = BTreeMap::new();
    for lease in leases {
        let Some(shard_id) = stream.shard_of(&lease.key) else { continue };
        if leased.insert(shard_id, lease).is_some() {
            return Err(refusal(
                table,
                format!("holds two leases of shard {shard_id}"),
                "delete the one that the KCL application does not use, then submit again",
            ));
        }
    }
    if leased.is_empty() {
        return Err(refusal(
            table,
            format!("holds no lease of the stream (its keys would begin with {})", stream.prefix),
            "name the lease table of the KCL application that reads this stream: it has the \
             application's name",
        ));
    }
    Family::new(&leased, listed).judge(table)
}

/// Sees that each checkpoint is the last user record of its record.
///
/// # Errors
/// [`Code::KclCheckpoint`] naming the shards where it is not.
pub fn check_records(table: &str, looked: &[(Look, Found)]) -> Result<(), Error> {
    let mut doubts = Vec::new();
    for (look, found) in looked {
        let Look { shard_id, number, sub_sequence_number: sub } = look;
        match found {
            // What it says is processed is not read. Whether what follows is there, the resume
            // finds out as after any outage.
            Found::Trimmed => {}
            Found::UserRecords(num) if *num as u64 == sub + 1 => {}
            Found::UserRecords(num) => doubts.push(format!(
                "{shard_id} (at {number}, user record {sub} of 0 to {})",
                num.saturating_sub(1)
            )),
            Found::NeverThere => {
                return Err(refusal(
                    table,
                    format!("has the checkpoint {number}, which shard {shard_id} never held"),
                    "see that the table is of this stream, and not of an older one of its name",
                ));
            }
        }
    }
    if doubts.is_empty() {
        return Ok(());
    }
    Err(refusal(
        table,
        format!("has checkpoints inside aggregated records: {}", named(&doubts)),
        "run the KCL application until it checkpoints whole records, as `checkpoint()` without \
         arguments does at its shutdown; then submit again",
    ))
}

fn refusal(table: &str, what: String, next: &str) -> Error {
    Error::new(Code::KclCheckpoint, format!("the KCL lease table {table} {what}"), next)
}

fn named<T: AsRef<str>>(items: &[T]) -> String {
    let shown: Vec<&str> = items.iter().take(NAMED_MAX).map(AsRef::as_ref).collect();
    match items.len().saturating_sub(NAMED_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// What became of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing of it is to be read.
    Done,
    /// It is read from here on.
    Begun,
    /// It waits for a parent.
    Waiting,
}

/// The listed shards with their leases.
struct Family<'a> {
    leased: &'a BTreeMap<&'a str, &'a Lease>,
    parents: BTreeMap<&'a str, &'a [String]>,
    /// Shards of which a descendant is processed.
    before: BTreeSet<&'a str>,
    fates: BTreeMap<&'a str, Fate>,
    import: Import,
    /// Leases that began where the table does not say.
    vague: Vec<String>,
    /// Leases that were processed before their parents' ends.
    early: Vec<String>,
}

impl<'a> Family<'a> {
    fn new(leased: &'a BTreeMap<&'a str, &'a Lease>, listed: &'a [ListedShard]) -> Self {
        let parents: BTreeMap<&str, &[String]> =
            listed.iter().map(|shard| (&*shard.shard_id, &*shard.parents)).collect();
        let mut before = BTreeSet::new();
        let processed = leased.iter().filter(|(_, lease)| lease.checkpoint.has_processed());
        let mut border: Vec<&str> = processed.map(|(id, _)| *id).collect();
        while let Some(id) = border.pop() {
            for parent in parents.get(id).copied().unwrap_or_default() {
                if before.insert(&**parent) {
                    border.push(parent);
                }
            }
        }
        Self {
            leased,
            parents,
            before,
            fates: BTreeMap::new(),
            import: Import::default(),
            vague: Vec::new(),
            early: Vec::new(),
        }
    }

    fn judge(mut self, table: &str) -> Result<Import, Error> {
        self.unlisted();
        let mut left: Vec<&str> = self.parents.keys().copied().collect();
        // Parents first: a shard is judged when all its listed parents are.
        while !left.is_empty() {
            let (ready, rest): (Vec<_>, Vec<_>) = left.iter().partition(|id| {
                let mut parents = self.parents[**id].iter();
                parents.all(|p| self.fates.contains_key(&**p) || !self.parents.contains_key(&**p))
            });
            if ready.is_empty() {
                return Err(Error::internal(format!("shards are their own ancestors: {rest:?}")));
            }
            for id in ready {
                let fate = self.place(id);
                self.fates.insert(id, fate);
            }
            left = rest;
        }
        if !self.early.is_empty() {
            return Err(refusal(
                table,
                format!(
                    "has checkpoints in shards whose parents have not ended: {}",
                    named(&self.early)
                ),
                "see that the table is of this stream, and that nobody has changed it by hand",
            ));
        }
        if !self.vague.is_empty() {
            return Err(refusal(
                table,
                format!(
                    "does not say how much of these shards was processed: {}",
                    named(&self.vague)
                ),
                "run the KCL application until it has a checkpoint in each of them; or, to read one \
                 from its oldest record, set its lease's checkpoint to TRIM_HORIZON",
            ));
        }
        Ok(self.import)
    }

    /// Leases of shards that Kinesis lists no more. One that has not ended there is lost, which is
    /// for the source's policy to say.
    fn unlisted(&mut self) {
        for (id, lease) in self.leased.iter().filter(|(id, _)| !self.parents.contains_key(*id)) {
            let (fate, position) = match lease.checkpoint {
                Checkpoint::ShardEnd => (Fate::Done, ended()),
                Checkpoint::Number(number) => (Fate::Begun, at(number)),
                _ => (Fate::Begun, Position::default()),
            };
            self.fates.insert(*id, fate);
            self.import.positions.insert((*id).to_owned(), position);
        }
    }

    fn place(&mut self, id: &'a str) -> Fate {
        // The KCL lets a child begin when its parent has ended or has no lease any more.
        let is_done =
            |parent: &String| self.fates.get(&**parent).is_none_or(|fate| *fate == Fate::Done);
        let may_begin = self.parents[id].iter().all(is_done);
        let lease = self.leased.get(id).copied();
        if !may_begin && lease.is_some_and(|lease| lease.checkpoint.has_processed()) {
            self.early.push(id.to_owned());
        }
        let (fate, position) = match lease.map(|lease| lease.checkpoint) {
            Some(Checkpoint::Latest | Checkpoint::AtTimestamp) => {
                self.vague.push(id.to_owned());
                return Fate::Begun;
            }
            Some(Checkpoint::ShardEnd) => (Fate::Done, ended()),
            Some(Checkpoint::Number(number)) => {
                self.import.looks.push(Look {
                    shard_id: id.to_owned(),
                    number,
                    sub_sequence_number: lease.map_or(0, |lease| lease.sub_sequence_number),
                });
                (Fate::Begun, at(number))
            }
            Some(Checkpoint::TrimHorizon) | None if !may_begin => return Fate::Waiting,
            Some(Checkpoint::TrimHorizon) => (Fate::Begun, Position::default()),
            // Its lease was deleted after its end, or the application began behind it.
            None if self.before.contains(id) => (Fate::Done, ended()),
            // New, or left out: nothing of it was processed.
            None => (Fate::Begun, Position::default()),
        };
        self.import.positions.insert(id.to_owned(), position);
        fate
    }
}

fn ended() -> Position {
    Position { ended: true, ..Position::default() }
}

fn at(number: SequenceNumber) -> Position {
    Position { sequence_number: Some(number), ..Position::default() }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
