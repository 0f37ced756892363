//! A model of the input: the driver's core and the receivers' books, the real ones, over wires that
//! lose, double and reorder, with executors that die and shards that split, merge and move.
//!
//! Promises: in no state of these worlds is a record in two batches, out of order, or in a batch
//! with the end of its parent; where nothing can move any more every record is committed and no
//! executor holds a block that nobody needs. `MILLRACE_MODELS=large` tries the worlds with faults to
//! their end, and the larger ones of [`large`].
//!
//! Left out: Kinesis itself (see the reader's tests), time, and the receivers' byte budget.

mod large;
mod scene;

use std::hash::{Hash, Hasher};

use millrace_proto::v1::executor_command::Body;
use stateright::{HasDiscoveries, Model, Property};

use self::scene::{Executor, NOW, Scene, Shard, Shown};
use crate::model_search::{Found, Order, is_large, search};

/// A rule that somebody in the world does not keep: it must be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// The driver takes every block for the next of its shard.
    TakesAnyBlock,
    /// Children are read as soon as they are listed.
    ForgetsParents,
    /// A receiver reads on after its block was refused.
    IgnoresRefusals,
    /// A receiver says everything once.
    SaysOnce,
    /// An executor that loses a shard drops also the blocks that the driver may have accepted.
    DropsAnnounced,
    /// An executor that comes back does not name the blocks that the driver has not answered.
    HidesUnanswered,
    /// The driver does not ask what an executor holds when it comes back.
    TrustsSessions,
}

/// A world to be tried.
#[derive(Clone, Debug)]
struct Config {
    broken: Option<Broken>,
    shards: &'static [Shard],
    num_executors: usize,
    /// Messages that are lost or doubled, sessions that break, shards that fall silent.
    faults: u8,
    /// Executors that die; another one comes for each.
    deaths: u8,
    /// Drivers that die.
    restarts: u8,
    /// The records of a range are those with smaller numbers: here a record's number is also the
    /// time of its arrival.
    until: Option<u64>,
    /// How many records a block may hold; any other block holds all there are.
    blocks_of: &'static [usize],
}

#[derive(Clone, Debug)]
struct State(Scene);

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash_into(state);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        format!("{:?}", Shown(&self.0).0) == format!("{:?}", Shown(&other.0).0)
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    List,
    /// A reader closes a block.
    Read {
        executor: usize,
        shard: usize,
        count: usize,
    },
    /// A reader at the end of its range says so again.
    TellAgain {
        executor: usize,
        shard: usize,
    },
    Announce(usize),
    /// Says again what was not answered.
    Repeat(usize),
    /// News reaches the driver.
    Hear(usize),
    /// News reaches the driver and comes once more later.
    HearTwice(usize),
    Lose(usize),
    /// An executor takes the next command.
    Obey(usize),
    BreakSession(usize),
    FallSilent,
    Kill(usize),
    Notice(usize),
    Plan,
    Commit,
    Restart,
}

impl Config {
    fn is_open(executor: &Executor) -> bool {
        executor.book.open_blocks().next().is_some()
    }

    /// What goes on without any fault.
    fn progress(&self, scene: &Scene, actions: &mut Vec<Action>) {
        if scene.wants_listing {
            actions.push(Action::List);
        }
        for (nth, executor) in scene.executors.iter().enumerate() {
            if !executor.is_alive {
                if !executor.is_noticed {
                    actions.push(Action::Notice(nth));
                }
                continue;
            }
            if !executor.commands.is_empty() {
                actions.push(Action::Obey(nth));
            }
            for (at, shard) in self.shards.iter().enumerate() {
                if executor.readers.get(&shard.key()).is_some_and(|reader| !reader.has_ended) {
                    let read =
                        |count: &usize| Action::Read { executor: nth, shard: at, count: *count };
                    actions.extend(self.blocks_of.iter().map(read));
                }
            }
            if !executor.book.clone().announce(NOW).is_empty() {
                actions.push(Action::Announce(nth));
            } else if self.broken != Some(Broken::SaysOnce)
                && Self::is_open(executor)
                && !scene.news.iter().any(|news| news.from() == nth)
                && !executor.commands.iter().any(|c| matches!(c, Body::Acknowledged(_)))
            {
                actions.push(Action::Repeat(nth));
            }
        }
        actions.extend((0..scene.news.len()).map(Action::Hear));
        if scene.planned.is_none() && scene.core.has_news(NOW) {
            actions.push(Action::Plan);
        }
        if scene.can_commit() {
            actions.push(Action::Commit);
        }
        if actions.is_empty() {
            // It does so each second: what matters is that it does in the end.
            actions.extend(self.past_range(scene));
        }
    }

