//! The driver's process: start, work, end.
//!
//! Promises: the master hears how it ended, if there is a master; executors are told to end; what
//! was committed is left for the next driver to complete. Never does: decide about batches.

mod ending;

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use millrace_common::application::ApplicationSpec;
use millrace_common::error::Error;
use millrace_common::id::ContainerId;
use millrace_common::random;
use millrace_common::rpc;
use millrace_proto::v1;
use millrace_proto::v1::driver_command::Body as Command;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::acquire::{Acquisition, acquire};
use super::batch::actor::{self as batch, Batches, Drain, InputFailed, Outcome, Stop};
use super::batch::making::Totals;
use super::commit::{CommitError, Committer, LaunchFacts, Published};
use super::end::{End, is_passing, is_refusal};
use super::executors::actor::{self as executors, Ended, Executors, Granted};
use super::executors::core::ExecutorView;
use super::executors::outbox::Outbox;
use super::executors::server::Service;
use super::head::Head;
use super::receivers::actor::{self as receivers, Leave, Receivers};
use super::receivers::core::{Core as ReceiversCore, Snapshot};
use super::recovery::Halt;
use super::report::report;
use super::runner::BatchRunner;
use super::scaling::Scaling;
use super::session::{self, Identity, MasterHandle};
use super::start::{Checked, check, sources, spec_hash};
use super::upgrade::Present;
use super::world::World;
use ending::give_up_vacated;

/// What happens while the driver works.
enum Happening {
    Command(Option<Command>),
    Outcome(Option<Outcome>),
    Failure(Option<Error>),
    Report,
    /// The executors' actor has ended.
    Deserted,
    Killed,
}

/// Runs a driver from its launch to its end. Must be called in an actix system.
pub async fn run(
    launch: v1::LaunchContext,
    spec: ApplicationSpec,
    world: World,
    kill: CancellationToken,
) -> End {
    let cancel = kill.child_token();
    // Boxed: a whole driver is a large future for whoever holds this one.
    let end = match Box::pin(Driver::open(launch, spec, world, cancel.clone())).await {
        Ok(driver) => Box::pin(driver.live(&kill)).await,
        Err(error) => {
            tracing::error!(%error, "the driver can not start");
            End::Failed(error, true)
        }
    };
    cancel.cancel();
    end
}

/// Tells the master that this driver can not even begin.
pub async fn refuse(launch: &v1::LaunchContext, error: Error) -> End {
    let end = End::Rejected(error);
    let stop = CancellationToken::new();
    match session::start(Identity::of(launch, String::new()), stop.clone()) {
        Ok((master, _commands)) => master.finish(end.to_proto()).await,
        Err(error) => tracing::error!(%error, "the master can not be told"),
    }
    stop.cancel();
    end
}

struct Driver {
    launch: v1::LaunchContext,
    spec: ApplicationSpec,
    world: World,
    cancel: CancellationToken,
    master: MasterHandle,
    commands: mpsc::Receiver<Command>,
    incoming: Option<rpc::Incoming>,
    /// What it was asked for, if anything.
    wish: Wish,
    scaling: Scaling,
}

/// How the driver is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// Not at all.
    GoOn,
    /// At the edge of a batch, for another attempt elsewhere.
    Move,
    /// At the edge of a batch, for good.
    Stop,
}

/// The actors of a driver at work, and what they show.
struct Work {
    executors: Addr<Executors>,
    receivers: Addr<Receivers>,
    batches: Addr<Batches>,
    outbox: Outbox,
    views: watch::Receiver<Vec<ExecutorView>>,
    input: watch::Receiver<Snapshot>,
    totals: watch::Receiver<Totals>,
    late: watch::Receiver<Option<v1::Failure>>,
    outcome: mpsc::Receiver<Outcome>,
    failures: mpsc::Receiver<Error>,
    committer: Committer,
}

