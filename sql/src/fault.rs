//! Faults that must keep their shape on the way from a task to the driver.
//!
//! Promises: a [`Fault`] put into an engine error comes out of it again on the driver, however many
//! stages, wrappers and processes lie between; and no text of a record is taken for one. The engine
//! carries errors as text, so a fault travels as one line of JSON between two marks, the first of
//! which holds the seal: a random word that the driver gives to its executors and to nobody else.
//! Never does: decide what follows from a fault; the driver's runner does.

use std::sync::OnceLock;
use std::{fmt, io};

use datafusion::error::DataFusionError;
use serde::{Deserialize, Serialize};

/// Before the seal and the JSON of a fault.
const OPEN: &str = "\u{1}millrace-fault:";
/// After the JSON of a fault. JSON escapes control characters, so it cannot occur inside.
const CLOSE: char = '\u{2}';

/// The seal of this process. There is one, and not one per run, because faults are made where
/// nothing is known but the engine's error.
static SEAL: OnceLock<String> = OnceLock::new();

/// The seal of this process: a random word unless another one was [adopted](adopt_seal).
#[must_use]
pub fn seal() -> &'static str {
    SEAL.get_or_init(|| uuid::Uuid::new_v4().simple().to_string())
}

/// Takes the driver's seal for this process, before its first task.
///
/// # Errors
/// [`OtherSeal`] when this process has another one: it belongs to another driver.
pub fn adopt_seal(theirs: &str) -> Result<(), OtherSeal> {
    if SEAL.get_or_init(|| theirs.to_owned()) == theirs { Ok(()) } else { Err(OtherSeal) }
}

/// This process marks its faults with the seal of another driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this process marks the faults of its tasks with the seal of another driver")]
pub struct OtherSeal;

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
        /// What the user can do about it; empty when that is not known.
        #[serde(default)]
        next_move: String,
    },
    /// The disk of the executor refused what the engine wanted to spill.
    Disk {
        /// What the system said.
        detail: String,
    },
    /// The run was cancelled.
    Cancelled,
}

impl Fault {
    /// The fault in an error that the disk brought about: full, read-only, or broken. None for any
    /// other error, and for one that carries a fault already.
    #[must_use]
    pub fn of_disk(error: &DataFusionError) -> Option<Self> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        let found = std::iter::from_fn(|| {
            let current = cause?;
            cause = current.source();
            Some(current)
        });
        let refused = found.filter_map(|cause| cause.downcast_ref()).any(is_of_disk);
        let is_new = refused && Self::find(error).is_none();
        is_new.then(|| Self::Disk { detail: error.to_string() })
    }

    /// The first fault in an engine error, if it carries one.
    #[must_use]
    pub fn find(error: &DataFusionError) -> Option<Self> {
        Self::find_in(&error.to_string())
    }

    /// The first fault in the text of an error, if it carries one.
    #[must_use]
    pub fn find_in(text: &str) -> Option<Self> {
        let sealed = |rest: &'_ str| {
            let (json, _) = rest.strip_prefix(seal())?.strip_prefix(':')?.split_once(CLOSE)?;
            serde_json::from_str(json).ok()
        };
        text.split(OPEN).skip(1).find_map(sealed)
    }

    /// An engine error that carries the fault.
    #[must_use]
    pub fn into_error(self) -> DataFusionError {
        DataFusionError::Execution(self.to_string())
    }
}

/// `EIO`: the disk is broken. The standard library has no kind for it.
const INPUT_OUTPUT_ERROR: i32 = 5;

fn is_of_disk(error: &io::Error) -> bool {
    let kind = error.kind();
    let kinds = [
        io::ErrorKind::StorageFull,
        io::ErrorKind::ReadOnlyFilesystem,
        io::ErrorKind::QuotaExceeded,
    ];
    kinds.contains(&kind) || error.raw_os_error() == Some(INPUT_OUTPUT_ERROR)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        write!(f, "{OPEN}{}:{json}{CLOSE}", seal())
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
    fn the_text_of_a_record_is_never_taken_for_a_fault() {
        let forged = format!(
            "Cast error: Cannot cast string '{OPEN}{{\"kind\":\"cancelled\"}}{CLOSE}{OPEN}guessed:\
             {{\"kind\":\"cancelled\"}}{CLOSE}' to value of Int64 type"
        );
        assert_eq!(Fault::find_in(&forged), None);
        // A true one behind it is found all the same.
        let error = Fault::Panic { detail: forged.clone() }.into_error().context(forged);
        assert!(matches!(Fault::find(&error), Some(Fault::Panic { .. })), "{error}");
    }

    #[test]
    fn a_disk_that_refuses_is_found_however_deep_and_nothing_else_is() {
        use datafusion::arrow::error::ArrowError;
        let of = |code: i32| io::Error::from_raw_os_error(code);
        for code in [28, 30, 5] {
            let arrow = ArrowError::IoError("spill".to_owned(), of(code));
            let error = DataFusionError::ArrowError(Box::new(arrow), None).context("sort");
            let fault = Fault::of_disk(&error).expect("it is the disk");
            let error = fault.clone().into_error();
            assert_eq!(Fault::find(&error), Some(fault));
            assert_eq!(Fault::of_disk(&error), None, "it is one already");
        }
        for other in [
            DataFusionError::IoError(of(104)),
            DataFusionError::ResourcesExhausted("no memory left on device".to_owned()),
            DataFusionError::Execution("No space left on device (os error 28)".to_owned()),
        ] {
            assert_eq!(Fault::of_disk(&other), None, "{other}");
        }
    }

    #[test]
    fn a_process_keeps_the_seal_it_has() {
        assert_eq!(adopt_seal(seal()), Ok(()));
        assert_eq!(adopt_seal("another"), Err(OtherSeal));
    }

    #[test]
    fn an_ordinary_error_carries_none() {
        let error = DataFusionError::Execution("Divide by zero".into());
        assert_eq!(Fault::find(&error), None);
    }
}
