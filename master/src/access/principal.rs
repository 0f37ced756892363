//! Who asks.

use std::fmt;

use millrace_common::access::Role;

/// Whoever a request comes from, as its token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    /// Somebody, in a cluster without a secret; it listens on loopback only.
    Anyone,
    /// A node.
    Node,
    /// A person or a program.
    User {
        /// Whose token it is.
        name: String,
        /// What it allows.
        role: Role,
    },
    /// A container of an attempt.
    Container {
        /// The application.
        application: String,
        /// Its attempt.
        attempt: u32,
    },
}

impl Principal {
    /// Who an application belongs to that this one submits; empty when nobody can tell.
    pub(crate) fn owner(&self) -> String {
        match self {
            Self::User { name, .. } => name.clone(),
            _ => String::new(),
        }
    }

    /// Whether it may act as this attempt's driver.
    pub(crate) fn may_act_for(&self, application: &str, attempt: u32) -> bool {
        match self {
            Self::Anyone => true,
            Self::Container { application: own, attempt: of } => {
                own == application && *of == attempt
            }
            Self::Node | Self::User { .. } => false,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Node => f.write_str("node"),
            Self::User { name, role } => write!(f, "{name} ({role})"),
            Self::Container { application, attempt } => {
                write!(f, "{application} attempt {attempt}")
            }
        }
    }
}
