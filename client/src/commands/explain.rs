//! `millrace explain FILE`: checks an application file and prints the plan of its query.
//!
//! Never does: talk to a master or to AWS.

use serde_json::json;

use crate::arguments::FileAndSettings;
use crate::ended::Outcome;
use crate::output::Output;

pub(super) async fn run(output: &Output, command: &FileAndSettings) -> Outcome {
    let spec = command.load()?;
    let plan = millrace_sql::explain(&spec).await?;
    let warnings = millrace_sql::warnings(&spec).await?;
    for warning in &warnings {
        output.warn(warning);
    }
    let value = json!({ "name": spec.name, "plan": plan, "warnings": warnings });
    output.result(&value, || plan.clone())
}
