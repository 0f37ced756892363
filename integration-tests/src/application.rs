//! Application files as the tests submit them: the word count over text lines, with the parts that
//! tests vary as fields.

use std::fmt::Write as _;

/// The word count over plain lines, as SQL.
pub const WORD_COUNT: &str = "SELECT word, count(*) AS n FROM \
    (SELECT unnest(string_to_array(line, ' ')) AS word FROM logs) GROUP BY word";

/// Every record of a source of format `bytes` by its name, with a hash of its payload: what
/// [`checker`](crate::checker) holds against the stream.
pub const EVERY_RECORD: &str = "SELECT 'logs' AS source, _shard_id AS shard, \
    _sequence_number AS seq, _sub_sequence_number AS sub, encode(sha256(data), 'hex') AS sha256 \
    FROM logs";

/// What an application file says; [`File::default`] is a word count that fits on any test cluster.
#[derive(Clone, Debug)]
pub struct File {
    /// Its name.
    pub name: &'static str,
    /// Number of executors.
    pub executors: u32,
    /// Cores of each executor.
    pub executor_cores: u32,
    /// Memory of each executor.
    pub executor_memory: &'static str,
    /// `[env]`.
    pub env: Vec<(&'static str, String)>,
    /// Arguments of driver and executors.
    pub args: Vec<&'static str>,
    /// Batch interval.
    pub interval: &'static str,
    /// Kinesis stream.
    pub stream: &'static str,
    /// Start position.
    pub start: &'static str,
    /// Receivers as TOML: `"per_executor"`, `"per_shard"` or a number.
    pub receivers: &'static str,
    /// Format of the records.
    pub format: &'static str,
    /// The query.
    pub sql: &'static str,
    /// `s3://bucket/prefix/`.
    pub path: &'static str,
    /// More lines for the source's table, as `on_data_loss = "continue"`.
    pub source: &'static str,
    /// Lines at the top, as `queue = "etl"`.
    pub top: &'static str,
    /// What `executors` is instead of a number, as `{ min = 1, max = 3 }`.
    pub range: &'static str,
    /// More lines for `[resources]`, as `node_selector = { zone = "a" }`.
    pub resources: &'static str,
    /// Lines for the sink's table, as `compression = "gzip"`; JSON lines is the default format.
    pub sink: &'static str,
}

impl Default for File {
    fn default() -> Self {
        Self {
            name: "word-count",
            executors: 2,
            executor_cores: 1,
            executor_memory: "512MiB",
            env: Vec::new(),
            args: Vec::new(),
            interval: "1s",
            stream: "lines",
            start: "earliest",
            receivers: "\"per_executor\"",
            format: "text",
            sql: WORD_COUNT,
            path: "s3://results/word-count/",
            source: "",
            top: "",
            range: "",
            resources: "",
            sink: "",
        }
    }
}

impl File {
    /// The application whose output can be checked record by record: it has no shuffle and takes
    /// any payload.
    #[must_use]
    pub fn every_record() -> Self {
        Self {
            name: "every-record",
            format: "bytes",
            sql: EVERY_RECORD,
            path: "s3://results/every-record/",
            ..Self::default()
        }
    }

    /// The file's text.
    #[must_use]
    pub fn toml(&self) -> String {
        let mut env = String::new();
        for (name, value) in &self.env {
            writeln!(env, "{name} = {}", quoted(value)).expect("a string takes all text");
        }
        let args: Vec<String> = self.args.iter().map(|argument| quoted(argument)).collect();
        format!(
            "name = {name}\nargs = [{args}]\n{top}\n\n\
             [resources]\nexecutors = {executors}\n{resources}\n\
             executor = {{ cores = {cores}, memory = {memory} }}\n\
             driver = {{ cores = 1, memory = \"256MiB\" }}\n\n\
             [env]\n{env}\n\
             [batch]\ninterval = {interval}\n\n\
             [source.logs]\ntype = \"kinesis\"\nstream = {stream}\nstart = {start}\n\
             receivers = {receivers}\nformat = {format}\n{source}\n\n\
             [query]\nsql = {sql}\n\n\
             [sink]\ntype = \"s3\"\npath = {path}\n{sink}\n",
            name = quoted(self.name),
            args = args.join(", "),
            top = self.top,
            resources = self.resources,
            executors = match self.range {
                "" => self.executors.to_string(),
                range => range.to_owned(),
            },
            cores = self.executor_cores,
            memory = quoted(self.executor_memory),
            interval = quoted(self.interval),
            stream = quoted(self.stream),
            start = quoted(self.start),
            receivers = self.receivers,
            format = quoted(self.format),
            sql = quoted(self.sql),
            path = quoted(self.path),
            source = self.source,
            sink = self.sink,
        )
    }
}

/// A TOML basic string. JSON's escapes are TOML's for all text that tests use.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_what_its_fields_say() {
        let file = File {
            env: vec![("GREETING", "a \"b\"\n= c".to_owned())],
            args: vec!["--x=1", " \t'"],
            ..File::default()
        };
        let text = file.toml();
        assert!(text.contains(r#"GREETING = "a \"b\"\n= c""#), "{text}");
        assert!(text.contains(r#"args = ["--x=1", " \t'"]"#), "{text}");
    }
}
