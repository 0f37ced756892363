//! Taking a source over from the Kinesis Client Library (KCL): its lease table, read once, becomes
//! the positions that the source begins at.
//!
//! Promises: what the table says was processed is not read, everything else is; where that can not
//! be said of a shard, nothing begins. Owned by the acquisition of the head. Never does: write to
//! the lease table, or take anything over while its owner lives.

pub mod aws;
pub mod core;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _};
use millrace_common::error::Error;
use millrace_common::position::{Position, SequenceNumber};

use self::core::{Found, Import, Lease, Look, StreamName};
use super::receivers::core::Stream;
use super::receivers::discovery::{Filter, Streams};

/// Between the two looks at a table that somebody owns. A worker of the KCL renews its leases every
/// third of its failover time, which is 10 s by default: so this finds it with failover times of
/// up to half a minute.
pub const LIVENESS_WAIT: Duration = Duration::from_secs(11);
/// Records looked at at the same time: each is of another shard, so that only the connections count.
const LOOKS_AT_ONCE: usize = 16;

/// Lease tables and single records, as the import needs them.
#[async_trait]
pub trait LeaseTables: Send + Sync + 'static {
    /// All leases of a table, as of now.
    async fn leases(&self, table: &str) -> Result<Vec<Lease>, Error>;

    /// What stands at a sequence number of a shard.
    async fn look(
        &self,
        stream: &Stream,
        shard_id: &str,
        at: SequenceNumber,
    ) -> Result<Found, Error>;
}

/// Where the application `table` had left off in `stream`, by shard.
///
/// # Errors
/// [`Code::KclLive`](millrace_common::Code::KclLive) while it runs,
/// [`Code::KclCheckpoint`](millrace_common::Code::KclCheckpoint) naming the leases that can not be
/// taken over exactly; else what AWS says.
pub async fn import(
    tables: &dyn LeaseTables,
    kinesis: &dyn Streams,
    table: &str,
    stream: &Stream,
) -> Result<BTreeMap<String, Position>, Error> {
    let mut leases = tables.leases(table).await?;
    if core::is_owned(&leases) {
        tracing::info!(table, wait = ?LIVENESS_WAIT, "the leases have owners: seeing whether one lives");
        tokio::time::sleep(LIVENESS_WAIT).await;
        let later = tables.leases(table).await?;
        core::check_still(table, &leases, &later)?;
        leases = later;
    }
    // After the leases: a shard that the KCL has heard of is in it.
    let listed = kinesis.list(stream, Filter::All).await?;
    let name = StreamName::of(&stream.arn, &stream.name, stream.created_ms);
    let import = core::judge(table, &name, &leases, &listed.shards)?;
    let looked: Vec<(Look, Found)> = futures::stream::iter(import.looks.clone())
        .map(|look| async move {
            let found = tables.look(stream, &look.shard_id, look.number).await?;
            Ok::<_, Error>((look, found))
        })
        .buffered(LOOKS_AT_ONCE)
        .try_collect()
        .await?;
    core::check_records(table, &looked)?;
    tell(table, &import, &looked);
    Ok(import.positions)
}

/// Says what was taken over, for the log of the first attempt.
fn tell(table: &str, import: &Import, looked: &[(Look, Found)]) {
    for (look, _) in looked.iter().filter(|(_, found)| *found == Found::Trimmed) {
        tracing::warn!(
            table,
            shard = %look.shard_id,
            checkpoint = %look.number,
            sub_sequence_number = look.sub_sequence_number,
            "the stream does not hold the record of this checkpoint any more"
        );
    }
    let num_ended = import.positions.values().filter(|position| position.ended).count();
    let num_shards = import.positions.len();
    tracing::info!(table, num_shards, num_ended, "the KCL's checkpoints are taken over");
}
