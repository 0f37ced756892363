//! What a source looks like in SQL: its declared columns and the metadata columns of every source.
//!
//! Promises: one type name means one Arrow type, everywhere. Never does: look at records.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use millrace_common::application;
use serde::{Deserialize, Serialize};

mod type_name;

pub use type_name::parse_type;

/// How a record becomes columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordFormat {
    /// One JSON object; the declared columns are looked up in it.
    Json,
    /// One line of UTF-8 in the column `line`.
    Text,
    /// The payload as it is in the column `data`.
    Bytes,
}

/// What becomes of a record that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadRecordPolicy {
    /// The batch fails and names the record.
    Fail,
    /// The record is left out and counted.
    Skip,
    /// The record is left out, counted, and written beside the results.
    DeadLetter,
}

/// A declared column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDef {
    /// Name in SQL, and the path in the document: `user.id` is the member `id` of `user`.
    pub name: String,
    /// Type name as the application file has it.
    pub data_type: String,
}

/// A source as SQL sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceDef {
    /// Table name.
    pub name: String,
    /// How records become columns.
    pub format: RecordFormat,
    /// Declared columns, in order; only for [`RecordFormat::Json`].
    pub columns: Vec<ColumnDef>,
    /// What becomes of bad records.
    pub on_bad_record: BadRecordPolicy,
}

/// Why a source cannot become a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("source {source_name}: {detail}")]
pub struct SchemaError {
    /// The source.
    pub source_name: String,
    /// Which column or setting, and what would do.
    pub detail: String,
}

/// A column that every source has without declaring it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MetadataColumn {
    /// `_shard_id`
    ShardId,
    /// `_sequence_number`: decimal digits.
    SequenceNumber,
    /// `_sub_sequence_number`: place within a KPL aggregate, 0 for other records.
    SubSequenceNumber,
    /// `_partition_key`: null where Kinesis gave none.
    PartitionKey,
    /// `_arrival_time`: when the record arrived at the stream, approximately.
    ArrivalTime,
    /// `_batch_id`: number of the batch.
    BatchId,
    /// `_batch_time`: when the batch was cut.
    BatchTime,
}

impl MetadataColumn {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 7] = [
        Self::ShardId,
        Self::SequenceNumber,
        Self::SubSequenceNumber,
        Self::PartitionKey,
        Self::ArrivalTime,
        Self::BatchId,
        Self::BatchTime,
    ];

    /// Name in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ShardId => "_shard_id",
            Self::SequenceNumber => "_sequence_number",
            Self::SubSequenceNumber => "_sub_sequence_number",
            Self::PartitionKey => "_partition_key",
            Self::ArrivalTime => "_arrival_time",
            Self::BatchId => "_batch_id",
            Self::BatchTime => "_batch_time",
        }
    }

    /// The column of this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.name() == name)
    }

    fn field(self) -> Field {
        let (data_type, nullable) = match self {
            Self::ShardId | Self::SequenceNumber => (DataType::Utf8, false),
            Self::SubSequenceNumber | Self::BatchId => (DataType::Int64, false),
            Self::PartitionKey => (DataType::Utf8, true),
            Self::ArrivalTime | Self::BatchTime => (timestamp(TimeUnit::Millisecond), false),
        };
        Field::new(self.name(), data_type, nullable)
    }
}

/// A point in time in UTC.
pub(crate) fn timestamp(unit: TimeUnit) -> DataType {
    DataType::Timestamp(unit, Some("+00:00".into()))
}

