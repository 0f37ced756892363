//! Whether a submission is taken at all: by what it says, and by the plan of it on the cluster's
//! nodes as they would be with nothing on them. What others hold only makes it wait; that is the
//! scheduler's question.

use std::collections::BTreeMap;

use millrace_common::application::{ApplicationSpec, spec_hash};
use millrace_common::error::{Code, Error};
use millrace_common::plan::{self, Node, Question};
use millrace_common::resources::Resources;
use millrace_proto::v1;
use prost::Message as _;

use super::revisions::Admitted;
use crate::scheduler::{Queues, times};

/// Bytes of a request id: a UUID has 36.
const REQUEST_ID_MAX: usize = 128;
/// Bytes of a specification. The record of an application holds three of them at worst, beside its
/// lists, and is one item of DynamoDB (400 KiB); and no argument may be longer than a process takes
/// (128 KiB).
const SPEC_BYTES_MAX: usize = 96 << 10;

/// What is submitted under which name. `nodes` are those that the cluster has or may have again;
/// while there are none, or none with the labels that are asked for, nobody knows what will fit, and
/// nothing is refused for its size.
///
/// # Errors
/// What the specification's own check says, and [`Code::DoesNotFit`] with the arithmetic for what
/// can never fit.
pub(crate) fn admit(
    request: &v1::SubmitApplicationRequest,
    owner: String,
    nodes: &[Node],
) -> Result<(ApplicationSpec, Admitted), Error> {
    let spec = specification(request.spec.as_ref(), nodes)?;
    if request.upgrade && !nodes.is_empty() && !nodes.iter().any(|node| node.takes(&spec)) {
        // What waits for such nodes may wait; what runs is not stopped for it.
        return Err(Error::new(
            Code::DoesNotFit,
            format!("no node has the labels that {} asks for now", spec.name),
            "start a worker with these labels, or change node_selector",
        ));
    }
    let request_id = request.request_id.clone();
    if request_id.len() > REQUEST_ID_MAX || request_id.chars().any(char::is_control) {
        return Err(Error::new(
            Code::InvalidValue,
            format!("the request id has {} bytes, or is not plain text", request_id.len()),
            "use a UUID, or another name of at most 128 bytes",
        ));
    }
    let message = spec.to_proto();
    let num_bytes = message.encoded_len();
    if num_bytes > SPEC_BYTES_MAX {
        return Err(Error::new(
            Code::InvalidValue,
            format!("the specification of {} has {num_bytes} bytes", spec.name),
            format!("at most {SPEC_BYTES_MAX}: shorten the query, the arguments or [env]"),
        ));
    }
    let admitted = Admitted { spec: message, hash: spec_hash(&spec), request_id, owner };
    Ok((spec, admitted))
}

/// Whether the queue could ever hold what is asked for, on these nodes. What is not running yet waits
/// for other settings or more nodes; what runs is not stopped for that.
///
/// # Errors
/// [`Code::DoesNotFit`] with the rule that stands against it.
pub(crate) fn within_queue(
    spec: &ApplicationSpec,
    queues: &Queues,
    nodes: &[Node],
) -> Result<(), Error> {
    if nodes.is_empty() {
        return Ok(());
    }
    let total = nodes.iter().map(|node| node.offered);
    let total = total.fold(Resources::default(), Resources::saturating_add);
    let (name, resources) = (&spec.name, &spec.resources);
    let min = resources.executors.min;
    let cost = times(resources.executor, min).saturating_add(resources.driver);
    let Some(why) = queues.never_allows(&spec.queue, cost, total) else { return Ok(()) };
    Err(Error::new(
        Code::DoesNotFit,
        format!("{name} needs {cost} for its driver and {min} of its executors now, and {why}"),
        format!("ask for less, name another queue, or raise the cap of queue {}", spec.queue),
    ))
}

fn specification(
    spec: Option<&v1::ApplicationSpec>,
    nodes: &[Node],
) -> Result<ApplicationSpec, Error> {
    let spec = spec.ok_or_else(|| {
        Error::new(
            Code::IncompleteMessage,
            "the submission carries no specification",
            "set `spec` in SubmitApplicationRequest",
        )
    })?;
    let spec = ApplicationSpec::from_proto(spec)?;
    if !nodes.iter().any(|node| node.takes(&spec)) {
        return Ok(spec);
    }
    // The master asks Kinesis nothing: shards only tell how fast an application can be, not whether
    // it can be.
    let shards = BTreeMap::new();
    let question = Question { spec: &spec, nodes, share: None, num_lost: 0, shards: &shards };
    match plan::plan(question).refusal() {
        Some(refusal) => Err(refusal),
        None => Ok(spec),
    }
}
