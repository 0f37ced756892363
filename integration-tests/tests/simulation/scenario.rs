//! One history: an application under load, trouble as the seed wants, then peace, a drain, and the
//! judgement.

use std::cell::RefCell;
use std::sync::Once;
use std::time::Duration;

use millrace_master::store::memory::Fault;
use millrace_proto::v1::ApplicationState;
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, name_of};
use crate::node::MASTERS;
use crate::world::Row;

/// How long trouble is made, and how long the cluster may take to heal afterwards.
const TROUBLE: Duration = Duration::from_secs(25);
const HEALING: Duration = Duration::from_secs(120);
const PRODUCE_EVERY: Duration = Duration::from_millis(200);

/// What came of a seed.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct History {
    pub(crate) lines: Vec<String>,
    pub(crate) failure: Option<String>,
    pub(crate) num_records: usize,
    pub(crate) num_batches: u64,
}

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A panic in a task is caught by the runtime: it is a failure all the same.
fn hear_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with(|panics| panics.borrow_mut().push(info.to_string()));
            usual(info);
        }));
    });
}

/// Plays the history of a seed.
pub(crate) fn play(seed: u64) -> History {
    hear_panics();
    PANICS.with(|panics| panics.borrow_mut().clear());
    let num_shards = 1 + (seed % 4) as usize;
    let mut play = Play {
        cluster: Cluster::start(seed, num_shards),
        next_record: Duration::ZERO,
        is_producing: false,
        down: Vec::new(),
        cut: Vec::new(),
    };
    let mut failure = play.run().err();
    PANICS.with(|panics| {
        if let Some(panic) = panics.borrow_mut().drain(..).next() {
            failure = Some(format!("panic: {panic}"));
        }
    });
    let state = play.cluster.world.lock();
    History {
        lines: state.history().to_vec(),
        failure,
        num_records: state.truth().len(),
        num_batches: state.head.as_ref().map_or(0, |head| head.batch),
    }
}

struct Play {
    cluster: Cluster,
    next_record: Duration,
    is_producing: bool,
    /// Hosts that are down, and when they come back.
    down: Vec<(Duration, String)>,
    /// Pairs of hosts that can not reach each other, and until when.
    cut: Vec<(Duration, String, String)>,
}

impl Play {
    fn run(&mut self) -> Result<(), String> {
        let submitted = self.cluster.submit();
        self.until("it is submitted", HEALING, |_| submitted.borrow().is_some())?;
        self.is_producing = true;
        self.trouble()?;
        self.is_producing = false;
        self.heal();
        let is_complete = |cluster: &Cluster| {
            let state = cluster.world.lock();
            state.visible().len() == state.truth().len()
        };
        self.until("every record is visible", HEALING, is_complete)?;
        let drained = self.cluster.drain();
        self.until("the drain is taken", HEALING, |_| drained.borrow().is_some())?;
        self.ends_well()?;
        self.judge()
    }

    fn now(&self) -> Duration {
        self.cluster.sim.elapsed()
    }

    fn step(&mut self) -> Result<(), String> {
        self.cluster.step()?;
        let now = self.now();
        if self.is_producing && now >= self.next_record {
            self.next_record = now + PRODUCE_EVERY;
            let mut state = self.cluster.world.lock();
            let count = state.pick(30);
            state.produce(count);
        }
        self.recover(now);
        if let Some(what) = self.cluster.world.lock().broken().first() {
            return Err(format!("broken: {what}"));
        }
        Ok(())
    }

    fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut(&Cluster) -> bool,
    ) -> Result<(), String> {
        let deadline = self.now() + limit;
        while !holds(&self.cluster) {
            if self.now() > deadline {
                return Err(format!("never: {what}"));
            }
            self.step()?;
        }
        Ok(())
    }

    /// What is down comes back when its time has come.
    fn recover(&mut self, now: Duration) {
        let (due, later) = std::mem::take(&mut self.down).into_iter().partition(|d| d.0 <= now);
        self.down = later;
        for (_, host) in due {
            self.cluster.world.note(format!("{host} comes back"));
            self.cluster.sim.bounce(host);
        }
        let (due, later) = std::mem::take(&mut self.cut).into_iter().partition(|c| c.0 <= now);
        self.cut = later;
        for (_, one, other) in due {
            self.cluster.world.note(format!("{one} and {other} see each other again"));
            self.cluster.sim.repair(one, other);
        }
    }

    fn trouble(&mut self) -> Result<(), String> {
        let end = self.now() + TROUBLE;
        while self.now() < end {
            let pause = self.cluster.world.lock().pause(200, 3_000);
            let next = self.now() + pause;
            while self.now() < next {
                self.step()?;
            }
            self.strike();
        }
        Ok(())
    }

    fn strike(&mut self) {
        let (kind, back, which) = {
            let mut state = self.cluster.world.lock();
            (state.pick(10), state.pause(100, 6_000), state.pick(1_000))
        };
        let back = self.now() + back;
        match kind {
            0..=2 => self.kill_container(which),
            3 => {
                let node = self.cluster.nodes()[which % self.cluster.nodes().len()];
                if !self.down.iter().any(|(_, host)| host == node) {
                    self.cluster.world.note(format!("{node} is killed"));
                    self.cluster.kill_node(node);
                    self.down.push((back, node.to_owned()));
                }
            }
            4 => {
                let master = name_of(MASTERS[which % MASTERS.len()]);
                if !self.down.iter().any(|(_, host)| host == master) {
                    self.cluster.world.note(format!("{master} is killed"));
                    self.cluster.sim.crash(master);
                    self.down.push((back, master.to_owned()));
                }
            }
            5..=6 => self.part(which, back),
            7 => {
                let fault = if which % 2 == 0 { Fault::Fail } else { Fault::LoseAnswer };
                self.cluster.store.inject(&vec![fault; 1 + which % 3]);
            }
            _ => self.cluster.world.lock().reshard(),
        }
    }

    fn kill_container(&mut self, which: usize) {
        let containers = self.cluster.containers();
        if let Some(container) = containers.get(which % containers.len().max(1)) {
            self.cluster.world.note(format!("{container} is killed"));
            self.cluster.kill(container);
        }
    }

    /// Cuts two hosts off from each other.
    fn part(&mut self, which: usize, until: Duration) {
        let mut hosts = self.cluster.containers();
        hosts.extend(MASTERS.map(|address| name_of(address).to_owned()));
        hosts.extend(self.cluster.nodes().iter().map(|node| (*node).to_owned()));
        let one = hosts[which % hosts.len()].clone();
        let other = hosts[which / 7 % hosts.len()].clone();
        if one != other {
            self.cluster.world.note(format!("{one} and {other} are cut off from each other"));
            self.cluster.sim.partition(one.as_str(), other.as_str());
            self.cut.push((until, one, other));
        }
    }

    fn heal(&mut self) {
        self.cluster.world.note("peace");
        self.cluster.world.lock().trouble_percent = 0;
        self.recover(Duration::MAX);
    }

    fn ends_well(&mut self) -> Result<(), String> {
        let deadline = self.now() + HEALING;
        loop {
            let asked = self.cluster.state();
            self.until("the master answers", HEALING, |_| asked.borrow().is_some())?;
            let (state, reason) = asked.borrow().clone().unwrap_or_default();
            match state {
                ApplicationState::Stopped => return Ok(()),
                ApplicationState::Failed
                | ApplicationState::Rejected
                | ApplicationState::Killed => return Err(format!("it is {state:?}: {reason}")),
                _ if self.now() > deadline => {
                    return Err(format!("it does not stop: {state:?}: {reason}"));
                }
                _ => {
                    for _ in 0..25 {
                        self.step()?;
                    }
                }
            }
        }
    }

    fn judge(&self) -> Result<(), String> {
        let state = self.cluster.world.lock();
        let (truth, visible) = (state.truth(), state.visible());
        let lost: Vec<&Row> = truth.iter().filter(|row| !visible.contains_key(row)).collect();
        let doubled: Vec<&Row> =
            visible.iter().filter(|(_, count)| **count > 1).map(|(row, _)| row).collect();
        let foreign = visible.keys().filter(|row| !truth.contains(row)).count();
        if lost.is_empty() && doubled.is_empty() && foreign == 0 {
            return Ok(());
        }
        Err(format!(
            "{} lost, first {:?}; {} doubled, first {:?}; {foreign} from nowhere",
            lost.len(),
            lost.first(),
            doubled.len(),
            doubled.first()
        ))
    }
}
