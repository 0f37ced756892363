//! Does what was drawn, and undoes later what is to pass.
//!
//! Promises: an act is done to somebody it can be done to, or told as not possible now; whatever the
//! cluster refuses that it must not refuse, and takes that it must not take, is a finding; at the end
//! of [`Player::heal`] every process is up and every node takes containers.
//! Owned by the run. Never does: judge what the cluster does of its own accord.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use millrace_proto::v1;
use nix::sys::signal::Signal;
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use super::cast::{Cast, Role};
use super::draw::{Act, draw};
use super::watch::{SharedBoard, insist, running};
use super::wishes::Wish;
use crate::cluster::Cluster;
use crate::command::Output;
use crate::eventually::{PATIENCE, attempt, within};
use crate::processes;

/// From one act to the next, in milliseconds.
const BETWEEN: Range<u64> = 200..2_500;
/// With more of the nodes away there would be no room for those that run.
const AWAY_MAX: usize = 2;
/// So few applications that none more is ended.
const LIVE_MIN_PART: usize = 2;
/// What the refusal of a name that is taken says.
const NAME_IN_USE: &str = "MR2002";
/// And that of a master that has stepped down and not come back yet.
const NOT_LEADING: &str = "MR2012";

/// What happened, in order, for people.
pub(super) type History = Arc<Mutex<Vec<String>>>;

/// What passes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Undo {
    StartWorker(usize),
    StartMaster,
    Undrain(usize),
}

/// An act at work.
pub(super) struct Player<'a> {
    /// The cluster.
    pub cluster: &'a mut Cluster,
    cast: &'a Cast,
    board: SharedBoard,
    history: History,
    began: Instant,
    undo: Vec<(Instant, Undo)>,
    /// Nodes that are down or drained.
    away: BTreeSet<usize>,
    /// Processes of workers, those that are gone included.
    pub workers: BTreeSet<u32>,
    /// Acts that were done.
    pub num_acts: usize,
}

impl<'a> Player<'a> {
    /// A player before the first act.
    pub(super) fn new(
        cluster: &'a mut Cluster,
        cast: &'a Cast,
        board: SharedBoard,
        history: History,
    ) -> Self {
        let workers = cluster.workers.iter().map(processes::Process::pid).collect();
        Self {
            cluster,
            cast,
            board,
            history,
            began: Instant::now(),
            undo: Vec::new(),
            away: BTreeSet::new(),
            workers,
            num_acts: 0,
        }
    }

    /// Writes a line of the history, and prints it.
    pub(super) fn tell(&self, what: &str) {
        let line = format!("{:6.1} s  {what}", self.began.elapsed().as_secs_f64());
        eprintln!("{line}");
        self.history.lock().expect("nobody panics while telling").push(line);
    }

    /// Submits everybody, one after the other.
    pub(super) async fn submit_all(&mut self) {
        for index in 0..self.cast.roles.len() {
            if let Err(why) = self.submit(&self.cast.roles[index]).await {
                self.board.found(format!("at the beginning: {why}"));
            }
        }
        self.tell("all are submitted");
    }

    /// Acts until the time is over, undoing in between what passes by itself.
    pub(super) async fn play(&mut self, rng: &mut ChaCha8Rng, time: Duration) {
        let ends = Instant::now() + time;
        while Instant::now() < ends {
            let act = draw(rng);
            let next = Instant::now() + Duration::from_millis(rng.random_range(BETWEEN));
            self.act(act).await;
            self.pass(next.min(ends)).await;
        }
    }

    /// Waits until `until`, undoing what is due on the way.
    async fn pass(&mut self, until: Instant) {
        loop {
            self.undo.sort_by_key(|(due, _)| *due);
            let due = self.undo.first().map_or(until, |(due, _)| (*due).min(until));
            tokio::time::sleep_until(due.into()).await;
            match self.undo.first() {
                Some((due, _)) if *due <= Instant::now() => {
                    let (_, undo) = self.undo.remove(0);
                    self.undo_now(undo).await;
                }
                _ if Instant::now() >= until => return,
                _ => {}
            }
        }
    }

    fn later(&mut self, time: Duration, undo: Undo) {
        self.undo.push((Instant::now() + time, undo));
    }

    /// Undoes everything at once, and waits until every node is alive.
    pub(super) async fn heal(&mut self) {
        // The master first: the others need it.
        self.undo.sort_by_key(|(_, undo)| *undo != Undo::StartMaster);
        for (_, undo) in std::mem::take(&mut self.undo) {
            self.undo_now(undo).await;
        }
        self.cluster.wait_for_nodes(self.cast.nodes.len()).await;
        self.tell("everything is up");
    }

