//! What must hold of an application whoever submits it: the client checks before it sends, the
//! master before it accepts, the driver before it asks for executors.

use std::collections::BTreeSet;
use std::time::Duration;

use super::params;
use super::spec::{
    ApplicationSpec, BadRecordPolicy, Compression, Receivers, RecordFormat, SinkFormat, SourceSpec,
    StartPosition,
};
use crate::error::{Code, Error};
use crate::id::QueueName;
use crate::resources::{ByteSize, Resources};
use crate::secrets;

/// Shortest batch interval: below it the commits would follow each other without a pause.
const INTERVAL_MIN: Duration = Duration::from_millis(50);
/// Longest batch interval: the retention of a stream is a day by default.
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Most executors of one application.
const EXECUTORS_MAX: u32 = 10_000;
/// Shortest time before the number of executors changes: an observation takes a second.
const SCALING_MIN: Duration = Duration::from_secs(1);
/// Longest.
const SCALING_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Most cores of one container; more than any host has.
const CORES_MAX: u32 = 1_024;
/// Least memory of a container.
const MEMORY_MIN: ByteSize = ByteSize::mib(64);

impl ApplicationSpec {
    /// Checks everything that can be known without SQL, AWS or a cluster.
    ///
    /// # Errors
    /// [`Code::InvalidValue`] naming the key and what it may be.
    pub fn check(&self) -> Result<(), Error> {
        self.check_resources()?;
        self.check_environment()?;
        let interval = self.batch.interval;
        if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
            return refuse(
                format!("batch.interval is {}", humantime::format_duration(interval)),
                "choose a batch interval from 50ms to 24h",
            );
        }
        if self.batch.deadline < interval {
            return refuse(
                "batch.deadline is shorter than batch.interval".into(),
                "make the deadline longer, or leave it out (10m)",
            );
        }
        self.check_params()?;
        if self.sources.is_empty() {
            return refuse("there is no source".into(), "add a [source.NAME] table");
        }
        for (name, source) in &self.sources {
            self.check_source(name, source)?;
        }
        if self.query.sql.trim().is_empty() {
            return refuse("query.sql is empty".into(), "write one SELECT");
        }
        self.check_replay()?;
        self.check_sink()
    }

    fn check_resources(&self) -> Result<(), Error> {
        let count = self.resources.executors;
        if count.min == 0 || count.min > count.max || count.max > EXECUTORS_MAX {
            return refuse(
                format!("resources.executors is {} to {}", count.min, count.max),
                "choose 1 to 10000 executors, min not above max",
            );
        }
        for (key, cost) in
            [("executor", self.resources.executor), ("driver", self.resources.driver)]
        {
            check_cost(key, cost)?;
        }
        for (key, time) in [("grow_after", count.grow_after), ("shrink_after", count.shrink_after)]
        {
            if !(SCALING_MIN..=SCALING_MAX).contains(&time) {
                return refuse(
                    format!("resources.executors.{key} is {}", humantime::format_duration(time)),
                    "choose 1s to 24h",
                );
            }
        }
        QueueName::parse(self.queue.as_str())?;
        self.resources.node_selector.check()
    }

    fn check_environment(&self) -> Result<(), Error> {
        for (key, value) in &self.env {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                return refuse(
                    format!("env key {key:?} or its value can not be in an environment"),
                    "use a name without `=`, and no NUL characters",
                );
            }
        }
        if let Some(argument) = self.args.iter().find(|argument| argument.contains('\0')) {
            return refuse(
                format!("argument {argument:?} holds a NUL character"),
                "leave the character out: no program can be given it",
            );
        }
        Ok(())
    }

    fn check_params(&self) -> Result<(), Error> {
        self.params.keys().try_for_each(|name| params::check_name(name))?;
        let values = self.env.values().chain(self.params.values().map(|param| &param.value));
        secrets::references(values).map(|_| ())
    }

    /// Two sources may read streams of one name only where nothing has to tell them apart.
    fn check_source_aws(&self, name: &str, source: &SourceSpec) -> Result<(), Error> {
        let differs =
            |other: &&SourceSpec| other.stream == source.stream && other.aws != source.aws;
        if self.sources.values().any(|other| differs(&other)) {
            return refuse(
                format!(
                    "source.{name} and another source read stream {} by different [aws] settings",
                    source.stream
                ),
                "give the streams by their ARNs",
            );
        }
        for aws in [&self.aws, &source.aws] {
            if let Some(role) = &aws.role_arn
                && !(role.starts_with("arn:") && role.contains(":iam::") && role.contains(":role/"))
            {
                return refuse(
                    format!("{role:?} is not the ARN of a role"),
                    "write it as arn:aws:iam::123456789012:role/NAME",
                );
            }
        }
        Ok(())
    }

    fn check_source(&self, name: &str, source: &SourceSpec) -> Result<(), Error> {
        let is_identifier = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && name.len() <= 63;
        if !is_identifier {
            return refuse(
                format!("source {name:?} can not be a table's name"),
                "use lower-case letters, digits and underscores, not starting with a digit",
            );
        }
        self.check_source_aws(name, source)?;
        if source.stream.trim().is_empty() {
            return refuse(format!("source.{name}.stream is empty"), "name a Kinesis stream");
        }
        if let StartPosition::Kcl(table) = &source.start
            && !is_table(table)
        {
            return refuse(
                format!(
                    "source.{name}.start names the table {table:?}, and no table has that name"
                ),
                "name the lease table of the KCL application: it has the application's name",
            );
        }
        if matches!(source.receivers, Receivers::Count(0)) {
            return refuse(format!("source.{name}.receivers is 0"), "choose at least one receiver");
        }
        if source.storage_level.copies() && self.resources.executors.max < 2 {
            return refuse(
                format!(
                    "source.{name}.storage_level asks for a second copy, and there is one executor"
                ),
                "ask for two executors, or leave the \"_2\" away",
            );
        }
        let declares = !source.columns.is_empty();
        if (source.format == RecordFormat::Json) != declares {
            return refuse(
                format!("source.{name}.schema does not go with its format"),
                "declare the columns for format \"json\"; \"text\" has the column `line`, \
                 \"bytes\" has `data`, and neither takes a schema",
            );
        }
        let mut seen = BTreeSet::new();
        for column in &source.columns {
            if column.name.is_empty() || !seen.insert(column.name.to_lowercase()) {
                return refuse(
                    format!("source.{name}.schema has the column {:?} twice or empty", column.name),
                    "give each column a name of its own (upper and lower case are the same)",
                );
            }
        }
        if source.on_bad_record == BadRecordPolicy::DeadLetter
            && self.sink.dead_letter_path.is_none()
        {
            return refuse(
                format!("source.{name} dead-letters bad records, and there is no place for them"),
                "set sink.dead_letter_path, outside sink.path",
            );
        }
        Ok(())
    }

    fn check_sink(&self) -> Result<(), Error> {
        let sink = &self.sink;
        if sink.format == SinkFormat::Parquet && sink.compression != Compression::None {
            return refuse(
                "sink.compression is for the text formats; parquet compresses itself".into(),
                "leave sink.compression out",
            );
        }
        if sink.max_open_partitions == 0 {
            return refuse("sink.max_open_partitions is 0".into(), "choose at least 1");
        }
        let unique: BTreeSet<_> = sink.partition_by.iter().collect();
        if unique.len() != sink.partition_by.len() {
            return refuse(
                "sink.partition_by names a column twice".into(),
                "name each column once",
            );
        }
        if let Some(dead) = &sink.dead_letter_path
            && (sink.path.contains(dead) || dead.contains(&sink.path))
        {
            return refuse(
                format!("sink.dead_letter_path {dead} and sink.path {} overlap", sink.path),
                "choose a dead-letter path outside the sink's path",
            );
        }
        Ok(())
    }
}

/// True for what may name a table of DynamoDB: a name, or an ARN.
fn is_table(name: &str) -> bool {
    let name = if name.starts_with("arn:") {
        name.rsplit_once(":table/").map_or("", |(_, name)| name)
    } else {
        name
    };
    (3..=255).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn check_cost(key: &str, cost: Resources) -> Result<(), Error> {
    if cost.cores == 0 || cost.cores > CORES_MAX || cost.memory < MEMORY_MIN {
        return refuse(
            format!("resources.{key} is {cost}"),
            "choose 1 to 1024 cores and at least 64MiB",
        );
    }
    Ok(())
}

fn refuse(message: String, next_move: &str) -> Result<(), Error> {
    Err(Error::new(Code::InvalidValue, message, next_move))
}
