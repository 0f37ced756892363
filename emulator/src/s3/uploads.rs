//! Multipart uploads: what is kept of them, and which parts may become an object.
//!
//! The choice of parts is pure. A completed upload is remembered, so that completing it again gives
//! the same answer, as on the real service.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use s3s::{S3Result, s3_error};
use serde::{Deserialize, Serialize};

use super::checksums::{Algorithm, Value};
use super::internal;
use super::pieces::Piece;
use super::store::{Attributes, State, Store, json_files, read_json, save};

/// Every part but the last has at least this many bytes.
pub(crate) const MIN_PART_BYTES: u64 = 5 << 20;
/// The highest part number.
pub(crate) const MAX_PART_NUMBER: i32 = 10_000;
/// How long a completed upload is remembered over restarts.
const REMEMBERED_MS: u64 = 7 * 24 * 3_600_000;

/// The description of an upload on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UploadRecord {
    pub(crate) upload_id: String,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) initiated_ms: u64,
    pub(crate) attributes: Attributes,
    pub(crate) algorithm: Option<Algorithm>,
    /// Whether the object's checksum is to be one of the parts' checksums.
    pub(crate) composite: bool,
}

/// The description of a part on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PartRecord {
    pub(crate) number: i32,
    pub(crate) etag: String,
    pub(crate) checksum: Value,
    pub(crate) modified_ms: u64,
    pub(crate) piece: (String, u64),
}

/// A part with its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) record: PartRecord,
    pub(crate) piece: Piece,
}

/// An upload in progress.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub(crate) record: UploadRecord,
    pub(crate) parts: BTreeMap<i32, Part>,
}

/// What is remembered of a completed upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Completed {
    pub(crate) upload_id: String,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) etag: String,
    pub(crate) checksum: Option<Value>,
    pub(crate) at_ms: u64,
}

/// A part as a CompleteMultipartUpload names it.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) number: i32,
    pub(crate) etag: String,
    pub(crate) checksum: Option<Value>,
}

/// The parts that make the object.
///
/// # Errors
/// InvalidPartOrder, InvalidPart or EntityTooSmall, as the real service.
pub(crate) fn choose<'u>(upload: &'u Upload, named: &[Named]) -> S3Result<Vec<&'u Part>> {
    if named.is_empty() {
        return Err(s3_error!(MalformedXML, "You must specify at least one part"));
    }
    if named.windows(2).any(|pair| pair[0].number >= pair[1].number) {
        return Err(s3_error!(
            InvalidPartOrder,
            "The list of parts was not in ascending order. Parts must be ordered by part number."
        ));
    }
    let mut chosen = Vec::with_capacity(named.len());
    for name in named {
        let part = upload.parts.get(&name.number).filter(|part| {
            let sum = &part.record.checksum;
            let sum_fits = name.checksum.as_ref().is_none_or(|c| c == sum);
            part.record.etag == name.etag && sum_fits
        });
        chosen.push(part.ok_or_else(|| {
            s3_error!(
                InvalidPart,
                "One or more of the specified parts could not be found. The part may not have been \
                 uploaded, or the specified entity tag may not match the part's entity tag: part {}",
                name.number
            )
        })?);
    }
    let but_last = &chosen[..chosen.len() - 1];
    if let Some(small) = but_last.iter().find(|part| part.piece.size() < MIN_PART_BYTES) {
        return Err(s3_error!(
            EntityTooSmall,
            "Your proposed upload is smaller than the minimum allowed size: part {} has {} bytes",
            small.record.number,
            small.piece.size()
        ));
    }
    Ok(chosen)
}

impl State {
    /// The upload in progress of that id, for that key.
    pub(crate) fn upload(&self, bucket: &str, key: &str, id: &str) -> S3Result<&Upload> {
        self.bucket(bucket)?;
        self.uploads
            .get(id)
            .filter(|u| u.record.bucket == bucket && u.record.key == key)
            .ok_or_else(no_such_upload)
    }
}

/// The refusal of an upload that is not in progress.
pub(crate) fn no_such_upload() -> s3s::S3Error {
    s3_error!(
        NoSuchUpload,
        "The specified multipart upload does not exist. The upload ID might be invalid, or the \
         multipart upload might have been aborted or completed."
    )
}

