//! Every key of an application with its effective value and where that comes from.
//!
//! Promises: no key is left out, and no value is shown that people expect to be hidden.

use std::collections::BTreeMap;

use serde::Serialize;

use super::spec::{ApplicationSpec, SourceSpec};
use crate::aws::AwsSettings;
use crate::secrets;

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EffectiveKey {
    /// As in the file, `batch.interval`.
    pub key: String,
    /// Its value as text; empty for "not set".
    pub value: String,
    /// `default`, `file app.toml`, `flag --set`, ...
    pub origin: String,
}

/// Where a value comes from that nobody gave.
pub const DEFAULT_ORIGIN: &str = "default";

impl ApplicationSpec {
    /// Every key, in the order of the file.
    #[must_use]
    pub fn effective(&self) -> Vec<EffectiveKey> {
        let mut keys = Keys { origins: &self.origins, found: Vec::new() };
        keys.add("name", &self.name);
        keys.add("queue", &self.queue);
        for (index, argument) in self.args.iter().enumerate() {
            keys.add(&format!("args[{index}]"), argument);
        }
        let resources = &self.resources;
        keys.add("resources.executors.min", resources.executors.min);
        keys.add("resources.executors.max", resources.executors.max);
        for (name, time) in [
            ("grow_after", resources.executors.grow_after),
            ("shrink_after", resources.executors.shrink_after),
        ] {
            keys.add(&format!("resources.executors.{name}"), humantime::format_duration(time));
        }
        for (name, cost) in [("executor", resources.executor), ("driver", resources.driver)] {
            keys.add(&format!("resources.{name}.cores"), cost.cores);
            keys.add(&format!("resources.{name}.memory"), cost.memory);
        }
        keys.add("resources.node_selector", &resources.node_selector);
        for (name, value) in &self.env {
            keys.add_hidden(&format!("env.{name}"), name, value);
        }
        for (name, param) in &self.params {
            let typed = format!("{} ({})", shown(name, &param.value), param.data_type);
            keys.add(&format!("params.{name}"), typed);
        }
        keys.add("batch.interval", humantime::format_duration(self.batch.interval));
        keys.add("batch.deadline", humantime::format_duration(self.batch.deadline));
        for (name, source) in &self.sources {
            keys.source(&format!("source.{name}"), source);
        }
        keys.add("query.sql", &self.query.sql);
        let sink = &self.sink;
        keys.add("sink.type", "s3");
        keys.add("sink.path", &sink.path);
        keys.add("sink.format", word(sink.format));
        keys.add("sink.compression", word(sink.compression));
        keys.add("sink.partition_by", sink.partition_by.join(", "));
        keys.add("sink.files_per_batch", sink.files_per_batch);
        keys.add("sink.max_open_partitions", sink.max_open_partitions);
        let dead = sink.dead_letter_path.as_ref().map(ToString::to_string);
        keys.add("sink.dead_letter_path", dead.unwrap_or_default());
        keys.aws("aws", &self.aws);
        let dropped: Vec<_> = self.drop_sources.iter().map(String::as_str).collect();
        keys.add("drop_sources", dropped.join(", "));
        keys.found
    }
}

struct Keys<'a> {
    origins: &'a BTreeMap<String, String>,
    found: Vec<EffectiveKey>,
}

