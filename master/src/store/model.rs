//! A model of the leader's term: two masters, one item that says who leads, one record that says
//! which driver was started, and a node.
//!
//! Promises: in every order of their steps, however long a master stands still between two of them,
//! at most one master may act by its own clock, a deposed one changes nothing, and no second driver
//! is started beside a first. Worlds that lack one rule are found out.
//!
//! The standby is the real [`Campaign`]; the store's conditions are written here once more, as the
//! store on DynamoDB can not be taken apart.

use std::collections::BTreeSet;
use std::time::Duration;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::LeaderItem;
use super::leader::{Campaign, Decision};

/// Ticks without a change after which a standby takes over.
const TAKE_OVER_AFTER: u64 = 3;

/// Rules that a world may lack.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// Ticks after which a leader that did not renew may not act; below [`TAKE_OVER_AFTER`].
    step_down_after: u64,
    /// The leader item is taken over only as it was seen.
    takes_what_it_saw: bool,
    /// A new leader marks the records with its term before it reads them.
    marks_first: bool,
    /// A record that is not there is written only by the master that leads.
    new_records_ask_for_the_leader: bool,
    /// A record is written by nobody whose term is below the one that wrote or marked it.
    records_know_their_term: bool,
    /// A node hears no master of an older term than it has seen.
    nodes_know_their_term: bool,
}

#[derive(Clone, Debug)]
struct Config {
    ticks: u64,
    /// Starts of drivers.
    attempts: u32,
    rules: Rules,
}

/// How far a master is.
#[derive(Clone, Debug, PartialEq, Hash)]
enum Role {
    Standby(Campaign),
    /// It is about to write `item` in place of `seen`.
    Taking(Campaign, LeaderItem, Option<LeaderItem>),
    /// It leads since it wrote `item`, and has done so many of the two steps of loading.
    Loading(LeaderItem, u64, u8, u32),
    /// It knows the last attempt, and whether its node has reported.
    Leading(LeaderItem, u64, u32, bool),
    Gone,
}

#[derive(Clone, Debug, PartialEq, Hash)]
struct State {
    now: u64,
    item: Option<LeaderItem>,
    /// Term that wrote or marked the record, and the last attempt; none before the first.
    record: Option<(u64, u32)>,
    masters: Vec<Role>,
    /// Starts on their way to the node: term and attempt.
    starts: BTreeSet<(u64, u32)>,
    node_term: u64,
    running: Vec<u32>,
    /// Somebody wrote over what it did not know.
    has_lost_an_update: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Tick,
    /// A standby reads the item.
    Look(usize),
    Take(usize),
    Renew(usize),
    StepDown(usize),
    /// The next step of loading.
    Load(usize),
    /// The node registers with this master.
    Register(usize),
    /// The master writes the next attempt and sends the start.
    Start(usize),
    /// The node hears of a start.
    Hear(u64, u32),
}

fn is_same(a: Option<&LeaderItem>, b: Option<&LeaderItem>) -> bool {
    a.map(|item| (item.term, item.counter)) == b.map(|item| (item.term, item.counter))
}

impl Role {
    /// The item that a leader wrote last, and when.
    fn tenure(&self) -> Option<(&LeaderItem, u64)> {
        match self {
            Self::Loading(item, renewed, ..) | Self::Leading(item, renewed, ..) => {
                Some((item, *renewed))
            }
            _ => None,
        }
    }
}

impl State {
    fn renew(&mut self, nth: usize) {
        let now = self.now;
        let Some((item, _)) = self.masters[nth].tenure() else { return };
        let next = LeaderItem { counter: item.counter + 1, ..item.clone() };
        if !is_same(self.item.as_ref(), Some(item)) {
            self.masters[nth] = Role::Gone;
            return;
        }
        self.item = Some(next.clone());
        match &mut self.masters[nth] {
            Role::Loading(item, renewed, ..) | Role::Leading(item, renewed, ..) => {
                (*item, *renewed) = (next, now);
            }
            _ => {}
        }
    }

