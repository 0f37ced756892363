//! From blocks and executors to the plan of a run.
//!
//! Promises: every block stands in the plan once, on the executor that holds it. Owned by the batch
//! actor. Never does: look anything up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_common::id::ContainerId;
use millrace_sql::scan::block;

use crate::driver::executors::core::ExecutorView;
use crate::driver::receivers::core::PlannedBlock;
use crate::driver::runner::{BatchPlan, BlockInput, ExecutorTarget, SourceInput};

/// What a run is called and how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct RunFacts {
    /// Number of the batch.
    pub batch: u64,
    /// Epoch of the attempt.
    pub epoch: u64,
    /// Fresh for every run.
    pub run: uuid::Uuid,
    /// When the batch was cut, Unix milliseconds; the same in every run of it.
    pub cut_ms: i64,
    /// Last resort against a run that hangs.
    pub deadline: Duration,
}

/// The plan of a run; none when a block's executor is not among the executors.
#[must_use]
pub fn plan(
    facts: RunFacts,
    executors: &[ExecutorView],
    blocks: &[PlannedBlock],
) -> Option<BatchPlan> {
    let index: BTreeMap<&ContainerId, usize> = executors
        .iter()
        .enumerate()
        .map(|(index, view)| (&view.registration.container, index))
        .collect();
    let targets = executors.iter().map(|view| {
        let registration = &view.registration;
        ExecutorTarget {
            container: Arc::from(registration.container.as_str()),
            url: Arc::from(format!("http://{}", registration.address)),
            cores: registration.cores as usize,
        }
    });
    let mut sources = BTreeMap::<&str, Vec<BlockInput>>::new();
    for block in blocks {
        sources.entry(&block.source).or_default().push(BlockInput {
            executor: *index.get(&block.executor)?,
            id: block::BlockId::new(block.id.as_str()),
            records: block.num_records,
            bytes: block.num_bytes,
        });
    }
    let sources = sources
        .into_iter()
        .map(|(source, blocks)| SourceInput { source: Arc::from(source), blocks })
        .collect();
    Some(BatchPlan {
        batch: facts.batch,
        epoch: facts.epoch,
        run: facts.run,
        batch_time_ms: facts.cut_ms,
        deadline: facts.deadline,
        executors: targets.collect(),
        sources,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use millrace_common::id::BlockId;
    use millrace_proto::v1;

    use super::*;
    use crate::driver::executors::core::Registration;

    fn executor(name: &str) -> ExecutorView {
        ExecutorView {
            registration: Registration {
                container: ContainerId::new(name),
                node_id: "n1".into(),
                address: format!("{name}:1"),
                cores: 2,
                budget_bytes: 1,
                held: BTreeSet::new(),
            },
            heartbeat: v1::ExecutorHeartbeat::default(),
            exclusion: None,
        }
    }

    fn block(id: &str, source: &str, executor: &str) -> PlannedBlock {
        PlannedBlock {
            id: BlockId::new(id),
            source: source.into(),
            shard_id: "shardId-000000000000".into(),
            executor: ContainerId::new(executor),
            num_records: 3,
            num_bytes: 7,
            num_out_of_range: 0,
        }
    }

    const FACTS: RunFacts = RunFacts {
        batch: 4,
        epoch: 2,
        run: uuid::Uuid::nil(),
        cut_ms: 9,
        deadline: Duration::from_secs(1),
    };

    #[test]
    fn every_block_stands_once_where_it_is_held() {
        let blocks =
            [block("b1", "logs", "e2"), block("b2", "users", "e1"), block("b3", "logs", "e1")];
        let plan = plan(FACTS, &[executor("e1"), executor("e2")], &blocks).unwrap();
        let mut seen: Vec<(String, String, usize)> = plan
            .sources
            .iter()
            .flat_map(|s| {
                s.blocks.iter().map(|b| (s.source.to_string(), b.id.to_string(), b.executor))
            })
            .collect();
        seen.sort();
        let expected = [("logs", "b1", 1), ("logs", "b3", 0), ("users", "b2", 0)]
            .map(|(s, b, e)| (s.to_owned(), b.to_owned(), e));
        assert_eq!(seen, expected);
        assert_eq!(&*plan.executors[1].url, "http://e2:1");
    }

    #[test]
    fn a_block_on_an_unknown_executor_makes_no_plan() {
        assert!(plan(FACTS, &[executor("e1")], &[block("b1", "logs", "e2")]).is_none());
    }
}
