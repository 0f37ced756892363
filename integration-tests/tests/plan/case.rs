//! Random clusters and applications.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use millrace_common::application::{
    ApplicationSpec, ExecutorCount, Receivers, ResourcesSpec, parse_toml,
};
use millrace_common::config::Value as _;
use millrace_common::labels::{Labels, NodeSelector};
use millrace_common::plan::{Node, Plan, Question, Share, plan};
use millrace_common::resources::{ByteSize, Resources};
use millrace_proto::v1;
use proptest::prelude::*;

const FILE: &str = "name = \"app\"\n\
    [source.a]\nstream = \"a\"\nformat = \"text\"\nstorage_level = \"memory\"\n\
    [source.b]\nstream = \"b\"\nformat = \"text\"\n\
    [query]\nsql = \"SELECT line FROM a\"\n[sink]\npath = \"s3://results/app/\"\n";

fn base() -> &'static ApplicationSpec {
    static BASE: OnceLock<ApplicationSpec> = OnceLock::new();
    BASE.get_or_init(|| parse_toml("case.toml", FILE, &[]).unwrap())
}

/// How the cluster is shared, in percent: what the application's queue may hold, and what another
/// queue, which holds all that is not free, is guaranteed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    pub(crate) cap: u32,
    pub(crate) other_guarantee: u32,
}

/// A cluster and an application.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) shares: Option<Shares>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) num_lost: usize,
    pub(crate) spec: ApplicationSpec,
    pub(crate) shards: BTreeMap<String, u32>,
}

impl Case {
    pub(crate) fn plan(&self) -> Plan {
        let (nodes, num_lost, shards) = (&self.nodes, self.num_lost, &self.shards);
        let share = self.shares.and_then(|shares| self.share(shares));
        plan(Question { spec: &self.spec, nodes, share: share.as_ref(), num_lost, shards })
    }

    /// What the queue may take, from what a master lists of its queues.
    fn share(&self, shares: Shares) -> Option<Share> {
        let [all, free] = [self.offered(), self.free()].map(sum);
        let part = |percent: u32| {
            let mib = (all.memory.as_u64() >> 20) * u64::from(percent) / 100;
            Some(resources(all.cores * percent / 100, mib).to_proto())
        };
        let queue = |name: &str, guarantee, cap, used: Resources| v1::Queue {
            name: name.to_owned(),
            guarantee,
            cap,
            used: Some(used.to_proto()),
            ..Default::default()
        };
        let queues = [
            queue("default", part(0), part(shares.cap), Resources::default()),
            queue("other", part(shares.other_guarantee), part(100), self.taken()),
        ];
        Share::listed("default", &queues, Resources::default(), free)
    }

    /// What others hold.
    pub(crate) fn taken(&self) -> Resources {
        sum(self.offered()).checked_sub(sum(self.free())).unwrap()
    }

    pub(crate) fn resources(&self) -> ResourcesSpec {
        self.spec.resources.clone()
    }

    pub(crate) fn free(&self) -> Vec<Resources> {
        self.nodes.iter().map(|node| node.free).collect()
    }

    pub(crate) fn offered(&self) -> Vec<Resources> {
        self.nodes.iter().map(|node| node.offered).collect()
    }

    /// What the application asks for after `--set`.
    pub(crate) fn changed(&self, settings: &[String]) -> ResourcesSpec {
        let ResourcesSpec { executors, executor, driver, .. } = self.resources();
        let mut all = vec![
            format!("resources.executors={{min={},max={}}}", executors.min, executors.max),
            format!("resources.executor.cores={}", executor.cores),
            format!("resources.executor.memory={}", executor.memory),
            format!("resources.driver.cores={}", driver.cores),
            format!("resources.driver.memory={}", driver.memory),
        ];
        all.extend(settings.iter().cloned());
        parse_toml("case.toml", FILE, &all).unwrap().resources
    }

    /// True when the number of shards on each executor follows from the layout of this source alone.
    pub(crate) fn is_even(&self, source: &str) -> bool {
        !matches!(self.spec.sources[source].receivers, Receivers::Count(_))
    }
}

fn sum(rooms: Vec<Resources>) -> Resources {
    rooms.into_iter().fold(Resources::default(), Resources::saturating_add)
}

fn resources(cores: u32, memory: u64) -> Resources {
    Resources::new(cores, ByteSize::mib(memory))
}

