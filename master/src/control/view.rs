//! What clients see of the core. Reads only.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use millrace_common::error::Error;
use millrace_common::id::{ApplicationName, ContainerId, NodeId};
use millrace_common::resources::Resources;
use millrace_proto::v1;

use super::core::{Core, unknown};
use super::drain::unknown_node;
use crate::application::why::{self, BATCHES_JUDGED, Facts, Surroundings};
use crate::application::{Application, BATCHES_MAX};
use crate::cluster::{ContainerEntry, Usage};
use crate::moment::Moment;
use crate::scheduler::Room;

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

/// Every node, by name; those too that are drained and not here.
#[must_use]
pub(crate) fn nodes(core: &Core) -> Vec<v1::Node> {
    let usage = core.cluster.usage();
    let ids: BTreeSet<NodeId> = core.cluster.nodes().map(|node| node.id.clone()).collect();
    let ids = ids.union(&core.cluster.drains.nodes()).cloned().collect::<Vec<_>>();
    ids.iter().map(|id| show_node(core, id, &usage)).collect()
}

/// One node.
///
/// # Errors
/// [`Code::UnknownNode`] when it is neither here nor drained.
pub(crate) fn node(core: &Core, id: &NodeId) -> Result<v1::Node, Error> {
    let found = nodes(core).into_iter().find(|node| node.node_id == id.as_str());
    found.ok_or_else(|| unknown_node(id))
}

fn show_node(core: &Core, id: &NodeId, usage: &BTreeMap<NodeId, Usage>) -> v1::Node {
    let usage = usage.get(id).copied().unwrap_or_default();
    let num_containers = usage.num_drivers + usage.num_executors;
    let drain = core.cluster.drains.of(id);
    let mut shown = v1::Node {
        node_id: id.to_string(),
        used: Some(usage.resources.to_proto()),
        num_containers,
        drain_deadline_ms: drain.and_then(|drain| drain.order.deadline_ms).unwrap_or_default(),
        reason: drain.map(|drain| drain.waits.clone()).unwrap_or_default(),
        ..Default::default()
    };
    let mut state = v1::NodeState::Lost;
    if let Some(node) = core.cluster.node(id) {
        state = node.state;
        shown.host.clone_from(&node.host);
        shown.offered = Some(node.offered.to_proto());
        shown.last_heartbeat_ms = node.last_heartbeat_ms;
        shown.version.clone_from(&node.version);
        shown.pid = node.pid;
        shown.labels = node.labels.to_map();
        if let Some(trouble) = &node.trouble {
            shown.unhealthy.clone_from(&trouble.reason);
            shown.unhealthy_since_ms = trouble.since_ms;
            if drain.is_none() {
                shown.reason.clone_from(&trouble.waits);
            }
        }
    } else {
        shown.reason = "drained, and its worker is not connected".to_owned();
    }
    if drain.is_some() && state == v1::NodeState::Alive {
        let is_empty = num_containers == 0 && !core.is_adopting;
        state = if is_empty { v1::NodeState::Drained } else { v1::NodeState::Draining };
    } else if !shown.unhealthy.is_empty() && state == v1::NodeState::Alive {
        state = v1::NodeState::Unhealthy;
    }
    shown.set_state(state);
    shown
}

/// Every queue, by name.
#[must_use]
pub(crate) fn queues(core: &Core, now: Moment) -> Vec<v1::Queue> {
    let rooms = core.cluster.rooms(now);
    let offered = rooms.iter().map(|room| room.offered);
    let total = offered.fold(Resources::default(), Resources::saturating_add);
    let used = core.used_by_queues(&core.cluster.leaving(now));
    let live: Vec<_> = core.applications.values().filter(|app| app.is_live()).collect();
    let count = |is_counted: &dyn Fn(&&&Application) -> bool| {
        u32::try_from(live.iter().filter(is_counted).count()).unwrap_or(u32::MAX)
    };
    let shown = core.queues.iter().map(|(name, queue)| v1::Queue {
        name: name.to_string(),
        guarantee_bp: queue.guarantee.basis_points(),
        cap_bp: queue.cap.basis_points(),
        guarantee: Some(queue.guarantee.of(total).to_proto()),
        cap: Some(queue.cap.of(total).to_proto()),
        used: Some(used.get(name).copied().unwrap_or_default().to_proto()),
        submit: queue.submit.clone(),
        num_applications: count(&|app| app.queue() == *name),
        num_queued: count(&|app| {
            app.queue() == *name && app.state() == v1::ApplicationState::Queued
        }),
    });
    shown.collect()
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
/// and whether no others will come: while nodes are waited for, theirs will.
///
/// # Errors
/// When the application or the container is not known. One that is followed may be of a node that is
/// waited for.
pub(crate) fn containers_to_read(
    core: &Core,
    application: &str,
    container_id: &str,
    is_followed: bool,
) -> Result<(Vec<v1::Container>, bool), Error> {
    use millrace_common::error::Code;

    if container_id.is_empty() {
        let name: ApplicationName = application.parse()?;
        let is_live = core.applications.get(&name).ok_or_else(|| unknown(&name))?.is_live();
        let is_over = !is_live && !core.is_adopting;
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
        .filter(|entry| application.is_empty() || entry.status.application == application);
    match entry {
        Some(entry) => Ok((vec![container(core, entry)], true)),
        None if is_followed && core.is_adopting => Ok((Vec::new(), false)),
        None => Err(Error::new(
            Code::UnknownContainer,
            format!("application {application} has no container {container_id}"),
            format!("see `millrace status {application}` for its containers"),
        )),
    }
}

/// Why an application waits, is late or has ended.
///
/// # Errors
/// When the name is none, or no application has it.
pub(crate) fn why(
    core: &Core,
    now: Moment,
    name: &str,
) -> Result<v1::WhyApplicationResponse, Error> {
    let v1::GetApplicationResponse { application: shown, containers } = application(core, name)?;
    let name: ApplicationName = name.parse()?;
    let application = core.applications.get(&name).ok_or_else(|| unknown(&name))?;
    let facts = Facts {
        application: &shown.unwrap_or_default(),
        containers: &containers,
        batches: &application.history.newest(BATCHES_JUDGED),
        waits: application.waits.as_ref(),
        failures: application.num_failures(),
        cluster: &surroundings(core, now),
        now_ms: now.wall_ms,
    };
    Ok(why::why(&facts))
}

/// The cluster as one who waits sees it.
fn surroundings(core: &Core, now: Moment) -> Surroundings {
    let rooms = core.cluster.rooms(now);
    let sum = |part: &dyn Fn(&Room) -> Resources| {
        rooms.iter().map(part).fold(Resources::default(), Resources::saturating_add)
    };
    let mut held = BTreeMap::<&str, Resources>::new();
    for entry in core.cluster.containers.iter().filter(|entry| entry.is_live()) {
        let of_one = held.entry(&entry.status.application).or_default();
        *of_one = of_one.saturating_add(entry.resources());
    }
    let mut holders: Vec<(String, Resources)> =
        held.into_iter().map(|(name, held)| (name.to_owned(), held)).collect();
    holders.sort_by_key(|(_, held)| Reverse((held.cores, held.memory)));
    Surroundings {
        address: core.identity.address.clone(),
        table: core.identity.table.clone(),
        num_nodes: rooms.len(),
        offered: sum(&|room| room.offered),
        free: sum(&|room| room.free),
        holders,
    }
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
