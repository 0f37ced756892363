//! `millrace init`: makes the DynamoDB table that holds the heads and the master's state.

use millrace_common::table;
use serde_json::json;

use super::aws;
use crate::arguments::Init;
use crate::ended::Outcome;
use crate::output::Output;

pub(super) async fn run(output: &Output, command: &Init) -> Outcome {
    let clients = aws().await?;
    let name = &command.table;
    let spinner = output.spinner(&format!("making table {name}"));
    let created = table::create_if_missing(&clients.dynamodb, name).await;
    spinner.finish_and_clear();
    let created = created?;
    let answer = json!({ "table": name, "region": clients.region(), "created": created });
    output.result(&answer, || {
        let what = if created { "made" } else { "is there already" };
        format!("table {name} in {} {what}", clients.region())
    })
}
