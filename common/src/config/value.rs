//! What a configuration value may be, and how it is read and shown.
//!
//! Every layer gives text; a type of its own turns it into a value. A quantity without its unit is
//! refused: nobody can tell what it means.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::resources::ByteSize;

/// How the values of a key stand in the layers. To its type they are text, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One value.
    One,
    /// Several: a list in the file, a flag that may be given again, commas in the text.
    List,
    /// A table of tables in the file, `[key.NAME]`; an inline table of TOML in the text.
    Table,
}

/// A type that a key can have.
pub trait Value: Sized {
    /// What a value looks like, for the document and for `--help`.
    const FORM: &'static str;
    /// How it stands in a file and on the command line.
    const SHAPE: Shape = Shape::One;

    /// The value that `text` stands for.
    ///
    /// # Errors
    /// What is wrong with it and what it should look like, in one line.
    fn parse(text: &str) -> Result<Self, String>;
}

impl Value for String {
    const FORM: &'static str = "text";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Value for PathBuf {
    const FORM: &'static str = "path";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("a path can not be empty".to_owned()) } else { Ok(text.into()) }
    }
}

impl Value for IpAddr {
    const FORM: &'static str = "IP address";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "write an IP address, as 127.0.0.1".to_owned())
    }
}

impl Value for bool {
    const FORM: &'static str = "true or false";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "write true or false".to_owned())
    }
}

impl Value for u32 {
    const FORM: &'static str = "whole number";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("write a whole number from 0 to {}", u32::MAX))
    }
}

impl Value for u64 {
    const FORM: &'static str = "whole number";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("write a whole number from 0 to {}", u64::MAX))
    }
}

/// Longest duration a key takes: ten years, far from any overflow.
const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Value for Duration {
    const FORM: &'static str = "duration";

    fn parse(text: &str) -> Result<Self, String> {
        let duration = humantime::parse_duration(text)
            .map_err(|_| "write a number and a unit (ms, s, m, h, d), as \"10s\"".to_owned())?;
        if duration > DURATION_MAX {
            return Err("at most 10 years".to_owned());
        }
        Ok(duration)
    }
}

impl Value for ByteSize {
    const FORM: &'static str = "size";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: crate::error::Error| error.next_move().to_owned())
    }
}

/// Empty text means "not set".
impl<T: Value> Value for Option<T> {
    const FORM: &'static str = T::FORM;
    const SHAPE: Shape = T::SHAPE;

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { T::parse(text).map(Some) }
    }
}
