//! `plan` says yes exactly when the application progresses: held against a simulation that steps the
//! real scheduler and the real driver's receivers and shares no arithmetic with it, and in small cases
//! against every placement there is; and what `millrace plan` and `submit` say of it.

// The whole crate is tests; clippy only knows the test functions.
#![allow(clippy::unwrap_used)]

mod case;
mod command;
mod search;
mod simulation;

use std::cell::Cell;

use millrace_common::plan::Verdict;
use millrace_common::resources::Resources;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use case::{Case, any_case, small_case};

const CASES: u32 = 10_000;
const SMALL_CASES: u32 = 2_000;
/// Each verdict must be this share of the cases at least, or they test too little.
const SHARE_MIN: u32 = 20;

/// How often each verdict was given.
#[derive(Default)]
struct Verdicts {
    fits: Cell<u32>,
    waits: Cell<u32>,
    never: Cell<u32>,
}

impl Verdicts {
    fn count(&self, verdict: Verdict) {
        let counter = match verdict {
            Verdict::Fits => &self.fits,
            Verdict::Waits => &self.waits,
            Verdict::Never => &self.never,
        };
        counter.set(counter.get() + 1);
    }

    fn are_mixed(&self, cases: u32) {
        let [fits, waits, never] = [&self.fits, &self.waits, &self.never].map(Cell::get);
        println!("{cases} cases: {fits} fit, {waits} wait, {never} never fit");
        assert!([fits, waits, never].iter().all(|count| count * SHARE_MIN >= cases));
    }
}

/// A failing case is printed, and not kept in a file.
fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

fn equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    plan: T,
    real: T,
) -> Result<(), TestCaseError> {
    let says = format!("{what}: plan says {plan:?}, it is {real:?}");
    if plan == real { Ok(()) } else { Err(TestCaseError::fail(says)) }
}

#[test]
fn plan_says_yes_exactly_when_the_application_progresses() {
    let verdicts = Verdicts::default();
    let mut runner = runner(CASES);
    let holds = |case: Case| {
        let plan = case.plan();
        verdicts.count(plan.verdict);
        let now = simulation::now(&case);
        let verdict = match &now {
            Some(_) => Verdict::Fits,
            None if simulation::alone(&case).is_some() => Verdict::Waits,
            None => Verdict::Never,
        };
        equal("verdict", plan.verdict, verdict)?;
        let Some(run) = now else { return Ok(()) };
        equal("executors", plan.sums.executors as usize, run.num_executors)?;
        equal("task cores", plan.sums.task_cores, run.task_cores)?;
        for (sum, source) in plan.sums.sources.iter().zip(&run.sources) {
            equal("source", sum.name.as_str(), source.name.as_str())?;
            equal("receivers", sum.num_receivers, Some(source.num_receivers))?;
            let [fewest, most] = [sum.shards_per_executor_min, sum.shards_per_executor_max];
            let bounds = [fewest <= Some(source.fewest), most >= Some(source.most)];
            equal("bounds", bounds, [true, true])?;
            if case.is_even(&sum.name) {
                equal("fewest shards", fewest, Some(source.fewest))?;
                equal("most shards", most, Some(source.most))?;
            }
        }
        Ok(())
    };
    if let Err(error) = runner.run(&any_case(), holds) {
        panic!("{error}");
    }
    verdicts.are_mixed(CASES);
}

/// The arithmetic that people do in their heads must be wrong often enough, or these cases are too
/// easy to tell a right plan from a wrong one.
#[test]
fn sums_alone_are_often_wrong() {
    let wrong = Cell::new(0);
    let mut runner = runner(SMALL_CASES);
    let compare = |case: Case| {
        let resources = case.resources();
        let sum = case.offered().into_iter().fold(Resources::default(), Resources::saturating_add);
        let executors = (0..resources.executors.min).map(|_| resources.executor);
        let need = executors.fold(resources.driver, Resources::saturating_add);
        let is_there = search::Shape::of(&resources).has_place(&case.offered());
        wrong.set(wrong.get() + u32::from(sum.fits(need) != is_there));
        Ok(())
    };
    if let Err(error) = runner.run(&small_case(), compare) {
        panic!("{error}");
    }
    println!("sums alone are wrong in {} of {SMALL_CASES} cases", wrong.get());
    assert!(wrong.get() * SHARE_MIN >= SMALL_CASES);
}

#[test]
fn plan_agrees_with_every_placement_there_is() {
    let verdicts = Verdicts::default();
    let mut runner = runner(SMALL_CASES);
    let holds = |case: Case| {
        let plan = case.plan();
        verdicts.count(plan.verdict);
        let shape = search::Shape::of(&case.resources());
        let [now, empty] = [case.free(), case.offered()].map(|rooms| shape.has_place(&rooms));
        let verdict = match (now, empty) {
            (true, _) => Verdict::Fits,
            (false, true) => Verdict::Waits,
            (false, false) => Verdict::Never,
        };
        equal("verdict", plan.verdict, verdict)?;
        let rooms = if plan.verdict == Verdict::Waits { case.free() } else { case.offered() };
        for mend in &plan.mends {
            let what = format!("{mend:?}");
            let shape = search::Shape::of(&case.changed(&mend.settings));
            let added = |count: u64| {
                let added = std::iter::repeat_n(mend.node, count as usize);
                rooms.iter().copied().chain(added).collect::<Vec<_>>()
            };
            equal(&what, true, shape.has_place(&added(mend.num_nodes)))?;
            if mend.num_nodes > 0 {
                let one_less = shape.has_place(&added(mend.num_nodes - 1));
                equal(&format!("one node less of {what}"), false, one_less)?;
            }
            if let [setting] = mend.settings.as_slice()
                && let Some(count) = setting.strip_prefix("resources.executors=")
            {
                let one_more = count.parse::<u32>().map(|count| count + 1).unwrap_or(0);
                let shape = search::Shape { num_executors: one_more, ..shape };
                equal(&format!("one more than {what}"), false, shape.has_place(&rooms))?;
            }
        }
        Ok(())
    };
    if let Err(error) = runner.run(&small_case(), holds) {
        panic!("{error}");
    }
    verdicts.are_mixed(SMALL_CASES);
}
