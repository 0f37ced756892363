//! What the driver's main asks of the batches: to end, and how.
//!
//! Promises: each wish becomes an event of the core, and so do the times that it sets.
//! Never does: decide what a wish means for a batch.

use std::time::Duration;

use actix::prelude::*;
use millrace_common::error::Error;

use super::Batches;
use crate::driver::batch::core::Event;

/// How long an application that was asked to end waits for executors to compute its last batch.
const PATIENCE: Duration = Duration::from_secs(30);

/// Finish what was begun and end.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Stop;

impl Handler<Stop> for Batches {
    type Result = ();

    fn handle(&mut self, Stop: Stop, ctx: &mut Self::Context) {
        ctx.run_later(PATIENCE, |actor, ctx| actor.event(Event::PatienceOver, ctx));
        self.event(Event::Stop, ctx);
    }
}

/// Read what had arrived by then and end.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Drain {
    /// Server time, Unix milliseconds.
    pub since_ms: i64,
    /// When to give up.
    pub deadline: Option<Duration>,
}

impl Handler<Drain> for Batches {
    type Result = ();

    fn handle(&mut self, Drain { since_ms, deadline }: Drain, ctx: &mut Self::Context) {
        self.drained_since_ms.get_or_insert(since_ms);
        if let Some(deadline) = deadline {
            ctx.run_later(deadline, |actor, ctx| actor.event(Event::DrainDeadline, ctx));
            let patience = deadline.saturating_add(PATIENCE);
            ctx.run_later(patience, |actor, ctx| actor.event(Event::PatienceOver, ctx));
        }
        self.event(Event::Drain, ctx);
    }
}

/// The input can not go on: publish what is committed and end with this.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct InputFailed(pub Error);

impl Handler<InputFailed> for Batches {
    type Result = ();

    fn handle(&mut self, InputFailed(error): InputFailed, ctx: &mut Self::Context) {
        tracing::error!(%error, "the input can not go on");
        self.input_failure.get_or_insert(error);
        self.event(Event::InputFailed, ctx);
    }
}
