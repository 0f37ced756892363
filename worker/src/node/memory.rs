//! The memory of a container: what all processes of its group hold, and what it may hold.
//!
//! Promises: a container that holds more than it was granted is ended within two looks, and its exit
//! says what it held and what it was allowed. Owned by the container's process.
//! Never does: judge by what is mapped, nor by pages of files: the program itself is mapped by every
//! container of the node and is in memory once, and the kernel drops such pages when it needs room.
//! Only what is resident and has no other place takes memory from others.

use std::fs;
use std::io;
use std::time::Duration;

use millrace_common::error::Code;
use millrace_common::resources::ByteSize;

/// Between two looks at a container: a leak of 1 GiB/s is stopped some hundred MiB too late.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Under which an end for memory is told.
const CODE: &str = Code::ContainerMemory.as_str();

/// Bytes that the processes of a group hold resident and that no file backs; memory that processes
/// share counts for each.
///
/// # Errors
/// When the process table can not be read.
pub(super) fn held_by_group(group: u32) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir("/proc")? {
        let directory = entry?.path();
        // A process may end while it is looked at: then it holds nothing.
        let Ok(stat) = fs::read_to_string(directory.join("stat")) else { continue };
        if group_of(&stat) == Some(group)
            && let Ok(status) = fs::read_to_string(directory.join("status"))
        {
            bytes += held_in(&status).unwrap_or(0);
        }
    }
    Ok(bytes)
}

/// The process group in a line of `/proc/PID/stat`. The name before it may hold anything, so that
/// the fields count from its last bracket.
fn group_of(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(2)?.parse().ok()
}

/// Bytes in `/proc/PID/status` that are resident and not of a file; all that is resident where the
/// kernel does not tell them apart (Linux before 4.5). None for a process without memory, as a zombie.
fn held_in(status: &str) -> Option<u64> {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib << 10)
    };
    match (bytes("RssAnon"), bytes("RssShmem")) {
        (Some(anonymous), Some(shared)) => Some(anonymous + shared),
        _ => bytes("VmRSS"),
    }
}

/// Holds what a container has against what it may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    allowed: ByteSize,
    peak: u64,
}

impl Allowance {
    /// A container that may hold so much; zero: nothing is enforced.
    pub(super) fn new(allowed: ByteSize) -> Self {
        Self { allowed, peak: 0 }
    }

    /// Takes a look in; why the container is to end, if it is.
    pub(super) fn look(&mut self, resident: u64) -> Option<String> {
        self.peak = self.peak.max(resident);
        let allowed = self.allowed.as_u64();
        (allowed > 0 && resident > allowed).then(|| {
            let (held, allowed) = (resident >> 20, allowed >> 20);
            format!("{CODE}: ended by its node: it held {held} MiB of {allowed} MiB memory")
        })
    }

    /// The kernel ended it, when it had held `peak` bytes: why, for people.
    pub(super) fn ended_by_kernel(&mut self, peak: u64) -> String {
        self.peak = self.peak.max(peak);
        let (held, allowed) = (self.peak >> 20, self.allowed.as_u64() >> 20);
        format!("{CODE}: ended by the kernel: it held {held} MiB of {allowed} MiB memory")
    }

    /// The most that was seen, for people.
    pub(super) fn at_most(&self) -> String {
        format!("memory at most {} MiB of {} MiB", self.peak >> 20, self.allowed.as_u64() >> 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_found_behind_any_name() {
        assert_eq!(group_of("7 (a) b) S 1 42 7 0"), Some(42));
        assert_eq!(group_of("no process"), None);
    }

    #[test]
    fn pages_of_files_are_nobodys() {
        let status = "Name:\tx\nVmRSS:\t  118000 kB\nRssAnon:\t   13000 kB\nRssFile:\t  104000 \
                      kB\nRssShmem:\t    1000 kB\nThreads:\t9\n";
        assert_eq!(held_in(status), Some(14_000 << 10));
        assert_eq!(held_in("VmRSS:\t  118000 kB\n"), Some(118_000 << 10), "an old kernel");
        assert_eq!(held_in("Name:\tx\nState:\tZ (zombie)\n"), None);
    }

    #[test]
    fn more_than_allowed_ends_it_and_says_both_numbers() {
        let mut allowance = Allowance::new(ByteSize::mib(768));
        assert_eq!(allowance.look(768 << 20), None);
        let why = allowance.look(812 << 20).unwrap();
        assert!(why.contains("812 MiB of 768 MiB"), "{why}");
        assert_eq!(allowance.look(1 << 20), None);
        assert_eq!(allowance.at_most(), "memory at most 812 MiB of 768 MiB");
        let why = allowance.ended_by_kernel(900 << 20);
        assert!(why.starts_with("MR6009: ") && why.contains("900 MiB of 768 MiB"), "{why}");
        assert_eq!(Allowance::new(ByteSize::mib(0)).look(u64::MAX), None);
    }

    #[test]
    fn this_process_holds_memory() {
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        let group = group_of(&own).unwrap();
        let block = vec![1_u8; 8 << 20];
        let held = held_by_group(group).unwrap();
        assert!(held >= block.len() as u64, "{held} with {} bytes of ones", block.len());
        assert_eq!(held_by_group(u32::MAX).unwrap(), 0);
    }
}
