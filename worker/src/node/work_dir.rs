//! The directory of this node: one subdirectory per container, and a lock so that no two workers
//! share it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use millrace_common::error::{Code, Error};
use millrace_common::id::ContainerId;
use millrace_proto::v1::{ContainerState, ContainerStatus};
use prost::Message as _;

use super::core::is_plain;

/// How a container stood at its end, for the worker that comes after this one.
const STATUS_FILE: &str = "status.pb";
/// Standard output of a container.
pub(super) const STDOUT: &str = "stdout.log";
/// Standard error of a container.
pub(super) const STDERR: &str = "stderr.log";

/// The node's directory, held by this process.
#[derive(Debug)]
pub(super) struct WorkDir {
    root: PathBuf,
    _lock: File,
}

impl WorkDir {
    /// Makes the directory if it is not there, and locks it.
    ///
    /// # Errors
    /// [`Code::DirectoryUnusable`] when it can not be written to or another worker holds it.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let unusable = |what: String| {
            Error::new(
                Code::DirectoryUnusable,
                format!("the work directory {} {what}", path.display()),
                "give each worker a writable directory of its own with --work-dir",
            )
        };
        let made = fs::create_dir_all(path.join("containers"))
            .and_then(|()| fs::canonicalize(path))
            .and_then(|root| Ok((File::create(root.join("lock"))?, root)));
        let (lock, root) =
            made.map_err(|error| unusable("can not be written to".to_owned()).caused_by(error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => {
                Err(unusable("is in use by another worker".to_owned()))
            }
            Err(fs::TryLockError::Error(error)) => {
                Err(unusable("can not be locked".to_owned()).caused_by(error))
            }
        }
    }

    /// The directory itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Directory of a container.
    pub(super) fn container(&self, id: &ContainerId) -> PathBuf {
        self.root.join("containers").join(id.as_str())
    }

    /// Remembers how a container ended, beside its logs.
    pub(super) fn write_status(&self, status: &ContainerStatus) -> io::Result<()> {
        let id = ContainerId::new(status.container_id.clone());
        fs::write(self.container(&id).join(STATUS_FILE), status.encode_to_vec())
    }

    /// The containers of workers before this one, the oldest end first. One whose end nobody wrote
    /// down died with its worker.
    pub(super) fn ended(&self) -> Vec<ContainerStatus> {
        let Ok(entries) = fs::read_dir(self.root.join("containers")) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut found: Vec<ContainerStatus> = names
            .filter(|name| is_plain(name))
            .map(|name| self.read_status(&ContainerId::new(name)))
            .collect();
        found.sort_by_key(|status| status.ended_ms);
        found
    }

    fn read_status(&self, id: &ContainerId) -> ContainerStatus {
        let directory = self.container(id);
        let written = fs::read(directory.join(STATUS_FILE))
            .ok()
            .and_then(|bytes| ContainerStatus::decode(bytes.as_slice()).ok());
        let mut status = written.unwrap_or_else(|| {
            let mut status = ContainerStatus {
                container_id: id.to_string(),
                work_dir: directory.display().to_string(),
                ..Default::default()
            };
            if let Ok(context) = crate::launch::read(&directory.join(crate::launch::FILE)) {
                status.application = context.application;
                status.attempt = context.attempt;
                status.kind = context.kind;
                status.resources = context.resources;
            }
            status.exit = Some(millrace_proto::v1::ContainerExit {
                reason: "died with the worker of its node".to_owned(),
                ..Default::default()
            });
            status
        });
        status.set_state(ContainerState::Exited);
        status
    }

    /// Removes the files of a container.
    pub(super) fn remove(&self, id: &ContainerId) {
        if let Err(error) = fs::remove_dir_all(self.container(id)) {
            tracing::warn!(container = %id, %error, "the files of a container can not be removed");
        }
    }
}