    /// Readers at the end of their range that nobody has told to stop.
    fn past_range(&self, scene: &Scene) -> Option<Action> {
        let readers = scene.executors.iter().enumerate().flat_map(|(nth, executor)| {
            let shards = self.shards.iter().enumerate();
            shards.map(move |(at, shard)| (nth, at, executor.readers.get(&shard.key())))
        });
        let mut past = readers.filter(|(.., reader)| reader.is_some_and(|r| r.is_past_range));
        past.next().map(|(executor, shard, _)| Action::TellAgain { executor, shard })
    }

    fn faults(&self, scene: &Scene, actions: &mut Vec<Action>) {
        let living = || {
            let executors = scene.executors.iter().enumerate();
            executors.filter(|(_, executor)| executor.is_alive).map(|(nth, _)| nth)
        };
        if scene.faults_left > 0 {
            actions.extend((0..scene.news.len()).map(Action::Lose));
            actions.extend((0..scene.news.len()).map(Action::HearTwice));
            actions.extend(living().map(Action::BreakSession));
            actions.push(Action::FallSilent);
        }
        if scene.deaths_left > 0 {
            actions.extend(living().map(Action::Kill));
        }
        if scene.restarts_left > 0 {
            actions.push(Action::Restart);
        }
    }

    fn has_all(&self, scene: &Scene) -> bool {
        let records = self.shards.iter().flat_map(|shard| shard.records);
        let mut of_range = records.filter(|record| self.is_of_range(**record));
        of_range.all(|record| scene.committed.contains(record))
            && (self.until.is_none() || scene.core.is_range_read())
    }

    fn is_of_range(&self, record: u64) -> bool {
        self.until.is_none_or(|until| record < until)
    }
}

impl Model for Config {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State(Scene::new(self))]
    }

    fn actions(&self, State(scene): &State, actions: &mut Vec<Action>) {
        self.progress(scene, actions);
        self.faults(scene, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let State(mut scene) = last.clone();
        match action {
            Action::List => scene.list(self),
            Action::Read { executor, shard, count } => scene.read(self, executor, shard, count),
            Action::TellAgain { executor, shard } => scene.tell_again(self, executor, shard),
            Action::Announce(nth) => scene.announce(nth, false),
            Action::Repeat(nth) => scene.announce(nth, true),
            Action::Hear(at) => {
                let news = scene.news.remove(at);
                scene.hear(self, news);
            }
            Action::HearTwice(at) => {
                scene.faults_left -= 1;
                scene.hear(self, scene.news[at].clone());
            }
            Action::Lose(at) => {
                scene.faults_left -= 1;
                scene.news.remove(at);
            }
            Action::Obey(nth) => scene.obey(self, nth),
            Action::BreakSession(nth) => {
                scene.faults_left -= 1;
                scene.break_session(self, nth);
            }
            Action::FallSilent => {
                scene.faults_left -= 1;
                scene.fall_silent();
            }
            Action::Kill(nth) => {
                scene.deaths_left -= 1;
                scene.kill(nth);
                scene.join();
            }
            Action::Notice(nth) => scene.notice(nth),
            Action::Plan => scene.plan(),
            Action::Commit => scene.commit(self),
            Action::Restart => {
                scene.restarts_left -= 1;
                scene.restart(self);
            }
        }
        Some(State(scene))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONCE, |_, State(scene): &State| scene.flaw.is_none()),
            Property::always(HELD, |_, State(scene): &State| !scene.misses_a_block()),
            Property::always(AT_REST, |config: &Config, State(scene): &State| {
                let mut actions = Vec::new();
                config.progress(scene, &mut actions);
                let stores_nothing = scene.executors.iter().all(|e| e.store.is_empty());
                !actions.is_empty() || config.has_all(scene) && stores_nothing
            }),
            Property::sometimes(FINISHED, |config: &Config, State(scene): &State| {
                config.has_all(scene)
            }),
        ]
    }
}

