//! A model of the commit in which the drivers are the real ones: every order of calls and answers
//! of a small world is tried, with answers that are lost, writes that come late and twice, drivers
//! that die at every call and drivers that live on after they were replaced.
//!
//! Promises: in no state of these worlds is a record lost, doubled or visible too soon, and where
//! nothing can move any more everything is visible. Drivers that lack one rule of the design are
//! found out. `MILLRACE_MODELS=large` tries the larger worlds of [`large`].
//!
//! The worlds are small: two shards with three records, two drivers or three, few faults. What is
//! left out: time (five minutes pass at once, an upload expires when the world lets it), and the
//! tasks themselves.

mod by_hand;
mod drivers;
mod large;
mod replay;
mod world;

use std::collections::BTreeMap;

use millrace_common::head::{Fate, RunOrder, fate};
use stateright::{HasDiscoveries, Model, Property};

use self::by_hand::Variant;
use self::drivers::{Driver, End, Point};
use self::replay::{Answer, Call, Request};
use self::world::{Cut, Stand, World};
use super::super::core::CompleteAnswer;
use super::heads::Conditions;
use crate::driver::head::{RepairChoice, Sizes};
use crate::model_search::{Order, search};

/// Who drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The committer.
    Real,
    /// One that may be wrong.
    ByHand(Variant),
}

/// When `uploads gc` may abort an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gc {
    Never,
    /// The rule of the design.
    Ruled,
    /// Whatever is not pending: must be caught.
    NotPending,
}

/// A world to be tried.
#[derive(Clone, Debug)]
struct Config {
    kind: Kind,
    /// Drivers that are started, one after the other; an earlier one may live on.
    num_drivers: usize,
    /// Drivers that die. The last one never does.
    crashes: usize,
    /// Calls whose answer is lost, or that come late or twice.
    faults: u8,
    /// Records of each shard.
    records: [u64; 2],
    /// Where a batch may end.
    cuts: &'static [Cut],
    conditions: Conditions,
    /// A second Complete of an upload succeeds, as with S3; else it answers NoSuchUpload.
    repeatable: bool,
    /// The credentials may look at objects.
    may_look: bool,
    /// The tasks of the next batch may run while the last is published (k8).
    runs_during_publish: bool,
    /// Keys are made of the batch alone.
    keys_are_batches: bool,
    gc: Gc,
    /// Uploads that a commit named and the bucket's lifecycle rule takes before they are complete.
    expiries: u8,
    /// What an operator says of a batch that lost an upload.
    repair: Option<RepairChoice>,
    /// From which size on heads go to chunks.
    sizes: Sizes,
    /// Drivers that rest say in the head that its batch is published.
    marks: bool,
    /// Files that those who read them remove.
    takes: u8,
    /// They do not wait for the mark.
    takes_early: bool,
}

impl Config {
    const SMALL: Self = Self {
        kind: Kind::Real,
        num_drivers: 2,
        crashes: 1,
        faults: 1,
        records: [2, 1],
        cuts: &[Cut::Whole, Cut::OneEach],
        conditions: Conditions::ALL,
        repeatable: false,
        may_look: true,
        runs_during_publish: false,
        keys_are_batches: false,
        gc: Gc::Never,
        expiries: 0,
        repair: None,
        sizes: Sizes::TABLE,
        marks: false,
        takes: 0,
        takes_early: false,
    };
}

#[derive(Clone, Debug, PartialEq, Hash)]
struct State {
    world: World,
    drivers: Vec<Driver>,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    /// The master starts the next driver.
    Start,
    Crash(usize),
    /// The tasks of a driver's next batch end.
    Run(usize, Cut),
    /// A call is applied and answered.
    Serve(usize, Call),
    ServeRun(usize, Call, Cut),
    /// It is not answered, and may be applied at any later time.
    Delay(usize, Call),
    /// It is applied, answered, and may be applied once more at any later time.
    Double(usize, Call),
    /// A call that was on its way arrives.
    Arrive(String),
    /// `uploads gc` reads the head.
    GcLook,
    GcAbort(String),
    /// The bucket's lifecycle rule takes an upload.
    Expire(String),
    /// Somebody who has read a file removes it.
    Take(String),
    /// An operator says what is to become of the head's batch.
    AskRepair,
}

