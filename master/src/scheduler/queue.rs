//! Queues: shares of the cluster, who may submit to each, and what each holds in a round.
//!
//! It promises: no queue is given more than its cap, and nothing that another queue's guarantee has
//! not been filled with. A guarantee is kept free whether it is asked for or not: applications go on
//! for ever and none is ever ended for another, so that one which is given away never comes back.

use std::collections::BTreeMap;

use millrace_common::config::{Shape, Value};
use millrace_common::error::{Code, Error};
use millrace_common::id::QueueName;
use millrace_common::resources::{ByteSize, Resources};
use serde::Deserialize;

use super::placement::{Room, count_fitting};

/// All of the cluster, in hundredths of a percent.
const WHOLE: u32 = 10_000;
/// Who may submit when nobody is named, and everybody when named.
const EVERYBODY: &str = "*";
/// Queues that a reason names before the rest is only counted.
const NAMED_MAX: usize = 3;

/// A share of the cluster, of its cores and its memory alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Share(u32);

impl Share {
    /// In hundredths of a percent.
    pub(crate) fn basis_points(self) -> u32 {
        self.0
    }

    /// So much of it: whole cores and whole MiB, rounded down.
    pub(crate) fn of(self, total: Resources) -> Resources {
        if self.0 == WHOLE {
            return total;
        }
        let part = |whole: u64| {
            let part = u128::from(whole) * u128::from(self.0) / u128::from(WHOLE);
            u64::try_from(part).unwrap_or(whole)
        };
        let cores = u32::try_from(part(u64::from(total.cores))).unwrap_or(total.cores);
        Resources::new(cores, ByteSize::mib(part(total.memory.as_u64() >> 20)))
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, part) => write!(f, "{whole}.{part:02}%"),
        }
    }
}

/// `25%` or `12.5%`.
fn share(text: &str) -> Result<Share, String> {
    let refuse = || format!("{text:?} is not a share: write a percentage, as \"25%\"");
    let number = text.trim().strip_suffix('%').ok_or_else(refuse)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let is_number = |digits: &str| digits.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty() || part.len() > 2 || !is_number(whole) || !is_number(part) {
        return Err(refuse());
    }
    let hundredths: u32 = format!("{whole}{part:0<2}").parse().map_err(|_| refuse())?;
    if hundredths > WHOLE { Err(refuse()) } else { Ok(Share(hundredths)) }
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    /// What nobody else is given.
    pub guarantee: Share,
    /// What it never goes beyond.
    pub cap: Share,
    /// Who may submit to it.
    pub submit: Vec<String>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { guarantee: Share(0), cap: Share(WHOLE), submit: vec![EVERYBODY.to_owned()] }
    }
}

/// The queues of a cluster, by name. The queue `default` is always there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queues(BTreeMap<QueueName, Queue>);

impl Default for Queues {
    fn default() -> Self {
        Self(BTreeMap::from([(QueueName::default(), Queue::default())]))
    }
}

