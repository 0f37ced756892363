//! Directories of partition columns, as Hive names them.
//!
//! Promises: `column=value` with Hive's escapes, null and empty as `__HIVE_DEFAULT_PARTITION__`;
//! rows keep their order within a directory. Never does: open files.

use std::collections::HashMap;

use datafusion::arrow::array::{RecordBatch, UInt32Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

/// The directory of rows without a value.
const NULL_DIRECTORY: &str = "__HIVE_DEFAULT_PARTITION__";

/// Splits rows by the values of the partition columns.
#[derive(Debug)]
pub(super) struct Partitioner {
    /// Places of the partition columns.
    by: Vec<usize>,
    /// Places of the others.
    kept: Vec<usize>,
}

/// Rows of one directory, without the partition columns.
pub(super) struct Part {
    /// `a=1/b=2`; empty without partition columns.
    pub(super) directory: String,
    pub(super) rows: RecordBatch,
}

impl Partitioner {
    /// # Errors
    /// The name of a partition column that the result does not have.
    pub(super) fn new(schema: &SchemaRef, columns: &[String]) -> Result<Self, String> {
        let by = columns
            .iter()
            .map(|column| schema.index_of(column).map_err(|_| column.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let kept = (0..schema.fields().len()).filter(|place| !by.contains(place)).collect();
        Ok(Self { by, kept })
    }

    /// Schema of the files.
    pub(super) fn file_schema(&self, schema: &SchemaRef) -> Result<SchemaRef, ArrowError> {
        Ok(std::sync::Arc::new(schema.project(&self.kept)?))
    }

    pub(super) fn split(&self, batch: &RecordBatch) -> Result<Vec<Part>, ArrowError> {
        if self.by.is_empty() {
            return Ok(vec![Part { directory: String::new(), rows: batch.clone() }]);
        }
        let options = FormatOptions::default();
        let formatters = self
            .by
            .iter()
            .map(|place| ArrayFormatter::try_new(batch.column(*place).as_ref(), &options))
            .collect::<Result<Vec<_>, _>>()?;
        let schema = batch.schema();
        let mut order: Vec<String> = Vec::new();
        let mut rows: HashMap<String, Vec<u32>> = HashMap::new();
        let mut directory = String::new();
        for row in 0..batch.num_rows() {
            directory.clear();
            for (place, formatter) in self.by.iter().zip(&formatters) {
                if !directory.is_empty() {
                    directory.push('/');
                }
                escape(schema.field(*place).name(), &mut directory);
                directory.push('=');
                match batch.column(*place).is_null(row) {
                    true => directory.push_str(NULL_DIRECTORY),
                    false => match formatter.value(row).try_to_string()? {
                        value if value.is_empty() => directory.push_str(NULL_DIRECTORY),
                        value => escape(&value, &mut directory),
                    },
                }
            }
            let row =
                u32::try_from(row).map_err(|error| ArrowError::ComputeError(error.to_string()))?;
            match rows.get_mut(&directory) {
                Some(rows) => rows.push(row),
                None => {
                    order.push(directory.clone());
                    rows.insert(directory.clone(), vec![row]);
                }
            }
        }
        let files = batch.project(&self.kept)?;
        let parts = order.into_iter().map(|directory| {
            let rows = UInt32Array::from(rows.remove(&directory).unwrap_or_default());
            Ok(Part { rows: take_record_batch(&files, &rows)?, directory })
        });
        parts.collect()
    }
}

/// Appends `text` with every character that Hive escapes as `%XX`.
fn escape(text: &str, to: &mut String) {
    for c in text.chars() {
        let special = c.is_ascii_control()
            || matches!(
                c,
                '"' | '#' | '%' | '\'' | '*' | '/' | ':' | '=' | '?' | '\\' | '{' | '[' | ']' | '^'
            );
        if special {
            to.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            to.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{AsArray, Int64Array, StringArray};
    use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;

    #[test]
    fn rows_are_split_and_names_escaped() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("level", DataType::Utf8, true),
            Field::new("n", DataType::Int64, false),
            Field::new("day", DataType::Int64, false),
        ]));
        let levels = StringArray::from(vec![Some("a/b"), None, Some("a/b"), Some("")]);
        let batch = RecordBatch::try_new(
            Arc::clone(&schema),
            vec![
                Arc::new(levels),
                Arc::new(Int64Array::from(vec![1, 2, 3, 4])),
                Arc::new(Int64Array::from(vec![7, 7, 7, 7])),
            ],
        )
        .unwrap();
        let by = ["day".to_owned(), "level".to_owned()];
        let partitioner = Partitioner::new(&schema, &by).unwrap();
        let found: Vec<(String, Vec<i64>)> = partitioner
            .split(&batch)
            .unwrap()
            .into_iter()
            .map(|part| {
                assert_eq!(part.rows.num_columns(), 1);
                let numbers = part.rows.column(0).as_primitive::<Int64Type>();
                (part.directory, numbers.values().to_vec())
            })
            .collect();
        assert_eq!(
            found,
            [
                ("day=7/level=a%2Fb".to_owned(), vec![1, 3]),
                ("day=7/level=__HIVE_DEFAULT_PARTITION__".to_owned(), vec![2, 4]),
            ]
        );
        assert_eq!(Partitioner::new(&schema, &["x".to_owned()]).unwrap_err(), "x");
    }
}
