//! The nodes that a plan is made for: those of a live cluster, or a cluster described in words.

use std::str::FromStr;

use millrace_proto::v1::{self, NodeState};

use crate::application::ApplicationSpec;
use crate::error::{Code, Error};
use crate::labels::Labels;
use crate::resources::{ByteSize, Resources};

/// Most nodes of a described cluster: more than any test, and a typing error ends at once.
const NODES_MAX: u32 = 10_000;
/// Memory per core of a described node that names none: that of the general-purpose instances.
const MEMORY_PER_CORE: ByteSize = ByteSize::mib(4 * 1024);

/// A node as a plan sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// All that it offers, used or not.
    pub offered: Resources,
    /// What is free now; nothing while it takes no containers.
    pub free: Resources,
    /// What its worker says of it; none for a described node, which has the labels that are asked for.
    pub labels: Option<Labels>,
}

impl Node {
    /// A node on which nothing runs.
    #[must_use]
    pub fn empty(name: impl Into<String>, offered: Resources) -> Self {
        Self { name: name.into(), offered, free: offered, labels: None }
    }

    /// The same node with these labels.
    #[must_use]
    pub fn labelled(self, labels: Labels) -> Self {
        Self { labels: Some(labels), ..self }
    }

    /// True when containers of the application may be placed on it.
    #[must_use]
    pub fn takes(&self, spec: &ApplicationSpec) -> bool {
        let labels = self.labels.as_ref();
        labels.is_none_or(|labels| spec.resources.node_selector.accepts(labels))
    }

    /// As the master lists it, once `own` is gone from it: what the planned application itself has
    /// there now. A node that is suspect, lost, drained or unhealthy has nothing free, and still
    /// counts for what could ever fit: it may come back.
    #[must_use]
    pub fn listed(node: &v1::Node, own: Resources) -> Self {
        let part = |resources: &Option<v1::Resources>| {
            resources.as_ref().map(Resources::from_proto).unwrap_or_default()
        };
        let (offered, used) = (part(&node.offered), part(&node.used));
        let free = used.checked_sub(own).and_then(|used| offered.checked_sub(used));
        let is_open = node.state() == NodeState::Alive;
        Self {
            name: node.node_id.clone(),
            offered,
            free: free.filter(|_| is_open).unwrap_or_default(),
            // The master took no others.
            labels: Labels::from_map(node.labels.clone()).ok(),
        }
    }
}

/// What a queue may take now, of its cap and of what other queues' guarantees leave: past it an
/// application waits, whatever the nodes have free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The queue's name.
    pub queue: String,
    /// What it may take.
    pub now: Resources,
}

impl Share {
    /// As the master lists its queues, once `own` is gone from this one: what the planned application
    /// itself has there now. `free` is what the nodes have free then. None where nothing but that
    /// bounds the queue, and for a queue that is not listed.
    #[must_use]
    pub fn listed(
        name: &str,
        queues: &[v1::Queue],
        own: Resources,
        free: Resources,
    ) -> Option<Self> {
        let part = |resources: &Option<v1::Resources>| {
            resources.as_ref().map(Resources::from_proto).unwrap_or_default()
        };
        let mine = queues.iter().find(|queue| queue.name == name)?;
        let below_cap = less(part(&mine.cap), less(part(&mine.used), own));
        let others = queues.iter().filter(|queue| queue.name != name);
        let kept = others
            .map(|other| less(part(&other.guarantee), part(&other.used)))
            .fold(Resources::default(), Resources::saturating_add);
        let unkept = less(free, kept);
        let now =
            Resources::new(below_cap.cores.min(unkept.cores), below_cap.memory.min(unkept.memory));
        (now != free).then(|| Self { queue: name.to_owned(), now })
    }
}

/// What is left of each; nothing where more is taken.
fn less(whole: Resources, part: Resources) -> Resources {
    let memory = whole.memory.as_u64().saturating_sub(part.memory.as_u64());
    Resources::new(whole.cores.saturating_sub(part.cores), ByteSize::bytes(memory))
}

/// A cluster in words: `4x8` is four nodes of 8 cores, `4x8:32GiB,1x1:4GiB` four of 8 cores with
/// 32GiB each and one of 1 core with 4GiB. Without a memory each core brings 4GiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described(pub Vec<Node>);

impl FromStr for Described {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut nodes = Vec::new();
        for part in text.split(',') {
            let (count, offered) = described(part.trim()).ok_or_else(|| refuse(text, part))?;
            for _ in 0..count {
                nodes.push(Node::empty(format!("node-{}", nodes.len() + 1), offered));
            }
            if nodes.len() > NODES_MAX as usize {
                return Err(refuse(text, part));
            }
        }
        Ok(Self(nodes))
    }
}

