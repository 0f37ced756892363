//! One error type for everything a person may meet: what happened, to which thing, and what to do
//! next, under a stable code with a page in `docs/errors`.
//!
//! Errors inside a module are that module's own enums; they become an [`Error`] at the border where
//! a person, a log or another process sees them. A code never changes its meaning.

use std::borrow::Cow;
use std::fmt;

use millrace_proto::v1;
use tonic::metadata::MetadataValue;

use crate::secrets;

macro_rules! codes {
    ($($name:ident = $code:literal, $status:ident, $title:literal;)*) => {
        /// The stable code of an error. Each has a page `docs/errors/<code>.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// Every code, in order.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The code as text, as `MR1001`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $code,)* }
            }

            /// What it means, in a few words.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)* }
            }

            /// The gRPC status that carries it.
            #[must_use]
            pub fn grpc(self) -> tonic::Code {
                match self { $(Code::$name => tonic::Code::$status,)* }
            }

            /// The code with this text, if there is one.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($code => Some(Code::$name),)* _ => None }
            }
        }
    };
}

codes! {
    FileSyntax = "MR1001", InvalidArgument, "The application file is not well-formed TOML";
    UnknownKey = "MR1002", InvalidArgument, "The application file has a key that does not exist";
    InvalidValue = "MR1003", InvalidArgument, "A value is out of its range or has the wrong form";
    UnknownName = "MR1004", InvalidArgument, "The query names a column, table or function that does not exist";
    SqlSyntax = "MR1005", InvalidArgument, "The query is not well-formed SQL";
    SqlType = "MR1006", InvalidArgument, "The query does not fit the types of its columns";
    SqlUnsupported = "MR1007", InvalidArgument, "The query is not a single SELECT";
    IncompleteMessage = "MR1008", InvalidArgument, "A message lacks a field or has a value that does not exist";
    NotJson = "MR1009", InvalidArgument, "The JSON is not well-formed or not the message that is asked for";
    ParameterValue = "MR1010", InvalidArgument, "A parameter's value does not fit its type";
    ParameterName = "MR1011", InvalidArgument, "The query names a parameter that does not exist";
    SecretReference = "MR1012", InvalidArgument, "A value begins like a reference to a secret and is none";
    SecretMissing = "MR1013", FailedPrecondition, "A secret can not be read on the node";
    MasterUnreachable = "MR2001", Unavailable, "The master can not be reached";
    NameInUse = "MR2002", AlreadyExists, "An application of this name is running";
    UnknownApplication = "MR2003", NotFound, "No application of this name is known";
    WrongState = "MR2004", FailedPrecondition, "The application is not in a state that allows this";
    DoesNotFit = "MR2005", FailedPrecondition, "The application can never fit on the cluster";
    NodeRefused = "MR2006", FailedPrecondition, "The master refuses this node";
    AttemptsExhausted = "MR2007", FailedPrecondition, "The driver failed too often without a commit";
    UnknownContainer = "MR2008", NotFound, "No container of this id is known";
    StaleTerm = "MR2009", FailedPrecondition, "A message carries an older leadership term";
    Protocol = "MR2010", InvalidArgument, "A peer speaks the protocol wrongly";
    DriverUnreachable = "MR2011", Unavailable, "The driver of an executor can not be reached";
    NotLeader = "MR2012", Unavailable, "The master that was asked does not lead";
    UnknownNode = "MR2013", NotFound, "No node of this name is known";
    UnknownQueue = "MR2017", NotFound, "The master has no queue of this name";
    QueueDenied = "MR2018", PermissionDenied, "The user may not submit to this queue";
    UnknownToken = "MR2020", Unauthenticated, "The request carries no token that this cluster knows";
    TokenExpired = "MR2021", Unauthenticated, "The token has expired or was revoked";
    NotAllowed = "MR2022", PermissionDenied, "The token does not allow this";
    SecretRequired = "MR2023", FailedPrecondition, "A master without a secret listens on loopback only";
    RequestReused = "MR2024", AlreadyExists, "A request id was used for another submission";
    ReplayRange = "MR2026", InvalidArgument, "The range of a replay is not one that the stream holds";
    ReplayPath = "MR2027", FailedPrecondition, "A replay may not write where it was asked to";
    TableMissing = "MR3001", FailedPrecondition, "The DynamoDB table does not exist";
    StreamMissing = "MR3002", FailedPrecondition, "The Kinesis stream does not exist";
    BucketMissing = "MR3003", FailedPrecondition, "The S3 bucket does not exist";
    BucketRegion = "MR3004", FailedPrecondition, "The S3 bucket is in another region";
    Forbidden = "MR3005", PermissionDenied, "AWS denies an action";
    Credentials = "MR3006", PermissionDenied, "AWS credentials are missing, wrong or expired";
    ClockSkew = "MR3007", FailedPrecondition, "This host's clock differs too much from AWS's";
    AwsUnreachable = "MR3008", Unavailable, "An AWS endpoint does not answer";
    Throttled = "MR3009", ResourceExhausted, "AWS throttles the calls";
    StreamNotActive = "MR3010", FailedPrecondition, "The Kinesis stream is being made or deleted";
    AwsOther = "MR3011", Internal, "AWS answers with an error that has no page of its own";
    RightsMissing = "MR3012", PermissionDenied, "Rights are missing, or something in AWS is not as the application needs it";
    Fenced = "MR4001", Aborted, "A newer driver owns the head";
    HeadMissing = "MR4002", DataLoss, "The head is gone although the application has run before";
    HeadForeign = "MR4003", AlreadyExists, "Another cluster owns the head of this name";
    BatchFailed = "MR4004", Aborted, "A batch failed again and again at the same positions";
    UploadLost = "MR4005", DataLoss, "A committed upload can not be completed any more";
    HeadUnreadable = "MR4006", DataLoss, "The head was written by a newer version or is damaged";
    TaskPanicked = "MR4007", Internal, "A task panicked";
    BatchDeadline = "MR4008", DeadlineExceeded, "A batch ran into its deadline";
    SourceChanged = "MR4009", FailedPrecondition, "The head holds positions of a source that the application no longer has";
    DrainDeadline = "MR4010", DeadlineExceeded, "The drain did not end by its deadline";
    DataLost = "MR5001", DataLoss, "Records between two positions can not be read any more";
    BadRecord = "MR5002", InvalidArgument, "A record does not fit the declared schema";
    BlockLost = "MR5003", Unavailable, "A block is in no executor's store";
    KclLive = "MR5004", FailedPrecondition, "The KCL application that a source takes over is still running";
    KclCheckpoint = "MR5005", FailedPrecondition, "A lease of the KCL can not be taken over exactly";
    PortInUse = "MR6001", Unavailable, "The port is in use";
    DirectoryUnusable = "MR6002", FailedPrecondition, "A directory can not be written to";
    ConfigurationKey = "MR6003", InvalidArgument, "The configuration has a key that does not exist";
    ConfigurationValue = "MR6004", InvalidArgument, "The configuration has a value that does not fit";
    FileUnreadable = "MR6005", NotFound, "A file can not be read";
    LocalCluster = "MR6006", FailedPrecondition, "The local cluster is not in a state that allows this";
    NotConfirmed = "MR6007", FailedPrecondition, "The command needs a confirmation";
    NodeUnhealthy = "MR6008", Unavailable, "The disk of a node is full, read-only or does not answer";
    ContainerMemory = "MR6009", ResourceExhausted, "A container held more memory than it was granted";
    ContainerDisk = "MR6010", ResourceExhausted, "A container had more on the disk than it may";
    Internal = "MR9001", Internal, "Millrace has a defect";
}

