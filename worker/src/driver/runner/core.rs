//! The runner's decisions: how blocks are spread, what an error means, whether a run is complete.
//!
//! Promises: pure functions; a run is complete only when every task of the plan reported its end,
//! every task of the last stage gave its result, and every scan read every record of every block. Never does: wait, call, or look at a clock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use millrace_proto::v1::{RunReport, TaskState};
use millrace_sql::fault::Fault;
use millrace_sql::plan::{SinkExec, SinkResult, SourceBlocks};
use millrace_sql::scan::block::BlockId;

use super::{BatchPlan, BlockInput, RecordPlace, RunError, SourceCounts};

/// Partitions of every scan on every executor: one for each compute thread of the largest, and two
/// at least where there are several executors. The planner takes a single partition for the whole
/// input and would plan an aggregate without a shuffle, so that each executor gave groups of its own.
pub(super) fn partitions(cores: impl ExactSizeIterator<Item = usize>) -> usize {
    let least = if cores.len() > 1 { 2 } else { 1 };
    cores.max().unwrap_or(least).max(least)
}

/// The blocks of a source by executor and compute thread: the largest first, each to the thread
/// with the fewest bytes so far.
pub(super) fn spread(blocks: &[BlockInput], executors: usize, partitions: usize) -> SourceBlocks {
    let mut spread: SourceBlocks = vec![vec![Vec::new(); partitions]; executors];
    let mut loads = vec![vec![0_u64; partitions]; executors];
    let mut order: Vec<&BlockInput> = blocks.iter().collect();
    order.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.id.cmp(&b.id)));
    for block in order {
        let loads = &mut loads[block.executor];
        let lightest = (0..partitions).min_by_key(|thread| loads[*thread]).unwrap_or(0);
        loads[lightest] += block.bytes.max(1);
        spread[block.executor][lightest].push(block.id.clone());
    }
    spread
}

/// What is wrong with a plan, before anything is started.
pub(super) fn check(plan: &BatchPlan) -> Result<(), RunError> {
    let refuse = |detail: String| Err(RunError::Plan { detail });
    if plan.executors.is_empty() {
        return refuse("there is no executor".to_owned());
    }
    let mut seen = HashMap::new();
    for source in &plan.sources {
        for block in &source.blocks {
            if block.executor >= plan.executors.len() {
                return refuse(format!("block {} is on an executor that is not there", block.id));
            }
            if seen.insert(&block.id, &source.source).is_some() {
                return refuse(format!("block {} is in the batch twice", block.id));
            }
        }
    }
    Ok(())
}

/// What an error of the engine means to the driver.
pub(super) fn classify(error: &str, plan: &BatchPlan) -> RunError {
    let container = |url: &str| {
        let url = url.trim_end_matches('/');
        let found = plan.executors.iter().find(|target| target.url.trim_end_matches('/') == url);
        found.map_or_else(|| Arc::from(url), |target| Arc::clone(&target.container))
    };
    // A scan knows its block, and the plan knows where it was sent to be read.
    let holder = |id: &BlockId| {
        let mut blocks = plan.sources.iter().flat_map(|source| &source.blocks);
        let found = blocks.find(|block| block.id == *id);
        let target = found.and_then(|block| plan.executors.get(block.executor));
        target.map_or_else(|| Arc::from("unknown"), |target| Arc::clone(&target.container))
    };
    match Fault::find_in(error) {
        Some(Fault::Peer { url, detail }) => {
            RunError::ExecutorSuspected { executor: container(&url), detail }
        }
        Some(Fault::BlockLost { block, detail }) => {
            let block = BlockId::new(block);
            RunError::BlockLost { executor: holder(&block), block, detail }
        }
        Some(Fault::BadRecord { source, shard, sequence_number, detail }) => RunError::BadRecord {
            place: RecordPlace { source: source.into(), shard: shard.into(), sequence_number },
            detail,
        },
        Some(Fault::Panic { detail }) => {
            RunError::Query { detail: format!("a function panicked: {detail}") }
        }
        Some(Fault::Sink { retryable, code, detail, next_move }) => {
            RunError::Sink { retryable, code, detail, next_move }
        }
        Some(Fault::Disk { detail }) => RunError::Disk { detail },
        Some(Fault::Cancelled) => RunError::Cancelled,
        None => RunError::Query { detail: error.to_owned() },
    }
}

