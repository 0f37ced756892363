//! The world of the model: one head item, a bucket, calls on their way, and what must hold of them.
//!
//! Promises: a condition is judged when its write is applied, whenever that is; what has happened
//! to records is kept beside the world (the ghosts), and no driver sees it.
//! Never does: help a driver.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use millrace_common::position::{Position, SEQUENCE_NUMBER_BYTES, SequenceNumber, ShardKey};
use prost::Message;

use super::super::super::core::CompleteAnswer;
use super::super::heads::{acquired, committed, marked};
use super::Config;
use super::replay::{Answer, Look, Request, hash_item};
use crate::driver::head::{
    Body, Head, HeadItem, PendingUpload, Positions, RepairChoice, RepairRequest, StoredBody,
    decode_body, hash_of, unpack,
};

/// A record of the stream: shard and number, counted from 1.
pub(super) type Record = (usize, u64);

/// Where a batch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Cut {
    /// Behind everything there is.
    Whole,
    /// Behind the next record of each shard.
    OneEach,
}

/// The result of a run: where the next batch starts, and the uploads of its tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ran {
    pub(super) positions: Positions,
    pub(super) uploads: Vec<PendingUpload>,
}

impl Hash for Ran {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.positions.hash(state);
        self.uploads.iter().for_each(|upload| upload.upload_id.hash(state));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stand {
    Open,
    Completed,
    Aborted,
    /// Taken by the bucket's lifecycle rule after a commit had named it.
    Expired,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Upload {
    pub(super) key: String,
    pub(super) epoch: u64,
    pub(super) batch: u64,
    pub(super) records: Vec<Record>,
    pub(super) stand: Stand,
}

/// A call that will be applied at some later time, or never.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Late {
    /// Names the call and all that it asks for.
    pub(super) tag: String,
    pub(super) request: Request,
}

/// `millrace uploads gc` after it has read the head.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sight {
    pub(super) head: Head,
}

impl Hash for Sight {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.head.epoch, self.head.batch).hash(state);
        self.head.pending.iter().for_each(|upload| upload.upload_id.hash(state));
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct World {
    pub(super) item: Option<HeadItem>,
    pub(super) chunks: BTreeMap<(u64, String, u32), Vec<u8>>,
    pub(super) uploads: BTreeMap<String, Upload>,
    /// Upload of each visible object, by key.
    pub(super) objects: BTreeMap<String, String>,
    /// Uploads whose objects were visible and were removed by those who read them.
    pub(super) taken: BTreeSet<String>,
    /// Sorted by tag.
    pub(super) late: Vec<Late>,
    pub(super) gc: Option<Sight>,
    pub(super) faults_left: u8,
    pub(super) expiries_left: u8,
    pub(super) takes_left: u8,
    /// Ghost: uploads that an applied commit has named, but those of a batch that is read again.
    pub(super) named: BTreeSet<String>,
    /// Ghost: uploads that the head names now.
    pub(super) pending: BTreeSet<String>,
    /// Ghost: the positions in the head.
    pub(super) positions: Positions,
    /// Ghost: what no head may do and one did.
    pub(super) flaw: Option<&'static str>,
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.item.is_some().hash(state);
        self.item.iter().for_each(|item| hash_item(item, state));
        (&self.chunks, &self.uploads, &self.objects, &self.taken).hash(state);
        self.late.iter().for_each(|late| late.tag.hash(state));
        (&self.gc, self.faults_left, self.expiries_left, self.takes_left).hash(state);
        (&self.named, &self.pending).hash(state);
        (&self.positions, self.flaw).hash(state);
    }
}

