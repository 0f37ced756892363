//! The files of one shard: append-only segments of frames.
//!
//! Promise: when `append` returns, the bytes are with the operating system, so they survive the
//! death of this process; after a crash, recovery reads every whole frame up to the first that is
//! torn, cuts the file there, and never invents a record. Owned by the shard's stream, under its
//! lock. It does not survive a power cut, and does not try to.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::frame::read_checked_frame;
use super::shard_log::{CHUNK_BYTES, ChunkSpan, Frames, Place};

/// A segment is closed at this size, so that trimming can give disk space back.
const SEGMENT_BYTES: u64 = 64 << 20;

/// The segments of one shard, the last of them open for appending.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    first_segment: u32,
    segment: u32,
    file: Option<File>,
    len: u64,
}

impl Journal {
    /// A journal in `dir`, which is made when the first record comes.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, first_segment: 0, segment: 0, file: None, len: 0 }
    }

    /// Reads what a former process left in `dir`.
    ///
    /// # Errors
    /// When a file cannot be read or cut.
    pub(crate) fn recover(dir: PathBuf) -> io::Result<(Self, Vec<ChunkSpan>)> {
        let mut journal = Self::new(dir);
        let segments = segments_in(&journal.dir)?;
        let mut spans = Vec::new();
        for segment in &segments {
            let path = segment_path(&journal.dir, *segment);
            let bytes = fs::read(&path)?;
            let whole = scan(&bytes, *segment, &mut spans);
            if whole < bytes.len() as u64 {
                tracing::warn!(
                    file = %path.display(),
                    cut = bytes.len() as u64 - whole,
                    "cut the torn tail that a crash left behind"
                );
                OpenOptions::new().write(true).open(&path)?.set_len(whole)?;
            }
            journal.len = whole;
        }
        journal.first_segment = segments.first().copied().unwrap_or(0);
        journal.segment = segments.last().copied().unwrap_or(0);
        if !segments.is_empty() {
            journal.file = Some(open_for_append(&journal.dir, journal.segment)?);
        }
        Ok((journal, spans))
    }

    /// Writes frames to the end and returns where they lie.
    ///
    /// # Errors
    /// When the disk refuses; what was written of them is cut off again.
    pub(crate) fn append(&mut self, frames: &[u8]) -> io::Result<Place> {
        if self.len >= SEGMENT_BYTES {
            self.segment += 1;
            self.file = None;
            self.len = 0;
        }
        if self.file.is_none() {
            fs::create_dir_all(&self.dir)?;
            self.file = Some(open_for_append(&self.dir, self.segment)?);
        }
        let file = self.file.as_ref().expect("opened above");
        if let Err(error) = file.write_all_at(frames, self.len) {
            file.set_len(self.len)?;
            return Err(error);
        }
        let place = Place { segment: self.segment, offset: self.len, len: frames.len() as u64 };
        self.len += place.len;
        Ok(place)
    }

    /// Reads a chunk back.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn read(&self, place: Place) -> io::Result<Frames> {
        let len = usize::try_from(place.len).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        File::open(segment_path(&self.dir, place.segment))?
            .read_exact_at(&mut bytes, place.offset)?;
        Ok(Frames::parse(bytes))
    }

    /// Removes the segments below `keep`. `None` keeps only the one that is being written.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub(crate) fn remove_below(&mut self, keep: Option<u32>) -> io::Result<()> {
        let keep = keep.unwrap_or(self.segment).min(self.segment);
        while self.first_segment < keep {
            match fs::remove_file(segment_path(&self.dir, self.first_segment)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.first_segment += 1,
            }
        }
        Ok(())
    }
}

fn segment_path(dir: &Path, segment: u32) -> PathBuf {
    dir.join(format!("{segment:08}.log"))
}

fn open_for_append(dir: &Path, segment: u32) -> io::Result<File> {
    let path = segment_path(dir, segment);
    OpenOptions::new().create(true).read(true).write(true).truncate(false).open(path)
}

/// The numbers of the segment files in `dir`, ascending; none if there is no such directory.
fn segments_in(dir: &Path) -> io::Result<Vec<u32>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut segments = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number: Option<u32> = name.to_str().and_then(|n| n.strip_suffix(".log")?.parse().ok());
        segments.extend(number);
    }
    segments.sort_unstable();
    Ok(segments)
}

/// Cuts the frames of a segment into chunks and returns the number of bytes that are whole frames.
fn scan(bytes: &[u8], segment: u32, spans: &mut Vec<ChunkSpan>) -> u64 {
    let mut at = 0;
    let mut open: Option<ChunkSpan> = None;
    while let Some((frame, next)) = read_checked_frame(bytes, at) {
        let span = open.get_or_insert(ChunkSpan {
            first_index: frame.index,
            num_records: 0,
            last_arrival_ms: frame.arrival_ms,
            place: Place { segment, offset: at as u64, len: 0 },
        });
        span.num_records += 1;
        span.last_arrival_ms = frame.arrival_ms;
        span.place.len += (next - at) as u64;
        if span.place.len >= CHUNK_BYTES as u64 {
            spans.extend(open.take());
        }
        at = next;
    }
    spans.extend(open);
    at as u64
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Frame, write_frame};
    use super::*;

    fn frame(index: u64) -> Vec<u8> {
        let mut out = Vec::new();
        write_frame(&mut out, &Frame { index, arrival_ms: index, key: "k", data: b"data" });
        out
    }

    #[test]
    fn a_torn_tail_is_cut_and_the_rest_is_kept() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("shard");
        let mut journal = Journal::new(path.clone());
        let mut whole = 0;
        for index in 1..=3 {
            whole += journal.append(&frame(index)).expect("append").len;
        }
        let torn = frame(4);
        journal.append(&torn[..torn.len() - 1]).expect("append");
        drop(journal);

        let (mut journal, spans) = Journal::recover(path.clone()).expect("recover");
        assert_eq!(spans.len(), 1);
        assert_eq!((spans[0].first_index, spans[0].num_records), (1, 3));
        assert_eq!(fs::metadata(path.join("00000000.log")).expect("file").len(), whole);
        journal.append(&frame(4)).expect("append");
        let (journal, spans) = Journal::recover(path).expect("recover again");
        assert_eq!(spans[0].num_records, 4);
        let frames = journal.read(spans[0].place).expect("read");
        assert_eq!(frames.num_records(), 4);
        assert_eq!(frames.get(3).map(|f| f.index), Some(4));
    }

    #[test]
    fn a_missing_directory_is_an_empty_journal() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (_, spans) = Journal::recover(dir.path().join("none")).expect("recover");
        assert!(spans.is_empty());
    }
}