/// What happened, to which thing, and what to do next.
#[derive(Debug)]
pub struct Error {
    code: Code,
    message: String,
    next_move: String,
    leader: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Metadata key under which a gRPC status carries the encoded [`v1::Failure`].
pub(crate) const FAILURE_KEY: &str = "millrace-failure-bin";

impl Error {
    /// An error; `message` says what happened to which thing, `next_move` what to do about it.
    /// Neither ends with a full stop.
    pub fn new(code: Code, message: impl Into<String>, next_move: impl Into<String>) -> Self {
        let conceal = |text: String| match secrets::conceal(&text) {
            Cow::Borrowed(_) => text,
            Cow::Owned(shown) => shown,
        };
        let (message, next_move) = (conceal(message.into()), conceal(next_move.into()));
        Self { code, message, next_move, leader: None, source: None }
    }

    /// The refusal of a master that does not lead; `leader` is the one that does, as `host:port`,
    /// when that is known.
    #[must_use]
    pub fn not_leader(leader: Option<&str>) -> Self {
        let message = match leader {
            Some(leader) => format!("this master does not lead its cluster: {leader} does"),
            None => "this master does not lead its cluster, and knows none that does".to_owned(),
        };
        let next = "ask the leading master, or try again in some seconds; give all masters with \
                    --master a,b or MILLRACE_MASTER";
        let leader = leader.map(str::to_owned);
        Self { leader, ..Self::new(Code::NotLeader, message, next) }
    }

    /// A defect of Millrace itself.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message, "report this with the log of the process")
    }

    /// The same error with what caused it.
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// What happened, to which thing.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do next.
    #[must_use]
    pub fn next_move(&self) -> &str {
        &self.next_move
    }

