//! What Kinesis says of a source's stream: its description and its shards, and what they show to be
//! lost.
//!
//! Promises: a stream counts as gone only when its description says so, and a shard that is being
//! read only when Kinesis did not find it *and* a listing that began later lacks it. What is lost is
//! named with its shard and where the loss begins. Never does: call Kinesis.

use std::time::Duration;

use millrace_common::error::{Code, Error};
use millrace_common::position::{Position, ShardKey};

use super::{Core, Effect, Stream};
use crate::driver::receivers::lineage::{ListedShard, Loss};

/// What to do about records that are gone.
const AFTER_A_LOSS: &str =
    "reset the application to a new start, or set on_data_loss = \"continue\" to go on";

/// A shard that Kinesis did not find when it was to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// True when its reader said so, and waits.
    by_reader: bool,
    seen: Seen,
}

/// What the listings say of such a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// None has begun since it was told.
    NotYet,
    /// One is under way that began later.
    Asked,
    /// It is listed all the same, and is tried again.
    Listed,
}

impl Core {
    /// A listing of a source's shards begins.
    pub fn listing_begins(&mut self, source: &str) {
        self.missing_of(source, Seen::NotYet, Seen::Asked);
    }

    /// The listing of a source that was asked for could not be had.
    pub fn listing_failed(&mut self, source: &str) {
        self.missing_of(source, Seen::Asked, Seen::NotYet);
        if let Some(source) = self.sources.get_mut(source) {
            source.listing_is_stale = true;
        }
    }

    fn missing_of(&mut self, source: &str, from: Seen, to: Seen) {
        let mine = self.missing.iter_mut().filter(|(shard, _)| shard.source == source);
        for (_, missing) in mine.filter(|(_, missing)| missing.seen == from) {
            missing.seen = to;
        }
    }

    /// A complete listing of a source's shards arrived, made at this server time.
    pub fn listed(
        &mut self,
        source: &str,
        shards: Vec<ListedShard>,
        server_ms: i64,
        now: Duration,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(entry) = self.sources.get_mut(source) else { return effects };
        entry.listing_is_stale = false;
        entry.listed_ms = entry.listed_ms.max(server_ms);
        let mut losses = entry.lineage.list(shards);
        losses.extend(self.judge_missing(source, now));
        losses.dedup();
        losses.retain(|loss| !self.is_read_all_the_same(source, loss));
        for loss in losses {
            effects.push(self.lose_shard(source, &loss, now));
        }
        self.end_empty_ranges();
        effects.extend(self.place(now));
        effects
    }

    /// A source's stream as it is described today. When it is another one than the one that is
    /// read, under the same name, the application can not go on: its positions are none of this
    /// one. How long it keeps records, and how it spreads them, may change while it is read: its
    /// shards get new readers then, which judge by what is true now.
    pub fn described(
        &mut self,
        source: &str,
        today: &Stream,
        retention: Duration,
        now: Duration,
    ) -> Vec<Effect> {
        let Some(entry) = self.sources.get_mut(source) else { return Vec::new() };
        let stream = &entry.setup.stream;
        if stream.created_ms != today.created_ms {
            return vec![Effect::Fail(Error::new(
                Code::SourceChanged,
                format!(
                    "stream {} of source {source} was deleted and made again while it was read",
                    stream.name
                ),
                "reset the application to begin with the new stream; what was read of the old one \
                 and not committed is lost with it",
            ))];
        }
        if (entry.setup.retention, stream.keyed) == (retention, today.keyed) {
            return Vec::new();
        }
        tracing::info!(source, ?retention, keyed = today.keyed, "the stream's settings changed");
        (entry.setup.retention, entry.setup.stream.keyed) = (retention, today.keyed);
        let read = self.assignment.keys().filter(|shard| shard.source == source);
        for shard in read {
            self.ledger.unassign(shard, now);
        }
        self.place(now)
    }

    /// Kinesis does not know a source's stream, by its description.
    #[must_use]
    pub fn stream_missing(&self, source: &str, cause: Error) -> Vec<Effect> {
        let Some(entry) = self.sources.get(source) else { return Vec::new() };
        let name = &entry.setup.stream.name;
        let error = Error::new(
            Code::StreamMissing,
            format!("stream {name} of source {source} was deleted while it was read"),
            format!(
                "make the stream again and reset the application, or drop the source: submit with \
                 --drop-source {source}"
            ),
        );
        vec![Effect::Fail(error.caused_by(cause))]
    }

