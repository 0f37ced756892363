//! The driver: one per application attempt. It cuts batches, has them computed, and commits them.

pub mod commit;
pub mod head;
pub mod runner;

/// Runs the driver of a container.
pub fn main(context: millrace_proto::v1::LaunchContext) -> std::process::ExitCode {
    eprintln!("millrace-worker: {}: this build has no driver", context.container_id);
    std::process::ExitCode::FAILURE
}