impl Queues {
    /// Every queue, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&QueueName, &Queue)> {
        self.0.iter()
    }

    /// Whether this user may submit to this queue. The user of a cluster without users is empty.
    ///
    /// # Errors
    /// [`Code::UnknownQueue`]; [`Code::QueueDenied`].
    pub(crate) fn admit(&self, name: &QueueName, user: &str) -> Result<(), Error> {
        let Some(queue) = self.0.get(name) else {
            return Err(Error::new(
                Code::UnknownQueue,
                format!("this cluster has no queue {name}"),
                format!("set `queue` to one of {}, or leave it out", self.names()),
            ));
        };
        let may = |entry: &String| entry == EVERYBODY || (!user.is_empty() && entry == user);
        if queue.submit.iter().any(may) {
            return Ok(());
        }
        let who = if user.is_empty() { "a user without a name" } else { user };
        Err(Error::new(
            Code::QueueDenied,
            format!("{who} may not submit to queue {name}"),
            format!(
                "submit to another queue, or have the master's `[queue.{name}] submit` name the \
                 user"
            ),
        ))
    }

    /// What stands against so much in this queue when it and all others hold nothing of `total`, with
    /// its numbers; none when nothing does.
    pub(crate) fn never_allows(
        &self,
        name: &QueueName,
        cost: Resources,
        total: Resources,
    ) -> Option<String> {
        Ledger { queues: self, total, free: total, used: BTreeMap::new() }.explain(name, cost)
    }

    fn names(&self) -> String {
        self.0.keys().map(QueueName::as_str).collect::<Vec<_>>().join(", ")
    }

    /// A queue that the configuration has no more holds what it has, without a guarantee.
    fn get(&self, name: &QueueName) -> Queue {
        self.0.get(name).cloned().unwrap_or_default()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    #[serde(default)]
    guarantee: Option<String>,
    #[serde(default)]
    cap: Option<String>,
    #[serde(default)]
    submit: Option<Vec<String>>,
}

/// `[queue.NAME]` with `guarantee`, `cap` and `submit`.
impl Value for Queues {
    const FORM: &'static str =
        "tables [queue.NAME] with guarantee = \"25%\", cap = \"50%\", submit = [\"alice\", \"*\"]";
    const SHAPE: Shape = Shape::Table;

    fn parse(text: &str) -> Result<Self, String> {
        let mut queues = Self::default();
        if text.is_empty() {
            return Ok(queues);
        }
        let forms: BTreeMap<String, BTreeMap<String, Form>> =
            toml::from_str(&format!("queue = {text}"))
                .map_err(|error| error.message().trim().replace('\n', " "))?;
        let mut guaranteed = 0;
        for (name, form) in forms.into_values().flatten() {
            let queue = parse_queue(&name, form).map_err(|why| format!("[queue.{name}]: {why}"))?;
            guaranteed += queue.guarantee.0;
            queues.0.insert(QueueName::new(name), queue);
        }
        if guaranteed > WHOLE {
            let sum = Share(guaranteed);
            return Err(format!("the guarantees add up to {sum}: let them be 100% at most"));
        }
        Ok(queues)
    }
}

fn parse_queue(name: &str, form: Form) -> Result<Queue, String> {
    QueueName::parse(name).map_err(|error| error.next_move().to_owned())?;
    let default = Queue::default();
    let part = |text: Option<String>, default| text.map_or(Ok(default), |text| share(&text));
    let guarantee = part(form.guarantee, default.guarantee)?;
    let cap = part(form.cap, default.cap)?;
    if guarantee > cap {
        return Err(format!("its guarantee {guarantee} is above its cap {cap}"));
    }
    Ok(Queue { guarantee, cap, submit: form.submit.unwrap_or(default.submit) })
}

/// What the queues hold and may take, in one round.
#[derive(Clone, Debug)]
pub(super) struct Ledger<'a> {
    queues: &'a Queues,
    /// All that the nodes offer, used or not.
    total: Resources,
    /// What is free on them.
    free: Resources,
    used: BTreeMap<QueueName, Resources>,
}

impl<'a> Ledger<'a> {
    /// `used` is what the queues hold on these nodes.
    pub(super) fn new(
        queues: &'a Queues,
        rooms: &[Room],
        used: BTreeMap<QueueName, Resources>,
    ) -> Self {
        let sum = |part: fn(&Room) -> Resources| {
            rooms.iter().map(part).fold(Resources::default(), Resources::saturating_add)
        };
        Self { queues, total: sum(|room| room.offered), free: sum(|room| room.free), used }
    }

    /// The same nodes with nothing on them.
    pub(super) fn emptied(&self) -> Self {
        Self { free: self.total, used: BTreeMap::new(), ..self.clone() }
    }

    fn used(&self, queue: &QueueName) -> Resources {
        self.used.get(queue).copied().unwrap_or_default()
    }

