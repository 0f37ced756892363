//! A cgroup for each container, where this worker may make them: of version 2, else of version 1.
//!
//! Promises: the kernel holds a container to a wall of memory a little above what it was granted,
//! and gives it processor time in proportion to its cores when there is too little. Without the
//! right to make cgroups nothing fails: the watch over resident memory stands alone.
//! Never does: touch a cgroup that other processes share with this worker.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use millrace_common::resources::Resources;

/// The wall stands above the grant by this part of it, and at least by [`WALL_MIN`]: what the kernel
/// counts, as cached pages of files, is more than what is resident. Below the wall the watch ends
/// what grows slowly, and can say how much it held.
const WALL_PART: u64 = 8;
const WALL_MIN: u64 = 64 << 20;
/// Version 2: weight of one core; 100 is what a cgroup has by default.
const WEIGHT_OF_CORE: u64 = 100;
const WEIGHT_MAX: u64 = 10_000;
/// Version 1: shares of one core; 1,024 is the default.
const SHARES_OF_CORE: u64 = 1_024;
/// What the names of the cgroups of containers begin with.
const PREFIX: &str = "millrace.";
/// The cgroup into which a worker moves, so that its own may have children.
const OWN_LEAF: &str = "millrace-node";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A place in which cgroups of containers can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    version: Version,
    directory: PathBuf,
    has_memory: bool,
    has_cpu: bool,
}

/// Where this worker makes cgroups.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    places: Vec<Place>,
    /// This worker's process: no two on a machine give a cgroup the same name.
    pid: u32,
}

impl Cgroups {
    /// Looks where cgroups can be made, and removes those that workers left which are gone.
    pub(super) fn find() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (own, mounts) = (read("/proc/self/cgroup"), read("/proc/self/mountinfo"));
        let mut places = places(&own, &mounts);
        let pid = std::process::id();
        places.retain(|place| place.version == Version::One || prepare(place, pid).is_some());
        places.iter().for_each(|place| remove_stale(&place.directory));
        let found = Self { places, pid };
        tracing::debug!(?found, "cgroups");
        found
    }

    fn name(&self, container_id: &str) -> String {
        format!("{PREFIX}{}.{container_id}", self.pid)
    }

    /// Makes the cgroups of a container, those that can be made.
    pub(super) fn make(&self, container_id: &str, granted: Resources) -> Cgroup {
        let mut made = Cgroup::default();
        for place in &self.places {
            let directory = place.directory.join(self.name(container_id));
            match limit(place, &directory, granted) {
                Ok(()) => made.directories.push((place.clone(), directory)),
                Err(error) => {
                    tracing::debug!(directory = %directory.display(), %error, "no cgroup");
                    remove(&directory);
                }
            }
        }
        made
    }
}

/// Makes a cgroup and sets its limits.
fn limit(place: &Place, directory: &Path, granted: Resources) -> io::Result<()> {
    fs::create_dir(directory)?;
    let set = |file: &str, value: u64| fs::write(directory.join(file), value.to_string());
    let cores = u64::from(granted.cores);
    let memory = granted.memory.as_u64();
    let wall = memory.saturating_add((memory / WALL_PART).max(WALL_MIN));
    match place.version {
        Version::Two => {
            if place.has_memory && memory > 0 {
                set("memory.max", wall)?;
                set("memory.oom.group", 1)?;
                // Not there without swap.
                let _ = set("memory.swap.max", 0);
            }
            if place.has_cpu {
                set("cpu.weight", (cores * WEIGHT_OF_CORE).clamp(1, WEIGHT_MAX))?;
            }
        }
        Version::One => {
            if place.has_memory && memory > 0 {
                set("memory.limit_in_bytes", wall)?;
            }
            if place.has_cpu {
                set("cpu.shares", (cores * SHARES_OF_CORE).max(2))?;
            }
        }
    }
    Ok(())
}

/// The cgroups of one container; removed when dropped.
#[derive(Debug, Default)]
pub(super) struct Cgroup {
    directories: Vec<(Place, PathBuf)>,
}