impl World {
    /// Applies a call now and answers it.
    pub(super) fn serve(&mut self, config: &Config, request: &Request) -> Answer {
        match request {
            Request::Read => Answer::Item(self.item.clone()),
            Request::Acquire(write) => match acquired(self.item.as_ref(), write) {
                Ok(item) => {
                    self.take_head(item.clone());
                    Answer::Acquired(item)
                }
                Err(found) => Answer::Refused(found),
            },
            Request::Commit(write) => {
                match committed(self.item.as_ref(), write, config.conditions) {
                    Ok(item) => {
                        self.take_head(item);
                        Answer::Done
                    }
                    Err(found) => Answer::Refused(found),
                }
            }
            Request::Mark(mark) => match marked(self.item.as_ref(), mark) {
                Ok(item) => {
                    if !self.pending.iter().all(|id| self.was_visible(id)) {
                        self.flaw.get_or_insert("a batch is marked that is not all visible");
                    }
                    self.take_head(item);
                    Answer::Done
                }
                Err(found) => Answer::Refused(found),
            },
            Request::PutChunk(name, bytes) => {
                let at = (name.batch, name.commit_id.clone(), name.index);
                self.chunks.insert(at, bytes.clone());
                Answer::Done
            }
            Request::ReadChunk(name) => {
                let at = (name.batch, name.commit_id.clone(), name.index);
                Answer::Chunk(self.chunks.get(&at).cloned())
            }
            Request::DeleteChunk(name) => {
                self.chunks.remove(&(name.batch, name.commit_id.clone(), name.index));
                Answer::Done
            }
            Request::ListChunks => {
                let name = |(batch, commit_id, index): &(u64, String, u32)| {
                    crate::driver::head::ChunkName {
                        batch: *batch,
                        commit_id: commit_id.clone(),
                        index: *index,
                    }
                };
                Answer::Chunks(self.chunks.keys().map(name).collect())
            }
            Request::Complete(id) => Answer::Completed(self.complete(config, id)),
            Request::Look(key) => Answer::Seen(match self.objects.get(key) {
                _ if !config.may_look => Look::Forbidden,
                Some(id) => Look::Object(token(id)),
                None => Look::Missing,
            }),
            Request::Abort(id) => {
                self.abort(id);
                Answer::Done
            }
            Request::Run { .. } => unreachable!("a run needs a cut"),
        }
    }

    fn complete(&mut self, config: &Config, id: &str) -> CompleteAnswer {
        let Some(upload) = self.uploads.get_mut(id) else { return CompleteAnswer::NoSuchUpload };
        if upload.stand != Stand::Open {
            let is_there = self.objects.get(&upload.key).is_some_and(|by| by == id);
            return if is_there && config.repeatable {
                CompleteAnswer::Done
            } else {
                CompleteAnswer::NoSuchUpload
            };
        }
        upload.stand = Stand::Completed;
        if self.objects.insert(upload.key.clone(), id.to_owned()).is_some() {
            self.flaw.get_or_insert("an object was replaced");
        }
        CompleteAnswer::Done
    }

    /// `uploads gc` reads the head.
    pub(super) fn look(&mut self) -> Option<()> {
        let item = self.item.as_ref()?;
        let chunks = match &item.body {
            StoredBody::Chunked { count, .. } => self.chunks_of(item, *count)?.concat(),
            StoredBody::None | StoredBody::Inline(_) => Vec::new(),
        };
        let head = unpack(item, &chunks).unwrap();
        self.gc = Some(Sight { head });
        Some(())
    }

    pub(super) fn abort(&mut self, id: &str) {
        if let Some(upload) = self.uploads.get_mut(id).filter(|u| u.stand == Stand::Open) {
            upload.stand = Stand::Aborted;
        }
    }

    /// The bucket's lifecycle rule takes an upload.
    pub(super) fn expire(&mut self, id: &str) {
        self.expiries_left -= 1;
        if let Some(upload) = self.uploads.get_mut(id) {
            upload.stand = Stand::Expired;
        }
    }

    fn was_visible(&self, id: &String) -> bool {
        self.taken.contains(id) || self.objects.values().any(|by| by == id)
    }

    /// Keys that somebody who reads the files may remove: of the head's batch, which is the one that
    /// a driver may look for. The patient wait until it is marked as published.
    pub(super) fn takeable(&self, early: bool) -> impl Iterator<Item = &String> {
        let is_marked = self.item.as_ref().is_some_and(HeadItem::is_published);
        let may_go = move |id: &String| (early || is_marked) && self.pending.contains(id);
        let objects = self.objects.iter().filter(move |(_, id)| may_go(id));
        objects.map(|(key, _)| key).take(usize::from(self.takes_left > 0) * usize::MAX)
    }