impl Driver {
    async fn open(
        launch: v1::LaunchContext,
        spec: ApplicationSpec,
        world: World,
        cancel: CancellationToken,
    ) -> Result<Self, Error> {
        let (incoming, address) = rpc::bind(&format!("{}:0", launch.host)).await?;
        let identity = Identity::of(&launch, format!("{}:{}", launch.host, address.port()));
        tracing::info!(address = %identity.address, attempt = launch.attempt, epoch = launch.epoch, "driver of {}", launch.application);
        let (master, commands) = session::start(identity, cancel.clone())?;
        let scaling = Scaling::new(&spec, launch.last_target, world.clock.monotonic());
        Ok(Self {
            scaling,
            launch,
            spec,
            world,
            cancel,
            master,
            commands,
            incoming: Some(incoming),
            wish: Wish::GoOn,
        })
    }

    async fn live(mut self, kill: &CancellationToken) -> End {
        let end = tokio::select! {
            () = kill.cancelled() => End::Killed,
            end = self.start_and_work() => end,
        };
        match &end {
            End::Stopped => tracing::info!("the application stopped"),
            End::Early(what) => tracing::info!("{what}"),
            End::Finished(what) => tracing::info!("the replay is finished: {what}"),
            End::HandedOver => tracing::info!("the next attempt goes on"),
            End::Killed => tracing::warn!("the driver was told to end"),
            End::DrainDeadline(error) | End::Rejected(error) | End::Failed(error, _) => {
                tracing::error!(%error, "the driver ends");
            }
        }
        if !matches!(end, End::Killed) {
            self.master.finish(end.to_proto()).await;
        }
        end
    }

    async fn start_and_work(&mut self) -> End {
        let (checked, runner) = match self.check().await {
            Ok(checked) => checked,
            Err(error) if is_passing(&error, self.launch.head_expected) => {
                return End::Failed(error, true);
            }
            Err(error) => return End::Rejected(error),
        };
        let committer = self.committer();
        let present = self.present(&committer);
        let acquisition = Acquisition {
            spec: &self.spec,
            present: &present,
            streams: &checked.streams,
            kinesis: self.world.streams.as_ref(),
            leases: self.world.leases.as_ref(),
            master: &self.master,
            cancel: &self.cancel,
        };
        let acquired = acquire(acquisition, committer, &mut self.commands).await;
        let (committer, proof, early) = match acquired {
            Ok(acquired) => acquired,
            Err(Halt::Asked(end)) => return end,
            Err(Halt::Commit(CommitError::Failed(error))) if is_refusal(&error) => {
                return End::Rejected(error);
            }
            Err(Halt::Commit(error)) => return self.commit_ended(error),
        };
        let work = match self.begin(&checked, runner, committer, proof) {
            Ok(work) => work,
            Err(error) => return End::Failed(error, false),
        };
        let outbox = work.outbox.clone();
        let end = self.work(work, early).await;
        let reason = "the application ends".to_owned();
        outbox.send_all(&v1::executor_command::Body::Stop(v1::StopExecutor { reason }));
        end
    }

    async fn check(&self) -> Result<(Checked, Arc<dyn BatchRunner>), Error> {
        let runner = self.world.runners.prepare(&self.spec).await?;
        let checked =
            check(&self.spec, self.world.streams.as_ref(), self.world.buckets.as_ref()).await?;
        Ok((checked, runner))
    }

    fn committer(&self) -> Committer {
        let facts = LaunchFacts {
            application: self.spec.name.clone(),
            cluster: self.launch.cluster.clone(),
            epoch: self.launch.epoch,
            owner: random::uuid().to_string(),
            head_expected: self.launch.head_expected,
        };
        let (heads, uploads) = (self.world.heads.clone(), self.world.uploads.clone());
        Committer::new(heads, uploads, facts, self.world.clock.clone())
    }

    /// What the next specification is held against.
    fn present(&self, committer: &Committer) -> Present {
        let (spec, launch) = (self.spec.clone(), self.launch.clone());
        Present { spec, launch, world: self.world.clone(), committer: committer.clone() }
    }

