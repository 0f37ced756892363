//! Reading the application file: errors name line, column and the nearest key that exists.

use std::collections::BTreeMap;
use std::path::Path;

use super::params;
use super::spec::ApplicationSpec;
use crate::error::{Code, Error};

/// What a command line changes about a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Each `key.path=value`, where the value is TOML or, failing that, a plain string.
    pub settings: Vec<String>,
    /// Each `name=value` or `name:type=value`, of `[params]`.
    pub params: Vec<String>,
}

/// Reads, overrides and checks an application file, with [`Changes::settings`] alone.
///
/// # Errors
/// As [`load_with`].
pub fn load(path: &Path, overrides: &[String]) -> Result<ApplicationSpec, Error> {
    load_with(path, &Changes { settings: overrides.to_vec(), ..Changes::default() })
}

/// Reads, changes and checks an application file.
///
/// # Errors
/// [`Code::FileUnreadable`], or as [`parse_with`].
pub fn load_with(path: &Path, changes: &Changes) -> Result<ApplicationSpec, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::new(
            Code::FileUnreadable,
            format!("{}: {error}", path.display()),
            "give the path of an application file (TOML, UTF-8)",
        )
    })?;
    parse_with(&path.display().to_string(), &text, changes)
}

/// Parses and checks the text of an application file; `origin` names it in errors.
///
/// # Errors
/// As [`parse_with`].
pub fn parse_toml(
    origin: &str,
    text: &str,
    overrides: &[String],
) -> Result<ApplicationSpec, Error> {
    parse_with(origin, text, &Changes { settings: overrides.to_vec(), ..Changes::default() })
}

/// As [`parse_toml`], with all changes, noting where each value comes from.
///
/// # Errors
/// [`Code::FileSyntax`], [`Code::UnknownKey`] or [`Code::InvalidValue`], each with the place.
pub fn parse_with(origin: &str, text: &str, changes: &Changes) -> Result<ApplicationSpec, Error> {
    let mut table: toml::Table =
        toml::from_str(text).map_err(|error| explain(origin, text, &error))?;
    let mut origins = BTreeMap::new();
    note(&table, "", &format!("file {origin}"), &mut origins);
    let mut spec: ApplicationSpec = if changes.settings.is_empty() {
        // From the text, whose places an error can name.
        toml::from_str(text).map_err(|error| explain(origin, text, &error))?
    } else {
        for setting in &changes.settings {
            let change = setting_of(setting)?;
            note(&change, "", "flag --set", &mut origins);
            merge(&mut table, change);
        }
        let origin = format!("{origin} with --set");
        table.try_into().map_err(|error| explain(&origin, text, &error))?
    };
    for setting in &changes.params {
        let declared = |name: &str| spec.params.get(name).map(|param| param.data_type.clone());
        let (name, param) = params::parse_setting(setting, declared)?;
        if !spec.params.contains_key(&name) {
            params::check_is_named(&name, &spec.query.sql)?;
        }
        origins.insert(format!("params.{name}"), "flag --param".to_owned());
        spec.params.insert(name, param);
    }
    spec.origins = origins;
    ApplicationSpec::check(&spec)?;
    Ok(spec)
}

/// Notes `origin` for every value of a table, and for nothing that only holds values.
fn note(table: &toml::Table, at: &str, origin: &str, origins: &mut BTreeMap<String, String>) {
    for (name, value) in table {
        let key = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        match value {
            toml::Value::Table(inner) if !inner.is_empty() => note(inner, &key, origin, origins),
            _ => {
                origins.insert(key, origin.to_owned());
            }
        }
    }
}

