//! Lease tables in DynamoDB, and the records that their checkpoints name.
//!
//! Promises: the leases are complete and read consistently, or there is an error; every call has a
//! deadline (the clients'), and passing failures are repeated a few times. Never does: write.

use std::collections::HashMap;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_kinesis::types::{Record, ShardIteratorType};
use millrace_common::aws::{self, Kind, StreamClients};
use millrace_common::error::{Code, Error};
use millrace_common::position::SequenceNumber;
use millrace_common::retry::{self, Backoff};

use super::LeaseTables;
use super::core::{Checkpoint, Found, Lease};
use crate::driver::receivers::core::Stream;
use crate::kpl;

/// Tries per call: an import that fails for longer is worth another attempt.
const TRIES: u32 = 8;
/// Most leases that are taken in: ten times what a stream on request may have in shards.
const LEASES_MAX: usize = 100_000;
/// Empty answers that are followed to find a record: it comes with the first that has any.
const EMPTY_ANSWERS_MAX: u32 = 20;

type Item = HashMap<String, AttributeValue>;
type Attempt<T> = Result<T, (bool, Error)>;

/// The tables of one account and region, and the streams of an application wherever they are.
#[derive(Clone, Debug)]
pub struct AwsLeaseTables {
    tables: aws_sdk_dynamodb::Client,
    streams: StreamClients,
}

impl AwsLeaseTables {
    /// Through these clients.
    #[must_use]
    pub fn new(tables: aws_sdk_dynamodb::Client, streams: StreamClients) -> Self {
        Self { tables, streams }
    }

    async fn page(&self, table: &str, after: Option<&Item>) -> Attempt<(Vec<Item>, Option<Item>)> {
        let scan = self.tables.scan().table_name(table).consistent_read(true);
        let answer = scan.set_exclusive_start_key(after.cloned()).send().await;
        let page = answer.map_err(|error| {
            let kind = aws::kind(&error);
            let resource = format!("the KCL lease table {table}");
            let explained = aws::explain("dynamodb", "Scan", &resource, &error);
            let explained = match kind {
                Kind::Missing => Error::new(
                    Code::TableMissing,
                    format!("{resource} does not exist"),
                    "name the lease table of the KCL application in `start`: it has the \
                     application's name; and see `region` under [aws]",
                ),
                _ => explained,
            };
            (kind.is_transient(), explained)
        })?;
        Ok((page.items.unwrap_or_default(), page.last_evaluated_key))
    }

    async fn iterator(
        &self,
        stream: &Stream,
        shard_id: &str,
        at: SequenceNumber,
    ) -> Attempt<Option<String>> {
        let call = self.streams.of(&stream.arn).get_shard_iterator().stream_arn(&stream.arn);
        let call = call.shard_id(shard_id).starting_sequence_number(at.to_string());
        let answer = call.shard_iterator_type(ShardIteratorType::AtSequenceNumber).send().await;
        match answer {
            Ok(answer) => Ok(answer.shard_iterator),
            Err(error) if aws::error_code(&error) == Some("InvalidArgumentException") => Ok(None),
            Err(error) => {
                let resource = format!("shard {shard_id} of stream {}", stream.name);
                let explained = aws::explain("kinesis", "GetShardIterator", &resource, &error);
                Err((aws::kind(&error).is_transient(), explained))
            }
        }
    }

    /// The first record of an answer, where to go on, and whether there is nothing behind it.
    async fn first(
        &self,
        stream: &Stream,
        shard_id: &str,
        iterator: &str,
    ) -> Attempt<(Option<Record>, Option<String>, bool)> {
        let call = self.streams.of(&stream.arn).get_records().stream_arn(&stream.arn).limit(1);
        let answer = call.shard_iterator(iterator).send().await.map_err(|error| {
            let resource = format!("shard {shard_id} of stream {}", stream.name);
            let explained = aws::explain("kinesis", "GetRecords", &resource, &error);
            (aws::kind(&error).is_transient(), explained)
        })?;
        let is_tip = answer.millis_behind_latest == Some(0);
        Ok((answer.records.into_iter().next(), answer.next_shard_iterator, is_tip))
    }
}

#[async_trait]
impl LeaseTables for AwsLeaseTables {
    async fn leases(&self, table: &str) -> Result<Vec<Lease>, Error> {
        let (mut leases, mut after) = (Vec::new(), None);
        loop {
            let page = || self.page(table, after.as_ref());
            let (items, next) = again(page).await?;
            for item in &items {
                leases.extend(lease(table, item)?);
            }
            if leases.len() > LEASES_MAX {
                return Err(no_lease_table(table, &format!("has more than {LEASES_MAX} rows")));
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(leases),
            }
        }
    }

