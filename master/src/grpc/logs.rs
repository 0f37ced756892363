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

async fn find(
    shared: &Shared,
    request: &v1::ReadLogsRequest,
) -> Result<Vec<v1::Container>, Error> {
    let (application, container) = (request.application.clone(), request.container_id.clone());
    shared
        .leader
        .read(move |core| view::containers_to_read(core, &application, &container))
        .await?
}

/// How far one stream of one container was read.
#[derive(Default)]
struct Progress {
    offset: u64,
    /// The start of a line whose end has not been read.
    partial: Vec<u8>,
    is_done: bool,
}

async fn read_all(
    shared: &Shared,
    request: &v1::ReadLogsRequest,
    outgoing: &Outgoing,
) -> Result<(), Error> {
    let mut progress: BTreeMap<(String, i32), Progress> = BTreeMap::new();
    loop {
        let containers = find(shared, request).await?;
        let mut has_moved = false;
        for container in &containers {
            for stream in STREAMS {
                let id = container.status.as_ref().map(|status| status.container_id.clone());
                let Some(id) = id else { continue };
                let place = progress.entry((id.clone(), stream.into())).or_default();
                match read_on(shared, container, &id, stream, place, outgoing).await {
                    Ok(moved) => has_moved |= moved,
                    // One container that can not be read does not hide the others.
                    Err(error) if containers.len() > 1 || request.follow => {
                        tracing::debug!(container = id, %error, "a log can not be read");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        if !request.follow {
            return Ok(());
        }
        if !has_moved {
            tokio::time::sleep(FOLLOW_INTERVAL).await;
        }
    }
}

/// Reads one stream up to what is there now. True when there was something.
async fn read_on(
    shared: &Shared,
    container: &v1::Container,
    id: &str,
    stream: LogStream,
    progress: &mut Progress,
    outgoing: &Outgoing,
) -> Result<bool, Error> {
    let mut has_moved = false;
    while !progress.is_done {
        let request = v1::ReadLogChunk {
            request_id: 0,
            container_id: id.to_owned(),
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
            let lines = v1::LogLines {
                container_id: id.to_owned(),
                node_id: container.node_id.clone(),
                stream: stream.into(),
                data,
            };
            if outgoing.send(Ok(lines)).await.is_err() {
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
