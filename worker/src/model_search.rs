//! How the models of the worker are searched for states in which a property does not hold.
//!
//! Promises: a search ends when it was told to or has tried every state, and says how many there
//! were. Never does: judge what was found.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, CheckerBuilder, Model, Path};

/// In which order states are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The shortest way to a flaw is found. All states wait that are as far from the start: many,
    /// and each takes KiB.
    BreadthFirst,
    /// Some way to a flaw is found. Far fewer states wait; of the others 8 bytes each are kept.
    DepthFirst,
}

pub(crate) struct Found<M: Model> {
    /// States that were tried, those met again counted too.
    pub(crate) num_tried: usize,
    /// The way to each property's discovery, by the property's name.
    pub(crate) paths: HashMap<&'static str, Path<M::State, M::Action>>,
}

/// Whether the large worlds are asked for, which take too long for every run.
pub(crate) fn is_large() -> bool {
    std::env::var("MILLRACE_MODELS").is_ok_and(|size| size == "large")
}

pub(crate) fn search<M>(name: &str, asked: CheckerBuilder<M>, order: Order) -> Found<M>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + PartialEq,
{
    let asked = asked.threads(2);
    match order {
        Order::BreadthFirst => found(name, asked.spawn_bfs()),
        Order::DepthFirst => found(name, asked.spawn_dfs()),
    }
}

fn found<M: Model>(name: &str, checker: impl Checker<M>) -> Found<M>
where
    M::State: Clone + PartialEq,
    M::Action: Clone + PartialEq,
{
    let began = Instant::now();
    let checker = checker.join();
    println!("{name}: {} states, {:?}", checker.unique_state_count(), began.elapsed());
    Found { num_tried: checker.state_count(), paths: checker.discoveries() }
}
