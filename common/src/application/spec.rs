//! The typed application file. Unknown keys are refused; every default stands in this file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::executors::ExecutorCount;
use super::params::Param;
use super::replay::Replay;
use super::s3_location::S3Location;
use crate::aws::AwsSettings;
use crate::error::{Code, Error};
use crate::id::{ApplicationName, QueueName};
use crate::labels::NodeSelector;
use crate::resources::{ByteSize, Resources};

/// What a user submits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplicationSpec {
    /// 1 to 63 of `[a-z0-9-]`, starting with a letter; unique on the cluster and in its table.
    pub name: ApplicationName,
    /// The master's queue that it is submitted to. Default `"default"`.
    #[serde(default)]
    pub queue: QueueName,
    /// Cost of the driver and the executors.
    #[serde(default)]
    pub resources: ResourcesSpec,
    /// Environment of the driver and of every executor.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Arguments of the driver and of every executor, byte for byte, after `--`.
    #[serde(default)]
    pub args: Vec<String>,
    /// What the query names as `$name`.
    #[serde(default)]
    pub params: BTreeMap<String, Param>,
    /// When batches are cut.
    #[serde(default)]
    pub batch: BatchSpec,
    /// Sources by name; the name is the table's name in the query.
    #[serde(rename = "source")]
    pub sources: BTreeMap<String, SourceSpec>,
    /// What is computed.
    pub query: QuerySpec,
    /// Where the result goes.
    pub sink: SinkSpec,
    /// Region, endpoint, profile and role.
    #[serde(default)]
    pub aws: AwsSettings,
    /// Where values come from, by key, for people. Not of the file: noted as it is read.
    #[serde(skip)]
    pub origins: BTreeMap<String, String>,
    /// Sources whose positions may be given up, because the application has them no more or reads
    /// another stream under their name. Not of the file: said at each submit.
    #[serde(skip)]
    pub drop_sources: BTreeSet<String>,
    /// Set for an application that reads a past range and then ends by itself. Not of the file: made
    /// by `millrace replay`.
    #[serde(skip)]
    pub replay: Option<Replay>,
}

impl ApplicationSpec {
    /// The lease tables of the KCL that sources begin behind.
    pub fn lease_tables(&self) -> impl Iterator<Item = &str> {
        self.sources.values().filter_map(|source| match &source.start {
            StartPosition::Kcl(table) => Some(table.as_str()),
            _ => None,
        })
    }

    /// The roles of single sources, which the credentials of the nodes have to assume; those of a
    /// profile of their own are for that profile.
    pub fn source_roles(&self) -> impl Iterator<Item = &str> {
        let own = self.sources.values().filter(|source| source.aws.profile.is_none());
        own.filter_map(|source| source.aws.role_arn.as_deref())
    }
}

/// `[resources]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourcesSpec {
    /// Number of executors, or `{ min, max, grow_after, shrink_after }`. Default 1.
    pub executors: ExecutorCount,
    /// Of each executor. Default 1 core, 1GiB.
    pub executor: Resources,
    /// Of the driver. Default 1 core, 512MiB.
    pub driver: Resources,
    /// Labels that a node must have for its containers, as `{ zone = "a" }`. Default: any node.
    pub node_selector: NodeSelector,
}

impl Default for ResourcesSpec {
    fn default() -> Self {
        Self {
            executors: ExecutorCount::fixed(1),
            executor: Resources::new(1, ByteSize::mib(1024)),
            driver: Resources::new(1, ByteSize::mib(512)),
            node_selector: NodeSelector::default(),
        }
    }
}

/// `[batch]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchSpec {
    /// Time from cut to cut, 50 ms to 24 h. Default 10s.
    #[serde(deserialize_with = "duration")]
    pub interval: Duration,
    /// The last resort against a batch that hangs; such a batch is run again. Default 10m.
    #[serde(deserialize_with = "duration")]
    pub deadline: Duration,
}

impl Default for BatchSpec {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), deadline: Duration::from_secs(600) }
    }
}

