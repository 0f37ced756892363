//! The application file as a message and back. Absent parts and unknown enum values are refused:
//! a program in another language gets the same checks as a file.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_proto::v1;

use super::executors::ExecutorCount;
use super::params::Param;
use super::replay::Replay;
use super::spec::{
    ApplicationSpec, BadRecordPolicy, BatchSpec, Column, Compression, DataLossPolicy,
    OutOfRangePolicy, QuerySpec, Receivers, RecordFormat, ResourcesSpec, SinkFormat, SinkKind,
    SinkSpec, SourceKind, SourceSpec, StartPosition, StorageLevel,
};
use crate::aws::AwsSettings;
use crate::error::{Code, Error};
use crate::id::QueueName;
use crate::labels::NodeSelector;
use crate::resources::{ByteSize, Resources};

/// Pairs a typed enum with its message form, both ways; UNSPECIFIED and unknown values are refused.
macro_rules! paired {
    ($typed:ident, $wire:ident, $key:literal, { $($name:ident = $other:ident),* $(,)? }) => {
        impl $typed {
            /// As a message's enum value.
            #[must_use]
            pub fn to_proto(self) -> v1::$wire {
                match self { $(Self::$name => v1::$wire::$other,)* }
            }

            fn from_proto(value: i32) -> Result<Self, Error> {
                match v1::$wire::try_from(value) {
                    $(Ok(v1::$wire::$other) => Ok(Self::$name),)*
                    _ => Err(refuse($key, &format!("has the unknown value {value}"))),
                }
            }
        }
    };
}

paired!(StorageLevel, StorageLevel, "storage_level", {
    Memory = Memory, MemoryAndDisk = MemoryAndDisk, Memory2 = Memory2, MemoryAndDisk2 = MemoryAndDisk2
});
paired!(RecordFormat, RecordFormat, "format", { Json = Json, Text = Text, Bytes = Bytes });
paired!(BadRecordPolicy, BadRecordPolicy, "on_bad_record", {
    Fail = Fail, Skip = Skip, DeadLetter = DeadLetter
});
paired!(DataLossPolicy, DataLossPolicy, "on_data_loss", { Fail = Fail, Continue = Continue });
paired!(OutOfRangePolicy, OutOfRangePolicy, "out_of_range", {
    Auto = Auto, Deliver = Deliver, Drop = Drop
});
paired!(SinkFormat, SinkFormat, "sink.format", { Json = Json, Csv = Csv, Parquet = Parquet });
paired!(Compression, Compression, "sink.compression", { None = None, Gzip = Gzip, Zstd = Zstd });

fn refuse(field: &str, why: &str) -> Error {
    Error::new(
        Code::IncompleteMessage,
        format!("the specification's field `{field}` {why}"),
        "see proto/millrace/v1/application.proto for what it may hold",
    )
}

fn required<'a, T>(field: &str, value: &'a Option<T>) -> Result<&'a T, Error> {
    value.as_ref().ok_or_else(|| refuse(field, "is absent"))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn non_empty(text: &str) -> Option<String> {
    if text.is_empty() { None } else { Some(text.to_owned()) }
}

fn cost_to_proto(cost: Resources) -> v1::resources_spec::Cost {
    v1::resources_spec::Cost { cores: cost.cores, memory_bytes: cost.memory.as_u64() }
}

fn cost_from_proto(cost: v1::resources_spec::Cost) -> Resources {
    Resources::new(cost.cores, ByteSize::bytes(cost.memory_bytes))
}

impl StartPosition {
    /// As a message.
    #[must_use]
    pub fn to_proto(&self) -> v1::StartPosition {
        use v1::start_position::At;
        let at = match self {
            Self::Earliest => At::Earliest(true),
            Self::Latest => At::Latest(true),
            Self::Timestamp(ms) => At::TimestampMs(*ms),
            Self::Kcl(table) => At::KclTable(table.clone()),
        };
        v1::StartPosition { at: Some(at) }
    }

    /// From a message.
    ///
    /// # Errors
    /// When the message is absent or empty.
    pub fn from_proto(message: Option<&v1::StartPosition>) -> Result<Self, Error> {
        use v1::start_position::At;
        match message.and_then(|m| m.at.as_ref()) {
            Some(At::Earliest(true)) => Ok(Self::Earliest),
            Some(At::Latest(true)) => Ok(Self::Latest),
            Some(At::TimestampMs(ms)) if *ms >= 0 => Ok(Self::Timestamp(*ms)),
            Some(At::KclTable(table)) => Ok(Self::Kcl(table.clone())),
            _ => Err(refuse("start", "is absent or no position")),
        }
    }
}

