//! `millrace config APP`: every key of an application with its effective value and its origin.
//!
//! Promises: no value of a secret; values of telling names (passwords, keys, tokens) are hidden too.

use millrace_client::Client;
use millrace_common::application::{ApplicationSpec, DEFAULT_ORIGIN, EffectiveKey};
use millrace_common::error::{Code, Error, Result};
use serde::Deserialize;
use serde_json::json;

use super::master;
use super::subject::specification;
use crate::arguments::{Config, Global};
use crate::ended::Outcome;
use crate::output::{Align, Output, table};

/// Longest value in the table for people; `--json` has all of it.
const SHOWN_MAX: usize = 80;

pub(super) async fn run(global: &Global, output: &Output, command: &Config) -> Outcome {
    let client = master(global).await?;
    let name = &command.named.name;
    let spec = specification(&client, name).await?;
    let mut keys = ApplicationSpec::from_proto(&spec)?.effective();
    for key in &mut keys {
        // A program that submits by itself says nothing of origins.
        if spec.origins.is_empty() && key.origin == DEFAULT_ORIGIN {
            "submit".clone_into(&mut key.origin);
        }
    }
    if let Some(container) = &command.container {
        keys.extend(of_container(&client, name, container).await?);
    }
    let value = json!({ "name": name, "container_id": command.container, "keys": keys });
    output.result(&value, || show(&keys))
}

#[derive(Deserialize)]
struct Given {
    key: String,
    value: String,
    origin: String,
}

/// What a container was given, as it wrote it down itself.
async fn of_container(client: &Client, name: &str, container: &str) -> Result<Vec<EffectiveKey>> {
    let text = client.container_configuration(name, container).await?;
    let given: Vec<Given> = serde_json::from_slice(&text).map_err(|error| {
        Error::new(
            Code::UnknownContainer,
            format!("{container} has not written down yet what it was given"),
            "try again when it runs",
        )
        .caused_by(error)
    })?;
    let key = |Given { key, value, origin }| EffectiveKey { key, value, origin };
    Ok(given.into_iter().map(key).collect())
}

fn show(keys: &[EffectiveKey]) -> String {
    const COLUMNS: [(&str, Align); 3] =
        [("KEY", Align::Left), ("VALUE", Align::Left), ("ORIGIN", Align::Left)];
    let row = |key: &EffectiveKey| vec![key.key.clone(), one_line(&key.value), key.origin.clone()];
    table(&COLUMNS, keys.iter().map(row))
}

/// A value on one line of bounded length.
fn one_line(value: &str) -> String {
    if value.is_empty() {
        return "-".to_owned();
    }
    let line = value.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_line_of_bounded_length() {
        assert_eq!(one_line(""), "-");
        assert_eq!(one_line("SELECT a\n  FROM b"), "SELECT a FROM b");
        assert_eq!(one_line(&"x".repeat(100)), format!("{}...", "x".repeat(80)));
    }
}
