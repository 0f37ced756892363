//! The streams: each right that reading needs, their state, and how they distribute records.

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::{RecordDistributionStrategy, ShardIteratorType, StreamStatus};
use millrace_common::application::{OutOfRangePolicy, SourceSpec};
use millrace_common::aws::rights::account_of;
use millrace_common::aws::{Kind, ServerDate, kind};

use super::{ACCOUNT_UNKNOWN, Finding, Trial, Verdict, roles, send};

const DESCRIBE: &str = "kinesis:DescribeStreamSummary";
const LIST: &str = "kinesis:ListShards";
const ITERATOR: &str = "kinesis:GetShardIterator";
const RECORDS: &str = "kinesis:GetRecords";

/// The first shard of every stream is called so; it is asked for where shards can not be listed.
const FIRST_SHARD: &str = "shardId-000000000000";

/// The metadata column that means something only where records go by their keys.
const KEY_COLUMN: &str = "_partition_key";

impl Trial<'_> {
    /// Tries every stream once, however many sources read it.
    pub(super) async fn streams(&mut self) {
        for (name, source) in &self.spec.sources {
            self.stream(name, source).await;
        }
    }

    async fn stream(&mut self, name: &str, source: &SourceSpec) {
        let subject = format!("stream {}", source.stream);
        if self.is_denied_its_role(source) {
            self.add(&subject, DESCRIBE, Verdict::Untried, "its role can not be assumed");
            return;
        }
        let arn = self.arns.stream(source);
        // As the file names it: an ARN may be of another account.
        let name_only = (arn != source.stream).then(|| source.stream.clone());
        let kinesis = self.streams.of(&source.stream).clone();
        self.region(&subject, &arn, &kinesis);
        let date = ServerDate::new();
        let describe = || {
            let call = kinesis.describe_stream_summary().set_stream_name(name_only.clone());
            let call = call.set_stream_arn(name_only.is_none().then(|| arn.clone()));
            call.customize().interceptor(date.clone()).send()
        };
        let answer = send(describe).await;
        self.clock(date.get_ms());
        let summary = self.judge(&subject, DESCRIBE, answer);
        let is_known = account_of(&arn) != Some(ACCOUNT_UNKNOWN);
        let mut arn = is_known.then_some(arn);
        if let Some(summary) = summary.and_then(|answer| answer.stream_description_summary) {
            self.status(&subject, &summary.stream_status);
            arn = Some(summary.stream_arn);
            if summary.record_distribution_strategy == Some(RecordDistributionStrategy::Auto) {
                for warning in of_auto_stream(name, source, &self.spec.query.sql) {
                    self.add(&subject, "distribution", Verdict::Warning, warning);
                }
            }
        }

        let by_name = arn.is_none().then(|| source.stream.clone());
        let answer = send(|| {
            let call = kinesis.list_shards().set_stream_arn(arn.clone()).max_results(1);
            call.set_stream_name(by_name.clone()).send()
        })
        .await;
        let listed = self.judge(&subject, LIST, answer).and_then(|answer| answer.shards);
        let shard = listed.and_then(|shards| shards.into_iter().next());
        let shard = shard.map_or_else(|| FIRST_SHARD.to_owned(), |shard| shard.shard_id);

        let answer = send(|| {
            let call = kinesis.get_shard_iterator().set_stream_arn(arn.clone()).shard_id(&shard);
            let call = call.set_stream_name(by_name.clone());
            call.shard_iterator_type(ShardIteratorType::Latest).send()
        })
        .await;
        let iterator = match answer {
            // That the shard is looked for shows the right; it need not be the stream's first.
            Err(error) if kind(&error) == Kind::Missing => {
                self.add(&subject, ITERATOR, Verdict::Ok, "");
                None
            }
            answer => self.judge(&subject, ITERATOR, answer).and_then(|a| a.shard_iterator),
        };
        let Some(iterator) = iterator else {
            self.add(&subject, RECORDS, Verdict::Untried, "there is no iterator to try it with");
            return;
        };
        // Where an endpoint knows no dry run, one record is read, which takes nothing away.
        let answer = send(|| {
            let call = kinesis.get_records().set_stream_arn(arn.clone()).shard_iterator(&iterator);
            call.limit(1).dry_run(true).send()
        })
        .await;
        self.judge(&subject, RECORDS, answer);
    }

    fn is_denied_its_role(&self, source: &SourceSpec) -> bool {
        let Some(role) = &source.aws.role_arn else { return false };
        let subject = roles::subject(role);
        let is_of = |finding: &&Finding| finding.subject == subject;
        self.findings.iter().find(is_of).is_some_and(|found| found.verdict != Verdict::Ok)
    }

    /// A stream that is given by ARN may lie elsewhere than its source is told to look.
    fn region(&mut self, subject: &str, arn: &str, kinesis: &Client) {
        let region = arn.split(':').nth(3).unwrap_or_default();
        let here = kinesis.config().region().map(ToString::to_string).unwrap_or_default();
        if region != here {
            let detail = format!("it is in {region}, and its source reads from {here}");
            self.add(subject, "region", Verdict::Failed, detail);
        }
    }

    fn status(&mut self, subject: &str, status: &StreamStatus) {
        let verdict = match status {
            StreamStatus::Active | StreamStatus::Updating => Verdict::Ok,
            _ => Verdict::Failed,
        };
        self.add(subject, "status", verdict, status.as_str());
    }
}

/// What may surprise about a stream that distributes records by itself and not by their keys.
fn of_auto_stream(name: &str, source: &SourceSpec, sql: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    if sql.to_ascii_lowercase().contains(KEY_COLUMN) {
        warnings.push(format!(
            "its distribution is AUTO: records of one {KEY_COLUMN} lie in any shard and in no \
             order, and a record may have no key"
        ));
    }
    if source.out_of_range == OutOfRangePolicy::Drop {
        warnings.push(format!(
            "its distribution is AUTO, so that any KPL record may lie outside its shard's range: \
             source.{name}.out_of_range = \"drop\" loses those; use \"auto\""
        ));
    }
    if warnings.is_empty() {
        warnings.push(
            "its distribution is AUTO: KPL records are delivered wherever they lie, so a KPL that \
             sends records again makes duplicates"
                .to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use millrace_common::application::parse_toml;

    use super::*;

    fn warnings(line: &str, sql: &str) -> Vec<String> {
        let text = format!(
            "name = \"a\"\n[source.logs]\nstream = \"s\"\nformat = \"text\"\n{line}\n[query]\n\
             sql = \"{sql}\"\n[sink]\npath = \"s3://results/a/\"\n"
        );
        let spec = parse_toml("app.toml", &text, &[]).unwrap();
        of_auto_stream("logs", &spec.sources["logs"], &spec.query.sql)
    }

    #[test]
    fn keyed_use_and_dropping_are_warned_of_on_an_auto_stream() {
        let keyed = warnings("", "SELECT _PARTITION_KEY FROM logs");
        assert!(keyed[0].contains("in any shard and in no order"), "{keyed:?}");
        let dropping = warnings("out_of_range = \"drop\"", "SELECT line FROM logs");
        assert!(dropping[0].contains("source.logs.out_of_range"), "{dropping:?}");
        let plain = warnings("", "SELECT line FROM logs");
        assert_eq!(plain.len(), 1);
        assert!(plain[0].contains("KPL"), "{plain:?}");
    }
}
