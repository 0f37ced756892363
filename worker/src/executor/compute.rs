//! The compute threads of an executor: exactly as many as it was granted cores.
//!
//! Promises: every DataFusion stream of the executor is created and polled on these threads, and
//! nothing else is; a panic on one of them is counted.
//! Owned by the executor's main. Never does: serve connections, call AWS, or receive records.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

thread_local! {
    /// The counter of the pool this thread belongs to.
    static PANICS: RefCell<Option<Arc<AtomicU64>>> = const { RefCell::new(None) };
}

/// Stack of a compute thread. Plans nest deeply, and a debug build uses far more of it.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// A runtime of its own for computing. Dropping it stops the threads without waiting for them.
#[derive(Debug)]
pub struct ComputePool {
    runtime: Option<Runtime>,
    threads: usize,
    panics: Arc<AtomicU64>,
}

impl ComputePool {
    /// Starts `threads` threads, named `compute-0` and so on; at least one.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start(threads: usize) -> io::Result<Self> {
        count_panics();
        let threads = threads.max(1);
        let panics = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&panics);
        let number = AtomicU64::new(0);
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name_fn(move || format!("compute-{}", number.fetch_add(1, Ordering::Relaxed)))
            .thread_stack_size(STACK_BYTES)
            .on_thread_start(move || {
                PANICS.with(|slot| *slot.borrow_mut() = Some(Arc::clone(&counter)));
            })
            .enable_all()
            .build()?;
        Ok(Self { runtime: Some(runtime), threads, panics })
    }

    /// Compute threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Where to spawn work that computes.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("the runtime is there until the pool is dropped").handle()
    }

    /// Runs a future on a compute thread; the handle tells of its end, panics included.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.handle().spawn(future)
    }

    /// Panics seen on the compute threads since the start, caught or not.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::SeqCst)
    }
}

impl Drop for ComputePool {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Puts a counting hook before the process's panic hook, once.
fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // A thread that is being torn down has no slot any more; it computes nothing either.
            let counted = PANICS.try_with(|slot| {
                if let Ok(slot) = slot.try_borrow()
                    && let Some(counter) = slot.as_ref()
                {
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            });
            debug_assert!(counted.is_ok() || std::thread::panicking());
            previous(info);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_on_a_compute_thread_is_counted_by_its_own_pool() {
        let (one, other) = (ComputePool::start(2).unwrap(), ComputePool::start(1).unwrap());
        let end = one.spawn(async { panic!("on purpose") }).await;
        assert!(end.is_err());
        assert_eq!((one.panics(), other.panics()), (1, 0));
    }

    #[tokio::test]
    async fn threads_carry_their_name() {
        let pool = ComputePool::start(1).unwrap();
        let name = pool.spawn(async { std::thread::current().name().map(str::to_owned) }).await;
        assert_eq!(name.unwrap().as_deref(), Some("compute-0"));
    }
}