    /// The leading master that a refusal names, as `host:port`.
    #[must_use]
    pub fn leader(&self) -> Option<&str> {
        self.leader.as_deref()
    }

    /// The message and each cause once. A cause that is such an error too tells its code, and not
    /// its next move: the outer one holds.
    fn with_causes(&self) -> String {
        let mut text = self.message.clone();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            match cause.downcast_ref::<Self>() {
                Some(inner) => {
                    text.push_str(inner.code.as_str());
                    text.push_str(": ");
                    text.push_str(&inner.message);
                }
                None => text.push_str(&cause.to_string()),
            }
            source = cause.source();
        }
        secrets::conceal(&text).into_owned()
    }

    /// The error as it crosses a process border.
    #[must_use]
    pub fn to_failure(&self) -> v1::Failure {
        v1::Failure {
            code: self.code.as_str().to_owned(),
            message: self.with_causes(),
            next_move: self.next_move.clone(),
            leader: self.leader.clone().unwrap_or_default(),
        }
    }

    /// The error that a peer sent. An unknown code is kept as [`Code::Internal`] with its text.
    #[must_use]
    pub fn from_failure(failure: v1::Failure) -> Self {
        let leader = Some(failure.leader).filter(|leader| !leader.is_empty());
        let error = match Code::parse(&failure.code) {
            Some(code) => Self::new(code, failure.message, failure.next_move),
            None => Self::new(
                Code::Internal,
                format!("{} {}", failure.code, failure.message),
                failure.next_move,
            ),
        };
        Self { leader, ..error }
    }

    /// The error as a gRPC status.
    #[must_use]
    pub fn to_status(&self) -> tonic::Status {
        let failure = self.to_failure();
        let mut status =
            tonic::Status::new(self.code.grpc(), format!("{}: {}", failure.code, failure.message));
        let bytes = prost::Message::encode_to_vec(&failure);
        status.metadata_mut().insert_bin(FAILURE_KEY, MetadataValue::from_bytes(&bytes));
        status
    }

    /// The error in a gRPC status of `peer`; one without a Millrace failure is the transport's.
    #[must_use]
    pub fn from_status(peer: &str, status: &tonic::Status) -> Self {
        let carried = status
            .metadata()
            .get_bin(FAILURE_KEY)
            .and_then(|value| value.to_bytes().ok())
            .and_then(|bytes| <v1::Failure as prost::Message>::decode(bytes).ok());
        match carried {
            Some(failure) => Self::from_failure(failure),
            None => Self::new(
                match status.code() {
                    tonic::Code::Unavailable
                    | tonic::Code::DeadlineExceeded
                    | tonic::Code::Unknown => Code::MasterUnreachable,
                    _ => Code::Protocol,
                },
                format!("{peer} answers {:?}: {}", status.code(), status.message()),
                format!("see whether {peer} runs and can be reached from here"),
            ),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.with_causes())?;
        if !self.next_move.is_empty() {
            write!(f, " (next: {})", self.next_move)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

/// Shorthand for results that people may see.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_parse_back() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{} stands twice", code.as_str());
            assert_eq!(Code::parse(code.as_str()), Some(*code));
        }
    }

    #[test]
    fn a_status_carries_the_whole_error() {
        let error = Error::new(Code::NameInUse, "word-count is running", "stop it first")
            .caused_by(std::io::Error::other("why"));
        let back = Error::from_status("the master", &error.to_status());
        assert_eq!(back.code(), Code::NameInUse);
        assert_eq!(back.message(), "word-count is running: why");
        assert_eq!(back.next_move(), "stop it first");
    }

    #[test]
    fn a_refusal_names_the_leader_across_the_border() {
        let error = Error::not_leader(Some("10.0.0.6:7070"));
        let back = Error::from_status("the master", &error.to_status());
        assert_eq!((back.code(), back.leader()), (Code::NotLeader, Some("10.0.0.6:7070")));
        let back = Error::from_status("the master", &Error::not_leader(None).to_status());
        assert_eq!(back.leader(), None);
    }

    #[test]
    fn a_cause_is_told_once_and_the_next_move_is_the_outer_one() {
        let inner = Error::new(Code::Forbidden, "denied", "allow it")
            .caused_by(std::io::Error::other("403"));
        let outer = Error::new(Code::BatchDeadline, "batch 7 is late", "see why").caused_by(inner);
        let text = outer.to_string();
        assert_eq!(text, "MR4008: batch 7 is late: MR3005: denied: 403 (next: see why)");
    }

    #[test]
    fn a_foreign_status_names_the_peer() {
        let back = Error::from_status("the master at x:1", &tonic::Status::unavailable("refused"));
        assert_eq!(back.code(), Code::MasterUnreachable);
        assert!(back.message().contains("the master at x:1"));
    }
}