/// What a complete run must have reported.
pub(super) struct Expectation<'a> {
    pub(super) plan: &'a BatchPlan,
    /// Source of every scan of the plan.
    pub(super) scans: &'a BTreeMap<u32, String>,
    pub(super) num_tasks: usize,
    /// Tasks of the last stage.
    pub(super) num_last_tasks: usize,
    /// Tasks of the other stages may be left before they end, and blocks half read.
    pub(super) may_stop_early: bool,
}

/// The counts by source, if the reports and the results of the last stage prove that the run is
/// complete. What the last stage wrote is the batch: whatever the plan, nothing of it may be missing.
pub(super) fn judge(
    expected: &Expectation<'_>,
    reports: &[RunReport],
    results: &[SinkResult],
) -> Result<BTreeMap<Arc<str>, SourceCounts>, RunError> {
    let incomplete = |detail: String| Err(RunError::Incomplete { detail });
    let mut tasks = 0;
    let mut last_tasks = 0;
    for (report, executor) in reports.iter().zip(&expected.plan.executors) {
        if report.panicked {
            return incomplete(format!("a thread of {} panicked", executor.container));
        }
        for task in &report.tasks {
            tasks += 1;
            let is_last = task.stage == SinkExec::NAME;
            last_tasks += usize::from(is_last);
            let fine = match task.state() {
                TaskState::Ended => true,
                TaskState::Dropped | TaskState::Running => expected.may_stop_early && !is_last,
                _ => false,
            };
            if !fine {
                let state = task.state().as_str_name();
                return incomplete(format!(
                    "task {} of {} on {} is {state}: {}",
                    task.task, task.stage, executor.container, task.detail
                ));
            }
        }
    }
    if tasks != expected.num_tasks {
        return incomplete(format!("{tasks} of {} tasks reported", expected.num_tasks));
    }
    let num_last = expected.num_last_tasks;
    if last_tasks != num_last {
        return incomplete(format!("{last_tasks} of {num_last} tasks of the last stage reported"));
    }
    let mut given: Vec<usize> = results.iter().map(|result| result.task).collect();
    given.sort_unstable();
    if !given.iter().copied().eq(0..num_last) {
        return incomplete(format!(
            "the last stage has {num_last} tasks, and results came of {given:?}"
        ));
    }
    counts(expected, reports)
}