    /// Somebody who has read a file removes it.
    pub(super) fn take(&mut self, key: &str) {
        self.takes_left -= 1;
        self.taken.extend(self.objects.remove(key));
    }

    /// `millrace repair`: a word about the batch that the head holds now.
    pub(super) fn ask_repair(&mut self, choice: RepairChoice) -> Option<()> {
        // The master's condition.
        let item = self.item.as_mut().filter(|item| !item.is_published())?;
        let request = RepairRequest {
            batch: item.batch,
            commit_id: item.commit_id.clone(),
            choice,
            absence_seen: false,
        };
        item.repair = Some(request.to_proto().encode_to_vec());
        Some(())
    }

    pub(super) fn has_lost_uploads(&self) -> bool {
        self.uploads.values().any(|upload| upload.stand == Stand::Expired)
    }

    pub(super) fn has_lost_what_is_pending(&self) -> bool {
        let stand = |id: &String| self.uploads.get(id).map(|upload| upload.stand);
        self.pending.iter().any(|id| stand(id) == Some(Stand::Expired))
    }

    /// The head as a write left it, and what that did to records.
    fn take_head(&mut self, item: HeadItem) {
        let body = self.body_of(&item);
        if let Some(old) = &self.item {
            let is_commit = old.commit_id != item.commit_id;
            if item.epoch < old.epoch {
                self.flaw.get_or_insert("the epoch fell");
            }
            if item.batch != old.batch + u64::from(is_commit) {
                self.flaw.get_or_insert("the batch did not grow by one");
            }
            if item.starts != old.starts {
                self.flaw.get_or_insert("the start moved");
            }
        }
        match body {
            Some(body) => {
                let goes_back = (0..2).any(|shard| {
                    number_in(&body.positions, shard) < number_in(&self.positions, shard)
                });
                let is_repair = self.item.as_ref().is_some_and(|old| old.repair.is_some());
                if goes_back && is_repair {
                    // Its records are to come again: it is as if it had never been.
                    self.named.retain(|id| !self.pending.contains(id));
                } else if goes_back {
                    self.flaw.get_or_insert("the positions went back");
                }
                self.pending = body.pending.iter().map(|u| u.upload_id.clone()).collect();
                self.named.extend(self.pending.iter().cloned());
                self.positions = body.positions;
            }
            None => {
                self.flaw.get_or_insert("a head names chunks that are not there");
            }
        }
        self.item = Some(item);
    }

    /// None when chunks that the item names are missing.
    fn body_of(&self, item: &HeadItem) -> Option<Body> {
        match &item.body {
            StoredBody::None => Some(Body::default()),
            StoredBody::Inline(packed) => Some(decode_body(packed).unwrap()),
            StoredBody::Chunked { count, hash } => {
                let packed = self.chunks_of(item, *count)?.concat();
                (hash_of(&packed) == *hash).then(|| decode_body(&packed).unwrap())
            }
        }
    }

    fn chunks_of(&self, item: &HeadItem, count: u32) -> Option<Vec<Vec<u8>>> {
        let chunk = |index| self.chunks.get(&(item.batch, item.commit_id.clone(), index)).cloned();
        (0..count).map(chunk).collect()
    }

    /// False when a chunk is missing that the item names.
    pub(super) fn has_chunks_of(&self, item: &HeadItem) -> bool {
        match &item.body {
            StoredBody::None | StoredBody::Inline(_) => true,
            StoredBody::Chunked { count, .. } => self.chunks_of(item, *count).is_some(),
        }
    }

