//! Whether an application fits on a cluster, and the arithmetic behind the answer.
//!
//! Promises: a pure function of the application, the nodes and the shards of its streams, the only
//! one that says so: the client prints it (`millrace plan`), the master admits by it. What fails is
//! named with its numbers and with the smallest change that mends it, and that change does mend it.
//! Never does: place a container (the scheduler does), or ask anybody anything.

mod cluster;
mod forecast;
mod line;
mod memory;
mod mend;
mod places;
mod shortage;
mod streams;

use std::collections::BTreeMap;

use serde::Serialize;

pub use self::cluster::{Described, Node, Share};
pub use self::forecast::Forecast;
pub use self::line::{Line, Status};
pub use self::mend::Mend;
use self::places::Shape;
pub use self::streams::SourceSum;
use crate::application::ApplicationSpec;
use crate::error::{Code, Error};
use crate::resources::Resources;

/// What is asked: this application, on these nodes.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The application.
    pub spec: &'a ApplicationSpec,
    /// The nodes of the cluster.
    pub nodes: &'a [Node],
    /// What its queue may take; none where nobody else is on the cluster.
    pub share: Option<&'a Share>,
    /// It has to fit also when any so many of these nodes are lost.
    pub num_lost: usize,
    /// Open shards of each source's stream, by source; a source that is absent is not known.
    pub shards: &'a BTreeMap<String, u32>,
}

/// The answer in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Its driver and the executors it needs have places now.
    Fits,
    /// It fits when others have given back what they hold.
    Waits,
    /// Not even the empty cluster holds it.
    Never,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The application's name.
    pub name: String,
    /// The answer in one word.
    pub verdict: Verdict,
    /// The numbers, for programs.
    pub sums: Sums,
    /// The arithmetic, for people: one line for each thing that has to fit.
    pub lines: Vec<Line>,
    /// Changes that make it fit, each by itself, the smallest first; empty when it fits.
    pub mends: Vec<Mend>,
}

/// The numbers of a plan. Sizes are bytes; what is not known is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// Nodes that it may be placed on.
    pub num_nodes: usize,
    /// Of these, how many may be lost.
    pub num_nodes_lost: usize,
    /// Cores of all these nodes.
    pub cores: u32,
    /// Of these, free now.
    pub cores_free: u32,
    /// Memory of all these nodes.
    pub memory_bytes: u64,
    /// Of this, free now.
    pub memory_free_bytes: u64,
    /// Executors that it needs.
    pub executors_min: u32,
    /// Executors that it may have.
    pub executors_max: u32,
    /// Executors that fit beside the driver on the empty cluster; none when the driver does not.
    pub executors_fit: Option<u64>,
    /// Executors that fit beside the driver now; none when the driver does not.
    pub executors_fit_now: Option<u64>,
    /// Executors that the other numbers are for: as many as find places, within its bounds.
    pub executors: u32,
    /// Cores that compute; receivers hold none.
    pub task_cores: u64,
    /// Most shards that one executor reads; none when a stream's shards are not known.
    pub shards_per_executor: Option<u64>,
    /// What blocks may hold on one executor.
    pub block_budget_bytes: u64,
    /// The sources, by name.
    pub sources: Vec<SourceSum>,
    /// What it writes and calls at the rate of its batch interval.
    pub forecast: Forecast,
}