/// Holds what the scans read against what the blocks hold.
fn counts(
    expected: &Expectation<'_>,
    reports: &[RunReport],
) -> Result<BTreeMap<Arc<str>, SourceCounts>, RunError> {
    let incomplete = |detail: String| Err(RunError::Incomplete { detail });
    let mut reads: HashMap<(u32, &str), (u64, u64)> = HashMap::new();
    for read in reports.iter().flat_map(|report| &report.tasks).flat_map(|task| &task.blocks) {
        let key = (read.scan, read.block_id.as_str());
        if reads.insert(key, (read.num_read, read.num_bad)).is_some() {
            return incomplete(format!("block {} was read twice by one scan", read.block_id));
        }
    }
    let mut by_source = BTreeMap::new();
    for source in &expected.plan.sources {
        let mut counts = SourceCounts::default();
        let scans = expected.scans.iter().filter(|(_, name)| **name == *source.source);
        let scans: Vec<u32> = scans.map(|(scan, _)| *scan).collect();
        for block in &source.blocks {
            let mut bad = 0;
            for scan in &scans {
                let read = reads.remove(&(*scan, block.id.as_str()));
                let (num_read, num_bad) = read.unwrap_or((0, 0));
                if num_read != block.records && !expected.may_stop_early {
                    return incomplete(format!(
                        "{num_read} of {} records of block {} were read",
                        block.records, block.id
                    ));
                }
                // Scans need different columns: a record is bad when it was for any of them.
                bad = bad.max(num_bad);
            }
            counts.records += block.records;
            counts.bad_records += bad;
            if bad > 0 {
                counts.bad_blocks.push((block.id.clone(), bad));
            }
        }
        by_source.insert(Arc::clone(&source.source), counts);
    }
    match reads.keys().next() {
        Some((scan, block)) => {
            incomplete(format!("scan {scan} read block {block} of another batch"))
        }
        None => Ok(by_source),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millrace_proto::v1::{BlockRead, TaskReport};
    use proptest::prelude::*;

    use super::super::{ExecutorTarget, SourceInput};
    use super::*;

    fn block(executor: usize, number: u64, records: u64) -> BlockInput {
        BlockInput { executor, id: format!("b{number}").into(), records, bytes: records * 10 }
    }

    fn plan(blocks: Vec<BlockInput>) -> BatchPlan {
        let executor = |number: usize| ExecutorTarget {
            container: format!("app-a1-e{number}").into(),
            url: format!("http://127.0.0.1:{number}").into(),
            cores: 1,
        };
        BatchPlan {
            batch: 1,
            epoch: 1,
            run: uuid::Uuid::nil(),
            batch_time_ms: 0,
            deadline: Duration::from_secs(1),
            executors: vec![executor(1), executor(2)],
            sources: vec![SourceInput { source: "logs".into(), blocks }],
        }
    }

    fn report(state: TaskState, reads: &[(&str, u64)]) -> RunReport {
        let blocks = reads
            .iter()
            .map(|(block, num_read)| BlockRead {
                scan: 0,
                block_id: (*block).to_owned(),
                num_read: *num_read,
                num_bad: 0,
            })
            .collect();
        let stage = "AggregateExec".to_owned();
        let task = TaskReport { stage, state: state.into(), blocks, ..TaskReport::default() };
        RunReport { tasks: vec![task], ..RunReport::default() }
    }

    /// Judges two tasks that read, whose reports these are, and two that wrote.
    fn judged(reports: &[RunReport], may_stop_early: bool) -> Result<u64, RunError> {
        judged_last(reports, &[TaskState::Ended; 2], &[0, 1], may_stop_early)
    }

    /// The same with these ends and results of the last stage.
    fn judged_last(
        reports: &[RunReport],
        ends: &[TaskState],
        results: &[usize],
        may_stop_early: bool,
    ) -> Result<u64, RunError> {
        let plan = plan(vec![block(0, 1, 5), block(1, 2, 7)]);
        let scans = BTreeMap::from([(0, "logs".to_owned())]);
        let (num_tasks, num_last_tasks) = (4, 2);
        let expected =
            Expectation { plan: &plan, scans: &scans, num_tasks, num_last_tasks, may_stop_early };
        let mut reports = reports.to_vec();
        for (number, state) in (0..).zip(ends) {
            let stage = SinkExec::NAME.to_owned();
            let state = (*state).into();
            let task = TaskReport { stage, task: number, state, ..TaskReport::default() };
            reports[0].tasks.push(task);
        }
        let results: Vec<SinkResult> = results
            .iter()
            .map(|task| SinkResult { task: *task, ..SinkResult::default() })
            .collect();
        judge(&expected, &reports, &results).map(|counts| counts["logs"].records)
    }

    #[test]
    fn the_last_stage_is_complete_whatever_the_plan() {
        use TaskState::{Dropped, Ended, Running};
        let read = [report(Ended, &[("b1", 5)]), report(Ended, &[("b2", 7)])];
        for may_stop_early in [false, true] {
            let judged = |ends: &[TaskState], results: &[usize]| {
                judged_last(&read, ends, results, may_stop_early)
            };
            assert_eq!(judged(&[Ended, Ended], &[1, 0]).unwrap(), 12);
            // A stream that ended early on the driver's side loses a result, and its uploads.
            for results in [&[][..], &[0], &[1], &[0, 0], &[0, 2], &[0, 1, 1], &[0, 1, 2]] {
                let lacking = judged(&[Ended, Ended], results);
                assert!(matches!(lacking, Err(RunError::Incomplete { .. })), "{results:?}");
            }
            for ends in [&[Ended, Dropped][..], &[Running, Ended], &[Ended], &[Ended; 3]] {
                let open = judged(ends, &[0, 1]);
                assert!(matches!(open, Err(RunError::Incomplete { .. })), "{ends:?}");
            }
        }
        // Tasks that pass for others' by their name are not taken for the last stage's.
        let other = judged_last(
            &[report(Ended, &[("b1", 5)]), report(Ended, &[("b2", 7)]), report(Ended, &[])],
            &[Ended],
            &[0, 1],
            true,
        );
        assert!(matches!(other, Err(RunError::Incomplete { .. })), "{other:?}");
    }

    #[test]
    fn anything_less_than_all_is_incomplete() {
        use TaskState::{Cancelled, Dropped, Ended, Failed, Running};
        let good = [report(Ended, &[("b1", 5)]), report(Ended, &[("b2", 7)])];
        assert_eq!(judged(&good, false).unwrap(), 12);
        for bad in [
            vec![report(Ended, &[("b1", 5)])],
            vec![report(Ended, &[("b1", 5)]), report(Ended, &[])],
            vec![report(Ended, &[("b1", 4)]), report(Ended, &[("b2", 7)])],
            vec![report(Ended, &[("b1", 5)]), report(Ended, &[("b2", 7), ("b3", 1)])],
            vec![report(Ended, &[("b1", 5), ("b1", 5)]), report(Ended, &[("b2", 7)])],
            vec![report(Dropped, &[("b1", 5)]), report(Ended, &[("b2", 7)])],
            vec![report(Running, &[("b1", 5)]), report(Ended, &[("b2", 7)])],
            vec![report(Failed, &[("b1", 5)]), report(Ended, &[("b2", 7)])],
            vec![report(Cancelled, &[("b1", 5)]), report(Ended, &[("b2", 7)])],
            vec![RunReport { panicked: true, ..good[0].clone() }, good[1].clone()],
        ] {
            assert!(matches!(judged(&bad, false), Err(RunError::Incomplete { .. })), "{bad:?}");
        }
        let early = [report(Dropped, &[("b1", 2)]), report(Ended, &[])];
        assert_eq!(judged(&early, true).unwrap(), 12);
    }

    #[test]
    fn a_fault_of_a_peer_names_its_container() {
        let plan = plan(vec![]);
        let fault = Fault::Peer { url: "http://127.0.0.1:2/".into(), detail: "gone".into() };
        let error = classify(&format!("stage 1: {fault}"), &plan);
        let RunError::ExecutorSuspected { executor, .. } = error else { panic!("{error:?}") };
        assert_eq!(&*executor, "app-a1-e2");
        let fault = Fault::Disk { detail: "No space left on device".into() };
        let error = classify(&format!("stage 1: {fault}"), &plan);
        assert!(matches!(error, RunError::Disk { .. }), "{error:?}");
        let fault = Fault::BadRecord {
            source: "logs".into(),
            shard: "shard-3".into(),
            sequence_number: "7".into(),
            detail: "column n: \"x\" is no int".into(),
        };
        let error = classify(&format!("stage 1: {fault}"), &plan);
        let RunError::BadRecord { place, .. } = error else { panic!("{error:?}") };
        assert_eq!((&*place.shard, place.sequence_number.as_str()), ("shard-3", "7"));
        let error = classify("Divide by zero", &plan);
        assert!(matches!(error, RunError::Query { .. }));
    }

    #[test]
    fn a_block_cannot_be_in_a_batch_twice() {
        assert!(check(&plan(vec![block(0, 1, 5), block(1, 1, 5)])).is_err());
        assert!(check(&plan(vec![block(2, 1, 5)])).is_err());
        assert!(check(&plan(vec![block(0, 1, 5)])).is_ok());
    }

    proptest! {
        #[test]
        fn every_block_is_placed_once_and_on_its_executor(
            places in proptest::collection::vec((0_usize..3, 0_u64..1_000), 0..40),
            partitions in 1_usize..5,
        ) {
            let blocks: Vec<_> = (0..)
                .zip(&places)
                .map(|(number, (executor, records))| block(*executor, number, *records))
                .collect();
            let spread = spread(&blocks, 3, partitions);
            let mut placed = 0;
            for (executor, threads) in spread.iter().enumerate() {
                prop_assert_eq!(threads.len(), partitions);
                for id in threads.iter().flatten() {
                    placed += 1;
                    let here = blocks.iter().any(|b| b.id == *id && b.executor == executor);
                    prop_assert!(here);
                }
            }
            prop_assert_eq!(placed, blocks.len());
        }
    }
}
