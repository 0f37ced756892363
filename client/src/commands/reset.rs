//! `millrace reset APP --to POSITION`: the next start begins there instead of at the head's
//! positions.
//!
//! Promises: asks first on a terminal; without one it does nothing unless `--yes` is given.

use serde_json::json;

use super::confirm::confirm;
use super::master;
use crate::arguments::{Global, Reset};
use crate::ended::Outcome;
use crate::output::Output;

pub(super) async fn run(global: &Global, output: &Output, command: &Reset) -> Outcome {
    let name = &command.named.name;
    let to = command.to.to_string();
    if !command.yes {
        let consequence = format!(
            "{name} gives up its positions and begins at {to}: records may be read again or never"
        );
        confirm(&format!("resetting {name} to {to}"), &consequence)?;
    }
    let client = master(global).await?;
    let batch = client.reset(name, command.to.to_proto()).await?;
    let value = json!({ "name": name, "to": to, "batch": batch });
    output.result(&value, || {
        format!("{name}: the positions of batch {batch} are given up; the next start is at {to}")
    })
}