    /// Starts the actors and the server and asks for executors.
    fn begin(
        &mut self,
        checked: &Checked,
        runner: Arc<dyn BatchRunner>,
        committer: Committer,
        proof: Published,
    ) -> Result<Work, Error> {
        let head = proof.head();
        let epoch = head.epoch;
        let core = self.input(checked, head)?;
        let outbox = Outbox::default();
        let (failure_sender, failures) = mpsc::channel(1);
        let (snapshot, input) = watch::channel(core.snapshot(self.world.clock.monotonic()));
        let receivers = Receivers::new(receivers::Setup {
            core,
            streams: sources::streams_of(&checked.streams),
            kinesis: self.world.streams.clone(),
            outbox: outbox.clone(),
            clock: self.world.clock.clone(),
            discovery_interval: self.world.times.discovery_interval,
            cut_wait: self.world.times.cut_wait.min(self.spec.batch.interval),
            failures: failure_sender,
            snapshot,
        })
        .start();
        let (view_sender, views) = watch::channel(Vec::new());
        let (total_sender, totals) = watch::channel(Totals::since(proof.head().batch));
        let (outcome_sender, outcome) = mpsc::channel(1);
        let (suspicion_sender, suspicions) = mpsc::channel(executors::SUSPICION_CAPACITY);
        let batches = Batches::new(
            batch::Setup {
                application: self.launch.application.clone(),
                epoch,
                interval: self.spec.batch.interval,
                deadline: self.spec.batch.deadline,
                spec_hash: spec_hash(&self.spec),
                known_failures: self.launch.batch_failures,
                committer: committer.clone(),
                runner,
                receivers: receivers.clone(),
                master: self.master.clone(),
                executors: views.clone(),
                suspicions: suspicion_sender,
                input: input.clone(),
                totals: total_sender,
                clock: self.world.clock.clone(),
                cancel: self.cancel.clone(),
                outcome: outcome_sender,
            },
            proof,
        )
        .start();
        let setup = executors::Setup {
            application: self.launch.application.clone(),
            attempt: self.launch.attempt,
            limits: self.world.times.limits,
            heartbeat_interval: self.world.times.heartbeat_interval,
            outbox: outbox.clone(),
            master: self.master.clone(),
            clock: self.world.clock.clone(),
            views: view_sender,
            listeners: vec![receivers.clone().recipient(), batches.clone().recipient()],
        };
        let executors = Executors::new(setup, suspicions).start();
        self.serve(Service::new(executors.clone(), receivers.clone()));
        self.master.want(v1::ExecutorTarget {
            count: self.scaling.target(),
            resources: Some(self.spec.resources.executor.to_proto()),
            excluded_nodes: Vec::new(),
        });
        let late = committer.status().degraded();
        Ok(Work {
            executors,
            receivers,
            batches,
            outbox,
            views,
            input,
            totals,
            late,
            outcome,
            failures,
            committer,
        })
    }

    /// What is read and how far, as the head has it.
    fn input(&self, checked: &Checked, head: &Head) -> Result<ReceiversCore, Error> {
        let setups = sources::setups(&self.spec, &checked.streams, &head.starts)?;
        let until_ms = self.spec.replay.as_ref().map(|replay| replay.range.to_ms());
        let now = self.world.clock.monotonic();
        let core = ReceiversCore::until(until_ms, setups, &sources::positions(head), now);
        Ok(core.after_gaps(head.gaps.clone()))
    }

    fn serve(&mut self, service: Service) {
        let Some(incoming) = self.incoming.take() else { return };
        let (stop, token) = (self.cancel.clone(), crate::launch::token(&self.launch));
        // Ends with the driver; a listener that breaks ends the driver.
        tokio::spawn(async move {
            if let Err(error) = service.serve(incoming, token, stop.clone()).await {
                tracing::error!(%error, "the driver's server broke");
                stop.cancel();
            }
        });
    }