const ONCE: &str = "batches follow one another without a gap and children follow parents";
const HELD: &str = "a planned block is where the driver thinks it is";
const AT_REST: &str = "where nothing can move all is committed and nothing is held";
const FINISHED: &str = "everything can be committed";

/// A way to a property that does not hold, if there is one among the states that are tried first
/// or, without a limit, among all.
fn flaw(name: &str, config: Config, order: Order, limit: Option<usize>) -> Option<String> {
    let properties = config.properties();
    let mut asked = config.checker().finish_when(HasDiscoveries::AnyFailures);
    if let Some(limit) = limit {
        asked = asked.target_state_count(limit);
    }
    let Found { num_tried, paths: mut found } = search(name, asked, order);
    let (failures, examples): (Vec<_>, Vec<_>) =
        properties.iter().partition(|property| property.expectation.discovery_is_failure());
    for property in failures {
        let Some(path) = found.remove(property.name) else { continue };
        let flaw = path.last_state().0.flaw.clone().unwrap_or_default();
        let steps = path.into_actions().into_iter().map(|action| format!("\n  {action:?}"));
        let steps: String = steps.collect();
        return Some(format!("not true that {}: {flaw}{steps}", property.name));
    }
    if limit.is_some_and(|limit| num_tried >= limit) {
        println!("{name}: there are more states than these");
        return None;
    }
    for property in examples {
        assert!(found.contains_key(property.name), "{name}: never: {}", property.name);
    }
    None
}

/// In every state.
fn holds(name: &str, config: Config) {
    if let Some(flaw) = flaw(name, config, Order::BreadthFirst, None) {
        panic!("{name}: {flaw}");
    }
}

/// In the states that are reached in the fewest steps. Each broken rule below is found in far
/// fewer. In every state when the large worlds are asked for.
fn holds_at_first(name: &str, config: Config) {
    if is_large() {
        return holds_in_many(name, config);
    }
    if let Some(flaw) = flaw(name, config, Order::BreadthFirst, Some(FIRST_STATES)) {
        panic!("{name}: {flaw}");
    }
}

/// In every state of a world that has too many of them to hold those that wait.
fn holds_in_many(name: &str, config: Config) {
    if let Some(flaw) = flaw(name, config, Order::DepthFirst, None) {
        panic!("{name}: {flaw}");
    }
}

fn is_found(broken: Broken, config: Config) {
    let config = Config { broken: Some(broken), ..config };
    let found = flaw(&format!("{broken:?}"), config, Order::BreadthFirst, None);
    println!("{broken:?}: {}", found.unwrap_or_else(|| panic!("{broken:?} is not found out")));
}

