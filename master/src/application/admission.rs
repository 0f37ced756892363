//! Whether a submission is taken at all. A pure function of the specification; whether there is a
//! place for it is the scheduler's question.

use millrace_common::application::ApplicationSpec;
use millrace_common::error::{Code, Error};
use millrace_common::resources::{ByteSize, Resources};
use millrace_proto::v1;

/// No node is larger (see the cluster's own limits), so no container can be.
const CORES_MAX: u32 = 4_096;
/// 64 TiB, likewise.
const MEMORY_MAX: ByteSize = ByteSize::mib(64 << 20);
/// Executors of one application; more would not fit into the head's assignment anyway.
const EXECUTORS_MAX: u32 = 10_000;

/// The typed specification of a submission.
///
/// # Errors
/// What the specification's own check says, and [`Code::DoesNotFit`] for numbers that no cluster
/// can ever satisfy.
pub(crate) fn admit(spec: Option<&v1::ApplicationSpec>) -> Result<ApplicationSpec, Error> {
    let spec = spec.ok_or_else(|| {
        Error::new(
            Code::InvalidValue,
            "the submission carries no specification",
            "set `spec` in SubmitApplicationRequest",
        )
    })?;
    let spec = ApplicationSpec::from_proto(spec)?;
    let executors = spec.resources.executors;
    possible("driver", spec.resources.driver)?;
    possible("executor", spec.resources.executor)?;
    if executors.max > EXECUTORS_MAX {
        return Err(too_large(format!("{} executors", executors.max), &EXECUTORS_MAX.to_string()));
    }
    Ok(spec)
}

fn possible(what: &str, cost: Resources) -> Result<(), Error> {
    if cost.cores == 0 || cost.memory == ByteSize::default() {
        return Err(Error::new(
            Code::DoesNotFit,
            format!("the {what} asks for {cost}: nothing runs on nothing"),
            format!("give the {what} at least 1 core and some memory under [resources]"),
        ));
    }
    if cost.cores > CORES_MAX {
        return Err(too_large(format!("{} cores for one {what}", cost.cores), "4096"));
    }
    if cost.memory > MEMORY_MAX {
        return Err(too_large(format!("{} for one {what}", cost.memory), "64TiB"));
    }
    Ok(())
}

fn too_large(what: String, limit: &str) -> Error {
    Error::new(
        Code::DoesNotFit,
        format!("the application asks for {what}, and no cluster has that: the limit is {limit}"),
        "ask for less under [resources]",
    )
}