impl Store {
    /// Keeps a new upload.
    pub(crate) fn create_upload(&self, record: UploadRecord) -> S3Result<()> {
        let mut state = self.lock();
        state.bucket(&record.bucket)?;
        let dir = self.upload_dir(&record.upload_id);
        fs::create_dir_all(&dir).map_err(|e| internal("cannot make an upload", &e))?;
        save(&dir.join("upload.json"), &record)?;
        let upload = Upload { record, parts: BTreeMap::new() };
        state.uploads.insert(upload.record.upload_id.clone(), upload);
        Ok(())
    }

    /// Keeps a part; one of the same number is replaced.
    pub(crate) fn put_part(&self, bucket: &str, key: &str, id: &str, part: Part) -> S3Result<()> {
        let mut state = self.lock();
        if let Err(error) = state.upload(bucket, key, id) {
            part.piece.doom();
            return Err(error);
        }
        let number = part.record.number;
        save(&self.upload_dir(id).join(format!("{number:05}.json")), &part.record)?;
        let upload = state.uploads.get_mut(id).expect("looked up above");
        if let Some(old) = upload.parts.insert(number, part) {
            old.piece.doom();
        }
        Ok(())
    }

    /// Forgets an upload and its parts, but for the pieces in `keep`.
    pub(crate) fn forget_upload(
        &self,
        state: &mut State,
        id: &str,
        keep: &[Piece],
    ) -> S3Result<()> {
        let Some(upload) = state.uploads.remove(id) else {
            return Err(no_such_upload());
        };
        remove_dir(self.upload_dir(id)).map_err(|e| internal("cannot remove an upload", &e))?;
        let kept = |piece: &Piece| keep.iter().any(|k| k.path() == piece.path());
        for part in upload.parts.values().filter(|p| !kept(&p.piece)) {
            part.piece.doom();
        }
        Ok(())
    }

    /// Remembers that an upload was completed.
    pub(crate) fn remember(&self, state: &mut State, completed: Completed) -> S3Result<()> {
        append_line(&self.path("completed.jsonl"), &completed)
            .map_err(|e| internal("cannot remember a completed upload", &e))?;
        state.completed.insert(completed.upload_id.clone(), completed);
        Ok(())
    }

    fn upload_dir(&self, id: &str) -> PathBuf {
        self.path("uploads").join(id)
    }
}

/// Removes an upload's directory, its description first, so that a crash leaves no half of it.
fn remove_dir(dir: PathBuf) -> io::Result<()> {
    fs::remove_file(dir.join("upload.json"))?;
    fs::remove_dir_all(dir)
}

fn append_line(path: &PathBuf, completed: &Completed) -> io::Result<()> {
    let mut line = serde_json::to_vec(completed)?;
    line.push(b'\n');
    fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(&line)
}

/// Reads the uploads of a former process, after its objects.
pub(super) fn load(store: &Store, state: &mut State) -> io::Result<()> {
    load_completed(store, state)?;
    let made: HashMap<String, Completed> = state
        .buckets
        .values()
        .flat_map(|b| b.objects.values())
        .filter_map(|o| {
            let r = &o.record;
            let upload_id = r.upload_id.clone()?;
            let (bucket, key, etag) = (r.bucket.clone(), r.key.clone(), r.etag.clone());
            let (checksum, at_ms) = (r.checksum.clone(), r.modified_ms);
            Some((upload_id.clone(), Completed { upload_id, bucket, key, etag, checksum, at_ms }))
        })
        .collect();
    for entry in fs::read_dir(store.path("uploads"))? {
        let dir = entry?.path();
        if !dir.join("upload.json").exists() {
            fs::remove_dir_all(&dir)?;
            continue;
        }
        let record: UploadRecord = read_json(&dir.join("upload.json"))?;
        // A crash between making the object and forgetting the upload.
        if let Some(completed) = made.get(&record.upload_id) {
            append_line(&store.path("completed.jsonl"), completed)?;
            state.completed.insert(record.upload_id, completed.clone());
            remove_dir(dir)?;
            continue;
        }
        let mut parts = BTreeMap::new();
        for path in json_files(&dir)?.into_iter().filter(|p| !p.ends_with("upload.json")) {
            let part: PartRecord = read_json(&path)?;
            let piece = store.pieces(std::slice::from_ref(&part.piece)).remove(0);
            parts.insert(part.number, Part { record: part, piece });
        }
        state.uploads.insert(record.upload_id.clone(), Upload { record, parts });
    }
    Ok(())
}

