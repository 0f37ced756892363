//! Where each source begins: fixed once, by k0, and read from the head ever after.
//!
//! Promises: a source is given the same start by every attempt until its first commit and after.
//! Never does: write the head.

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::application::replay::Range;
use millrace_common::application::{
    ApplicationSpec, DataLossPolicy, Receivers, SourceSpec, StartPosition,
};
use millrace_common::error::{Code, Error};
use millrace_common::position::ShardKey;

use crate::driver::head::{Head, Positions, ResetRequest, SourceStart, StartFrom};
use crate::driver::kcl::{self, LeaseTables};
use crate::driver::receivers::assignment::Layout;
use crate::driver::receivers::core::{SourceSetup, Stream};
use crate::driver::receivers::discovery::{Description, Filter, Streams};
use crate::driver::receivers::lineage::Start;

/// Asks Kinesis where the named sources begin, if they begin now. A replay must find its `range` held
/// by each of them.
///
/// # Errors
/// [`Code::ReplayRange`]; when a start lies in the future or before the oldest record; else what
/// Kinesis says.
pub async fn first_starts(
    sources: impl IntoIterator<Item = (&String, StartPosition)>,
    range: Option<Range>,
    streams: &BTreeMap<String, Description>,
    kinesis: &dyn Streams,
    leases: &dyn LeaseTables,
) -> Result<BTreeMap<String, SourceStart>, Error> {
    let mut starts = BTreeMap::new();
    for (name, position) in sources {
        let description = streams
            .get(name)
            .ok_or_else(|| Error::internal(format!("source {name} was not checked")))?;
        let start = first_start(name, position, range, description, kinesis, leases).await?;
        starts.insert(name.clone(), start);
    }
    Ok(starts)
}

async fn first_start(
    name: &str,
    position: StartPosition,
    range: Option<Range>,
    description: &Description,
    kinesis: &dyn Streams,
    leases: &dyn LeaseTables,
) -> Result<SourceStart, Error> {
    let stream = &description.stream;
    let all = kinesis.list(stream, Filter::All).await?;
    let from = match position {
        StartPosition::Earliest => StartFrom::Earliest,
        StartPosition::Latest => {
            let open = all.shards.into_iter().filter(|shard| shard.open);
            StartFrom::Latest { open_shards: open.map(|shard| shard.shard_id).collect() }
        }
        StartPosition::Timestamp(at_ms) => {
            match range {
                None => check_timestamp(name, at_ms, all.server_ms, description)?,
                Some(range) => {
                    let (retention, created_ms) = (description.retention, stream.created_ms);
                    range.check_held(&stream.name, retention, created_ms, all.server_ms)?;
                }
            }
            let open_shards = if at_ms <= stream.created_ms {
                // Everything there is began later.
                let roots = all.shards.iter().filter(|shard| {
                    !all.shards.iter().any(|other| shard.parents.contains(&other.shard_id))
                });
                roots.map(|shard| shard.shard_id.clone()).collect()
            } else {
                let open = kinesis.list(stream, Filter::OpenAt(at_ms)).await?;
                open.shards.into_iter().map(|shard| shard.shard_id).collect()
            };
            StartFrom::Timestamp { at_ms, open_shards }
        }
        StartPosition::Kcl(table) => {
            let positions = kcl::import(leases, kinesis, &table, stream).await?;
            StartFrom::TakenOver { positions }
        }
    };
    Ok(SourceStart {
        stream_arn: stream.arn.clone(),
        stream_created_ms: stream.created_ms,
        fixed_ms: all.server_ms,
        from,
    })
}

fn check_timestamp(
    name: &str,
    at_ms: i64,
    server_ms: i64,
    description: &Description,
) -> Result<(), Error> {
    let shown = StartPosition::Timestamp(at_ms);
    let retention_ms = i64::try_from(description.retention.as_millis()).unwrap_or(i64::MAX);
    // A second is what an HTTP Date can be off by.
    if server_ms > 0 && at_ms > server_ms + 1_000 {
        return Err(Error::new(
            Code::InvalidValue,
            format!("source {name} starts at {shown}, which is in the future"),
            "give a time in the past, or \"latest\"",
        ));
    }
    if server_ms > 0 && at_ms < server_ms - retention_ms && at_ms > description.stream.created_ms {
        return Err(Error::new(
            Code::InvalidValue,
            format!(
                "source {name} starts at {shown}, and stream {} keeps records for {} hours only",
                description.stream.name,
                description.retention.as_secs() / 3600
            ),
            "give a later time, or \"earliest\" for the oldest record there is",
        ));
    }
    Ok(())
}

/// The start positions of the application file, by source.
pub fn wanted(spec: &ApplicationSpec) -> impl Iterator<Item = (&String, StartPosition)> {
    spec.sources.iter().map(|(name, source)| (name, source.start.clone()))
}

