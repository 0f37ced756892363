//! The store in memory, for tests: it keeps the conditions of the real one, and can be told to
//! fail, and to lie: to apply a write and answer that it failed.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use millrace_common::error::{Code, Error};
use millrace_common::id::{ApplicationName, NodeId};
use millrace_proto::v1;

use super::{LeaderItem, Record, Snapshot, Store, StoreError, TokenRecord};

/// What the next calls do instead of succeeding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is applied, and an error is answered.
    Fail,
    /// The write is applied, and an error is answered.
    LoseAnswer,
}

#[derive(Debug, Default)]
struct Inner {
    leader: Option<LeaderItem>,
    records: BTreeMap<String, (u64, Record)>,
    heads: BTreeMap<ApplicationName, (u64, Option<v1::StartPosition>)>,
    faults: Vec<Fault>,
    num_puts: usize,
}

/// One cluster's items in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
}

impl MemoryStore {
    /// Lets the next calls go wrong, in this order.
    pub fn inject(&self, faults: &[Fault]) {
        self.lock().faults.extend(faults.iter().rev());
    }

    /// Puts a head there that stands at this batch.
    pub fn add_head(&self, name: &ApplicationName, batch: u64) {
        self.lock().heads.insert(name.clone(), (batch, None));
    }

    /// The leader item as it is, whatever is injected.
    pub fn leader(&self) -> Option<LeaderItem> {
        self.lock().leader.clone()
    }

    /// How many records were written, repetitions included.
    pub fn num_puts(&self) -> usize {
        self.lock().num_puts
    }

    /// The term that a key was last written with.
    pub fn term_of(&self, key: &str) -> Option<u64> {
        self.lock().records.get(key).map(|(term, _)| *term)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn lost() -> StoreError {
    StoreError::Passing(Error::new(Code::AwsUnreachable, "no answer", "try again"))
}

impl Inner {
    fn fault(&mut self) -> Option<Fault> {
        self.faults.pop()
    }

    fn is_deposed(&self, term: u64) -> bool {
        self.leader.as_ref().is_some_and(|leader| leader.term != term)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn read_leader(&self) -> Result<Option<LeaderItem>, StoreError> {
        let mut inner = self.lock();
        match inner.fault() {
            Some(_) => Err(lost()),
            None => Ok(inner.leader.clone()),
        }
    }

    async fn write_leader(
        &self,
        item: &LeaderItem,
        expected: Option<&LeaderItem>,
    ) -> Result<(), StoreError> {
        let mut inner = self.lock();
        let fault = inner.fault();
        if fault == Some(Fault::Fail) {
            return Err(lost());
        }
        let key = |item: &LeaderItem| (item.term, item.counter);
        if inner.leader.as_ref().map(key) != expected.map(key) {
            return Err(StoreError::Refused);
        }
        inner.leader = Some(item.clone());
        if fault.is_some() { Err(lost()) } else { Ok(()) }
    }

    async fn load(&self, term: u64) -> Result<Snapshot, StoreError> {
        let mut inner = self.lock();
        if inner.fault().is_some() {
            return Err(lost());
        }
        let mut snapshot = Snapshot::default();
        for (written, record) in inner.records.values_mut() {
            if *written > term {
                return Err(StoreError::Refused);
            }
            *written = term;
            match record {
                Record::Application(name, record) => {
                    snapshot.applications.push((name.clone(), (**record).clone()));
                }
                Record::Node(node) => snapshot.nodes.push(NodeId::clone(node)),
                Record::Drain(node, order) => {
                    snapshot.drains.push((NodeId::clone(node), *order));
                }
                Record::Token(token) => snapshot.tokens.push(TokenRecord::clone(token)),
                Record::NodeGone(_) | Record::DrainGone(_) | Record::TokenGone(_) => {}
            }
        }
        Ok(snapshot)
    }

    async fn put(&self, term: u64, record: &Record) -> Result<(), StoreError> {
        let mut inner = self.lock();
        let fault = inner.fault();
        if fault == Some(Fault::Fail) {
            return Err(lost());
        }
        let key = record.key();
        let is_later = match inner.records.get(&key) {
            Some((written, _)) => *written > term,
            None => inner.is_deposed(term),
        };
        if is_later {
            return Err(StoreError::Refused);
        }
        inner.num_puts += 1;
        inner.records.insert(key, (term, record.clone()));
        if fault.is_some() { Err(lost()) } else { Ok(()) }
    }

    async fn reset_head(
        &self,
        term: u64,
        name: &ApplicationName,
        to: &v1::StartPosition,
    ) -> Result<u64, StoreError> {
        let mut inner = self.lock();
        if inner.is_deposed(term) {
            return Err(StoreError::Deposed);
        }
        let head = inner.heads.get_mut(name).ok_or(StoreError::Refused)?;
        head.1 = Some(to.clone());
        Ok(head.0)
    }

    async fn repair_head(
        &self,
        term: u64,
        name: &ApplicationName,
        repair: &v1::RepairRequest,
    ) -> Result<(), StoreError> {
        let inner = self.lock();
        if inner.is_deposed(term) {
            return Err(StoreError::Deposed);
        }
        let head = inner.heads.get(name).ok_or(StoreError::Refused)?;
        if head.0 == repair.batch { Ok(()) } else { Err(StoreError::Refused) }
    }
}
