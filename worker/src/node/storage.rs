//! What a container has on the disk: its logs are kept small, and the whole is watched.
//!
//! Promises: a container that uses more of the disk than it may is ended within some looks, and its
//! exit says what it used and what it was allowed; what it leaves, but its logs, is removed.
//! Owned by the container's process. Never does: wait for the disk where others wait.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_common::error::Code;
use millrace_common::resources::ByteSize;

use super::logs::Capped;

/// Between two looks: a container that writes 500 MB/s is ended some hundred MB too late.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the removal of what a container left may hold up the news of its end.
const CLEAR_DEADLINE: Duration = Duration::from_secs(2);
/// What a unit of [`MetadataExt::blocks`] is, whatever the file system's.
const UNIT_BYTES: u64 = 512;

/// The disk of one container.
#[derive(Debug)]
pub(super) struct Storage {
    directory: PathBuf,
    allowed: ByteSize,
    logs: Vec<Capped>,
}

impl Storage {
    /// Watches a container's directory, in which these are its logs.
    pub(super) fn new(directory: PathBuf, allowed: ByteSize, logs: Vec<Capped>) -> Self {
        Self { directory, allowed, logs }
    }

    /// Looks again and again; why the container is to end, when it is.
    pub(super) async fn watch(mut self) -> String {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let looked = tokio::task::spawn_blocking(move || {
                let why = self.look();
                (self, why)
            });
            match looked.await {
                Ok((_, Some(why))) => return why,
                Ok((storage, None)) => self = storage,
                // The node ends, and with it all that runs.
                Err(_) => return std::future::pending().await,
            }
        }
    }

    fn look(&mut self) -> Option<String> {
        for log in &mut self.logs {
            if let Err(error) = log.look() {
                let directory = self.directory.display();
                tracing::debug!(%directory, %error, "a log can not be kept small");
            }
        }
        // A disk that fails is the node's trouble, and its watch tells it.
        let used = bytes_on_disk(&self.directory).ok()?;
        let allowed = self.allowed.as_u64();
        (used > allowed).then(|| {
            format!(
                "{}: ended by its node: it used {} MiB of {} MiB disk",
                Code::ContainerDisk.as_str(),
                used >> 20,
                allowed >> 20
            )
        })
    }
}

/// What the files below a directory take of the disk.
fn bytes_on_disk(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // A file may go while it is looked at. A link is what it is, and not what it points at.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += metadata.blocks() * UNIT_BYTES;
        if metadata.is_dir() {
            bytes += bytes_on_disk(&entry.path()).unwrap_or(0);
        }
    }
    Ok(bytes)
}

/// Removes the directories of containers that have ended: their temporary files, their blocks. Their
/// logs stay.
pub(super) async fn clear(containers: Vec<PathBuf>) {
    let cleared = tokio::task::spawn_blocking(move || {
        let entries = containers.iter().flat_map(fs::read_dir).flatten().flatten();
        for entry in entries {
            if entry.file_type().is_ok_and(|kind| kind.is_dir())
                && let Err(error) = fs::remove_dir_all(entry.path())
            {
                let path = entry.path();
                tracing::warn!(path = %path.display(), %error, "can not be removed");
            }
        }
    });
    if tokio::time::timeout(CLEAR_DEADLINE, cleared).await.is_err() {
        tracing::warn!("the disk takes long to remove what containers left");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::node::logs;

    #[tokio::test]
    async fn more_than_allowed_ends_it_and_says_both_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let tmp = directory.path().join("tmp");
        fs::create_dir(&tmp).unwrap();
        let mut storage = Storage::new(directory.path().to_owned(), ByteSize::mib(2), Vec::new());
        fs::write(tmp.join("a"), vec![1; 1 << 20]).unwrap();
        assert_eq!(storage.look(), None);
        fs::write(tmp.join("b"), vec![1; 3 << 20]).unwrap();
        let why = storage.look().unwrap();
        assert!(why.starts_with("MR6010: ") && why.contains("4 MiB of 2 MiB disk"), "{why}");
        fs::write(directory.path().join("stderr.log"), "kept").unwrap();
        clear(vec![directory.path().to_owned()]).await;
        assert!(!tmp.exists() && directory.path().join("stderr.log").exists());
        assert_eq!(storage.look(), None);
    }

    #[test]
    fn what_a_log_has_lost_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = logs::create(&directory.path().join("stderr.log")).unwrap();
        let capped = Capped::new(log.try_clone().unwrap(), ByteSize::mib(1));
        let mut storage = Storage::new(directory.path().to_owned(), ByteSize::mib(2), vec![capped]);
        for _ in 0..8 {
            log.write_all(&[b'x'; 1 << 20]).unwrap();
            assert_eq!(storage.look(), None);
        }
    }
}
