//! Configuration of a process in layers: default < file < environment < flag.
//!
//! Each binary declares one typed struct with [`settings!`](crate::settings); every key is
//! documented there, and flags, environment variables, the dump and `docs/configuration.md` all
//! come from that declaration. A key that does not exist is refused with the nearest one that does;
//! a value that does not fit is refused with its origin. Nothing here is global, and nothing is
//! read after the start of a process.

mod document;
mod flags;
mod layers;
mod value;

pub use document::{check_document, section};
pub use flags::{CONFIG_FLAG, DUMP_FLAG, from_matches, to_args};
pub use layers::{Effective, Entry, Loaded, Origin, Sources, load};
pub use value::{Shape, Value};

use crate::error::Error;

/// One key of a binary's configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Name in the file; `heartbeat_interval` is `--heartbeat-interval` as a flag.
    pub name: &'static str,
    /// Default as it would be written in the file; empty for "not set".
    pub default: &'static str,
    /// What a value looks like, as `duration`.
    pub form: &'static str,
    /// How it stands in a file and on the command line.
    pub shape: Shape,
    /// What it is for, in lines as they stand in the declaration.
    pub docs: &'static [&'static str],
}

impl Key {
    /// Name of the flag, without the leading hyphens.
    #[must_use]
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// What it is for, as one paragraph.
    #[must_use]
    pub fn text(&self) -> String {
        self.docs.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
    }
}

/// The configuration of one binary. Made by [`settings!`](crate::settings).
pub trait Settings: Sized {
    /// Name of the binary, as `millrace-master`.
    const BINARY: &'static str;
    /// Every key, in the order of the declaration.
    const KEYS: &'static [Key];

    /// The typed values out of the effective ones.
    ///
    /// # Errors
    /// [`Code::ConfigurationValue`](crate::error::Code::ConfigurationValue) for the first value
    /// that does not fit its key, naming its origin.
    fn read(effective: &Effective) -> Result<Self, Error>;

    /// What the environment variables of this binary begin with, as `MILLRACE_MASTER_`.
    #[must_use]
    fn environment_prefix() -> String {
        format!("{}_", Self::BINARY.replace('-', "_").to_uppercase())
    }

    /// Environment variable of a key.
    #[must_use]
    fn variable(key: &Key) -> String {
        format!("{}{}", Self::environment_prefix(), key.name.to_uppercase())
    }
}

/// Declares the configuration of a binary: a struct whose every key has a document and a default.
///
/// ```
/// millrace_common::settings! {
///     /// What `example` reads at its start.
///     pub struct Example for "example" {
///         /// Address to listen on.
///         listen: String = "127.0.0.1:0";
///         /// How often to beat.
///         heartbeat_interval: std::time::Duration = "1s";
///     }
/// }
/// ```
#[macro_export]
macro_rules! settings {
    (
        $(#[doc = $about:literal])*
        pub struct $name:ident for $binary:literal {
            $( $(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:literal; )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $key: $type, )*
        }

        impl $crate::config::Settings for $name {
            const BINARY: &'static str = $binary;
            const KEYS: &'static [$crate::config::Key] = &[
                $( $crate::config::Key {
                    name: stringify!($key),
                    default: $default,
                    form: <$type as $crate::config::Value>::FORM,
                    shape: <$type as $crate::config::Value>::SHAPE,
                    docs: &[$($doc),+],
                }, )*
            ];

            fn read(
                effective: &$crate::config::Effective,
            ) -> ::std::result::Result<Self, $crate::error::Error> {
                Ok(Self { $( $key: effective.get(stringify!($key))?, )* })
            }
        }
    };
}

#[cfg(test)]
mod tests;