impl Receivers {
    /// As a message.
    #[must_use]
    pub fn to_proto(self) -> v1::Receivers {
        use v1::receivers::Placement;
        let placement = match self {
            Self::PerExecutor => Placement::PerExecutor(true),
            Self::PerShard => Placement::PerShard(true),
            Self::Count(count) => Placement::Count(count),
        };
        v1::Receivers { placement: Some(placement) }
    }

    fn from_proto(message: Option<&v1::Receivers>) -> Result<Self, Error> {
        use v1::receivers::Placement;
        match message.and_then(|m| m.placement.as_ref()) {
            Some(Placement::PerExecutor(true)) => Ok(Self::PerExecutor),
            Some(Placement::PerShard(true)) => Ok(Self::PerShard),
            Some(Placement::Count(count)) => Ok(Self::Count(*count)),
            _ => Err(refuse("receivers", "is absent or no placement")),
        }
    }
}

impl SourceSpec {
    fn to_proto(&self, name: &str) -> v1::SourceSpec {
        v1::SourceSpec {
            name: name.to_owned(),
            stream: self.stream.clone(),
            start: Some(self.start.to_proto()),
            receivers: Some(self.receivers.to_proto()),
            storage_level: self.storage_level.to_proto().into(),
            format: self.format.to_proto().into(),
            on_bad_record: self.on_bad_record.to_proto().into(),
            on_data_loss: self.on_data_loss.to_proto().into(),
            columns: self
                .columns
                .iter()
                .map(|c| v1::Column { name: c.name.clone(), data_type: c.data_type.clone() })
                .collect(),
            out_of_range: self.out_of_range.to_proto().into(),
            aws: (self.aws != AwsSettings::default()).then(|| self.aws.to_proto()),
        }
    }

    fn from_proto(message: &v1::SourceSpec) -> Result<Self, Error> {
        Ok(Self {
            kind: SourceKind::Kinesis,
            stream: message.stream.clone(),
            start: StartPosition::from_proto(message.start.as_ref())?,
            receivers: Receivers::from_proto(message.receivers.as_ref())?,
            storage_level: StorageLevel::from_proto(message.storage_level)?,
            format: RecordFormat::from_proto(message.format)?,
            on_bad_record: BadRecordPolicy::from_proto(message.on_bad_record)?,
            on_data_loss: DataLossPolicy::from_proto(message.on_data_loss)?,
            out_of_range: OutOfRangePolicy::from_proto(message.out_of_range)?,
            columns: message
                .columns
                .iter()
                .map(|c| Column { name: c.name.clone(), data_type: c.data_type.clone() })
                .collect(),
            aws: AwsSettings::from_proto(message.aws.as_ref()),
        })
    }
}

impl AwsSettings {
    /// As a message.
    #[must_use]
    pub fn to_proto(&self) -> v1::AwsSpec {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        v1::AwsSpec {
            region: text(&self.region),
            endpoint: text(&self.endpoint),
            profile: text(&self.profile),
            role_arn: text(&self.role_arn),
        }
    }

    /// From a message; an absent one says nothing.
    #[must_use]
    pub fn from_proto(message: Option<&v1::AwsSpec>) -> Self {
        let Some(message) = message else { return Self::default() };
        Self {
            region: non_empty(&message.region),
            endpoint: non_empty(&message.endpoint),
            profile: non_empty(&message.profile),
            role_arn: non_empty(&message.role_arn),
        }
    }
}

fn params_to_proto(params: &BTreeMap<String, Param>) -> Vec<v1::Parameter> {
    let parameter = |(name, param): (&String, &Param)| v1::Parameter {
        name: name.clone(),
        data_type: param.data_type.clone(),
        value: param.value.clone(),
    };
    params.iter().map(parameter).collect()
}

fn params_from_proto(message: &[v1::Parameter]) -> Result<BTreeMap<String, Param>, Error> {
    let mut params = BTreeMap::new();
    for v1::Parameter { name, data_type, value } in message {
        let param = Param { data_type: data_type.clone(), value: value.clone() };
        if params.insert(name.clone(), param).is_some() {
            return Err(refuse("params", &format!("has two parameters named {name:?}")));
        }
    }
    Ok(params)
}

