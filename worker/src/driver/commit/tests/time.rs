//! Virtual time: a scheduler of one thread whose clock jumps to the next timer when all tasks wait.
//!
//! Promises: the same tasks run in the same order, whatever the machine does; nothing waits for
//! real. Never does: run outside [`run`].

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use millrace_common::clock::Clock;

use super::super::pace::Pace;

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

/// Runs a task beside all others.
pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    with(|scheduler| {
        scheduler.next_id += 1;
        let id = scheduler.next_id;
        scheduler.spawned.push((id, Box::pin(task)));
    });
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

/// When every test begins, Unix time in milliseconds.
const START_MS: i64 = 1_767_225_600_000;

/// The clock of virtual time.
#[derive(Clone, Copy, Debug)]
pub(super) struct VirtualClock;

impl Clock for VirtualClock {
    fn now_ms(&self) -> i64 {
        START_MS + i64::try_from(now().as_millis()).unwrap()
    }

    fn monotonic(&self) -> Duration {
        now()
    }
}

/// A pace in virtual time whose ids are random.
pub(super) fn virtual_pace() -> Pace {
    let pause = |pause| Box::pin(sleep(pause)) as BoxFuture<'static, ()>;
    Pace::simulated(Arc::new(VirtualClock), Arc::new(pause), Arc::new(uuid::Uuid::new_v4))
}
