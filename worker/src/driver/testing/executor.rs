//! An executor without a computer: it reads the fake stream when it is cut, and holds what it read.

use std::collections::BTreeMap;

use millrace_common::position::ShardKey;
use millrace_proto::v1;
use millrace_proto::v1::driver_service_client::DriverServiceClient;
use millrace_proto::v1::executor_command::Body as Command;
use millrace_proto::v1::executor_message::Body as Message;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::{Fake, now_ms};

/// A running executor; dropping it is a SIGKILL.
pub(in crate::driver) struct FakeExecutor {
    name: String,
    fake: Fake,
    task: JoinHandle<()>,
}

impl Drop for FakeExecutor {
    fn drop(&mut self) {
        self.task.abort();
        self.fake.drop_executor(&self.name);
    }
}

struct Reading {
    receiver: String,
    shard: ShardKey,
    generation: u64,
    /// Counts the starts.
    chain: u64,
    /// Records read; sequence numbers count from 1.
    at: usize,
}

struct Life {
    name: String,
    fake: Fake,
    out: mpsc::Sender<v1::ExecutorMessage>,
    reading: BTreeMap<String, Reading>,
    num_blocks: u32,
    sequence: u64,
    /// Begins every read after its first too late: its blocks do not chain.
    skips: bool,
}

impl FakeExecutor {
    pub(in crate::driver) fn start(fake: &Fake, driver: &str, name: &str, skips: bool) -> Self {
        let (fake, name) = (fake.clone(), name.to_owned());
        let driver = driver.to_owned();
        let task = tokio::spawn(live(fake.clone(), driver, name.clone(), skips));
        Self { name, fake, task }
    }
}

async fn live(fake: Fake, driver: String, name: String, skips: bool) {
    let channel = millrace_common::rpc::connect_lazy(&driver).unwrap();
    let (out, messages) = mpsc::channel(64);
    let register = v1::ExecutorRegister {
        application: "app".into(),
        attempt: 1,
        container_id: name.clone(),
        node_id: "n1".into(),
        address: "127.0.0.1:1".into(),
        cores: 2,
        block_budget_bytes: 1 << 30,
        ..Default::default()
    };
    let mut life =
        Life { name, fake, out, reading: BTreeMap::new(), num_blocks: 0, sequence: 0, skips };
    life.say(Message::Register(register)).await;
    let mut client = DriverServiceClient::new(channel);
    let session = client.session(ReceiverStream::new(messages)).await;
    let mut commands = session.expect("the driver takes the session").into_inner();
    let mut heartbeat = tokio::time::interval(std::time::Duration::from_millis(50));
    let mut beats = 0;
    loop {
        tokio::select! {
            _ = heartbeat.tick() => {
                beats += 1;
                let beat = v1::ExecutorHeartbeat { sequence: beats, ..Default::default() };
                life.say(Message::Heartbeat(beat)).await;
            }
            command = commands.message() => match command {
                Ok(Some(v1::ExecutorCommand { body: Some(Command::Stop(_)) })) => return,
                Ok(Some(v1::ExecutorCommand { body: Some(body) })) => life.obey(body).await,
                Ok(_) | Err(_) => return,
            }
        }
    }
}

fn number(text: &str) -> usize {
    if text.is_empty() { 0 } else { text.parse().unwrap() }
}

fn text(number: usize) -> String {
    if number == 0 { String::new() } else { number.to_string() }
}

fn begin(from: Option<v1::ReadFrom>) -> usize {
    match from.and_then(|from| from.at) {
        Some(v1::read_from::At::Position(position)) => number(&position.sequence_number),
        _ => 0,
    }
}

impl Life {
    async fn say(&self, body: Message) {
        // A driver that has ended hears nothing more.
        self.out.send(v1::ExecutorMessage { body: Some(body) }).await.ok();
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Assign(assign) => {
                for a in assign.assignments {
                    let shard = ShardKey::from_proto(a.shard).unwrap();
                    let reading = Reading {
                        receiver: a.receiver_id,
                        generation: a.generation,
                        chain: 1,
                        at: begin(a.from),
                        shard: shard.clone(),
                    };
                    self.reading.insert(shard.shard_id, reading);
                }
            }
            Command::Revoke(revoke) => {
                for shard in revoke.shards {
                    self.reading.remove(&shard.shard_id);
                }
            }
            Command::Cut(cut) => self.announce(cut.cut_id).await,
            Command::Acknowledged(acknowledged) => {
                for refused in acknowledged.refused {
                    let id = refused.shard.unwrap().shard_id;
                    if let Some(reading) = self.reading.get_mut(&id)
                        && reading.generation == refused.generation
                    {
                        reading.at = begin(refused.tail);
                        reading.chain += 1;
                    }
                }
            }
            Command::Release(release) => {
                for block in release.block_ids {
                    self.fake.release(&self.name, &block);
                }
            }
            Command::Reread(reread) => {
                let block = reread.block.unwrap();
                let shard = self.fake.shard(&block.shard.unwrap().shard_id);
                let records =
                    shard.records[number(&block.after_seq)..number(&block.last_seq)].to_vec();
                self.fake.store(&self.name, &block.block_id, records);
                let done = v1::RereadDone { block_id: block.block_id, failure: None };
                self.say(Message::Reread(done)).await;
            }
            _ => {}
        }
    }

    /// Reads everything there is and announces it, receiver by receiver.
    async fn announce(&mut self, cut_id: u64) {
        let mut announcements = BTreeMap::<String, v1::BlockAnnouncement>::new();
        for (id, reading) in &mut self.reading {
            self.sequence += 1;
            let announcement = announcements.entry(reading.receiver.clone()).or_default();
            announcement.receiver_id.clone_from(&reading.receiver);
            announcement.sequence = self.sequence;
            announcement.cut_id = cut_id;
            let shard = self.fake.shard(id);
            if std::mem::take(&mut self.skips) && reading.at < shard.records.len() {
                reading.at += 1;
            }
            let records = shard.records[reading.at.min(shard.records.len())..].to_vec();
            if records.is_empty() && !shard.closed {
                announcement.empty_reads.push(v1::EmptyRead {
                    shard: Some(reading.shard.to_proto()),
                    generation: reading.generation,
                    after_seq: text(reading.at),
                    server_ms: now_ms(),
                    millis_behind_latest: 0,
                    nothing_before_ms: 0,
                });
                continue;
            }
            self.num_blocks += 1;
            let block_id = format!("{}/{}", self.name, self.num_blocks);
            let last = reading.at + records.len();
            announcement.blocks.push(v1::BlockDescriptor {
                block_id: block_id.clone(),
                shard: Some(reading.shard.to_proto()),
                chain: reading.chain,
                generation: reading.generation,
                after_seq: text(reading.at),
                first_seq: text(if records.is_empty() { 0 } else { reading.at + 1 }),
                last_seq: text(last),
                num_records: records.len() as u64,
                num_raw_records: records.len() as u64,
                num_bytes: records.len() as u64 * 100,
                ends_shard: shard.closed,
                ..Default::default()
            });
            reading.at = last;
            self.fake.store(&self.name, &block_id, records);
        }
        for announcement in announcements.into_values() {
            self.say(Message::Announcement(announcement)).await;
        }
    }
}
