//! `ReadLogs`: the logs of containers, pulled piece by piece from their nodes over the streams that
//! the nodes opened, so that only the master's port has to be reachable.
//!
//! Promises: a line that is written while somebody follows is passed on within 2 s, whatever other
//! nodes do; who comes back with the places up to which it has read gets each line behind them, and
//! none before. A follower is told of an end only when nothing more will come. Never does: keep a log; a node does, as long as it keeps the container's files.

mod line;
mod merge;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use millrace_common::error::{Code, Error};
use millrace_proto::v1::{self, LogStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use self::merge::{Filter, Key, Track};
use super::Shared;
use crate::control::{ReadLog, view};

/// One piece; with [`PIECES_IN_FLIGHT`] and the number of logs this bounds what a slow reader makes
/// the master hold.
const PIECE_BYTES: u32 = 64 << 10;
/// Messages that may wait for the reader.
const PIECES_IN_FLIGHT: usize = 4;
/// Nodes are asked for so many pieces at once.
const ASKED_AT_ONCE: usize = 16;
/// How often a log that is followed is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);
/// How long a node may hold up the lines of others that are followed; it is asked again.
const FOLLOW_DEADLINE: Duration = Duration::from_secs(1);

/// The streams that a request asks for.
fn streams(request: &v1::ReadLogsRequest) -> &'static [LogStream] {
    match request.stream() {
        LogStream::Unspecified => &[LogStream::Stdout, LogStream::Stderr],
        LogStream::Stdout => &[LogStream::Stdout],
        LogStream::Stderr => &[LogStream::Stderr],
        LogStream::Configuration => &[LogStream::Configuration],
    }
}

type Outgoing = mpsc::Sender<Result<v1::LogLines, Status>>;

/// Begins to read; fails at once when application or container are not known, or the pattern is none.
pub(super) async fn open(
    shared: &Shared,
    mut request: v1::ReadLogsRequest,
) -> Result<ReceiverStream<Result<v1::LogLines, Status>>, Error> {
    let filter = Filter::new(&request)?;
    find(shared, &request).await?;
    let (outgoing, stream) = mpsc::channel(PIECES_IN_FLIGHT);
    let places = std::mem::take(&mut request.places).into_iter();
    let places = places.map(|place| (merge::key(&place.container_id, place.stream()), place));
    let (shared, tracks) = (shared.clone(), BTreeMap::new());
    let mut reader = Reader { shared, request, filter, tracks, places: places.collect(), outgoing };
    reader.shared.tasks.clone().spawn(async move {
        let gone = reader.outgoing.clone();
        tokio::select! {
            outcome = reader.run() => if let Err(error) = outcome
                && gone.send(Err(error.to_status())).await.is_err()
            {
                tracing::debug!("a reader of logs left");
            },
            () = gone.closed() => {}
        }
    });
    Ok(ReceiverStream::new(stream))
}

/// The containers to read, and whether no others will come.
async fn find(
    shared: &Shared,
    request: &v1::ReadLogsRequest,
) -> Result<(Vec<v1::Container>, bool), Error> {
    let (application, container) = (request.application.clone(), request.container_id.clone());
    let is_followed = request.follow;
    let find =
        move |core: &_| view::containers_to_read(core, &application, &container, is_followed);
    shared.leader.read(find).await?
}

/// Somebody who reads.
struct Reader {
    shared: Shared,
    request: v1::ReadLogsRequest,
    filter: Filter,
    tracks: BTreeMap<Key, Track>,
    /// Where to go on.
    places: BTreeMap<Key, v1::LogPlace>,
    outgoing: Outgoing,
}

impl Reader {
    async fn run(&mut self) -> Result<(), Error> {
        loop {
            let (containers, is_complete) = find(&self.shared, &self.request).await?;
            let containers: BTreeMap<String, v1::Container> = containers
                .into_iter()
                .filter_map(|container| {
                    Some((container.status.as_ref()?.container_id.clone(), container))
                })
                .collect();
            for (id, container) in &containers {
                let started_ms = container.status.as_ref().map_or(0, |status| status.started_ms);
                for &stream in streams(&self.request) {
                    let key = merge::key(id, stream);
                    let places = &self.places;
                    let track = self.tracks.entry(key).or_insert_with_key(|key| {
                        places.get(key).map_or_else(|| Track::new(started_ms), Track::at)
                    });
                    track.look_again();
                }
            }
            // One that is listed no more has nothing more to say.
            self.tracks.retain(|(id, _), _| containers.contains_key(id));
            if !self.round(&containers).await? {
                return Ok(());
            }
            let is_over = is_complete && self.tracks.values().all(Track::is_over);
            if is_over || !self.request.follow {
                self.tracks.values_mut().for_each(|track| track.flush(&self.filter));
                let rest = merge::ready(&mut self.tracks);
                self.pass_on(&containers, rest).await;
                return Ok(());
            }
            tokio::time::sleep(FOLLOW_INTERVAL).await;
        }
    }