impl Config {
    fn driver_actions(
        &self,
        nth: usize,
        driver: &Driver,
        has_faults: bool,
        actions: &mut Vec<Action>,
    ) {
        if driver.may_run(self).is_some() {
            actions.extend(self.cuts.iter().map(|cut| Action::Run(nth, *cut)));
        }
        for (call, request) in &driver.open {
            if let Request::Run { .. } = request {
                let serve = |cut: &Cut| Action::ServeRun(nth, call.clone(), *cut);
                actions.extend(self.cuts.iter().map(serve));
                continue;
            }
            actions.push(Action::Serve(nth, call.clone()));
            let can_fault = !matches!(
                request,
                Request::Read | Request::ListChunks | Request::ReadChunk(_) | Request::Look(_)
            );
            if has_faults && can_fault {
                actions.push(Action::Delay(nth, call.clone()));
                actions.push(Action::Double(nth, call.clone()));
            }
        }
    }

    fn gc_actions(&self, world: &World, actions: &mut Vec<Action>) {
        let Some(seen) = &world.gc else {
            if self.gc != Gc::Never && world.item.is_some() {
                actions.push(Action::GcLook);
            }
            return;
        };
        let open = world.uploads.iter().filter(|(_, upload)| upload.stand == Stand::Open);
        let may_go = open.filter(|(id, upload)| {
            let run = RunOrder { epoch: upload.epoch, batch: upload.batch };
            let fate = fate(Some(&seen.head), run, &upload.key, id);
            fate == Fate::Orphan || self.gc == Gc::NotPending && fate != Fate::Pending
        });
        actions.extend(may_go.map(|(id, _)| Action::GcAbort(id.clone())));
    }

    /// What befalls a committed batch, and what is said of it. Not once the last driver is there:
    /// nobody would come after it.
    fn loss_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let world = &state.world;
        if state.drivers.len() == self.num_drivers {
            return;
        }
        if world.expiries_left > 0 {
            let open = |id: &&String| {
                world.uploads.get(*id).is_some_and(|upload| upload.stand == Stand::Open)
            };
            let may_go = world.pending.iter().filter(open);
            actions.extend(may_go.map(|id| Action::Expire(id.clone())));
        }
        // Where files are removed an operator may take them for lost.
        let looks_lost =
            self.takes > 0 && !world.pending.is_empty() || world.has_lost_what_is_pending();
        let is_asked = world.item.as_ref().is_some_and(|item| item.repair.is_some());
        if self.repair.is_some() && !is_asked && looks_lost {
            actions.push(Action::AskRepair);
        }
    }

    /// True when nothing is to be done any more and nothing is on its way.
    fn is_at_rest(&self, state: &State) -> bool {
        let rests = |driver: &Driver| driver.open.is_empty() && driver.may_run(self).is_none();
        state.drivers.len() == self.num_drivers
            && state.world.late.is_empty()
            && state.drivers.iter().all(rests)
    }

    /// A driver gets an answer, and goes on.
    fn answer(&self, state: &mut State, nth: usize, call: Call, answer: Answer) {
        let driver = &mut state.drivers[nth];
        driver.answers.insert(call, answer);
        driver.go_on(self);
    }

    fn request(state: &State, nth: usize, call: &Call) -> Request {
        let mut open = state.drivers[nth].open.iter();
        open.find(|(other, _)| other == call).map(|(_, request)| request.clone()).unwrap()
    }
}