/// `[source.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// What it reads; only `"kinesis"`.
    #[serde(rename = "type", default)]
    pub kind: SourceKind,
    /// Name or ARN of the stream.
    pub stream: String,
    /// Where the first start begins: `"earliest"`, `"latest"` (default), a time stamp, or
    /// `{ kcl = "TABLE" }`.
    #[serde(default)]
    pub start: StartPosition,
    /// `"per_executor"` (default), `"per_shard"` or a number.
    #[serde(default)]
    pub receivers: Receivers,
    /// Where blocks are held. Default `"memory_and_disk"`.
    #[serde(default)]
    pub storage_level: StorageLevel,
    /// How records become rows. Default `"json"`.
    #[serde(default)]
    pub format: RecordFormat,
    /// What becomes of a record that does not fit. Default `"fail"`.
    #[serde(default)]
    pub on_bad_record: BadRecordPolicy,
    /// What becomes of a gap in the stream. Default `"fail"`.
    #[serde(default)]
    pub on_data_loss: DataLossPolicy,
    /// What becomes of KPL user records outside their shard's hash range. Default `"auto"`.
    #[serde(default)]
    pub out_of_range: OutOfRangePolicy,
    /// Columns and their types, in order; only for format `"json"`.
    #[serde(default, rename = "schema", deserialize_with = "columns")]
    pub columns: Vec<Column>,
    /// What differs from the application's `[aws]`, for this stream alone.
    #[serde(default)]
    pub aws: AwsSettings,
}

/// The kind of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// Kinesis Data Streams.
    #[default]
    Kinesis,
}

/// A declared column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name in SQL, and the path in the document (`"user.id"`).
    pub name: String,
    /// Name of the type, as `"string"` or `"decimal(10,2)"`.
    pub data_type: String,
}

/// Where the first start of a source begins. Later starts go on from the head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StartPosition {
    /// With the oldest record that the stream still holds.
    Earliest,
    /// With the records put after the first start.
    #[default]
    Latest,
    /// With the records that arrived at or after this Unix time in milliseconds.
    Timestamp(i64),
    /// Behind the checkpoints of this lease table of the Kinesis Client Library.
    Kcl(String),
}

impl FromStr for StartPosition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            time => match time.parse::<jiff::Timestamp>() {
                Ok(stamp) if stamp.as_millisecond() >= 0 => {
                    Ok(Self::Timestamp(stamp.as_millisecond()))
                }
                _ => Err(Error::new(
                    Code::InvalidValue,
                    format!("{time:?} is not a start position"),
                    "write \"earliest\", \"latest\" or a time stamp, as \"2026-01-31T08:00:00Z\"",
                )),
            },
        }
    }
}

impl fmt::Display for StartPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Timestamp(ms) => match jiff::Timestamp::from_millisecond(*ms) {
                Ok(stamp) => write!(f, "{stamp}"),
                Err(_) => write!(f, "{ms} ms"),
            },
            Self::Kcl(table) => write!(f, "the checkpoints in the KCL lease table {table}"),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "\"earliest\", \"latest\", a time stamp or { kcl = \"TABLE\" }")]
enum StartForm {
    Text(String),
    Date(toml::value::Datetime),
    Kcl(KclForm),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KclForm {
    kcl: String,
}

impl<'de> Deserialize<'de> for StartPosition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match StartForm::deserialize(deserializer)? {
            StartForm::Text(text) => text,
            StartForm::Date(date) => date.to_string(),
            StartForm::Kcl(KclForm { kcl }) => return Ok(Self::Kcl(kcl)),
        };
        text.parse().map_err(custom)
    }
}

/// How many receivers a source has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Receivers {
    /// One on each executor.
    #[default]
    PerExecutor,
    /// One for each shard, spread over the executors.
    PerShard,
    /// This many, spread over the executors.
    Count(u32),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "\"per_executor\", \"per_shard\" or a number of receivers")]
enum ReceiversForm {
    Count(u32),
    Text(String),
}

impl<'de> Deserialize<'de> for Receivers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match ReceiversForm::deserialize(deserializer)? {
            ReceiversForm::Count(count) => Ok(Self::Count(count)),
            ReceiversForm::Text(text) => match text.as_str() {
                "per_executor" => Ok(Self::PerExecutor),
                "per_shard" => Ok(Self::PerShard),
                other => Err(D::Error::unknown_variant(other, &["per_executor", "per_shard"])),
            },
        }
    }
}

