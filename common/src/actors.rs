//! The thread that actors live on.
//!
//! Promises: an actor that was started and never polled ends without a panic: it begins when it is
//! dropped, and finds its runtime around it. Owned by a process's main.

use tokio::runtime::Runtime;

/// Runs `work` to its end on this thread, with an actix system on `runtime`.
pub fn block_on<F: Future>(runtime: Runtime, work: F) -> F::Output {
    let system = actix::System::with_tokio_rt(|| runtime);
    let output = system.block_on(work);
    let handle = system.runtime().tokio_runtime().handle().clone();
    let _around = handle.enter();
    drop(system);
    output
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use actix::prelude::*;

    use super::*;

    struct Late(Arc<AtomicBool>);

    impl Actor for Late {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Self::Context) {
            ctx.run_interval(Duration::from_secs(1), |_, _| {});
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn an_actor_that_had_no_turn_ends_without_a_panic() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let has_begun = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&has_begun);
        let address = block_on(runtime, async move { Late(begins).start() });
        assert!(has_begun.load(Ordering::Relaxed), "it began while it was dropped");
        assert!(!address.connected());
    }
}
