//! The directory of a local cluster and `cluster.json` in it: which processes were started.
//!
//! Promises: the file is replaced as a whole, never half-written; one command at a time works on a
//! directory.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use millrace_common::error::{Code, Error, Result};
use serde::{Deserialize, Serialize};

use super::process;
use crate::arguments::DEFAULT_DIRECTORY;

/// Access key that the emulator accepts.
pub(super) const ACCESS_KEY: &str = "test";
/// Its secret.
pub(super) const SECRET_KEY: &str = "test";
/// Region that the emulator plays.
pub(super) const REGION: &str = "us-east-1";

const RECORD_FILE: &str = "cluster.json";
const LOCK_FILE: &str = "lock";

/// A process that `up` started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    /// `emulator`, `master` or a node's id.
    pub(super) role: String,
    pub(super) pid: u32,
    /// Tells this process from a later one with the same id.
    pub(super) identity: String,
    pub(super) log: PathBuf,
}

impl Process {
    /// True while exactly this process lives.
    pub(super) fn lives(&self) -> bool {
        process::identity(self.pid).is_some_and(|identity| identity == self.identity)
    }
}

/// What `up` has started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Of the emulator, as `http://127.0.0.1:PORT`; empty before it has one.
    pub(super) endpoint: String,
    /// Of the master; empty before it has one.
    pub(super) master: String,
    /// Of the token that this user shows to the master; empty before it is made.
    #[serde(default)]
    pub(super) token_file: PathBuf,
    /// In the order of their start.
    pub(super) processes: Vec<Process>,
}

/// The directory of a local cluster.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// As the user wrote it.
    named: PathBuf,
}

/// The command of `millrace local` that does `verb` to the cluster in a directory.
pub(super) fn command(verb: &str, named: &Path) -> String {
    if named == Path::new(DEFAULT_DIRECTORY) {
        return format!("millrace local {verb}");
    }
    let named = named.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    match named.chars().all(is_plain) {
        true => format!("millrace local {verb} --dir {named}"),
        false => format!("millrace local {verb} --dir '{}'", named.replace('\'', "'\\''")),
    }
}

impl Directory {
    /// A directory that must be there.
    pub(super) fn open(path: &Path) -> Result<Self> {
        match path.canonicalize() {
            Ok(absolute) => Ok(Self { path: absolute, named: path.to_owned() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(none_there(path, path))
            }
            Err(error) => Err(unusable(path, error)),
        }
    }

    /// A directory that is made when it is not there.
    pub(super) fn create(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(|error| unusable(path, error))?;
        Self::open(path)
    }

    /// The directory, absolute.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The command that does `verb` to the cluster here.
    pub(super) fn command(&self, verb: &str) -> String {
        command(verb, &self.named)
    }

    /// Keeps other commands off the directory as long as the file is held.
    pub(super) fn lock(&self) -> Result<File> {
        let path = self.path.join(LOCK_FILE);
        let file = File::create(&path).map_err(|error| unusable(&self.path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                Code::LocalCluster,
                format!("another `millrace local` command works on {}", self.path.display()),
                "wait until it has ended, or use another --dir",
            )),
            Err(TryLockError::Error(error)) => Err(unusable(&self.path, error)),
        }
    }

    /// What was started here; none when nothing was.
    pub(super) fn load(&self) -> Result<Option<Record>> {
        let path = self.path.join(RECORD_FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(&path, error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::new(
                Code::LocalCluster,
                format!("{} is damaged: {error}", path.display()),
                "end the processes it names by hand, then delete it",
            )
        })
    }

    /// What was started here.
    pub(super) fn recorded(&self) -> Result<Record> {
        self.load()?.ok_or_else(|| self.none_here())
    }

