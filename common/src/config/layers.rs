//! Laying the sources over one another and keeping where each value came from.
//!
//! Reading is separate from deciding: [`Sources`] holds what the process was given, [`load`] is a
//! function of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use config::{Environment, FileFormat, Source as _, ValueKind};

use super::{Key, Settings, Shape, Value};
use crate::error::{Code, Error};

/// Where a value comes from, the weakest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The declaration of the key.
    Default,
    /// This file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// This flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// What a process was given: everything [`load`] depends on.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Configuration file, TOML, one `key = value` a line.
    pub file: Option<PathBuf>,
    /// The process's environment, whole.
    pub environment: BTreeMap<String, String>,
    /// Flags that were given, by key name.
    pub flags: BTreeMap<String, String>,
}

/// One effective value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value as text; empty for "not set".
    pub text: String,
    /// Where it comes from.
    pub origin: Origin,
    /// Weaker sources, other than the default, that gave another value: text and origin.
    pub overridden: Vec<(String, Origin)>,
}

/// Every key of a binary with its effective value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effective {
    entries: BTreeMap<&'static str, Entry>,
}

/// A binary's configuration, ready for use.
#[derive(Clone, Debug)]
pub struct Loaded<S> {
    /// The typed values.
    pub settings: S,
    /// The same with their origins, for the dump.
    pub effective: Effective,
}

impl Effective {
    /// The typed value of a key.
    ///
    /// # Errors
    /// [`Code::ConfigurationValue`] naming key, value and origin.
    pub fn get<T: Value>(&self, key: &'static str) -> Result<T, Error> {
        let entry = self
            .entries
            .get(key)
            .ok_or_else(|| Error::internal(format!("configuration key {key} was not declared")))?;
        T::parse(&entry.text).map_err(|problem| {
            Error::new(
                Code::ConfigurationValue,
                format!("{key} = {:?} ({}) does not fit", entry.text, entry.origin),
                problem,
            )
        })
    }

    /// Every key with its entry, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (*name, entry))
    }

    /// One line for each value that a stronger source displaced, naming the winner.
    #[must_use]
    pub fn conflicts(&self) -> Vec<String> {
        self.iter()
            .flat_map(|(name, entry)| {
                entry.overridden.iter().map(move |(text, origin)| {
                    format!(
                        "{name} = {:?} ({}) wins over {text:?} ({origin})",
                        entry.text, entry.origin
                    )
                })
            })
            .collect()
    }
}

/// The dump: each effective value with its origin, one a line, as TOML that could be read back.
impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.entries.keys().map(|name| name.len()).max().unwrap_or(0);
        for (name, entry) in &self.entries {
            if entry.text.is_empty() {
                writeln!(f, "# {name:width$} is not set")?;
            } else {
                writeln!(f, "{name:width$} = {:?}  # {}", entry.text, entry.origin)?;
            }
        }
        Ok(())
    }
}

/// Lays default, file, environment and flags over one another.
///
/// # Errors
/// [`Code::FileUnreadable`] for a file that can not be read, [`Code::ConfigurationKey`] for a key or
/// variable that does not exist, [`Code::ConfigurationValue`] for a file that is not TOML or a value
/// that does not fit.
pub fn load<S: Settings>(sources: &Sources) -> Result<Loaded<S>, Error> {
    let mut entries: BTreeMap<&'static str, Entry> = S::KEYS
        .iter()
        .map(|key| {
            let text = key.default.to_owned();
            (key.name, Entry { text, origin: Origin::Default, overridden: Vec::new() })
        })
        .collect();
    let mut lay = |key: &Key, text: String, origin: Origin| {
        if let Some(entry) = entries.get_mut(key.name) {
            if entry.origin != Origin::Default && entry.text != text {
                entry.overridden.push((entry.text.clone(), entry.origin.clone()));
            }
            entry.text = text;
            entry.origin = origin;
        }
    };
    if let Some(path) = &sources.file {
        for (key, text) in from_file::<S>(path)? {
            lay(key, text, Origin::File(path.clone()));
        }
    }
    for (key, text) in from_environment::<S>(&sources.environment)? {
        lay(key, text, Origin::Environment(S::variable(key)));
    }
    for (name, text) in &sources.flags {
        let key = find::<S>(name)
            .ok_or_else(|| unknown::<S>(&format!("flag --{}", name.replace('_', "-")), name))?;
        lay(key, text.clone(), Origin::Flag(key.flag()));
    }
    let effective = Effective { entries };
    Ok(Loaded { settings: S::read(&effective)?, effective })
}

