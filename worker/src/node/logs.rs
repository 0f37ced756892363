//! Pieces of containers' logs, read from their files when the master asks.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use millrace_common::error::{Code, Error};
use millrace_common::id::ContainerId;
use millrace_proto::v1::{LogChunk, LogStream, ReadLogChunk};

use super::core::is_plain;
use super::work_dir::{STDERR, STDOUT, WorkDir};

/// Largest piece that is sent at once, whatever was asked for.
const PIECE_BYTES_MAX: u32 = 256 << 10;
/// How much of standard error goes into the report of an end.
const TAIL_BYTES: u64 = 2 << 10;

/// Reads the piece that is asked for. `is_live`: the container may still write.
pub(super) fn read(work_dir: &WorkDir, request: &ReadLogChunk, is_live: bool) -> LogChunk {
    let mut chunk = LogChunk {
        request_id: request.request_id,
        next_offset: request.offset,
        ..Default::default()
    };
    let name = match request.stream() {
        LogStream::Stdout => STDOUT,
        LogStream::Stderr | LogStream::Unspecified => STDERR,
    };
    let id = ContainerId::new(request.container_id.clone());
    let outcome = if is_plain(id.as_str()) {
        let limit = request.max_bytes.min(PIECE_BYTES_MAX);
        read_piece(&work_dir.container(&id).join(name), request.offset, limit.into())
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    };
    match outcome {
        Ok((data, length)) => {
            chunk.next_offset = request.offset + data.len() as u64;
            chunk.at_end = !is_live && chunk.next_offset >= length;
            chunk.data = data;
        }
        // Granted and not started yet: there will be something to read.
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_live => {}
        Err(error) => {
            let failure = Error::new(
                Code::UnknownContainer,
                format!("the log {name} of {id} can not be read on its node: {error}"),
                "its files may have been removed; a node keeps those of its last containers",
            );
            chunk.failure = Some(failure.to_failure());
        }
    }
    chunk
}

fn read_piece(path: &Path, offset: u64, limit: u64) -> io::Result<(Vec<u8>, u64)> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(offset))?;
    let mut data = Vec::new();
    file.take(limit).read_to_end(&mut data)?;
    Ok((data, length))
}

/// The last lines of a container's standard error.
pub(super) fn stderr_tail(directory: &Path) -> String {
    let path = directory.join(STDERR);
    let length = path.metadata().map_or(0, |metadata| metadata.len());
    let from = length.saturating_sub(TAIL_BYTES);
    let Ok((data, _)) = read_piece(&path, from, TAIL_BYTES) else { return String::new() };
    let text = String::from_utf8_lossy(&data);
    match text.split_once('\n') {
        // The first line was cut: leave it out.
        Some((_, rest)) if from > 0 => rest.to_owned(),
        _ => text.into_owned(),
    }
}
