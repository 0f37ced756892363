//! The executor: receivers, blocks, tasks and the sink's writers of one container.
//!
//! Promises: it does what its driver says and nothing else; it ends by itself when the driver
//! refuses it or stays away. I/O (gRPC, AWS, receivers) has a runtime of its own, tasks have as many
//! threads as the container was granted cores, the session with the driver has a thread: none of
//! the three can starve another. Never does: commit, or speak to the master.

pub mod block_store;
pub mod busy;
pub mod compute;
pub mod copies;
pub mod process;
pub mod receiver;
pub mod session;
pub mod sink;
pub mod task;
pub mod world;

use std::process::ExitCode;

use millrace_common::{Error, actors};
use millrace_proto::v1::LaunchContext;

/// Threads of the I/O runtime. Receivers mostly wait; decoding answers is what they do.
const IO_THREADS: usize = 2;

/// Runs the executor of this container until its driver ends it. Exit code 0 when the driver said
/// so, 1 with one line on standard error otherwise.
#[must_use]
pub fn main(launch: LaunchContext) -> ExitCode {
    match run(launch) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            millrace_common::telemetry::say(&format!("millrace-worker executor: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(launch: LaunchContext) -> Result<(), Error> {
    let io = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .thread_name("io")
        .enable_all()
        .build()
        .map_err(|error| Error::internal("no I/O runtime can be started").caused_by(error))?;
    // The actors live on this thread; everything they wait for runs on the I/O runtime.
    actors::block_on(io, process::run(launch))
}
