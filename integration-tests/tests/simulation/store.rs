//! The head and the bucket as the driver sees them.

use async_trait::async_trait;
use millrace_common::clock::Clock as _;
use millrace_common::head::{ChunkName, HeadItem, PendingUpload};
use millrace_worker::driver::commit::core::CompleteAnswer;
use millrace_worker::driver::commit::{Completed, Seen, StoredParts, UploadStore};
use millrace_worker::driver::head::{
    AcquireWrite, CommitWrite, HeadStore, PublishedMark, StoreFailure, WriteFailure,
};
use tokio::time::sleep;

use crate::network::SimulatedClock;
use crate::world::{Fate, Late, State, World, no_answer};

fn again() -> StoreFailure {
    StoreFailure::Again(no_answer())
}

fn acquire(state: &mut State, write: &AcquireWrite) -> Result<HeadItem, WriteFailure> {
    let Some(item) = write.applied_to(state.head.as_ref()) else {
        return Err(WriteFailure::Refused(state.head.clone().map(Box::new)));
    };
    state.note(format!("acquire e{} b{}", item.epoch, item.batch));
    state.head = Some(item.clone());
    Ok(item)
}

impl World {
    /// A conditional write of the head: `apply` is true when its condition held, and `late` is the
    /// same write for another time.
    async fn conditional(
        &self,
        late: impl Fn() -> Late,
        apply: impl Fn(&mut State, &str) -> bool,
    ) -> Result<(), WriteFailure> {
        let refused = |head: Option<HeadItem>| Err(WriteFailure::Refused(head.map(Box::new)));
        match self.fate() {
            fate @ (Fate::Answered(after) | Fate::Twice(after, _)) => {
                sleep(after / 2).await;
                let (is_applied, head) = {
                    let mut state = self.lock();
                    let is_applied = apply(&mut state, "");
                    if let Fate::Twice(_, again) = fate {
                        state.later(again, late());
                    }
                    (is_applied, state.head.clone())
                };
                sleep(after / 2).await;
                if is_applied { Ok(()) } else { refused(head) }
            }
            Fate::AnswerLost(after) => {
                apply(&mut self.lock(), "unheard");
                sleep(after).await;
                Err(again().into())
            }
            Fate::Failed(after) => {
                sleep(after).await;
                Err(again().into())
            }
            Fate::Late(after, by) => {
                self.lock().later(after + by, late());
                sleep(after).await;
                Err(again().into())
            }
        }
    }
}

#[async_trait]
impl HeadStore for World {
    async fn read(&self) -> Result<Option<HeadItem>, StoreFailure> {
        self.reach().await.map_err(StoreFailure::Again)?;
        Ok(self.lock().head.clone())
    }

    async fn acquire(&self, write: &AcquireWrite) -> Result<HeadItem, WriteFailure> {
        match self.fate() {
            Fate::Answered(after) | Fate::Twice(after, _) => {
                sleep(after / 2).await;
                let answer = acquire(&mut self.lock(), write);
                sleep(after / 2).await;
                answer
            }
            Fate::AnswerLost(after) => {
                // Whatever it answers, nobody hears it.
                let _unheard = acquire(&mut self.lock(), write);
                sleep(after).await;
                Err(again().into())
            }
            Fate::Failed(after) | Fate::Late(after, _) => {
                sleep(after).await;
                Err(again().into())
            }
        }
    }

    async fn commit(&self, write: &CommitWrite) -> Result<(), WriteFailure> {
        self.conditional(|| Late::Commit(write.clone()), |state, how| state.commit(write, how))
            .await
    }

    async fn mark_published(&self, mark: &PublishedMark) -> Result<(), WriteFailure> {
        self.conditional(|| Late::Mark(mark.clone()), |state, how| state.mark(mark, how)).await
    }

    async fn put_chunk(&self, name: &ChunkName, bytes: &[u8]) -> Result<(), StoreFailure> {
        self.reach().await.map_err(StoreFailure::Again)?;
        self.lock().chunks.insert(key(name), bytes.to_vec());
        Ok(())
    }

    async fn read_chunk(&self, name: &ChunkName) -> Result<Option<Vec<u8>>, StoreFailure> {
        self.reach().await.map_err(StoreFailure::Again)?;
        Ok(self.lock().chunks.get(&key(name)).cloned())
    }

    async fn delete_chunk(&self, name: &ChunkName) -> Result<(), StoreFailure> {
        self.reach().await.map_err(StoreFailure::Again)?;
        self.lock().chunks.remove(&key(name));
        Ok(())
    }

    async fn list_chunks(&self) -> Result<Vec<ChunkName>, StoreFailure> {
        self.reach().await.map_err(StoreFailure::Again)?;
        let name = |(batch, commit_id, index): &(u64, String, u32)| ChunkName {
            batch: *batch,
            commit_id: commit_id.clone(),
            index: *index,
        };
        Ok(self.lock().chunks.keys().map(name).collect())
    }
}

fn key(name: &ChunkName) -> (u64, String, u32) {
    (name.batch, name.commit_id.clone(), name.index)
}

#[async_trait]
impl UploadStore for World {
    async fn complete(&self, upload: &PendingUpload) -> Completed {
        let answered = |answer| {
            let server_ms = Some(SimulatedClock.now_ms() / 1_000 * 1_000);
            Completed { answer, server_ms, error: None }
        };
        let unheard = || Completed {
            answer: CompleteAnswer::Open,
            server_ms: None,
            error: Some(no_answer()),
        };
        match self.fate() {
            fate @ (Fate::Answered(after) | Fate::Twice(after, _)) => {
                sleep(after / 2).await;
                let is_done = self.lock().complete(&upload.key, "");
                if let Fate::Twice(_, again) = fate {
                    self.lock().later(again, Late::Complete(upload.key.clone()));
                }
                sleep(after / 2).await;
                let nothing = CompleteAnswer::NoSuchUpload;
                answered(if is_done { CompleteAnswer::Done } else { nothing })
            }
            Fate::AnswerLost(after) => {
                self.lock().complete(&upload.key, "unheard");
                sleep(after).await;
                unheard()
            }
            Fate::Failed(after) => {
                sleep(after).await;
                unheard()
            }
            Fate::Late(after, late) => {
                self.lock().later(after + late, Late::Complete(upload.key.clone()));
                sleep(after).await;
                unheard()
            }
        }
    }

    async fn parts(&self, _: &PendingUpload) -> StoredParts {
        StoredParts::Forbidden
    }

    async fn look(&self, _: &str, _: &str, key: &str) -> Seen {
        if self.reach().await.is_err() {
            return Seen::Unknown(no_answer());
        }
        match self.lock().uploads.get(key) {
            Some(upload) if upload.is_complete => {
                Seen::Object { token: Some(upload.token.clone()) }
            }
            _ => Seen::Missing,
        }
    }
}
