//! Queues, and how many executors a driver asks for.
//!
//! Promises and keys as in the parent.

use millrace_common::id::DEFAULT_QUEUE;
use millrace_proto::v1;
use serde::{Deserialize, Serialize};

use super::known;

/// The queue of an application.
pub(super) fn queue(application: &v1::Application) -> String {
    let named = application.spec.as_ref().map(|spec| spec.queue.clone());
    named.filter(|queue| !queue.is_empty()).unwrap_or_else(|| DEFAULT_QUEUE.to_owned())
}

/// How many executors a driver asks for, between which bounds, and why so many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScalingView {
    /// So many.
    pub target: u32,
    /// Never fewer.
    pub min: u32,
    /// Never more.
    pub max: u32,
    /// What speaks for more or for fewer now.
    pub reason: String,
    /// The last changes of the target, oldest first.
    pub decisions: Vec<ScalingDecisionView>,
}

/// A change of the number of executors that a driver asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScalingDecisionView {
    /// When.
    pub at_ms: Option<i64>,
    /// The number before.
    pub from: u32,
    /// The number after.
    pub to: u32,
    /// Why.
    pub reason: String,
}

impl ScalingView {
    /// From a message.
    #[must_use]
    pub fn new(report: &v1::ScalingReport) -> Self {
        let decision = |decision: &v1::ScalingDecision| ScalingDecisionView {
            at_ms: known(decision.at_ms),
            from: decision.from,
            to: decision.to,
            reason: decision.reason.clone(),
        };
        Self {
            target: report.target,
            min: report.min,
            max: report.max,
            reason: report.reason.clone(),
            decisions: report.decisions.iter().map(decision).collect(),
        }
    }
}

/// A queue as `millrace queues` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueView {
    /// Its name.
    pub name: String,
    /// Share of the cluster that nobody else is given, in percent.
    pub guarantee_percent: f64,
    /// The same in cores.
    pub guarantee_cores: u32,
    /// The same in memory.
    pub guarantee_memory_bytes: u64,
    /// Share of the cluster that it never goes beyond, in percent.
    pub cap_percent: f64,
    /// The same in cores.
    pub cap_cores: u32,
    /// The same in memory.
    pub cap_memory_bytes: u64,
    /// Cores of its containers.
    pub used_cores: u32,
    /// Memory of its containers.
    pub used_memory_bytes: u64,
    /// Its live applications.
    pub num_applications: u32,
    /// Those of them that wait for their driver's place.
    pub num_queued: u32,
    /// Who may submit to it; `*` is everybody.
    pub submit: Vec<String>,
}

impl QueueView {
    /// From a message.
    #[must_use]
    pub fn new(queue: &v1::Queue) -> Self {
        let amount = |amount: Option<v1::Resources>| amount.unwrap_or_default();
        let (guarantee, cap) = (amount(queue.guarantee), amount(queue.cap));
        let used = amount(queue.used);
        Self {
            name: queue.name.clone(),
            guarantee_percent: f64::from(queue.guarantee_bp) / 100.0,
            guarantee_cores: guarantee.cores,
            guarantee_memory_bytes: guarantee.memory_bytes,
            cap_percent: f64::from(queue.cap_bp) / 100.0,
            cap_cores: cap.cores,
            cap_memory_bytes: cap.memory_bytes,
            used_cores: used.cores,
            used_memory_bytes: used.memory_bytes,
            num_applications: queue.num_applications,
            num_queued: queue.num_queued,
            submit: queue.submit.clone(),
        }
    }
}
