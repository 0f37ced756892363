//! The state of S3: buckets, objects, uploads and completed uploads, in memory and on disk.
//!
//! On disk: `buckets/<name>.json`, `objects/<id>.json` (one per object, naming its key and pieces),
//! `uploads/<id>/upload.json` and `uploads/<id>/<part>.json`, `completed.jsonl`, `pieces/<id>`. A
//! change is made by writing one description in one step; at the start the newest description of a
//! key wins, and pieces that no description names are removed. Everything is under one lock, held
//! for the writing of one small file.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use s3s::{S3Result, s3_error};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::checksums::Value;
use super::internal;
use super::pieces::{Piece, PieceFile};
use super::uploads::{Completed, Upload};
use crate::files::write_atomic;

/// What a client says of an object beside its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Attributes {
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) content_type: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) content_disposition: Option<String>,
    pub(crate) content_language: Option<String>,
    pub(crate) cache_control: Option<String>,
}

/// The description of an object on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ObjectRecord {
    pub(crate) bucket: String,
    pub(crate) key: String,
    /// Grows with every change; the highest of a key is the object.
    pub(crate) version: u64,
    pub(crate) modified_ms: u64,
    pub(crate) etag: String,
    pub(crate) checksum: Option<Value>,
    pub(crate) attributes: Attributes,
    /// Names and sizes of the pieces.
    pub(crate) pieces: Vec<(String, u64)>,
    /// The upload that made it.
    pub(crate) upload_id: Option<String>,
}

/// An object.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) record: ObjectRecord,
    pub(crate) pieces: Vec<Piece>,
    id: Uuid,
}

impl Object {
    pub(crate) fn size(&self) -> u64 {
        self.record.pieces.iter().map(|(_, size)| size).sum()
    }
}

/// A bucket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Bucket {
    pub(crate) name: String,
    pub(crate) created_ms: u64,
    pub(crate) region: String,
    #[serde(skip)]
    pub(crate) objects: BTreeMap<String, Object>,
}

/// Everything that is kept.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) buckets: BTreeMap<String, Bucket>,
    pub(crate) uploads: HashMap<String, Upload>,
    pub(crate) completed: HashMap<String, Completed>,
    next_version: u64,
}

/// What a new object must find under its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    Always,
    Absent,
    HasETag(String),
}

/// The state with its directory.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    state: Mutex<State>,
}

