//! `millrace completion SHELL`: the completion script, made from the command line's own definition.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::ended::Outcome;
use crate::output::Output;

pub(super) fn run(output: &Output, shell: Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "millrace", &mut script);
    if output.json() {
        let script = String::from_utf8_lossy(&script);
        return output
            .json_line(&serde_json::json!({ "shell": shell.to_string(), "script": script }));
    }
    output.bytes(&script)
}
