//! Receivers, shards and the streams' limits: who reads how much, and how much a stream gives.

use std::collections::BTreeMap;

use serde::Serialize;

use super::line::{Line, Status, about, counted, grouped};
use crate::application::{ApplicationSpec, Receivers};

/// What one shard gives all its readers together, in bytes a second.
pub(super) const READ_BYTES_PER_SHARD: u64 = 2 << 20;
/// Calls of GetRecords that one shard answers in a second, whoever calls.
const READ_CALLS_PER_SHARD: u64 = 5;
/// What producers may put into one shard, in bytes a second.
const WRITTEN_BYTES_PER_SHARD: u64 = 1 << 20;

/// A source's receivers and shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceSum {
    /// Name of the source.
    pub name: String,
    /// Name of its stream.
    pub stream: String,
    /// Open shards; none when not known.
    pub num_shards: Option<u64>,
    /// Receivers that read; none when not known.
    pub num_receivers: Option<u64>,
    /// Fewest shards that an executor reads of it; none when not known.
    pub shards_per_executor_min: Option<u64>,
    /// Most shards that an executor reads of it; none when not known.
    pub shards_per_executor_max: Option<u64>,
    /// Sources of the application that read this stream, this one included: they share its limits.
    pub num_readers: u64,
    /// Most bytes a second that this source can read; none when not known.
    pub read_bytes_per_s: Option<u64>,
    /// Most calls a second that this source may make; none when not known.
    pub read_calls_per_s: Option<u64>,
}

/// A stream's name, of a name or an ARN.
fn stream_name(stream: &str) -> &str {
    stream.rsplit_once('/').map_or(stream, |(_, name)| name)
}

pub(super) fn sums(
    spec: &ApplicationSpec,
    shards: &BTreeMap<String, u32>,
    executors: u32,
) -> Vec<SourceSum> {
    let of_stream = |stream: &str| {
        let names = spec.sources.values().map(|source| stream_name(&source.stream));
        names.filter(|name| *name == stream).count() as u64
    };
    let source = |(name, source): (&String, &crate::application::SourceSpec)| {
        let stream = stream_name(&source.stream);
        let num_shards = shards.get(name).map(|count| u64::from(*count));
        let layout = num_shards.map(|shards| Layout::of(source.receivers, shards, executors));
        let num_readers = of_stream(stream);
        let part = |per_shard| num_shards.map(|shards: u64| shards * per_shard / num_readers);
        SourceSum {
            name: name.clone(),
            stream: stream.to_owned(),
            num_shards,
            num_receivers: layout.map(|layout| layout.receivers),
            shards_per_executor_min: layout.map(|layout| layout.fewest),
            shards_per_executor_max: layout.map(|layout| layout.most),
            num_readers,
            read_bytes_per_s: part(READ_BYTES_PER_SHARD),
            read_calls_per_s: part(READ_CALLS_PER_SHARD),
        }
    };
    spec.sources.iter().map(source).collect()
}

/// How the shards of a source lie on its executors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    receivers: u64,
    /// Shards on an executor, at least and at most.
    fewest: u64,
    most: u64,
}

impl Layout {
    fn of(receivers: Receivers, shards: u64, executors: u32) -> Self {
        let executors = u64::from(executors.max(1));
        match receivers {
            Receivers::PerExecutor | Receivers::PerShard => Self {
                receivers: match receivers {
                    Receivers::PerShard => shards,
                    _ => executors.min(shards),
                },
                fewest: shards / executors,
                most: shards.div_ceil(executors),
            },
            Receivers::Count(count) => {
                let count = u64::from(count.max(1));
                let (each, more) = (count / executors, count.div_ceil(executors));
                // Of its receivers so many read one shard more than the others.
                let fuller = more.min(shards % count);
                Self {
                    receivers: count.min(shards),
                    fewest: each * (shards / count),
                    most: more * (shards / count) + fuller,
                }
            }
        }
    }
}

