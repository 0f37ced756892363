//! `millrace reset APP --to POSITION`: the next start begins there instead of at the head's
//! positions.
//!
//! Promises: asks first on a terminal; without one it does nothing unless `--yes` is given.

use std::io::{BufRead, IsTerminal, Write};

use millrace_common::error::{Code, Error};
use serde_json::json;

use super::master;
use crate::arguments::{Global, Reset};
use crate::ended::Outcome;
use crate::output::Output;

pub(super) async fn run(global: &Global, output: &Output, command: &Reset) -> Outcome {
    let name = &command.named.name;
    let to = command.to.to_string();
    if !command.yes {
        confirm(name, &to)?;
    }
    let client = master(global).await?;
    let batch = client.reset(name, command.to.to_proto()).await?;
    let value = json!({ "name": name, "to": to, "batch": batch });
    output.result(&value, || {
        format!("{name}: the positions of batch {batch} are given up; the next start is at {to}")
    })
}

fn confirm(name: &str, to: &str) -> Result<(), Error> {
    let refused = |what: String| {
        Error::new(Code::NotConfirmed, what, "give --yes if you are sure; nothing was changed")
    };
    if !std::io::stdin().is_terminal() {
        return Err(refused(format!(
            "resetting {name} to {to} gives up its positions and needs a confirmation, and there \
             is no terminal to ask on"
        )));
    }
    let mut terminal = std::io::stderr().lock();
    let asked = write!(
        terminal,
        "{name} gives up its positions and begins at {to}: records may be read again or never. \
         Go on? [y/N] "
    )
    .and_then(|()| terminal.flush());
    let mut answer = String::new();
    let read = asked.and_then(|()| std::io::stdin().lock().read_line(&mut answer));
    match read {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        Ok(_) => Err(refused(format!("resetting {name} was not confirmed"))),
        Err(error) => Err(refused(format!("the terminal can not be asked: {error}"))),
    }
}
