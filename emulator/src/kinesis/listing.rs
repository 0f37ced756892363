//! Which shards a listing shows: the filters of ListShards and the cut into pages, as pure decisions.

use super::error::{KinesisError, KinesisResult};
use super::topology::{ShardEntry, Topology};
use serde::{Deserialize, Serialize};

/// The most shards in one page.
pub(crate) const MAX_SHARDS_PER_PAGE: usize = 1000;

/// The filters of ListShards; times are milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ShardFilter {
    /// Every listed shard.
    All,
    /// Shards above this one.
    AfterShard(u32),
    /// Open shards.
    AtLatest,
    /// Shards that were open at the trim horizon.
    AtTrimHorizon,
    /// Shards from the trim horizon on: all of them.
    FromTrimHorizon,
    /// Shards that were open at a time.
    AtTimestamp(u64),
    /// Shards that were open at a time or made later.
    FromTimestamp(u64),
}

impl ShardFilter {
    /// Reads the members of a ShardFilter.
    pub(crate) fn parse(
        kind: &str,
        shard: Option<u32>,
        time_ms: Option<u64>,
    ) -> KinesisResult<Self> {
        let need_time = || {
            time_ms.ok_or_else(|| {
                KinesisError::invalid_argument(format!(
                    "Timestamp must be provided with ShardFilter type {kind}."
                ))
            })
        };
        Ok(match kind {
            "AT_LATEST" => Self::AtLatest,
            "AT_TRIM_HORIZON" => Self::AtTrimHorizon,
            "FROM_TRIM_HORIZON" => Self::FromTrimHorizon,
            "AT_TIMESTAMP" => Self::AtTimestamp(need_time()?),
            "FROM_TIMESTAMP" => Self::FromTimestamp(need_time()?),
            "AFTER_SHARD_ID" => Self::AfterShard(shard.ok_or_else(|| {
                KinesisError::invalid_argument(
                    "ShardId must be provided with ShardFilter type AFTER_SHARD_ID.",
                )
            })?),
            _ => {
                return Err(KinesisError::constraint(
                    kind,
                    "shardFilter.type",
                    "satisfy enum value set: [AT_TIMESTAMP, FROM_TIMESTAMP, AT_TRIM_HORIZON, \
                     FROM_TRIM_HORIZON, AT_LATEST, AFTER_SHARD_ID]",
                ));
            }
        })
    }

    fn shows(self, shard: &ShardEntry, horizon_ms: u64) -> bool {
        let open_until = |time_ms| shard.closed_ms.is_none_or(|closed| closed >= time_ms);
        let open_at = |time_ms| shard.created_ms <= time_ms && open_until(time_ms);
        match self {
            Self::All | Self::FromTrimHorizon => true,
            Self::AfterShard(index) => shard.index > index,
            Self::AtLatest => shard.is_open(),
            Self::AtTrimHorizon => open_at(horizon_ms),
            Self::AtTimestamp(time_ms) => open_at(time_ms),
            Self::FromTimestamp(time_ms) => open_until(time_ms),
        }
    }
}

/// A listing of shards, as far as it has not been shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListShardsQuery {
    pub(crate) filter: ShardFilter,
    pub(crate) after: Option<u32>,
}

impl ListShardsQuery {
    /// The next at most `max` shards, and what is left after them. `horizon_ms` is the oldest time
    /// that retention keeps, or the creation of the stream if that is later.
    pub(crate) fn page<'t>(
        &self,
        topology: &'t Topology,
        horizon_ms: u64,
        max: usize,
    ) -> (Vec<&'t ShardEntry>, Option<Self>) {
        let mut shown = topology
            .shards()
            .iter()
            .filter(|s| self.after.is_none_or(|after| s.index > after))
            .filter(|s| self.filter.shows(s, horizon_ms));
        let page: Vec<_> = shown.by_ref().take(max.min(MAX_SHARDS_PER_PAGE)).collect();
        let rest = shown
            .next()
            .and(page.last())
            .map(|last| Self { filter: self.filter, after: Some(last.index) });
        (page, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shards 0 and 1 from time 0; 0 is split into 2 and 3 at 100; 3 and 1 are merged into 4 at 200.
    fn history() -> Topology {
        let mut topology = Topology::uniform(2, 0);
        topology.split(0, 1000, 100).expect("split");
        topology.merge(3, 1, 200).expect("merge");
        topology
    }

    fn shown(filter: ShardFilter, horizon_ms: u64) -> Vec<u32> {
        let query = ListShardsQuery { filter, after: None };
        let history = history();
        let (page, rest) = query.page(&history, horizon_ms, 1000);
        assert_eq!(rest, None);
        page.iter().map(|s| s.index).collect()
    }

    #[test]
    fn each_filter_shows_its_shards() {
        assert_eq!(shown(ShardFilter::All, 0), [0, 1, 2, 3, 4]);
        assert_eq!(shown(ShardFilter::FromTrimHorizon, 0), [0, 1, 2, 3, 4]);
        assert_eq!(shown(ShardFilter::AtLatest, 0), [2, 4]);
        assert_eq!(shown(ShardFilter::AfterShard(2), 0), [3, 4]);
        assert_eq!(shown(ShardFilter::AtTimestamp(50), 0), [0, 1]);
        assert_eq!(shown(ShardFilter::AtTimestamp(150), 0), [1, 2, 3]);
        assert_eq!(shown(ShardFilter::FromTimestamp(150), 0), [1, 2, 3, 4]);
        assert_eq!(shown(ShardFilter::FromTimestamp(250), 0), [2, 4]);
        assert_eq!(shown(ShardFilter::AtTrimHorizon, 0), [0, 1]);
        assert_eq!(shown(ShardFilter::AtTrimHorizon, 150), [1, 2, 3]);
    }

    #[test]
    fn pages_show_every_shard_once() {
        let topology = Topology::uniform(25, 0);
        let mut query = Some(ListShardsQuery { filter: ShardFilter::All, after: None });
        let mut seen = Vec::new();
        while let Some(current) = query {
            let (page, rest) = current.page(&topology, 0, 10);
            assert!(page.len() <= 10 && !page.is_empty());
            seen.extend(page.iter().map(|s| s.index));
            query = rest;
        }
        assert_eq!(seen, (0..25).collect::<Vec<_>>());
    }

    #[test]
    fn a_filter_without_its_member_is_refused() {
        assert!(ShardFilter::parse("AT_TIMESTAMP", None, None).is_err());
        assert!(ShardFilter::parse("AFTER_SHARD_ID", None, None).is_err());
        assert!(ShardFilter::parse("AT_NOON", None, None).is_err());
    }
}
