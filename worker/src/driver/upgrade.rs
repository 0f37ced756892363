//! Looking at a specification that is to follow the one that this driver runs.
//!
//! Promises: says what the next driver would find wrong before it is at work: the specification
//! itself, its query, its streams, its bucket, and the sources that the head holds positions of.
//! Never does: write, or disturb a batch.

use millrace_common::application::ApplicationSpec;
use millrace_common::aws::AwsSettings;
use millrace_common::error::Error;
use millrace_common::secrets::Secrets;
use millrace_proto::v1;
use tokio_util::sync::CancellationToken;

use super::commit::Committer;
use super::session::MasterHandle;
use super::start::{check, sources};
use super::world::World;

/// What the next specification is held against.
#[derive(Clone)]
pub struct Present {
    /// The one that runs.
    pub spec: ApplicationSpec,
    /// Where this driver was launched.
    pub launch: v1::LaunchContext,
    /// What it touches.
    pub world: World,
    /// The head.
    pub committer: Committer,
}

impl Present {
    /// Looks at the next specification on a task of its own, which `cancel` ends with the driver, and
    /// tells the master.
    pub fn look(self, asked: v1::CheckSpec, master: MasterHandle, cancel: CancellationToken) {
        tokio::spawn(async move {
            let found = tokio::select! {
                () = cancel.cancelled() => return,
                found = self.check(asked.spec.unwrap_or_default(), &cancel) => found,
            };
            let failure = found.err().map(|error| error.to_failure());
            let revision = asked.revision;
            tracing::info!(revision, ?failure, "looked at the next revision");
            master.checked(v1::SpecChecked { revision, failure });
        });
    }

    async fn check(
        &self,
        next: v1::ApplicationSpec,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let next = ApplicationSpec::from_proto(&next)?;
        let world = self.world_of(&next).await?;
        world.runners.prepare(&next).await?;
        let checked = check(&next, world.streams.as_ref(), world.buckets.as_ref()).await?;
        let head = self.committer.peek(cancel).await;
        let head = head.map_err(|error| error.explain(&next.name))?;
        if let Some(head) = head {
            let streams = &checked.streams;
            let dropped = sources::dropped(&head.positions, streams, &next.drop_sources)?;
            let mut missing = Vec::new();
            for (name, position) in sources::wanted(&next) {
                let start = head.starts.get(name);
                if dropped.contains(name) || sources::is_new(start, streams, name) {
                    missing.push((name, position));
                }
            }
            let (kinesis, leases) = (world.streams.as_ref(), world.leases.as_ref());
            let range = next.replay.as_ref().map(|replay| replay.range);
            sources::first_starts(missing, range, streams, kinesis, leases).await?;
        }
        Ok(())
    }

    /// The AWS that the next one would see.
    async fn world_of(&self, next: &ApplicationSpec) -> Result<World, Error> {
        // Clients are made by where they go: anew when any stream is to be asked elsewhere.
        let of_streams = |spec: &ApplicationSpec| -> Vec<(String, AwsSettings)> {
            spec.sources.values().map(|s| (s.stream.clone(), s.aws.clone())).collect()
        };
        if next.aws == self.spec.aws && of_streams(next) == of_streams(&self.spec) {
            return Ok(self.world.clone());
        }
        let (table, times) = (&self.launch.table, self.world.times);
        // What the next driver is lent is seen when it starts; here stand-ins take its place.
        let (secrets, token) = (Secrets::default(), crate::launch::token(&self.launch));
        World::real(next, table, times, secrets, token).await
    }
}
