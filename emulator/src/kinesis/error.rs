//! The errors of the Kinesis API, with the names that the SDKs match and the messages AWS sends.
//!
//! An error knows its HTTP status and its body; nothing here decides when to raise one.

/// The name of an error on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    DryRunOperation,
    ExpiredIterator,
    ExpiredNextToken,
    InternalFailure,
    InvalidArgument,
    ProvisionedThroughputExceeded,
    ResourceInUse,
    ResourceNotFound,
    Serialization,
    UnknownOperation,
    Validation,
}

impl ErrorKind {
    /// The name as AWS spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DryRunOperation => "DryRunOperationException",
            Self::ExpiredIterator => "ExpiredIteratorException",
            Self::ExpiredNextToken => "ExpiredNextTokenException",
            Self::InternalFailure => "InternalFailureException",
            Self::InvalidArgument => "InvalidArgumentException",
            Self::ProvisionedThroughputExceeded => "ProvisionedThroughputExceededException",
            Self::ResourceInUse => "ResourceInUseException",
            Self::ResourceNotFound => "ResourceNotFoundException",
            Self::Serialization => "SerializationException",
            Self::UnknownOperation => "UnknownOperationException",
            Self::Validation => "ValidationException",
        }
    }

    /// The HTTP status of the answer.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::InternalFailure => 500,
            _ => 400,
        }
    }
}

/// An answer that refuses a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", kind.name())]
pub(crate) struct KinesisError {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
}

/// What every operation returns.
pub(crate) type KinesisResult<T> = Result<T, KinesisError>;

impl KinesisError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The answer to a call that would have succeeded, and was only tried.
    pub(crate) fn dry_run() -> Self {
        let message = "Request would have succeeded, but DryRun flag is set.";
        Self::new(ErrorKind::DryRunOperation, message)
    }

    pub(crate) fn invalid_argument(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// A value that breaks a constraint of the API's model, in the words of AWS.
    pub(crate) fn constraint(value: &str, member: &str, constraint: &str) -> Self {
        Self::new(
            ErrorKind::Validation,
            format!(
                "1 validation error detected: Value '{value}' at '{member}' failed to satisfy \
                 constraint: Member must {constraint}"
            ),
        )
    }

    pub(crate) fn internal(what: &str, source: &dyn std::fmt::Display) -> Self {
        Self::new(ErrorKind::InternalFailure, format!("{what}: {source}"))
    }
}
