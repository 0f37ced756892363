//! JSON records: one object per record, of which only the needed members are looked at.
//!
//! Promises: the whole record is checked to be JSON, whatever columns are needed; nesting beyond
//! [`DEPTH_MAX`] is refused before anything recursive sees it.
//! Never does: keep a document.

use arrow::array::ArrayRef;
use arrow::datatypes::FieldRef;
use sonic_rs::{JsonValueTrait, LazyValue};

use super::value::{ColumnBuilder, Value};
use super::{BadRecord, RecordDecoder, shown};

/// How deeply a document may nest. The parser recurses per level, so this bounds its stack.
pub(super) const DEPTH_MAX: usize = 128;

pub(super) struct JsonDecoder {
    root: Node,
    columns: Vec<ColumnBuilder>,
}

/// Members of an object that are needed, or that lead to one.
#[derive(Default)]
struct Node {
    members: Vec<(String, Target)>,
}

#[derive(Default)]
struct Target {
    column: Option<usize>,
    inside: Node,
}

impl Node {
    fn insert(&mut self, path: &str, column: usize) {
        let (name, rest) = match path.split_once('.') {
            Some((name, rest)) => (name, Some(rest)),
            None => (path, None),
        };
        let at = match self.members.iter().position(|(member, _)| member == name) {
            Some(at) => at,
            None => {
                self.members.push((name.to_owned(), Target::default()));
                self.members.len() - 1
            }
        };
        let target = &mut self.members[at].1;
        match rest {
            Some(rest) => target.inside.insert(rest, column),
            None => target.column = Some(column),
        }
    }
}

impl JsonDecoder {
    pub(super) fn new(fields: &[FieldRef]) -> Self {
        let mut root = Node::default();
        for (column, field) in fields.iter().enumerate() {
            root.insert(field.name(), column);
        }
        Self { root, columns: fields.iter().map(|field| ColumnBuilder::new(field)).collect() }
    }
}

