//! Secrets: references in an application, resolved only in its containers, and never shown.
//!
//! Promises: a reference travels in place of its value (file, message, store, head, pages); a value
//! that was resolved in this process is replaced in every [`Error`](crate::Error) and every line of
//! the log. Owned by the process: what it once learned it conceals to its end.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};
use std::sync::RwLock;

use millrace_proto::v1;

use crate::error::{Code, Error};

/// What every reference begins with.
pub const SCHEME: &str = "secret://";
/// In place of a value.
pub const CONCEALED: &str = "[secret]";
/// What the variables begin with in which a node lends its own to a container.
pub const LENT_PREFIX: &str = "MILLRACE_SECRET_";
/// Shorter values are refused: text would be full of them, and nothing could be shown.
const BYTES_MIN: usize = 4;
/// Longest secret in a file; more is some other file.
const BYTES_MAX: u64 = 64 << 10;

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    /// A variable of the node's environment that the node may lend.
    Env(String),
    /// A file below the node's directory for secrets.
    File(String),
}

impl Reference {
    /// The reference that a value is; none for a plain value.
    ///
    /// # Errors
    /// [`Code::SecretReference`] for a value that begins like a reference and is none.
    pub fn parse(text: &str) -> Result<Option<Self>, Error> {
        let Some(rest) = text.strip_prefix(SCHEME) else { return Ok(None) };
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        let is_path = |path: &str| {
            let parts = Path::new(path).components();
            !path.is_empty()
                && !path.contains('\0')
                && parts.clone().all(|part| matches!(part, Component::Normal(_)))
        };
        match rest.split_once('/') {
            Some(("env", name)) if is_name(name) => Ok(Some(Self::Env(name.to_owned()))),
            Some(("file", path)) if is_path(path) => Ok(Some(Self::File(path.to_owned()))),
            _ => Err(Error::new(
                Code::SecretReference,
                format!("{text:?} is no reference to a secret"),
                "write secret://env/NAME or secret://file/PATH, the path relative to the nodes' \
                 secret_dir and without ..",
            )),
        }
    }

    /// Reads the value; `directory` is the node's directory for secrets.
    ///
    /// # Errors
    /// [`Code::SecretMissing`].
    fn read(&self, directory: &str) -> Result<String, Error> {
        let missing = |what: String, next: String| Error::new(Code::SecretMissing, what, next);
        let value = match self {
            Self::Env(name) => std::env::var(format!("{LENT_PREFIX}{name}")).map_err(|_| {
                missing(
                    format!("{self} is not lent by this node"),
                    format!("set {name} in the node's environment, and name it in its secret_env"),
                )
            })?,
            Self::File(path) => {
                let path = Path::new(directory).join(path);
                let unreadable = |why: &str| {
                    missing(
                        format!("{self} can not be read: {} {why}", path.display()),
                        "put the file below the secret_dir of every node, readable by it"
                            .to_owned(),
                    )
                };
                let size = std::fs::metadata(&path).map(|found| found.len());
                if size.is_ok_and(|size| size > BYTES_MAX) {
                    return Err(unreadable("is longer than 64 KiB"));
                }
                let text = std::fs::read_to_string(&path)
                    .map_err(|error| unreadable(&format!("({error})")))?;
                text.trim_end_matches(['\n', '\r']).to_owned()
            }
        };
        if value.len() < BYTES_MIN {
            return Err(missing(
                format!("the value of {self} is shorter than {BYTES_MIN} bytes"),
                "use a longer one: every place that it stands in would have to be hidden"
                    .to_owned(),
            ));
        }
        Ok(value)
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Env(name) => write!(f, "{SCHEME}env/{name}"),
            Self::File(path) => write!(f, "{SCHEME}file/{path}"),
        }
    }
}

/// Every reference of an application, in its environment and its parameters.
///
/// # Errors
/// As [`Reference::parse`].
pub fn references<'a>(
    values: impl IntoIterator<Item = &'a String>,
) -> Result<BTreeSet<Reference>, Error> {
    let parsed = values.into_iter().map(|value| Reference::parse(value));
    parsed.filter_map(Result::transpose).collect()
}

/// Of the node's variables those that `allowed` names and the container's application refers to,
/// under the names by which the container finds them.
pub fn lend(
    allowed: &str,
    launch: &v1::LaunchContext,
    of_node: impl Fn(&str) -> Option<String>,
) -> BTreeMap<String, String> {
    let allowed: BTreeSet<&str> = allowed.split(',').map(str::trim).collect();
    // What is no reference is refused in the container, by name.
    let wanted = values_of(launch).filter_map(|value| Reference::parse(value).ok().flatten());
    let lent = wanted.filter_map(|reference| match reference {
        Reference::Env(name) if allowed.contains(name.as_str()) => {
            let value = of_node(&name)?;
            Some((format!("{LENT_PREFIX}{name}"), value))
        }
        _ => None,
    });
    lent.collect()
}

fn values_of(launch: &v1::LaunchContext) -> impl Iterator<Item = &String> {
    let params = launch.spec.iter().flat_map(|spec| &spec.params).map(|param| &param.value);
    launch.env.values().chain(params)
}

/// The values that a container resolved.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(BTreeMap<Reference, String>);

