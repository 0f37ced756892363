//! What docker-compose.yml says, as `reference/compose.py` reads it.
//!
//! Never does: guess. What the program does not know, it refuses.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::command::{base_environment, run};
use crate::dataset::repository_root;
use crate::eventually::PATIENCE;

/// When a service may start, as seen by one that depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Its process was started.
    ServiceStarted,
    /// Its health check has succeeded.
    ServiceHealthy,
    /// It has ended with exit code 0.
    ServiceCompletedSuccessfully,
}

/// A directory that outlives its container.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Shared by all services that name it; none: this container's own.
    pub name: Option<String>,
    /// Where it is inside.
    pub directory: String,
}

/// One service.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Its environment, beside the image's.
    pub environment: BTreeMap<String, String>,
    /// What must be so before it starts.
    pub depends_on: BTreeMap<String, Condition>,
    /// Program and arguments that end with exit code 0 when it is well; empty: none.
    pub health: Vec<String>,
    /// Ports inside that are published.
    pub ports: Vec<u16>,
    /// False when a port is published for other machines too.
    pub is_published_on_loopback: bool,
    /// Directories inside that are volumes.
    pub volumes: Vec<Volume>,
    /// Non-empty for one that is started by name only.
    pub profiles: Vec<String>,
}

/// The services of the repository's file by name, with these `variables` filled in.
///
/// # Panics
/// When the file is not what the reader takes.
pub async fn services(python: &PathBuf, variables: &[(&str, &str)]) -> BTreeMap<String, Service> {
    let root = repository_root();
    let mut arguments = vec![
        root.join("integration-tests/reference/compose.py").display().to_string(),
        root.join("docker-compose.yml").display().to_string(),
    ];
    arguments.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
    let read = run(python, &arguments, &base_environment(), PATIENCE).await.success();
    serde_json::from_str(&read.stdout).unwrap_or_else(|error| panic!("{error}: {read}"))
}
