//! The chain of facts from a submission to a committed batch: what each link says, and whether it
//! holds.
//!
//! Promises: the links stand in the order in which one rests on the other; each is one line with its
//! numbers. Owned by the parent. Never does: name a cause.

use millrace_proto::v1;
use millrace_proto::v1::ApplicationState as State;
use millrace_proto::v1::trouble::Kind as Of;

use super::pace::Pace;
use super::{Facts, exceeded_memory};
use crate::application::state::name as state_name;
use crate::moment::format_ms;

/// Applications that are named as holders of places.
const HOLDERS_NAMED: usize = 3;
impl Facts<'_> {
    /// Every link that there is something to say about.
    pub(super) fn chain(&self) -> Vec<v1::FactLink> {
        let mut links = vec![self.state()];
        let is_placed = matches!(self.application.state(), State::Running | State::Stopping);
        if self.waits.is_some() || (self.is_live() && !is_placed) {
            links.push(self.place());
        }
        links.extend(self.driver());
        if let Some(report) = self.application.report.as_ref().filter(|_| is_placed) {
            links.push(self.executors(report));
            links.push(self.input(report));
            links.push(self.commits(report));
        }
        links.extend(self.batches());
        links
    }

    fn state(&self) -> v1::FactLink {
        let state = self.application.state();
        let is_well =
            matches!(state, State::Running | State::Stopping | State::Stopped | State::Finished);
        let says = format!(
            "{} since {}, submitted {}",
            state_name(state),
            format_ms(self.application.changed_ms),
            format_ms(self.application.submitted_ms)
        );
        link("state", is_well, says)
    }

    fn place(&self) -> v1::FactLink {
        let around = self.cluster;
        let nodes = match around.num_nodes {
            1 => "1 node offers".to_owned(),
            num => format!("{num} nodes offer"),
        };
        let mut says = format!("{nodes} {}; free: {}", around.offered, around.free);
        let holder = |(name, held): &(String, _)| format!("{name} {held}");
        let named: Vec<String> = around.holders.iter().take(HOLDERS_NAMED).map(holder).collect();
        if !named.is_empty() {
            says = format!("{says}; held by {}", named.join("; "));
        }
        match around.holders.len().saturating_sub(HOLDERS_NAMED) {
            0 => {}
            more => says = format!("{says}; and {more} more"),
        }
        link("cluster", self.waits.is_none(), says)
    }

    fn driver(&self) -> Option<v1::FactLink> {
        let last = self.application.attempts.last()?;
        let v1::Attempt { number, container_id, node_id, .. } = last;
        let says = format!("attempt {number}: {container_id} on {node_id}");
        if last.ended_ms == 0 {
            let says = format!("{says}, since {}", format_ms(last.started_ms));
            return Some(link("driver", true, says));
        }
        let at = format_ms(last.ended_ms);
        if let Some(failure) = &last.failure {
            return Some(link("driver", false, format!("{says} ended {at} by {}", failure.code)));
        }
        let mut says = format!("{says} ended {at}: {}", last.end_reason);
        let status = self.containers.iter().find(|status| status.container_id == *container_id);
        if let Some(line) = status.and_then(|status| last_line(status.exit.as_ref()?)) {
            says = format!("{says}; its last line: {line}");
        }
        Some(link("driver", false, says))
    }

    fn executors(&self, report: &v1::DriverReport) -> v1::FactLink {
        let (runs, busy, cores) =
            (report.executors.len(), report.task_cores_busy, report.task_cores_total);
        let wanted = report.scaling.as_ref().map_or(0, |scaling| scaling.target);
        let mut says = format!("{runs} of {wanted} at work, {busy} of {cores} task cores busy");
        let ended = self.containers.iter().filter(|status| exceeded_memory(status)).count();
        if ended > 0 {
            says = format!("{says}; {ended} ended for their memory so far");
        }
        let holds = u32::try_from(runs).is_ok_and(|runs| runs >= wanted);
        link("executors", holds && self.lost_executor().is_none(), says)
    }

    fn input(&self, report: &v1::DriverReport) -> v1::FactLink {
        let lag_ms = report.millis_behind_latest;
        let lag = match lag_ms {
            ..0 => "how far behind is not known yet".to_owned(),
            0 => "none is behind".to_owned(),
            ms => format!("the furthest {ms} ms behind"),
        };
        let num = report.num_shards;
        let mut says = format!("{num} shards, {lag}; {} records read", report.records_total);
        let troubled = self.num_troubles(report, Of::Shard);
        if troubled > 0 {
            says = format!("{says}; {troubled} or more can not be read now");
        }
        link("input", troubled == 0 && lag_ms < self.late_from_ms(), says)
    }

    fn commits(&self, report: &v1::DriverReport) -> v1::FactLink {
        if report.last_commit_ms == 0 {
            return link(
                "commits",
                self.num_troubles(report, Of::Commit) == 0,
                "none yet".to_owned(),
            );
        }
        let ago_ms = (self.now_ms - report.last_commit_ms).max(0);
        let is_late = self.open_for_ms(report).is_some();
        let waits = self.num_troubles(report, Of::Commit) > 0;
        let says = format!("batch {}, {} s ago", report.batch, ago_ms / 1_000);
        link("commits", !is_late && !waits, says)
    }

    fn batches(&self) -> Option<v1::FactLink> {
        let failing = self.application.report.as_ref().filter(|_| self.is_live());
        let failing = failing.map_or(0, |report| self.num_troubles(report, Of::Batch));
        if let Some(pace) = Pace::over(self.batches) {
            let interval_ms = self.interval_ms();
            let holds = failing == 0 && pace.took_ms <= interval_ms;
            return Some(link("batches", holds, pace.describe(interval_ms)));
        }
        (failing > 0).then(|| link("batches", false, "the first one fails".to_owned()))
    }

    fn num_troubles(&self, report: &v1::DriverReport, of: Of) -> usize {
        report.troubles.iter().filter(|trouble| trouble.kind() == of).count()
    }
}

fn link(name: &str, holds: bool, says: String) -> v1::FactLink {
    v1::FactLink { name: name.to_owned(), holds, says }
}

/// The last line that a container wrote to its standard error.
fn last_line(exit: &v1::ContainerExit) -> Option<&str> {
    exit.stderr_tail.lines().rev().map(str::trim).find(|line| !line.is_empty())
}
