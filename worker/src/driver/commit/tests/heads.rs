//! A head store in memory, and the same as a liar: answers get lost, writes come late or twice.
//!
//! Promises: a condition is judged when the write is applied, whenever that is; every applied write
//! is kept in order. Never does: know what is right.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use millrace_common::error::{Code, Error};

use super::time;
use crate::driver::head::{
    AcquireWrite, ChunkName, CommitWrite, HeadItem, HeadStore, PublishedMark, StoreFailure,
    WriteFailure,
};

/// What the table does with one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whim {
    /// Applies it and says so.
    Honest,
    /// Applies it and does not answer.
    LoseAnswer,
    /// Does not answer, and applies it this much later.
    Late(Duration),
    /// Applies it, says so, and applies it once more this much later.
    Twice(Duration),
    /// Throttles it.
    Throttle,
    /// Denies it.
    Deny,
}

/// Where whims come from: called with the name of each call.
pub(super) type Whims = Arc<dyn Fn(&'static str) -> (Duration, Whim) + Send + Sync>;

/// The items of one application.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) item: Option<HeadItem>,
    pub(super) chunks: BTreeMap<ChunkName, Vec<u8>>,
    /// The head after each applied write, in order.
    pub(super) history: Vec<HeadItem>,
    pub(super) num_calls: BTreeMap<&'static str, u32>,
}

/// Which conditions a commit carries; all of them, but for variants that must be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Conditions {
    pub(super) epoch: bool,
    pub(super) batch: bool,
}

impl Conditions {
    pub(super) const ALL: Self = Self { epoch: true, batch: true };
}

/// k0 on this item: the item after it, or the one that refuses it.
pub(super) fn acquired(
    found: Option<&HeadItem>,
    write: &AcquireWrite,
) -> Result<HeadItem, Option<Box<HeadItem>>> {
    write.applied_to(found).ok_or_else(|| found.cloned().map(Box::new))
}

/// k5 on this item: the item after it, or the one that refuses it.
pub(super) fn committed(
    found: Option<&HeadItem>,
    write: &CommitWrite,
    check: Conditions,
) -> Result<HeadItem, Option<Box<HeadItem>>> {
    let fits = |old: &&HeadItem| {
        (!check.epoch || old.epoch == write.epoch) && (!check.batch || old.batch + 1 == write.batch)
    };
    match found.filter(fits) {
        Some(old) => Ok(write.applied_to(old)),
        None => Err(found.cloned().map(Box::new)),
    }
}

/// The mark on this item: the item after it, or the one that refuses it.
pub(super) fn marked(
    found: Option<&HeadItem>,
    mark: &PublishedMark,
) -> Result<HeadItem, Option<Box<HeadItem>>> {
    mark.applied_to(found).ok_or_else(|| found.cloned().map(Box::new))
}

impl Table {
    fn write(
        &mut self,
        written: Result<HeadItem, Option<Box<HeadItem>>>,
    ) -> Result<HeadItem, WriteFailure> {
        let item = written.map_err(WriteFailure::Refused)?;
        self.item = Some(item.clone());
        self.history.push(item.clone());
        Ok(item)
    }

    fn acquire(&mut self, write: &AcquireWrite) -> Result<HeadItem, WriteFailure> {
        self.write(acquired(self.item.as_ref(), write))
    }

    fn commit(&mut self, write: &CommitWrite) -> Result<(), WriteFailure> {
        self.write(committed(self.item.as_ref(), write, Conditions::ALL)).map(drop)
    }

    fn mark(&mut self, mark: &PublishedMark) -> Result<(), WriteFailure> {
        self.write(marked(self.item.as_ref(), mark)).map(drop)
    }
}

/// A store over a table that several stores may share.
#[derive(Clone)]
pub(super) struct FakeHeads {
    pub(super) table: Arc<Mutex<Table>>,
    whims: Whims,
}

impl FakeHeads {
    /// Always honest, at once.
    pub(super) fn honest() -> Self {
        Self::with_whims(Arc::new(|_| (Duration::ZERO, Whim::Honest)))
    }

