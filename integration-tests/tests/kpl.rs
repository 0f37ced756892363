//! KPL aggregates of an independent library (PyPI `aws-kinesis-agg`) come apart as they were put
//! together: keys, explicit hash keys, payloads, places.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::path::PathBuf;
use std::time::Duration;

use millrace_common::position::HashKeyRange;
use millrace_integration_tests::command::{base_environment, run};
use millrace_integration_tests::dataset::repository_root;
use millrace_integration_tests::{ministack, skip};
use millrace_worker::kpl;
use serde::Deserialize;

const PATIENCE: Duration = Duration::from_secs(120);

/// A line of `kpl_aggregates.py`.
#[derive(Deserialize)]
struct Golden {
    aggregate: String,
    /// Partition key, explicit hash key, payload in hex.
    records: Vec<(String, Option<String>, String)>,
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

/// The interpreter with the library, or none with a loud note.
async fn python(test: &str) -> Option<PathBuf> {
    let python = ministack::python(test)?;
    let arguments = ["-c", "import aws_kinesis_agg"];
    if run(&python, &arguments, &base_environment(), PATIENCE).await.code != 0 {
        skip::note(test, "MILLRACE_PYTHON has no aws-kinesis-agg");
        return None;
    }
    Some(python)
}

async fn golden(test: &str) -> Option<Vec<Golden>> {
    let python = python(test).await?;
    let program = repository_root().join("integration-tests/reference/kpl_aggregates.py");
    let output =
        run(&python, &[program.as_os_str()], &base_environment(), PATIENCE).await.success();
    let lines = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap());
    let golden: Vec<Golden> = lines.collect();
    assert!(golden.len() > 100, "{} aggregates", golden.len());
    Some(golden)
}

#[tokio::test]
async fn aggregates_of_another_library_come_apart_as_they_were_made() {
    let Some(golden) = golden("KPL aggregates of aws-kinesis-agg").await else { return };
    for Golden { aggregate, records } in golden {
        let data = bytes(&aggregate);
        let split = kpl::split(&data, None).expect("it is an aggregate");
        let expected: Vec<_> = (0u64..)
            .zip(&records)
            .map(|(place, (key, _, data))| (place, key.as_str(), bytes(data), true))
            .collect();
        let found: Vec<_> = split
            .records
            .iter()
            .map(|r| (r.sub_sequence_number, r.partition_key, r.data.to_vec(), r.is_in_range))
            .collect();
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_shard_takes_the_user_records_whose_explicit_hash_key_it_holds() {
    let Some(golden) = golden("hash keys of aws-kinesis-agg").await else { return };
    let mut num_explicit = 0;
    for Golden { aggregate, records } in golden {
        let data = bytes(&aggregate);
        for (place, (_, hash_key, _)) in records.iter().enumerate() {
            let Some(hash_key) = hash_key else { continue };
            let at: u128 = hash_key.parse().unwrap();
            let only = HashKeyRange { starting: at, ending: at };
            let split = kpl::split(&data, Some(only)).expect("it is an aggregate");
            assert!(split.records[place].is_in_range, "{hash_key} is in its own range");
            let beside = HashKeyRange { starting: at ^ 1, ending: at ^ 1 };
            let split = kpl::split(&data, Some(beside)).expect("it is an aggregate");
            assert!(!split.records[place].is_in_range, "{hash_key} is not beside itself");
            num_explicit += 1;
        }
    }
    assert!(num_explicit > 100, "{num_explicit} records have a hash key of their own");
}

#[tokio::test]
async fn a_changed_byte_makes_an_aggregate_a_plain_record() {
    let Some(golden) = golden("damaged aggregates of aws-kinesis-agg").await else { return };
    for Golden { aggregate, .. } in golden.iter().filter(|golden| golden.aggregate.len() < 2_000) {
        let whole = bytes(aggregate);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert_eq!(kpl::split(&damaged, None), None, "byte {at}");
        }
    }
}