impl Model for Config {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let (faults_left, expiries_left) = (self.faults, self.expiries);
        let takes_left = self.takes;
        let world = World { faults_left, expiries_left, takes_left, ..World::default() };
        vec![State { world, drivers: Vec::new() }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let world = &state.world;
        if state.drivers.len() < self.num_drivers {
            actions.push(Action::Start);
        }
        let num_crashed =
            state.drivers.iter().filter(|d| d.point == Point::Ended(End::Crashed)).count();
        for (nth, driver) in state.drivers.iter().enumerate() {
            self.driver_actions(nth, driver, world.faults_left > 0, actions);
            let may_crash = nth + 1 < self.num_drivers && num_crashed < self.crashes;
            if may_crash && !driver.has_ended() {
                actions.push(Action::Crash(nth));
            }
        }
        let mut tags: Vec<&String> = world.late.iter().map(|late| &late.tag).collect();
        tags.dedup();
        actions.extend(tags.into_iter().map(|tag| Action::Arrive(tag.clone())));
        self.gc_actions(world, actions);
        self.loss_actions(state, actions);
        actions.extend(world.takeable(self.takes_early).map(|key| Action::Take(key.clone())));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Start => {
                let epoch = state.drivers.len() as u64 + 1;
                let head_expected = state.world.item.is_some();
                state.drivers.push(Driver::start(self, epoch, head_expected));
            }
            Action::Crash(nth) => state.drivers[nth].crash(),
            Action::Run(nth, cut) => {
                let driver = &mut state.drivers[nth];
                let head = driver.may_run(self)?.clone();
                let at = (driver.epoch, head.batch + 1, 0);
                let ran = state.world.run(self, at, &head.positions, cut);
                driver.next = Some(ran);
                driver.go_on(self);
            }
            Action::Serve(nth, call) => {
                let request = Self::request(&state, nth, &call);
                let answer = state.world.serve(self, &request);
                self.answer(&mut state, nth, call, answer);
            }
            Action::ServeRun(nth, call, cut) => {
                let Request::Run { positions, batch } = Self::request(&state, nth, &call) else {
                    return None;
                };
                let at = (state.drivers[nth].epoch, batch, call.nth);
                let ran = state.world.run(self, at, &positions, cut);
                self.answer(&mut state, nth, call, Answer::Ran(ran));
            }
            Action::Delay(nth, call) => {
                let request = Self::request(&state, nth, &call);
                state.world.faults_left -= 1;
                state.world.delay(&request);
                let answer = match request {
                    Request::Complete(_) => Answer::Completed(CompleteAnswer::Open),
                    _ => Answer::Silence,
                };
                self.answer(&mut state, nth, call, answer);
            }
            Action::Double(nth, call) => {
                let request = Self::request(&state, nth, &call);
                state.world.faults_left -= 1;
                state.world.delay(&request);
                let answer = state.world.serve(self, &request);
                self.answer(&mut state, nth, call, answer);
            }
            Action::Arrive(tag) => {
                let at = state.world.late.iter().position(|late| late.tag == tag)?;
                let late = state.world.late.remove(at);
                state.world.serve(self, &late.request);
            }
            Action::GcLook => {
                state.world.look()?;
            }
            Action::GcAbort(id) => state.world.abort(&id),
            Action::Expire(id) => state.world.expire(&id),
            Action::Take(key) => state.world.take(&key),
            Action::AskRepair => state.world.ask_repair(self.repair?)?,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONCE, |config, State { world, .. }| {
                all_records(config).all(|record| world.num_visible(record) <= 1)
            }),
            Property::always(INVISIBLE, |_, State { world, .. }| {
                world.objects.values().all(|id| world.named.contains(id))
            }),
            Property::always(KEPT, |_, State { world, .. }| world.keeps_what_was_named()),
            Property::always(TRUE_POSITIONS, |config, State { world, .. }| {
                world.positions_are_true(config)
            }),
            Property::always(NO_FLAW, |_, State { world, .. }| world.flaw.is_none()),
            Property::always(WHOLE_HEAD, |_, State { world, .. }| {
                world.item.as_ref().is_none_or(|item| world.has_chunks_of(item))
            }),
            Property::always(NO_DRIVER_FAILS, |_, State { world, drivers }| {
                drivers.iter().all(|driver| match &driver.point {
                    Point::Ended(End::Failed(_)) => false,
                    Point::Ended(End::Lost) => world.has_lost_uploads(),
                    _ => true,
                })
            }),
            Property::always(ALL_AT_REST, |config, state: &State| {
                let mut records = all_records(config);
                let says_so = |driver: &Driver| {
                    driver.point == Point::Ended(End::Lost)
                        && state.world.has_lost_what_is_pending()
                };
                !config.is_at_rest(state)
                    || records.all(|record| state.world.num_visible(record) == 1)
                    || state.drivers.last().is_some_and(says_so)
            }),
            Property::sometimes(FINISHED, |config, state: &State| {
                let mut records = all_records(config);
                let may_be_lost = config.expiries > 0 && config.repair.is_some();
                (!may_be_lost || state.world.has_lost_uploads())
                    && records.all(|record| state.world.num_visible(record) == 1)
            }),
            Property::sometimes(OVERTAKEN, |_, State { drivers, .. }| {
                drivers.iter().any(|d| d.point == Point::Ended(End::Overtaken))
            }),
        ]
    }
}

