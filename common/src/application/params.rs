//! Parameters of the query: what `$name` in it stands for.
//!
//! Promises: each has a declared or an evident type, and a name that SQL can spell. Whether the value
//! fits its type is known to `millrace-sql`; what a secret is, to the containers alone.

use std::collections::BTreeSet;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::error::{Code, Error};

/// A value that the query names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name of its type, as of a column: `"string"`, `"decimal(10,2)"`.
    pub data_type: String,
    /// The value as text, or a reference to a secret.
    pub value: String,
}

/// In the file: a value whose type is evident, or `{ type = "...", value = ... }`.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a text, number, boolean or time, or { type = \"decimal(10,2)\", value = \"1.50\" }"
)]
enum ParamForm {
    Typed(Typed),
    Plain(toml::Value),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Typed {
    #[serde(rename = "type")]
    data_type: String,
    value: toml::Value,
}

impl<'de> Deserialize<'de> for Param {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let refuse = || D::Error::custom("a parameter is one value, and no list or table");
        match ParamForm::deserialize(deserializer)? {
            ParamForm::Plain(value) => evident(&value).ok_or_else(refuse),
            ParamForm::Typed(Typed { data_type, value }) => {
                let value = evident(&value).ok_or_else(refuse)?.value;
                Ok(Self { data_type, value })
            }
        }
    }
}

/// The parameter that a TOML value is without being told its type.
fn evident(value: &toml::Value) -> Option<Param> {
    let (data_type, value) = match value {
        toml::Value::String(text) => ("string", text.clone()),
        toml::Value::Integer(number) => ("long", number.to_string()),
        toml::Value::Float(number) => ("double", number.to_string()),
        toml::Value::Boolean(is) => ("boolean", is.to_string()),
        toml::Value::Datetime(time) if time.time.is_none() => ("date", time.to_string()),
        toml::Value::Datetime(time) => ("timestamp", time.to_string()),
        toml::Value::Array(_) | toml::Value::Table(_) => return None,
    };
    Some(Param { data_type: data_type.to_owned(), value })
}

/// Takes `NAME=VALUE` or `NAME:TYPE=VALUE` apart; `declared` is the type that the file gives the
/// name. Without any type, the value is read as TOML, and otherwise taken as text.
///
/// # Errors
/// [`Code::InvalidValue`].
pub(super) fn parse_setting(
    setting: &str,
    declared: impl Fn(&str) -> Option<String>,
) -> Result<(String, Param), Error> {
    let (name, value) = setting.split_once('=').ok_or_else(|| {
        Error::new(
            Code::InvalidValue,
            format!("--param {setting}: there is no `=`"),
            "write --param NAME=VALUE or --param NAME:TYPE=VALUE, as --param level=ERROR",
        )
    })?;
    let (name, told) = match name.split_once(':') {
        Some((name, data_type)) => (name.trim(), Some(data_type.trim().to_owned())),
        None => (name.trim(), None),
    };
    let param = match told.or_else(|| declared(name)) {
        Some(data_type) => Param { data_type, value: value.to_owned() },
        None => format!("value = {value}")
            .parse::<toml::Table>()
            .ok()
            .and_then(|table| evident(table.get("value")?))
            .unwrap_or_else(|| Param { data_type: "string".to_owned(), value: value.to_owned() }),
    };
    Ok((name.to_owned(), param))
}

/// Checks that the query names a parameter that the file does not declare: else it can only be
/// misspelt. A name in a text or a comment of the query is taken for one.
///
/// # Errors
/// [`Code::InvalidValue`].
pub(super) fn check_is_named(name: &str, sql: &str) -> Result<(), Error> {
    let named = names_in(sql);
    if named.contains(name) {
        return Ok(());
    }
    let next = match named.iter().map(|name| format!("${name}")).collect::<Vec<_>>().as_slice() {
        [] => "leave it out: the query names no parameter".to_owned(),
        names => format!("the query names {}", names.join(", ")),
    };
    let message =
        format!("--param {name}: the query never names ${name}, and [params] declares none");
    Err(Error::new(Code::InvalidValue, message, next))
}

/// What stands behind each `$` of a query.
fn names_in(sql: &str) -> BTreeSet<&str> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let behind = sql.split('$').skip(1);
    let names = behind.map(|rest| {
        let end = rest.find(|c: char| !is_of_name(c)).unwrap_or(rest.len());
        &rest[..end]
    });
    names.filter(|name| !name.is_empty()).collect()
}

/// Checks that the query can spell a name.
///
/// # Errors
/// [`Code::InvalidValue`].
pub(super) fn check_name(name: &str) -> Result<(), Error> {
    let is_identifier = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && name.len() <= 63;
    if is_identifier {
        return Ok(());
    }
    Err(Error::new(
        Code::InvalidValue,
        format!("params.{name} can not be a parameter's name"),
        "use lower-case letters, digits and underscores, not starting with a digit",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(setting: &str) -> (String, String, String) {
        let declared = |name: &str| (name == "price").then(|| "decimal(10,2)".to_owned());
        let (name, param) = parse_setting(setting, declared).unwrap();
        (name, param.data_type, param.value)
    }

    #[test]
    fn a_setting_keeps_the_declared_type_or_shows_its_own() {
        let is = |setting: &str, name: &str, data_type: &str, value: &str| {
            assert_eq!(parse(setting), (name.into(), data_type.into(), value.into()));
        };
        is("price=5", "price", "decimal(10,2)", "5");
        is("n=5", "n", "long", "5");
        is("x=0.5", "x", "double", "0.5");
        is("on=true", "on", "boolean", "true");
        is("since=2026-11-22T10:00:00Z", "since", "timestamp", "2026-11-22T10:00:00Z");
        is("day=2026-11-22", "day", "date", "2026-11-22");
        is("level=ERROR", "level", "string", "ERROR");
        is("level=a=b", "level", "string", "a=b");
        is("n:string=5", "n", "string", "5");
        is("list=[1]", "list", "string", "[1]");
        assert_eq!(parse_setting("n", |_| None).unwrap_err().code(), Code::InvalidValue);
    }

    #[test]
    fn a_name_that_neither_file_nor_query_knows_is_refused_with_those_there_are() {
        let sql = "SELECT n FROM logs WHERE level = $level AND ts > $since";
        check_is_named("level", sql).unwrap();
        let refused = check_is_named("leve", sql).unwrap_err();
        assert_eq!(refused.next_move(), "the query names $level, $since");
        assert!(check_is_named("levels", sql).is_err());
        let refused = check_is_named("level", "SELECT n FROM logs").unwrap_err();
        assert!(refused.next_move().starts_with("leave it out"), "{refused}");
    }

    #[test]
    fn names_are_those_that_sql_can_spell() {
        assert!(check_name("since_2").is_ok());
        for wrong in ["", "1", "Since", "a-b", "a.b"] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }
}
