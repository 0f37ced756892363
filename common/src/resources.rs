//! Cores and memory: what nodes offer, containers are granted and applications ask for.
//!
//! Sizes are read and shown with binary units ("512MiB", "3GiB"); a bare number is refused, because
//! nobody can tell what it means.

use std::fmt;
use std::str::FromStr;

use millrace_proto::v1;

use crate::error::{Code, Error};

/// A number of bytes, written with a unit: `B`, `KiB`, `MiB`, `GiB`, `TiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// Units from the largest down, so that the first that divides a size is the one to show it in.
const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl ByteSize {
    /// This many bytes.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// This many MiB.
    #[must_use]
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// The size in bytes.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = || {
            Error::new(
                Code::InvalidValue,
                format!("{text:?} is not a size"),
                "write a whole number and a unit: B, KiB, MiB, GiB or TiB, as \"512MiB\"",
            )
        };
        let trimmed = text.trim();
        let digits = trimmed.len() - trimmed.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = trimmed.split_at(digits);
        let number: u64 = number.parse().map_err(|_| refuse())?;
        let unit = unit.trim();
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?;
        number.checked_mul(*factor).map(Self).ok_or_else(refuse)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, factor) = UNITS
            .iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .unwrap_or(&("B", 1));
        write!(f, "{}{name}", self.0 / factor)
    }
}

impl serde::Serialize for ByteSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for ByteSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error: Error| serde::de::Error::custom(error.message()))
    }
}

/// Cores and memory together. Cores are whole: a core is a compute thread.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Number of cores.
    pub cores: u32,
    /// Memory of the process.
    pub memory: ByteSize,
}

impl Resources {
    /// Cores and memory together.
    #[must_use]
    pub const fn new(cores: u32, memory: ByteSize) -> Self {
        Self { cores, memory }
    }

    /// True when `self` has room for `other`.
    #[must_use]
    pub fn fits(self, other: Self) -> bool {
        self.cores >= other.cores && self.memory >= other.memory
    }

    /// What is left when `other` is taken, if it fits.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        Some(Self {
            cores: self.cores.checked_sub(other.cores)?,
            memory: ByteSize(self.memory.0.checked_sub(other.memory.0)?),
        })
    }

    /// Both together; saturates at the largest representable amount.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self {
            cores: self.cores.saturating_add(other.cores),
            memory: ByteSize(self.memory.0.saturating_add(other.memory.0)),
        }
    }

    /// As a message.
    #[must_use]
    pub fn to_proto(self) -> v1::Resources {
        v1::Resources { cores: self.cores, memory_bytes: self.memory.0 }
    }

    /// From a message.
    #[must_use]
    pub fn from_proto(message: &v1::Resources) -> Self {
        Self { cores: message.cores, memory: ByteSize(message.memory_bytes) }
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = if self.cores == 1 { "core" } else { "cores" };
        write!(f, "{} {cores}, {}", self.cores, self.memory)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!("3GiB".parse::<ByteSize>().unwrap(), ByteSize::mib(3072));
        assert_eq!("512 MiB".parse::<ByteSize>().unwrap(), ByteSize::mib(512));
        for bad in ["", "3", "GiB", "3GB", "-1MiB", "1.5GiB", "99999999999TiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn sizes_print_as_they_parse(bytes: u64) {
            let size = ByteSize::bytes(bytes);
            prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }

        #[test]
        fn subtracting_fits_exactly_when_it_fits(a: (u32, u64), b: (u32, u64)) {
            let a = Resources::new(a.0, ByteSize::bytes(a.1));
            let b = Resources::new(b.0, ByteSize::bytes(b.1));
            prop_assert_eq!(a.checked_sub(b).is_some(), a.fits(b));
            if let Some(left) = a.checked_sub(b) {
                prop_assert_eq!(left.saturating_add(b), a);
            }
        }
    }
}