fn explain(origin: &str, text: &str, error: &toml::de::Error) -> Error {
    let place = error.span().map_or_else(String::new, |span| {
        let before = &text[..text.floor_char_boundary(span.start)];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!(":{line}:{column}")
    });
    let message = error.message().trim().replace('\n', " ");
    if let Some((unknown, candidates)) = unknown_field(&message) {
        return Error::new(
            Code::UnknownKey,
            format!("{origin}{place}: there is no key `{unknown}` here"),
            match nearest(unknown, &candidates) {
                Some(name) => {
                    format!("did you mean `{name}`? Known here: {}", candidates.join(", "))
                }
                None => format!("known here: {}", candidates.join(", ")),
            },
        );
    }
    let is_value = ["missing field", "invalid type", "invalid value", "unknown variant", "is not"]
        .iter()
        .any(|sign| message.contains(sign))
        || message.contains("expected a number of")
        || message.starts_with("a number of executors")
        || message.starts_with("the value of a label")
        || message.contains("did not match");
    let (code, next) = if is_value {
        (Code::InvalidValue, "correct the value; docs/application.md lists every key")
    } else {
        (Code::FileSyntax, "correct the line; the file is TOML 1.0")
    };
    Error::new(code, format!("{origin}{place}: {message}"), next)
}

/// Takes serde's "unknown field `x`, expected one of `a`, `b`" apart.
fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (unknown, rest) = rest.split_once('`')?;
    let candidates = rest.split('`').skip(1).step_by(2).collect();
    Some((unknown, candidates))
}

/// The candidate that is most like `name`, if any is alike.
fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    candidates
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), *candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// What one `KEY=VALUE` changes. KEY is a TOML key, so that names with dots can be quoted; VALUE is read
/// as TOML and, when it is none, taken as a string. Values of `[env]` are always strings: an
/// environment holds nothing else.
fn setting_of(setting: &str) -> Result<toml::Table, Error> {
    let refuse = |why: &str| {
        Error::new(
            Code::InvalidValue,
            format!("--set {setting}: {why}"),
            "write --set KEY=VALUE, as --set batch.interval=5s",
        )
    };
    let (key, value) = setting.split_once('=').ok_or_else(|| refuse("there is no `=`"))?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || key.contains('\n') {
        return Err(refuse("the key is empty or more than one line"));
    }
    let parse = |value: &str| format!("{key} = {value}").parse::<toml::Table>();
    let is_text = key.starts_with("env.") || value.contains('\n');
    let as_toml = if is_text { None } else { parse(value).ok() };
    match as_toml {
        Some(setting) => Ok(setting),
        None => parse(&toml::Value::String(value.to_owned()).to_string())
            .map_err(|_| refuse("the part before `=` is not a key of a TOML file")),
    }
}

/// Tables are merged; everything else is replaced.
fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
#[path = "../../../fuzz/properties/application.rs"]
mod property;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::spec::{Receivers, StartPosition};
    use super::*;
    use crate::resources::{ByteSize, Resources};

    const WORD_COUNT: &str = r#"