impl Cgroup {
    /// Takes a process in, with what it starts from then on.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn add(&self, pid: u32) -> io::Result<()> {
        let add = |(_, directory): &(_, PathBuf)| {
            fs::write(directory.join("cgroup.procs"), pid.to_string())
        };
        self.directories.iter().try_for_each(add)
    }

    /// The most that it held, in bytes, when the kernel ended a process of it for its memory.
    pub(super) fn ended_for_memory(&self) -> Option<u64> {
        let (place, directory) = self.directories.iter().find(|(place, _)| place.has_memory)?;
        let (events, peaks) = match place.version {
            Version::Two => ("memory.events", ["memory.peak", "memory.max"]),
            Version::One => {
                ("memory.oom_control", ["memory.max_usage_in_bytes", "memory.limit_in_bytes"])
            }
        };
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let events = fs::read_to_string(directory.join(events)).ok()?;
        let num_ended = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        if num_ended.and_then(number)? == 0 {
            return None;
        }
        peaks.iter().find_map(|peak| number(&fs::read_to_string(directory.join(peak)).ok()?))
    }

    /// Every process that is in it, those too that left the group of the first.
    pub(super) fn pids(&self) -> Vec<u32> {
        let Some((_, directory)) = self.directories.first() else { return Vec::new() };
        let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        listed.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.directories.iter().for_each(|(_, directory)| remove(directory));
    }
}

/// Removes the cgroups of workers that are gone.
fn remove_stale(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('.').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&entry.path());
        }
    }
}

/// Removes a cgroup; one that still holds a process stays, for the next worker.
fn remove(directory: &Path) {
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(directory = %directory.display(), %error, "a cgroup stays");
        }
        _ => {}
    }
}

/// The places that `/proc/self/cgroup` and `/proc/self/mountinfo` tell of: one of version 2 if it
/// has the memory controller, else those of version 1.
fn places(own: &str, mounts: &str) -> Vec<Place> {
    let second = place_of(own, mounts, Version::Two, "");
    if let Some(mut place) = second {
        let listed = fs::read_to_string(place.directory.join("cgroup.controllers"));
        let listed = listed.unwrap_or_default();
        let has = |name| listed.split_ascii_whitespace().any(|word| word == name);
        (place.has_memory, place.has_cpu) = (has("memory"), has("cpu"));
        if place.has_memory {
            return vec![place];
        }
    }
    let memory = place_of(own, mounts, Version::One, "memory");
    let cpu = place_of(own, mounts, Version::One, "cpu");
    let memory = memory.map(|place| Place { has_memory: true, ..place });
    let cpu = cpu.map(|place| Place { has_cpu: true, ..place });
    memory.into_iter().chain(cpu).collect()
}

/// The directory of the cgroup that this process is in, for a controller of version 1 or for
/// version 2.
fn place_of(own: &str, mounts: &str, version: Version, controller: &str) -> Option<Place> {
    let path = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let is_it = match version {
            Version::Two => controllers.is_empty(),
            Version::One => controllers.split(',').any(|name| name == controller),
        };
        is_it.then_some(path)
    })?;
    let directory = mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        let mut filesystem = filesystem.split(' ');
        let (kind, options) = (filesystem.next()?, filesystem.nth(1)?);
        let is_it = match version {
            Version::Two => kind == "cgroup2",
            Version::One => kind == "cgroup" && options.split(',').any(|name| name == controller),
        };
        // Inside a container the mount may begin below the root that the path counts from.
        let below = path.strip_prefix(root).unwrap_or("").trim_start_matches('/');
        is_it.then(|| Path::new(point).join(below))
    })?;
    Some(Place { version, directory, has_memory: false, has_cpu: false })
}

