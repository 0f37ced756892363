//! `millrace explain FILE`: checks an application file and prints the plan of its query.
//!
//! Never does: talk to a master or to AWS.

use serde_json::json;

use super::submit;
use crate::arguments::FileAndSettings;
use crate::ended::Outcome;
use crate::output::Output;

pub(super) async fn run(output: &Output, command: &FileAndSettings) -> Outcome {
    let spec = submit::read(command)?;
    let plan = millrace_sql::explain(&spec).await?;
    let value = json!({ "name": spec.name.as_str(), "plan": plan.to_string() });
    output.result(&value, || plan.to_string())
}
