//! The steps k0..k8 by name, so that tests can make a driver die or stall at any of them.
//!
//! Promises: without the feature `failpoints` a step costs nothing and can do nothing.
//! Never does: decide.
//!
//! With the feature, each step has two failpoints, `k5-before` and `k5-after`, set by the
//! environment variable `FAILPOINTS` (see [`crate::failpoints`]): `k5-after=return` aborts the
//! process, `k6-before=sleep(30000)` or `k6-before=pause` stalls the step. A file of that name in
//! `FAILPOINTS_DIR` does the same to the first process that comes by.

/// A step of the commit, by its name in the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Acquire the head.
    K0,
    /// Complete what the driver before left.
    K1,
    /// Plan a batch.
    K2,
    /// Run its tasks.
    K3,
    /// Choose the result of its first successful run.
    K4,
    /// Commit.
    K5,
    /// Complete the uploads.
    K6,
    /// Tell everybody, drop the blocks.
    K7,
    /// Go on to the next batch.
    K8,
}

/// Which side of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Edge {
    /// It has not begun.
    Before,
    /// It has ended well.
    After,
}

/// The failpoint's name, as `k5-before`.
#[must_use]
pub fn name(step: Step, edge: Edge) -> String {
    let edge = match edge {
        Edge::Before => "before",
        Edge::After => "after",
    };
    format!("{step:?}-{edge}").to_lowercase()
}

/// The driver is at this point.
#[cfg(feature = "failpoints")]
pub async fn reached(step: Step, edge: Edge) {
    let name = name(step, edge);
    if let Err(error) = crate::failpoints::take(&name) {
        tracing::error!(%error, "a failpoint makes no sense");
        std::process::abort();
    }
    if !fail::list().iter().any(|(point, _)| *point == name) {
        return;
    }
    // On a thread of its own: a stalled step must not stop the driver's heartbeats.
    let evaluated = tokio::task::spawn_blocking(move || {
        fail::eval(&name, |_| {
            tracing::error!(failpoint = name, "the process aborts as told");
            std::process::abort()
        })
    });
    if let Err(error) = evaluated.await {
        tracing::error!(%error, "a failpoint panicked");
        std::process::abort();
    }
}

/// The driver is at this point.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub async fn reached(_step: Step, _edge: Edge) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_design() {
        assert_eq!(name(Step::K5, Edge::Before), "k5-before");
        assert_eq!(name(Step::K0, Edge::After), "k0-after");
    }
}