    fn load(&mut self, nth: usize, rules: Rules) {
        let Role::Loading(item, renewed, steps, read) = self.masters[nth].clone() else { return };
        let marks = (steps == 0) == rules.marks_first;
        let mut read = read;
        if marks {
            if self.record.is_some_and(|(term, _)| term > item.term) {
                self.masters[nth] = Role::Gone;
                return;
            }
            self.record.iter_mut().for_each(|(term, _)| *term = item.term);
        } else {
            read = self.record.map_or(0, |(_, attempt)| attempt);
        }
        self.masters[nth] = match steps {
            0 => Role::Loading(item, renewed, 1, read),
            _ => Role::Leading(item, renewed, read, false),
        };
    }

    fn start(&mut self, nth: usize, rules: Rules) {
        let Role::Leading(item, renewed, known, _) = self.masters[nth].clone() else { return };
        let is_refused = match self.record {
            Some((term, _)) => rules.records_know_their_term && term > item.term,
            None if rules.new_records_ask_for_the_leader => {
                self.item.as_ref().is_some_and(|leader| leader.term != item.term)
            }
            None => false,
        };
        if is_refused {
            self.masters[nth] = Role::Gone;
            return;
        }
        self.has_lost_an_update |= self.record.is_some_and(|(_, attempt)| attempt != known);
        let attempt = known + 1;
        self.record = Some((item.term, attempt));
        self.starts.insert((item.term, attempt));
        self.masters[nth] = Role::Leading(item, renewed, attempt, false);
    }
}

impl Model for Config {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let standby = |name: &str| {
            let take_over_after = Duration::from_secs(TAKE_OVER_AFTER);
            let name = name.to_owned();
            Role::Standby(Campaign::new(name.clone(), name.clone(), name, 0, take_over_after))
        };
        vec![State {
            now: 0,
            item: None,
            record: None,
            masters: vec![standby("a"), standby("b")],
            starts: BTreeSet::new(),
            node_term: 0,
            running: Vec::new(),
            has_lost_an_update: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.now < self.ticks {
            actions.push(Action::Tick);
        }
        for (nth, role) in state.masters.iter().enumerate() {
            match role {
                Role::Standby(_) => actions.push(Action::Look(nth)),
                Role::Taking(..) => actions.push(Action::Take(nth)),
                Role::Loading(..) => actions.push(Action::Load(nth)),
                Role::Leading(item, _, attempt, has_report) => {
                    if !has_report && state.node_term <= item.term {
                        actions.push(Action::Register(nth));
                    }
                    // A first attempt asks nobody; a further one wants to know that the last is over.
                    let may_start = *has_report && !state.running.contains(attempt);
                    if *attempt < self.attempts && (*attempt == 0 || may_start) {
                        actions.push(Action::Start(nth));
                    }
                }
                Role::Gone => {}
            }
            if let Some((_, renewed)) = role.tenure() {
                if renewed < state.now {
                    actions.push(Action::Renew(nth));
                }
                if state.now - renewed >= self.rules.step_down_after {
                    actions.push(Action::StepDown(nth));
                }
            }
        }
        actions.extend(state.starts.iter().map(|(term, attempt)| Action::Hear(*term, *attempt)));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => state.now += 1,
            Action::Look(nth) => {
                let Role::Standby(mut campaign) = state.masters[nth].clone() else { return None };
                let seen = state.item.clone();
                let decision = campaign.observe(Duration::from_secs(state.now), seen.as_ref());
                state.masters[nth] = match decision {
                    Decision::Wait => Role::Standby(campaign),
                    Decision::Take(item) => Role::Taking(campaign, item, seen),
                };
            }
            Action::Take(nth) => {
                let Role::Taking(campaign, item, seen) = state.masters[nth].clone() else {
                    return None;
                };
                let is_seen = is_same(state.item.as_ref(), seen.as_ref());
                state.masters[nth] = if is_seen || !self.rules.takes_what_it_saw {
                    state.item = Some(item.clone());
                    Role::Loading(item, state.now, 0, 0)
                } else {
                    Role::Standby(campaign)
                };
            }
            Action::Renew(nth) => state.renew(nth),
            Action::StepDown(nth) => state.masters[nth] = Role::Gone,
            Action::Load(nth) => state.load(nth, self.rules),
            Action::Register(nth) => {
                if let Role::Leading(item, _, _, has_report) = &mut state.masters[nth] {
                    *has_report = true;
                    state.node_term = item.term;
                    // What was on the stream before is read before, or never.
                    state.starts.retain(|(term, _)| *term != item.term);
                }
            }
            Action::Start(nth) => state.start(nth, self.rules),
            Action::Hear(term, attempt) => {
                state.starts.remove(&(term, attempt));
                if term >= state.node_term || !self.rules.nodes_know_their_term {
                    state.node_term = state.node_term.max(term);
                    if !state.running.contains(&attempt) {
                        state.running.push(attempt);
                    }
                }
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_ACTS, |config: &Config, state: &State| {
                let may_act = config.rules.step_down_after;
                let acts = |role: &&Role| {
                    role.tenure().is_some_and(|(_, since)| state.now - since < may_act)
                };
                state.masters.iter().filter(acts).count() <= 1
            }),
            Property::always(NOTHING_LOST, |_, state: &State| !state.has_lost_an_update),
            Property::always(ONE_DRIVER, |_, state: &State| state.running.len() <= 1),
            Property::sometimes("a driver can be started", |_, state: &State| {
                !state.running.is_empty()
            }),
            Property::sometimes(
                "a standby can take over and start a driver",
                |_, state: &State| !state.running.is_empty() && state.node_term > 1,
            ),
        ]
    }
}

