//! What clients see of the core. Reads only.

use millrace_common::error::Error;
use millrace_common::id::{ApplicationName, ContainerId};
use millrace_proto::v1;

use super::core::{Core, unknown};
use crate::application::BATCHES_MAX;
use crate::cluster::ContainerEntry;

/// Batches that are listed when nobody says how many.
const BATCHES_DEFAULT: usize = 100;

/// The cluster in one line.
#[must_use]
pub(crate) fn cluster(core: &Core) -> v1::GetClusterResponse {
    v1::GetClusterResponse {
        cluster: core.identity.cluster.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        term: core.identity.term,
        table: core.identity.table.clone(),
        started_ms: core.identity.started_ms,
    }
}

/// Every node, by name.
#[must_use]
pub(crate) fn nodes(core: &Core) -> Vec<v1::Node> {
    let usage = core.cluster.usage();
    core.cluster
        .nodes()
        .map(|node| {
            let usage = usage.get(&node.id).copied().unwrap_or_default();
            v1::Node {
                node_id: node.id.to_string(),
                host: node.host.clone(),
                state: node.state.into(),
                offered: Some(node.offered.to_proto()),
                used: Some(usage.resources.to_proto()),
                num_containers: usage.num_drivers + usage.num_executors,
                last_heartbeat_ms: node.last_heartbeat_ms,
                version: node.version.clone(),
                pid: node.pid,
            }
        })
        .collect()
}

/// Every application, in the order of submission.
#[must_use]
pub(crate) fn applications(core: &Core) -> Vec<v1::Application> {
    let mut applications: Vec<_> = core.applications.values().collect();
    applications.sort_by_key(|application| application.sequence());
    applications.into_iter().map(|application| application.to_proto()).collect()
}

/// One application with its containers, live and ended.
///
/// # Errors
/// When the name is none, or no application has it.
pub(crate) fn application(core: &Core, name: &str) -> Result<v1::GetApplicationResponse, Error> {
    let name: ApplicationName = name.parse()?;
    let application = core.applications.get(&name).ok_or_else(|| unknown(&name))?;
    Ok(v1::GetApplicationResponse {
        application: Some(application.to_proto()),
        containers: entries(core, name.as_str()).map(|entry| entry.status.clone()).collect(),
    })
}

fn entries<'a>(core: &'a Core, application: &'a str) -> impl Iterator<Item = &'a ContainerEntry> {
    let is_wanted = move |entry: &&ContainerEntry| {
        application.is_empty() || entry.status.application == application
    };
    core.cluster.containers.iter().filter(is_wanted)
}

/// The containers of one application, or of all for an empty name.
#[must_use]
pub(crate) fn containers(core: &Core, application: &str) -> Vec<v1::Container> {
    entries(core, application).map(|entry| container(core, entry)).collect()
}

fn container(core: &Core, entry: &ContainerEntry) -> v1::Container {
    let node = core.cluster.node(&entry.node);
    v1::Container {
        status: Some(entry.status.clone()),
        node_id: entry.node.to_string(),
        host: node.map(|node| node.host.clone()).unwrap_or_default(),
    }
}

/// The containers whose logs are asked for, one or all of the application in their order of start;
/// and whether no others will come.
///
/// # Errors
/// When the application or the container is not known.
pub(crate) fn containers_to_read(
    core: &Core,
    application: &str,
    container_id: &str,
) -> Result<(Vec<v1::Container>, bool), Error> {
    use millrace_common::error::Code;

    if container_id.is_empty() {
        let name: ApplicationName = application.parse()?;
        let is_over = !core.applications.get(&name).ok_or_else(|| unknown(&name))?.is_live();
        let mut found = containers(core, application);
        found.sort_by_key(|container| {
            container.status.as_ref().map_or(0, |status| status.started_ms)
        });
        return Ok((found, is_over));
    }
    let entry = core
        .cluster
        .containers
        .get(&ContainerId::new(container_id))
        .filter(|entry| application.is_empty() || entry.status.application == application)
        .ok_or_else(|| {
            Error::new(
                Code::UnknownContainer,
                format!("application {application} has no container {container_id}"),
                format!("see `millrace status {application}` for its containers"),
            )
        })?;
    Ok((vec![container(core, entry)], true))
}

/// The newest batches of an application, newest first.
///
/// # Errors
/// When the name is none, or no application has it.
pub(crate) fn batches(core: &Core, name: &str, limit: u32) -> Result<Vec<v1::Batch>, Error> {
    let name: ApplicationName = name.parse()?;
    let application = core.applications.get(&name).ok_or_else(|| unknown(&name))?;
    let limit = match usize::try_from(limit) {
        Ok(0) => BATCHES_DEFAULT,
        Ok(limit) => limit.min(BATCHES_MAX),
        Err(_) => BATCHES_MAX,
    };
    Ok(application.history.newest(limit))
}