    async fn undo_now(&mut self, undo: Undo) {
        self.tell(&format!("  {undo:?}"));
        match undo {
            Undo::StartWorker(index) => {
                let worker = &mut self.cluster.workers[index];
                within(PATIENCE, &format!("{} ends", node_name(index)), async || {
                    if worker.has_ended() { Ok(()) } else { Err("it runs".to_owned()) }
                })
                .await;
                self.cluster.restart_worker(index, &super::run::WORKER);
                self.workers.insert(self.cluster.workers[index].pid());
                self.away.remove(&index);
            }
            Undo::StartMaster => {
                self.cluster.restart_master().await;
                self.board.lock().is_master_up = true;
            }
            Undo::Undrain(index) => {
                if self.cluster.master.has_ended() {
                    return self.later(Duration::from_secs(1), undo);
                }
                let request = v1::UndrainNodeRequest { node_id: node_name(index) };
                if let Err(status) =
                    insist(async || self.cluster.client().undrain_node(request.clone()).await).await
                {
                    self.board.found(format!("undrain {}: {status}", node_name(index)));
                }
                self.away.remove(&index);
            }
        }
    }

    async fn act(&mut self, act: Act) {
        let text = format!("{act:?}");
        let needs_master = !matches!(act, Act::KillWorker(..) | Act::EndWorker(..));
        if needs_master && self.cluster.master.has_ended() {
            return self.tell(&format!("{text}: not now, the master is down"));
        }
        let outcome = match act {
            Act::Submit(which) => self.submit_one(which).await,
            Act::SubmitTaken(which) => self.submit_taken(which).await,
            Act::Stop { which, is_drained } => self.stop(which, is_drained).await,
            Act::Kill(which) => self.kill(which).await,
            Act::Scale { which, executors } => self.scale(which, executors).await,
            Act::Drain { which, deadline, back } => self.drain(which, deadline, back).await,
            Act::KillWorker(which, back) => self.end_worker(which, back, true),
            Act::EndWorker(which, back) => self.end_worker(which, back, false),
            Act::KillMaster(back) => Ok(self.kill_master(back)),
            Act::KillContainer(which) => self.kill_container(which).await,
        };
        match outcome {
            Ok(whom) => {
                self.num_acts += 1;
                self.tell(&format!("{text} {whom}"));
            }
            Err(why) => self.tell(&format!("{text}: not now, {why}")),
        }
    }