fn any_receivers() -> impl Strategy<Value = Receivers> {
    prop_oneof![
        2 => Just(Receivers::PerExecutor),
        1 => Just(Receivers::PerShard),
        1 => (1u32..6).prop_map(Receivers::Count),
    ]
}

/// Nodes of up to so many cores and MiB, each with a part taken by others, often none.
fn any_nodes(
    number: std::ops::Range<usize>,
    cores: u32,
    memory: u64,
) -> impl Strategy<Value = Vec<Node>> {
    let part = prop_oneof![2 => Just(0u32), 1 => 0u32..=100];
    let one = (1..=cores, 1..=memory / 64, part.clone(), part);
    prop::collection::vec(one, number).prop_map(|nodes| {
        let node = |(index, (cores, steps, of_cores, of_memory))| {
            let offered = resources(cores, steps * 64);
            let used = resources(cores * of_cores / 100, steps * u64::from(of_memory) / 100 * 64);
            let free = offered.checked_sub(used).unwrap();
            Node { name: format!("n{index}"), offered, free, labels: None }
        };
        nodes.into_iter().enumerate().map(node).collect()
    })
}

prop_compose! {
    /// What a simulation can play: memory down to what no process can live with.
    pub(crate) fn any_case()(
        nodes in any_nodes(1..7, 8, 4_096),
        num_lost in prop_oneof![4 => Just(0usize), 1 => 1usize..3],
        driver in (1u32..3, prop_oneof![1 => Just(64u64), 9 => (2u64..8).prop_map(|n| n * 64)]),
        executor in (1u32..4, prop_oneof![1 => 1u64..3, 9 => 3u64..16]),
        executors in (1u32..6, prop_oneof![1 => Just(0u32), 1 => 0u32..4]),
        receivers in (any_receivers(), any_receivers()),
        shards in (1u32..10, 0u32..6),
        zones in prop_oneof![
            2 => Just(None),
            1 => prop::collection::vec(any::<bool>(), 7).prop_map(Some),
        ],
        shares in prop::option::of((5u32..=100, 0u32..60)),
    ) -> Case {
        let mut nodes = nodes;
        // A loss makes the cluster smaller, and all shares with it: a plan knows them as they are.
        let shares = shares.filter(|_| num_lost == 0);
        let shares = shares.map(|(cap, other_guarantee)| Shares { cap, other_guarantee });
        let mut spec = base().clone();
        spec.resources = ResourcesSpec {
            executors: ExecutorCount::range(executors.0, executors.0 + executors.1),
            executor: resources(executor.0, executor.1 * 64),
            driver: resources(driver.0, driver.1),
            ..ResourcesSpec::default()
        };
        if let Some(zones) = zones {
            let zone = |is_here| Labels::parse(if is_here { "zone=here" } else { "zone=there" });
            for (node, is_here) in nodes.iter_mut().zip(zones) {
                node.labels = Some(zone(is_here).unwrap());
            }
            let (label, values) = ("zone".to_owned(), vec!["here".to_owned()]);
            let wanted = [v1::LabelRequirement { label, values }];
            spec.resources.node_selector = NodeSelector::from_proto(&wanted);
        }
        let mut counts = BTreeMap::from([("a".to_owned(), shards.0)]);
        for (name, layout) in [("a", receivers.0), ("b", receivers.1)] {
            spec.sources.get_mut(name).unwrap().receivers = layout;
        }
        if shards.1 == 0 {
            spec.sources.remove("b");
        } else {
            counts.insert("b".to_owned(), shards.1);
        }
        Case { shares, nodes, num_lost, spec, shards: counts }
    }
}

prop_compose! {
    /// What can be tried out in every way: few nodes and executors, and memory that only competes.
    pub(crate) fn small_case()(
        nodes in any_nodes(1..5, 5, 2_048),
        driver in (1u32..4, 2u64..12),
        executor in (1u32..4, 5u64..16),
        num_executors in 1u32..5,
    ) -> Case {
        let mut spec = base().clone();
        spec.resources = ResourcesSpec {
            executors: ExecutorCount::fixed(num_executors),
            executor: resources(executor.0, executor.1 * 64),
            driver: resources(driver.0, driver.1 * 64),
            ..ResourcesSpec::default()
        };
        Case { shares: None, nodes, num_lost: 0, spec, shards: BTreeMap::new() }
    }
}
