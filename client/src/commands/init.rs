//! `millrace init`: makes the DynamoDB table that holds the heads and the master's state, and the
//! buckets that are asked for.

use millrace_common::aws::{AwsSettings, Clients};
use millrace_common::table;
use serde_json::json;

use super::buckets;
use crate::arguments::Init;
use crate::ended::Outcome;
use crate::output::Output;

pub(super) async fn run(output: &Output, command: &Init) -> Outcome {
    // Making a bucket may take its time.
    let clients = Clients::load(&AwsSettings::default()).await?;
    let name = &command.table;
    let spinner = output.spinner(&format!("making table {name}"));
    let created = table::create_if_missing(&clients.dynamodb, name).await;
    spinner.finish_and_clear();
    let created = created?;
    let mut buckets = Vec::new();
    for bucket in &command.buckets {
        buckets.push((bucket, buckets::create_if_missing(&clients, bucket).await?));
    }
    let region = clients.region();
    let listed: Vec<_> = buckets
        .iter()
        .map(|(bucket, created)| json!({ "bucket": bucket, "created": created }))
        .collect();
    let answer = json!({ "table": name, "region": region, "created": created, "buckets": listed });
    output.result(&answer, || {
        let what = |created| if created { "made" } else { "is there already" };
        let mut text = format!("table {name} in {region} {}", what(created));
        for (bucket, created) in &buckets {
            text.push_str(&format!("\nbucket {bucket} {}", what(*created)));
        }
        text
    })
}
