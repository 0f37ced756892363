//! The arguments of `millrace token`.
//!
//! Promises: as in the parent.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use millrace_common::access::Role;
use millrace_common::error::Error;

use crate::times::parse_duration;

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make the secret of a new cluster, and the tokens that come with it; needs no cluster.
    Init {
        /// Directory for cluster.secret, node.token and admin.token.
        #[arg(long, value_name = "D")]
        dir: PathBuf,
        /// Keep a secret that is there already instead of refusing; for scripts that run again.
        #[arg(long)]
        keep: bool,
    },
    /// Make a token for a person or a program, and print it once.
    Create(TokenCreate),
    /// List the tokens that were made.
    List,
    /// Refuse a token from now on.
    Revoke {
        /// Its id, as `millrace token list` shows it.
        #[arg(value_name = "ID")]
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TokenCreate {
    /// Whose it is: the owner of applications, and the name in the audit log.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// What it allows: viewer, submitter or admin.
    #[arg(long, value_parser = parse_role)]
    pub(crate) role: Role,
    /// Take it for this long only, as 30d; for ever when not given.
    #[arg(long, value_name = "D", value_parser = parse_duration)]
    pub(crate) expires: Option<Duration>,
    /// Write it into this file, readable by you only, and do not print it.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

fn parse_role(text: &str) -> Result<Role, String> {
    text.parse().map_err(|error: Error| format!("{}; {}", error.message(), error.next_move()))
}