    /// One of those of whom this was asked last.
    fn one_with(&self, wishes: &[Wish], which: usize) -> Result<&'a Role, String> {
        let board = self.board.lock();
        let fits = |role: &&Role| wishes.contains(&board.wishes.get(role.file.name));
        let those: Vec<&Role> = self.cast.roles.iter().filter(fits).collect();
        let len = those.len();
        those.get(which % len.max(1)).copied().ok_or_else(|| format!("there is none {wishes:?}"))
    }

    fn wish(&self, role: &Role, wish: Wish) {
        self.board.lock().wishes.set(role.file.name, wish);
    }

    async fn submit_one(&mut self, which: usize) -> Result<String, String> {
        let role = self.one_with(&[Wish::Never, Wish::Ended], which)?;
        self.submit(role).await
    }

    async fn submit(&self, role: &Role) -> Result<String, String> {
        let name = role.file.name;
        let path = self.cluster.write(&format!("{name}.toml"), &role.file.toml());
        self.wish(role, Wish::Submitting);
        let said = self.submitted(&path).await;
        if said.code != 0 {
            self.board.found(format!("the submission of {name} was refused: {said}"));
        }
        self.wish(role, Wish::Run);
        Ok(name.to_owned())
    }

    /// Submits a file, again while the master does not lead.
    async fn submitted(&self, path: &str) -> Output {
        let said = attempt(PATIENCE, async || {
            let said = self.cluster.millrace(&["submit", path]).await;
            if said.stderr.contains(NOT_LEADING) { Err(said) } else { Ok(said) }
        });
        said.await.unwrap_or_else(|said| said)
    }

    async fn submit_taken(&self, which: usize) -> Result<String, String> {
        let name = self.one_with(&[Wish::Run], which)?.file.name;
        let path = self.cluster.path().join(format!("{name}.toml"));
        let said = self.submitted(&path.display().to_string()).await;
        if said.code <= 0 || !said.stderr.contains(NAME_IN_USE) {
            self.board.found(format!("{name} is live and was submitted: {said}"));
        }
        Ok(name.to_owned())
    }

    /// One that may be ended: not so many that the cluster would be empty.
    fn one_to_end(&self, which: usize) -> Result<&'a Role, String> {
        let num_live = self.board.lock().wishes.with(Wish::Run).len();
        if num_live <= self.cast.roles.len() / LIVE_MIN_PART {
            return Err(format!("{num_live} run"));
        }
        self.one_with(&[Wish::Run], which)
    }

    async fn stop(&self, which: usize, is_drained: bool) -> Result<String, String> {
        let role = self.one_to_end(which)?;
        let name = role.file.name;
        self.wish(role, Wish::Asking);
        let request =
            v1::StopApplicationRequest { name: name.to_owned(), drain: is_drained, deadline_ms: 0 };
        match insist(async || self.cluster.client().stop_application(request.clone()).await).await {
            Ok(_) => self.wish(role, Wish::Ending),
            // The answer was lost with the lead of its master, and the order was not.
            Err(status) if has_ended(&status) => self.wish(role, Wish::Ending),
            Err(status) => self.board.found(format!("stop {name}: {status}")),
        }
        Ok(name.to_owned())
    }

    async fn kill(&self, which: usize) -> Result<String, String> {
        let role = match self.one_with(&[Wish::Ending], which) {
            Ok(ending) if which.is_multiple_of(2) => ending,
            _ => self.one_to_end(which)?,
        };
        let name = role.file.name;
        let was_ending = self.board.lock().wishes.get(name) == Wish::Ending;
        if !was_ending {
            self.wish(role, Wish::Asking);
        }
        let request = v1::KillApplicationRequest { name: name.to_owned() };
        match insist(async || self.cluster.client().kill_application(request.clone()).await).await {
            Ok(_) if !was_ending => self.wish(role, Wish::Ending),
            Ok(_) => {}
            // It may have ended a moment before.
            Err(status) if was_ending => return Err(format!("kill {name}: {status}")),
            Err(status) if has_ended(&status) => self.wish(role, Wish::Ending),
            Err(status) => self.board.found(format!("kill {name}: {status}")),
        }
        Ok(name.to_owned())
    }

    async fn scale(&self, which: usize, executors: u32) -> Result<String, String> {
        let role = self.one_with(&[Wish::Run], which)?;
        let name = role.file.name;
        let executors = executors.min(role.executors_max);
        let request = v1::ScaleApplicationRequest { name: name.to_owned(), executors };
        if let Err(status) =
            insist(async || self.cluster.client().scale_application(request.clone()).await).await
        {
            self.board.found(format!("scale {name} to {executors}: {status}"));
        }
        Ok(format!("{name} to {executors}"))
    }

    /// A node that is there, when another one may go.
    fn one_to_go(&self, which: usize) -> Result<usize, String> {
        if self.away.len() >= AWAY_MAX {
            return Err(format!("{} nodes are away", self.away.len()));
        }
        let here: Vec<usize> =
            (0..self.cast.nodes.len()).filter(|index| !self.away.contains(index)).collect();
        Ok(here[which % here.len()])
    }

    async fn drain(
        &mut self,
        which: usize,
        deadline: Option<Duration>,
        back: Duration,
    ) -> Result<String, String> {
        let index = self.one_to_go(which)?;
        let deadline_ms = deadline.map_or(0, |deadline| deadline.as_millis());
        let deadline_ms = u64::try_from(deadline_ms).unwrap_or(u64::MAX);
        let request = v1::DrainNodeRequest { node_id: node_name(index), deadline_ms };
        match insist(async || self.cluster.client().drain_node(request.clone()).await).await {
            Ok(_) => {
                self.away.insert(index);
                self.later(back, Undo::Undrain(index));
            }
            Err(status) => self.board.found(format!("drain {}: {status}", node_name(index))),
        }
        Ok(node_name(index))
    }

    fn end_worker(
        &mut self,
        which: usize,
        back: Duration,
        is_killed: bool,
    ) -> Result<String, String> {
        let index = self.one_to_go(which)?;
        let worker = &mut self.cluster.workers[index];
        if is_killed {
            worker.kill();
        } else {
            worker.signal(Signal::SIGTERM);
        }
        self.away.insert(index);
        self.later(back, Undo::StartWorker(index));
        Ok(node_name(index))
    }

    fn kill_master(&mut self, back: Duration) -> String {
        self.board.lock().is_master_up = false;
        self.cluster.master.kill();
        self.later(back, Undo::StartMaster);
        String::new()
    }

    async fn kill_container(&self, which: usize) -> Result<String, String> {
        let listed = running(&mut self.cluster.client()).await;
        let listed = listed.map_err(|status| status.to_string())?;
        let (id, pid) = listed.get(which % listed.len().max(1)).ok_or("none runs")?;
        // The number may be somebody else's by now.
        let arguments = processes::arguments(*pid).unwrap_or_default();
        let names = |word: &Vec<u8>| String::from_utf8_lossy(word).contains(&format!("/{id}/"));
        if !arguments.iter().any(names) {
            return Err(format!("{id} has ended"));
        }
        processes::kill_by_id(*pid);
        Ok(id.clone())
    }
}

/// True when an order to end comes too late. What goes with it shows: nobody else ends anything.
pub(super) fn has_ended(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::FailedPrecondition
}

/// The name of a node by its index.
pub(super) fn node_name(index: usize) -> String {
    format!("node-{}", index + 1)
}
