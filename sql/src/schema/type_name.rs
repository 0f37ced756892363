//! Type names of the application file, and the Arrow types they mean.
//!
//! Promises: a bounded depth, so that no type name can exhaust the stack. Never does: guess.

use std::sync::Arc;

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, Fields, TimeUnit};

use super::timestamp;

/// How deeply lists and structs may nest.
const DEPTH_MAX: usize = 8;

/// Names without parameters.
const SIMPLE: [&str; 9] =
    ["string", "boolean", "int", "long", "float", "double", "date", "timestamp", "binary"];

/// The Arrow type of a type name: one of `string`, `boolean`, `int`, `long`, `float`, `double`,
/// `date`, `timestamp`, `binary`, `decimal(p,s)`, `list<T>`, `struct<name: T, ...>`.
///
/// # Errors
/// A sentence that names the nearest valid name.
pub fn parse_type(name: &str) -> Result<DataType, String> {
    parse(name.trim(), DEPTH_MAX)
}

fn parse(name: &str, depth: usize) -> Result<DataType, String> {
    if depth == 0 {
        return Err(format!("the type nests deeper than {DEPTH_MAX} levels"));
    }
    let lower = name.to_ascii_lowercase();
    Ok(match lower.as_str() {
        "string" => DataType::Utf8,
        "boolean" => DataType::Boolean,
        "int" => DataType::Int32,
        "long" => DataType::Int64,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "date" => DataType::Date32,
        "timestamp" => timestamp(TimeUnit::Microsecond),
        "binary" => DataType::Binary,
        _ => {
            if let Some(inner) = parameters(name, "decimal", '(', ')') {
                return decimal(inner);
            }
            if let Some(inner) = parameters(name, "list", '<', '>') {
                let item = parse(inner, depth - 1)?;
                return Ok(DataType::List(Arc::new(Field::new_list_field(item, true))));
            }
            if let Some(inner) = parameters(name, "struct", '<', '>') {
                return structure(inner, depth - 1);
            }
            return Err(unknown(&lower));
        }
    })
}

/// What stands between the brackets of `word(...)`, in the spelling of the file.
fn parameters<'a>(name: &'a str, word: &str, open: char, close: char) -> Option<&'a str> {
    let (head, rest) = name.split_once(open)?;
    let inner = rest.trim_end().strip_suffix(close)?;
    head.trim().eq_ignore_ascii_case(word).then_some(inner.trim())
}

fn decimal(inner: &str) -> Result<DataType, String> {
    let parsed = inner.split_once(',').and_then(|(precision, scale)| {
        Some((precision.trim().parse::<u8>().ok()?, scale.trim().parse::<i8>().ok()?))
    });
    match parsed {
        Some((precision, scale))
            if (1..=DECIMAL128_MAX_PRECISION).contains(&precision)
                && (0..=i16::from(precision)).contains(&i16::from(scale)) =>
        {
            Ok(DataType::Decimal128(precision, scale))
        }
        _ => Err(format!(
            "decimal({inner}) is not a type; write decimal(p,s) with p from 1 to \
             {DECIMAL128_MAX_PRECISION} and s from 0 to p"
        )),
    }
}

fn structure(inner: &str, depth: usize) -> Result<DataType, String> {
    let mut fields = Vec::new();
    for member in split_at_top(inner) {
        let (name, data_type) = member.split_once(':').ok_or_else(|| {
            format!("struct<{inner}> is not a type; write struct<name: type, ...>")
        })?;
        fields.push(Field::new(name.trim(), parse(data_type.trim(), depth)?, true));
    }
    Ok(DataType::Struct(Fields::from(fields)))
}

/// Splits at commas that stand outside all brackets.
fn split_at_top(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0_usize, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '<' | '(' => depth += 1,
            '>' | ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unknown(name: &str) -> String {
    let nearest = SIMPLE
        .iter()
        .min_by_key(|candidate| strsim::damerau_levenshtein(candidate, name))
        .expect("the list is not empty");
    format!(
        "{name} is not a type; did you mean {nearest}? Types are {}, decimal(p,s), list<type>, \
         struct<name: type, ...>",
        SIMPLE.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_types() {
        let parsed = parse_type("struct<id: long, tags: list<string>, d: decimal(10, 2)>").unwrap();
        let DataType::Struct(fields) = parsed else { panic!("{parsed:?}") };
        assert_eq!(fields[0].data_type(), &DataType::Int64);
        assert!(matches!(fields[1].data_type(), DataType::List(_)));
        assert_eq!(fields[2].data_type(), &DataType::Decimal128(10, 2));
    }

    #[test]
    fn wrong_names_are_answered_with_the_nearest() {
        assert!(parse_type("strin").unwrap_err().contains("did you mean string"));
        assert!(parse_type("decimal(40,2)").is_err());
        assert!(parse_type("decimal(4,5)").is_err());
        assert!(parse_type(&"list<".repeat(5_000)).is_err());
        let deep = format!("{}int{}", "list<".repeat(20), ">".repeat(20));
        assert!(parse_type(&deep).unwrap_err().contains("deeper"));
    }
}
