//! The driver: one per application attempt. It cuts batches, has them computed, and commits them.
//!
//! Promises: every record between the start and the committed positions has its effect exactly
//! once. Never does: read records, or start processes.

pub mod acquire;
pub mod batch;
pub mod commit;
pub mod end;
pub mod executors;
pub mod head;
pub mod kcl;
pub mod ledger;
pub mod process;
pub mod receivers;
pub mod recovery;
pub mod report;
pub mod runner;
pub mod scaling;
pub mod session;
pub mod stall;
pub mod start;
#[cfg(test)]
mod testing;
pub mod upgrade;
pub mod world;

use std::process::ExitCode;
use std::time::Duration;

use millrace_common::application::ApplicationSpec;
use millrace_common::error::Error;
use millrace_common::secrets::Secrets;
use millrace_common::{actors, shutdown};
use millrace_proto::v1;

use world::{Times, World};

/// Set to another interval of heartbeats, as `500ms`.
const HEARTBEAT_VARIABLE: &str = "MILLRACE_HEARTBEAT_INTERVAL";

/// Threads of the driver's runtime: it carries messages and calls, it does not compute.
const RUNTIME_THREADS: usize = 2;

/// Runs the driver that this launch context describes, to its end.
#[must_use]
pub fn main(launch: v1::LaunchContext) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()
        .expect("a runtime of two threads can be made");
    match actors::block_on(runtime, run(launch)) {
        Ok(end) => ExitCode::from(end.exit_code()),
        Err(error) => {
            tracing::error!(%error, "the driver can not start");
            ExitCode::FAILURE
        }
    }
}

async fn run(launch: v1::LaunchContext) -> Result<end::End, Error> {
    let kill = shutdown::on_signal()
        .map_err(|error| Error::internal("signals can not be heard").caused_by(error))?;
    let (spec, world) = match prepare(&launch).await {
        Ok(prepared) => prepared,
        Err(error) => {
            tracing::error!(%error, "the application can not run");
            return Ok(process::refuse(&launch, error).await);
        }
    };
    Ok(process::run(launch, spec, world, kill).await)
}

async fn prepare(launch: &v1::LaunchContext) -> Result<(ApplicationSpec, World), Error> {
    let message = launch.spec.as_ref().ok_or_else(|| Error::internal("no application to run"))?;
    let spec = ApplicationSpec::from_proto(message)?;
    let times = std::env::var(HEARTBEAT_VARIABLE).ok().and_then(|text| heartbeat(&text));
    let secrets = Secrets::resolve(launch)?;
    let token = crate::launch::token(launch);
    let times = times.unwrap_or_default();
    let world = World::real(&spec, &launch.table, times, secrets, token).await?;
    Ok((spec, world))
}

fn heartbeat(text: &str) -> Option<Times> {
    let ms: u64 = text.trim().strip_suffix("ms")?.parse().ok()?;
    Some(Times::with_heartbeat(Duration::from_millis(ms.max(50))))
}