    /// Runs the tasks of a batch: uploads that nobody can see.
    pub(super) fn run(
        &mut self,
        config: &Config,
        (epoch, batch, nth): (u64, u64, u8),
        positions: &Positions,
        cut: Cut,
    ) -> Ran {
        let mut ran = Ran { positions: positions.clone(), uploads: Vec::new() };
        for (shard, num_records) in config.records.iter().enumerate() {
            let read = number_in(positions, shard);
            let until = match cut {
                Cut::Whole => *num_records,
                Cut::OneEach => (read + 1).min(*num_records),
            };
            ran.positions.insert(shard_key(shard), position(until));
            if until == read {
                continue;
            }
            let id = format!("e{epoch}-b{batch}-t{shard}-r{nth}");
            let key =
                if config.keys_are_batches { format!("b{batch}-t{shard}") } else { id.clone() };
            let records: Vec<Record> = (read + 1..=until).map(|number| (shard, number)).collect();
            ran.uploads.push(PendingUpload {
                bucket: "results".into(),
                region: String::new(),
                key: key.clone(),
                upload_id: id.clone(),
                parts: Vec::new(),
                rows: records.len() as u64,
                bytes: 8,
                token: token(&id),
                created_ms: 1,
            });
            self.uploads.insert(id, Upload { key, epoch, batch, records, stand: Stand::Open });
        }
        ran
    }

    /// Puts a call where it can come from at any later time.
    pub(super) fn delay(&mut self, request: &Request) {
        let tag = match request {
            Request::Acquire(write) => format!("acquire of epoch {}", write.epoch),
            Request::Commit(write) => {
                format!("commit of batch {} {}", write.batch, write.commit_id)
            }
            other => format!("{other:?}"),
        };
        let at = self.late.partition_point(|late| late.tag <= tag);
        self.late.insert(at, Late { tag, request: request.clone() });
    }

    /// How often a record can be seen, or was seen in a file that was removed.
    pub(super) fn num_visible(&self, record: Record) -> usize {
        let shown = self.objects.values().chain(&self.taken);
        let shown = shown.filter_map(|id| self.uploads.get(id));
        shown.flat_map(|upload| &upload.records).filter(|other| **other == record).count()
    }

    /// True when every upload that a commit named is visible, or can be made so from the head, or
    /// is lost and still in the head.
    pub(super) fn keeps_what_was_named(&self) -> bool {
        self.named.iter().all(|id| {
            self.uploads.get(id).is_some_and(|upload| {
                self.taken.contains(id)
                    || self.objects.get(&upload.key) == Some(id)
                    || matches!(upload.stand, Stand::Open | Stand::Expired)
                        && self.pending.contains(id)
            })
        })
    }

    /// True when the records up to the positions are those of the named uploads, each once.
    pub(super) fn positions_are_true(&self, config: &Config) -> bool {
        let mut named: Vec<Record> = self
            .named
            .iter()
            .filter_map(|id| self.uploads.get(id))
            .flat_map(|upload| upload.records.iter().copied())
            .collect();
        named.sort_unstable();
        let shards = 0..config.records.len();
        let read = shards
            .flat_map(|shard| (1..=number_in(&self.positions, shard)).map(move |n| (shard, n)));
        named.into_iter().eq(read)
    }
}

pub(super) fn token(upload_id: &str) -> String {
    format!("token of {upload_id}")
}

fn shard_key(shard: usize) -> ShardKey {
    ShardKey {
        source: "logs".into(),
        stream_arn: "arn".into(),
        stream_created_ms: 1,
        shard_id: shard.to_string(),
    }
}

fn position(number: u64) -> Position {
    let mut bytes = [0; SEQUENCE_NUMBER_BYTES];
    bytes[SEQUENCE_NUMBER_BYTES - 8..].copy_from_slice(&number.to_be_bytes());
    let sequence_number = (number > 0).then(|| SequenceNumber::from_bytes(bytes));
    Position { sequence_number, ..Position::default() }
}

pub(super) fn number_in(positions: &Positions, shard: usize) -> u64 {
    let position = positions.get(&shard_key(shard)).and_then(|p| p.sequence_number);
    position.map_or(0, |number| u64::from(number.as_bytes()[SEQUENCE_NUMBER_BYTES - 1]))
}

/// True when every record is behind these positions.
pub(super) fn is_at_end(config: &Config, positions: &Positions) -> bool {
    let mut shards = config.records.iter().enumerate();
    shards.all(|(shard, num_records)| number_in(positions, shard) == *num_records)
}