const ONE: &[Shard] = &[Shard { id: "a", parents: &[], records: &[1, 2], is_listed_at_once: true }];
const SPLIT: &[Shard] = &[
    Shard { id: "a", parents: &[], records: &[1], is_listed_at_once: true },
    Shard { id: "b", parents: &["a"], records: &[11], is_listed_at_once: false },
    Shard { id: "c", parents: &["a"], records: &[21], is_listed_at_once: false },
];
const LATE_SPLIT: &[Shard] = &[
    Shard { id: "a", parents: &[], records: &[1, 2], is_listed_at_once: true },
    Shard { id: "b", parents: &["a"], records: &[11], is_listed_at_once: true },
    Shard { id: "c", parents: &["a"], records: &[21], is_listed_at_once: false },
];
const LATE_MERGE: &[Shard] = &[
    Shard { id: "a", parents: &[], records: &[1], is_listed_at_once: true },
    Shard { id: "b", parents: &[], records: &[4, 11], is_listed_at_once: true },
    Shard { id: "c", parents: &["a", "b"], records: &[21], is_listed_at_once: false },
];
const MERGE: &[Shard] = &[
    Shard { id: "a", parents: &[], records: &[1], is_listed_at_once: true },
    Shard { id: "b", parents: &[], records: &[11], is_listed_at_once: true },
    Shard { id: "c", parents: &["a", "b"], records: &[21], is_listed_at_once: false },
];

/// States, those met again counted too, that a world with faults is tried for in every run.
const FIRST_STATES: usize = 40_000;

const SMALL: Config = Config {
    broken: None,
    shards: ONE,
    num_executors: 2,
    faults: 0,
    deaths: 0,
    restarts: 0,
    until: None,
    blocks_of: &[1, usize::MAX],
};

#[test]
fn a_shard_that_moves_loses_and_doubles_nothing() {
    holds_at_first("one shard, a fault", Config { faults: 1, ..SMALL });
    holds_at_first("one shard, a death", Config { deaths: 1, ..SMALL });
}

#[test]
fn children_follow_all_parents_in_a_later_batch() {
    let whole = Config { blocks_of: &[usize::MAX], num_executors: 1, ..SMALL };
    holds("split", Config { shards: SPLIT, ..whole.clone() });
    holds("merge", Config { shards: MERGE, ..whole.clone() });
    holds_at_first("split, the driver dies", Config { shards: SPLIT, restarts: 1, ..whole });
}

#[test]
fn a_range_is_read_to_its_end_and_no_further() {
    let range = |shards, until| Config { shards, until: Some(until), ..SMALL };
    holds_at_first("a range, a fault", Config { faults: 1, ..range(ONE, 2) });
    holds_at_first("a range, a death", Config { deaths: 1, ..range(ONE, 2) });
    let whole = |shards, until| Config {
        blocks_of: &[usize::MAX],
        num_executors: 1,
        restarts: 1,
        ..range(shards, until)
    };
    holds_at_first("a range that ends in a child", whole(SPLIT, 15));
    holds_at_first("a range that ends in the parent of a split", whole(LATE_SPLIT, 2));
    holds_at_first("a range that ends in one parent of a merge", whole(LATE_MERGE, 5));
}

#[test]
fn without_the_chain_rule_records_are_lost_or_doubled() {
    is_found(Broken::TakesAnyBlock, Config { faults: 1, ..SMALL });
}

#[test]
fn children_without_parents_overtake_them() {
    let whole = Config { blocks_of: &[usize::MAX], num_executors: 1, ..SMALL };
    is_found(Broken::ForgetsParents, Config { shards: SPLIT, ..whole.clone() });
    is_found(Broken::ForgetsParents, Config { shards: MERGE, ..whole });
}

#[test]
fn receivers_that_do_not_listen_or_repeat_stop_the_shard() {
    is_found(Broken::IgnoresRefusals, Config { faults: 1, ..SMALL });
    is_found(Broken::SaysOnce, Config { faults: 1, ..SMALL });
}

#[test]
fn blocks_that_may_be_accepted_must_be_held() {
    is_found(Broken::DropsAnnounced, Config { faults: 1, ..SMALL });
}

#[test]
fn a_broken_session_that_nobody_asks_about_leaves_something_behind() {
    is_found(Broken::TrustsSessions, Config { faults: 1, ..SMALL });
    let whole = Config { blocks_of: &[usize::MAX], ..SMALL };
    is_found(Broken::HidesUnanswered, Config { faults: 1, ..whole });
}