const ONCE: &str = "no record is visible twice";
const INVISIBLE: &str = "nothing is visible before its commit";
const KEPT: &str = "what was committed is visible or can be made so";
const TRUE_POSITIONS: &str = "the records before the positions are the committed ones, each once";
const NO_FLAW: &str = "batches grow by one, epochs and positions never fall, the start stays";
const WHOLE_HEAD: &str = "the chunks that the head names are there";
const NO_DRIVER_FAILS: &str = "no driver reports a defect, or a loss that is none";
const ALL_AT_REST: &str = "where nothing can move any more everything is visible, or said lost";
const FINISHED: &str = "everything can become visible";
const OVERTAKEN: &str = "a driver can be overtaken";

/// Records that are doubled or lost.
const RECORDS: [&str; 2] = [ONCE, ALL_AT_REST];

fn all_records(config: &Config) -> impl Iterator<Item = world::Record> {
    let shards = config.records.into_iter().enumerate();
    shards.flat_map(|(shard, count)| (1..=count).map(move |number| (shard, number)))
}

/// The steps to each property's discovery.
fn discoveries(
    name: &str,
    config: Config,
    order: Order,
    until: HasDiscoveries,
) -> BTreeMap<&'static str, String> {
    let found = search(name, config.checker().finish_when(until), order);
    let steps = |path: stateright::Path<State, Action>| {
        let steps = path.into_actions().into_iter().map(|action| format!("\n  {action:?}"));
        steps.collect::<String>()
    };
    found.paths.into_iter().map(|(name, path)| (name, steps(path))).collect()
}

fn holds(name: &str, config: Config) {
    holds_in_all_states(name, config, Order::BreadthFirst);
}

/// Tries every state and lets no property fail.
fn holds_in_all_states(name: &str, config: Config, order: Order) {
    let properties = config.properties();
    let found = discoveries(name, config, order, HasDiscoveries::AnyFailures);
    for property in properties {
        let steps = found.get(property.name);
        if property.expectation.discovery_is_failure() {
            assert!(steps.is_none(), "{name}: not true that {}: {}", property.name, steps.unwrap());
        } else {
            assert!(steps.is_some(), "{name}: it never happens that {}", property.name);
        }
    }
}

/// The world must see that records are lost or doubled.
fn is_found(name: &str, config: Config) {
    let until = HasDiscoveries::AnyOf(RECORDS.into());
    let found = discoveries(name, config, Order::BreadthFirst, until);
    let seen = RECORDS.iter().find_map(|property| Some((property, found.get(property)?)));
    let (property, steps) = seen.unwrap_or_else(|| panic!("{name} is not found out"));
    println!("{name}: not true that {property}:{steps}");
}

#[test]
fn whatever_happens_every_record_is_visible_once() {
    holds("two drivers", Config::SMALL);
}

#[test]
fn where_a_second_complete_succeeds_or_nobody_may_look_it_is_the_same() {
    let small = Config { cuts: &[Cut::OneEach], ..Config::SMALL };
    holds("repeatable completes", Config { repeatable: true, ..small.clone() });
    holds("no right to look", Config { may_look: false, records: [2, 0], ..small });
}

#[test]
fn heads_in_chunks_are_as_safe() {
    let sizes = Sizes { inline: 0, chunk: 100 };
    holds("chunks", Config { sizes, records: [2, 0], cuts: &[Cut::OneEach], ..Config::SMALL });
}