    /// Reads every log up to what is there now; false when the reader has left.
    async fn round(&mut self, containers: &BTreeMap<String, v1::Container>) -> Result<bool, Error> {
        loop {
            let wanted: Vec<(Key, u64)> = self
                .tracks
                .iter()
                .filter_map(|(key, track)| Some((key.clone(), track.wanted()?)))
                .collect();
            if wanted.is_empty() {
                return Ok(true);
            }
            let (shared, is_followed) = (&self.shared, self.request.follow);
            let answers: Vec<_> = stream::iter(wanted)
                .map(|(key, offset)| async move {
                    let answer = ask(shared, &key, offset, is_followed).await;
                    (key, answer)
                })
                .buffer_unordered(ASKED_AT_ONCE)
                .collect()
                .await;
            for (key, answer) in answers {
                self.take(containers, &key, answer)?;
            }
            let lines = merge::ready(&mut self.tracks);
            if !self.pass_on(containers, lines).await {
                return Ok(false);
            }
        }
    }

    /// Takes what a node answered.
    fn take(
        &mut self,
        containers: &BTreeMap<String, v1::Container>,
        key: &Key,
        answer: Result<v1::LogChunk, Error>,
    ) -> Result<(), Error> {
        let Some(track) = self.tracks.get_mut(key) else { return Ok(()) };
        match answer {
            Ok(chunk) => track.take(chunk, &self.filter),
            // Another master knows more.
            Err(error) if matches!(error.code(), Code::NotLeader | Code::MasterUnreachable) => {
                return Err(error);
            }
            Err(error) if !self.request.container_id.is_empty() && !self.request.follow => {
                return Err(error);
            }
            // One log that can not be read does not hide the others.
            Err(error) => {
                let status = containers.get(&key.0).and_then(|found| found.status.as_ref());
                let is_over = status.is_some_and(|status| status.exit.is_some());
                let why = format!("{}: {}", error.code().as_str(), error.message());
                track.fail(&why, is_over, &self.filter);
            }
        }
        Ok(())
    }

    /// Sends lines, those of one log together; false when the reader has left.
    async fn pass_on(
        &self,
        containers: &BTreeMap<String, v1::Container>,
        lines: Vec<(Key, v1::LogLine)>,
    ) -> bool {
        for (key, lines) in merge::grouped(lines) {
            if !self.send(containers, key, lines).await {
                return false;
            }
        }
        true
    }

    async fn send(
        &self,
        containers: &BTreeMap<String, v1::Container>,
        (container_id, stream): Key,
        lines: Vec<v1::LogLine>,
    ) -> bool {
        let node_id = containers.get(&container_id).map(|found| found.node_id.clone());
        let node_id = node_id.unwrap_or_default();
        let message = v1::LogLines { container_id, node_id, stream, lines };
        self.outgoing.send(Ok(message)).await.is_ok()
    }
}

/// Asks the node of a container for a piece.
async fn ask(
    shared: &Shared,
    (container_id, stream): &Key,
    offset: u64,
    is_followed: bool,
) -> Result<v1::LogChunk, Error> {
    let request = v1::ReadLogChunk {
        request_id: 0,
        container_id: container_id.clone(),
        stream: *stream,
        offset,
        max_bytes: PIECE_BYTES,
    };
    let asked = shared.leader.ask(ReadLog(request));
    let chunk = if is_followed {
        let nothing = v1::LogChunk { offset, next_offset: offset, ..Default::default() };
        match tokio::time::timeout(FOLLOW_DEADLINE, asked).await {
            Ok(answer) => answer??,
            Err(_) => nothing,
        }
    } else {
        asked.await??
    };
    match chunk.failure {
        Some(failure) => Err(Error::from_failure(failure)),
        None => Ok(chunk),
    }
}
