//! `millrace token ...`: the cluster's secret, and the tokens of people and programs.
//!
//! Promises: a token is printed once, by the command that makes it, or written into a file of mode
//! 0600 and not printed at all. Never does: print the cluster's secret, or write over one.

use std::path::{Path, PathBuf};

use millrace_client::view::TokenView;
use millrace_common::access::{self, Secret, Secrets};
use millrace_common::error::{Code, Error, Result};
use serde_json::json;

use super::master;
use crate::arguments::{Global, Token, TokenCreate};
use crate::ended::Outcome;
use crate::output::{Align, Output, fields, table};
use crate::times::show_time;

/// The cluster's secret: for its masters only.
const SECRET_FILE: &str = "cluster.secret";
/// For every node.
const NODE_FILE: &str = "node.token";
/// For whoever makes the first tokens of people.
const ADMIN_FILE: &str = "admin.token";

/// The files of a cluster's access.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) secret: PathBuf,
    pub(super) node: PathBuf,
    pub(super) admin: PathBuf,
}

impl Files {
    /// Where they are in this directory.
    pub(super) fn within(directory: &Path) -> Self {
        Self {
            secret: directory.join(SECRET_FILE),
            node: directory.join(NODE_FILE),
            admin: directory.join(ADMIN_FILE),
        }
    }

    /// Writes the tokens that come with the secret, which is made when there is none.
    pub(super) fn ensure(&self) -> Result<()> {
        if !self.secret.exists() {
            access::write_private(&self.secret, &Secret::generate()?.reveal())?;
        }
        let secrets: Secrets = access::read_secrets(&self.secret)?;
        access::write_private(&self.node, secrets.node_token().reveal())?;
        access::write_private(&self.admin, secrets.admin_token().reveal())
    }
}

pub(super) async fn run(global: &Global, output: &Output, command: Token) -> Outcome {
    match command {
        Token::Init { dir, keep } => init(output, &dir, keep),
        Token::Create(command) => create(global, output, &command).await,
        Token::List => list(global, output).await,
        Token::Revoke { id } => revoke(global, output, &id).await,
    }
}

fn init(output: &Output, directory: &Path, keep: bool) -> Outcome {
    let files = Files::within(directory);
    if files.secret.exists() && !keep {
        return Err(Error::new(
            Code::NotConfirmed,
            format!("{} is there already, and every token hangs on it", files.secret.display()),
            "name another --dir; to replace the secret, see docs/operations.md",
        )
        .into());
    }
    std::fs::create_dir_all(directory).map_err(|error| {
        Error::new(
            Code::DirectoryUnusable,
            format!("{} can not be made", directory.display()),
            "name a directory that you may write to with --dir",
        )
        .caused_by(error)
    })?;
    files.ensure()?;
    let answer = json!({ "secret": files.secret, "node": files.node, "admin": files.admin });
    output.result(&answer, || {
        fields(&[
            ("for the masters", format!("--secret-file {}", files.secret.display())),
            ("for the nodes", format!("--token-file {}", files.node.display())),
            ("for you", format!("export MILLRACE_TOKEN_FILE={}", files.admin.display())),
        ])
    })
}

async fn create(global: &Global, output: &Output, command: &TokenCreate) -> Outcome {
    if let Some(path) = command.out.as_ref().filter(|path| path.exists()) {
        // A token that is written over stays valid, and nobody has it.
        return Err(Error::new(
            Code::NotConfirmed,
            format!("{} is there already, and may hold a token", path.display()),
            "name another file with --out, or remove it (`millrace token revoke ID` ends a token)",
        )
        .into());
    }
    let client = master(global).await?;
    let role = command.role.to_proto();
    let answer = client.create_token(&command.name, role, command.expires).await?;
    let view = TokenView::new(&answer.info.unwrap_or_default());
    if let Some(path) = &command.out {
        access::write_private(path, &answer.token)?;
        let value = json!({ "id": view.id, "file": path });
        return output.result(&value, || format!("token {} is in {}", view.id, path.display()));
    }
    output.result(&json!({ "id": view.id, "token": answer.token }), || answer.token.clone())?;
    if !output.json() {
        output.say(&format!(
            "this is token {} of {} ({}); it is not shown again",
            view.id, view.name, view.role
        ));
    }
    Ok(())
}

async fn list(global: &Global, output: &Output) -> Outcome {
    let tokens = master(global).await?.tokens().await?;
    let views: Vec<TokenView> = tokens.iter().map(TokenView::new).collect();
    output.result(&views, || {
        if views.is_empty() {
            output.say("no token was made yet but the one that came with the cluster's secret");
            return String::new();
        }
        show(&views)
    })
}

fn show(views: &[TokenView]) -> String {
    const COLUMNS: [(&str, Align); 7] = [
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("ROLE", Align::Left),
        ("CREATED", Align::Left),
        ("BY", Align::Left),
        ("EXPIRES", Align::Left),
        ("REVOKED", Align::Left),
    ];
    let time = |ms: Option<i64>| ms.map_or_else(|| "-".to_owned(), show_time);
    let rows = views.iter().map(|view| {
        vec![
            view.id.clone(),
            view.name.clone(),
            view.role.clone(),
            time(view.created_ms),
            view.created_by.clone().unwrap_or_else(|| "-".to_owned()),
            time(view.expires_ms),
            time(view.revoked_ms),
        ]
    });
    table(&COLUMNS, rows)
}

async fn revoke(global: &Global, output: &Output, id: &str) -> Outcome {
    let info = master(global).await?.revoke_token(id).await?;
    let view = TokenView::new(&info);
    output.result(&view, || format!("token {} of {} is revoked", view.id, view.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_keeps_the_secret_and_its_tokens() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::within(directory.path());
        files.ensure().unwrap();
        let first = access::read_token(&files.admin).unwrap();
        files.ensure().unwrap();
        assert!(access::read_token(&files.admin).unwrap().is(&first));
        assert!(!access::read_token(&files.node).unwrap().is(&first));
    }
}
