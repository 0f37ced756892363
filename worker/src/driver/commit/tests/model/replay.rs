//! A driver as a function of the answers it got: the real code is run again from its last proof, is
//! given every answer that was delivered so far, and stops at the calls that are still open.
//!
//! Promises: the same answers lead to the same calls; pauses take no time; no call is answered that
//! the model did not answer. Never does: know what a right answer is.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use millrace_common::clock::ManualClock;
use millrace_common::error::{Code, Error};

use super::super::super::core::{COMPLETE_SETTLES, CompleteAnswer};
use super::super::super::heads::HEAD_CALL_DEADLINE;
use super::super::super::pace::Pace;
use super::super::super::uploads::{Completed, Seen, StoredParts, UploadStore};
use super::world::Ran;
use crate::driver::head::{
    AcquireWrite, ChunkName, CommitWrite, HeadItem, HeadStore, PendingUpload, Positions,
    PublishedMark, StoreFailure, StoredBody, WriteFailure,
};

/// A call by its name and how often it was made before: an answer belongs to one of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Call {
    pub(super) name: Name,
    pub(super) nth: u8,
}

/// What is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Name {
    Read,
    Acquire,
    Commit,
    Mark,
    PutChunk(u32),
    ReadChunk(u32),
    DeleteChunk(String, u32),
    ListChunks,
    Complete(String),
    Look(String),
    /// Only of drivers by hand: runs the tasks of a batch.
    Run(u64),
    /// Only of one that must be caught.
    Abort(String),
}

/// What the call asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Request {
    Read,
    Acquire(AcquireWrite),
    Commit(CommitWrite),
    Mark(PublishedMark),
    PutChunk(ChunkName, Vec<u8>),
    ReadChunk(ChunkName),
    DeleteChunk(ChunkName),
    ListChunks,
    Complete(String),
    Look(String),
    Run { positions: Positions, batch: u64 },
    Abort(String),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// None: it may have been applied or not, now or later.
    Silence,
    Item(Option<HeadItem>),
    Acquired(HeadItem),
    Refused(Option<Box<HeadItem>>),
    Done,
    Chunk(Option<Vec<u8>>),
    Chunks(Vec<ChunkName>),
    Completed(CompleteAnswer),
    Seen(Look),
    Ran(Ran),
}

/// What a look at a key shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Look {
    Object(String),
    Missing,
    Forbidden,
}

impl Eq for Answer {}

impl Hash for Answer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::Silence | Self::Done => {}
            Self::Item(item) => item.iter().for_each(|item| hash_item(item, state)),
            Self::Refused(item) => item.iter().for_each(|item| hash_item(item, state)),
            Self::Acquired(item) => hash_item(item, state),
            Self::Chunk(bytes) => bytes.hash(state),
            Self::Chunks(names) => {
                for name in names {
                    (name.batch, &name.commit_id, name.index).hash(state);
                }
            }
            Self::Completed(answer) => format!("{answer:?}").hash(state),
            Self::Seen(look) => look.hash(state),
            Self::Ran(ran) => ran.hash(state),
        }
    }
}

/// Everything of an item in which two of them can differ here.
pub(super) fn hash_item<H: Hasher>(item: &HeadItem, state: &mut H) {
    (item.epoch, item.batch, &item.commit_id, &item.owner, &item.starts).hash(state);
    (&item.repair, &item.published).hash(state);
    match &item.body {
        StoredBody::None => 0.hash(state),
        StoredBody::Inline(bytes) => bytes.hash(state),
        StoredBody::Chunked { count, hash } => (count, hash).hash(state),
    }
}

/// The answers that a driver got since its last proof.
pub(super) type Answers = BTreeMap<Call, Answer>;

/// Both stores, answering from what was answered before.
#[derive(Clone)]
pub(super) struct Replay {
    inner: Arc<Mutex<Inner>>,
    /// Moves only when a look shows no object: then five minutes pass at once.
    clock: Arc<ManualClock>,
}

struct Inner {
    answers: Answers,
    num_calls: BTreeMap<Name, u8>,
    open: Vec<(Call, Request)>,
}

impl Replay {
    pub(super) fn of(answers: &Answers) -> Self {
        let (num_calls, open) = Default::default();
        let inner = Inner { answers: answers.clone(), num_calls, open };
        Self { inner: Arc::new(Mutex::new(inner)), clock: ManualClock::at(0) }
    }

    /// Runs a driver as far as its answers go: its result, or the calls that wait.
    pub(super) fn run<T>(
        &self,
        driver: impl Future<Output = T>,
    ) -> Result<T, Vec<(Call, Request)>> {
        let mut driver = std::pin::pin!(driver);
        let mut context = Context::from_waker(Waker::noop());
        // Nothing wakes anybody, so it is polled until no call is new.
        let mut num_open = usize::MAX;
        loop {
            if let Poll::Ready(result) = driver.as_mut().poll(&mut context) {
                return Ok(result);
            }
            let open = self.inner.lock().unwrap().open.clone();
            if open.len() == num_open {
                assert_ne!(num_open, 0, "the driver waits for nothing");
                return Err(open);
            }
            num_open = open.len();
        }
    }