fn find<S: Settings>(name: &str) -> Option<&'static Key> {
    S::KEYS.iter().find(|key| key.name == name)
}

/// The refusal of a key that does not exist: the nearest name, or all of them.
fn unknown<S: Settings>(place: &str, name: &str) -> Error {
    let nearest = S::KEYS
        .iter()
        .map(|key| (strsim::damerau_levenshtein(name, key.name), key.name))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len() / 2);
    let next_move = match nearest {
        Some((_, candidate)) => format!("did you mean {candidate}?"),
        None => {
            let names: Vec<_> = S::KEYS.iter().map(|key| key.name).collect();
            format!("the keys are {}", names.join(", "))
        }
    };
    Error::new(
        Code::ConfigurationKey,
        format!("{place}: {} has no configuration key {name:?}", S::BINARY),
        next_move,
    )
}

fn from_file<S: Settings>(path: &Path) -> Result<Vec<(&'static Key, String)>, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::new(
            Code::FileUnreadable,
            format!("the configuration file {} can not be read", path.display()),
            "give the path of a readable file with --config",
        )
        .caused_by(error)
    })?;
    let table = config::File::from_str(&text, FileFormat::Toml).collect().map_err(|error| {
        Error::new(
            Code::ConfigurationValue,
            format!("the configuration file {} is not well-formed TOML", path.display()),
            "mend the line that is named",
        )
        .caused_by(error)
    })?;
    let place = format!("file {}", path.display());
    let mut found = Vec::with_capacity(table.len());
    for (name, value) in table {
        let key = find::<S>(&name).ok_or_else(|| unknown::<S>(&place, &name))?;
        if let Some(text) = structured(key, &value) {
            found.push((key, text));
            continue;
        }
        if matches!(value.kind, ValueKind::Table(_) | ValueKind::Array(_)) {
            return Err(Error::new(
                Code::ConfigurationValue,
                format!("{name} ({place}) is a table or a list"),
                format!("write {name} = <{}>", key.form),
            ));
        }
        let text = value
            .into_string()
            .map_err(|error| Error::internal(format!("{place}: {name}")).caused_by(error))?;
        found.push((key, text));
    }
    Ok(found)
}

/// The text of a list or a table, where the key takes one.
fn structured(key: &Key, value: &config::Value) -> Option<String> {
    match (key.shape, &value.kind) {
        (Shape::List, ValueKind::Array(_)) => {
            let items: Vec<String> = value.clone().try_deserialize().ok()?;
            Some(items.join(","))
        }
        (Shape::Table, ValueKind::Table(_)) => {
            let table: toml::Value = value.clone().try_deserialize().ok()?;
            Some(table.to_string())
        }
        _ => None,
    }
}

fn from_environment<S: Settings>(
    environment: &BTreeMap<String, String>,
) -> Result<Vec<(&'static Key, String)>, Error> {
    let prefix = S::environment_prefix();
    let ours: config::Map<String, String> = environment
        .iter()
        .filter(|(name, _)| name.starts_with(&prefix))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let source = Environment::with_prefix(prefix.trim_end_matches('_'))
        .prefix_separator("_")
        .source(Some(ours));
    let table = source
        .collect()
        .map_err(|error| Error::internal("the environment can not be read").caused_by(error))?;
    let mut found = Vec::with_capacity(table.len());
    for (name, value) in table {
        // The file's own place is not a key of the file.
        if name == super::CONFIG_FLAG {
            continue;
        }
        let place = format!("environment variable {prefix}{}", name.to_uppercase());
        let key = find::<S>(&name).ok_or_else(|| unknown::<S>(&place, &name))?;
        let text =
            value.into_string().map_err(|error| Error::internal(place.clone()).caused_by(error))?;
        found.push((key, text));
    }
    Ok(found)
}
