//! The commands, one module each, and what several of them share.

mod applications;
mod batches;
mod buckets;
mod completion;
mod config;
mod confirm;
mod end;
mod explain;
mod history;
mod init;
mod local;
mod logs;
mod nodes;
mod objects;
mod plan;
mod policy;
mod positions;
mod preflight;
mod produce;
mod repair;
mod replay;
mod reset;
mod scale;
mod status;
mod subject;
mod submit;
mod token;
mod uploads;
mod wait;
mod why;

use millrace_common::aws::{AwsSettings, Clients};
use millrace_common::error::Result;

use self::wait::master;
use crate::arguments::{Arguments, Command, Node};
use crate::ended::Outcome;
use crate::output::Output;

/// Runs the command that was asked for.
pub(crate) async fn run(arguments: Arguments, output: &Output) -> Outcome {
    let global = &arguments.global;
    match arguments.command {
        Command::Submit(command) => submit::run(global, output, command).await,
        Command::Replay(command) => replay::run(global, output, command).await,
        Command::List => applications::run(global, output).await,
        Command::Status(command) => status::run(global, output, &command.name).await,
        Command::Why(command) => why::run(global, output, &command.name).await,
        Command::Batches(command) => batches::run(global, output, &command).await,
        Command::Positions(command) => positions::run(global, output, &command.name).await,
        Command::Stop(command) => end::stop(global, output, &command).await,
        Command::Kill(command) => end::kill(global, output, &command.name).await,
        Command::Logs(command) => logs::run(global, output, &command).await,
        Command::Scale(command) => scale::scale(global, output, &command).await,
        Command::Queues => scale::queues(global, output).await,
        Command::History(command) => history::run(global, output, &command.name).await,
        Command::Token(command) => token::run(global, output, command).await,
        Command::Nodes => nodes::run(global, output).await,
        Command::Node(Node::Drain(command)) => nodes::drain(global, output, &command).await,
        Command::Node(Node::Undrain { node }) => nodes::undrain(global, output, &node).await,
        Command::Explain(command) => explain::run(output, &command).await,
        Command::Config(command) => config::run(global, output, &command).await,
        Command::Policy(command) => policy::run(output, &command).await,
        Command::Preflight(command) => preflight::run(output, &command).await,
        Command::Plan(command) => plan::run(global, output, &command).await,
        Command::Init(command) => init::run(output, &command).await,
        Command::Reset(command) => reset::run(global, output, &command).await,
        Command::Repair(command) => repair::run(global, output, &command).await,
        Command::Uploads(command) => uploads::run(global, output, &command).await,
        Command::Local(command) => local::run(output, command).await,
        Command::Produce(command) => produce::run(output, command).await,
        Command::Ls(command) => objects::ls(output, &command.path).await,
        Command::Cat(command) => objects::cat(output, &command.path).await,
        Command::Completion { shell } => completion::run(output, shell),
    }
}

/// AWS as `settings` and the environment have it. An endpoint that does not answer is named, and
/// given up on soon.
async fn aws(output: &Output, settings: &AwsSettings) -> Result<Clients> {
    let output = Output::new(output.json());
    let tell = move |text: &str| {
        if !output.json() {
            output.say(text);
        }
    };
    Clients::for_a_person(settings, tell).await
}