    /// What is left of the queue's cap.
    fn below_cap(&self, queue: &QueueName) -> Resources {
        let cap = self.queues.get(queue).cap.of(self.total);
        saturating_sub(cap, self.used(queue))
    }

    /// What is kept for other queues: their guarantees, as far as they do not fill them.
    fn kept_for_others(&self, queue: &QueueName) -> Resources {
        let others = self.queues.iter().filter(|(name, _)| *name != queue);
        others
            .map(|(name, other)| saturating_sub(other.guarantee.of(self.total), self.used(name)))
            .fold(Resources::default(), Resources::saturating_add)
    }

    /// How many containers of this cost the queue may take now, whatever room the nodes have.
    pub(super) fn count_allowed(&self, queue: &QueueName, cost: Resources) -> u64 {
        let unkept = saturating_sub(self.free, self.kept_for_others(queue));
        count_fitting(self.below_cap(queue), cost).min(count_fitting(unkept, cost))
    }

    /// True when the queue would still be within its guarantee: that room is its own.
    pub(super) fn is_guaranteed(&self, queue: &QueueName, cost: Resources) -> bool {
        let guarantee = self.queues.get(queue).guarantee.of(self.total);
        guarantee.fits(self.used(queue).saturating_add(cost))
    }

    /// A container of this cost gets a place, or will have one in a moment.
    pub(super) fn take(&mut self, queue: &QueueName, cost: Resources) {
        self.free = saturating_sub(self.free, cost);
        let used = self.used.entry(queue.clone()).or_default();
        *used = used.saturating_add(cost);
    }

    /// Which cap or guarantee stands against containers of this cost in all, with its numbers; none
    /// when none does.
    pub(super) fn explain(&self, queue: &QueueName, cost: Resources) -> Option<String> {
        let (rule, used) = (self.queues.get(queue), self.used(queue));
        let cap = rule.cap.of(self.total);
        // Of a queue that may hold everything it is the room that is lacking.
        if cap != self.total && !self.below_cap(queue).fits(cost) {
            let holds = if used == Resources::default() {
                String::new()
            } else {
                format!(", and holds {used}")
            };
            return Some(format!(
                "queue {queue} may hold {} of the cluster ({cap}){holds}",
                rule.cap,
            ));
        }
        let kept = self.kept_for_others(queue);
        if saturating_sub(self.free, kept).fits(cost) || kept == Resources::default() {
            return None;
        }
        let keeping: Vec<String> = self
            .queues
            .iter()
            .filter(|(name, _)| *name != queue)
            .filter_map(|(name, other)| {
                let guarantee = other.guarantee.of(self.total);
                let used = self.used(name);
                (saturating_sub(guarantee, used) != Resources::default()).then(|| {
                    format!(
                        "queue {name} is guaranteed {} ({guarantee}) and holds {used}",
                        other.guarantee
                    )
                })
            })
            .collect();
        let rest = keeping.len().saturating_sub(NAMED_MAX);
        let more = if rest > 0 { format!(", and {rest} more queues") } else { String::new() };
        let named = keeping.into_iter().take(NAMED_MAX).collect::<Vec<_>>().join(", ");
        Some(format!("of the free {}, {kept} is kept for other queues: {named}{more}", self.free))
    }
}

/// Each of cores and memory, never below nothing.
pub(super) fn saturating_sub(from: Resources, part: Resources) -> Resources {
    Resources::new(
        from.cores.saturating_sub(part.cores),
        ByteSize::bytes(from.memory.as_u64().saturating_sub(part.memory.as_u64())),
    )
}

/// So many of this cost.
pub(crate) fn times(cost: Resources, count: u32) -> Resources {
    Resources::new(
        cost.cores.saturating_mul(count),
        ByteSize::bytes(cost.memory.as_u64().saturating_mul(u64::from(count))),
    )
}