#[test]
fn removing_orphaned_uploads_by_the_rule_takes_nothing_that_is_needed() {
    let ruled = Config {
        gc: Gc::Ruled,
        runs_during_publish: true,
        faults: 0,
        records: [2, 0],
        cuts: &[Cut::OneEach],
        ..Config::SMALL
    };
    holds("gc", ruled);
}

/// One batch of two files, which expire.
const LOST: Config = Config { expiries: 2, records: [1, 1], cuts: &[Cut::Whole], ..Config::SMALL };

#[test]
fn a_batch_whose_uploads_expired_is_named_or_read_again_exactly_once() {
    holds("lost, and nobody says anything", Config { faults: 0, ..LOST });
    holds("lost and read again", Config { repair: Some(RepairChoice::Reread), ..LOST });
}

/// One batch of one file, which those who read it remove as soon as they may.
const TAKEN: Config =
    Config { marks: true, takes: 1, records: [1, 0], cuts: &[Cut::Whole], ..Config::SMALL };

#[test]
fn a_mark_changes_nothing_whenever_it_comes() {
    holds("marks", Config { marks: true, records: [2, 0], cuts: &[Cut::OneEach], ..Config::SMALL });
}

#[test]
fn files_that_readers_remove_once_the_batch_is_marked_are_no_loss() {
    holds("removed once marked", TAKEN);
    let repair = Some(RepairChoice::Reread);
    holds("removed once marked, and taken for lost", Config { repair, ..TAKEN });
    holds("removed once marked, repeatable", Config { repair, repeatable: true, ..TAKEN });
}

#[test]
fn files_that_readers_remove_before_the_mark_can_be_doubled_by_a_repair() {
    let early = Config { takes_early: true, repair: Some(RepairChoice::Reread), ..TAKEN };
    is_found("removed before the mark", Config { faults: 0, ..early });
}

#[test]
fn reading_a_batch_again_that_is_partly_visible_doubles_records() {
    is_found(
        "doubled by name",
        Config { repair: Some(RepairChoice::Duplicate), faults: 0, ..LOST },
    );
}

#[test]
fn giving_a_batch_up_loses_records() {
    is_found("given up by name", Config { repair: Some(RepairChoice::GiveUp), faults: 0, ..LOST });
}

/// Enough of a world to be caught in.
const TRAP: Config = Config { records: [2, 0], cuts: &[Cut::OneEach], crashes: 0, ..Config::SMALL };

fn by_hand(variant: Variant) -> Config {
    Config { kind: Kind::ByHand(variant), ..TRAP }
}

#[test]
fn the_same_driver_written_by_hand_is_right() {
    holds("by hand", Config { crashes: 1, ..by_hand(Variant::Sound) });
}

#[test]
fn without_the_batch_condition_records_are_lost_or_doubled() {
    let conditions = Conditions { epoch: true, batch: false };
    is_found("no batch condition", Config { conditions, ..TRAP });
}

#[test]
fn without_any_condition_records_are_lost_or_doubled() {
    let conditions = Conditions { epoch: false, batch: false };
    is_found("no condition", Config { conditions, ..TRAP });
}

#[test]
fn without_reading_the_commit_id_back_records_are_lost_or_doubled() {
    is_found("no read back", by_hand(Variant::NoReadBack));
}

#[test]
fn aborting_after_a_timed_out_commit_loses_records() {
    is_found("abort after a timeout", by_hand(Variant::AbortAfterTimeout));
}

#[test]
fn completing_before_the_commit_doubles_records() {
    is_found("complete first", by_hand(Variant::CompleteFirst));
}

#[test]
fn completing_first_under_the_batch_number_loses_or_doubles_records() {
    let cuts = &[Cut::Whole, Cut::OneEach];
    let variant = by_hand(Variant::CompleteFirstUnderBatchNumber);
    is_found("complete first, keys of batches", Config { keys_are_batches: true, cuts, ..variant });
}

#[test]
fn committing_again_before_the_completes_end_loses_records() {
    let variant = by_hand(Variant::NextBeforeCompletesEnd);
    is_found("next before the completes end", Config { crashes: 1, faults: 0, ..variant });
}

#[test]
fn removing_whatever_is_not_pending_loses_records() {
    is_found("gc of all that is not pending", Config { gc: Gc::NotPending, faults: 0, ..TRAP });
}
