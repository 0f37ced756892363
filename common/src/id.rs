//! Names of things that cross process borders, each with a type of its own so that one can not be
//! passed for another.
//!
//! An id is checked when it is made from foreign text and is plain text ever after.

use std::fmt;
use std::str::FromStr;

use crate::error::{Code, Error};

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes the text as it is.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

string_id!(
    /// A process started for an application: `<application>-a<attempt>-driver` or
    /// `<application>-a<attempt>-e<number>`.
    ContainerId
);
string_id!(
    /// A host's worker in its role towards the master; stable over restarts of the worker.
    NodeId
);
string_id!(
    /// A receiver of one source: `<source>/<number>`.
    ReceiverId
);
string_id!(
    /// A block of records; unique within its application.
    BlockId
);
string_id!(
    /// One run of one batch; a batch that is run again gets a new one. A UUID.
    RunId
);

impl ContainerId {
    /// The number of an executor within its attempt; none for a driver.
    #[must_use]
    pub fn executor_number(&self) -> Option<u32> {
        self.as_str().rsplit_once("-e")?.1.parse().ok()
    }
}

/// The queue of applications that name none.
pub const DEFAULT_QUEUE: &str = "default";

string_id!(
    /// A share of the cluster that applications are submitted to; see [`QueueName::parse`].
    QueueName
);

impl QueueName {
    /// A name of 1 to 63 of `[a-z0-9-]`, starting with a letter.
    ///
    /// # Errors
    /// [`Code::InvalidValue`] for any other text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let starts = text.starts_with(|c: char| c.is_ascii_lowercase());
        if starts && text.len() <= APPLICATION_NAME_MAX && text.chars().all(is_plain) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(
            Code::InvalidValue,
            format!("{text:?} is not a queue's name"),
            "use 1 to 63 of a-z, 0-9 and -, starting with a letter",
        ))
    }
}

impl Default for QueueName {
    fn default() -> Self {
        Self(DEFAULT_QUEUE.to_owned())
    }
}

/// Longest application name in bytes: it is part of object keys and of container ids.
pub const APPLICATION_NAME_MAX: usize = 63;

/// What a user calls an application: 1 to 63 of `[a-z0-9-]`, starting with a letter and not ending
/// with a hyphen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct ApplicationName(String);

impl ApplicationName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Id of the driver's container in the given attempt.
    #[must_use]
    pub fn driver_id(&self, attempt: u32) -> ContainerId {
        ContainerId(format!("{self}-a{attempt}-driver"))
    }

    /// Id of the attempt's executor with the given number, counted from 1.
    #[must_use]
    pub fn executor_id(&self, attempt: u32, number: u32) -> ContainerId {
        ContainerId(format!("{self}-a{attempt}-e{number}"))
    }
}

impl FromStr for ApplicationName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fits = (1..=APPLICATION_NAME_MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-')
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::new(
                Code::InvalidValue,
                format!("{text:?} is not an application name"),
                "use 1 to 63 lower-case letters, digits and hyphens, starting with a letter",
            ))
        }
    }
}

impl fmt::Display for ApplicationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "word-count", "a1", &"a".repeat(63)] {
            assert_eq!(good.parse::<ApplicationName>().unwrap().as_str(), good);
        }
        for bad in ["", "A", "1a", "-a", "a-", "a_b", "a/b", "..", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<ApplicationName>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn container_ids_name_application_attempt_and_role() {
        let name: ApplicationName = "word-count".parse().unwrap();
        assert_eq!(name.driver_id(2).as_str(), "word-count-a2-driver");
        assert_eq!(name.executor_id(2, 7).as_str(), "word-count-a2-e7");
        assert_eq!(name.executor_id(2, 7).executor_number(), Some(7));
        assert_eq!(name.driver_id(2).executor_number(), None);
    }
}