/// Where blocks are held until their batch is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageLevel {
    /// In memory; at the budget the receiver waits.
    Memory,
    /// In memory, spilled to disk above the budget.
    #[default]
    MemoryAndDisk,
    /// As `memory`, with a copy on a second executor.
    #[serde(rename = "memory_2")]
    Memory2,
    /// As `memory_and_disk`, with a copy on a second executor.
    #[serde(rename = "memory_and_disk_2")]
    MemoryAndDisk2,
}

impl StorageLevel {
    /// True when a second executor holds each block too.
    #[must_use]
    pub fn copies(self) -> bool {
        matches!(self, Self::Memory2 | Self::MemoryAndDisk2)
    }

    /// True when blocks may go to disk.
    #[must_use]
    pub fn spills(self) -> bool {
        matches!(self, Self::MemoryAndDisk | Self::MemoryAndDisk2)
    }
}

/// How a record becomes a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordFormat {
    /// A JSON object; the columns are those of `schema`, absent ones null.
    #[default]
    Json,
    /// UTF-8; one column `line`, a trailing LF or CR LF removed.
    Text,
    /// Anything; one column `data`.
    Bytes,
}

/// What becomes of a record that is not well-formed or does not fit a needed column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadRecordPolicy {
    /// The application stops, naming the record.
    #[default]
    Fail,
    /// It is counted and left out.
    Skip,
    /// It is counted, left out, and written to `dead_letter_path` with the batch.
    DeadLetter,
}

/// What becomes of a gap in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataLossPolicy {
    /// The application stops, naming shard and range.
    #[default]
    Fail,
    /// The gap is recorded and counted, and reading goes on behind it.
    Continue,
}

/// What becomes of a KPL user record outside its shard's hash range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutOfRangePolicy {
    /// Dropped on keyed streams (the producer sends it again), delivered on AUTO ones.
    #[default]
    Auto,
    /// Always delivered.
    Deliver,
    /// Always dropped.
    Drop,
}

/// `[query]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuerySpec {
    /// One SELECT over the sources; it sees the records of one batch.
    pub sql: String,
}

/// `[sink]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkSpec {
    /// What it writes to; only `"s3"`.
    #[serde(rename = "type", default)]
    pub kind: SinkKind,
    /// `s3://bucket/prefix/`.
    pub path: S3Location,
    /// Format of the objects. Default `"json"` (one object a line).
    #[serde(default)]
    pub format: SinkFormat,
    /// Of the text formats. Default `"none"`.
    #[serde(default)]
    pub compression: Compression,
    /// Result columns that become `name=value/` in the key, in order.
    #[serde(default)]
    pub partition_by: Vec<String>,
    /// Objects per batch and partition; 0 (default): as many as the plan's last stage has tasks.
    #[serde(default)]
    pub files_per_batch: u32,
    /// Partitions a task writes at once. Default 100.
    #[serde(default = "default_open_partitions")]
    pub max_open_partitions: u32,
    /// `s3://bucket/prefix/` for bad records, outside `path`.
    #[serde(default)]
    pub dead_letter_path: Option<S3Location>,
}

fn default_open_partitions() -> u32 {
    100
}

/// The kind of a sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkKind {
    /// S3.
    #[default]
    S3,
}

/// Format of the objects that the sink writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkFormat {
    /// JSON lines.
    #[default]
    Json,
    /// CSV with a header.
    Csv,
    /// Parquet.
    Parquet,
}

/// Compression of the text formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// As it is.
    #[default]
    None,
    /// gzip, `.gz`.
    Gzip,
    /// Zstandard, `.zst`.
    Zstd,
}

impl<'de> Deserialize<'de> for ApplicationName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(custom)
    }
}

pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|error| {
        D::Error::custom(format!(
            "{text:?} is not a duration ({error}): write a number and a unit, as \"10s\" or \"500ms\""
        ))
    })
}

fn columns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Column>, D::Error> {
    struct InOrder;

    impl<'de> Visitor<'de> for InOrder {
        type Value = Vec<Column>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(
                "a table of columns and types, as { ts = \"timestamp\", level = \"string\" }",
            )
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Column>, A::Error> {
            let mut columns = Vec::new();
            while let Some((name, data_type)) = map.next_entry::<String, String>()? {
                columns.push(Column { name, data_type });
            }
            Ok(columns)
        }
    }

    deserializer.deserialize_map(InOrder)
}

fn custom<E: serde::de::Error>(error: Error) -> E {
    E::custom(format!("{}: {}", error.message(), error.next_move()))
}