impl Keys<'_> {
    fn add(&mut self, key: &str, value: impl ToString) {
        let origin = origin_of(self.origins, key).to_owned();
        self.found.push(EffectiveKey { key: key.to_owned(), value: value.to_string(), origin });
    }

    fn add_hidden(&mut self, key: &str, name: &str, value: &str) {
        self.add(key, shown(name, value));
    }

    fn source(&mut self, at: &str, source: &SourceSpec) {
        self.add(&format!("{at}.type"), "kinesis");
        self.add(&format!("{at}.stream"), &source.stream);
        self.add(&format!("{at}.start"), &source.start);
        let receivers = match source.receivers {
            super::Receivers::PerExecutor => "per_executor".to_owned(),
            super::Receivers::PerShard => "per_shard".to_owned(),
            super::Receivers::Count(count) => count.to_string(),
        };
        self.add(&format!("{at}.receivers"), receivers);
        self.add(&format!("{at}.storage_level"), word(source.storage_level));
        self.add(&format!("{at}.format"), word(source.format));
        self.add(&format!("{at}.on_bad_record"), word(source.on_bad_record));
        self.add(&format!("{at}.on_data_loss"), word(source.on_data_loss));
        self.add(&format!("{at}.out_of_range"), word(source.out_of_range));
        for column in &source.columns {
            self.add(&format!("{at}.schema.{}", column.name), &column.data_type);
        }
        self.aws(&format!("{at}.aws"), &source.aws);
    }

    fn aws(&mut self, at: &str, aws: &AwsSettings) {
        let AwsSettings { region, endpoint, profile, role_arn } = aws;
        let keys = [
            ("region", region),
            ("endpoint", endpoint),
            ("profile", profile),
            ("role_arn", role_arn),
        ];
        for (name, value) in keys {
            self.add(&format!("{at}.{name}"), value.clone().unwrap_or_default());
        }
    }
}

/// The word of the file for a value of a typed enum: `MemoryAndDisk2` is `memory_and_disk_2`.
fn word(value: impl std::fmt::Debug) -> String {
    let mut word = String::new();
    for c in format!("{value:?}").chars() {
        if (c.is_ascii_uppercase() || c.is_ascii_digit()) && !word.is_empty() {
            word.push('_');
        }
        word.push(c.to_ascii_lowercase());
    }
    word
}

/// A value as it may be shown: references stand for themselves.
#[must_use]
pub fn shown(name: &str, value: &str) -> String {
    if secrets::is_secret_name(name) && !value.starts_with(secrets::SCHEME) {
        return secrets::CONCEALED.to_owned();
    }
    value.to_owned()
}

/// The origin of a key: its own, or that of the table that holds it.
#[must_use]
pub fn origin_of<'a>(origins: &'a BTreeMap<String, String>, key: &str) -> &'a str {
    let mut at = key;
    loop {
        if let Some(origin) = origins.get(at) {
            return origin;
        }
        match at.rfind(['.', '[']) {
            Some(end) => at = &at[..end],
            None => return DEFAULT_ORIGIN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::{Changes, parse_with};
    use super::*;

    const FILE: &str = r#"
name = "a"
args = ["x"]
[resources]
executors = 2
[env]
TOKEN = "open"
SAFE = "secret://env/SAFE"
PLAIN = "shown"
[params]
n = 5
[source.logs]
stream = "s"
storage_level = "memory_and_disk_2"
schema = { "user.id" = "long" }
[source.logs.aws]
region = "eu-west-1"
[query]
sql = "SELECT 1"
[sink]
path = "s3://results/a/"
"#;

    #[test]
    fn each_key_has_its_value_and_its_origin() {
        let changes = Changes {
            settings: vec!["batch.interval=1s".to_owned(), "env.PLAIN=new".to_owned()],
            params: vec!["n=7".to_owned()],
        };
        let spec = parse_with("app.toml", FILE, &changes).unwrap();
        let keys = spec.effective();
        let is = |key: &str, value: &str, origin: &str| {
            let found = keys.iter().find(|found| found.key == key).unwrap();
            assert_eq!((found.value.as_str(), found.origin.as_str()), (value, origin), "{key}");
        };
        is("name", "a", "file app.toml");
        is("args[0]", "x", "file app.toml");
        is("resources.executors.min", "2", "file app.toml");
        is("resources.driver.cores", "1", "default");
        is("env.TOKEN", "[secret]", "file app.toml");
        is("env.SAFE", "secret://env/SAFE", "file app.toml");
        is("env.PLAIN", "new", "flag --set");
        is("params.n", "7 (long)", "flag --param");
        is("batch.interval", "1s", "flag --set");
        is("batch.deadline", "10m", "default");
        is("source.logs.storage_level", "memory_and_disk_2", "file app.toml");
        is("source.logs.start", "latest", "default");
        is("source.logs.schema.user.id", "long", "file app.toml");
        is("source.logs.aws.region", "eu-west-1", "file app.toml");
        is("sink.format", "json", "default");
        let over_the_wire = ApplicationSpec::from_proto(&spec.to_proto()).unwrap();
        assert_eq!(over_the_wire.effective(), keys);
    }
}
