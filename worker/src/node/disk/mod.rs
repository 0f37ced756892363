//! The watch over the disk of the work directory: looks at it again and again, and says when it is
//! not fit for work.
//!
//! Promises: whoever waits here never waits for the disk, not even for one that hangs: a thread of
//! its own touches it, one look at a time, and a look without an answer is itself an answer. Owned
//! by the node, whose end ends the thread once the disk lets go of it. Never does: decide; its core
//! does.

pub(in crate::node) mod core;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use millrace_common::clock::SharedClock;
use millrace_common::error::Error;
use nix::sys::statvfs::statvfs;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use self::core::{Judge, Look, Terms};

/// A disk that takes longer to write one page hangs. Far above what a disk under load takes.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long the first look may hold up the start of the node.
const FIRST_DEADLINE: Duration = Duration::from_secs(2);
/// The file that is written, in the work directory.
const FILE: &str = "disk-check";
/// Its size: a page, so that a full disk has to refuse it.
const FILE_BYTES: usize = 4 << 10;
/// Looks asked for, and answers not fetched: one look at a time.
const ONE: usize = 1;

/// The watch over one directory.
#[derive(Debug)]
pub(super) struct Disk {
    judge: Judge,
    clock: SharedClock,
    ask: std_mpsc::SyncSender<()>,
    answers: mpsc::Receiver<Look>,
    /// When the look was asked for that is not answered yet.
    asked: Option<Duration>,
    ticks: Interval,
}

impl Disk {
    /// Begins to watch `directory`, with a look every `period`.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub(super) fn watch(
        directory: PathBuf,
        terms: Terms,
        period: Duration,
        clock: SharedClock,
    ) -> Result<Self, Error> {
        let (ask, asked) = std_mpsc::sync_channel(ONE);
        let (answer, answers) = mpsc::channel(ONE);
        let looks = move || {
            while asked.recv().is_ok() {
                if answer.blocking_send(look_at(&directory)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("disk".to_owned()).spawn(looks).map_err(|error| {
            Error::internal("no thread can be started for the disk").caused_by(error)
        })?;
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { judge: Judge::new(terms), clock, ask, answers, asked: None, ticks })
    }

    /// Why the disk is not fit for work; none when it is.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.judge.trouble()
    }

    /// True while a disk that failed shows that it is well again.
    pub(super) fn is_recovering(&self) -> bool {
        self.judge.is_recovering()
    }

    /// The first look, so that a node with a bad disk says so when it registers.
    pub(super) async fn first(&mut self) {
        if tokio::time::timeout(FIRST_DEADLINE, self.look()).await.is_err() {
            self.judge.look(self.clock.monotonic(), &Look::Late(FIRST_DEADLINE));
        }
    }

    /// Waits until the disk is fit for work and was not, or the other way round, or begins or ceases
    /// to recover. Nothing is lost when this is dropped before.
    pub(super) async fn changed(&mut self) {
        while !self.look().await {}
    }

    /// Waits for the next look; true when it changed the verdict.
    async fn look(&mut self) -> bool {
        loop {
            let look = tokio::select! {
                answer = self.answers.recv() => {
                    self.asked = None;
                    match answer {
                        Some(look) => look,
                        None => {
                            // The thread ends before us only by a panic.
                            self.ticks.tick().await;
                            Look::Failed("nobody looks at it any more".to_owned())
                        }
                    }
                }
                _ = self.ticks.tick() => {
                    let now = self.clock.monotonic();
                    match self.asked {
                        None if self.ask.try_send(()).is_ok() => {
                            self.asked = Some(now);
                            continue;
                        }
                        Some(at) if now.saturating_sub(at) >= DEADLINE => {
                            Look::Late(now.saturating_sub(at))
                        }
                        _ => continue,
                    }
                }
            };
            return self.judge.look(self.clock.monotonic(), &look);
        }
    }
}

fn look_at(directory: &Path) -> Look {
    let free = write_and_remove(&directory.join(FILE)).and_then(|()| free_bytes(directory));
    free.map_or_else(|error| Look::Failed(error.to_string()), Look::Free)
}

fn write_and_remove(path: &Path) -> io::Result<()> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(&[0; FILE_BYTES])?;
        file.sync_all()
    });
    // Of one that could not be written, too: nothing is left behind.
    let removed = fs::remove_file(path);
    written.and(removed)
}

/// What a process without special rights may still write.
fn free_bytes(directory: &Path) -> io::Result<u64> {
    let found = statvfs(directory).map_err(io::Error::from)?;
    Ok(found.blocks_available().saturating_mul(found.fragment_size()))
}

#[cfg(test)]
mod tests {
    use millrace_common::clock::SystemClock;
    use millrace_common::resources::ByteSize;

    use super::*;

    /// Far above what a test needs.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn watch(directory: &Path, min_free: ByteSize) -> Disk {
        let terms = Terms {
            directory: directory.display().to_string(),
            min_free,
            recover_after: Duration::from_millis(50),
        };
        let clock = SystemClock::shared();
        Disk::watch(directory.to_owned(), terms, Duration::from_millis(10), clock).unwrap()
    }

    #[tokio::test]
    async fn a_directory_that_goes_and_comes_back_is_noticed() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("work");
        fs::create_dir(&directory).unwrap();
        let mut disk = watch(&directory, ByteSize::bytes(1));
        disk.first().await;
        // On a slow disk the first look may have taken too long.
        while disk.trouble().is_some() {
            tokio::time::timeout(PATIENCE, disk.changed()).await.unwrap();
        }
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "nothing is left behind");
        fs::remove_dir(&directory).unwrap();
        tokio::time::timeout(PATIENCE, disk.changed()).await.unwrap();
        let trouble = disk.trouble().unwrap();
        assert!(trouble.contains("can not be written to"), "{trouble}");
        fs::create_dir(&directory).unwrap();
        tokio::time::timeout(PATIENCE, disk.changed()).await.unwrap();
        assert!(disk.is_recovering());
        tokio::time::timeout(PATIENCE, disk.changed()).await.unwrap();
        assert_eq!(disk.trouble(), None);
    }

    #[tokio::test]
    async fn a_disk_with_too_little_room_is_told_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut disk = watch(directory.path(), ByteSize::bytes(u64::MAX));
        disk.first().await;
        // Before it may be that the first look took too long.
        while !disk.trouble().is_some_and(|trouble| trouble.contains("are free")) {
            tokio::time::timeout(PATIENCE, disk.changed()).await.unwrap();
        }
    }
}
