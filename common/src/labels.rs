//! Labels of nodes, and what an application asks of them.
//!
//! A label is a name with a value, both plain text; one that is only named has the value `true`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use millrace_proto::v1;
use serde::{Deserialize, Deserializer};

use crate::config::{Shape, Value};
use crate::error::{Code, Error};

/// The value of a label that is only named.
const NAMED: &str = "true";
/// Longest name or value in bytes.
const LENGTH_MAX: usize = 63;
/// Most labels of one node; they travel with every registration.
const LABELS_MAX: usize = 64;

/// The labels of a node, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// The labels of a message.
    ///
    /// # Errors
    /// [`Code::InvalidValue`] for a name or a value that none can have.
    pub fn from_map(labels: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        let labels: BTreeMap<String, String> = labels.into_iter().collect();
        for (name, value) in &labels {
            check(name, "name").and_then(|()| check(value, "value")).map_err(|next| {
                Error::new(Code::InvalidValue, format!("{name}={value} is not a label"), next)
            })?;
        }
        if labels.len() > LABELS_MAX {
            return Err(Error::new(
                Code::InvalidValue,
                format!("a node has {} labels", labels.len()),
                format!("at most {LABELS_MAX}"),
            ));
        }
        Ok(Self(labels))
    }

    /// By name, for a message.
    #[must_use]
    pub fn to_map(&self) -> std::collections::HashMap<String, String> {
        self.0.clone().into_iter().collect()
    }

    /// The value of a label.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match value.as_str() {
                NAMED => write!(f, "{comma}{name}")?,
                _ => write!(f, "{comma}{name}={value}")?,
            }
        }
        Ok(())
    }
}

/// `zone=a,gpu`; a flag may be given once for each.
impl Value for Labels {
    const FORM: &'static str = "NAME=VALUE or NAME";
    const SHAPE: Shape = Shape::List;

    fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let labels = parts.map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, NAMED));
            (name.trim().to_owned(), value.trim().to_owned())
        });
        Self::from_map(labels)
            .map_err(|error| format!("{}: {}", error.message(), error.next_move()))
    }
}

fn check(text: &str, what: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if text.is_empty() || text.len() > LENGTH_MAX || !text.chars().all(is_plain) {
        return Err(format!("the {what} is 1 to 63 letters, digits, '-', '_', '.' and '/'"));
    }
    Ok(())
}

/// What the labels of a node must be: each that is named has one of its values.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeSelector(BTreeMap<String, BTreeSet<String>>);

impl NodeSelector {
    /// True when the node with these labels will do.
    #[must_use]
    pub fn accepts(&self, labels: &Labels) -> bool {
        let has = |(name, values): (&String, &BTreeSet<String>)| {
            labels.get(name).is_some_and(|value| values.contains(value))
        };
        self.0.iter().all(has)
    }

    /// True when every node will do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As messages.
    #[must_use]
    pub fn to_proto(&self) -> Vec<v1::LabelRequirement> {
        let message = |(label, values): (&String, &BTreeSet<String>)| v1::LabelRequirement {
            label: label.clone(),
            values: values.iter().cloned().collect(),
        };
        self.0.iter().map(message).collect()
    }

    /// From messages, unchecked.
    #[must_use]
    pub fn from_proto(messages: &[v1::LabelRequirement]) -> Self {
        let part = |message: &v1::LabelRequirement| {
            (message.label.clone(), message.values.iter().cloned().collect())
        };
        Self(messages.iter().map(part).collect())
    }

    /// Holds names and values against what a label can be.
    ///
    /// # Errors
    /// [`Code::InvalidValue`].
    pub fn check(&self) -> Result<(), Error> {
        for (name, values) in &self.0 {
            let refuse = |next: String| {
                let message = format!("resources.node_selector asks for the label {name:?}");
                Error::new(Code::InvalidValue, message, next)
            };
            check(name, "name").map_err(refuse)?;
            if values.is_empty() {
                return Err(refuse("give the value that it must have".to_owned()));
            }
            values.iter().try_for_each(|value| check(value, "value")).map_err(refuse)?;
        }
        Ok(())
    }
}

impl fmt::Display for NodeSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, values)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let values = values.iter().map(String::as_str).collect::<Vec<_>>().join("|");
            write!(f, "{comma}{name}={values}")?;
        }
        Ok(())
    }
}

/// A value as it may stand in the file.
#[derive(Deserialize)]
#[serde(untagged, expecting = "the value of a label, or a list of those that will do")]
enum Form {
    Flag(bool),
    Number(i64),
    Text(String),
    Several(Vec<String>),
}

impl<'de> Deserialize<'de> for NodeSelector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let forms = BTreeMap::<String, Form>::deserialize(deserializer)?;
        let values = |form| match form {
            Form::Flag(flag) => BTreeSet::from([flag.to_string()]),
            Form::Number(number) => BTreeSet::from([number.to_string()]),
            Form::Text(text) => BTreeSet::from([text]),
            Form::Several(several) => several.into_iter().collect(),
        };
        Ok(Self(forms.into_iter().map(|(name, form)| (name, values(form))).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(text: &str) -> NodeSelector {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn labels_are_read_and_shown() {
        let labels = Labels::parse("zone=a, gpu").unwrap();
        assert_eq!((labels.get("zone"), labels.get("gpu")), (Some("a"), Some("true")));
        assert_eq!(labels.to_string(), "gpu,zone=a");
        assert_eq!(Labels::parse("").unwrap(), Labels::default());
        for wrong in ["=a", "zone=", "a b", "zone=a=b", "é"] {
            assert!(Labels::parse(wrong).is_err(), "{wrong}");
        }
        let many = (0..65).map(|n| (format!("l{n}"), "x".to_owned()));
        assert!(Labels::from_map(many).is_err());
    }

    #[test]
    fn a_selector_wants_all_its_labels_each_with_one_of_its_values() {
        let labels = |text| Labels::parse(text).unwrap();
        let wants = selector("zone = [\"a\", \"b\"]\ngpu = true\nslots = 4");
        assert!(wants.accepts(&labels("zone=a,gpu,slots=4,other=x")));
        assert!(wants.accepts(&labels("zone=b,gpu=true,slots=4")));
        for short in ["zone=a,gpu", "zone=c,gpu,slots=4", "zone=a,gpu=false,slots=4", ""] {
            assert!(!wants.accepts(&labels(short)), "{short}");
        }
        assert!(NodeSelector::default().accepts(&Labels::default()));
        assert_eq!(NodeSelector::from_proto(&wants.to_proto()), wants);
        assert_eq!(wants.to_string(), "gpu=true, slots=4, zone=a|b");
        wants.check().unwrap();
        for wrong in ["zone = []", "zone = \"\"", "\"a b\" = \"x\""] {
            assert!(selector(wrong).check().is_err(), "{wrong}");
        }
    }
}
