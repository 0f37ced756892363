//! Faults that must keep their shape on the way from a task to the driver.
//!
//! Promises: a [`Fault`] put into an engine error comes out of it again on the driver, however many
//! stages, wrappers and processes lie between. The engine carries errors as text, so a fault
//! travels as one line of JSON between two marks.
//! Never does: decide what follows from a fault; the driver's runner does.

use std::fmt;

use datafusion::error::DataFusionError;
use serde::{Deserialize, Serialize};

/// Before the JSON of a fault. The control characters keep it apart from any text of a user.
const OPEN: &str = "\u{1}millrace-fault:";
/// After the JSON of a fault. JSON escapes control characters, so it cannot occur inside.
const CLOSE: char = '\u{2}';

/// What went wrong in a task, as far as the task could tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// A peer did not answer, or a connection to it broke.
    Peer {
        /// URL of the peer.
        url: String,
        /// What the transport said.
        detail: String,
    },
    /// A block is not, or no longer, readable on the executor that was to scan it.
    BlockLost {
        /// The block.
        block: String,
        /// What the block store said.
        detail: String,
    },
    /// A record does not fit its schema and the source's policy is `fail`.
    BadRecord {
        /// Source in the application file.
        source: String,
        /// Shard of the stream.
        shard: String,
        /// Sequence number in decimal.
        sequence_number: String,
        /// Why it does not fit.
        detail: String,
    },
    /// Something in a plan panicked.
    Panic {
        /// The panic's message and where the plan was.
        detail: String,
    },
    /// The sink could not be written.
    Sink {
        /// True when another run may succeed.
        retryable: bool,
        /// AWS error code, or a word of ours.
        code: String,
        /// What was being done to which key.
        detail: String,
    },
    /// The run was cancelled.
    Cancelled,
}

impl Fault {
    /// The first fault in an engine error, if it carries one.
    #[must_use]
    pub fn find(error: &DataFusionError) -> Option<Self> {
        Self::find_in(&error.to_string())
    }

    /// The first fault in the text of an error, if it carries one.
    #[must_use]
    pub fn find_in(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once(OPEN)?;
        let (json, _) = rest.split_once(CLOSE)?;
        serde_json::from_str(json).ok()
    }

    /// An engine error that carries the fault.
    #[must_use]
    pub fn into_error(self) -> DataFusionError {
        DataFusionError::Execution(self.to_string())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        write!(f, "{OPEN}{json}{CLOSE}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_survives_wrapping_and_hostile_text() {
        let fault = Fault::BadRecord {
            source: "logs".into(),
            shard: "shardId-000000000001".into(),
            sequence_number: "49".into(),
            detail: "\u{2} a \"quote\" and \u{1}millrace-fault:{} in the record".into(),
        };
        let wrapped = fault.clone().into_error().context("stage 2, task 1").context("outer");
        assert_eq!(Fault::find(&wrapped), Some(fault));
    }

    #[test]
    fn an_ordinary_error_carries_none() {
        let error = DataFusionError::Execution("Divide by zero".into());
        assert_eq!(Fault::find(&error), None);
    }
}