impl SinkSpec {
    fn to_proto(&self) -> v1::SinkSpec {
        v1::SinkSpec {
            path: self.path.to_string(),
            format: self.format.to_proto().into(),
            compression: self.compression.to_proto().into(),
            partition_by: self.partition_by.clone(),
            files_per_batch: self.files_per_batch,
            max_open_partitions: self.max_open_partitions,
            dead_letter_path: self
                .dead_letter_path
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        }
    }

    fn from_proto(message: &v1::SinkSpec) -> Result<Self, Error> {
        Ok(Self {
            kind: SinkKind::S3,
            path: message.path.parse()?,
            format: SinkFormat::from_proto(message.format)?,
            compression: Compression::from_proto(message.compression)?,
            partition_by: message.partition_by.clone(),
            files_per_batch: message.files_per_batch,
            max_open_partitions: message.max_open_partitions,
            dead_letter_path: non_empty(&message.dead_letter_path)
                .map(|path| path.parse())
                .transpose()?,
        })
    }
}

impl ApplicationSpec {
    /// As a message.
    #[must_use]
    pub fn to_proto(&self) -> v1::ApplicationSpec {
        let resources = &self.resources;
        v1::ApplicationSpec {
            name: self.name.to_string(),
            resources: Some(v1::ResourcesSpec {
                min_executors: resources.executors.min,
                max_executors: resources.executors.max,
                executor: Some(cost_to_proto(resources.executor)),
                driver: Some(cost_to_proto(resources.driver)),
            }),
            env: self.env.clone().into_iter().collect(),
            args: self.args.clone(),
            batch: Some(v1::BatchSpec {
                interval_ms: millis(self.batch.interval),
                deadline_ms: millis(self.batch.deadline),
            }),
            sources: self.sources.iter().map(|(name, source)| source.to_proto(name)).collect(),
            query: Some(v1::QuerySpec { sql: self.query.sql.clone() }),
            sink: Some(self.sink.to_proto()),
            aws: Some(self.aws.to_proto()),
            params: params_to_proto(&self.params),
            origins: self.origins.clone().into_iter().collect(),
            drop_sources: self.drop_sources.iter().cloned().collect(),
            queue: self.queue.to_string(),
            node_selector: resources.node_selector.to_proto(),
            scaling: Some(v1::ScalingSpec {
                grow_after_ms: millis(resources.executors.grow_after),
                shrink_after_ms: millis(resources.executors.shrink_after),
            }),
            replay: self.replay.as_ref().map(Replay::to_proto),
        }
    }

    /// From a message, checked.
    ///
    /// # Errors
    /// [`Code::IncompleteMessage`] naming the field, or as [`ApplicationSpec::check`].
    pub fn from_proto(message: &v1::ApplicationSpec) -> Result<Self, Error> {
        let resources = required("resources", &message.resources)?;
        let batch = required("batch", &message.batch)?;
        let scaling = message.scaling.unwrap_or_default();
        let mut sources = BTreeMap::new();
        for source in &message.sources {
            if sources.insert(source.name.clone(), SourceSpec::from_proto(source)?).is_some() {
                return Err(refuse("sources", &format!("has two sources named {:?}", source.name)));
            }
        }
        let spec = Self {
            name: message.name.parse()?,
            resources: ResourcesSpec {
                executors: ExecutorCount::range(resources.min_executors, resources.max_executors)
                    .with_times(scaling.grow_after_ms, scaling.shrink_after_ms),
                executor: cost_from_proto(*required("resources.executor", &resources.executor)?),
                driver: cost_from_proto(*required("resources.driver", &resources.driver)?),
                node_selector: NodeSelector::from_proto(&message.node_selector),
            },
            queue: non_empty(&message.queue).map_or_else(QueueName::default, QueueName::new),
            drop_sources: message.drop_sources.iter().cloned().collect(),
            replay: message.replay.as_ref().map(Replay::from_proto).transpose()?,
            env: message.env.clone().into_iter().collect(),
            args: message.args.clone(),
            batch: BatchSpec {
                interval: Duration::from_millis(batch.interval_ms),
                deadline: Duration::from_millis(batch.deadline_ms),
            },
            sources,
            query: QuerySpec { sql: required("query", &message.query)?.sql.clone() },
            sink: SinkSpec::from_proto(required("sink", &message.sink)?)?,
            aws: AwsSettings::from_proto(message.aws.as_ref()),
            params: params_from_proto(&message.params)?,
            origins: message.origins.clone().into_iter().collect(),
        };
        spec.check()?;
        Ok(spec)
    }
}
