//! Random lives of a cluster. The world checks its invariants at every step; at the end, with all
//! nodes connected and nobody failing, every live application gets to work.

use std::time::Duration;

use millrace_proto::v1::{self, ApplicationState, driver_message};
use proptest::prelude::*;

use super::world::{World, spec};
use crate::application::is_terminal;

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const APPLICATIONS: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    Connect(usize),
    Cut(usize),
    CrashNode(usize),
    ExitDriver(usize),
    ExitExecutor(usize, usize),
    DriverWorks(usize),
    DriverFinishes(usize),
    Submit(usize, u32, u32),
    Stop(usize),
    Kill(usize),
    Scale(usize, u32),
    Target(usize, u32),
    Drain(usize, u64),
    Undrain(usize),
    Health(usize, bool),
    RestartMaster,
    SlowStore(bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..NODES.len();
    let app = 0..APPLICATIONS.len();
    prop_oneof![
        3 => node.clone().prop_map(Step::Connect),
        1 => node.clone().prop_map(Step::Cut),
        1 => node.clone().prop_map(Step::CrashNode),
        1 => (node.clone(), prop_oneof![Just(0), 100u64..20_000]).prop_map(|(n, d)| Step::Drain(n, d)),
        1 => node.clone().prop_map(Step::Undrain),
        2 => (node, any::<bool>()).prop_map(|(n, is_well)| Step::Health(n, is_well)),
        1 => app.clone().prop_map(Step::ExitDriver),
        1 => (app.clone(), 0usize..4).prop_map(|(a, e)| Step::ExitExecutor(a, e)),
        4 => app.clone().prop_map(Step::DriverWorks),
        1 => app.clone().prop_map(Step::DriverFinishes),
        4 => (app.clone(), 1u32..5, 1u32..4).prop_map(|(a, n, c)| Step::Submit(a, n, c)),
        1 => app.clone().prop_map(Step::Stop),
        1 => app.clone().prop_map(Step::Kill),
        1 => (app.clone(), 0u32..8).prop_map(|(a, n)| Step::Scale(a, n)),
        2 => (app, 0u32..8).prop_map(|(a, n)| Step::Target(a, n)),
        1 => Just(Step::RestartMaster),
        1 => any::<bool>().prop_map(Step::SlowStore),
        4 => (100u64..20_000).prop_map(Step::Pass),
    ]
}

/// The driver of an application that is here, and its session.
fn session_of(world: &World, app: usize) -> Option<(v1::LaunchContext, u64)> {
    let driver = world.driver_of(APPLICATIONS[app])?;
    let at = |(_, id): &(&u64, &String)| **id == driver.container_id;
    let session = world.drivers.iter().find(at).map(|(session, _)| *session)?;
    Some((driver, session))
}

fn apply(world: &mut World, step: &Step) {
    match step {
        // Refusals are legal answers here.
        Step::Connect(node) => drop(world.connect(NODES[*node])),
        Step::Cut(node) => world.cut(NODES[*node]),
        Step::CrashNode(node) => world.crash_node(NODES[*node]),
        Step::ExitDriver(app) => {
            if let Some(driver) = world.driver_of(APPLICATIONS[*app]) {
                world.exit(&driver.container_id, 1);
            }
        }
        Step::ExitExecutor(app, index) => {
            if let Some(executor) = world.executors_of(APPLICATIONS[*app]).get(*index) {
                world.exit(executor, 1);
            }
        }
        Step::DriverWorks(app) => {
            let name = APPLICATIONS[*app];
            if world.driver_of(name).is_some() && world.driver_connects(name).is_ok() {
                world.driver_works(name);
            }
        }
        Step::Scale(app, executors) => drop(world.scale(APPLICATIONS[*app], *executors)),
        Step::Target(app, count) => {
            if let Some((driver, session)) = session_of(world, *app) {
                let spec = driver.spec.unwrap_or_default().resources.unwrap_or_default();
                let cost = spec.executor.unwrap_or_default();
                let v1::resources_spec::Cost { cores, memory_bytes } = cost;
                let target = v1::ExecutorTarget {
                    count: *count,
                    resources: Some(v1::Resources { cores, memory_bytes }),
                    ..Default::default()
                };
                world.driver_says(session, driver_message::Body::Target(target));
            }
        }
        Step::DriverFinishes(app) => {
            if let Some((driver, session)) = session_of(world, *app) {
                let mut finished = v1::DriverFinished::default();
                finished.set_state(ApplicationState::Stopped);
                world.driver_says(session, driver_message::Body::Finished(finished));
                world.exit(&driver.container_id, 0);
            }
        }
        Step::Submit(app, executors, cores) => {
            drop(world.submit(&spec(APPLICATIONS[*app], *executors, *cores)));
        }
        Step::Stop(app) => {
            if world.core.applications.keys().any(|name| name.as_str() == APPLICATIONS[*app]) {
                drop(world.stop(APPLICATIONS[*app]));
            }
        }
        Step::Kill(app) => {
            if world.core.applications.keys().any(|name| name.as_str() == APPLICATIONS[*app]) {
                drop(world.kill(APPLICATIONS[*app]));
            }
        }
        // A node that nobody knows is refused.
        Step::Drain(node, deadline_ms) => drop(world.drain(NODES[*node], *deadline_ms)),
        Step::Undrain(node) => drop(world.undrain(NODES[*node])),
        Step::Health(node, is_well) => {
            world.set_health(NODES[*node], if *is_well { "" } else { "MR6008: full" });
        }
        Step::RestartMaster => world.restart_master(),
        Step::SlowStore(is_slow) => {
            world.store_is_slow = *is_slow;
            world.write_all();
        }
        Step::Pass(ms) => world.pass(Duration::from_millis(*ms)),
    }
}

/// Everything is well again: nodes connect, the store is quick, drivers work.
fn recover(world: &mut World) {
    world.store_is_slow = false;
    world.write_all();
    for _ in 0..30 {
        for node in NODES {
            drop(world.undrain(node));
            world.set_health(node, "");
            if world.nodes[node].session.is_none() {
                drop(world.connect(node));
            }
        }
        for name in APPLICATIONS {
            let Some(driver) = world.driver_of(name) else { continue };
            let is_connected = world.drivers.values().any(|id| *id == driver.container_id);
            if !is_connected && world.driver_connects(name).is_ok() {
                world.driver_works(name);
            }
        }
        world.pass(Duration::from_secs(5));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_nothing_is_oversubscribed_or_started_twice(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new();
        for (node, cores) in NODES.iter().zip([4, 4, 2, 1]) {
            world.add_node(node, cores);
        }
        for step in &steps {
            apply(&mut world, step);
        }
        recover(&mut world);
        let live: Vec<String> = world
            .core
            .applications
            .values()
            .filter(|application| !is_terminal(application.state()))
            .map(|application| application.name.to_string())
            .collect();
        for name in &live {
            let state = world.state(name);
            let waits = matches!(state, ApplicationState::Queued | ApplicationState::Stopping);
            let is_waiting = waits && !world.reason(name).is_empty();
            let works = world.driver_of(name).is_some();
            prop_assert!(works || is_waiting, "{name} is {state:?}: {}", world.reason(name));
        }
        // The first in the queue waits only for what the cluster does not have, or for others.
        if live.len() == 1 && world.state(&live[0]) == ApplicationState::Queued {
            let reason = world.reason(&live[0]);
            prop_assert!(reason.contains("the whole cluster offers"), "{reason}");
        }
        for container in world.nodes.values().flat_map(|node| node.running.values()) {
            prop_assert!(live.contains(&container.application), "{container:?} is nobody's");
        }
    }
}
