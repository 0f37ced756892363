//! `ReadLogs`: the logs of containers, pulled piece by piece from their nodes over the streams that
//! the nodes opened, so that only the master's port has to be reachable.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::error::Error;
use millrace_proto::v1::{self, LogStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Shared;
use crate::control::{ReadLog, view};

/// One piece; with [`PIECES_IN_FLIGHT`] this bounds what a slow reader makes the master hold.
const PIECE_BYTES: u32 = 64 << 10;
/// Pieces that may wait for the reader.
const PIECES_IN_FLIGHT: usize = 4;
/// How often a log that is followed is looked at; a line is seen within two of these.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);

const STREAMS: [LogStream; 2] = [LogStream::Stdout, LogStream::Stderr];

type Outgoing = mpsc::Sender<Result<v1::LogLines, Status>>;

/// Begins to read; fails at once when application or container are not known.
pub(super) async fn open(
    shared: &Shared,
    request: v1::ReadLogsRequest,
) -> Result<ReceiverStream<Result<v1::LogLines, Status>>, Error> {
    find(shared, &request).await?;
    let (outgoing, stream) = mpsc::channel(PIECES_IN_FLIGHT);
    let shared = shared.clone();
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        let read = async {
            if let Err(error) = read_all(&shared, &request, &outgoing).await
                && outgoing.send(Err(error.to_status())).await.is_err()
            {
                tracing::debug!("a reader of logs left");
            }
        };
        tokio::select! {
            () = read => {}
            () = outgoing.closed() => {}
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
    shared.leader.read(move |core| view::containers_to_read(core, &application, &container)).await?
}

/// How far one stream of one container was read.
#[derive(Default)]
struct Progress {
    offset: u64,
    /// The start of a line whose end has not been read.
    partial: Vec<u8>,
    is_done: bool,
}

type AllProgress = BTreeMap<(String, i32), Progress>;

async fn read_all(
    shared: &Shared,
    request: &v1::ReadLogsRequest,
    outgoing: &Outgoing,
) -> Result<(), Error> {
    let mut progress = AllProgress::new();
    loop {
        let (containers, is_complete) = find(shared, request).await?;
        let mut has_moved = false;
        for container in &containers {
            let Some(status) = &container.status else { continue };
            for stream in STREAMS {
                let key = (status.container_id.clone(), stream.into());
                let place = progress.entry(key).or_default();
                match read_on(shared, container, status, stream, place, outgoing).await {
                    Ok(moved) => has_moved |= moved,
                    Err(error) if !request.container_id.is_empty() && !request.follow => {
                        return Err(error);
                    }
                    // One container that can not be read does not hide the others.
                    Err(error) => {
                        tracing::debug!(container = status.container_id, %error, "no log");
                        place.is_done |= status.exit.is_some();
                    }
                }
            }
        }
        let is_over = is_complete && progress.values().all(|place| place.is_done);
        if is_over || !request.follow {
            return flush(&containers, &mut progress, outgoing).await;
        }
        if !has_moved {
            tokio::time::sleep(FOLLOW_INTERVAL).await;
        }
    }
}

/// Passes on the last lines, which have no end yet.
async fn flush(
    containers: &[v1::Container],
    progress: &mut AllProgress,
    outgoing: &Outgoing,
) -> Result<(), Error> {
    for container in containers {
        let Some(status) = &container.status else { continue };
        for stream in STREAMS {
            let key = (status.container_id.clone(), stream.into());
            let rest = progress.get_mut(&key).map(|place| std::mem::take(&mut place.partial));
            let data = rest.unwrap_or_default();
            if !data.is_empty() && !pass_on(container, status, stream, data, outgoing).await {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// False when the reader has left.
async fn pass_on(
    container: &v1::Container,
    status: &v1::ContainerStatus,
    stream: LogStream,
    data: Vec<u8>,
    outgoing: &Outgoing,
) -> bool {
    let lines = v1::LogLines {
        container_id: status.container_id.clone(),
        node_id: container.node_id.clone(),
        stream: stream.into(),
        data,
    };
    outgoing.send(Ok(lines)).await.is_ok()
}

/// Reads one stream up to what is there now. True when there was something.
async fn read_on(
    shared: &Shared,
    container: &v1::Container,
    status: &v1::ContainerStatus,
    stream: LogStream,
    progress: &mut Progress,
    outgoing: &Outgoing,
) -> Result<bool, Error> {
    let mut has_moved = false;
    while !progress.is_done {
        let request = v1::ReadLogChunk {
            request_id: 0,
            container_id: status.container_id.clone(),
            stream: stream.into(),
            offset: progress.offset,
            max_bytes: PIECE_BYTES,
        };
        let chunk = shared.leader.ask(ReadLog(request)).await??;
        if let Some(failure) = chunk.failure {
            return Err(Error::from_failure(failure));
        }
        let is_empty = chunk.data.is_empty();
        progress.offset = chunk.next_offset;
        progress.is_done = chunk.at_end;
        let data = whole_lines(&mut progress.partial, &chunk.data, chunk.at_end);
        if !data.is_empty() {
            has_moved = true;
            if !pass_on(container, status, stream, data, outgoing).await {
                return Ok(false);
            }
        }
        if is_empty {
            break;
        }
    }
    Ok(has_moved)
}

/// Longest line that is put together; a longer one is passed on in pieces.
const LINE_MAX: usize = 1 << 20;

/// What can be passed on: everything up to the last newline; all of it at the end of the log.
fn whole_lines(partial: &mut Vec<u8>, data: &[u8], at_end: bool) -> Vec<u8> {
    partial.extend_from_slice(data);
    if at_end || partial.len() > LINE_MAX {
        return std::mem::take(partial);
    }
    match partial.iter().rposition(|byte| *byte == b'\n') {
        Some(last) => {
            let rest = partial.split_off(last + 1);
            std::mem::replace(partial, rest)
        }
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::whole_lines;

    #[test]
    fn lines_are_passed_on_whole() {
        let mut partial = Vec::new();
        assert_eq!(whole_lines(&mut partial, b"one\ntw", false), b"one\n");
        assert_eq!(whole_lines(&mut partial, b"", false), b"");
        assert_eq!(whole_lines(&mut partial, b"o\nthree\n", false), b"two\nthree\n");
        assert_eq!(whole_lines(&mut partial, b"rest", true), b"rest");
        assert!(partial.is_empty());
    }
}