fn described(part: &str) -> Option<(u32, Resources)> {
    let (shape, memory) = match part.split_once(':') {
        Some((shape, memory)) => (shape, Some(memory.parse::<ByteSize>().ok()?)),
        None => (part, None),
    };
    let (count, cores) = shape.split_once(['x', 'X'])?;
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|number| *number > 0);
    let (count, cores) = (number(count)?, number(cores)?);
    let usual = ByteSize::bytes(MEMORY_PER_CORE.as_u64() * u64::from(cores));
    let memory = memory.unwrap_or(usual);
    let is_possible = count <= NODES_MAX && memory > ByteSize::default();
    is_possible.then_some((count, Resources::new(cores, memory)))
}

fn refuse(text: &str, part: &str) -> Error {
    let whole = if part.trim() == text { String::new() } else { format!(" in {text:?}") };
    Error::new(
        Code::InvalidValue,
        format!("{:?}{whole} describes no cluster", part.trim()),
        "write NODESxCORES:MEMORY with 1 to 10000 nodes, as 4x8:32GiB, and commas between groups, \
         as 4x8:32GiB,1x1:4GiB",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_described_in_groups() {
        let Described(nodes) = "4x8:32GiB, 1x1:4GiB".parse().unwrap();
        assert_eq!(nodes.len(), 5);
        assert_eq!(nodes[0].offered, Resources::new(8, ByteSize::mib(32 << 10)));
        assert_eq!(nodes[4], Node::empty("node-5", Resources::new(1, ByteSize::mib(4 << 10))));
        let Described(nodes) = "2x2".parse().unwrap();
        assert_eq!(nodes[1].free, Resources::new(2, ByteSize::mib(8 << 10)));
    }

    #[test]
    fn what_describes_no_cluster_is_refused_with_the_form() {
        for bad in
            ["", "4", "x", "0x8", "4x0", "4x8:", "4x8:32", "4x8:0B", "4x-1", "10001x1", "4x8,,"]
        {
            let error = bad.parse::<Described>().unwrap_err();
            assert_eq!(error.code(), Code::InvalidValue, "{bad}");
            assert!(error.next_move().contains("NODESxCORES"), "{error}");
        }
        assert!("9999x1,9999x1".parse::<Described>().is_err());
        assert!("1x4294967295:1GiB".parse::<Described>().is_ok());
        assert!("99999999999x1".parse::<Described>().is_err());
    }

    #[test]
    fn a_queue_may_take_what_its_cap_and_other_guarantees_leave() {
        let gib = |cores: u32, gib: u64| Resources::new(cores, ByteSize::mib(gib << 10));
        let queue = |name: &str, guarantee: Resources, cap: Resources, used: Resources| v1::Queue {
            name: name.to_owned(),
            guarantee: Some(guarantee.to_proto()),
            cap: Some(cap.to_proto()),
            used: Some(used.to_proto()),
            ..Default::default()
        };
        let queues = [
            queue("default", gib(0, 0), gib(16, 64), gib(6, 10)),
            queue("etl", gib(8, 32), gib(32, 128), gib(2, 8)),
        ];
        let now = |name, own, free| Share::listed(name, &queues, own, free).map(|share| share.now);
        assert_eq!(now("default", gib(0, 0), gib(24, 110)), Some(gib(10, 54)), "its cap");
        assert_eq!(now("default", gib(6, 10), gib(30, 120)), Some(gib(16, 64)), "its own is gone");
        assert_eq!(now("default", gib(0, 0), gib(9, 30)), Some(gib(3, 6)), "etl's guarantee");
        assert_eq!(now("etl", gib(0, 0), gib(24, 110)), None, "only by what is free");
        assert_eq!(now("none", gib(0, 0), gib(24, 110)), None);
    }

    #[test]
    fn a_listed_node_has_free_what_nobody_uses_while_it_is_alive() {
        let resources = |cores| Some(Resources::new(cores, ByteSize::mib(1024)).to_proto());
        let mut node = v1::Node { offered: resources(8), ..Default::default() };
        let (none, own) = (Resources::default(), Resources::new(2, ByteSize::mib(20)));
        node.used = Some(Resources::new(3, ByteSize::mib(24)).to_proto());
        node.set_state(NodeState::Alive);
        let alive = Node::listed(&node, none);
        assert_eq!(alive.free, Resources::new(5, ByteSize::mib(1000)));
        assert_eq!(Node::listed(&node, own).free, Resources::new(7, ByteSize::mib(1020)));
        for state in [NodeState::Draining, NodeState::Suspect, NodeState::Unhealthy] {
            node.set_state(state);
            let closed = Node::listed(&node, own);
            assert_eq!((closed.free, closed.offered.cores), (none, 8));
        }
    }
}