    async fn look(
        &self,
        stream: &Stream,
        shard_id: &str,
        at: SequenceNumber,
    ) -> Result<Found, Error> {
        let Some(mut iterator) = again(|| self.iterator(stream, shard_id, at)).await? else {
            return Ok(Found::NeverThere);
        };
        for empty in 0..EMPTY_ANSWERS_MAX {
            if empty > 0 {
                // A shard takes five calls a second.
                tokio::time::sleep(Backoff::CALL.base * 5).await;
            }
            let (record, next, is_tip) = again(|| self.first(stream, shard_id, &iterator)).await?;
            if let Some(record) = record {
                return Ok(found(&record, at));
            }
            match next {
                Some(next) if !is_tip => iterator = next,
                _ => break,
            }
        }
        Ok(Found::Trimmed)
    }
}

async fn again<T, F: Future<Output = Attempt<T>>>(call: impl FnMut() -> F) -> Result<T, Error> {
    let is_passing = |(passing, _): &(bool, Error)| *passing;
    retry::call(Backoff::CALL, TRIES, is_passing, call).await.map_err(|(_, error)| error)
}

fn found(record: &Record, at: SequenceNumber) -> Found {
    if record.sequence_number.parse::<SequenceNumber>().ok() != Some(at) {
        return Found::Trimmed;
    }
    // The KCL gives either all user records of an aggregate or, when one is out of range, none.
    let aggregate = kpl::split(record.data.as_ref(), None);
    Found::UserRecords(aggregate.map_or(1, |aggregate| aggregate.records.len().max(1)))
}

/// A row as a lease; none for rows of another kind in the same table.
fn lease(table: &str, item: &Item) -> Result<Option<Lease>, Error> {
    let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok());
    let number = |name: &str| item.get(name).and_then(|value| value.as_n().ok());
    if text("entityType").is_some_and(|kind| kind != "LEASE") {
        return Ok(None);
    }
    let Some(key) = text("leaseKey") else {
        return Err(no_lease_table(table, "has a row without leaseKey"));
    };
    let checkpoint = text("checkpoint").and_then(|text| Checkpoint::parse(text));
    let Some(checkpoint) = checkpoint else {
        return Err(no_lease_table(table, &format!("has no checkpoint in the lease {key}")));
    };
    let sub_sequence_number = match number("checkpointSubSequenceNumber").map(|n| n.parse()) {
        None => 0,
        Some(Ok(number)) => number,
        Some(Err(_)) => {
            let what = format!("has no sub-sequence number in the lease {key}");
            return Err(no_lease_table(table, &what));
        }
    };
    let owner = text("leaseOwner").or_else(|| text("checkpointOwner"));
    Ok(Some(Lease {
        key: key.clone(),
        owner: owner.filter(|owner| !owner.is_empty()).cloned(),
        counter: number("leaseCounter").cloned().unwrap_or_default(),
        checkpoint,
        sub_sequence_number,
    }))
}

fn no_lease_table(table: &str, what: &str) -> Error {
    Error::new(
        Code::KclCheckpoint,
        format!("the table {table} is no KCL lease table: it {what}"),
        "name the lease table of the KCL application: it has the application's name",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(pairs: &[(&str, AttributeValue)]) -> Item {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn s(text: &str) -> AttributeValue {
        AttributeValue::S(text.into())
    }

    #[test]
    fn rows_of_every_version_become_leases() {
        let old = item(&[
            ("leaseKey", s("shardId-000000000000")),
            ("leaseOwner", s("worker-1")),
            ("leaseCounter", AttributeValue::N("17".into())),
            ("checkpoint", s("4957")),
            ("checkpointSubSequenceNumber", AttributeValue::N("3".into())),
        ]);
        let found = lease("t", &old).unwrap().unwrap();
        assert_eq!((found.owner.as_deref(), &*found.counter), (Some("worker-1"), "17"));
        assert_eq!(found.sub_sequence_number, 3);
        assert_eq!(found.checkpoint, Checkpoint::Number("4957".parse().unwrap()));
        let free = item(&[
            ("entityType", s("LEASE")),
            ("leaseKey", s("1:logs:2:shardId-000000000000")),
            ("checkpoint", s("SHARD_END")),
        ]);
        let found = lease("t", &free).unwrap().unwrap();
        assert_eq!((found.owner, found.checkpoint), (None, Checkpoint::ShardEnd));
        let handed = item(&[
            ("leaseKey", s("a")),
            ("checkpoint", s("LATEST")),
            ("checkpointOwner", s("worker-2")),
        ]);
        assert_eq!(lease("t", &handed).unwrap().unwrap().owner.as_deref(), Some("worker-2"));
    }

    #[test]
    fn other_rows_are_passed_over_and_other_tables_refused() {
        let metrics = item(&[("entityType", s("WORKER_METRICS")), ("wid", s("w"))]);
        assert_eq!(lease("t", &metrics).unwrap(), None);
        for wrong in [
            item(&[("pk", s("application#a"))]),
            item(&[("leaseKey", s("a"))]),
            item(&[("leaseKey", s("a")), ("checkpoint", s("SOON"))]),
            item(&[
                ("leaseKey", s("a")),
                ("checkpoint", s("1")),
                ("checkpointSubSequenceNumber", AttributeValue::N("-1".into())),
            ]),
        ] {
            let error = lease("t", &wrong).unwrap_err();
            assert_eq!(error.code(), Code::KclCheckpoint, "{error}");
        }
    }
}
