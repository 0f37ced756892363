//! What mends a cause: the commands, with the names and numbers of this application in them.
//!
//! Promises: a line for every cause, with at least one command in backticks. Owned by the parent.
//! Never does: name a command that `millrace --help`, or AWS's own command line, does not have.

use millrace_common::error::Code;
use millrace_common::resources::ByteSize;
use millrace_proto::v1;
use millrace_proto::v1::CauseKind as Kind;

use super::{Facts, Wait};

/// A batch interval that is proposed leaves this much room over what batches take now.
const ROOM_PERCENT: u64 = 125;

impl Facts<'_> {
    /// How to hand the file in again with these settings, and in the place of what runs.
    pub(super) fn resubmit(&self, settings: &str) -> String {
        let upgrade = if self.is_live() { " --upgrade" } else { "" };
        let space = if settings.is_empty() { "" } else { " " };
        format!("`millrace submit FILE{upgrade}{space}{settings}`")
    }

    /// What an application does when the cause is gone: it goes on, or has to be started.
    fn afterwards(&self) -> String {
        match self.is_live() {
            true => "it goes on by itself".to_owned(),
            false => format!("then {}", self.resubmit("")),
        }
    }

    pub(super) fn read_logs(&self, container_id: &str) -> String {
        let container = match container_id {
            "" => String::new(),
            id => format!(" --container {id}"),
        };
        format!("`millrace logs {}{container}`", self.name())
    }

    /// What mends a container that held more memory than it was granted.
    pub(super) fn mend_memory(&self, status: &v1::ContainerStatus) -> String {
        let key = match status.kind() {
            v1::ContainerKind::Driver => "resources.driver.memory",
            _ => "resources.executor.memory",
        };
        let granted = status.resources.unwrap_or_default().memory_bytes;
        let more = ByteSize::bytes(granted.saturating_mul(2));
        format!("give it more: {}", self.resubmit(&format!("--set {key}={more}")))
    }

    /// What mends a lack of places.
    pub(super) fn mend_wait(&self, wait: &Wait) -> String {
        let worker = format!("`millrace-worker node --master {}", self.cluster.address);
        if let Some(first) = &wait.behind {
            return format!("see what {first} waits for: `millrace why {first}`");
        }
        match wait.lack {
            Kind::NoNodes => format!(
                "see `millrace nodes`; end the drain of one: `millrace node undrain NODE`, or start a \
                 worker: {worker}`"
            ),
            Kind::Labels => format!(
                "start a worker that has it: {worker}{}`, or change `node_selector` and {}",
                self.labels(),
                self.resubmit("")
            ),
            Kind::Queue => format!(
                "wait for what runs there (`millrace queues`), submit to another: {}, or raise its \
                 `cap` in the master's configuration",
                self.resubmit("--set queue=NAME")
            ),
            Kind::MasterStarting => {
                "wait 15 s at most: `millrace nodes` shows who is back".to_owned()
            }
            _ => match self.largest_holder() {
                Some(holder) => format!(
                    "start another worker: {worker}`, or free what {holder} holds: `millrace scale \
                     {holder} --executors N` or `millrace stop {holder}`"
                ),
                None => format!(
                    "start another worker: {worker}`, or ask for less: `millrace plan FILE` names \
                     the smallest change"
                ),
            },
        }
    }

    fn labels(&self) -> String {
        let wanted = self.spec().map(|spec| spec.node_selector.as_slice()).unwrap_or_default();
        let flag = |one: &v1::LabelRequirement| {
            let value = one.values.first().map(String::as_str).unwrap_or_default();
            format!(" --label {}={value}", one.label)
        };
        wanted.iter().map(flag).collect()
    }

    /// What mends a failure that says itself what to do, with the commands to it.
    pub(super) fn mend_failure(&self, kind: Kind, failure: &v1::Failure) -> String {
        let said = &failure.next_move;
        let then = self.afterwards();
        let with = |commands: String| {
            if said.is_empty() { commands } else { format!("{said}; {commands}") }
        };
        match kind {
            Kind::ShardThrottled => self.mend_throttled_shard(failure),
            Kind::Stream => self.mend_stream(failure),
            Kind::DataLost => format!(
                "begin anew where records are: `millrace reset {} --to earliest`, {}; or pass over \
                 the gap: {}",
                self.name(),
                self.afterwards(),
                self.resubmit(&format!(
                    "--set source.{}.on_data_loss=continue",
                    self.source_of(&failure.message).map_or("NAME", |source| &source.name)
                ))
            ),
            Kind::TableThrottled => format!(
                "raise the table's limits: `aws dynamodb update-table --table-name {} \
                 --billing-mode PAY_PER_REQUEST`; {then}",
                self.cluster.table
            ),
            Kind::Table if failure.code == Code::TableMissing.as_str() => {
                with(format!("`millrace init --table {}`; {then}", self.cluster.table))
            }
            Kind::Bucket if failure.code == Code::BucketMissing.as_str() => {
                with(format!("`millrace init --bucket {}`; {then}", self.bucket()))
            }
            Kind::Forbidden => with(format!(
                "`millrace preflight FILE` tries every right, `millrace policy FILE` prints them; \
                 {then}"
            )),
            Kind::Credentials => with(format!(
                "`aws sts get-caller-identity` on {} tells who calls; {then}",
                self.nodes()
            )),
            Kind::ClockSkew => format!(
                "set the clock of {}: `chronyc makestep` there; `millrace preflight FILE` compares \
                 it with AWS's; {then}",
                self.nodes()
            ),
            Kind::Region => format!(
                "name the region: {}, or use a bucket in the application's own; `millrace preflight \
                 FILE` shows where each is",
                self.resubmit("--set aws.region=REGION")
            ),
            Kind::AwsUnreachable => {
                with(format!("`millrace preflight FILE` tries each place; {then}"))
            }
            Kind::NameTaken => format!(
                "take another name: {}; or end it there for good: {said}",
                self.resubmit("--set name=OTHER")
            ),
            Kind::PoisonBatch => with(format!(
                "{} shows each run; {}",
                self.read_logs(""),
                match failure.code == Code::BadRecord.as_str() {
                    true => self.resubmit("--set source.NAME.on_bad_record=dead_letter"),
                    false => self.afterwards(),
                }
            )),
            Kind::Specification => {
                with(format!("`millrace explain FILE` checks it; then {}", self.resubmit("")))
            }
            Kind::NoCores => with("`millrace plan FILE` names the smallest change".to_owned()),
            _ => with(format!("{} has the rest", self.read_logs(""))),
        }
    }

    fn mend_throttled_shard(&self, failure: &v1::Failure) -> String {
        let (stream, num_shards) = self.stream_of(&failure.message);
        format!(
            "end what else reads it, for all readers share its 5 calls and 2 MiB a second, or give \
             the stream more shards: `aws kinesis update-shard-count --stream-name {stream} \
             --target-shard-count {} --scaling-type UNIFORM_SCALING`; it goes on by itself",
            num_shards.saturating_mul(2)
        )
    }

    fn mend_stream(&self, failure: &v1::Failure) -> String {
        let (stream, num_shards) = self.stream_of(&failure.message);
        let look = format!("`aws kinesis describe-stream-summary --stream-name {stream}`");
        if failure.code != Code::StreamMissing.as_str() {
            return format!("{}; {look} tells its state; {}", failure.next_move, self.afterwards());
        }
        let make = format!(
            "make it: `aws kinesis create-stream --stream-name {stream} --shard-count {num_shards}`"
        );
        match self.batches.is_empty() {
            true => format!(
                "{make}, or correct `stream` or the region (`millrace preflight FILE` compares \
                 them); {}",
                self.afterwards()
            ),
            // Positions in the old stream mean nothing in the new one.
            false => format!(
                "{make}, give the old positions up: `millrace reset {} --to earliest`, {}",
                self.name(),
                self.afterwards()
            ),
        }
    }

    /// What mends a shard that has more than one reader may take.
    pub(super) fn mend_hot(&self, shard: &v1::LateShard) -> String {
        let v1::LateShard { stream, shard_id, split_at, .. } = shard;
        format!(
            "split it: `aws kinesis split-shard --stream-name {stream} --shard-to-split {shard_id} \
             --new-starting-hash-key {split_at}`, or spread the producers' partition keys: more \
             executors do not help"
        )
    }

    /// What mends batches that take too long.
    pub(super) fn mend_pace(&self, took_ms: u64, is_sink: bool) -> String {
        let interval = self.resubmit(&format!("--set batch.interval={}", longer(took_ms)));
        if is_sink {
            return format!(
                "see to the bucket and the way to it; fewer and larger files help: {interval}, \
                 `sink.files_per_batch`, or no `partition_by` of many values"
            );
        }
        format!("raise the interval: {interval}, or give it more cores: {}", self.scale())
    }

    /// How to give it half as many executors again.
    pub(super) fn scale(&self) -> String {
        let num = self.application.num_executors.max(1);
        format!("`millrace scale {} --executors {}`", self.name(), num + num.div_ceil(2))
    }

    /// The source that a message is about: whose shard or stream it names, else the first.
    fn source_of(&self, message: &str) -> Option<&v1::SourceSpec> {
        let sources = &self.spec()?.sources;
        let shard = |source: &&v1::SourceSpec| message.contains(&format!("{}/", source.name));
        let stream = |source: &&v1::SourceSpec| message.contains(source.stream.as_str());
        let named = sources.iter().find(shard).or_else(|| sources.iter().find(stream));
        named.or_else(|| sources.first())
    }

    /// The stream of that source, and how many shards of it are read; at least one.
    fn stream_of(&self, message: &str) -> (String, usize) {
        let Some(source) = self.source_of(message) else { return ("NAME".to_owned(), 1) };
        let receivers = self.application.report.iter().flat_map(|report| &report.receivers);
        let of_it = receivers.filter(|receiver| receiver.source == source.name);
        let num_shards = of_it.map(|receiver| receiver.shards.len()).sum::<usize>();
        // An ARN ends with the stream's name.
        let name = source.stream.rsplit('/').next().unwrap_or_default().to_owned();
        (name, num_shards.max(1))
    }

    fn bucket(&self) -> &str {
        let path = self.spec().and_then(|spec| spec.sink.as_ref()).map(|sink| sink.path.as_str());
        let path = path.unwrap_or_default().trim_start_matches("s3://");
        path.split('/').next().unwrap_or_default()
    }

    /// The nodes it is on, or was last.
    fn nodes(&self) -> String {
        let executors = self.application.report.iter().flat_map(|report| &report.executors);
        let mut nodes: Vec<&str> = executors.map(|executor| executor.node_id.as_str()).collect();
        let attempts = self.application.attempts.last();
        nodes.extend(attempts.map(|attempt| attempt.node_id.as_str()));
        nodes.sort_unstable();
        nodes.dedup();
        if nodes.is_empty() { "its nodes".to_owned() } else { nodes.join(", ") }
    }
}

/// A round interval above `took_ms`, as a file has it.
fn longer(took_ms: u64) -> String {
    let wanted_ms = took_ms.saturating_mul(ROOM_PERCENT) / 100;
    match wanted_ms {
        0..1_000 => format!("{}ms", wanted_ms.div_ceil(100) * 100),
        _ => format!("{}s", wanted_ms.div_ceil(1_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_round_and_above_what_batches_take() {
        assert_eq!(longer(350), "500ms");
        assert_eq!(longer(790), "1000ms");
        assert_eq!(longer(1_600), "2s");
        assert_eq!(longer(60_000), "75s");
    }
}
