//! The lines of the driver's and the executors' places, and what is short when they do not fit.

use super::line::{Line, Status, about, counted, words};
use super::places::{self, Shape};
use super::{Nodes, Question, Share};
use crate::resources::Resources;

/// Nodes as they are offered, or as they are free now.
#[derive(Clone, Copy)]
struct Side<'a> {
    rooms: &'a [Resources],
    /// Executors that fit beside the driver.
    fit: Option<u64>,
    is_now: bool,
}

impl Side<'_> {
    /// As `4 nodes offer`, or `3 of 4 nodes offer` after a loss.
    fn nodes(self, num_lost: usize) -> String {
        let left = self.rooms.len().saturating_sub(num_lost);
        let verb = match (self.is_now, left) {
            (false, 1) => "offers",
            (false, _) => "offer",
            (true, 1) => "has free",
            (true, _) => "have free",
        };
        let all = counted(self.rooms.len() as u64, "node");
        if num_lost == 0 { format!("{all} {verb}") } else { format!("{left} of {all} {verb}") }
    }

    fn status(self) -> Status {
        if self.is_now { Status::NotNow } else { Status::Never }
    }
}

pub(super) fn lines(
    question: Question<'_>,
    nodes: &Nodes,
    shape: Shape,
    (fit, fit_now): (Option<u64>, Option<u64>),
) -> [Line; 2] {
    let empty = Side { rooms: &nodes.offered, fit, is_now: false };
    let now = Side { rooms: &nodes.free, fit: fit_now, is_now: true };
    let sides = [empty, now];
    [driver(question, shape, sides), executors(question, shape, sides)]
}

/// What driver and minimum take of the queue's share. Past it the application waits: shares are
/// settings, and others end.
pub(super) fn share(share: &Share, shape: Shape) -> Line {
    let need = places::total(shape, u64::from(shape.min));
    let has = format!("{} may be taken now", words(share.now));
    let line =
        |status| Line::new(format!("queue {}", share.queue), words(need), has.clone(), status);
    if share.now.fits(need) {
        return line(Status::Ok);
    }
    let why = format!(
        "driver and {} need {} and queue {} may take {} now",
        counted(u64::from(shape.min), "executor"),
        words(need),
        share.queue,
        words(share.now)
    );
    line(Status::NotNow).because(why)
}

fn after_loss(num_lost: usize) -> String {
    match num_lost {
        0 => String::new(),
        lost => format!("with any {} lost ", counted(lost as u64, "node")),
    }
}

fn driver(question: Question<'_>, shape: Shape, sides: [Side<'_>; 2]) -> Line {
    let places = |side: Side<'_>| side.rooms.iter().filter(|room| room.fits(shape.driver)).count();
    let [empty, now] = sides.map(places);
    let mut has = format!("fits on {empty} of {}", counted(sides[0].rooms.len() as u64, "node"));
    if now != empty {
        has = format!("{has}, on {now} now");
    }
    let line = |status| Line::new("driver", words(shape.driver), has.clone(), status);
    let Some(side) = sides.into_iter().find(|side| side.fit.is_none()) else {
        return line(Status::Ok);
    };
    let why = match places(side) {
        0 => too_large(question, side, "the driver", shape.driver),
        number => format!(
            "the driver fits on {} and {} may be lost",
            counted(number as u64, "node"),
            question.num_lost
        ),
    };
    line(side.status()).because(why)
}

/// Why a container fits on none of the nodes.
fn too_large(question: Question<'_>, side: Side<'_>, what: &str, cost: Resources) -> String {
    let selector = &question.spec.resources.node_selector;
    let cores = side.rooms.iter().map(|room| room.cores).max();
    let memory = side.rooms.iter().map(|room| room.memory).max();
    let (Some(cores), Some(memory)) = (cores, memory) else {
        let labels = match selector.is_empty() {
            true => String::new(),
            false => format!(" (with the labels {selector})"),
        };
        return format!("{what} needs a node, and there is none that it may be placed on{labels}");
    };
    let most = if side.is_now { "has free" } else { "offers" };
    if cost.cores > cores {
        let asked = counted(u64::from(cost.cores), "core");
        return format!("{what} asks for {asked} and no node {most} more than {cores}");
    }
    if cost.memory > memory {
        let (asked, memory) = (about(cost.memory.as_u64()), about(memory.as_u64()));
        return format!("{what} asks for {asked} of memory and no node {most} more than {memory}");
    }
    format!("{what} asks for {} and no node {most} both", words(cost))
}

fn executors(question: Question<'_>, shape: Shape, sides: [Side<'_>; 2]) -> Line {
    let count = question.spec.resources.executors;
    let number = if count.min == count.max {
        count.min.to_string()
    } else {
        format!("{} to {}", count.min, count.max)
    };
    let needs = format!("{number} x ({})", words(shape.executor));
    let (fit, has) = fitting(question, shape, sides);
    let lost = after_loss(question.num_lost);
    let has = format!("{lost}{has}");
    let line = |status| Line::new("executors", needs.clone(), has.clone(), status);
    let minimum = u64::from(count.min);
    let Some((index, _)) = fit.iter().enumerate().find(|(_, fit)| **fit < minimum) else {
        return line(Status::Ok);
    };
    let side = sides[index];
    line(side.status()).because(short(question, shape, side, fit[index]))
}

/// How many executors fit on the empty cluster and now, beside the driver where it has a place.
fn fitting(question: Question<'_>, shape: Shape, sides: [Side<'_>; 2]) -> ([u64; 2], String) {
    let alone = Shape { driver: Resources::default(), ..shape };
    let fit = sides.map(|side| {
        let alone = || places::beside_driver(side.rooms, alone, question.num_lost);
        side.fit.or_else(alone).unwrap_or(0)
    });
    let beside = if sides[0].fit.is_some() { "beside" } else { "without" };
    let mut has = format!("{} fit {beside} the driver", fit[0]);
    if fit[1] != fit[0] {
        has = format!("{has}, {} now", fit[1]);
    }
    (fit, has)
}

/// What is short when fewer executors fit than have to.
fn short(question: Question<'_>, shape: Shape, side: Side<'_>, fit: u64) -> String {
    let minimum = u64::from(shape.min);
    if !side.rooms.iter().any(|room| room.fits(shape.executor)) {
        return too_large(question, side, "an executor", shape.executor);
    }
    let missing = minimum - fit;
    let verb = if missing == 1 { "is" } else { "are" };
    let end = format!(
        "{}{fit} fit beside the driver and {missing} of {minimum} {verb} missing",
        after_loss(question.num_lost)
    );
    let need = places::total(shape, minimum);
    let have = places::sum_after_loss(side.rooms, question.num_lost);
    let nodes = side.nodes(question.num_lost);
    let executors = counted(minimum, "executor");
    if need.cores > have.cores {
        let (each, driver) = (shape.executor.cores, shape.driver.cores);
        let need = counted(u64::from(need.cores), "core");
        return format!(
            "{executors} x {} + the driver's {driver} need {need} and {nodes} {}: {end}",
            counted(u64::from(each), "core"),
            have.cores
        );
    }
    if need.memory > have.memory {
        let [each, driver, need, have] =
            [shape.executor.memory, shape.driver.memory, need.memory, have.memory]
                .map(|size| about(size.as_u64()));
        return format!(
            "{executors} x {each} + the driver's {driver} need {need} of memory and {nodes} \
             {have}: {end}"
        );
    }
    format!(
        "{executors} of {} and the driver need {}, which {nodes} in sum ({}) but not in pieces: \
         {end}",
        words(shape.executor),
        words(need),
        words(have)
    )
}
