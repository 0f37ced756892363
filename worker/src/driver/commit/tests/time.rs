//! Virtual time: a scheduler of one thread whose clock jumps to the next timer when all tasks wait.
//!
//! Promises: the same tasks run in the same order, whatever the machine does; nothing waits for
//! real. Never does: run outside [`run`].

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Default)]
struct Scheduler {
    now: Duration,
    next_id: u64,
    timers: BTreeMap<(Duration, u64), Waker>,
    /// Tasks that were spawned and not yet taken up.
    spawned: Vec<(u64, Task)>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Mutex<Scheduler>>>> = const { RefCell::new(None) };
}

fn with<T>(act: impl FnOnce(&mut Scheduler) -> T) -> T {
    CURRENT.with_borrow(|current| {
        let scheduler = current.as_ref().expect("the test runs inside time::run");
        act(&mut scheduler.lock().unwrap())
    })
}

/// Time since the world began.
pub(super) fn now() -> Duration {
    with(|scheduler| scheduler.now)
}

/// Waits, and lets everybody else go first even when the time is none.
pub(super) fn sleep(pause: Duration) -> Sleep {
    Sleep { pause, until: None }
}

pub(super) struct Sleep {
    pause: Duration,
    until: Option<Duration>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let pause = self.pause;
        with(|scheduler| {
            if self.until.is_some_and(|until| until <= scheduler.now) {
                return Poll::Ready(());
            }
            let until = *self.until.get_or_insert(scheduler.now + pause);
            scheduler.next_id += 1;
            let id = scheduler.next_id;
            scheduler.timers.insert((until, id), context.waker().clone());
            Poll::Pending
        })
    }
}

/// A task's handle: lets it be crashed, or waited for.
#[derive(Clone, Debug, Default)]
pub(super) struct Handle {
    is_aborted: Arc<AtomicBool>,
    is_done: Arc<AtomicBool>,
}

impl Handle {
    /// The task is not run any further: it stops where it waits.
    pub(super) fn abort(&self) {
        self.is_aborted.store(true, Ordering::Relaxed);
    }

    /// True when the task came to its end in time.
    pub(super) async fn ends_within(&self, patience: Duration) -> bool {
        let until = now() + patience;
        while now() < until && !self.is_done.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(100)).await;
        }
        self.is_done.load(Ordering::Relaxed)
    }
}

/// Runs a task beside all others.
pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Handle {
    let handle = Handle::default();
    let (is_aborted, is_done) = (handle.is_aborted.clone(), handle.is_done.clone());
    let mut task: Task = Box::pin(task);
    let crashable = std::future::poll_fn(move |context| {
        if is_aborted.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        let polled = task.as_mut().poll(context);
        is_done.store(polled.is_ready(), Ordering::Relaxed);
        polled
    });
    with(|scheduler| {
        scheduler.next_id += 1;
        let id = scheduler.next_id;
        scheduler.spawned.push((id, Box::pin(crashable)));
    });
    handle
}

struct Alarm {
    id: u64,
    ready: Arc<Mutex<VecDeque<u64>>>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.ready.lock().unwrap().push_back(self.id);
    }
}

/// Runs `main` to its end in a time of its own, and drops whatever still runs beside it.
pub(super) fn run<T>(main: impl Future<Output = T>) -> T {
    const MAIN: u64 = 0;
    let scheduler = Arc::new(Mutex::new(Scheduler::default()));
    let outer = CURRENT.replace(Some(scheduler.clone()));
    let ready = Arc::new(Mutex::new(VecDeque::from([MAIN])));
    let waker = |id| Waker::from(Arc::new(Alarm { id, ready: ready.clone() }));
    let mut main = std::pin::pin!(main);
    let mut tasks: BTreeMap<u64, Task> = BTreeMap::new();
    let result = loop {
        for (id, task) in std::mem::take(&mut scheduler.lock().unwrap().spawned) {
            tasks.insert(id, task);
            ready.lock().unwrap().push_back(id);
        }
        let next = ready.lock().unwrap().pop_front();
        let waker = next.map(waker);
        match (next, waker) {
            (Some(MAIN), Some(waker)) => {
                if let Poll::Ready(result) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                    break result;
                }
            }
            (Some(id), Some(waker)) => {
                let ended = tasks.get_mut(&id).is_some_and(|task| {
                    task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
                });
                if ended {
                    tasks.remove(&id);
                }
            }
            _ => {
                let mut scheduler = scheduler.lock().unwrap();
                let ((until, _), waker) =
                    scheduler.timers.pop_first().expect("somebody waits for something that comes");
                scheduler.now = scheduler.now.max(until);
                drop(scheduler);
                waker.wake();
            }
        }
    };
    CURRENT.set(outer);
    result
}