/// Most shards that one executor reads of all sources together.
pub(super) fn most_per_executor(sources: &[SourceSum]) -> Option<u64> {
    sources.iter().map(|source| source.shards_per_executor_max).sum()
}

/// One line a source: its receivers and what each executor reads.
pub(super) fn receivers(sources: &[SourceSum], executors: u32) -> Vec<Line> {
    let line = |source: &SourceSum| {
        let what = format!("receivers of {}", source.name);
        let (Some(shards), Some(receivers)) = (source.num_shards, source.num_receivers) else {
            let has = format!("the shards of {} are not known: give --shards", source.stream);
            return Line::new(what, "? shards".to_owned(), has, Status::Unknown);
        };
        let fewest = source.shards_per_executor_min.unwrap_or_default();
        let most = source.shards_per_executor_max.unwrap_or_default();
        let each = counted(most, "shard");
        let each = if fewest == most { each } else { format!("{fewest} to {each}") };
        let has = format!(
            "{} on {}, {each} on each",
            counted(receivers, "receiver"),
            counted(u64::from(executors), "executor"),
        );
        Line::new(what, counted(shards, "shard"), has, Status::Ok)
    };
    sources.iter().map(line).collect()
}

/// One line a stream: what may be written to it, and what it gives.
pub(super) fn reads(sources: &[SourceSum]) -> Vec<Line> {
    let mut streams: BTreeMap<&str, &SourceSum> = BTreeMap::new();
    for source in sources {
        streams.entry(&source.stream).or_insert(source);
    }
    streams.into_values().map(read).collect()
}

fn read(source: &SourceSum) -> Line {
    let what = format!("reads of {}", source.stream);
    let readers = source.num_readers;
    let times = if readers > 1 { format!("{readers} sources x ") } else { String::new() };
    let Some(shards) = source.num_shards else {
        let has = "2MiB/s and 5 calls/s for each shard".to_owned();
        return Line::new(what, format!("{times}1MiB/s a shard"), has, Status::Unknown);
    };
    let bytes = |per_shard: u64| about(shards.saturating_mul(per_shard));
    let needs = format!("{times}{}/s at most", bytes(WRITTEN_BYTES_PER_SHARD));
    let calls = grouped(shards * READ_CALLS_PER_SHARD);
    let has = format!(
        "{} x 2MiB/s = {}/s, {calls} calls/s",
        counted(shards, "shard"),
        bytes(READ_BYTES_PER_SHARD)
    );
    if readers * WRITTEN_BYTES_PER_SHARD <= READ_BYTES_PER_SHARD {
        return Line::new(what, needs, has, Status::Ok);
    }
    let why = format!(
        "{readers} sources read stream {} and share the 2MiB/s of each shard: none keeps up with \
         more than {}/s written to a shard",
        source.stream,
        about(READ_BYTES_PER_SHARD / readers)
    );
    Line::new(what, needs, has, Status::Tight).because(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_spread_evenly_whatever_the_receivers() {
        let of = |receivers, shards, executors| {
            let layout = Layout::of(receivers, shards, executors);
            (layout.receivers, layout.fewest, layout.most)
        };
        assert_eq!(of(Receivers::PerExecutor, 36, 16), (16, 2, 3));
        assert_eq!(of(Receivers::PerShard, 36, 16), (36, 2, 3));
        assert_eq!(of(Receivers::PerExecutor, 2, 3), (2, 0, 1));
        assert_eq!(of(Receivers::Count(4), 36, 16), (4, 0, 9));
        assert_eq!(of(Receivers::Count(3), 7, 2), (3, 2, 5));
        assert_eq!(of(Receivers::Count(9), 2, 2), (2, 0, 2));
    }

    #[test]
    fn a_stream_has_one_name() {
        let arn = "arn:aws:kinesis:eu-west-1:1:stream/app-logs";
        assert_eq!((stream_name(arn), stream_name("app-logs")), ("app-logs", "app-logs"));
    }
}
