//! `s3://bucket/prefix/`, checked once: a location that exists can be used as it is.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::error::{Code, Error};

/// A bucket and a prefix in it. The prefix is empty or ends with `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct S3Location {
    /// Name of the bucket.
    pub bucket: String,
    /// Prefix of the keys, without a leading `/`.
    pub prefix: String,
}

impl S3Location {
    /// True when an object below `other` is below `self` too.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.bucket == other.bucket && other.prefix.starts_with(&self.prefix)
    }
}

impl FromStr for S3Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: &str| {
            Error::new(
                Code::InvalidValue,
                format!("{text:?} is not a place in S3: {why}"),
                "write s3://bucket/prefix/, as s3://results/word-count/",
            )
        };
        let rest =
            text.strip_prefix("s3://").ok_or_else(|| refuse("it does not begin with s3://"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let bucket_fits = (3..=63).contains(&bucket.len())
            && bucket
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
            && bucket.starts_with(|c: char| c.is_ascii_alphanumeric())
            && bucket.ends_with(|c: char| c.is_ascii_alphanumeric());
        if !bucket_fits {
            return Err(refuse("the bucket's name is not one that S3 allows"));
        }
        let inner = prefix.strip_suffix('/').unwrap_or(prefix);
        if !inner.is_empty() && inner.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(refuse("a part of the prefix is empty, \".\" or \"..\""));
        }
        if prefix.chars().any(char::is_control) || prefix.len() > 512 {
            return Err(refuse("the prefix has control characters or is longer than 512 bytes"));
        }
        let prefix = if inner.is_empty() { String::new() } else { format!("{inner}/") };
        Ok(Self { bucket: bucket.to_owned(), prefix })
    }
}

impl fmt::Display for S3Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

impl<'de> Deserialize<'de> for S3Location {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|error: Error| {
            D::Error::custom(format!("{}: {}", error.message(), error.next_move()))
        })
    }
}