/// The plan of an application on a cluster.
#[must_use]
pub fn plan(question: Question<'_>) -> Plan {
    let nodes = Nodes::of(question);
    let resources = &question.spec.resources;
    let shape = Shape {
        driver: resources.driver,
        executor: resources.executor,
        min: resources.executors.min,
    };
    let fit = places::beside_driver(&nodes.offered, shape, question.num_lost);
    let fit_now = places::beside_driver(&nodes.free, shape, question.num_lost);
    let share = question.share.map(|share| share.now);
    let found = fit_now.or(fit).unwrap_or(0).min(places::within(share, shape));
    let count = u32::try_from(found).unwrap_or(u32::MAX).min(resources.executors.max);
    let executors = count.max(resources.executors.min);

    let sources = streams::sums(question.spec, question.shards, executors);
    let shards_per_executor = streams::most_per_executor(&sources);
    let forecast = forecast::forecast(question.spec, &sources, executors);
    let budget = memory::Budget::of(resources.executor.memory);

    let mut lines = vec![line::nodes(&nodes)];
    lines.extend(shortage::lines(question, &nodes, shape, (fit, fit_now)));
    lines.extend(question.share.map(|share| shortage::share(share, shape)));
    lines.push(line::task_cores(resources.executor.cores, executors));
    lines.extend(streams::receivers(&sources, executors));
    lines.extend(memory::lines(question.spec, budget, shards_per_executor));
    lines.extend(streams::reads(&sources));
    lines.extend(forecast::lines(question.spec, &forecast));

    let verdict = verdict(&lines);
    let mends = match verdict {
        Verdict::Fits => Vec::new(),
        Verdict::Waits => mend::mends(question, shape, &nodes, (&nodes.free, share)),
        Verdict::Never => mend::mends(question, shape, &nodes, (&nodes.offered, None)),
    };
    let (all, free) = (places::sum(&nodes.offered), places::sum(&nodes.free));
    let sums = Sums {
        num_nodes: nodes.offered.len(),
        num_nodes_lost: question.num_lost,
        cores: all.cores,
        cores_free: free.cores,
        memory_bytes: all.memory.as_u64(),
        memory_free_bytes: free.memory.as_u64(),
        executors_min: resources.executors.min,
        executors_max: resources.executors.max,
        executors_fit: fit,
        executors_fit_now: fit_now,
        executors,
        task_cores: u64::from(executors) * u64::from(resources.executor.cores),
        shards_per_executor,
        block_budget_bytes: budget.blocks,
        sources,
        forecast,
    };
    Plan { name: question.spec.name.to_string(), verdict, sums, lines, mends }
}

fn verdict(lines: &[Line]) -> Verdict {
    let has = |status| lines.iter().any(|line| line.status == status);
    if has(Status::Never) {
        Verdict::Never
    } else if has(Status::NotNow) {
        Verdict::Waits
    } else {
        Verdict::Fits
    }
}

/// The nodes that the application may be placed on.
struct Nodes {
    offered: Vec<Resources>,
    free: Vec<Resources>,
    /// Those that it may not be placed on.
    num_forbidden: usize,
}

impl Nodes {
    fn of(question: Question<'_>) -> Self {
        let allowed = || question.nodes.iter().filter(|node| node.takes(question.spec));
        let offered: Vec<Resources> = allowed().map(|node| node.offered).collect();
        let num_forbidden = question.nodes.len() - offered.len();
        Self { offered, free: allowed().map(|node| node.free).collect(), num_forbidden }
    }
}

impl Plan {
    /// Why it does not fit, or not now, in one line; none when it fits.
    #[must_use]
    pub fn why(&self) -> Option<String> {
        let is_never = self.verdict == Verdict::Never;
        let counts = |status: Status| status == Status::Never || (status.fails() && !is_never);
        let failing = self.lines.iter().filter(|line| counts(line.status));
        let why: Vec<&str> = failing.filter_map(|line| line.why.as_deref()).collect();
        (self.verdict != Verdict::Fits).then(|| why.join("; "))
    }

    /// The changes that make it fit, in one line.
    #[must_use]
    pub fn next_move(&self) -> String {
        let mut changes: Vec<String> = self.mends.iter().map(Mend::in_words).collect();
        if changes.is_empty() {
            changes.push("add larger nodes, or ask for less under [resources]".to_owned());
        }
        changes.join(", or ")
    }

    /// The refusal of an application that can never fit; none when it fits or only has to wait.
    #[must_use]
    pub fn refusal(&self) -> Option<Error> {
        let why = self.why().filter(|_| self.verdict == Verdict::Never)?;
        let message = format!("{} can never fit: {why}", self.name);
        Some(Error::new(Code::DoesNotFit, message, self.next_move()))
    }
}

#[cfg(test)]
mod tests;