    /// Honest but for these whims of the writes, one after the other.
    pub(super) fn scripted(whims: impl IntoIterator<Item = Whim>) -> Self {
        let script: Mutex<VecDeque<_>> = Mutex::new(whims.into_iter().collect());
        Self::with_whims(Arc::new(move |call| {
            let is_write = matches!(call, "acquire" | "commit" | "mark");
            let next = if is_write { script.lock().unwrap().pop_front() } else { None };
            (Duration::ZERO, next.unwrap_or(Whim::Honest))
        }))
    }

    pub(super) fn with_whims(whims: Whims) -> Self {
        Self { table: Arc::default(), whims }
    }

    /// The item as it is.
    pub(super) fn item(&self) -> Option<HeadItem> {
        self.table.lock().unwrap().item.clone()
    }

    async fn write<T: Send + 'static>(
        &self,
        call: &'static str,
        apply: impl Fn(&mut Table) -> Result<T, WriteFailure> + Send + 'static,
    ) -> Result<T, WriteFailure> {
        let (latency, whim) = (self.whims)(call);
        *self.table.lock().unwrap().num_calls.entry(call).or_default() += 1;
        time::sleep(latency).await;
        let now = || apply(&mut self.table.lock().unwrap());
        let applied = match whim {
            Whim::Honest => now(),
            Whim::LoseAnswer => {
                let _unheard = now();
                Err(no_answer().into())
            }
            Whim::Late(by) => {
                let table = self.table.clone();
                time::spawn(async move {
                    time::sleep(by).await;
                    let _unheard = apply(&mut table.lock().unwrap());
                });
                Err(no_answer().into())
            }
            Whim::Twice(by) => {
                let first = now();
                let table = self.table.clone();
                time::spawn(async move {
                    time::sleep(by).await;
                    let _unheard = apply(&mut table.lock().unwrap());
                });
                first
            }
            Whim::Throttle => {
                Err(StoreFailure::Again(Error::new(Code::Throttled, "throttled", "wait")).into())
            }
            Whim::Deny => {
                Err(StoreFailure::Denied(Error::new(Code::Forbidden, "denied", "allow it")).into())
            }
        };
        time::sleep(latency).await;
        applied
    }

    /// Calls that are not conditional: applied and answered, or neither.
    async fn plain<T>(
        &self,
        call: &'static str,
        apply: impl FnOnce(&mut Table) -> T,
    ) -> Result<T, StoreFailure> {
        let (latency, whim) = (self.whims)(call);
        *self.table.lock().unwrap().num_calls.entry(call).or_default() += 1;
        time::sleep(latency).await;
        if whim != Whim::Honest {
            return Err(no_answer());
        }
        Ok(apply(&mut self.table.lock().unwrap()))
    }
}

fn no_answer() -> StoreFailure {
    StoreFailure::Again(Error::new(Code::AwsUnreachable, "no answer", "wait"))
}

#[async_trait]
impl HeadStore for FakeHeads {
    async fn read(&self) -> Result<Option<HeadItem>, StoreFailure> {
        self.plain("read", |table| table.item.clone()).await
    }

    async fn acquire(&self, write: &AcquireWrite) -> Result<HeadItem, WriteFailure> {
        let write = write.clone();
        self.write("acquire", move |table| table.acquire(&write)).await
    }

    async fn commit(&self, write: &CommitWrite) -> Result<(), WriteFailure> {
        let write = write.clone();
        self.write("commit", move |table| table.commit(&write)).await
    }

    async fn mark_published(&self, mark: &PublishedMark) -> Result<(), WriteFailure> {
        let mark = mark.clone();
        self.write("mark", move |table| table.mark(&mark)).await
    }

    async fn put_chunk(&self, name: &ChunkName, bytes: &[u8]) -> Result<(), StoreFailure> {
        let (name, bytes) = (name.clone(), bytes.to_vec());
        self.plain("put_chunk", move |table| {
            table.chunks.insert(name, bytes);
        })
        .await
    }

    async fn read_chunk(&self, name: &ChunkName) -> Result<Option<Vec<u8>>, StoreFailure> {
        self.plain("read_chunk", |table| table.chunks.get(name).cloned()).await
    }

    async fn delete_chunk(&self, name: &ChunkName) -> Result<(), StoreFailure> {
        self.plain("delete_chunk", |table| {
            table.chunks.remove(name);
        })
        .await
    }

    async fn list_chunks(&self) -> Result<Vec<ChunkName>, StoreFailure> {
        self.plain("list_chunks", |table| table.chunks.keys().cloned().collect()).await
    }
}