/// Reads the completed uploads and writes back those that are still remembered.
fn load_completed(store: &Store, state: &mut State) -> io::Result<()> {
    let path = store.path("completed.jsonl");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // The last line may have been cut short by a crash; its upload is found through its object.
    let all: Vec<Completed> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let newest_ms = all.iter().map(|c| c.at_ms).max().unwrap_or(0);
    let mut kept = Vec::new();
    for completed in all.into_iter().filter(|c| c.at_ms + REMEMBERED_MS > newest_ms) {
        serde_json::to_writer(&mut kept, &completed)?;
        kept.push(b'\n');
        state.completed.insert(completed.upload_id.clone(), completed);
    }
    crate::files::write_atomic(&path, &kept)
}

#[cfg(test)]
mod tests {
    use super::super::pieces::PieceFile;
    use super::*;
    use s3s::S3ErrorCode;

    fn upload(sizes: &[u64]) -> Upload {
        let record = UploadRecord {
            upload_id: "u".into(),
            bucket: "b".into(),
            key: "k".into(),
            initiated_ms: 0,
            attributes: Attributes::default(),
            algorithm: None,
            composite: false,
        };
        let part = |(n, size): (usize, &u64)| {
            let number = i32::try_from(n).expect("few") + 1;
            let record = PartRecord {
                number,
                etag: format!("etag-{number}"),
                checksum: Value::new(Algorithm::Crc32, "sum".into()),
                modified_ms: 0,
                piece: (String::new(), *size),
            };
            (number, Part { record, piece: PieceFile::new(PathBuf::new(), *size) })
        };
        Upload { record, parts: sizes.iter().enumerate().map(part).collect() }
    }

    fn named(numbers: &[i32]) -> Vec<Named> {
        let name = |n: &i32| Named { number: *n, etag: format!("etag-{n}"), checksum: None };
        numbers.iter().map(name).collect()
    }

    fn refusal(upload: &Upload, named: &[Named]) -> S3ErrorCode {
        choose(upload, named).expect_err("must be refused").code().clone()
    }

    #[test]
    fn parts_are_chosen_by_number_and_etag() {
        let upload = upload(&[MIN_PART_BYTES, MIN_PART_BYTES, 1]);
        let numbers = |named: &[Named]| {
            let chosen = choose(&upload, named).expect("chosen");
            chosen.iter().map(|p| p.record.number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&named(&[1, 2, 3])), [1, 2, 3]);
        assert_eq!(numbers(&named(&[2])), [2]);
    }

    #[test]
    fn wrong_lists_are_refused_by_name() {
        let upload = upload(&[MIN_PART_BYTES, MIN_PART_BYTES - 1, 1]);
        assert_eq!(refusal(&upload, &named(&[])), S3ErrorCode::MalformedXML);
        assert_eq!(refusal(&upload, &named(&[3, 1])), S3ErrorCode::InvalidPartOrder);
        assert_eq!(refusal(&upload, &named(&[1, 1])), S3ErrorCode::InvalidPartOrder);
        assert_eq!(refusal(&upload, &named(&[1, 4])), S3ErrorCode::InvalidPart);
        assert_eq!(refusal(&upload, &named(&[1, 2, 3])), S3ErrorCode::EntityTooSmall);
        let mut wrong = named(&[1]);
        wrong[0].etag = "other".into();
        assert_eq!(refusal(&upload, &wrong), S3ErrorCode::InvalidPart);
        let mut wrong = named(&[1]);
        wrong[0].checksum = Some(Value::new(Algorithm::Crc32, "other".into()));
        assert_eq!(refusal(&upload, &wrong), S3ErrorCode::InvalidPart);
    }
}