/// True for a source without a start, or with one in a stream that is not the one of today (and of
/// which nothing was committed, or [`dropped`] has said so before).
pub fn is_new(
    start: Option<&SourceStart>,
    streams: &BTreeMap<String, Description>,
    source: &str,
) -> bool {
    let stream = streams.get(source).map(|description| &description.stream);
    match (start, stream) {
        (Some(start), Some(stream)) => {
            start.stream_arn != stream.arn || start.stream_created_ms != stream.created_ms
        }
        _ => true,
    }
}

/// The same start for every source: what a reset asks for.
pub fn reset_to(
    spec: &ApplicationSpec,
    request: ResetRequest,
) -> impl Iterator<Item = (&String, StartPosition)> {
    let position = match request {
        ResetRequest::Earliest => StartPosition::Earliest,
        ResetRequest::Latest => StartPosition::Latest,
        ResetRequest::Timestamp(ms) => StartPosition::Timestamp(ms),
    };
    spec.sources.keys().map(move |name| (name, position.clone()))
}

/// The sources of the head's positions that this application does not have, or has in another
/// stream than the one the positions are of.
///
/// # Errors
/// [`Code::SourceChanged`] names one whose positions may not be given up.
pub fn dropped(
    positions: &Positions,
    streams: &BTreeMap<String, Description>,
    may_drop: &BTreeSet<String>,
) -> Result<BTreeSet<String>, Error> {
    let mut dropped = BTreeSet::new();
    for shard in positions.keys() {
        let what = match streams.get(&shard.source).map(|description| &description.stream) {
            None => format!("source {}, which the application does not have", shard.source),
            Some(stream) if stream.arn != shard.stream_arn => {
                format!("source {} in another stream ({})", shard.source, shard.stream_arn)
            }
            Some(stream) if stream.created_ms != shard.stream_created_ms => {
                format!("source {} in a stream that was deleted and made again", shard.source)
            }
            Some(_) => continue,
        };
        if !may_drop.contains(&shard.source) {
            return Err(Error::new(
                Code::SourceChanged,
                format!("the head holds positions of {what}"),
                format!(
                    "restore the source, or give its positions up: submit with --drop-source {}",
                    shard.source
                ),
            ));
        }
        dropped.insert(shard.source.clone());
    }
    Ok(dropped)
}

/// What the receivers' core must know of each source.
///
/// # Errors
/// When the head has no start for a source: a defect, since starts are fixed before.
pub fn setups(
    spec: &ApplicationSpec,
    streams: &BTreeMap<String, Description>,
    starts: &BTreeMap<String, SourceStart>,
) -> Result<Vec<SourceSetup>, Error> {
    let setup = |(name, source): (&String, &SourceSpec)| {
        let (Some(description), Some(start)) = (streams.get(name), starts.get(name)) else {
            return Err(Error::internal(format!("source {name} has no start")));
        };
        Ok(SourceSetup {
            name: name.clone(),
            stream: description.stream.clone(),
            start: start_of(start),
            retention: description.retention,
            layout: layout(source.receivers),
            survives_loss: source.on_data_loss == DataLossPolicy::Continue,
            copies: source.storage_level.copies(),
        })
    };
    spec.sources.iter().map(setup).collect()
}

fn layout(receivers: Receivers) -> Layout {
    match receivers {
        Receivers::PerExecutor => Layout::PerExecutor,
        Receivers::PerShard => Layout::PerShard,
        Receivers::Count(count) => Layout::Count(count),
    }
}

fn start_of(start: &SourceStart) -> Start {
    let at = |timestamp_ms, shards: &BTreeSet<String>| Start::At {
        timestamp_ms,
        shards: shards.clone(),
    };
    match &start.from {
        // Every shard that was listed has a position, or an ancestor with one.
        StartFrom::Earliest | StartFrom::TakenOver { .. } => Start::Earliest,
        // All that the stream ever held: what it has let go of already is not missing.
        StartFrom::Timestamp { at_ms, .. } if *at_ms <= start.stream_created_ms => Start::Earliest,
        StartFrom::Latest { open_shards } => at(start.fixed_ms, open_shards),
        StartFrom::Timestamp { at_ms, open_shards } => at(*at_ms, open_shards),
    }
}

/// Where each shard goes on: the head's positions, and for a source that has none yet those that
/// it took over.
#[must_use]
pub fn positions(head: &Head) -> Positions {
    let mut positions = head.positions.clone();
    for (source, start) in &head.starts {
        let StartFrom::TakenOver { positions: taken } = &start.from else { continue };
        if head.positions.keys().any(|shard| shard.source == *source) {
            continue;
        }
        positions.extend(taken.iter().map(|(shard_id, position)| {
            let shard = ShardKey {
                source: source.clone(),
                stream_arn: start.stream_arn.clone(),
                stream_created_ms: start.stream_created_ms,
                shard_id: shard_id.clone(),
            };
            (shard, *position)
        }));
    }
    positions
}

/// Streams alone, by source.
#[must_use]
pub fn streams_of(descriptions: &BTreeMap<String, Description>) -> BTreeMap<String, Stream> {
    descriptions.iter().map(|(name, d)| (name.clone(), d.stream.clone())).collect()
}