impl SourceDef {
    /// A source of an application.
    #[must_use]
    pub fn from_spec(name: &str, spec: &application::SourceSpec) -> Self {
        let column = |column: &application::Column| ColumnDef {
            name: column.name.clone(),
            data_type: column.data_type.clone(),
        };
        Self {
            name: name.to_owned(),
            format: match spec.format {
                application::RecordFormat::Json => RecordFormat::Json,
                application::RecordFormat::Text => RecordFormat::Text,
                application::RecordFormat::Bytes => RecordFormat::Bytes,
            },
            columns: spec.columns.iter().map(column).collect(),
            on_bad_record: match spec.on_bad_record {
                application::BadRecordPolicy::Fail => BadRecordPolicy::Fail,
                application::BadRecordPolicy::Skip => BadRecordPolicy::Skip,
                application::BadRecordPolicy::DeadLetter => BadRecordPolicy::DeadLetter,
            },
        }
    }

    /// All sources of an application.
    #[must_use]
    pub fn all(spec: &application::ApplicationSpec) -> Vec<Self> {
        spec.sources.iter().map(|(name, source)| Self::from_spec(name, source)).collect()
    }

    /// The declared columns as fields, all nullable.
    ///
    /// # Errors
    /// [`SchemaError`] names the first column that cannot be.
    pub fn declared_fields(&self) -> Result<Vec<Field>, SchemaError> {
        let refuse = |detail: String| SchemaError { source_name: self.name.clone(), detail };
        match self.format {
            RecordFormat::Text | RecordFormat::Bytes if !self.columns.is_empty() => {
                Err(refuse("only format json takes a schema; remove it".to_owned()))
            }
            RecordFormat::Text => Ok(vec![Field::new("line", DataType::Utf8, false)]),
            RecordFormat::Bytes => Ok(vec![Field::new("data", DataType::Binary, false)]),
            RecordFormat::Json if self.columns.is_empty() => {
                Err(refuse("format json needs a schema with at least one column".to_owned()))
            }
            RecordFormat::Json => {
                let mut fields: Vec<Field> = Vec::with_capacity(self.columns.len());
                for column in &self.columns {
                    if MetadataColumn::by_name(&column.name).is_some() {
                        return Err(refuse(format!(
                            "column {} is a metadata column that every source has; do not declare it",
                            column.name
                        )));
                    }
                    if fields.iter().any(|field| *field.name() == column.name) {
                        return Err(refuse(format!("column {} is declared twice", column.name)));
                    }
                    let data_type = parse_type(&column.data_type)
                        .map_err(|detail| refuse(format!("column {}: {detail}", column.name)))?;
                    fields.push(Field::new(&column.name, data_type, true));
                }
                Ok(fields)
            }
        }
    }

    /// The table's schema: the declared columns, then the given metadata columns.
    ///
    /// # Errors
    /// As [`Self::declared_fields`].
    pub fn table_schema(&self, metadata: &[MetadataColumn]) -> Result<SchemaRef, SchemaError> {
        let mut fields = self.declared_fields()?;
        fields.extend(metadata.iter().map(|column| column.field()));
        Ok(Arc::new(Schema::new(Fields::from(fields))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(columns: &[(&str, &str)]) -> SourceDef {
        SourceDef {
            name: "logs".into(),
            format: RecordFormat::Json,
            columns: columns
                .iter()
                .map(|(name, data_type)| ColumnDef {
                    name: (*name).into(),
                    data_type: (*data_type).into(),
                })
                .collect(),
            on_bad_record: BadRecordPolicy::Fail,
        }
    }

    #[test]
    fn metadata_follows_the_declared_columns() {
        let source = json(&[("host", "string")]);
        let schema = source.table_schema(&[MetadataColumn::ShardId]).unwrap();
        let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["host", "_shard_id"]);
    }

    #[test]
    fn contradictions_are_refused_by_name() {
        for (columns, word) in [
            (&[("_shard_id", "string")][..], "_shard_id"),
            (&[("a", "string"), ("a", "int")][..], "twice"),
            (&[("a", "strnig")][..], "string"),
            (&[][..], "at least one"),
        ] {
            let error = json(columns).declared_fields().unwrap_err();
            assert!(error.detail.contains(word), "{error}");
        }
    }
}