impl Store {
    /// Reads back what a former process left in `dir`.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        for part in ["buckets", "objects", "uploads", "pieces"] {
            fs::create_dir_all(dir.join(part))?;
        }
        let store = Self { dir: dir.to_owned(), state: Mutex::default() };
        let mut state = State::default();
        store.load_buckets(&mut state)?;
        store.load_objects(&mut state)?;
        super::uploads::load(&store, &mut state)?;
        store.remove_unnamed_pieces(&state)?;
        *store.lock() = state;
        Ok(store)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn path(&self, part: &str) -> PathBuf {
        self.dir.join(part)
    }

    /// A path for a new piece.
    pub(crate) fn new_piece(&self) -> PathBuf {
        self.path("pieces").join(Uuid::new_v4().simple().to_string())
    }

    /// The pieces of those names and sizes.
    pub(crate) fn pieces(&self, named: &[(String, u64)]) -> Vec<Piece> {
        let dir = self.path("pieces");
        named.iter().map(|(name, size)| PieceFile::new(dir.join(name), *size)).collect()
    }

    /// Keeps a bucket.
    pub(crate) fn create_bucket(&self, bucket: Bucket) -> S3Result<()> {
        let mut state = self.lock();
        if state.buckets.contains_key(&bucket.name) {
            return Err(s3_error!(
                BucketAlreadyOwnedByYou,
                "Your previous request to create the named bucket succeeded and you already own it."
            ));
        }
        save(&self.bucket_path(&bucket.name), &bucket)?;
        state.buckets.insert(bucket.name.clone(), bucket);
        Ok(())
    }

    /// Removes an empty bucket.
    pub(crate) fn delete_bucket(&self, name: &str) -> S3Result<()> {
        let mut state = self.lock();
        if !state.bucket(name)?.objects.is_empty() {
            return Err(s3_error!(BucketNotEmpty, "The bucket you tried to delete is not empty"));
        }
        remove(&self.bucket_path(name))?;
        state.buckets.remove(name);
        Ok(())
    }

    /// Puts an object under its key if the condition holds: the moment at which it becomes visible.
    pub(crate) fn put_object(
        &self,
        state: &mut State,
        mut record: ObjectRecord,
        pieces: Vec<Piece>,
        condition: &Condition,
    ) -> S3Result<()> {
        let bucket =
            state.buckets.get_mut(&record.bucket).ok_or_else(|| no_such_bucket(&record.bucket))?;
        check(condition, bucket.objects.get(&record.key))?;
        record.version = state.next_version;
        record.pieces = pieces.iter().map(|p| (p.name(), p.size())).collect();
        let id = Uuid::new_v4();
        save(&self.object_path(id), &record)?;
        state.next_version += 1;
        let key = record.key.clone();
        if let Some(old) = bucket.objects.insert(key, Object { record, pieces, id }) {
            self.discard(&old)?;
        }
        Ok(())
    }

    /// Removes an object; one that is not there is removed already.
    pub(crate) fn delete_object(&self, bucket: &str, key: &str) -> S3Result<()> {
        let mut state = self.lock();
        let bucket = state.buckets.get_mut(bucket).ok_or_else(|| no_such_bucket(bucket))?;
        match bucket.objects.remove(key) {
            Some(old) => self.discard(&old),
            None => Ok(()),
        }
    }

    fn discard(&self, old: &Object) -> S3Result<()> {
        remove(&self.object_path(old.id))?;
        old.pieces.iter().for_each(|p| p.doom());
        Ok(())
    }

    fn bucket_path(&self, name: &str) -> PathBuf {
        self.path("buckets").join(format!("{name}.json"))
    }

    fn object_path(&self, id: Uuid) -> PathBuf {
        self.path("objects").join(format!("{}.json", id.simple()))
    }

    fn load_buckets(&self, state: &mut State) -> io::Result<()> {
        for path in json_files(&self.path("buckets"))? {
            let bucket: Bucket = read_json(&path)?;
            state.buckets.insert(bucket.name.clone(), bucket);
        }
        Ok(())
    }

    fn load_objects(&self, state: &mut State) -> io::Result<()> {
        for path in json_files(&self.path("objects"))? {
            let record: ObjectRecord = read_json(&path)?;
            let name = path.file_stem().and_then(|n| n.to_str()).unwrap_or_default();
            let id = Uuid::parse_str(name).map_err(io::Error::other)?;
            state.next_version = state.next_version.max(record.version + 1);
            let Some(bucket) = state.buckets.get_mut(&record.bucket) else {
                fs::remove_file(&path)?;
                continue;
            };
            let older = bucket.objects.get(&record.key).map(|o| (o.record.version, o.id));
            match older {
                // A crash between putting the new description and removing the old one.
                Some((version, _)) if version > record.version => {
                    fs::remove_file(&path)?;
                    continue;
                }
                Some((_, old)) => fs::remove_file(self.object_path(old))?,
                None => {}
            }
            let pieces = self.pieces(&record.pieces);
            bucket.objects.insert(record.key.clone(), Object { record, pieces, id });
        }
        Ok(())
    }

    fn remove_unnamed_pieces(&self, state: &State) -> io::Result<()> {
        let of_objects = state.buckets.values().flat_map(|b| b.objects.values());
        let of_uploads = state.uploads.values().flat_map(|u| u.parts.values());
        let named: HashSet<String> = of_objects
            .flat_map(|o| o.pieces.iter().map(|p| p.name()))
            .chain(of_uploads.map(|p| p.piece.name()))
            .collect();
        for entry in fs::read_dir(self.path("pieces"))? {
            let entry = entry?;
            if !named.contains(entry.file_name().to_string_lossy().as_ref()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl State {
    /// The bucket of that name.
    pub(crate) fn bucket(&self, name: &str) -> S3Result<&Bucket> {
        self.buckets.get(name).ok_or_else(|| no_such_bucket(name))
    }

    /// The object under that key.
    pub(crate) fn object(&self, bucket: &str, key: &str) -> S3Result<&Object> {
        self.bucket(bucket)?
            .objects
            .get(key)
            .ok_or_else(|| s3_error!(NoSuchKey, "The specified key does not exist."))
    }
}

fn no_such_bucket(name: &str) -> s3s::S3Error {
    s3_error!(NoSuchBucket, "The specified bucket does not exist: {name}")
}

fn check(condition: &Condition, present: Option<&Object>) -> S3Result<()> {
    let holds = match condition {
        Condition::Always => true,
        Condition::Absent => present.is_none(),
        Condition::HasETag(etag) => match present {
            None => return Err(s3_error!(NoSuchKey, "The specified key does not exist.")),
            Some(object) => object.record.etag == *etag,
        },
    };
    if holds {
        return Ok(());
    }
    Err(s3_error!(
        PreconditionFailed,
        "At least one of the pre-conditions you specified did not hold"
    ))
}

/// Writes a description in one step.
pub(crate) fn save<T: Serialize>(path: &Path, value: &T) -> S3Result<()> {
    let bytes =
        serde_json::to_vec(value).map_err(|e| internal("cannot write a description", &e))?;
    write_atomic(path, &bytes).map_err(|e| internal("cannot write a description", &e))
}

fn remove(path: &Path) -> S3Result<()> {
    fs::remove_file(path).map_err(|e| internal("cannot remove a description", &e))
}

pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> io::Result<T> {
    serde_json::from_slice(&fs::read(path)?)
        .map_err(|e| io::Error::other(format!("{}: {e}", path.display())))
}

/// The descriptions in a directory; what a crash left half-written is removed.
pub(crate) fn json_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("json") => files.push(path),
            Some(other) if other.starts_with("tmp-") => fs::remove_file(&path)?,
            _ => {}
        }
    }
    Ok(files)
}