    pub(super) async fn ask(&self, name: Name, request: Request) -> Answer {
        let known = {
            let mut inner = self.inner.lock().unwrap();
            let nth = inner.num_calls.entry(name.clone()).or_default();
            let call = Call { name, nth: *nth };
            *nth += 1;
            let known = inner.answers.get(&call).cloned();
            if known.is_none() {
                inner.open.push((call, request));
            }
            known
        };
        match known {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    /// Pauses end at once and deadlines never come: silence is an answer of the model's. The ids
    /// are those of a batch of an epoch, the first of them the commit's.
    pub(super) fn pace(&self, epoch: u64, batch: u64) -> Pace {
        let sleep = |pause: Duration| -> BoxFuture<'static, ()> {
            if pause == HEAD_CALL_DEADLINE {
                return Box::pin(std::future::pending());
            }
            Box::pin(std::future::ready(()))
        };
        let next = Mutex::new(0);
        let uuids = move || {
            let mut next = next.lock().unwrap();
            *next += 1;
            uuid::Uuid::from_u64_pair(epoch << 32 | batch, *next)
        };
        Pace::simulated(self.clock.clone(), Arc::new(sleep), Arc::new(uuids))
    }

    async fn write(&self, name: Name, request: Request) -> Result<Option<HeadItem>, WriteFailure> {
        match self.ask(name, request).await {
            Answer::Acquired(item) => Ok(Some(item)),
            Answer::Done => Ok(None),
            Answer::Refused(found) => Err(WriteFailure::Refused(found)),
            _ => Err(no_answer().into()),
        }
    }
}

fn no_answer() -> StoreFailure {
    StoreFailure::Again(Error::new(Code::AwsUnreachable, "no answer", "wait"))
}

#[async_trait]
impl HeadStore for Replay {
    async fn read(&self) -> Result<Option<HeadItem>, StoreFailure> {
        match self.ask(Name::Read, Request::Read).await {
            Answer::Item(item) => Ok(item),
            _ => Err(no_answer()),
        }
    }

    async fn acquire(&self, write: &AcquireWrite) -> Result<HeadItem, WriteFailure> {
        let item = self.write(Name::Acquire, Request::Acquire(write.clone())).await?;
        Ok(item.expect("an acquired head is answered"))
    }

    async fn commit(&self, write: &CommitWrite) -> Result<(), WriteFailure> {
        self.write(Name::Commit, Request::Commit(write.clone())).await.map(drop)
    }

    async fn mark_published(&self, mark: &PublishedMark) -> Result<(), WriteFailure> {
        self.write(Name::Mark, Request::Mark(mark.clone())).await.map(drop)
    }

    async fn put_chunk(&self, name: &ChunkName, bytes: &[u8]) -> Result<(), StoreFailure> {
        let request = Request::PutChunk(name.clone(), bytes.to_vec());
        match self.ask(Name::PutChunk(name.index), request).await {
            Answer::Done => Ok(()),
            _ => Err(no_answer()),
        }
    }

    async fn read_chunk(&self, name: &ChunkName) -> Result<Option<Vec<u8>>, StoreFailure> {
        match self.ask(Name::ReadChunk(name.index), Request::ReadChunk(name.clone())).await {
            Answer::Chunk(bytes) => Ok(bytes),
            _ => Err(no_answer()),
        }
    }

    async fn delete_chunk(&self, name: &ChunkName) -> Result<(), StoreFailure> {
        let call = Name::DeleteChunk(name.commit_id.clone(), name.index);
        match self.ask(call, Request::DeleteChunk(name.clone())).await {
            Answer::Done => Ok(()),
            _ => Err(no_answer()),
        }
    }

    async fn list_chunks(&self) -> Result<Vec<ChunkName>, StoreFailure> {
        match self.ask(Name::ListChunks, Request::ListChunks).await {
            Answer::Chunks(names) => Ok(names),
            _ => Err(no_answer()),
        }
    }
}

#[async_trait]
impl UploadStore for Replay {
    async fn complete(&self, upload: &PendingUpload) -> Completed {
        let id = upload.upload_id.clone();
        let answer = match self.ask(Name::Complete(id.clone()), Request::Complete(id)).await {
            Answer::Completed(answer) => answer,
            _ => CompleteAnswer::Open,
        };
        let error = Error::new(Code::AwsOther, format!("{answer:?}"), "wait");
        Completed {
            answer,
            server_ms: Some(upload.created_ms),
            error: (answer != CompleteAnswer::Done).then_some(error),
        }
    }

    async fn parts(&self, _upload: &PendingUpload) -> StoredParts {
        unreachable!("parts of this world are never refused")
    }

    async fn look(&self, _bucket: &str, _region: &str, key: &str) -> Seen {
        match self.ask(Name::Look(key.to_owned()), Request::Look(key.to_owned())).await {
            Answer::Seen(Look::Object(token)) => Seen::Object { token: Some(token) },
            Answer::Seen(Look::Missing) => {
                self.clock.advance(COMPLETE_SETTLES);
                Seen::Missing
            }
            Answer::Seen(Look::Forbidden) => Seen::Forbidden,
            _ => Seen::Unknown(Error::new(Code::AwsUnreachable, "no answer", "wait")),
        }
    }
}