name = "word-count"
args = ["--label", "a b\"c", ""]
[resources]
executors = 16
executor = { cores = 2, memory = "3GiB" }
[env]
APP_NAMESPACE = "prod"
[batch]
interval = "10s"
[source.logs]
type = "kinesis"
stream = "app-logs"
start = "latest"
receivers = "per_executor"
schema = { ts = "timestamp", level = "string", "user.id" = "long" }
[query]
sql = "SELECT level, count(*) AS n FROM logs GROUP BY level"
[sink]
type = "s3"
path = "s3://results/word-count/"
"#;

    fn parse(text: &str) -> Result<ApplicationSpec, Error> {
        parse_toml("app.toml", text, &[])
    }

    #[test]
    fn the_example_of_the_readme_parses_with_its_defaults() {
        let spec = parse(WORD_COUNT).unwrap();
        assert_eq!(spec.name.as_str(), "word-count");
        assert_eq!(spec.resources.executor, Resources::new(2, ByteSize::mib(3072)));
        assert_eq!((spec.resources.executors.min, spec.resources.executors.max), (16, 16));
        assert_eq!(spec.args, ["--label", "a b\"c", ""]);
        let logs = &spec.sources["logs"];
        let names: Vec<_> = logs.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["ts", "level", "user.id"], "the order of the file is kept");
        assert_eq!(spec.batch.interval, Duration::from_secs(10));
        assert_eq!(logs.start, StartPosition::Latest);
        assert_eq!(spec.sink.path.to_string(), "s3://results/word-count/");
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place_and_the_nearest_one() {
        let error = parse(&WORD_COUNT.replace("interval =", "intervall =")).unwrap_err();
        assert_eq!(error.code(), Code::UnknownKey);
        assert!(error.message().contains("app.toml:10:1"), "{error}");
        assert!(error.next_move().contains("did you mean `interval`"), "{error}");
    }

    #[test]
    fn broken_toml_is_named_with_its_place() {
        let error = parse("name = \"a\"\n[batch\n").unwrap_err();
        assert_eq!(error.code(), Code::FileSyntax);
        assert!(error.message().starts_with("app.toml:2:"), "{error}");
    }

    #[test]
    fn wrong_values_say_what_is_right() {
        for (from, to, expected) in [
            ("\"10s\"", "\"10\"", "duration"),
            ("\"10s\"", "\"0s\"", "interval"),
            ("\"10s\"", "\"99999999999999999999s\"", "duration"),
            ("\"3GiB\"", "\"3GB\"", "size"),
            ("\"latest\"", "\"newest\"", "start position"),
            ("\"per_executor\"", "\"per_core\"", "per_core"),
            ("executors = 16", "executors = 0", "executors"),
            ("executors = 16", "executors = { min = 3, max = 2 }", "executors"),
            ("s3://results/word-count/", "s3://results/../x/", "not a place in S3"),
            ("s3://results/word-count/", "/tmp/x", "not a place in S3"),
            ("\"word-count\"", "\"Word Count\"", "not an application name"),
            ("args =", "queue = \"A B\"\nargs =", "not a queue's name"),
            ("executors = 16", "executors = { min = 1, max = 2, grow_aftr = \"5s\" }", "executors"),
            (
                "executors = 16",
                "executors = { min = 1, max = 2, grow_after = \"5\" }",
                "grow_after",
            ),
            (
                "executors = 16",
                "executors = { min = 1, max = 2, grow_after = \"5ms\" }",
                "grow_after",
            ),
            ("executors = 16", "executors = 16\nnode_selector = { zone = [] }", "node_selector"),
        ] {
            let error = parse(&WORD_COUNT.replacen(from, to, 1)).unwrap_err();
            assert_eq!(error.code(), Code::InvalidValue, "{error}");
            assert!(error.message().contains(expected), "{to}: {error}");
        }
    }

    #[test]
    fn a_second_copy_needs_a_second_executor() {
        let level = "\"latest\"\nstorage_level = \"memory_and_disk_2\"";
        let text = WORD_COUNT.replacen("\"latest\"", level, 1);
        assert!(parse(&text).unwrap().sources["logs"].storage_level.copies());
        let error = parse(&text.replacen("executors = 16", "executors = 1", 1)).unwrap_err();
        assert_eq!(error.code(), Code::InvalidValue, "{error}");
        assert!(error.message().contains("second copy"), "{error}");
    }

    #[test]
    fn settings_override_the_file_and_may_add_tables() {
        let overrides = ["batch.interval=1s", "source.logs.receivers=4", "env.X=a=b", "name=other"]
            .map(ToOwned::to_owned);
        let spec = parse_toml("app.toml", WORD_COUNT, &overrides).unwrap();
        assert_eq!(spec.batch.interval, Duration::from_secs(1));
        assert_eq!(spec.sources["logs"].receivers, Receivers::Count(4));
        assert_eq!(spec.env["X"], "a=b");
        assert_eq!(spec.name.as_str(), "other");
        let names: Vec<_> = spec.sources["logs"].columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["ts", "level", "user.id"], "the order of the file is kept");
        let wrong = ["batch.intervall=1s".to_owned()];
        assert_eq!(
            parse_toml("app.toml", WORD_COUNT, &wrong).unwrap_err().code(),
            Code::UnknownKey
        );
    }

    #[test]
    fn settings_are_toml_keys_and_the_environment_is_text() {
        let overrides = ["env.PORT=8080", "env.EMPTY=", "source.logs.schema.\"a.b\"=long"]
            .map(ToOwned::to_owned);
        let spec = parse_toml("app.toml", WORD_COUNT, &overrides).unwrap();
        assert_eq!((spec.env["PORT"].as_str(), spec.env["EMPTY"].as_str()), ("8080", ""));
        assert_eq!(spec.env["APP_NAMESPACE"], "prod", "tables are merged");
        let last = spec.sources["logs"].columns.last().map(|c| c.name.as_str());
        assert_eq!(last, Some("a.b"));
        for wrong in ["interval", "=1s", "a b=1", "a..b=1"] {
            let error = parse_toml("app.toml", WORD_COUNT, &[wrong.to_owned()]).unwrap_err();
            assert_eq!(error.code(), Code::InvalidValue, "{error}");
            assert!(error.message().contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_source_starts_behind_the_checkpoints_of_a_lease_table() {
        let text = WORD_COUNT.replacen("\"latest\"", "{ kcl = \"word-count-kcl\" }", 1);
        let spec = parse(&text).unwrap();
        assert_eq!(spec.sources["logs"].start, StartPosition::Kcl("word-count-kcl".into()));
        assert_eq!(ApplicationSpec::from_proto(&spec.to_proto()).unwrap(), spec);
        for wrong in ["{ kcl = \"\" }", "{ kcl = \"a b\" }", "{ kcl = \"abc\", at = 1 }", "{ }"] {
            let error = parse(&WORD_COUNT.replacen("\"latest\"", wrong, 1)).unwrap_err();
            assert!(
                error.message().contains("kcl") || error.message().contains("table"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_message_carries_the_whole_file() {
        let placed = "executors = { min = 2, max = 16, grow_after = \"5s\" }\n\
                      node_selector = { zone = [\"a\", \"b\"], gpu = true }";
        let text = WORD_COUNT.replacen("executors = 16", placed, 1);
        let elastic = parse(&format!("queue = \"etl\"\n{text}")).unwrap();
        assert_eq!(elastic.queue.as_str(), "etl");
        assert_eq!(elastic.resources.executors.grow_after, Duration::from_secs(5));
        assert_eq!(elastic.resources.executors.shrink_after, Duration::from_secs(120));
        assert_eq!(elastic.resources.node_selector.to_string(), "gpu=true, zone=a|b");
        assert_eq!(ApplicationSpec::from_proto(&elastic.to_proto()).unwrap(), elastic);
        let spec = parse(WORD_COUNT).unwrap();
        assert_eq!(spec.queue.as_str(), "default");
        assert_eq!(ApplicationSpec::from_proto(&spec.to_proto()).unwrap(), spec);
    }

    proptest! {
        #[test]
        fn any_text_is_an_application_or_refused(text in "\\PC{0,200}") {
            prop_assert!(parse(&text).is_err(), "no application is that short");
        }

        #[test]
        fn a_damaged_file_is_refused_or_survives_its_message(
            damage in prop::collection::vec(
                (any::<prop::sample::Index>(), 0usize..4, "[ -~\n]{0,3}"), 1..4,
            ),
            overrides in prop::collection::vec("[a-z.\"]{0,20}=[ -~]{0,10}", 0..2),
        ) {
            let mut text: Vec<char> = WORD_COUNT.chars().collect();
            for (at, removed, added) in damage {
                let at = at.index(text.len());
                let until = (at + removed).min(text.len());
                text.splice(at..until, added.chars());
            }
            let text: String = text.into_iter().collect();
            property::any_text(&text, &overrides);
        }
    }

    #[test]
    fn a_file_of_brackets_is_refused() {
        for bracket in ["[", "{", "a = [", "a = {b = "] {
            assert!(parse(&bracket.repeat(20_000)).is_err());
        }
    }
}
