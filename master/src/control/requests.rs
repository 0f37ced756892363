//! What clients ask the control actor to change. Each is answered when its record is written.

use actix::prelude::*;
use millrace_common::error::Error;
use millrace_common::id::NodeId;
use millrace_proto::v1;

use super::actor::Control;
use super::view;

/// An application is submitted.
#[derive(Debug, Message)]
#[rtype(result = "Result<v1::SubmitApplicationResponse, Error>")]
pub(crate) struct Submit {
    /// What was sent.
    pub request: v1::SubmitApplicationRequest,
    /// Who submits; empty when nobody can tell.
    pub owner: String,
}

impl Handler<Submit> for Control {
    type Result = ResponseFuture<Result<v1::SubmitApplicationResponse, Error>>;

    fn handle(&mut self, message: Submit, _: &mut Self::Context) -> Self::Result {
        let now = self.now();
        let outcome = self.core.submit(now, &message.request, message.owner);
        self.perform();
        match outcome {
            Err(error) => Box::pin(async { Err(error) }),
            Ok((response, ticket)) => {
                let written = self.written(ticket);
                Box::pin(async { written.await.map(|()| response) })
            }
        }
    }
}

/// An application is asked to stop.
#[derive(Debug, Message)]
#[rtype(result = "Result<v1::ApplicationState, Error>")]
pub(crate) struct Stop(pub v1::StopApplicationRequest);

impl Handler<Stop> for Control {
    type Result = ResponseFuture<Result<v1::ApplicationState, Error>>;

    fn handle(&mut self, Stop(request): Stop, _: &mut Self::Context) -> Self::Result {
        let now = self.now();
        let outcome = request
            .name
            .parse()
            .and_then(|name| self.core.stop(now, &name, request.drain, request.deadline_ms));
        self.answer(outcome)
    }
}

/// An application is ended at once.
#[derive(Debug, Message)]
#[rtype(result = "Result<v1::ApplicationState, Error>")]
pub(crate) struct Kill(pub v1::KillApplicationRequest);

impl Handler<Kill> for Control {
    type Result = ResponseFuture<Result<v1::ApplicationState, Error>>;

    fn handle(&mut self, Kill(request): Kill, _: &mut Self::Context) -> Self::Result {
        let now = self.now();
        let outcome = request.name.parse().and_then(|name| self.core.kill(now, &name));
        self.answer(outcome)
    }
}

impl Control {
    fn answer(
        &mut self,
        outcome: Result<(v1::ApplicationState, u64), Error>,
    ) -> ResponseFuture<Result<v1::ApplicationState, Error>> {
        self.perform();
        match outcome {
            Err(error) => Box::pin(async { Err(error) }),
            Ok((state, ticket)) => {
                let written = self.written(ticket);
                Box::pin(async move { written.await.map(|()| state) })
            }
        }
    }
}

/// The number of executors of an application is set by hand.
#[derive(Debug, Message)]
#[rtype(result = "Result<v1::Application, Error>")]
pub(crate) struct Scale(pub v1::ScaleApplicationRequest);

impl Handler<Scale> for Control {
    type Result = ResponseFuture<Result<v1::Application, Error>>;

    fn handle(&mut self, Scale(request): Scale, _: &mut Self::Context) -> Self::Result {
        let now = self.now();
        let v1::ScaleApplicationRequest { name, executors } = request;
        let outcome = name.parse().and_then(|name| self.core.scale(now, &name, executors));
        self.perform();
        let shown = view::application(&self.core, &name);
        let written = outcome.map(|ticket| self.written(ticket));
        Box::pin(async move {
            written?.await?;
            shown.map(|shown| shown.application.unwrap_or_default())
        })
    }
}

/// The queues and what they hold.
#[derive(Debug, Message)]
#[rtype(result = "Queues")]
pub(crate) struct ListQueues;

/// The answer to [`ListQueues`].
#[derive(Debug, MessageResponse)]
pub(crate) struct Queues(pub Vec<v1::Queue>);

impl Handler<ListQueues> for Control {
    type Result = Queues;

    fn handle(&mut self, ListQueues: ListQueues, _: &mut Self::Context) -> Self::Result {
        Queues(view::queues(&self.core, self.now()))
    }
}

/// Why an application waits, is slow or has ended.
#[derive(Debug, Message)]
#[rtype(result = "Result<v1::WhyApplicationResponse, Error>")]
pub(crate) struct Why(pub v1::WhyApplicationRequest);

impl Handler<Why> for Control {
    type Result = Result<v1::WhyApplicationResponse, Error>;

    fn handle(&mut self, Why(request): Why, _: &mut Self::Context) -> Self::Result {
        view::why(&self.core, self.now(), &request.name)
    }
}

/// A node is to be emptied.
#[derive(Debug, Message)]
#[rtype(result = "Result<v1::Node, Error>")]
pub(crate) struct Drain(pub v1::DrainNodeRequest);

impl Handler<Drain> for Control {
    type Result = ResponseFuture<Result<v1::Node, Error>>;

    fn handle(&mut self, Drain(request): Drain, _: &mut Self::Context) -> Self::Result {
        let (now, node) = (self.now(), NodeId::new(request.node_id));
        let outcome = self.core.drain(now, &node, request.deadline_ms);
        self.perform();
        let shown = view::node(&self.core, &node);
        let written = outcome.map(|ticket| self.written(ticket));
        Box::pin(async move {
            written?.await?;
            shown
        })
    }
}

/// A node takes containers again.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub(crate) struct Undrain(pub v1::UndrainNodeRequest);

impl Handler<Undrain> for Control {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, Undrain(request): Undrain, _: &mut Self::Context) -> Self::Result {
        let now = self.now();
        let outcome = self.core.undrain(now, &NodeId::new(request.node_id));
        self.perform();
        let written = outcome.map(|ticket| self.written(ticket));
        Box::pin(async move { written?.await })
    }
}