impl RecordDecoder for JsonDecoder {
    fn push(&mut self, record: &[u8]) -> Result<(), BadRecord> {
        if nests_too_deeply(record) {
            return Err(BadRecord::Malformed(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        // The parser takes text on trust: bytes that are not UTF-8 would be undefined behaviour.
        let text = std::str::from_utf8(record).map_err(|error| {
            BadRecord::Malformed(format!("not UTF-8 at byte {}", error.valid_up_to()))
        })?;
        let document: LazyValue<'_> = sonic_rs::from_str(text)
            .map_err(|error| BadRecord::Malformed(format!("not JSON: {}", first_line(&error))))?;
        if !document.is_object() {
            return Err(BadRecord::Malformed(format!(
                "not a JSON object: {}",
                shown(document.as_raw_str())
            )));
        }
        // All values are converted before any is appended: a record is taken whole or not at all.
        let mut values = Vec::with_capacity(self.columns.len());
        values.resize_with(self.columns.len(), || None);
        collect(&self.root, document, &mut values)?;
        let mut converted = Vec::with_capacity(values.len());
        for (column, value) in self.columns.iter().zip(&values) {
            converted.push(match value {
                Some(value) => column.convert(value)?,
                None => Value::Null,
            });
        }
        for (column, value) in self.columns.iter_mut().zip(converted) {
            column.append(value);
        }
        Ok(())
    }

    fn finish(&mut self) -> Vec<ArrayRef> {
        self.columns.iter_mut().map(ColumnBuilder::finish).collect()
    }
}

/// Finds the needed members; of several with one name the last counts.
fn collect<'a>(
    node: &Node,
    object: LazyValue<'a>,
    values: &mut [Option<LazyValue<'a>>],
) -> Result<(), BadRecord> {
    if node.members.is_empty() {
        return Ok(());
    }
    let Some(members) = object.into_object_iter() else { return Ok(()) };
    for member in members {
        let (name, value) = member
            .map_err(|error| BadRecord::Malformed(format!("not JSON: {}", first_line(&error))))?;
        let Some((_, target)) = node.members.iter().find(|(wanted, _)| *wanted == name) else {
            continue;
        };
        if !target.inside.members.is_empty() && value.is_object() {
            collect(&target.inside, value.clone(), values)?;
        }
        if let Some(column) = target.column {
            values[column] = Some(value);
        }
    }
    Ok(())
}

/// Whether brackets nest deeper than [`DEPTH_MAX`]. Most records have fewer brackets than that, and
/// counting them is far cheaper than following strings.
fn nests_too_deeply(record: &[u8]) -> bool {
    let opening = record.iter().filter(|byte| matches!(byte, b'{' | b'[')).count();
    if opening <= DEPTH_MAX {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in record {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// The parser's message without its picture of the text, which may hold anything.
fn first_line(error: &sonic_rs::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Field, Int64Type};
    use proptest::prelude::*;

    use super::*;
    use crate::schema::parse_type;

    fn decoder(columns: &[(&str, &str)]) -> JsonDecoder {
        let fields: Vec<FieldRef> = columns
            .iter()
            .map(|(name, data_type)| {
                Arc::new(Field::new(*name, parse_type(data_type).unwrap(), true))
            })
            .collect();
        JsonDecoder::new(&fields)
    }

    #[test]
    fn members_paths_and_absent_columns() {
        let mut decoder =
            decoder(&[("n", "long"), ("user.id", "long"), ("user.name", "string"), ("x", "int")]);
        decoder.push(br#"{"user":{"name":"a\u00e9","id":7},"n":1,"other":[{}]}"#).unwrap();
        decoder.push(br#" {"n":1,"n":2,"user":null} "#).unwrap();
        let columns = decoder.finish();
        assert_eq!(columns[0].as_primitive::<Int64Type>().values(), &[1, 2]);
        assert_eq!(columns[1].as_primitive::<Int64Type>().value(0), 7);
        assert!(columns[1].is_null(1));
        assert_eq!(columns[2].as_string::<i32>().value(0), "aé");
        assert_eq!(columns[3].null_count(), 2);
    }

    #[test]
    fn hostile_documents_are_bad_records() {
        let mut decoder = decoder(&[("n", "long")]);
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        let open = "[".repeat(5_000_000);
        let texts = [
            "",
            " ",
            "{",
            "{}{}",
            "{} x",
            "[]",
            "1",
            "nul",
            r#"{"n":1"#,
            r#"{"n":}"#,
            &deep,
            &open,
        ];
        for bad in texts {
            assert!(decoder.push(bad.as_bytes()).is_err(), "{}", shown(bad));
        }
        assert!(decoder.push(b"{\"a\":\"\xff\"}").is_err());
        assert!(decoder.push(br#"{"n":9223372036854775808}"#).is_err());
        assert_eq!(decoder.finish()[0].len(), 0);
        let brackets_in_a_string = format!("{{\"s\":\"{}\"}}", "[\\\"".repeat(10_000));
        decoder.push(brackets_in_a_string.as_bytes()).unwrap();
    }

    #[test]
    fn a_record_is_taken_whole_or_not_at_all() {
        let mut decoder = decoder(&[("a", "long"), ("b", "long")]);
        assert!(decoder.push(br#"{"a":1,"b":"x"}"#).is_err());
        decoder.push(br#"{"a":2,"b":3}"#).unwrap();
        let lengths: Vec<_> = decoder.finish().iter().map(|column| column.len()).collect();
        assert_eq!(lengths, [1, 1]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(record in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = decoder(&[("a", "string"), ("b.c", "double"), ("t", "timestamp")]);
            let taken = decoder.push(&record).is_ok();
            prop_assert_eq!(decoder.finish()[0].len(), usize::from(taken));
        }

        #[test]
        fn what_serde_json_writes_is_read_back(n in any::<i64>(), s in any::<String>()) {
            let mut decoder = decoder(&[("n", "long"), ("s", "string")]);
            let record = serde_json::json!({"s": s, "n": n}).to_string();
            decoder.push(record.as_bytes()).unwrap();
            let columns = decoder.finish();
            prop_assert_eq!(columns[0].as_primitive::<Int64Type>().value(0), n);
            prop_assert_eq!(columns[1].as_string::<i32>().value(0), s);
        }
    }
}