    /// What runs here.
    pub(super) fn running(&self) -> Result<Record> {
        let record = self.recorded()?;
        match record.processes.iter().find(|process| !process.lives()) {
            None if record.master.is_empty() => Err(self.none_here()),
            None => Ok(record),
            Some(dead) => Err(Error::new(
                Code::LocalCluster,
                format!("{} of the local cluster in {} has ended", dead.role, self.path.display()),
                format!(
                    "read {}, then run `{}` and `{}`",
                    dead.log.display(),
                    self.command("down"),
                    self.command("up")
                ),
            )),
        }
    }

    fn none_here(&self) -> Error {
        none_there(&self.path, &self.named)
    }

    /// Writes down what was started.
    pub(super) fn save(&self, record: &Record) -> Result<()> {
        let path = self.path.join(RECORD_FILE);
        let new = self.path.join(format!("{RECORD_FILE}.new"));
        let bytes = serde_json::to_vec_pretty(record)
            .map_err(|error| Error::internal("the record is not JSON").caused_by(error))?;
        fs::write(&new, bytes)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|error| unusable(&self.path, error))
    }

    /// Forgets what was started: all of it has ended.
    pub(super) fn forget(&self) -> Result<()> {
        match fs::remove_file(self.path.join(RECORD_FILE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(unusable(&self.path, error))
            }
            _ => Ok(()),
        }
    }
}

/// The error for a directory or file that the system refuses.
pub(super) fn unusable(path: &Path, error: std::io::Error) -> Error {
    Error::new(
        Code::DirectoryUnusable,
        format!("{} can not be used: {error}", path.display()),
        "name a directory that you may write to with --dir",
    )
    .caused_by(error)
}

fn none_there(path: &Path, named: &Path) -> Error {
    Error::new(
        Code::LocalCluster,
        format!("no local cluster runs in {}", path.display()),
        format!("start one with `{}`, or name its directory with --dir", command("up", named)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, identity: &str) -> Process {
        Process {
            role: "master".to_owned(),
            pid,
            identity: identity.to_owned(),
            log: PathBuf::from("/log"),
        }
    }

    #[test]
    fn a_record_comes_back_and_is_forgotten() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::create(&temp.path().join("a/b")).unwrap();
        assert_eq!(directory.load().unwrap(), None);
        let record = Record { processes: vec![process(1, "x")], ..Record::default() };
        directory.save(&record).unwrap();
        assert_eq!(directory.load().unwrap(), Some(record));
        directory.forget().unwrap();
        directory.forget().unwrap();
        assert_eq!(directory.recorded().unwrap_err().code(), Code::LocalCluster);
    }

    #[test]
    fn a_command_names_the_directory_unless_it_is_the_usual_one() {
        assert_eq!(command("up", Path::new(".millrace")), "millrace local up");
        assert_eq!(command("down", Path::new("/tmp/a-b")), "millrace local down --dir /tmp/a-b");
        let quoted = r"millrace local env --dir 'it'\''s here'";
        assert_eq!(command("env", Path::new("it's here")), quoted);
        let temp = tempfile::tempdir().unwrap();
        let missing = Directory::open(temp.path()).unwrap().running().unwrap_err();
        assert!(missing.next_move().contains(&format!("--dir {}", temp.path().display())));
    }

    #[test]
    fn a_process_of_another_start_is_not_ours() {
        let me = std::process::id();
        let identity = process::identity(me).unwrap();
        assert!(process(me, &identity).lives());
        assert!(!process(me, "boot:1").lives());
    }

    #[test]
    fn one_command_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::create(temp.path()).unwrap();
        let held = directory.lock().unwrap();
        assert_eq!(directory.lock().unwrap_err().code(), Code::LocalCluster);
        drop(held);
        directory.lock().unwrap();
    }

    #[test]
    fn a_damaged_record_is_not_taken_for_none() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::create(temp.path()).unwrap();
        fs::write(temp.path().join(RECORD_FILE), b"{").unwrap();
        assert_eq!(directory.load().unwrap_err().code(), Code::LocalCluster);
    }
}
