//! Logs of containers: pieces of them, read from their files when the master asks, and the watch
//! that keeps each file small.
//!
//! Promises: a log takes no more of the disk than it may, whatever its container writes: the oldest
//! part is given back to the disk, in place, so that the container writes on as if nothing had been.
//! Positions count from the container's first byte. Never does: change what is kept.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use millrace_common::error::{Code, Error};
use millrace_common::id::ContainerId;
use millrace_common::resources::ByteSize;
use millrace_proto::v1::{LogChunk, LogStream, ReadLogChunk};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use super::core::is_plain;
use super::work_dir::{STDERR, STDOUT, WorkDir};
use crate::entry::CONFIGURATION;

/// Largest piece that is sent at once, whatever was asked for.
const PIECE_BYTES_MAX: u32 = 256 << 10;
/// How much of standard error goes into the report of an end.
const TAIL_BYTES: u64 = 2 << 10;
/// What a disk gives and takes: less can not be given back.
const BLOCK_BYTES: u64 = 4 << 10;

/// Opens a log for a container to write to.
pub(super) fn create(path: &Path) -> io::Result<File> {
    // To append, so that it goes on at the end whatever is taken from the beginning.
    let mut options = File::options();
    options.append(true).create(true);
    let file = options.open(path)?;
    file.set_len(0)?;
    Ok(file)
}

/// A log that its container writes to.
#[derive(Debug)]
pub(super) struct Capped {
    file: File,
    max: u64,
    /// Bytes from its beginning that were given back.
    gone: u64,
}

impl Capped {
    /// Watches a log; it may hold `max` on the disk.
    pub(super) fn new(file: File, max: ByteSize) -> Self {
        Self { file, max: max.as_u64().max(2 * BLOCK_BYTES), gone: 0 }
    }

    /// Gives the older half back when there is too much.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn look(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length.saturating_sub(self.gone) <= self.max {
            return Ok(());
        }
        let until = (length - self.max / 2) / BLOCK_BYTES * BLOCK_BYTES;
        let bytes = i64::try_from(until).map_err(io::Error::other)?;
        let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, how, 0, bytes) {
            Ok(()) => self.gone = until,
            // A file system that can not: the log begins anew.
            Err(Errno::EOPNOTSUPP) => {
                self.file.set_len(0)?;
                self.gone = 0;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Reads the piece that is asked for. `is_live`: the container may still write.
pub(super) fn read(work_dir: &WorkDir, request: &ReadLogChunk, is_live: bool) -> LogChunk {
    let mut chunk = LogChunk {
        request_id: request.request_id,
        offset: request.offset,
        next_offset: request.offset,
        ..Default::default()
    };
    let name = match request.stream() {
        LogStream::Stdout => STDOUT,
        LogStream::Stderr | LogStream::Unspecified => STDERR,
        LogStream::Configuration => CONFIGURATION,
    };
    let id = ContainerId::new(request.container_id.clone());
    let outcome = if is_plain(id.as_str()) {
        let limit = request.max_bytes.min(PIECE_BYTES_MAX);
        read_piece(&work_dir.container(&id).join(name), request.offset, limit.into())
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    };
    match outcome {
        Ok(Piece { offset, data, length }) => {
            chunk.offset = offset;
            chunk.next_offset = offset + data.len() as u64;
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

/// A part of a file.
struct Piece {
    /// Where it begins: where it was asked for, or behind what is kept no more.
    offset: u64,
    data: Vec<u8>,
    /// Of the whole file.
    length: u64,
}

fn read_piece(path: &Path, wanted: u64, limit: u64) -> io::Result<Piece> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // Shorter than it was: it has begun anew.
    let mut offset = if wanted > length { 0 } else { wanted };
    let mut is_cut = false;
    if offset < length {
        let kept = first_kept(&file, offset)?;
        // A line that has lost its beginning goes with it.
        is_cut = kept > offset;
        offset = kept;
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut data = Vec::new();
    file.take(limit).read_to_end(&mut data)?;
    if is_cut && let Some(end) = data.iter().position(|byte| *byte == b'\n') {
        data.drain(..=end);
        offset += end as u64 + 1;
    }
    Ok(Piece { offset, data, length })
}

/// The first byte at or after `offset` that the disk still holds.
fn first_kept(file: &File, offset: u64) -> io::Result<u64> {
    let from = i64::try_from(offset).map_err(io::Error::other)?;
    match lseek(file, from, Whence::SeekData) {
        Ok(at) => Ok(u64::try_from(at).unwrap_or(offset)),
        // A file system that does not know holes has none.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(offset),
        // Nothing is behind it; so it was cut just now.
        Err(Errno::ENXIO) => Ok(offset),
        Err(error) => Err(error.into()),
    }
}

/// The last lines of a container's standard error.
pub(super) fn stderr_tail(directory: &Path) -> String {
    let path = directory.join(STDERR);
    let length = path.metadata().map_or(0, |metadata| metadata.len());
    let from = length.saturating_sub(TAIL_BYTES);
    let Ok(Piece { data, .. }) = read_piece(&path, from, TAIL_BYTES) else { return String::new() };
    let text = String::from_utf8_lossy(&data);
    match text.split_once('\n') {
        // The first line was cut: leave it out.
        Some((_, rest)) if from > 0 => rest.to_owned(),
        _ => text.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    const MAX: u64 = 64 << 10;

    #[test]
    fn a_log_holds_no_more_than_it_may_and_its_newest_lines_are_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(STDERR);
        let mut writer = create(&path).unwrap();
        let mut capped = Capped::new(writer.try_clone().unwrap(), ByteSize::bytes(MAX));
        for number in 0..40_000 {
            writeln!(writer, "line {number:06}").unwrap();
            if number % 100 == 0 {
                capped.look().unwrap();
            }
        }
        capped.look().unwrap();
        let on_disk = path.metadata().unwrap().blocks() * 512;
        assert!(on_disk <= MAX + BLOCK_BYTES, "{on_disk} bytes are on the disk");
        let piece = read_piece(&path, 0, MAX).unwrap();
        let text = String::from_utf8(piece.data).unwrap();
        let first: u64 = text.lines().next().unwrap()["line ".len()..].parse().unwrap();
        assert_eq!(piece.offset, first * "line 000000\n".len() as u64, "positions stay true");
        assert!(text.ends_with("line 039999\n"), "the newest is kept");
        let again = read_piece(&path, piece.offset, 12).unwrap();
        assert_eq!(again.data, format!("line {first:06}\n").into_bytes());
        assert!(stderr_tail(directory.path()).ends_with("line 039999\n"));
    }

    #[test]
    fn a_log_that_began_anew_is_read_from_its_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(STDOUT);
        create(&path).unwrap().write_all(b"new\n").unwrap();
        let piece = read_piece(&path, 4_096, 100).unwrap();
        assert_eq!((piece.offset, piece.data.as_slice()), (0, b"new\n".as_slice()));
        let piece = read_piece(&path, 4, 100).unwrap();
        assert_eq!((piece.offset, piece.data.len()), (4, 0));
    }
}