impl Secrets {
    /// Resolves every reference of this container and conceals the values from here on.
    ///
    /// # Errors
    /// [`Code::SecretReference`] or [`Code::SecretMissing`].
    pub fn resolve(launch: &v1::LaunchContext) -> Result<Self, Error> {
        let mut values = BTreeMap::new();
        for reference in references(values_of(launch))? {
            let value = reference.read(&launch.secret_dir)?;
            conceal_from_now_on(&value);
            values.insert(reference, value);
        }
        Ok(Self(values))
    }

    /// What a value of the application stands for; none for a secret that this container was not
    /// given.
    #[must_use]
    pub fn reveal(&self, text: &str) -> Option<String> {
        match Reference::parse(text) {
            Ok(Some(reference)) => self.0.get(&reference).cloned(),
            _ => Some(text.to_owned()),
        }
    }

    /// True when the application refers to none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Never its values.
impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What this process conceals, the longest first: one may be a part of another.
static KNOWN: RwLock<Vec<String>> = RwLock::new(Vec::new());

fn conceal_from_now_on(value: &str) {
    // As it stands, and as it is written inside a quoted text.
    let quoted = serde_json::Value::from(value).to_string();
    let debug = format!("{value:?}");
    let inner = |text: &str| text[1..text.len() - 1].to_owned();
    let mut known = KNOWN.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    // SQL doubles a quote in a literal.
    known.extend([value.to_owned(), inner(&quoted), inner(&debug), value.replace('\'', "''")]);
    known.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    known.dedup();
}

/// `text` without any secret of this process.
#[must_use]
pub fn conceal(text: &str) -> Cow<'_, str> {
    let known = KNOWN.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut shown = Cow::Borrowed(text);
    for secret in known.iter().filter(|secret| text.contains(secret.as_str())) {
        shown = Cow::Owned(shown.replace(secret, CONCEALED));
    }
    shown
}

/// True for names whose values people expect to be hidden, wherever they come from.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    const SIGNS: [&str; 7] =
        ["SECRET", "PASSWORD", "PASSWD", "TOKEN", "CREDENTIAL", "PRIVATE", "ACCESS_KEY"];
    let name = name.to_ascii_uppercase();
    SIGNS.iter().any(|sign| name.contains(sign)) || name.ends_with("_KEY")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_env_or_file_and_stay_below_their_directory() {
        assert_eq!(Reference::parse("plain").unwrap(), None);
        let parsed = |text: &str| Reference::parse(text).unwrap().unwrap();
        assert_eq!(parsed("secret://env/DB_PASSWORD"), Reference::Env("DB_PASSWORD".into()));
        assert_eq!(parsed("secret://file/db/word"), Reference::File("db/word".into()));
        for wrong in [
            "secret://",
            "secret://env/",
            "secret://env/A B",
            "secret://file/",
            "secret://file//etc/passwd",
            "secret://file/../x",
            "secret://vault/x",
        ] {
            let error = Reference::parse(wrong).unwrap_err();
            assert_eq!(error.code(), Code::SecretReference, "{wrong}");
        }
    }

    #[test]
    fn a_resolved_value_is_in_no_error_and_no_line() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("word"), "kanarien \"vogel\"'s\n").unwrap();
        let reference = "secret://file/word".to_owned();
        let launch = v1::LaunchContext {
            env: [("A".to_owned(), reference.clone())].into(),
            secret_dir: dir.path().display().to_string(),
            ..Default::default()
        };
        let secrets = Secrets::resolve(&launch).unwrap();
        assert_eq!(secrets.reveal(&reference).as_deref(), Some("kanarien \"vogel\"'s"));
        assert_eq!(secrets.reveal("plain").as_deref(), Some("plain"));
        assert_eq!(secrets.reveal("secret://file/another"), None);
        assert!(!format!("{secrets:?}").contains("vogel"));
        for text in [
            "x kanarien \"vogel\"'s y".to_owned(),
            format!("{:?}", "kanarien \"vogel\"'s"),
            "Utf8('kanarien \"vogel\"''s')".to_owned(),
        ] {
            let shown = conceal(&text);
            assert!(!shown.contains("vogel") && shown.contains(CONCEALED), "{shown}");
            let error = Error::new(Code::SqlType, text.as_str(), text.as_str())
                .caused_by(std::io::Error::other(text.clone()));
            let failure = error.to_failure();
            assert!(!format!("{error} {failure:?}").contains("vogel"), "{error}");
        }
    }

    #[test]
    fn only_what_is_named_and_wanted_is_lent() {
        let launch = v1::LaunchContext {
            env: [
                ("A".to_owned(), "secret://env/WANTED".to_owned()),
                ("B".to_owned(), "secret://env/FORBIDDEN".to_owned()),
            ]
            .into(),
            ..Default::default()
        };
        let of_node = |name: &str| Some(format!("value of {name}"));
        let lent = lend("WANTED, UNWANTED", &launch, of_node);
        let expected = ("MILLRACE_SECRET_WANTED".to_owned(), "value of WANTED".to_owned());
        assert_eq!(lent, BTreeMap::from([expected]));
        let error = Secrets::resolve(&launch).unwrap_err();
        assert_eq!(error.code(), Code::SecretMissing);
    }

    #[test]
    fn values_of_telling_names_are_hidden() {
        for name in ["DB_PASSWORD", "aws_secret_access_key", "AWS_ACCESS_KEY_ID", "API_TOKEN"] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["PATH", "AWS_REGION", "APP_NAMESPACE", "MONKEY"] {
            assert!(!is_secret_name(name), "{name}");
        }
    }
}
