//! `millrace explain FILE`: checks an application file and prints the plan of its query.
//!
//! Never does: talk to a master or to AWS.

use millrace_common::application;
use serde_json::json;

use crate::arguments::FileAndSettings;
use crate::ended::Outcome;
use crate::output::Output;

pub(super) async fn run(output: &Output, command: &FileAndSettings) -> Outcome {
    let spec = application::load(&command.file, &command.settings)?;
    let plan = millrace_sql::explain(&spec).await?;
    output.result(&json!({ "name": spec.name, "plan": plan }), || plan.clone())
}