    /// Kinesis did not find a shard. Whether it is gone the next listing shows, which is asked for
    /// at once; a shard that was listed after all waits for the listing that comes by itself.
    pub(super) fn not_found(&mut self, shard: &ShardKey, by_reader: bool) -> Vec<Effect> {
        if let Some(missing) = self.missing.get_mut(shard) {
            missing.by_reader |= by_reader;
            if missing.seen == Seen::Listed {
                missing.seen = Seen::NotYet;
            }
            return Vec::new();
        }
        tracing::warn!(%shard, "Kinesis does not find the shard: its listing will show why");
        self.missing.insert(shard.clone(), Missing { by_reader, seen: Seen::NotYet });
        vec![Effect::Discover(shard.source.clone())]
    }

    /// Holds the shards that were not found against the listing that came later.
    fn judge_missing(&mut self, source: &str, now: Duration) -> Vec<Loss> {
        let asked = |(shard, missing): &(&ShardKey, &Missing)| {
            shard.source == source && missing.seen == Seen::Asked
        };
        let asked: Vec<_> =
            self.missing.iter().filter(asked).map(|(s, m)| (s.clone(), *m)).collect();
        let mut losses = Vec::new();
        for (shard, missing) in asked {
            let Some(entry) = self.sources.get(source) else { continue };
            if entry.lineage.is_listed(&shard.shard_id) {
                self.missing
                    .insert(shard.clone(), Missing { by_reader: false, seen: Seen::Listed });
                if missing.by_reader {
                    self.ledger.unassign(&shard, now);
                }
                continue;
            }
            self.missing.remove(&shard);
            if entry.lineage.is_reading(&shard.shard_id) && !self.ledger.is_ended(&shard) {
                losses.push(Loss::Vanished(shard.shard_id.clone()));
            }
            self.blocks_are_gone_with(&shard);
        }
        losses
    }

    fn lose_shard(&mut self, source: &str, loss: &Loss, now: Duration) -> Effect {
        let Some(entry) = self.sources.get_mut(source) else {
            return Effect::Fail(Error::internal(format!("a loss in unknown source {source}")));
        };
        let key = entry.setup.stream.shard(source, loss.shard_id());
        let tail = self.ledger.reading(&key).and_then(|(_, position)| position.sequence_number);
        let from = match (loss, tail) {
            (Loss::Vanished(_), Some(tail)) => format!("; nothing after {tail} can be read"),
            _ => String::new(),
        };
        let error = Error::new(
            Code::DataLost,
            format!(
                "records of source {source} (stream {}) are lost: {loss}{from}",
                entry.setup.stream.name
            ),
            AFTER_A_LOSS,
        );
        if !entry.setup.survives_loss {
            return Effect::Fail(error);
        }
        entry.lineage.accept(loss);
        self.ledger.open(key.clone(), Position::default(), now);
        if !matches!(loss, Loss::Orphan(_)) {
            self.ledger.end_with_gap(&key, now);
        }
        self.troubles.remove(&key);
        self.lags.remove(&key);
        self.gap(&key, error)
    }

    /// Blocks of these shards, not yet in a batch, are gone. Where the shard itself is gone too,
    /// nobody can read them again.
    pub(super) fn went_with_their_shard(&mut self, rolled_back: &[ShardKey]) -> Vec<Effect> {
        let gone = rolled_back.iter().filter(|shard| self.ledger.is_ended(shard));
        let gone: Vec<ShardKey> = gone.cloned().collect();
        let lose = |shard: ShardKey| {
            let (_, position) = self.ledger.reading(&shard).unwrap_or_default();
            let after = position.sequence_number;
            let after = after.map_or_else(|| "its start".to_owned(), |after| after.to_string());
            let error = Error::new(
                Code::DataLost,
                format!(
                    "records of {shard} after {after} are lost: Kinesis lists the shard no more, \
                     and the executor that had read them is gone"
                ),
                AFTER_A_LOSS,
            );
            self.gap(&shard, error)
        };
        gone.into_iter().map(lose).collect()
    }
}