const ONE_ACTS: &str = "at most one master may act";
const NOTHING_LOST: &str = "nobody writes over what it has not read";
const ONE_DRIVER: &str = "no driver is started beside another";

const SOUND: Rules = Rules {
    step_down_after: 2,
    takes_what_it_saw: true,
    marks_first: true,
    new_records_ask_for_the_leader: true,
    records_know_their_term: true,
    nodes_know_their_term: true,
};

/// The steps to a property that does not hold, if there is one.
fn flaw(name: &str, config: Config) -> Option<String> {
    let began = std::time::Instant::now();
    let until = HasDiscoveries::AnyFailures;
    let properties = config.properties();
    let checker = config.checker().threads(2).finish_when(until).spawn_bfs().join();
    println!("{name}: {} states, {:?}", checker.unique_state_count(), began.elapsed());
    let mut found = checker.discoveries();
    for property in properties.iter().filter(|p| p.expectation.discovery_is_failure()) {
        if let Some(path) = found.remove(property.name) {
            return Some(format!("not true that {}: {:?}", property.name, path.into_actions()));
        }
    }
    for property in properties.iter().filter(|p| !p.expectation.discovery_is_failure()) {
        assert!(found.contains_key(property.name), "{name}: never: {}", property.name);
    }
    None
}

#[test]
fn a_deposed_master_changes_nothing_and_no_driver_is_started_twice() {
    let is_large = std::env::var("MILLRACE_MODELS").is_ok_and(|size| size == "large");
    let (ticks, attempts) = if is_large { (8, 3) } else { (5, 2) };
    assert_eq!(flaw("two masters", Config { ticks, attempts, rules: SOUND }), None);
}

/// Without this rule, the property does not hold.
fn is_found(name: &str, property: &str, rules: Rules) {
    let found = flaw(name, Config { ticks: 5, attempts: 2, rules });
    let found = found.unwrap_or_else(|| panic!("{name} is not found out"));
    assert!(found.contains(property), "{name}: {found}");
    println!("{name}: {found}");
}

#[test]
fn a_leader_that_steps_down_too_late_acts_beside_the_next() {
    is_found("late", ONE_ACTS, Rules { step_down_after: TAKE_OVER_AFTER + 1, ..SOUND });
}

#[test]
fn taking_over_what_has_moved_on_makes_two_leaders() {
    is_found("blind take-over", ONE_ACTS, Rules { takes_what_it_saw: false, ..SOUND });
}

#[test]
fn reading_before_marking_lets_a_deposed_master_change_what_was_read() {
    is_found("read before marked", NOTHING_LOST, Rules { marks_first: false, ..SOUND });
}

#[test]
fn records_without_terms_let_a_deposed_master_write_over_its_successor() {
    let rules = Rules { records_know_their_term: false, ..SOUND };
    is_found("records without terms", NOTHING_LOST, rules);
}

#[test]
fn new_records_without_the_leader_item_let_a_deposed_master_start_drivers() {
    let rules = Rules { new_records_ask_for_the_leader: false, ..SOUND };
    is_found("new records for anybody", "", rules);
}

#[test]
fn nodes_that_hear_deposed_masters_start_a_second_driver() {
    is_found("deaf nodes", ONE_DRIVER, Rules { nodes_know_their_term: false, ..SOUND });
}