    /// Carries what happens to the actors until they are through.
    async fn work(&mut self, mut work: Work, early: Vec<Command>) -> End {
        for command in early {
            self.command(command, &work).await;
        }
        let mut reports = tokio::time::interval(self.world.times.report_interval);
        reports.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let happening = tokio::select! {
                command = self.commands.recv() => Happening::Command(command),
                outcome = work.outcome.recv() => Happening::Outcome(outcome),
                failure = work.failures.recv() => Happening::Failure(failure),
                _ = reports.tick() => Happening::Report,
                Ok(()) = work.totals.changed() => Happening::Report,
                Err(_) = work.views.changed() => Happening::Deserted,
                () = self.cancel.cancelled() => Happening::Killed,
            };
            match happening {
                Happening::Command(Some(command)) => self.command(command, &work).await,
                // The session has ended for good: only when the driver ends.
                Happening::Command(None) | Happening::Killed => return End::Killed,
                Happening::Outcome(Some(outcome)) => return self.ended(outcome, &work).await,
                Happening::Failure(Some(error)) => {
                    if let Err(error) = work.batches.send(InputFailed(error)).await {
                        tracing::debug!(%error, "the batches have ended already");
                    }
                }
                Happening::Outcome(None) | Happening::Failure(None) | Happening::Deserted => {
                    let error = Error::internal("an actor of the driver ended by itself");
                    return End::Failed(error, true);
                }
                Happening::Report => {
                    self.scale(&work);
                    self.report(&work);
                    give_up_vacated(&work).await;
                }
            }
        }
    }

    fn scale(&mut self, work: &Work) {
        let (views, input) = (work.views.borrow(), work.input.borrow());
        if self.scaling.observe(&views, &input, &*self.world.clock) {
            self.master.want_count(self.scaling.target());
        }
    }

    fn report(&self, work: &Work) {
        let late = work.late.borrow().clone();
        self.master.report(report(
            &work.totals.borrow(),
            &work.views.borrow(),
            &work.input.borrow(),
            late.as_ref(),
            self.scaling.report(),
            &*self.world.clock,
        ));
    }

    async fn command(&mut self, command: Command, work: &Work) {
        let told = match command {
            Command::Started(started) => {
                let granted = Granted(ContainerId::new(started.container_id));
                work.executors.send(granted).await
            }
            Command::Ended(ended) => work.executors.send(Ended(ended)).await,
            Command::Stop(stop) if stop.drain => {
                let began = self.world.clock.monotonic();
                let since_ms = self.asked_at().await;
                let asking = self.world.clock.monotonic().saturating_sub(began);
                tracing::info!(since_ms, deadline_ms = stop.deadline_ms, "asked to drain");
                let deadline = (stop.deadline_ms > 0)
                    .then(|| Duration::from_millis(stop.deadline_ms).saturating_sub(asking));
                work.batches.send(Drain { since_ms, deadline }).await
            }
            Command::Stop(_) => {
                tracing::info!("asked to stop");
                self.wish = Wish::Stop;
                work.batches.send(Stop).await
            }
            Command::HandOver(asked) => {
                tracing::info!(reason = %asked.reason, "asked to move");
                if self.wish == Wish::GoOn {
                    self.wish = Wish::Move;
                }
                work.batches.send(Stop).await
            }
            Command::Retire(retired) => {
                tracing::info!(executor = %retired.container_id, reason = %retired.reason, "asked to give an executor up");
                work.receivers.send(Leave(ContainerId::new(retired.container_id))).await
            }
            Command::Unmet(unmet) => {
                tracing::info!(missing = unmet.missing, reason = %unmet.reason, "executors are still to come");
                Ok(())
            }
            Command::Bounds(bounds) => {
                if self.scaling.set_bounds(bounds, &*self.world.clock) {
                    self.master.want_count(self.scaling.target());
                }
                Ok(())
            }
            Command::CheckSpec(asked) => {
                let present = self.present(&work.committer);
                present.look(*asked, self.master.clone(), self.cancel.clone());
                Ok(())
            }
            Command::Registered(_) | Command::Epoch(_) => Ok(()),
        };
        if told.is_err() {
            tracing::debug!("an actor has ended already");
        }
    }
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