/// Makes children of this worker's own cgroup of version 2 possible: it moves into one of them, for
/// a cgroup with limited children may hold no process itself. Only when it is alone there.
fn prepare(place: &Place, pid: u32) -> Option<()> {
    let directory = &place.directory;
    let alone = fs::read_to_string(directory.join("cgroup.procs")).ok()?;
    if alone.lines().any(|line| line != pid.to_string()) {
        tracing::debug!("other processes share this worker's cgroup: containers get none");
        return None;
    }
    let leaf = directory.join(OWN_LEAF);
    let wanted = if place.has_cpu { "+memory +cpu" } else { "+memory" };
    let moved = fs::create_dir_all(&leaf)
        .and_then(|()| fs::write(leaf.join("cgroup.procs"), pid.to_string()))
        .and_then(|()| fs::write(directory.join("cgroup.subtree_control"), wanted));
    match moved {
        Ok(()) => Some(()),
        Err(error) => {
            tracing::debug!(%error, "this worker's cgroup can have no children");
            // Back to where it was; when that fails it stays where it is, which does no harm.
            let _ = fs::write(directory.join("cgroup.procs"), pid.to_string());
            remove(&leaf);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_common::resources::ByteSize;

    use super::*;

    const OWN: &str = "9:name=systemd:/\n4:memory:/jobs/a\n1:cpu,cpuacct:/\n0::/user/w\n";

    fn mounts(root: &Path) -> String {
        let root = root.display();
        format!(
            "1 0 0:1 / / rw - ext4 /dev/vda rw\n\
             2 1 0:2 / {root}/memory rw,relatime - cgroup cgroup rw,memory\n\
             3 1 0:3 / {root}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
             4 1 0:4 /user {root}/unified rw - cgroup2 cgroup2 rw\n"
        )
    }

    #[test]
    fn places_are_found_and_the_second_version_wins_when_it_counts_memory() {
        let root = tempfile::tempdir().unwrap();
        let unified = root.path().join("unified/w");
        fs::create_dir_all(&unified).unwrap();
        let found = places(OWN, &mounts(root.path()));
        let directories: Vec<_> = found.iter().map(|place| place.directory.clone()).collect();
        assert_eq!(directories, [root.path().join("memory/jobs/a"), root.path().join("cpu")]);
        assert!(found[0].has_memory && found[1].has_cpu);
        fs::write(unified.join("cgroup.controllers"), "cpuset cpu memory\n").unwrap();
        let found = places(OWN, &mounts(root.path()));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].version, &found[0].directory), (Version::Two, &unified));
        assert_eq!(places("", ""), []);
    }

    fn granted() -> Resources {
        Resources::new(2, ByteSize::mib(1_024))
    }

    #[test]
    fn limits_are_written_and_what_the_kernel_tells_is_read() {
        let root = tempfile::tempdir().unwrap();
        let place = Place {
            version: Version::Two,
            directory: root.path().to_owned(),
            has_memory: true,
            has_cpu: true,
        };
        let cgroups = Cgroups { places: vec![place], pid: 7 };
        let cgroup = cgroups.make("a-a1-e1", granted());
        let directory = root.path().join("millrace.7.a-a1-e1");
        let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap();
        assert_eq!(read("memory.max"), (1_152_u64 << 20).to_string());
        assert_eq!(read("cpu.weight"), "200");
        cgroup.add(77).unwrap();
        assert_eq!(read("cgroup.procs"), "77");
        assert_eq!(cgroup.pids(), [77]);
        fs::write(directory.join("memory.events"), "oom 1\noom_kill 0\n").unwrap();
        assert_eq!(cgroup.ended_for_memory(), None);
        fs::write(directory.join("memory.events"), "oom 1\noom_kill 1\n").unwrap();
        fs::write(directory.join("memory.peak"), "4096\n").unwrap();
        assert_eq!(cgroup.ended_for_memory(), Some(4_096));
    }

    #[test]
    fn what_workers_left_is_removed_when_they_are_gone() {
        let root = tempfile::tempdir().unwrap();
        let live = format!("millrace.{}.a", std::process::id());
        for name in ["millrace.4194305.a", &live, "other", "millrace-node"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        remove_stale(root.path());
        let left = fs::read_dir(root.path()).unwrap().count();
        assert_eq!(left, 3, "that of a process id that none can have is gone");
        assert!(!root.path().join("millrace.4194305.a").exists());
    }

    #[test]
    fn where_nothing_may_be_made_nothing_is() {
        let root = tempfile::tempdir().unwrap();
        let place = Place {
            version: Version::One,
            directory: root.path().join("absent"),
            has_memory: true,
            has_cpu: false,
        };
        let cgroups = Cgroups { places: vec![place], pid: 7 };
        let cgroup = cgroups.make("a", granted());
        assert!(cgroup.directories.is_empty() && cgroup.pids().is_empty());
        cgroup.add(1).unwrap();
        assert_eq!(cgroup.ended_for_memory(), None);
    }
}
